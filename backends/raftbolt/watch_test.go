package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
)

func TestWatchFromNow(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	s := openStream(t, hub)
	h.commit(change{"a", "before"})
	add(t, s, 5, "a", "", 0)
	add(t, s, 6, "a", "c", 0, withPrev)
	h.commit(change{"a", "1"}, change{"b", "2"}, change{"c", "3"})
	h.commit(change{"c", "4"})
	h.commit(change{"a", ""})
	expect(t, s, "created [5] @2", "created [6] @2",
		"events [5] @3 3:a=1", "events [6] @3 3:a=1(before) 3:b=2",
		"events [5] @5 5:a-", "events [6] @5 5:a-(1)")
	expectNothing(t, hub, s)
}

func TestWatchFromThePast(t *testing.T) {
	h := newFakeHistory()
	for i := 2; i <= 6; i++ {
		h.commit(change{"a", fmt.Sprint(i)}, change{"b", fmt.Sprint(i)})
	}
	hub := startHub(t, h)
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 4)
	expect(t, s, "created [1] @6", "events [1] @6 4:a=4 5:a=5 6:a=6")
	h.commit(change{"a", "7"})
	expect(t, s, "events [1] @7 7:a=7")
	add(t, s, 2, "b", "\x00", 6)
	expect(t, s, "created [2] @7", "events [2] @7 6:b=6")
	expectNothing(t, hub, s)
}

func TestWatchFromTheFuture(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 4)
	s.Progress(backends.AllWatches)
	s.Progress(1)
	for range 4 {
		h.commit(change{"a", "x"})
	}
	// No event below 4; the progress that was asked for comes once 4 is reached.
	expect(t, s, "created [1] @1", "events [1] @4 4:a=x", "events [1] @5 5:a=x",
		"progress [1] @5", "progress [-1] @5")
	expectNothing(t, hub, s)
}

func TestWatchFromTheCompacted(t *testing.T) {
	h := newFakeHistory()
	for range 5 {
		h.commit(change{"a", "x"})
	}
	h.compactTo(4)
	hub := startHub(t, h)
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 3)
	add(t, s, 1, "a", "", 4) // the id is free again
	expect(t, s, "created [1] @6", "canceled [1] @0 required revision has been compacted 4",
		"created [1] @6", "events [1] @6 4:a=x 5:a=x 6:a=x")
	expectNothing(t, hub, s)
}

func TestWatchFilters(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 0, noPut)
	add(t, s, 2, "a", "", 0, noDelete)
	add(t, s, 3, "a", "", 0, noPut, noDelete)
	h.commit(change{"a", "1"})
	h.commit(change{"a", ""})
	expect(t, s, "created [1] @1", "created [2] @1", "created [3] @1",
		"events [2] @2 2:a=1", "events [1] @3 3:a-")
	expectNothing(t, hub, s)
}

// Watches of one stream that get the same events share one batch, and those of
// all streams its events: each form of an event is asked for once.
func TestWatchesShareBatches(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	a, b := openStream(t, hub), openStream(t, hub)
	add(t, a, 1, "a", "", 0)
	add(t, a, 2, "a", "b", 0)
	add(t, a, 3, "a", "", 0, withPrev)
	add(t, a, 4, "a", "", 0)
	add(t, a, 5, "a", "z", 0, withPrev)
	add(t, b, 1, "a", "", 0, withPrev)
	for range 5 {
		nextBatch(t, a)
	}
	nextBatch(t, b)
	h.commit(change{"a", "1"}, change{"b", "1"})
	expect(t, b, "events [1] @2 2:a=1")
	got := map[string]bool{}
	for range 3 {
		got[words(t, nextBatch(t, a))] = true
	}
	for _, want := range []string{"events [1 4 2] @2 2:a=1", "events [3] @2 2:a=1", "events [5] @2 2:a=1 2:b=1"} {
		if !got[want] {
			t.Errorf("no %q in %v", want, got)
		}
	}
	if n := h.events[0].encoded[0].Load(); n != 1 {
		t.Errorf("plain form asked for %d times", n)
	}
	if n := h.events[0].encoded[1].Load(); n != 2 {
		t.Errorf("form with the record before asked for %d times, by two lists", n)
	}
}

func TestWatchCancel(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 0)
	h.commit(change{"a", "1"})
	awaitHead(t, hub)
	s.Cancel(1)
	s.Cancel(1)
	s.Cancel(77)
	h.commit(change{"a", "2"})
	add(t, s, 1, "a", "", 0)
	h.commit(change{"a", "3"})
	expect(t, s, "created [1] @1", "events [1] @2 2:a=1", "canceled [1] @2",
		"created [1] @3", "events [1] @4 4:a=3")
	err := s.Add(context.Background(), &backends.WatchRequest{ID: 1, KeyRange: backends.KeyRange{Key: []byte("a")}})
	if err == nil {
		t.Error("an id was taken twice")
	}
	expectNothing(t, hub, s)
}

func TestWatchProgress(t *testing.T) {
	h := newFakeHistory()
	h.commit(change{"a", "1"})
	hub := startHub(t, h)
	s := openStream(t, hub)
	s.Progress(backends.AllWatches) // no watch, no progress
	s.Progress(1)
	expectNothing(t, hub, s)
	add(t, s, 1, "a", "", 0)
	add(t, s, 2, "a", "", 2)
	s.Progress(2)
	s.Progress(2)
	s.Progress(backends.AllWatches)
	expect(t, s, "created [1] @2", "created [2] @2", "events [2] @2 2:a=1", "progress [2] @2", "progress [-1] @2")
	h.commit(change{"b", "1"})
	s.Progress(1)
	expect(t, s, "progress [1] @3")

	// A watch in the future holds up the stream's mark, not that of another.
	add(t, s, 3, "c", "", 9)
	s.Progress(backends.AllWatches)
	s.Progress(1)
	expect(t, s, "created [3] @3", "progress [1] @3")
	expectNothing(t, hub, s)
	s.Cancel(3)
	expect(t, s, "canceled [3] @3", "progress [-1] @3")
}

// A progress mark that cannot be told yet waits for the events before it, and
// headers never go back, while the hub has not read what is committed.
func TestWatchProgressBehindCommitted(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 0)
	block := make(chan struct{})
	h.mu.Lock()
	h.block = block
	h.mu.Unlock()
	h.commit(change{"a", "1"})
	h.commit(change{"a", "2"})
	s.Progress(backends.AllWatches)
	add(t, s, 2, "a", "", 0)
	h.mu.Lock()
	h.block = nil
	h.mu.Unlock()
	close(block)
	expect(t, s, "created [1] @1", "created [2] @3", "events [1] @3 2:a=1", "events [1] @3 3:a=2", "progress [-1] @3")
	expectNothing(t, hub, s)
}

// Compaction right behind the writer does not cancel a watch that keeps up.
func TestCompactionSparesSyncedWatch(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 0)
	block := make(chan struct{})
	h.mu.Lock()
	h.block = block
	h.mu.Unlock()
	h.commit(change{"a", "1"})
	h.commit(change{"a", "2"})
	h.compactTo(3)
	h.mu.Lock()
	h.block = nil
	h.mu.Unlock()
	close(block)
	expect(t, s, "created [1] @1", "events [1] @2 2:a=1", "events [1] @3 3:a=2")
	h.commit(change{"a", "3"})
	expect(t, s, "events [1] @4 4:a=3")
}

// When memory does not go back to where the hub stands, it reads the store; when
// that is compacted, exactly the watches that need it are cancelled.
func TestHubOutrun(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 0)
	add(t, s, 2, "a", "", 5)
	block := make(chan struct{})
	h.mu.Lock()
	h.block, h.recent = block, 1
	h.mu.Unlock()
	for range 4 {
		h.commit(change{"a", "x"})
	}
	h.compactTo(5)
	h.mu.Lock()
	h.block = nil
	h.mu.Unlock()
	close(block)
	s.Progress(1)
	got := map[string]bool{}
	for range 4 {
		got[words(t, nextBatch(t, s))] = true
	}
	for _, want := range []string{"created [1] @1", "created [2] @1",
		"canceled [1] @0 required revision has been compacted 5", "events [2] @5 5:a=x"} {
		if !got[want] {
			t.Errorf("no %q in %v", want, got)
		}
	}
	expectNothing(t, hub, s)
}

// big is a value of which a few fill a queue.
var big = strings.Repeat("v", 100<<10)

// A stream that is not read keeps a bounded queue, holds up no other, and gets
// everything, once and in order, when it is read again.
func TestSlowStream(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	slow, fast := openStream(t, hub), openStream(t, hub)
	add(t, slow, 1, "a", "", 0)
	add(t, fast, 1, "a", "", 0)
	expect(t, fast, "created [1] @1")
	const n = 100
	for i := range n {
		h.commit(change{"a", big})
		if b := nextBatch(t, fast); b.Header.Revision != int64(i)+2 {
			t.Fatalf("the fast stream got @%d, want @%d", b.Header.Revision, i+2)
		}
	}
	awaitHead(t, hub)
	slow.queue.mu.Lock()
	held := slow.queue.bytes
	slow.queue.mu.Unlock()
	if held > queueBytes+2*int64(len(big)) {
		t.Errorf("the slow stream holds %d bytes", held)
	}
	slow.Progress(backends.AllWatches)
	next := int64(2)
	for last := false; !last; {
		b := nextBatch(t, slow)
		for _, e := range b.Events {
			if got := decodeEvent(t, e).Kv.ModRevision; got != next {
				t.Fatalf("revision %d, want %d", got, next)
			}
			next++
		}
		last = b.Kind == backends.WatchProgress
	}
	if next != n+2 {
		t.Errorf("progress before revision %d", next)
	}
	h.commit(change{"a", "end"})
	expect(t, slow, "events [1] @102 102:a=end")
}

// Many streams that are not read hold together what one bound allows; each gets
// everything when it is read again, and what they held is given back.
func TestSlowStreamsTogether(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	const n, events = 400, 30
	streams := make([]*watchStream, n)
	for i := range streams {
		streams[i] = openStream(t, hub)
		add(t, streams[i], 1, "a", "", 0)
	}
	for range events {
		h.commit(change{"a", big})
	}
	awaitHead(t, hub)
	if held := hub.queued.Load(); held < allQueuesBytes || held > allQueuesBytes+n*(queueFloorBytes+2*int64(len(big))) {
		t.Errorf("%d streams hold %d bytes", n, held)
	}
	for _, i := range []int{0, n / 2, n - 1} {
		expect(t, streams[i], "created [1] @1")
		for next := int64(2); next <= events+1; {
			for _, e := range nextBatch(t, streams[i]).Events {
				if got := decodeEvent(t, e).Kv.ModRevision; got != next {
					t.Fatalf("stream %d: revision %d, want %d", i, got, next)
				}
				next++
			}
		}
	}
	for _, s := range streams {
		s.Close()
	}
	if held := hub.queued.Load(); held != 0 {
		t.Errorf("closed streams hold %d bytes", held)
	}
}

// History that a slow stream still needs may be compacted: it is told.
func TestSlowStreamCompacted(t *testing.T) {
	h := newFakeHistory()
	hub := startHub(t, h)
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 0)
	for range 30 {
		h.commit(change{"a", big})
	}
	awaitHead(t, hub)
	h.compactTo(25)
	expect(t, s, "created [1] @1")
	for next := int64(2); ; next++ {
		b := nextBatch(t, s)
		if b.Kind == backends.WatchCanceled {
			if !errors.Is(b.Reason, backends.ErrCompacted) || b.CompactRevision != 25 || b.Header.Revision != 0 || next >= 25 {
				t.Errorf("after revision %d: %s", next-1, words(t, b))
			}
			break
		}
		if got := decodeEvent(t, b.Events[0]).Kv.ModRevision; got != next {
			t.Fatalf("revision %d, want %d", got, next)
		}
	}
	expectNothing(t, hub, s)
}

// Many watches that lag at one place read history together.
func TestLaggingWatchesShareReads(t *testing.T) {
	h := newFakeHistory()
	for range 100 {
		h.commit(change{"a", big[:10<<10]})
	}
	hub := startHub(t, h)
	block := make(chan struct{})
	h.mu.Lock()
	h.block = block
	h.mu.Unlock()
	var streams []*watchStream
	for range 50 {
		s := openStream(t, hub)
		add(t, s, 1, "a", "", 2)
		streams = append(streams, s)
	}
	h.mu.Lock()
	h.block = nil
	h.mu.Unlock()
	close(block)
	for _, s := range streams {
		for seen := 0; seen < 100; {
			seen += len(nextBatch(t, s).Events)
		}
	}
	// Alone each would read four chunks and more: 200 in all.
	total := 0
	for _, n := range h.reads {
		total += n
	}
	if total > 60 {
		t.Errorf("%d reads of history for 50 watches at one place: %v", total, h.reads)
	}
}

func TestWatchStreamEnds(t *testing.T) {
	h := newFakeHistory()
	before := runtime.NumGoroutine()
	hub := newWatchHub(h, fakeHeader, func(err error) { t.Errorf("failed: %v", err) })
	ctx, cancel := context.WithCancel(context.Background())
	closed, canceled, stopped := openStream(t, hub), mustOpen(ctx, t, hub), openStream(t, hub)
	ends := make(chan error)
	for _, s := range []*watchStream{closed, canceled, stopped} {
		add(t, s, 1, "a", "b", 0)
		add(t, s, 2, "a", "", 99)
		s.Progress(2)
		nextBatch(t, s)
		nextBatch(t, s)
		go func() {
			_, err := s.Next(context.Background())
			ends <- err
		}()
	}
	closed.Close()
	if err := <-ends; !errors.Is(err, backends.ErrStopped) {
		t.Errorf("closed: %v", err)
	}
	cancel()
	if err := <-ends; !errors.Is(err, context.Canceled) {
		t.Errorf("context: %v", err)
	}
	awaitThat(t, "one stream is left", func() bool {
		hub.mu.Lock()
		defer hub.mu.Unlock()
		return len(hub.streams) == 1 && hub.synced.len == 2 && len(hub.asking) == 1
	})
	hub.stop()
	if err := <-ends; !errors.Is(err, backends.ErrStopped) {
		t.Errorf("stopped: %v", err)
	}
	if hub.synced.len+hub.lagged.len+len(hub.streams)+len(hub.asking)+len(hub.lagging) != 0 || hub.synced.ranges != nil || len(hub.synced.keys) != 0 {
		t.Error("the hub still holds something")
	}
	if _, err := hub.open(context.Background()); !errors.Is(err, backends.ErrStopped) {
		t.Errorf("open: %v", err)
	}
	if err := closed.Add(context.Background(), &backends.WatchRequest{ID: 9}); !errors.Is(err, backends.ErrStopped) {
		t.Errorf("add: %v", err)
	}
	closed.Cancel(1)
	closed.Progress(backends.AllWatches)
	awaitThat(t, "the goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}

func mustOpen(ctx context.Context, t *testing.T, hub *watchHub) *watchStream {
	t.Helper()
	s, err := hub.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Next and Add end with their context, and Add waits while a client that does
// not read has many answers outstanding.
func TestAddWaitsForRoom(t *testing.T) {
	hub := startHub(t, newFakeHistory())
	s := openStream(t, hub)
	for id := range int64(queueControls) {
		add(t, s, id, "a", "", 0)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- s.Add(ctx, &backends.WatchRequest{ID: 5000, KeyRange: backends.KeyRange{Key: []byte("a")}})
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("add: %v", err)
	}
	go func() {
		done <- s.Add(context.Background(), &backends.WatchRequest{ID: 5001, KeyRange: backends.KeyRange{Key: []byte("a")}})
	}()
	nextBatch(t, s)
	if err := <-done; err != nil {
		t.Errorf("add after a read: %v", err)
	}
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("next: %v", err)
	}
}

// History that cannot be read ends every stream; none skips.
func TestHistoryFails(t *testing.T) {
	h := &brokenHistory{fakeHistory: newFakeHistory()}
	failed := make(chan error, 2)
	hub := newWatchHub(h, fakeHeader, func(err error) { failed <- err })
	defer hub.stop()
	s := openStream(t, hub)
	add(t, s, 1, "a", "", 0)
	h.commit(change{"a", "1"})
	expectStopped(t, s)
	if err := <-failed; !errors.Is(err, errBroken) {
		t.Errorf("failed with %v", err)
	}
}

func expectStopped(t *testing.T, s *watchStream) {
	t.Helper()
	for {
		b, err := s.Next(context.Background())
		if errors.Is(err, backends.ErrStopped) {
			return
		}
		if err != nil || b.Kind == backends.WatchEvents {
			t.Fatalf("%s, %v", words(t, b), err)
		}
	}
}

var errBroken = errors.New("broken")

type brokenHistory struct{ *fakeHistory }

func (*brokenHistory) Recent(int64, int64) ([]watchEvent, int64, bool) { return nil, 0, false }
func (*brokenHistory) History(context.Context, int64, int64) ([]watchEvent, int64, error) {
	return nil, 0, errBroken
}
