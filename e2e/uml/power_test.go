package uml

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/rig"
)

var (
	cuts = flag.Int("cuts", 20, "how many times to cut the power")
	seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the cuts and the load")
)

// perDirectory is how many cuts one directory goes through.
const perDirectory = 5

// mountOptions are what the file system is mounted with, by turns.
var mountOptions = []string{
	"data=ordered,commit=5", "data=ordered,commit=1", "data=ordered,commit=1000", "data=writeback,commit=1000", "data=journal,commit=5",
}

// TestPowerCuts ensures that nothing acknowledged is lost, nothing unacknowledged is
// half there, and shim comes back clean and in time, over cuts of every kind.
func TestPowerCuts(t *testing.T) {
	start := time.Now()
	t.Logf("seed %d, %d cuts, %d clients", *seed, *cuts, clients)
	guest, bin := buildGuest(t), rig.Build(t)
	rng := rand.New(rand.NewPCG(*seed, 0))
	done := map[string]int{}
	var writes, events, resolved, defrags, snapshots, directories int
	var slowest time.Duration
	for first := 0; first < *cuts; first += perDirectory {
		directories++
		ok := t.Run(fmt.Sprintf("directory %d", directories), func(t *testing.T) {
			offset := rng.IntN(len(mountOptions))
			r := newRun(t, guest, bin, rng.Uint64(), mountOptions[offset])
			for n := range min(perDirectory, *cuts-first) {
				k, options := kinds[n%len(kinds)], mountOptions[(offset+n+directories)%len(mountOptions)]
				begin := time.Now()
				if err := r.cut(k, options); err != nil {
					t.Fatalf("seed %d, cut %d (%s; %s): %v", *seed, first+n, k.name, options, err)
				}
				done[k.name]++
				t.Logf("cut %d (%s; %s): %d writes acknowledged so far, %.1f s", first+n, k.name, options, r.load.Record.Writes(), time.Since(begin).Seconds())
			}
			writes, events, resolved = writes+r.load.Record.Writes(), events+r.verifier.Events, resolved+r.verifier.Resolved
			defrags, snapshots, slowest = defrags+r.defrags, snapshots+r.snapshots, max(slowest, r.slowest)
		})
		if !ok {
			return
		}
	}
	counts := fmt.Sprintf("%d cuts %v in %d directories, %d writes acknowledged, %d events compared, %d unanswered writes found done, %d snapshots, %d defragments, slowest start %.1f s",
		*cuts, done, directories, writes, events, resolved, snapshots, defrags, slowest.Seconds())
	fmt.Printf("uml-power: seed %d, %s\n", *seed, counts)
	if writes < *cuts*minWrites || events == 0 || snapshots == 0 || defrags == 0 {
		t.Error("the run did not do enough to say anything")
	}
	if !t.Failed() {
		rig.AppendResult(t, "uml-power", *seed, start, counts)
	}
}

// lossCuts is within how many cuts a log that is not synced must be found.
const lossCuts = 8

// TestCutsFindMissingSync ensures that the cuts would find a log that is
// acknowledged without being synced, and, by what is missing alone, one of which only
// every eighth batch is synced: then there is nearly always something to lose, however slow
// the machine is, and the store seldom gets ahead of the log. The latter is for off alone:
// drop's disk goes on for a while as it is being suspended.
func TestCutsFindMissingSync(t *testing.T) {
	guest := buildGuest(t)
	never := rig.Build(t, "-overlay", plant(t, "return nil"))
	seldom := rig.Build(t, "-overlay", plant(t, `if batches.Add(1)%8 != 0 {
		return nil
	}
	return l.opt.sync(l.active.file)`))
	for _, c := range []struct {
		name, bin string
		kind      cutKind
		// lost says that it must be found by acknowledged writes that are missing,
		// not by damage that shim sees itself.
		lost bool
	}{
		{"never-drop", never, kinds[1], false},
		{"seldom-off", seldom, kinds[0], true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for n := range lossCuts {
				r := newRun(t, guest, c.bin, *seed+uint64(n), mountOptions[0])
				err := r.cut(c.kind, mountOptions[0])
				var found faultError
				if err != nil && !errors.As(err, &found) {
					t.Fatalf("seed %d, cut %d: %v", *seed, n, err)
				}
				if err := r.off(); err != nil {
					t.Fatal(err)
				}
				t.Logf("seed %d, cut %d found: %v", *seed, n, err)
				if err != nil && (!c.lost || strings.Contains(err.Error(), faultServed)) {
					return
				}
			}
			t.Errorf("seed %d: acknowledged writes are not synced, and %d cuts did not find it", *seed, lossCuts)
		})
	}
}

// plant writes an overlay of the source in which the sync of a written batch has
// another body.
func plant(t *testing.T, body string) string {
	t.Helper()
	wal := filepath.Join(rig.Root(t), "backends", "raftbolt", "internal", "wal")
	text, err := os.ReadFile(filepath.Join(wal, "log.go"))
	if err != nil {
		t.Fatal(err)
	}
	const call = "l.opt.sync(l.active.file)"
	if strings.Count(string(text), call) != 1 {
		t.Fatalf("%s/log.go does not sync with %s any more: plant the fault where it does", wal, call)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	for name, content := range map[string]string{
		"log.go":     strings.Replace(string(text), call, "planted(l)", 1),
		"planted.go": "package wal\n\nimport \"sync/atomic\"\n\nvar batches atomic.Uint64\n\nvar _ = batches.Load\n\nfunc planted(l *Log) error {\n\t" + body + "\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(wal, name)] = filepath.Join(dir, name)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// buildGuest builds the guest's program, and fails when what a machine needs is not
// installed.
func buildGuest(t *testing.T) string {
	t.Helper()
	for _, need := range [][2]string{{"linux.uml", "user-mode-linux"}, {"dmsetup", "dmsetup"}, {"mkfs.ext4", "e2fsprogs"}} {
		if _, err := exec.LookPath(need[0]); err != nil {
			t.Fatalf("%v: the power cuts need Debian's package %s (apt-get install %s)", err, need[1], need[1])
		}
	}
	name := filepath.Join(t.TempDir(), "guest")
	cmd := exec.Command("go", "build", "-o", name, "./guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return name
}
