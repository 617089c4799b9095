package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

func createRequest(r *pb.WatchCreateRequest) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

func cancelRequest(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
}

// watchFake is a backend whose watch streams a test feeds.
type watchFake struct {
	fake
	batches chan backends.WatchBatch
	added   chan *backends.WatchRequest
	closed  chan struct{}
}

func newWatchFake() *watchFake {
	return &watchFake{batches: make(chan backends.WatchBatch, 100), added: make(chan *backends.WatchRequest, 100), closed: make(chan struct{})}
}

func (w *watchFake) Watch(context.Context, backends.Caller) (backends.WatchStream, error) {
	return watchFakeStream{w}, nil
}

// watchFakeStream is the stream of a watchFake, which has one.
type watchFakeStream struct{ *watchFake }

func (w watchFakeStream) Add(_ context.Context, r *backends.WatchRequest) error {
	w.added <- r
	return nil
}
func (w watchFakeStream) Cancel(int64)   {}
func (w watchFakeStream) Progress(int64) {}
func (w watchFakeStream) Close()         { close(w.closed) }
func (w watchFakeStream) Next(ctx context.Context) (backends.WatchBatch, error) {
	select {
	case b := <-w.batches:
		return b, nil
	case <-ctx.Done():
		return backends.WatchBatch{}, ctx.Err()
	}
}

func eventOf(t *testing.T, key string, size int) (backends.Event, *mvccpb.Event) {
	t.Helper()
	e := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: make([]byte, size), ModRevision: 9}}
	b, err := proto.Marshal(&pb.WatchResponse{Events: []*mvccpb.Event{e}})
	if err != nil {
		t.Fatal(err)
	}
	return b, e
}

func openWatch(t *testing.T, f backends.Backend, cfg Config) pb.Watch_WatchClient {
	t.Helper()
	_, conn := serve(t, f, cfg)
	w, err := pb.NewWatchClient(conn).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func mustRecv(t *testing.T, w pb.Watch_WatchClient) *pb.WatchResponse {
	t.Helper()
	r, err := w.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustSend(t *testing.T, w pb.Watch_WatchClient, rs ...*pb.WatchRequest) {
	t.Helper()
	for _, r := range rs {
		if err := w.Send(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWatchFragments: a watch that asked for it gets messages below the largest
// request, all but the last marked; another gets one message. Nothing is lost.
func TestWatchFragments(t *testing.T) {
	f := newWatchFake()
	w := openWatch(t, f, Config{MaxRequestBytes: 1000})
	mustSend(t, w, createRequest(&pb.WatchCreateRequest{Key: []byte("a"), Fragment: true}), createRequest(&pb.WatchCreateRequest{Key: []byte("a")}))
	ids := []int64{(<-f.added).ID, (<-f.added).ID}
	f.batches <- backends.WatchBatch{Kind: backends.WatchCreated, IDs: ids[:1], Header: testHeader}
	f.batches <- backends.WatchBatch{Kind: backends.WatchCreated, IDs: ids[1:], Header: testHeader}
	want := &pb.WatchResponse{Header: wireHeader(testHeader)}
	b := backends.WatchBatch{Kind: backends.WatchEvents, IDs: ids, Header: testHeader}
	for i, size := range []int{200_000, 300_000, 10, 600_000, 20, 100_000, 10} {
		e, decoded := eventOf(t, fmt.Sprintf("key%d", i), size)
		b.Events = append(b.Events, e)
		want.Events = append(want.Events, decoded)
	}
	mustRecv(t, w)
	mustRecv(t, w)
	f.batches <- b
	got := &pb.WatchResponse{}
	for parts := 1; ; parts++ {
		r := mustRecv(t, w)
		if len(r.Events) > 1 && proto.Size(r) >= 1000+overheadBytes {
			t.Errorf("a fragment of %d bytes", proto.Size(r))
		}
		last := !r.Fragment
		r.Fragment = false
		proto.Merge(got, r)
		if last {
			break
		}
	}
	if !proto.Equal(got, want) {
		t.Error("the fragments together are not the events")
	}
	want.WatchId = 1
	if got := mustRecv(t, w); !proto.Equal(got, want) {
		t.Error("the whole message is not the events")
	}
}

// TestWatchAnswersInOrder: answers that the backend has no part in do not overtake
// those of earlier requests, which the backend is late with.
func TestWatchAnswersInOrder(t *testing.T) {
	f := newWatchFake()
	w := openWatch(t, f, Config{})
	mustSend(t, w,
		createRequest(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7}),
		createRequest(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7}),
		createRequest(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}),
		createRequest(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 8}))
	first := <-f.added
	select {
	case <-f.added:
		t.Fatal("the last creation was not held back")
	case <-time.After(20 * time.Millisecond): // nothing may happen
	}
	f.batches <- backends.WatchBatch{Kind: backends.WatchCreated, IDs: []int64{first.ID}, Header: testHeader}
	f.batches <- backends.WatchBatch{Kind: backends.WatchCreated, IDs: []int64{(<-f.added).ID}, Header: testHeader}
	for i, want := range []struct {
		id     int64
		reason string
	}{{7, ""}, {-1, reasonDuplicateWatch}, {-1, reasonEmptyRange}, {8, ""}} {
		r := mustRecv(t, w)
		if !r.Created || r.WatchId != want.id || r.CancelReason != want.reason || r.Canceled != (want.reason != "") {
			t.Errorf("answer %d: %v", i, r)
		}
		if r.Header.Revision != testHeader.Revision {
			t.Errorf("answer %d: the revision went back to %d", i, r.Header.Revision)
		}
	}
}

// TestWatchCancelRace: a cancellation that crosses the backend's own is answered,
// and the id is free again.
func TestWatchCancelRace(t *testing.T) {
	f := newWatchFake()
	w := openWatch(t, f, Config{})
	mustSend(t, w, createRequest(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7}))
	id := (<-f.added).ID
	f.batches <- backends.WatchBatch{Kind: backends.WatchCreated, IDs: []int64{id}, Header: testHeader}
	mustRecv(t, w)
	mustSend(t, w, cancelRequest(7), createRequest(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7}))
	again := (<-f.added).ID // the cancellation was handled before
	f.batches <- backends.WatchBatch{Kind: backends.WatchCanceled, IDs: []int64{id}, Reason: backends.ErrCompacted, CompactRevision: 5}
	f.batches <- backends.WatchBatch{Kind: backends.WatchCreated, IDs: []int64{again}, Header: testHeader}
	if r := mustRecv(t, w); !r.Canceled || r.CompactRevision != 5 || r.Header.Revision != 0 {
		t.Errorf("the backend's: %v", r)
	}
	if r := mustRecv(t, w); !r.Canceled || r.CompactRevision != 0 {
		t.Errorf("the client's: %v", r)
	}
	if r := mustRecv(t, w); !r.Created || r.WatchId != 7 {
		t.Errorf("the new one: %v", r)
	}
}

// TestWatchProgressNotGuessed: progress that is older than what was sent is not
// sent with a revision that it does not stand for.
func TestWatchProgressNotGuessed(t *testing.T) {
	f := newWatchFake()
	w := openWatch(t, f, Config{})
	mustSend(t, w, createRequest(&pb.WatchCreateRequest{Key: []byte("a")}))
	id := (<-f.added).ID
	at := func(revision int64) backends.Header { return backends.Header{Revision: revision} }
	f.batches <- backends.WatchBatch{Kind: backends.WatchCreated, IDs: []int64{id}, Header: at(10)}
	f.batches <- backends.WatchBatch{Kind: backends.WatchProgress, IDs: []int64{backends.AllWatches}, Header: at(9)}
	f.batches <- backends.WatchBatch{Kind: backends.WatchProgress, IDs: []int64{backends.AllWatches}, Header: at(12)}
	mustRecv(t, w)
	if r := mustRecv(t, w); r.Header.Revision != 12 || r.WatchId != -1 {
		t.Errorf("got %v", r)
	}
}

// TestWatchRefusedByBackend: a watch that the backend cancels without creating it
// is answered once, and what was asked for next is answered too.
func TestWatchRefusedByBackend(t *testing.T) {
	f := newWatchFake()
	w := openWatch(t, f, Config{})
	mustSend(t, w, createRequest(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 7}),
		createRequest(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}))
	f.batches <- backends.WatchBatch{Kind: backends.WatchCanceled, IDs: []int64{(<-f.added).ID}, Header: testHeader, Reason: backends.ErrPermissionDenied}
	if r := mustRecv(t, w); !r.Created || !r.Canceled || r.WatchId != -1 || r.CancelReason != "rpc error: code = PermissionDenied desc = etcdserver: permission denied" {
		t.Errorf("got %v", r)
	}
	if r := mustRecv(t, w); r.CancelReason != reasonEmptyRange {
		t.Errorf("got %v", r)
	}
}

// TestWatchPanic: a panic in the backend ends the stream, not the process.
func TestWatchPanic(t *testing.T) {
	f := newWatchFake()
	w := openWatch(t, f, Config{})
	close(f.added) // the next Add panics
	mustSend(t, w, createRequest(&pb.WatchCreateRequest{Key: []byte("a")}))
	if _, err := w.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	<-f.closed
}

// TestWatchEnds: the backend's stream is closed when the client is gone, and when
// its half is closed the stream goes on.
func TestWatchEnds(t *testing.T) {
	f := newWatchFake()
	_, conn := serve(t, f, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustSend(t, w, createRequest(&pb.WatchCreateRequest{Key: []byte("a")}))
	id := (<-f.added).ID
	if err := w.CloseSend(); err != nil {
		t.Fatal(err)
	}
	f.batches <- backends.WatchBatch{Kind: backends.WatchCreated, IDs: []int64{id}, Header: testHeader}
	mustRecv(t, w)
	cancel()
	<-f.closed
	if _, err := w.Recv(); !errors.Is(err, context.Canceled) && err == nil {
		t.Error("the stream goes on")
	}
}
