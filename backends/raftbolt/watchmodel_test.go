package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

// The model test: a writer commits and compacts at random; readers on streams of
// their own add, cancel, ask for progress, and stop reading at random. Each
// reader checks, of what Next yields, that the watch API's guarantees hold:
//
//	filter       every event is of the watch's range and kinds
//	ordered      revisions of one watch never go back
//	unique       no event comes twice
//	atomic       the events of one revision come in one batch
//	reliable     no event between the first and last wanted one is missing
//	resumable    a watch from a past revision gets that revision's events first
//	bookmarkable a progress mark at R comes after all events at or below R
//	prev_kv      the record before is that of the history
//	header       revisions in headers never go back on a stream
//
// and that a compacted watch is cancelled rather than left with a gap.

// journal is what really happened: the expected events in their words.
type journal struct {
	h *fakeHistory
}

// wanted lists the words of the events that a watch is owed in [from, to].
func (j journal) wanted(w *watched, from, to int64) []string {
	j.h.mu.Lock()
	defer j.h.mu.Unlock()
	var out []string
	for _, e := range j.h.events {
		kv, deleted := e.event.Kv, e.event.Type == mvccpb.Event_DELETE
		if kv.ModRevision < from || kv.ModRevision > to || !wantsKey(&w.req.KeyRange, string(kv.Key)) ||
			deleted && w.req.NoDelete || !deleted && w.req.NoPut {
			continue
		}
		plain := &mvccpb.Event{Type: e.event.Type, Kv: kv}
		if w.req.PrevKV {
			plain.PrevKv = e.event.PrevKv
		}
		out = append(out, eventWords(plain))
	}
	return out
}

// watched is a watch as its reader sees it.
type watched struct {
	req     backends.WatchRequest
	created bool
	// from is the first revision not seen whole.
	from int64
}

// reader owns one stream.
type reader struct {
	t       *testing.T
	name    string
	j       journal
	s       *watchStream
	rng     *rand.Rand
	prevKV  bool
	mu      sync.Mutex // between the two goroutines of the reader
	watches map[int64]*watched
	header  int64
	seenCounts
}

func (r *reader) failf(format string, args ...any) {
	r.t.Errorf(r.name+": "+format, args...)
	panic(errAbort) // ends this reader; see run
}

var errAbort = errors.New("abort")

// take checks one batch.
func (r *reader) take(b backends.WatchBatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.Header.Revision != 0 {
		if b.Header.Revision < r.header {
			r.failf("header went back from %d to %d: %s", r.header, b.Header.Revision, words(r.t, b))
		}
		r.header = b.Header.Revision
	}
	if b.Kind == backends.WatchProgress && slices.Equal(b.IDs, []int64{backends.AllWatches}) {
		r.marks++
		for _, w := range r.watches {
			if w.created {
				r.seen(w, nil, b.Header.Revision)
			}
		}
		return
	}
	for _, id := range b.IDs {
		w := r.watches[id]
		if w == nil {
			r.failf("batch of no watch: %s", words(r.t, b))
		}
		if w.created == (b.Kind == backends.WatchCreated) {
			r.failf("created %v: %s", w.created, words(r.t, b))
		}
		r.takeOf(w, b)
	}
}

func (r *reader) takeOf(w *watched, b backends.WatchBatch) {
	switch b.Kind {
	case backends.WatchCreated:
		w.created = true
		w.from = w.req.StartRevision
		if w.from == 0 {
			w.from = b.Header.Revision + 1
		}
	case backends.WatchEvents:
		r.events += len(b.Events)
		var got []string
		var last int64
		for _, e := range b.Events {
			event := decodeEvent(r.t, e)
			last = event.Kv.ModRevision
			got = append(got, eventWords(event))
		}
		if len(got) == 0 || last > b.Header.Revision {
			r.failf("events %s", words(r.t, b))
		}
		r.seen(w, got, last)
	case backends.WatchProgress:
		r.marks++
		r.seen(w, nil, b.Header.Revision)
	case backends.WatchCanceled:
		delete(r.watches, w.req.ID)
		if b.Reason == nil {
			r.canceled++
			return
		}
		r.compacted++
		if !errors.Is(b.Reason, backends.ErrCompacted) || b.Header.Revision != 0 || b.CompactRevision <= w.from {
			r.failf("watch at %d: %s", w.from, words(r.t, b))
		}
	}
}

// seen checks that exactly got was owed to a watch up to revision to. This one
// comparison is filter, ordered, unique, atomic, reliable, resumable,
// bookmarkable and prev_kv.
func (r *reader) seen(w *watched, got []string, to int64) {
	if want := r.j.wanted(w, w.from, to); !slices.Equal(got, want) {
		r.failf("watch %+v from %d to %d:\ngot  %s\nwant %s", w.req, w.from, to, brief(got), brief(want))
	}
	w.from = max(w.from, to+1)
}

func brief(words []string) string {
	s := strings.Join(words, " ")
	return strings.ReplaceAll(s, big, "BIG")
}

// act does one random thing to the stream.
func (r *reader) act(ctx context.Context, id int64) {
	switch op := r.rng.IntN(10); {
	case op < 5:
		req := backends.WatchRequest{
			ID: id, KeyRange: randomRange(r.rng),
			PrevKV: r.prevKV && r.rng.IntN(2) == 0, NoPut: r.rng.IntN(5) == 0, NoDelete: r.rng.IntN(5) == 0,
		}
		switch now := r.j.h.Committed(); r.rng.IntN(4) {
		case 0:
			req.StartRevision = now + r.rng.Int64N(20)
		case 1, 2:
			req.StartRevision = max(1, now-r.rng.Int64N(200))
		}
		r.mu.Lock()
		r.watches[id] = &watched{req: req}
		r.mu.Unlock()
		if err := r.s.Add(ctx, &req); err != nil && ctx.Err() == nil {
			r.failf("add: %v", err)
		}
	case op < 6:
		r.s.Cancel(id - r.rng.Int64N(10))
	case op < 8:
		r.s.Progress(backends.AllWatches)
	default:
		r.s.Progress(id - r.rng.Int64N(10))
	}
}

// read takes batches until the stream ends, with pauses.
func (r *reader) read(ctx context.Context) {
	defer r.recoverAbort()
	pause := rand.New(rand.NewPCG(uint64(len(r.name)), 9))
	for {
		b, err := r.s.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.failf("next: %v", err)
			}
			return
		}
		r.take(b)
		switch pause.IntN(400) {
		case 0, 1, 2:
			time.Sleep(time.Duration(pause.IntN(5)) * time.Millisecond)
		case 3:
			time.Sleep(30 * time.Millisecond)
		}
	}
}

func (r *reader) recoverAbort() {
	if e := recover(); e != nil && e != any(errAbort) {
		panic(e)
	}
}

func (r *reader) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.watches {
		if !w.created || w.from <= r.j.h.Committed() {
			return false
		}
	}
	return true
}

func TestWatchModel(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() {
		seeds = 3
	}
	var all seenCounts
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := newFakeHistory()
			if seed%3 == 1 {
				h.recent = 5 // most reads of the hub go to the store, and may meet a compaction
			}
			runWatchModel(t, seed, &modelWorld{
				record: h, history: h, compacts: true, prevKV: true,
				commit:  func(c ...change) int64 { return h.commit(c...) },
				compact: h.compactTo,
			}, &all)
		})
	}
	t.Logf("%+v", all)
	if all.events == 0 || all.marks == 0 || all.compacted == 0 || all.canceled == 0 {
		t.Error("something never happened")
	}
}

// seenCounts counts what readers saw.
type seenCounts struct{ events, marks, compacted, canceled int }

// modelWorld is what a run of the model works on.
type modelWorld struct {
	// record is what readers compare with; the hub may read another history,
	// in which commit and compact do the same.
	record  *fakeHistory
	history watchHistory
	commit  func(...change) int64
	compact func(revision int64)
	// compacts and prevKV tell what the run uses.
	compacts, prevKV bool
}

func runWatchModel(t *testing.T, seed uint64, world *modelWorld, all *seenCounts) {
	h := world.record
	rng := rand.New(rand.NewPCG(seed, 5))
	hub := startHub(t, world.history)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg, acting sync.WaitGroup
	var readers []*reader
	for i := range 6 {
		r := &reader{
			t: t, name: fmt.Sprintf("seed %d reader %d", seed, i), j: journal{h}, prevKV: world.prevKV, s: openStream(t, hub),
			rng: rand.New(rand.NewPCG(seed, uint64(100+i))), watches: map[int64]*watched{},
		}
		readers = append(readers, r)
		wg.Go(func() { r.read(ctx) })
		acting.Go(func() {
			defer r.recoverAbort()
			for id := range int64(60) {
				r.act(ctx, id)
				for range r.rng.IntN(20) {
					runtime.Gosched()
				}
				time.Sleep(time.Duration(r.rng.IntN(2)) * time.Millisecond)
			}
		})
	}
	writeAtRandom(rng, world, 600)
	acting.Wait()

	// A last revision, and a last mark of every watch: all is owed up to here.
	world.commit(change{"a", "end"})
	for _, r := range readers {
		r.mu.Lock()
		ids := make([]int64, 0, len(r.watches))
		for id := range r.watches {
			ids = append(ids, id)
		}
		r.mu.Unlock()
		for _, id := range ids {
			r.s.Progress(id)
		}
	}
	for _, r := range readers {
		awaitThat(t, r.name+" has everything it is owed", func() bool { return t.Failed() || r.idle() })
	}
	cancel()
	wg.Wait()
	for _, r := range readers {
		all.events += r.events
		all.marks += r.marks
		all.compacted += r.compacted
		all.canceled += r.canceled
	}
}

// writeAtRandom commits n revisions, with compactions near the present.
func writeAtRandom(rng *rand.Rand, world *modelWorld, n int) {
	h := world.record
	for i := range n {
		var changes []change
		used := map[string]bool{}
		for range 1 + rng.IntN(3) {
			c := change{randomKey(rng), fmt.Sprint(i)}
			if used[c.key] {
				continue // one revision touches a key once
			}
			used[c.key] = true
			switch h.mu.Lock(); {
			case rng.IntN(4) == 0 && h.latest[c.key] != nil:
				c.value = ""
			case rng.IntN(6) == 0:
				c.value = big
			}
			h.mu.Unlock()
			changes = append(changes, c)
		}
		revision := world.commit(changes...)
		if world.compacts && rng.IntN(40) == 0 {
			world.compact(revision - rng.Int64N(min(revision, 60)))
		}
		if rng.IntN(4) == 0 {
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
		}
	}
}
