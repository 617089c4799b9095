package crash

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdshim/shim/e2e/rig"
)

var mutantsToo = flag.Bool("mutants", false, "also see that planted faults are noticed")

// mutantRounds bounds the kills until a mutant must have been noticed.
const mutantRounds = 12

// mutant is a fault in one file of shim that the rig must notice.
type mutant struct{ name, file, old, new string }

func mutants() []mutant {
	return []mutant{
		{
			"a start forgets the last batch of the log", "backends/raftbolt/internal/wal/open.go",
			"		l.admit(&h, &batch, seg, pos, h.size())\n",
			"		if _, _, _, more := decodeBatch(b[pos+h.size():]); !more && h.number > 20 {\n			break\n		}\n		l.admit(&h, &batch, seg, pos, h.size())\n",
		},
		{
			"a flush leaves out a part of a transaction", "backends/raftbolt/internal/mvcc/flush.go",
			"	for _, e := range changes {\n",
			"	for _, e := range changes {\n		if e.Sub == 3 && e.Revision%5 == 0 {\n			continue\n		}\n",
		},
		{
			"a watch of the past leaves out a revision", "backends/raftbolt/internal/mvcc/history.go",
			"			bytes += int64(len(v))\n",
			"			if r.main%97 == 0 {\n				continue\n			}\n			bytes += int64(len(v))\n",
		},
		{
			"a start cuts leases short", "backends/raftbolt/internal/lease/deadlines.go",
			"		l.timers.deadline = now.Add(l.ttl()).Add(extend)\n",
			"		l.timers.deadline = now.Add(l.ttl() / 8)\n		_ = extend\n",
		},
		{
			"a compaction takes what is still to be read", "backends/raftbolt/internal/mvcc/keyversions.go",
			"	if n > 0 && survives(k.older[n-1], main) {\n",
			"	if n > 1 && survives(k.older[n-1], main) {\n",
		},
	}
}

// TestMutants ensures that TestKill would notice faults that lose or change what
// was acknowledged.
func TestMutants(t *testing.T) {
	if !*mutantsToo {
		t.Skip("asked for with -mutants")
	}
	for _, m := range mutants() {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			c := newTrial(t, rig.Build(t, "-overlay", m.overlay(t)), *seed)
			for range mutantRounds {
				if err := c.round(t); err != nil {
					first, _, _ := strings.Cut(err.Error(), "\n")
					fmt.Printf("caught   %s, after %d kills: %s\n", m.name, c.kills, first)
					return
				}
			}
			t.Errorf("%s is not noticed in %d kills (seed %d)", m.name, c.kills, *seed)
		})
	}
}

// overlay writes what go build reads in place of the mutant's file.
func (m *mutant) overlay(t *testing.T) string {
	t.Helper()
	path := filepath.Join(rig.Root(t), m.file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		t.Fatalf("%s holds %q %d times, want once", m.file, m.old, n)
	}
	dir := t.TempDir()
	mutated := filepath.Join(dir, "mutated.go")
	if err := os.WriteFile(mutated, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "overlay.json")
}
