package raftbolt

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

// fakeHistory is a list of all events there ever were.
type fakeHistory struct {
	mu       sync.Mutex
	events   []*fakeEvent
	latest   map[string]*mvccpb.KeyValue
	revision int64
	compact  int64
	changed  chan struct{}
	// recent is how many revisions Recent goes back.
	recent int64
	// reads counts calls of History by their first revision.
	reads map[int64]int
	// block, when set, holds up Recent and History.
	block chan struct{}
}

type fakeEvent struct {
	event mvccpb.Event
	// encoded counts the calls that asked for each form; the hub must ask once
	// for each list of events, not once for each watch.
	encoded [2]atomic.Int64
}

func newFakeHistory() *fakeHistory {
	return &fakeHistory{
		latest: map[string]*mvccpb.KeyValue{}, revision: 1, compact: -1,
		changed: make(chan struct{}), recent: 1 << 40, reads: map[int64]int{},
	}
}

// change is a put of value, or a delete when value is empty.
type change struct{ key, value string }

// commit makes one revision of changes.
func (h *fakeHistory) commit(changes ...change) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision++
	for _, c := range changes {
		kv := &mvccpb.KeyValue{Key: []byte(c.key), ModRevision: h.revision, CreateRevision: h.revision}
		e := &fakeEvent{}
		prev := h.latest[c.key]
		if c.value == "" {
			kv.CreateRevision = 0
			e.event.Type = mvccpb.Event_DELETE
			delete(h.latest, c.key)
		} else {
			kv.Value = []byte(c.value)
			if prev != nil {
				kv.CreateRevision = prev.CreateRevision
			}
			h.latest[c.key] = kv
		}
		e.event.Kv, e.event.PrevKv = kv, prev
		h.events = append(h.events, e)
	}
	close(h.changed)
	h.changed = make(chan struct{})
	return h.revision
}

func (h *fakeHistory) compactTo(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.compact = max(h.compact, revision)
}

func (h *fakeHistory) Committed() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.revision
}

func (h *fakeHistory) CompactRevision() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.compact
}

func (h *fakeHistory) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *fakeHistory) await() {
	h.mu.Lock()
	block := h.block
	h.mu.Unlock()
	if block != nil {
		<-block
	}
}

func (h *fakeHistory) Recent(from, maxBytes int64) ([]watchEvent, int64, bool) {
	h.await()
	h.mu.Lock()
	defer h.mu.Unlock()
	if from <= h.revision-h.recent {
		return nil, 0, false
	}
	events, next := h.slice(from, maxBytes)
	return events, next, true
}

func (h *fakeHistory) History(ctx context.Context, from, maxBytes int64) ([]watchEvent, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	h.await()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads[from]++
	if from < h.compact {
		return nil, 0, backends.ErrCompacted
	}
	events, next := h.slice(from, maxBytes)
	return events, next, nil
}

func (h *fakeHistory) slice(from, maxBytes int64) (out []watchEvent, next int64) {
	size := int64(0)
	for _, e := range h.events {
		kv := e.event.Kv
		if kv.ModRevision < from {
			continue
		}
		if size >= maxBytes && kv.ModRevision != out[len(out)-1].Revision {
			return out, kv.ModRevision
		}
		size += int64(len(kv.Value))
		out = append(out, watchEvent{
			Revision: kv.ModRevision, Key: kv.Key,
			Delete: e.event.Type == mvccpb.Event_DELETE, eventEncoder: e,
		})
	}
	return out, max(from, h.revision+1)
}

func (e *fakeEvent) Encoded(prevKV bool) (backends.Event, error) {
	m := &mvccpb.Event{Type: e.event.Type, Kv: e.event.Kv}
	form := 0
	if prevKV {
		m.PrevKv, form = e.event.PrevKv, 1
	}
	e.encoded[form].Add(1)
	b, err := proto.Marshal(m)
	return protowire.AppendBytes([]byte{0x5a}, b), err
}

// fakeHeader is the header of a member of a cluster.
func fakeHeader(revision int64) backends.Header {
	return backends.Header{ClusterID: 1, MemberID: 2, Revision: revision, Term: 3}
}

// startHub runs a hub until the test ends.
func startHub(t testing.TB, h watchHistory) *watchHub {
	hub := newWatchHub(h, fakeHeader, func(err error) { t.Errorf("failed: %v", err) })
	t.Cleanup(hub.stop)
	return hub
}

func openStream(t testing.TB, hub *watchHub) *watchStream {
	t.Helper()
	s, err := hub.open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// nextBatch waits for the next batch; a minute means that there is none.
func nextBatch(t testing.TB, s backends.WatchStream) backends.WatchBatch {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := s.Next(ctx)
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return b
}

// words is a batch as one line: kind, ids, header revision, and events.
func words(t testing.TB, b backends.WatchBatch) string {
	t.Helper()
	kind := map[backends.WatchKind]string{
		backends.WatchCreated: "created", backends.WatchEvents: "events",
		backends.WatchProgress: "progress", backends.WatchCanceled: "canceled",
	}[b.Kind]
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %v @%d", kind, b.IDs, b.Header.Revision)
	for _, e := range b.Events {
		out.WriteString(" " + eventWords(decodeEvent(t, e)))
	}
	if b.Reason != nil {
		fmt.Fprintf(&out, " %v %d", b.Reason, b.CompactRevision)
	}
	return out.String()
}

func eventWords(e *mvccpb.Event) string {
	s := fmt.Sprintf("%d:%s", e.Kv.ModRevision, e.Kv.Key)
	if e.Type == mvccpb.Event_DELETE {
		s += "-"
	} else {
		s += "=" + string(e.Kv.Value)
	}
	if e.PrevKv != nil {
		s += fmt.Sprintf("(%s)", e.PrevKv.Value)
	}
	return s
}

func decodeEvent(t testing.TB, frame backends.Event) *mvccpb.Event {
	t.Helper()
	b, n := protowire.ConsumeBytes(frame[1:])
	if frame[0] != 0x5a || n != len(frame)-1 {
		t.Fatalf("frame %x", frame)
	}
	e := &mvccpb.Event{}
	if err := proto.Unmarshal(b, e); err != nil {
		t.Fatal(err)
	}
	return e
}

func expect(t testing.TB, s backends.WatchStream, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := words(t, nextBatch(t, s)); got != w {
			t.Fatalf("got  %s\nwant %s", got, w)
		}
	}
}

// expectNothing tells that nothing waits in a stream once the hub is at the
// store's revision: what a mark or event could follow from has happened then.
func expectNothing(t testing.TB, hub *watchHub, s *watchStream) {
	t.Helper()
	awaitHead(t, hub)
	if b, ok, _, err := s.queue.pop(); ok || err != nil {
		t.Fatalf("got %s, %v, want nothing", words(t, b), err)
	}
}

// awaitHead waits until the hub has seen all of history.
func awaitHead(t testing.TB, hub *watchHub) {
	t.Helper()
	awaitThat(t, "the hub reaches the store's revision", func() bool {
		hub.mu.Lock()
		defer hub.mu.Unlock()
		return hub.head == hub.history.Committed()
	})
}

// awaitThat looks again and again until something is so.
func awaitThat(t testing.TB, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(50 * time.Microsecond)
	}
}

func add(t testing.TB, s backends.WatchStream, id int64, key, end string, start int64, options ...func(*backends.WatchRequest)) {
	t.Helper()
	req := &backends.WatchRequest{ID: id, KeyRange: backends.KeyRange{Key: []byte(key), End: []byte(end)}, StartRevision: start}
	for _, o := range options {
		o(req)
	}
	if err := s.Add(context.Background(), req); err != nil {
		t.Fatal(err)
	}
}

func withPrev(r *backends.WatchRequest) { r.PrevKV = true }
func noPut(r *backends.WatchRequest)    { r.NoPut = true }
func noDelete(r *backends.WatchRequest) { r.NoDelete = true }
