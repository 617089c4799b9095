package etcdapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
	"github.com/etcdshim/shim/backends/raftbolt"
)

// FuzzRequests sends one sequence of requests, well formed or not, to two
// servers over real connections: one on memory, the executable specification,
// the other on raftbolt. Neither may panic, answer Internal or Unknown, or hang;
// and the two must give the same answers: code, message, and bytes but for ids,
// terms and log indexes; and each watch the same events.
func FuzzRequests(f *testing.F) {
	seedRequests(f)
	p := newPair(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		r := &requestRun{t: t, pair: p, in: fuzzInput{input}}
		r.begin()
		for n := 0; len(r.in.rest) > 0 && n < maxFuzzRequests; n++ {
			r.request()
		}
		r.end()
	})
}

// maxFuzzRequests bounds one sequence, so that the fuzzer tries many.
const maxFuzzRequests = 64

// answerTimeout is when an answer counts as missing.
const answerTimeout = 30 * time.Second

// pairClock stands still until it is moved, save that what waits for less than a
// second is woken in real time: pauses of the stores go on.
type pairClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[chan time.Time]time.Time
}

func (c *pairClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *pairClock) After(d time.Duration) (<-chan time.Time, func()) {
	if d < time.Second {
		return backends.SystemClock{}.After(d)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	timer := make(chan time.Time, 1)
	c.timers[timer] = c.now.Add(d)
	return timer, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, timer)
	}
}

func (c *pairClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for timer, at := range c.timers {
		if !at.After(c.now) {
			timer <- c.now
			delete(c.timers, timer)
		}
	}
}

// pair is the two servers, memory first. They live as long as the process:
// starting them for each input would take most of the time.
type pair struct {
	clock *pairClock
	conns [2]*grpc.ClientConn
}

func newPair(f *testing.F) *pair {
	p := &pair{clock: &pairClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), timers: map[chan time.Time]time.Time{}}}
	dir := f.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		f.Fatal(err)
	}
	c := raftbolt.DefaultConfig()
	c.DataDir, c.UnsafeNoFsync, c.CompactionSleepInterval = dir, true, time.Microsecond
	store, err := raftbolt.Open(context.Background(), c, backends.Env{
		Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(), Clock: p.clock,
		Fatal: func(err error) { panic(err) },
	})
	if err != nil {
		f.Fatal(err)
	}
	<-store.Ready()
	for i, b := range []backends.Backend{memory.New(p.clock), store} {
		p.conns[i] = p.serve(f, b)
	}
	return p
}

func (p *pair) serve(f *testing.F, b backends.Backend) *grpc.ClientConn {
	s, err := New(b, Config{Clock: p.clock})
	if err != nil {
		f.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{}), grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = conn.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			f.Error(err)
		}
		if err := b.Close(context.Background()); err != nil {
			f.Error(err)
		}
	})
	return conn
}

// bytesCodec passes messages as bytes.
type bytesCodec struct{}

func (bytesCodec) Name() string                    { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = bytes.Clone(b); return nil }

// requestRun is one input.
type requestRun struct {
	*pair
	t  *testing.T
	in fuzzInput
	// revision is the present one of both, and base that at which the input's
	// revisions begin to count: both stores are emptied and compacted there.
	revision, base int64
	watches        [2]*watchRun
	// starts are the known watches with their first revisions.
	starts map[int64]int64
}

// begin empties both stores.
func (r *requestRun) begin() {
	all := &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	r.mustBoth("KV/DeleteRange", all, &pb.DeleteRangeResponse{})
	leases := &pb.LeaseLeasesResponse{}
	r.mustBoth("Lease/LeaseLeases", &pb.LeaseLeasesRequest{}, leases)
	for _, l := range leases.Leases {
		r.mustBoth("Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: l.ID}, &pb.LeaseRevokeResponse{})
	}
	put := &pb.PutResponse{}
	r.mustBoth("KV/Put", &pb.PutRequest{Key: []byte("begin")}, put)
	r.mustBoth("KV/DeleteRange", all, &pb.DeleteRangeResponse{})
	r.base = put.Header.Revision + 1
	r.mustBoth("KV/Compact", &pb.CompactionRequest{Revision: r.base}, &pb.CompactionResponse{})
	r.revision = r.base
	r.starts = map[int64]int64{}
}

// end compares what the watches got.
func (r *requestRun) end() {
	if r.watches[0] == nil {
		return
	}
	r.barrier()
	r.closeWatches()
}

// request does one step of the input.
func (r *requestRun) request() {
	switch n := r.in.below(24); {
	case n < 14:
		m := fuzzMethods[r.in.below(len(fuzzMethods))]
		r.unary(m, r.payload(m.request()))
	case n < 20:
		r.watchStep()
	case n == 20:
		r.rangeStream(r.payload(new(pb.RangeRequest)))
	case n == 21:
		r.keepAlive(r.payload(new(pb.LeaseKeepAliveRequest)))
	case n == 22:
		r.advance(time.Duration(r.in.below(5)) * time.Second)
	default:
		// Any method by its index, and any bytes: only that there is an answer.
		m := otherMethods[r.in.below(len(otherMethods))]
		for _, conn := range r.conns {
			_, err := r.invoke(conn, m.name, r.payload(m.request()))
			r.sane(m.name, err)
		}
		r.disarm()
	}
}

// payload is a request message: made up for the method, or arbitrary bytes.
func (r *requestRun) payload(m proto.Message) []byte {
	if r.in.below(8) == 7 {
		return r.rebase(m, r.in.take(r.in.below(64)))
	}
	invent(&r.in, m)
	b, err := proto.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.rebase(m, b)
}

// rebase makes small revisions of a request relative to base, and a lease id of
// the server's choice one of ours, so that inputs mean the same each time.
func (r *requestRun) rebase(m proto.Message, raw []byte) []byte {
	if proto.Unmarshal(raw, m) != nil {
		return raw
	}
	shift := func(v *int64) {
		if *v > 0 && *v < 1<<20 {
			*v += r.base - 2
		}
	}
	shiftRequest(m, shift)
	if g, ok := m.(*pb.LeaseGrantRequest); ok && g.ID == 0 {
		g.ID = 77
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return raw
	}
	return b
}

func shiftRequest(m proto.Message, shift func(*int64)) {
	switch m := m.(type) {
	case *pb.RangeRequest:
		shift(&m.Revision)
		shift(&m.MinModRevision)
		shift(&m.MaxModRevision)
		shift(&m.MinCreateRevision)
		shift(&m.MaxCreateRevision)
	case *pb.CompactionRequest:
		shift(&m.Revision)
	case *pb.WatchRequest:
		if c := m.GetCreateRequest(); c != nil {
			shift(&c.StartRevision)
		}
	case *pb.TxnRequest:
		for _, c := range m.Compare {
			if u, ok := c.GetTargetUnion().(*pb.Compare_ModRevision); ok {
				shift(&u.ModRevision)
			}
			if u, ok := c.GetTargetUnion().(*pb.Compare_CreateRevision); ok {
				shift(&u.CreateRevision)
			}
		}
		for _, ops := range [][]*pb.RequestOp{m.Success, m.Failure} {
			for _, o := range ops {
				if q := o.GetRequestRange(); q != nil {
					shiftRequest(q, shift)
				}
				if q := o.GetRequestTxn(); q != nil {
					shiftRequest(q, shift)
				}
			}
		}
	}
}

func (r *requestRun) invoke(conn *grpc.ClientConn, method string, in []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), answerTimeout)
	defer cancel()
	var out []byte
	err := conn.Invoke(ctx, "/etcdserverpb."+method, &in, &out)
	return out, err
}

// sane refuses the codes that no request may lead to.
func (r *requestRun) sane(method string, err error) {
	r.t.Helper()
	switch st := status.Convert(err); st.Code() {
	case codes.Internal:
		// Broken bytes are answered so, as by etcd: in a call of one request, and in a stream.
		if !strings.HasPrefix(st.Message(), "grpc: error unmarshalling request: ") &&
			!strings.HasPrefix(st.Message(), "grpc: failed to unmarshal the received message: ") {
			r.t.Fatalf("%s: %v", method, err)
		}
	case codes.Unknown:
		// etcd has no other code for these: a downgrade's unknown action, and a change of the
		// members that would cost the quorum.
		if !slices.Contains([]string{"etcdserver: unknown method", "etcdserver: re-configuration failed due to not enough started members"}, st.Message()) {
			r.t.Fatalf("%s: %v", method, err)
		}
	case codes.DeadlineExceeded, codes.Unavailable, codes.DataLoss, codes.Canceled:
		r.t.Fatalf("%s: %v", method, err)
	}
}

// unary compares one answer.
func (r *requestRun) unary(m fuzzMethod, in []byte) {
	r.t.Helper()
	if m.name == "KV/Compact" && r.watches[0] != nil {
		r.barrier() // a watch that is a moment behind may lose to a compaction
	}
	r.both(m.name, in, m.compare)
}

func (r *requestRun) both(method string, in []byte, compare func(raw []byte) (text string, err error)) (out [2][]byte, err error) {
	r.t.Helper()
	var texts [2]string
	for i, conn := range r.conns {
		raw, callErr := r.invoke(conn, method, in)
		r.sane(method, callErr)
		if callErr != nil {
			st := status.Convert(callErr)
			texts[i], err = fmt.Sprintf("%v: %s", st.Code(), st.Message()), callErr
			continue
		}
		out[i] = raw
		if texts[i], callErr = compare(raw); callErr != nil {
			r.t.Fatalf("%s of %x: an answer that does not decode: %v: %x", method, in, callErr, raw)
		}
		r.notice(raw)
	}
	if texts[0] != texts[1] {
		r.t.Fatalf("%s of %x at %d:\nmemory   %s\nraftbolt %s", method, in, r.base, texts[0], texts[1])
	}
	return out, err
}

// notice keeps up with the revision in an answer's header.
func (r *requestRun) notice(raw []byte) {
	h, _, err := splitHeader(raw)
	if err == nil {
		r.revision = max(r.revision, h.GetRevision())
	}
}

func (r *requestRun) mustBoth(method string, in, out proto.Message) {
	r.t.Helper()
	b, err := proto.Marshal(in)
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := r.both(method, b, headerText)
	if err != nil {
		r.t.Fatalf("%s: %v", method, err)
	}
	if err := proto.Unmarshal(raw[1], out); err != nil {
		r.t.Fatal(err)
	}
}

// splitHeader takes field 1, the header, out of an encoded answer.
func splitHeader(raw []byte) (h *pb.ResponseHeader, rest []byte, err error) {
	h = new(pb.ResponseHeader)
	for b := raw; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		size := protowire.ConsumeFieldValue(num, typ, b[max(n, 0):])
		if n < 0 || size < 0 {
			return nil, nil, fmt.Errorf("malformed answer %x", raw)
		}
		if num == 1 {
			v, _ := protowire.ConsumeBytes(b[n:])
			if err := proto.Unmarshal(v, h); err != nil {
				return nil, nil, err
			}
		} else {
			rest = append(rest, b[:n+size]...)
		}
		b = b[n+size:]
	}
	return h, rest, nil
}

// headerText compares the revision and every byte behind the header.
func headerText(raw []byte) (string, error) {
	h, rest, err := splitHeader(raw)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("@%d %x", h.Revision, rest), nil
}

// rangeStream compares a stream as the one answer it makes up.
func (r *requestRun) rangeStream(in []byte) {
	r.t.Helper()
	var texts [2]string
	for i, conn := range r.conns {
		texts[i] = r.streamText(conn, in)
	}
	if texts[0] != texts[1] {
		r.t.Fatalf("RangeStream of %x at %d:\nmemory   %s\nraftbolt %s", in, r.base, texts[0], texts[1])
	}
}

func (r *requestRun) streamText(conn *grpc.ClientConn, in []byte) string {
	ctx, cancel := context.WithTimeout(r.t.Context(), answerTimeout)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/etcdserverpb.KV/RangeStream")
	if err == nil {
		if err = s.SendMsg(&in); err == nil {
			err = s.CloseSend()
		}
	}
	sum := new(pb.RangeResponse)
	for err == nil {
		var raw []byte
		if err = s.RecvMsg(&raw); err != nil {
			break
		}
		part := new(pb.RangeStreamResponse)
		if bad := proto.Unmarshal(raw, part); bad != nil {
			r.t.Fatalf("RangeStream of %x: %v: %x", in, bad, raw)
		}
		proto.Merge(sum, part.RangeResponse)
	}
	if !errors.Is(err, io.EOF) {
		r.sane("KV/RangeStream", err)
		st := status.Convert(err)
		return fmt.Sprintf("%v: %s", st.Code(), st.Message())
	}
	sum.Header = &pb.ResponseHeader{Revision: sum.GetHeader().GetRevision()}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(sum)
	if err != nil {
		r.t.Fatal(err)
	}
	return fmt.Sprintf("%x", b)
}

// keepAlive compares one answer of a keep-alive stream.
func (r *requestRun) keepAlive(in []byte) {
	r.t.Helper()
	var texts [2]string
	for i, conn := range r.conns {
		texts[i] = r.keepAliveText(conn, in)
	}
	if texts[0] != texts[1] {
		r.t.Fatalf("LeaseKeepAlive of %x:\nmemory   %s\nraftbolt %s", in, texts[0], texts[1])
	}
}

func (r *requestRun) keepAliveText(conn *grpc.ClientConn, in []byte) string {
	ctx, cancel := context.WithTimeout(r.t.Context(), answerTimeout)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/etcdserverpb.Lease/LeaseKeepAlive")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := s.SendMsg(&in); err != nil && !errors.Is(err, io.EOF) {
		r.t.Fatal(err)
	}
	var raw []byte
	if err := s.RecvMsg(&raw); err != nil {
		r.sane("Lease/LeaseKeepAlive", err)
		st := status.Convert(err)
		return fmt.Sprintf("%v: %s", st.Code(), st.Message())
	}
	text, err := headerText(raw)
	if err != nil {
		r.t.Fatal(err)
	}
	return text
}

// advance moves time, and waits until raftbolt expired what memory expires at the
// next request.
func (r *requestRun) advance(d time.Duration) {
	r.t.Helper()
	if r.watches[0] != nil {
		r.barrier()
	}
	r.clock.advance(d)
	text := func(conn *grpc.ClientConn) string {
		raw, err := r.invoke(conn, "Lease/LeaseLeases", nil)
		if err != nil {
			r.t.Fatal(err)
		}
		r.notice(raw)
		text, err := headerText(raw)
		if err != nil {
			r.t.Fatal(err)
		}
		return text
	}
	want := text(r.conns[0])
	for deadline := time.Now().Add(answerTimeout); ; time.Sleep(time.Millisecond) { // raftbolt expires by itself and tells nobody
		got := text(r.conns[1])
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("leases after %v: memory %s, raftbolt %s", d, want, got)
		}
	}
}

// disarm clears the alarms that a request raised, which memory does not have.
func (r *requestRun) disarm() {
	out, err := r.invoke(r.conns[1], "Maintenance/Alarm", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	list := new(pb.AlarmResponse)
	if err := proto.Unmarshal(out, list); err != nil {
		r.t.Fatal(err)
	}
	for _, a := range list.Alarms {
		b, err := proto.Marshal(&pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm})
		if err == nil {
			_, err = r.invoke(r.conns[1], "Maintenance/Alarm", b)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}
