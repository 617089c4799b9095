package oracle

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/etcdshim/shim/e2e/rig"
)

var (
	seedFlag    = flag.Uint64("seed", 0, "seed of all sequences; 0: of the clock")
	fullFlag    = flag.Bool("full", false, "the full run: 1,000,000 calls, and enough of every RPC")
	callsFlag   = flag.Int("calls", 0, "calls to compare; 0: as many as the form of the run has")
	shardFlag   = flag.String("shard", "1/1", "the i-th of n parts of the run")
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
	start, seed := time.Now(), *seedFlag
	if seed == 0 {
		seed = uint64(start.UnixNano())
	}
	var shard, shards int
	if _, err := fmt.Sscanf(*shardFlag, "%d/%d", &shard, &shards); err != nil || shard < 1 || shard > shards {
		t.Fatalf("-shard %q is not i/n", *shardFlag)
	}
	t.Logf("seed %d, shard %d of %d", seed, shard, shards)
	wanted := *callsFlag
	switch {
	case wanted > 0:
	case *fullFlag:
		wanted = fullCalls / shards
	default:
		wanted = shortCalls / shards
	}

	sum := newTally()
	failures := runAll(t, known, sum, seed, shard, shards, func() bool {
		if *onlyFlag >= 0 || sum.differences() >= maxFailures {
			return true
		}
		return sum.compared() >= wanted && (!*fullFlag || len(sum.lacking(known, shards)) == 0 || sum.compared() >= 3*wanted)
	})
	shrinkAll(t, known, failures)
	fmt.Printf("oracle: seed %d, shard %s, %.1f minutes\n%s\n", seed, *shardFlag, time.Since(start).Minutes(), sum)
	if t.Failed() || *onlyFlag >= 0 {
		return
	}
	share := 0
	if *fullFlag {
		share = shards
	}
	for _, fault := range sum.lacking(known, share) {
		t.Error(fault)
	}
	if sum.afterKill*10 < sum.compared() {
		t.Errorf("%d of %d calls came after a kill, want a tenth", sum.afterKill, sum.compared())
	}
	if !t.Failed() && *fullFlag {
		rig.AppendResult(t, "oracle, shard "+*shardFlag, seed, start, fmt.Sprintf("%d calls compared in %d sequences, %d %% after a kill and restart, 0 differences",
			sum.calls, sum.total(), 100*sum.afterKill/max(1, sum.calls)))
	}
}

// runAll runs sequences beside each other until enough.
func runAll(t *testing.T, known map[string]*method, sum *Tally, seed uint64, shard, shards int, enough func() bool) []failure {
	t.Helper()
	var next atomic.Int64
	var mu sync.Mutex
	var failures []failure
	one := func(number uint64) {
		t.Run(fmt.Sprint(number), func(t *testing.T) {
			script, p := generate(seed, number)
			etcd, shim := play(t, *dirFlag, known, script)
			v := judge(script, etcd, shim, sum)
			sum.finish(p, v)
			if v == nil {
				return
			}
			t.Errorf("seed %d, sequence %d (%s): %s", seed, number, p.name, v)
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, failure{number, script, v})
		})
	}
	if *onlyFlag >= 0 {
		one(uint64(*onlyFlag))
		return failures
	}
	var workers sync.WaitGroup
	for range *workersFlag {
		workers.Go(func() {
			for !enough() {
				one(uint64(next.Add(1)-1)*uint64(shards) + uint64(shard-1))
			}
		})
	}
	workers.Wait()
	return failures
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
		etcd, shim := play(t, *dirFlag, known, script)
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
	etcd, shim := play(t, *dirFlag, known, script)
	for i := range min(len(etcd), len(shim)) {
		v := &verdict{index: i, step: script.Steps[i], etcd: etcd[i], shim: shim[i]}
		t.Log(v)
	}
	if v := judge(script, etcd, shim, newTally()); v != nil {
		t.Error(v)
	}
}

// TestNotServed ensures that what is not asked is not served, so that the list
// does not outlive its reasons.
func TestNotServed(t *testing.T) {
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	etcd, shim := newPair(t, t.TempDir(), known, quickElection())
	defer etcd.close()
	defer shim.close()
	listed := map[string]bool{}
	for name, m := range known {
		why := off(name)
		if why == "" {
			continue
		}
		listed[name], listed[service(name)] = true, true
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		var a Answer
		if m.serverSends {
			a = shim.stream(ctx, m, m.newRequest(), 1, nil)
		} else {
			a = shim.unary(ctx, m, m.newRequest())
		}
		cancel()
		if a.Code != codes.Unimplemented {
			t.Errorf("%s is listed as not served (%s), but answers %v %q: take it off the list", name, why, a.Code, a.Message)
		}
	}
	for name := range notServed() {
		if !listed[name] {
			t.Errorf("%q is listed as not served, but is no RPC and no service", name)
		}
	}
}
