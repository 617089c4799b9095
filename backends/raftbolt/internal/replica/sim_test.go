package replica

import (
	"crypto/rand"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
)

var (
	simSeed  = flag.Uint64("seed", 0, "run the simulator with this seed only, and print its transcript with -v")
	simSeeds = flag.Uint64("seeds", 2000, "number of seeds of the simulator")
)

// zeros is a source of randomness without any: raft takes its election timeouts from crypto/rand, and the simulator, whose clocks have their
// own random rates, must replay exactly.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestMain(m *testing.M) {
	flag.Parse()
	rand.Reader = zeros{}
	// Worlds make much short-lived garbage around a small live heap.
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// simulate runs a seed; plant may change the world first.
func simulate(seed uint64, plant func(*world)) (totals, error) {
	w := newWorld(seed)
	w.direct = true
	if plant != nil {
		plant(w)
	}
	err := w.run()
	return w.totals, err
}

// transcript runs a seed and answers what happened.
func transcript(seed uint64, plant func(*world)) (string, error) {
	w := newWorld(seed)
	w.direct, w.verbose = true, true
	if plant != nil {
		plant(w)
	}
	err := w.run()
	return w.log.String(), err
}

// tail is the last part of a transcript.
func tail(s string) string {
	const most = 20_000
	if len(s) > most {
		return "…\n" + s[len(s)-most:]
	}
	return s
}

func seeds(t *testing.T) uint64 {
	switch {
	case testing.Short():
		return min(*simSeeds, 100)
	case raceEnabled:
		return min(*simSeeds, 200)
	}
	return *simSeeds
}

// TestSimulation: no property is violated in any world; see ledger for the properties. `-seed N -v` replays one.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		text, err := transcript(*simSeed, nil)
		t.Logf("\n%s", text)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	var mu sync.Mutex
	var sum totals
	n := seeds(t)
	workers := uint64(runtime.GOMAXPROCS(0))
	t.Run("worlds", func(t *testing.T) {
		for worker := range workers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for seed := worker + 1; seed <= n; seed += workers {
					got, err := simulate(seed, nil)
					if err == nil && (got.proposals < simProposals || got.crashes < simCrashes) {
						err = fmt.Errorf("seed %d: only %d proposals, %d crashes", seed, got.proposals, got.crashes)
					}
					if err != nil {
						text, again := transcript(seed, nil)
						t.Fatalf("%v\nagain: %v\n%s", err, again, tail(text))
					}
					mu.Lock()
					sum.add(got)
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%+v", sum)
	if t.Failed() {
		return
	}
	for name, count := range map[string]int{
		"crashes": sum.crashes, "power losses": sum.powerLosses, "torn batches": sum.torn, "elections": sum.elections,
		"snapshots": sum.snapshots, "flushes": sum.flushes, "acknowledged": sum.acknowledged, "confirmed reads": sum.confirmed,
		"full disks": sum.full, "proposals refused for a full disk": sum.refused,
		"learners": sum.learners, "removed learners": sum.removals, "entries applied by learners": sum.learned,
	} {
		if count == 0 {
			t.Errorf("no %s in %d seeds", name, n)
		}
	}
}

// TestReplay: a seed determines its world to the byte.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 4; seed++ {
		first, err := transcript(seed, nil)
		if err != nil {
			t.Fatal(err)
		}
		second, _ := transcript(seed, nil)
		if first != second || len(first) == 0 {
			t.Errorf("seed %d has two transcripts", seed)
		}
	}
}

// TestPlantedFaults: the simulator finds each of these faults by its consequences; checks of the order of sync, answer, flush and cut are off.
func TestPlantedFaults(t *testing.T) {
	planted := []struct {
		name  string
		plant func(*world)
	}{
		{"answer before sync", func(w *world) { w.answerEarly = true }},
		{"vote not synced", func(w *world) { w.faults.voteNotSynced = true }},
		{"no tear repair", func(w *world) { w.skipRepair = true }},
		{"log cut above the flush", func(w *world) { w.faults.cutAboveFlush = true }},
		{"read before the first commit of the term", func(w *world) { w.faults.readBeforeFirstCommit = true }},
		{"answer a learner's read before it", func(w *world) { w.faults.answerBeforeFirstCommit = true }},
	}
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			plant := func(w *world) {
				w.direct = false
				p.plant(w)
			}
			for seed := uint64(1); seed <= *simSeeds; seed++ {
				if _, err := simulate(seed, plant); err != nil {
					t.Logf("found: %v", err)
					return
				}
			}
			t.Errorf("not found in %d seeds", *simSeeds)
		})
	}
}
