package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

// script is a Watch RPC of the upstream's that a test plays by hand.
type script struct {
	*testing.T
	backends.WatchStream
	requests chan *pb.WatchRequest
	answers  chan *pb.WatchResponse
	fail     chan error
}

func newScript(t *testing.T, clock backends.Clock) *script {
	s := &script{
		T:        t,
		requests: make(chan *pb.WatchRequest, 2000),
		answers:  make(chan *pb.WatchResponse),
		fail:     make(chan error),
	}
	u := &upstream{watch: func(stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
		go func() {
			for {
				r, err := stream.Recv()
				if err != nil {
					return
				}
				s.requests <- r
			}
		}()
		for {
			select {
			case a := <-s.answers:
				if err := stream.Send(a); err != nil {
					return err
				}
			case err := <-s.fail:
				return err
			case <-stream.Context().Done():
				return nil
			}
		}
	}}
	b, _ := u.serve(t)
	b.clock = clock
	w, err := b.Watch(t.Context(), backends.Caller{})
	if err != nil {
		t.Fatal(err)
	}
	s.WatchStream = w
	t.Cleanup(w.Close)
	return s
}

func (s *script) add(id int64) {
	s.Helper()
	if err := s.Add(s.Context(), &backends.WatchRequest{ID: id, KeyRange: backends.KeyRange{Key: []byte("k")}}); err != nil {
		s.Fatal(err)
	}
}

// request is the next that arrived.
func (s *script) request() *pb.WatchRequest {
	s.Helper()
	select {
	case r := <-s.requests:
		return r
	case <-time.After(10 * time.Second):
		s.Fatal("no request came")
		return nil
	}
}

func (s *script) created() int64 {
	s.Helper()
	c := s.request().GetCreateRequest()
	if c == nil {
		s.Fatal("not a request to create")
	}
	return c.WatchId
}

// next is what Next yields after an answer.
func (s *script) next(a *pb.WatchResponse) string {
	s.Helper()
	if a != nil {
		s.answers <- a
	}
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	b, err := s.Next(ctx)
	if err != nil {
		s.Fatal(err)
	}
	out := fmt.Sprintf("%d %v @%d", b.Kind, b.IDs, b.Header.Revision)
	if b.Reason != nil {
		out += fmt.Sprintf(" %v %d", b.Reason, b.CompactRevision)
	}
	for _, e := range b.Events {
		m := &pb.WatchResponse{}
		if err := proto.Unmarshal(e, m); err != nil || len(m.Events) != 1 {
			s.Fatalf("malformed event %q: %v", []byte(e), err)
		}
		out += " " + string(m.Events[0].Kv.Key)
	}
	return out
}

func (s *script) equal(got, want string) {
	s.Helper()
	if got != want {
		s.Errorf("got  %s\nwant %s", got, want)
	}
}

func at(rev int64) *pb.ResponseHeader { return &pb.ResponseHeader{Revision: rev} }

// Ids are the caller's above and ours below, zero among them; a refusal, which etcd
// gives the id -1, is that of the watch whose turn it is.
func TestWatchIDs(t *testing.T) {
	s := newScript(t, backends.SystemClock{})
	s.add(0)
	s.add(-7)
	s.add(9)
	ids := []int64{s.created(), s.created(), s.created()}
	if slices.Contains(ids, 0) || slices.Contains(ids, -1) {
		t.Errorf("ids on the wire: %v", ids)
	}
	s.equal(s.next(&pb.WatchResponse{Header: at(3), WatchId: ids[0], Created: true}), "1 [0] @3")
	s.equal(s.next(&pb.WatchResponse{Header: at(3), WatchId: -1, Created: true, Canceled: true, CancelReason: rpctypes.ErrGRPCPermissionDenied.Error()}),
		"4 [-7] @3 permission denied 0")
	s.equal(s.next(&pb.WatchResponse{Header: at(4), WatchId: ids[2], Created: true}), "1 [9] @4")
	s.equal(s.next(&pb.WatchResponse{Header: at(5), WatchId: ids[2], Events: []*mvccpb.Event{
		{Kv: &mvccpb.KeyValue{Key: []byte("x")}}, {Kv: &mvccpb.KeyValue{Key: []byte("y")}},
	}}), "2 [9] @5 x y")

	// An id is free from Cancel on, although etcd has more to say about the old watch.
	s.Cancel(0)
	s.Cancel(0)
	s.Cancel(1000)
	s.add(0)
	if r := s.request().GetCancelRequest(); r == nil || r.WatchId != ids[0] {
		t.Errorf("cancel arrived as %v", r)
	}
	again := s.created()
	s.equal(s.next(&pb.WatchResponse{Header: at(6), WatchId: ids[0], Canceled: true}), "4 [0] @6")
	s.equal(s.next(&pb.WatchResponse{Header: at(6), WatchId: again, Created: true}), "1 [0] @6")
	if err := s.Add(t.Context(), &backends.WatchRequest{ID: 0}); err == nil {
		t.Error("an id was given twice")
	}

	s.equal(s.next(&pb.WatchResponse{WatchId: ids[2], Canceled: true, CompactRevision: 5}),
		"4 [9] @0 required revision has been compacted 5")
	if r := s.request().GetCancelRequest(); r == nil || r.WatchId != ids[2] {
		t.Errorf("the id of a compacted watch is not given back: %v", r)
	}
}

// A mark answers what asked before etcd was asked; what asked later, or was not
// heard, has etcd asked again.
func TestWatchProgress(t *testing.T) {
	clock := &stepClock{step: make(chan time.Time), set: make(chan time.Duration, 10)}
	s := newScript(t, clock)
	s.Progress(backends.AllWatches) // without a watch: nothing
	s.add(4)
	s.add(5)
	ids := []int64{s.created(), s.created()}
	s.equal(s.next(&pb.WatchResponse{Header: at(3), WatchId: ids[0], Created: true}), "1 [4] @3")
	s.equal(s.next(&pb.WatchResponse{Header: at(3), WatchId: ids[1], Created: true}), "1 [5] @3")
	isProgress := func() {
		t.Helper()
		if r := s.request(); r.GetProgressRequest() == nil {
			t.Fatalf("arrived: %v", r)
		}
	}
	s.Progress(5)
	isProgress()
	s.Progress(8)
	if d := <-clock.set; d != progressRetry {
		t.Errorf("asks again after %v", d)
	}
	clock.step <- time.Time{} // no answer: etcd is asked again
	isProgress()
	<-clock.set
	mark := &pb.WatchResponse{Header: at(7), WatchId: -1}
	s.equal(s.next(mark), "3 [5] @7")
	s.Progress(4)
	isProgress()
	s.Progress(backends.AllWatches)
	isProgress()
	s.equal(s.next(mark), "3 [4] @7")
	s.equal(s.next(nil), "3 [-1] @7")
	if len(s.requests) != 0 {
		t.Errorf("more requests: %v", <-s.requests)
	}
}

// stepClock's timers fire when step is sent to.
type stepClock struct {
	backends.SystemClock
	step chan time.Time
	set  chan time.Duration
}

func (c *stepClock) After(d time.Duration) (<-chan time.Time, func()) {
	c.set <- d
	return c.step, func() {}
}

// When the RPC is over, Next tells why, and Add does not wait for ever.
func TestWatchEnds(t *testing.T) {
	for name, end := range map[string]struct {
		by   func(*script)
		want func(error) bool
	}{
		"status": {
			func(s *script) { s.fail <- status.Error(codes.Unavailable, "etcdserver: no leader") },
			func(err error) bool {
				r, ok := errors.AsType[*backends.Remote](err)
				return ok && *r == backends.Remote{Code: uint32(codes.Unavailable), Message: "etcdserver: no leader"}
			},
		},
		"no status": {
			func(s *script) { s.fail <- nil },
			func(err error) bool {
				r, ok := errors.AsType[*backends.Remote](err)
				return ok && codes.Code(r.Code) == codes.Unavailable && !errors.Is(err, io.EOF)
			},
		},
		"closed": {
			func(s *script) { s.Close() },
			func(err error) bool { return errors.Is(err, backends.ErrStopped) },
		},
	} {
		s := newScript(t, backends.SystemClock{})
		next := make(chan error)
		go func() {
			_, err := s.Next(context.Background())
			next <- err
		}()
		end.by(s)
		if err := <-next; !end.want(err) {
			t.Errorf("%s: Next: %v", name, err)
		}
		for i := range int64(2*maxRequests + 1) {
			err := s.Add(t.Context(), &backends.WatchRequest{ID: i})
			if err != nil {
				if !end.want(err) {
					t.Errorf("%s: Add: %v", name, err)
				}
				break
			}
			if i == 2*maxRequests {
				t.Errorf("%s: Add goes on", name)
			}
		}
	}
}

// Watches whose creation is not answered are bounded.
func TestAddWaitsForAnswers(t *testing.T) {
	s := newScript(t, backends.SystemClock{})
	for i := range int64(maxRequests) {
		s.add(i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Add(ctx, &backends.WatchRequest{ID: maxRequests}); !errors.Is(err, context.Canceled) {
		t.Errorf("one too many: %v", err)
	}
	added := make(chan error)
	go func() { added <- s.Add(t.Context(), &backends.WatchRequest{ID: maxRequests}) }()
	s.equal(s.next(&pb.WatchResponse{Header: at(1), WatchId: s.created(), Created: true}), "1 [0] @1")
	if err := <-added; err != nil {
		t.Error(err)
	}
}
