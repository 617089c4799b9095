package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

func (s *store) watch() backends.WatchStream {
	s.Helper()
	w, err := s.Watch(s.Context(), backends.Caller{})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(w.Close)
	return w
}

func (s *store) add(w backends.WatchStream, req backends.WatchRequest) {
	s.Helper()
	if err := w.Add(s.Context(), &req); err != nil {
		s.Fatal(err)
	}
}

// next writes one batch as "kind id @header event ...".
func (s *store) next(w backends.WatchStream) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	b, err := w.Next(ctx)
	if err != nil {
		s.Fatal(err)
	}
	out := fmt.Sprintf("%s %v @%d", map[backends.WatchKind]string{
		backends.WatchCreated: "created", backends.WatchEvents: "events",
		backends.WatchProgress: "progress", backends.WatchCanceled: "canceled",
	}[b.Kind], b.IDs, b.Header.Revision)
	if b.Reason != nil {
		out += fmt.Sprintf(" %v %d", b.Reason, b.CompactRevision)
	}
	for _, e := range b.Events {
		out += " " + s.event(e)
	}
	return out
}

func (s *store) event(e backends.Event) string {
	s.Helper()
	size := len(e) - 2 // a tag and a length of one byte in these tests
	if e[0] != 0x5a || int(e[1]) != size {
		s.Fatalf("malformed event %x", []byte(e))
	}
	var m mvccpb.Event
	if err := proto.Unmarshal(e[2:], &m); err != nil {
		s.Fatal(err)
	}
	out := fmt.Sprintf("%s:%s=%s@%d", m.Type, m.Kv.Key, m.Kv.Value, m.Kv.ModRevision)
	if m.PrevKv != nil {
		out += fmt.Sprintf("<%s@%d", m.PrevKv.Value, m.PrevKv.ModRevision)
	}
	return out
}

// silent asserts that the stream has nothing to yield.
func (s *store) silent(w backends.WatchStream) {
	s.Helper()
	st := w.(*stream)
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok, err := st.take(); ok || err != nil {
		s.Fatalf("yields %+v, %v", b, err)
	}
}

func TestWatchPastLiveAndFuture(t *testing.T) {
	s := newStore(t)
	s.do(put("a", "1"))                // 2
	s.do(put("b", "1"))                // 3
	s.do(put("a", "2"), put("b", "2")) // 4
	w := s.watch()
	s.add(w, backends.WatchRequest{ID: 0, KeyRange: key("a"), StartRevision: 1, PrevKV: true})
	s.add(w, backends.WatchRequest{ID: 5, KeyRange: keys("a", "c")})
	s.add(w, backends.WatchRequest{ID: 7, KeyRange: key("a"), StartRevision: 6, NoPut: true})
	s.equal(s.next(w), "created [0] @4")
	s.equal(s.next(w), "created [5] @4")
	s.equal(s.next(w), "created [7] @4")
	s.equal(s.next(w), "events [0] @4 PUT:a=1@2 PUT:a=2@4<1@2")
	s.silent(w)
	s.do(del(keys("a", "c"))) // 5
	s.do(put("a", "3"))       // 6
	s.do(del(key("a")))       // 7
	s.equal(s.next(w), "events [0] @5 DELETE:a=@5<2@4")
	s.equal(s.next(w), "events [5] @5 DELETE:a=@5 DELETE:b=@5")
	s.equal(s.next(w), "events [0] @6 PUT:a=3@6")
	s.equal(s.next(w), "events [5] @6 PUT:a=3@6")
	s.equal(s.next(w), "events [7] @7 DELETE:a=@7")
	s.equal(s.next(w), "events [0] @7 DELETE:a=@7<3@6")
	s.equal(s.next(w), "events [5] @7 DELETE:a=@7")
	s.silent(w)
	w.Cancel(5)
	w.Cancel(5)
	w.Cancel(99)
	s.equal(s.next(w), "canceled [5] @7")
	s.silent(w)
}

// A progress mark waits for what is asked about, comes once however often it
// was asked for, and never before an event at or below its revision.
func TestWatchProgress(t *testing.T) {
	s := newStore(t)
	w := s.watch()
	w.Progress(backends.AllWatches) // no watch yet: never answered
	s.add(w, backends.WatchRequest{ID: 1, KeyRange: key("a")})
	s.equal(s.next(w), "created [1] @1")
	s.silent(w)
	s.do(put("a", "1"))
	s.do(put("z", "1"))
	w.Progress(1)
	w.Progress(backends.AllWatches)
	w.Progress(backends.AllWatches)
	w.Progress(8)
	s.equal(s.next(w), "events [1] @2 PUT:a=1@2")
	s.equal(s.next(w), "progress [1] @3")
	s.equal(s.next(w), "progress [-1] @3")
	s.silent(w)
	s.add(w, backends.WatchRequest{ID: 2, KeyRange: key("a"), StartRevision: 5})
	s.equal(s.next(w), "created [2] @3")
	w.Progress(backends.AllWatches)
	w.Progress(2)
	s.do(put("z", "2"))
	s.silent(w)
	s.do(put("a", "2"))
	s.equal(s.next(w), "events [1] @5 PUT:a=2@5")
	s.equal(s.next(w), "events [2] @5 PUT:a=2@5")
	s.equal(s.next(w), "progress [2] @5")
	s.equal(s.next(w), "progress [-1] @5")
}

// Compaction cancels what starts below it, leaves events at it, and does not
// rob an open watch of what it has not read yet (etcd #17529, #18089).
func TestWatchCompaction(t *testing.T) {
	s := newStore(t)
	open := s.watch()
	s.add(open, backends.WatchRequest{ID: 1, KeyRange: key("a"), PrevKV: true})
	s.equal(s.next(open), "created [1] @1")
	s.do(put("a", "1")) // 2
	s.do(put("a", "2")) // 3
	s.do(del(key("a"))) // 4
	if _, err := s.Compact(s.Context(), &backends.CompactRequest{Revision: 4}); err != nil {
		t.Fatal(err)
	}
	s.equal(s.next(open), "events [1] @2 PUT:a=1@2")
	s.equal(s.next(open), "events [1] @3 PUT:a=2@3<1@2")
	s.equal(s.next(open), "events [1] @4 DELETE:a=@4<2@3")
	late := s.watch()
	s.add(late, backends.WatchRequest{ID: 3, KeyRange: key("a"), StartRevision: 3})
	s.add(late, backends.WatchRequest{ID: 4, KeyRange: key("a"), StartRevision: 4, PrevKV: true})
	s.equal(s.next(late), "created [3] @4")
	s.equal(s.next(late), "canceled [3] @0 required revision has been compacted 4")
	s.equal(s.next(late), "created [4] @4")
	s.equal(s.next(late), "events [4] @4 DELETE:a=@4")
}

// What an open watch has not read outlives a compaction only up to lagBytes.
func TestLagIsBounded(t *testing.T) {
	s := newStore(t)
	w := s.watch()
	s.add(w, backends.WatchRequest{ID: 1, KeyRange: key("a")})
	s.equal(s.next(w), "created [1] @1")
	value := strings.Repeat("x", 1<<20)
	for range lagBytes/len(value) + 2 {
		s.do(put("a", value))
	}
	last := s.do(put("b", "")).Header.Revision
	if _, err := s.Compact(s.Context(), &backends.CompactRequest{Revision: last}); err != nil {
		t.Fatal(err)
	}
	s.equal(s.next(w), fmt.Sprintf("canceled [1] @0 %v %d", backends.ErrCompacted, last))
	size := int64(0)
	for _, e := range s.log {
		size += e.sizeBytes()
	}
	if size > lagBytes+100 || size < lagBytes/2 {
		t.Errorf("%d bytes of the log are left", size)
	}
}

// Past events come in batches bounded by size; no revision is divided.
func TestPastBatchesAreBounded(t *testing.T) {
	s := newStore(t)
	value := strings.Repeat("x", 600<<10)
	for range 4 {
		s.do(put("a", value), put("b", value))
	}
	w := s.watch()
	s.add(w, backends.WatchRequest{ID: 1, KeyRange: keys("a", "c"), StartRevision: 2})
	s.equal(s.next(w), "created [1] @5")
	var lens []int
	for range 2 {
		b, err := w.Next(s.Context())
		if err != nil {
			t.Fatal(err)
		}
		lens = append(lens, len(b.Events))
	}
	if !slices.Equal(lens, []int{4, 4}) {
		t.Errorf("batches of %v events", lens)
	}
	s.silent(w)
}

// Add waits when nobody reads the stream, and goes on when somebody does.
func TestAddWaitsForReader(t *testing.T) {
	s := newStore(t)
	w := s.watch()
	for i := range maxControls {
		s.add(w, backends.WatchRequest{ID: int64(i), KeyRange: key("a")})
	}
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	s.fails(w.Add(ctx, &backends.WatchRequest{ID: maxControls, KeyRange: key("a")}), context.Canceled)
	added := make(chan error)
	go func() { added <- w.Add(s.Context(), &backends.WatchRequest{ID: maxControls, KeyRange: key("a")}) }()
	s.equal(s.next(w), "created [0] @1")
	if err := <-added; err != nil {
		t.Fatal(err)
	}
}

func TestNextEnds(t *testing.T) {
	b := New(newFakeClock())
	streamCtx, cancelStream := context.WithCancel(context.Background())
	open := func(ctx context.Context) backends.WatchStream {
		w, err := b.Watch(ctx, backends.Caller{})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	ended := make(chan error)
	next := func(w backends.WatchStream) {
		go func() {
			_, err := w.Next(context.Background())
			ended <- err
		}()
	}
	w := open(streamCtx)
	next(w)
	cancelStream()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("stream's context ended: %v", err)
	}
	w = open(context.Background())
	next(w)
	w.Close()
	if err := <-ended; !errors.Is(err, backends.ErrStopped) {
		t.Errorf("stream closed: %v", err)
	}
	w = open(context.Background())
	next(w)
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, backends.ErrStopped) {
		t.Errorf("backend closed: %v", err)
	}
	if _, err := b.Status(context.Background()); !errors.Is(err, backends.ErrStopped) {
		t.Errorf("after Close: %v", err)
	}
}
