package power

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdshim/shim/e2e/rig"
)

// edit replaces one place of a source file of the root module, which must be there
// exactly once: a planted fault that no longer fits its source is a failing test.
type edit struct{ file, old, new string }

const (
	walDir  = "backends/raftbolt/internal/wal/"
	mvccDir = "backends/raftbolt/internal/mvcc/"
)

// smallSegments makes the log roll and recycle every few dozen writes.
var smallSegments = []edit{{walDir + "log.go", "DefaultSegmentBytes = 16 << 20", "DefaultSegmentBytes = 64 << 10"}}

// tinySegments hold a few writes each, so that a flush of the store releases several. Only
// two released ones are kept for recycling: the first of them go at once.
var tinySegments = []edit{{walDir + "log.go", "DefaultSegmentBytes = 16 << 20", "DefaultSegmentBytes = 4 << 10"}}

// faultVariable names the environment variable that switches a planted fault on.
const faultVariable = "SHIM_POWER_FAULT"

// The planted faults.
const (
	faultLogSync    = "no sync of the log"
	faultLogDir     = "no sync of the log's directory"
	faultNewSegment = "no sync of a new segment"
	faultStoreSync  = "no sync of the store"
	faultStoreDir   = "no sync of the store's directory"
	faultDefragment = "no sync of a defragmented copy"
	faultState      = "no sync of shim.json"
	faultPath       = "no sync of the way to the data"
	faultCut        = "the log is cut before the store is synced"
)

// plantedFaults are all of them in one build, each behind its name, with segments of a size.
func plantedFaults(segments []edit) []edit {
	on := func(fault string) string { return "planted(\"" + fault + "\")" }
	return append([]edit{
		{walDir + "log.go", "if err := l.opt.sync(l.active.file); err != nil {", "if " + on(faultLogSync) + " {\n\t} else if err := l.opt.sync(l.active.file); err != nil {"},
		{walDir + "fs.go", "return errors.Join(d.Sync(), d.Close())", "if " + on(faultLogDir) + " {\n\t\treturn d.Close()\n\t}\n\treturn errors.Join(d.Sync(), d.Close())"},
		{walDir + "segment.go", "if err = o.sync(s.file); err != nil {", "if " + on(faultNewSegment) + " {\n\t} else if err = o.sync(s.file); err != nil {"},
		{mvccDir + "open.go", "NoSync:          s.cfg.NoSync,", "NoSync:          s.cfg.NoSync || " + on(faultStoreSync) + ","},
		{mvccDir + "open.go", "return errors.Join(d.Sync(), d.Close())", "if " + on(faultStoreDir) + " {\n\t\treturn d.Close()\n\t}\n\treturn errors.Join(d.Sync(), d.Close())"},
		{mvccDir + "defrag.go", "return to.Sync()", "if " + on(faultDefragment) + " {\n\t\treturn nil\n\t}\n\treturn to.Sync()"},
		{mvccDir + "flush.go", "\tif err := s.commitFrozen(); ", "\tif " + on(faultCut) + " {\n\t\ts.cfg.OnDurable(s.layer.frozen.applied.Index)\n\t}\n\tif err := s.commitFrozen(); "},
		{"backends/raftbolt/datadir.go", "\treturn f.Sync()\n}\n\nfunc syncDir", "\tif " + on(faultState) + " {\n\t\treturn nil\n\t}\n\treturn f.Sync()\n}\n\nfunc syncDir"},
		{"backends/raftbolt/datadir.go", "\tfor _, leaf := range []string{filepath.Join(d.member, snapDir), d.wal} {", "\tif " + on(faultPath) + " {\n\t\treturn nil\n\t}\n\tfor _, leaf := range []string{filepath.Join(d.member, snapDir), d.wal} {"},
	}, segments...)
}

// overlay writes the flag of go build that applies edits.
func overlay(t *testing.T, edits []edit, planted bool) string {
	t.Helper()
	dir, root := t.TempDir(), rig.Root(t)
	replace := map[string]string{}
	write := func(file, text string) {
		name := filepath.Join(dir, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, file)] = name
	}
	texts := map[string]string{}
	for _, e := range edits {
		if texts[e.file] == "" {
			text, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				t.Fatal(err)
			}
			texts[e.file] = string(text)
		}
		if n := strings.Count(texts[e.file], e.old); n != 1 {
			t.Fatalf("%s holds %d times: %s", e.file, n, e.old)
		}
		texts[e.file] = strings.Replace(texts[e.file], e.old, e.new, 1)
	}
	for file, text := range texts {
		write(file, text)
	}
	if planted {
		for file, name := range map[string]string{walDir: "wal", mvccDir: "mvcc", "backends/raftbolt/": "raftbolt"} {
			write(file+"planted.go", "package "+name+"\n\nimport \"os\"\n\nfunc planted(fault string) bool { return os.Getenv(\""+faultVariable+"\") == fault }\n")
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return "-overlay=" + name
}

// buildPlay builds the program in play.
func buildPlay(t *testing.T, args ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "play")
	cmd := exec.Command("go", append(append([]string{"build", "-o", bin}, args...), "./play")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}
