package oracle

import (
	"reflect"
	"testing"
)

// TestLedger ensures that a run knows the parts that have passed, of its own seed, sources and
// number of parts only, and that their counts add up.
func TestLedger(t *testing.T) {
	l := &ledger{dir: t.TempDir(), state: "abc", seed: 5, parts: 3}
	one := &kept{Minutes: 2, Counts: newCounts()}
	one.Counts.Calls, one.Counts.AfterKill, one.Counts.Kills = 10, 4, 1
	one.Counts.Answers["KV.Put"] = map[string]int{"OK": 6, "NotFound": 1}
	one.Counts.Rows["1"], one.Counts.Fields["a.b"], one.Counts.Sequences["mixed"] = 1, 2, 3
	for _, part := range []int{1, 3} {
		if err := l.save(part, one); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := l.load(3); err != nil || !reflect.DeepEqual(got, one) {
		t.Errorf("kept %+v, %v, want %+v", got, err, one)
	}
	all, missing, err := l.whole()
	if err != nil || len(missing) != 1 || missing[0] != 2 {
		t.Errorf("missing %v, %v", missing, err)
	}
	c := all.Counts
	if all.Minutes != 4 || c.Calls != 20 || c.AfterKill != 8 || c.Kills != 2 || c.Answers["KV.Put"]["OK"] != 12 || c.Answers["KV.Put"]["NotFound"] != 2 ||
		c.Rows["1"] != 2 || c.Fields["a.b"] != 4 || c.Sequences["mixed"] != 6 {
		t.Errorf("all together: %+v", all)
	}
	for _, other := range []*ledger{
		{dir: l.dir, state: "abd", seed: 5, parts: 3}, {dir: l.dir, state: "abc", seed: 6, parts: 3},
		{dir: l.dir, state: "abc", seed: 5, parts: 4}, {dir: l.dir, state: "", seed: 5, parts: 3},
	} {
		if got, err := other.load(1); err != nil || got != nil {
			t.Errorf("%+v has %+v, %v", other, got, err)
		}
	}
}

// TestLacking ensures that a run that has too little of anything says so.
func TestLacking(t *testing.T) {
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	enough := func() *Counts {
		c := newCounts()
		for name := range known {
			valid, refused := fewest(name)
			c.Answers[name] = map[string]int{"OK": valid, "NotFound": refused - 1, "refused in a message": 1}
		}
		for n, r := range rows() {
			for _, one := range r.cases {
				c.Rows[one.name(n)] = 1
			}
		}
		c.Calls, c.AfterKill = 1000, 100
		return &c
	}
	if faults := enough().lacking(known, 1); len(faults) > 0 {
		t.Errorf("enough is too little: %v", faults)
	}
	for what, spoil := range map[string]func(*Counts){
		"a valid call":    func(c *Counts) { c.Answers["KV.Put"]["OK"]-- },
		"a refused call":  func(c *Counts) { c.Answers["KV.Put"]["NotFound"]-- },
		"an RPC":          func(c *Counts) { delete(c.Answers, "Lock.Lock") },
		"a bad input":     func(c *Counts) { delete(c.Rows, rows()[1].cases[0].name(1)) },
		"a call restored": func(c *Counts) { c.AfterKill-- },
	} {
		c := enough()
		spoil(c)
		if faults := c.lacking(known, 1); len(faults) != 1 {
			t.Errorf("without %s: %v", what, faults)
		}
	}
	if c := newCounts(); len(c.neverSeen()) < 100 {
		t.Errorf("of nothing %v was never seen", c.neverSeen())
	}
}
