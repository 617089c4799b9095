package oracle

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/rig"
)

var (
	seedFlag    = flag.Uint64("seed", 0, "seed of all sequences; 0: of the clock or, in a full run, of the sources")
	fullFlag    = flag.Bool("full", false, "the full run: 1,000,000 calls, and enough of every RPC; parts that have passed are not played again")
	callsFlag   = flag.Int("calls", 0, "calls to compare; 0: as many as the form of the run has")
	shardFlag   = flag.String("shard", "", "i/n: the i-th of n parts of the full run; empty: all of them")
	minutesFlag = flag.Float64("minutes", 0, "when no further sequence begins; 0: see shortMinutes, and never in a full run")
	workersFlag = flag.Int("workers", 3, "pairs of servers beside each other")
	shrinkFlag  = flag.Int("shrink", 2, "differences to shrink, of each kind one")
	triesFlag   = flag.Int("tries", 150, "plays to shrink one difference")
	onlyFlag    = flag.Int64("sequence", -1, "the number of the only sequence to run")
	scriptFlag  = flag.String("script", "", "a file with a script to replay")
	dirFlag     = flag.String("dir", defaultDir(), "where the servers' directories are made")
)

const (
	// fullCalls and shortCalls are how many calls a run compares at least.
	fullCalls  = 1_000_000
	shortCalls = 60_000
	// shortMinutes bounds a short run; one that is cut compares fewer calls.
	shortMinutes = 10
	// fullParts is how many parts a full run has when it is not told.
	fullParts = 20
	// maxFailures ends a run that has seen enough.
	maxFailures = 40
)

// defaultDir is in memory where there is such a place: the servers do not sync.
func defaultDir() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

type failure struct {
	number  uint64
	script  Script
	verdict *verdict
}

// TestOracle ensures that shim answers random sequences of calls as etcd does.
func TestOracle(t *testing.T) {
	if *scriptFlag != "" {
		t.Skip("a script is replayed")
	}
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, known: known, seed: *seedFlag, start: time.Now(), told: time.Now()}
	if *minutesFlag > 0 {
		r.deadline = r.start.Add(time.Duration(*minutesFlag * float64(time.Minute)))
	}
	if *fullFlag {
		r.full()
		return
	}
	if r.seed == 0 {
		r.seed = uint64(r.start.UnixNano())
	}
	t.Logf("seed %d", r.seed)
	if *onlyFlag >= 0 {
		all := newTally()
		r.one(all, uint64(*onlyFlag))
		r.report(&all.counts)
		return
	}
	if r.deadline.IsZero() {
		r.deadline = r.start.Add(shortMinutes * time.Minute)
	}
	p := part{1, 1, shortCalls}
	if *callsFlag > 0 {
		p.calls = *callsFlag
	}
	lacking := func(c *Counts) []string { return c.lacking(known, 0) }
	counts := r.play(p, lacking)
	r.report(counts)
	if r.cut.Load() {
		t.Logf("cut short after %.1f minutes, at %d of %d calls", time.Since(r.start).Minutes(), counts.Calls, p.calls)
	}
	for _, fault := range lacking(counts) {
		t.Error(fault)
	}
}

// report prints what was compared, with a short script for each kind of difference.
func (r *runner) report(counts *Counts) {
	shrinkAll(r.t, r.known, r.failures)
	fmt.Printf("oracle: seed %d, %.1f minutes\n%s\n", r.seed, time.Since(r.start).Minutes(), counts)
}

// full plays the parts of the full run that have not passed yet; when all have, it
// looks at the whole.
func (r *runner) full() {
	first, last, parts := 1, fullParts, fullParts
	if *shardFlag != "" {
		if _, err := fmt.Sscanf(*shardFlag, "%d/%d", &first, &parts); err != nil || first < 1 || first > parts {
			r.t.Fatalf("-shard %q is not i/n", *shardFlag)
		}
		last = first
	}
	calls := fullCalls
	if *callsFlag > 0 {
		calls = *callsFlag
	}
	book, err := openLedger(rig.Root(r.t), r.seed, parts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.seed = book.seed
	r.t.Logf("seed %d, parts %d to %d of %d, sources %q", r.seed, first, last, parts, book.state)
	for number := first; number <= last; number++ {
		done, err := book.load(number)
		if err != nil {
			r.t.Fatal(err)
		}
		if done != nil {
			fmt.Printf("oracle: part %d/%d has passed before: %d calls\n", number, parts, done.Counts.Calls)
			continue
		}
		if !r.fullPart(book, part{number, parts, calls / parts}) {
			return
		}
	}
	all, missing, err := book.whole()
	if err != nil {
		r.t.Fatal(err)
	}
	if len(missing) > 0 {
		fmt.Printf("oracle: seed %d: still to come: parts %v of %d\n", r.seed, missing, parts)
		return
	}
	fmt.Printf("oracle: seed %d, all %d parts, %.1f minutes\n%s\n", r.seed, parts, all.Minutes, &all.Counts)
	r.whole(all, calls)
}

// fullPart plays a part, and notes it if it has passed.
func (r *runner) fullPart(book *ledger, p part) bool {
	start := time.Now()
	lacking := func(c *Counts) []string { return c.lacking(r.known, p.of) }
	counts := r.play(p, lacking)
	r.report(counts)
	if r.cut.Load() {
		r.t.Errorf("part %d/%d was cut short at %d of %d calls", p.number, p.of, counts.Calls, p.calls)
	}
	for _, fault := range lacking(counts) {
		r.t.Error(fault)
	}
	if r.t.Failed() {
		return false
	}
	if err := book.save(p.number, &kept{Minutes: time.Since(start).Minutes(), Counts: *counts}); err != nil {
		r.t.Fatal(err)
	}
	if *shardFlag != "" {
		rig.AppendResult(r.t, "oracle, part "+*shardFlag, r.seed, start, counts.line())
	}
	return true
}

// whole ensures that all parts together are a full run.
func (r *runner) whole(all *kept, calls int) {
	for _, fault := range all.Counts.lacking(r.known, 1) {
		r.t.Error(fault)
	}
	if all.Counts.Calls < calls {
		r.t.Errorf("%d calls compared, want %d", all.Counts.Calls, calls)
	}
	if never := all.Counts.neverSeen(); len(never) > 0 {
		r.t.Errorf("fields of answers that were compared only as zero: %v", never)
	}
	if !r.t.Failed() {
		took := time.Duration(all.Minutes * float64(time.Minute))
		rig.AppendResult(r.t, "oracle", r.seed, time.Now().Add(-took), all.Counts.line())
	}
}

// line is a run that has passed in one line.
func (c *Counts) line() string {
	return fmt.Sprintf("%d calls compared in %d sequences, %d kills and restarts, %d %% of calls after one, 0 differences",
		c.Calls, sum(c.Sequences), c.Kills, c.afterKill())
}

// shrinkAll prints a short script for each kind of failure.
func shrinkAll(t *testing.T, known map[string]*method, failures []failure) {
	t.Helper()
	slices.SortFunc(failures, func(a, b failure) int { return a.verdict.index - b.verdict.index })
	done := map[string]bool{}
	for _, f := range failures {
		sign := f.verdict.sign()
		if done[sign] || len(done) >= *shrinkFlag {
			continue
		}
		done[sign] = true
		fmt.Printf("sequence %d, now it is shrunk in at most %d plays:\n%v\n", f.number, *triesFlag, f.verdict)
		script := Script{f.script.Flags, f.script.Steps[:f.verdict.index+1]}
		var last *verdict
		short := shrunk(script, *triesFlag, func(s Script) bool {
			v := try(t, known, s)
			if v == nil || v.sign() != sign {
				return false
			}
			last = v
			return true
		})
		var text strings.Builder
		if err := short.write(&text); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(os.TempDir(), fmt.Sprintf("oracle-%d.script", f.number))
		if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("sequence %d, shrunk from %d steps to %d; replay it with -script %s:\n%s\n%v\n",
			f.number, len(script.Steps), len(short.Steps), file, clippedLines(text.String()), last)
	}
}

// try plays a script, which may fail.
func try(t *testing.T, known map[string]*method, script Script) (v *verdict) {
	t.Helper()
	t.Run("shrink", func(t *testing.T) {
		etcd, shim := play(t, *dirFlag, known, script, nil)
		v = judge(script, etcd, shim, newTally())
	})
	return v
}

func clippedLines(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		out = append(out, clipped(strings.TrimSuffix(line, "\n")))
	}
	return strings.Join(out, "\n")
}

// TestReplay plays the script of -script, prints both answers to each step, and
// ensures that they are equal.
func TestReplay(t *testing.T) {
	if *scriptFlag == "" {
		t.Skip("no -script")
	}
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(*scriptFlag)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	script, err := readScript(file, known)
	if err != nil {
		t.Fatal(err)
	}
	etcd, shim := play(t, *dirFlag, known, script, nil)
	for i := range min(len(etcd), len(shim)) {
		v := &verdict{index: i, step: script.Steps[i], etcd: etcd[i], shim: shim[i]}
		t.Log(v)
	}
	if v := judge(script, etcd, shim, newTally()); v != nil {
		t.Error(v)
	}
}
