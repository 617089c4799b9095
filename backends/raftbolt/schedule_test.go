package raftbolt

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
)

var (
	scheduleSeed  = flag.Uint64("seed", 0, "run this sequence of TestFlushSchedules, or, with -sequences, begin with it")
	scheduleCount = flag.Uint64("sequences", 0, "number of sequences of TestFlushSchedules, instead of the short form's")
)

// The flush schedules: what a member answers must not depend on when its store
// flushes, compacts in the file, defragments, or was restarted or killed. A random
// sequence of entries and reads is given to members that do these at different
// times, and to a naive model that has no store at all; each answer, event and
// hash must be the model's, and so must the files in the end.

// schedules are the members of one run.
func schedules(c choices) []schedule {
	pick := func(values ...int64) int64 { return values[c.below(len(values))] }
	compaction := func(m mvcc.Config) mvcc.Config {
		m.CompactBatch = int(pick(1, 3, 1000))
		m.CompactPause = time.Duration(pick(int64(time.Microsecond), int64(time.Millisecond), int64(10*time.Millisecond)))
		m.RingBytes = pick(1, 3000, 1<<20)
		return m
	}
	late := mvcc.Config{FlushInterval: time.Hour, FlushBytes: never, LayerBytes: never}
	return []schedule{
		{name: "never", mvcc: late, quiet: true, hold: 3},
		{name: "each entry", mvcc: compaction(late), flush: 1, await: 10, hold: 6, restart: 30},
		{name: "at random", mvcc: compaction(late), flush: 5, await: 20, defragment: 20, hold: 4, restart: 15},
		{name: "by bytes", mvcc: compaction(mvcc.Config{FlushInterval: time.Hour, FlushBytes: pick(1, 2000), LayerBytes: pick(1, 600, 5000)}),
			defragment: 60, hold: 6, restart: 30},
		{name: "by time", mvcc: compaction(mvcc.Config{FlushInterval: time.Duration(pick(int64(100*time.Microsecond), int64(2*time.Millisecond)))}),
			flush: 20, await: 15, defragment: 40, hold: 3, restart: 25},
	}
}

// scheduleRun is one sequence on several members.
type scheduleRun struct {
	g       *stepper
	members []*scheduleMember
	steps   int
	trail   []string
}

func (r *scheduleRun) close() {
	for _, x := range r.members {
		if x.store != nil {
			x.held = nil
			x.stream.Close()
			x.hub.stop()
			x.closeStore()
		}
	}
}

// step does one step everywhere; it returns the differences.
func (r *scheduleRun) step() (faults []string) {
	s := r.g.next()
	r.steps++
	r.trail = append(r.trail, fmt.Sprintf("%d: %v", r.steps, s))
	compacts := false
	for i := range s.commands {
		compacts = compacts || s.commands[i].kind == kindCompact
	}
	if compacts {
		for _, x := range r.members {
			x.compareWatch()
		}
	}
	var wants []string
	for i := range s.commands {
		wants = append(wants, r.g.m.apply(&s.commands[i], s.term))
	}
	for _, x := range r.members {
		if s.commands != nil {
			x.apply(s, wants)
		} else {
			x.ask(s)
		}
		x.between()
		faults = append(faults, x.faults...)
	}
	return faults
}

// finish compares the ends.
func (r *scheduleRun) finish() (faults []string) {
	for _, x := range r.members {
		x.finish()
		x.store = nil
		faults = append(faults, x.faults...)
	}
	return faults
}

// explain is what there is to know of a difference.
func (r *scheduleRun) explain(faults []string) string {
	return fmt.Sprintf("%s\nthe last steps:\n%s", strings.Join(faults[:min(len(faults), 3)], "\n"),
		strings.Join(r.trail[max(0, len(r.trail)-6):], "\n"))
}

// runSchedules is one sequence from a seed.
func runSchedules(t testing.TB, seed uint64, founded []byte) *scheduleRun {
	random := func(stream uint64) choices { return randomChoices{rand.New(rand.NewPCG(seed, stream))} }
	c := random(0)
	m := newNaive()
	r := &scheduleRun{g: &stepper{choices: c, m: m, keys: []int{5, 20, 300}[c.below(3)], large: oneIn(c, 20), term: 1}}
	for i, s := range schedules(c) {
		r.members = append(r.members, newScheduleMember(t, s, random(uint64(i)+1), m, founded))
	}
	defer r.close()
	for range 30 + c.below(60) {
		if faults := r.step(); faults != nil || t.Failed() {
			t.Fatalf("seed %d: %s", seed, r.explain(faults))
		}
	}
	if faults := r.finish(); faults != nil {
		t.Fatalf("seed %d, at the end: %s", seed, r.explain(faults))
	}
	return r
}

// TestFlushSchedules ensures that for every sequence of operations and every flush
// schedule, with compactions, defragmentations, restarts and kills in between,
// answers, events, HashKV and files are the same. -seed replays one sequence.
func TestFlushSchedules(t *testing.T) {
	first, count := *scheduleSeed, *scheduleCount
	switch {
	case count == 0 && first != 0:
		count = 1
	case count == 0 && testing.Short():
		count = 20
	case count == 0:
		count = 100
	}
	founded := foundedStore(t)
	const parts = 4 // most of the time is waiting
	for part := range uint64(parts) {
		t.Run(fmt.Sprint("part ", part), func(t *testing.T) {
			t.Parallel()
			var sequences, steps, revisions int
			for seed := first + part; seed < first+count; seed += parts {
				r := runSchedules(t, seed, founded)
				sequences++
				steps += r.steps
				revisions += int(r.g.m.revision)
			}
			t.Logf("%d sequences, %d steps, %d revisions", sequences, steps, revisions)
		})
	}
}

// FuzzSchedule is TestFlushSchedules with a fuzzer's choices, on two members: one
// that never flushes by itself, one that does, compacts, defragments and is
// restarted or killed as the input says.
func FuzzSchedule(f *testing.F) {
	founded := foundedStore(f)
	for seed := range uint64(6) {
		b := make([]byte, 600)
		r := rand.New(rand.NewPCG(seed, 9))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(byte(seed), b)
	}
	const maxSteps = 80
	f.Fuzz(func(t *testing.T, which byte, input []byte) {
		c := &byteChoices{rest: input}
		m := newNaive()
		all := schedules(c)
		r := &scheduleRun{g: &stepper{choices: c, m: m, keys: []int{5, 20, 300}[c.below(3)], term: 1}}
		for _, s := range []schedule{all[0], all[1+int(which)%(len(all)-1)]} {
			r.members = append(r.members, newScheduleMember(t, s, c, m, founded))
		}
		defer r.close()
		for n := 0; len(c.rest) > 0 && n < maxSteps; n++ {
			if faults := r.step(); faults != nil || t.Failed() {
				t.Fatal(r.explain(faults))
			}
		}
		if faults := r.finish(); faults != nil {
			t.Fatalf("at the end: %s", r.explain(faults))
		}
	})
}
