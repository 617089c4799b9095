package oracle

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A part is a share of a run's sequences: every of-th from number on, 1 being the first.
type part struct {
	number, of int
	// calls are those that it compares at least, as far as the scripts tell.
	calls int
}

// sequence is the number of the part's n-th sequence, from 0 on.
func (p part) sequence(n int) uint64 { return uint64(n)*uint64(p.of) + uint64(p.number-1) }

// maxRounds bounds how often a part goes on because it has too little of something.
const maxRounds = 6

// A runner plays sequences beside each other.
type runner struct {
	t     *testing.T
	known map[string]*method
	seed  uint64
	start time.Time
	// deadline, if not zero, is when no further sequence begins.
	deadline time.Time

	mu       sync.Mutex
	failures []failure
	told     time.Time // of the last line of progress
	cut      atomic.Bool
}

// play plays a part: as many sequences as have its calls, and more of them while lacking finds
// fault. Which those are is decided by the seed, and by what etcd answered, alone.
func (r *runner) play(p part, lacking func(*Counts) []string) *Counts {
	all := newTally()
	next, wanted := 0, p.calls
	for range maxRounds {
		var batch []uint64
		for calls := 0; calls < wanted; next++ {
			script, _ := generate(r.seed, p.sequence(next))
			calls += script.calls()
			batch = append(batch, p.sequence(next))
		}
		r.batch(p, all, batch)
		if len(lacking(&all.counts)) == 0 || r.over(all) {
			break
		}
		wanted = max(1, p.calls/5)
	}
	return &all.counts
}

// over tells whether no further sequence begins.
func (r *runner) over(all *Tally) bool {
	if _, _, differences := all.progress(); differences >= maxFailures {
		return true
	}
	if !r.deadline.IsZero() && time.Now().After(r.deadline) {
		r.cut.Store(true)
		return true
	}
	return false
}

// batch plays sequences by their numbers.
func (r *runner) batch(p part, all *Tally, numbers []uint64) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range *workersFlag {
		workers.Go(func() {
			for {
				n := int(next.Add(1) - 1)
				if n >= len(numbers) || r.over(all) {
					return
				}
				r.one(all, numbers[n])
				r.tell(p, all)
			}
		})
	}
	workers.Wait()
}

// one plays a sequence.
func (r *runner) one(all *Tally, number uint64) {
	r.t.Run(fmt.Sprint(number), func(t *testing.T) {
		script, p := generate(r.seed, number)
		etcd, shim := play(t, *dirFlag, r.known, script, nil)
		v := judge(script, etcd, shim, all)
		all.finish(p, v)
		if v == nil {
			return
		}
		t.Errorf("seed %d, sequence %d (%s): %s", r.seed, number, p.name, v)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.failures = append(r.failures, failure{number, script, v})
	})
}

// tellEach is the time between two lines of progress.
const tellEach = 20 * time.Second

// tell prints a line of progress from time to time.
func (r *runner) tell(p part, all *Tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.told) < tellEach {
		return
	}
	r.told = time.Now()
	calls, sequences, differences := all.progress()
	fmt.Printf("oracle: part %d/%d: %d of %d calls compared in %d sequences, %d differences, %.1f minutes\n",
		p.number, p.of, calls, p.calls, sequences, differences, time.Since(r.start).Minutes())
}
