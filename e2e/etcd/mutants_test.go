package etcd

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutantTimeout bounds one case under one mutant, compilation included.
const mutantTimeout = 5 * time.Minute

// mutant is a one-line fault and the case that must notice it.
type mutant struct{ file, name, old, new string }

// suite is a test that runs the cases of profile etcd, each as a subtest.
type suite struct{ dir, test string }

// suite is where a mutant's case is run: raftbolt's faults on raftbolt, the others on memory.
func (m mutant) suite() suite {
	if strings.HasPrefix(m.file, "backends/raftbolt/") {
		return suite{"./backends/raftbolt", "TestConformance"}
	}
	return suite{"./conformance", "TestMemory"}
}

// TestMutants plants each fault of conformance/mutants/list.txt in a copy of the module and
// ensures that its case, which holds without it, fails.
func TestMutants(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	mutants := readMutants(t, filepath.Join(root, "conformance/mutants/list.txt"))
	if len(mutants) < 30 {
		t.Fatalf("%d mutants, want at least 30", len(mutants))
	}
	if share := os.Getenv("MUTANTS"); share != "" { // i/n: the i-th of every n
		var first, parts int
		if _, err := fmt.Sscanf(share, "%d/%d", &first, &parts); err != nil || first < 1 || first > parts {
			t.Fatalf("MUTANTS=%s is not i/n", share)
		}
		var chosen []mutant
		for i := first - 1; i < len(mutants); i += parts {
			chosen = append(chosen, mutants[i])
		}
		t.Logf("part %d of %d: %d of %d mutants", first, parts, len(chosen), len(mutants))
		mutants = chosen
	}
	module := t.TempDir()
	copyModule(t, root, module)
	names := map[suite][]string{}
	for _, m := range mutants {
		names[m.suite()] = append(names[m.suite()], m.name)
	}
	for in, names := range names {
		if out, ok := runCases(t, module, in, names); !ok {
			t.Fatalf("without a mutant the cases do not hold:\n%s", out)
		}
	}
	fmt.Printf("%-8s %-60s %s\n", "", "case", "mutant")
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			verdict := "caught"
			if !caught(t, module, m) {
				verdict = "MISSED"
				t.Errorf("%s: %q instead of %q is not noticed", m.file, m.new, m.old)
			}
			fmt.Printf("%-8s %-60s %s: %s\n", verdict, m.name, m.file, strings.TrimSpace(m.new))
		})
	}
}

// readMutants reads records of four lines: file, case, old text, new text.
func readMutants(t *testing.T, path string) []mutant {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var mutants []mutant
	for _, record := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n\n") {
		lines := strings.Split(record, "\n")
		if len(lines) != 4 || lines[2] == lines[3] {
			t.Fatalf("not a mutant:\n%s", record)
		}
		mutants = append(mutants, mutant{lines[0], lines[1], lines[2], lines[3]})
	}
	return mutants
}

// copyModule copies what the conformance tests are built from.
func copyModule(t *testing.T, from, to string) {
	t.Helper()
	for _, name := range []string{"go.mod", "go.sum", "backends", "etcdapi", "conformance", "internal"} {
		err := filepath.WalkDir(filepath.Join(from, name), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			if d.IsDir() {
				return os.MkdirAll(filepath.Join(to, rel), 0o700)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(to, rel), text, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// caught plants m, runs its case, and takes m out again.
func caught(t *testing.T, module string, m mutant) bool {
	t.Helper()
	path := filepath.Join(module, m.file)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(before), m.old); n != 1 {
		t.Fatalf("%s holds %q %d times, want once", m.file, m.old, n)
	}
	after := strings.Replace(string(before), m.old, m.new, 1)
	if err := os.WriteFile(path, []byte(after), 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
	}()
	in := m.suite()
	out, ok := runCases(t, module, in, []string{m.name})
	if ok {
		return false
	}
	// A mutant that does not compile, or a fault elsewhere, proves nothing.
	if !strings.Contains(out, "--- FAIL: "+in.test+"/etcd/"+m.name) {
		t.Fatalf("the case did not fail by itself:\n%s", out)
	}
	return true
}

// runCases runs cases in a suite; ok tells that every one of them ran and held.
func runCases(t *testing.T, module string, in suite, names []string) (out string, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), mutantTimeout)
	defer cancel()
	// Each part of a -run pattern is matched alone, so a case is named by its two parts.
	areas, cases := map[string]bool{}, map[string]bool{}
	for _, name := range names {
		area, what, _ := strings.Cut(name, "/")
		areas[area], cases[what] = true, true
	}
	pattern := fmt.Sprintf("^%s$/^etcd$/^(%s)$/^(%s)$", in.test, alternatives(areas), alternatives(cases))
	run := exec.CommandContext(ctx, "go", "test", "-v", "-count=1", "-vet=off", in.dir, "-run", pattern)
	run.Dir = module
	text, err := run.CombinedOutput()
	if err != nil {
		return string(text), false
	}
	for _, name := range names {
		if !strings.Contains(string(text), "--- PASS: "+in.test+"/etcd/"+name+" ") {
			return fmt.Sprintf("%s did not run:\n%s", name, text), false
		}
	}
	return string(text), true
}

func alternatives(words map[string]bool) string {
	var list []string
	for w := range words {
		list = append(list, w)
	}
	return strings.Join(list, "|")
}
