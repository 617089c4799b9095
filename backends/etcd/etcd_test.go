package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

func putTxn(k string) *backends.TxnRequest {
	return &backends.TxnRequest{TxnOp: backends.TxnOp{Success: []backends.Op{{Put: &backends.PutOp{Key: []byte(k)}}}}}
}

func readTxn(k string) *backends.TxnRequest {
	return &backends.TxnRequest{TxnOp: backends.TxnOp{Success: []backends.Op{
		{Range: &backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte(k)}}},
	}}}
}

func fromKey(k string) backends.RangeOptions {
	return backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte(k), End: []byte{0}}}
}

// What the upstream answers goes on unchanged, or as the sentinel that is the
// same on the wire; the same text under another code is not the same.
func TestErrorsOfTheUpstream(t *testing.T) {
	var answer error
	u := &upstream{put: func(context.Context, *pb.PutRequest) (*pb.PutResponse, error) { return nil, answer }}
	b, _ := u.serve(t)
	for _, c := range []struct {
		code codes.Code
		text string
		want error
	}{
		{codes.NotFound, "etcdserver: requested lease not found", backends.ErrLeaseNotFound},
		{codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded", backends.ErrNoSpace},
		{codes.Unavailable, "etcdserver: request timed out", nil},
		{codes.DeadlineExceeded, "context deadline exceeded", nil},
		{codes.Unknown, "etcdserver: requested lease not found", nil},
		{codes.Code(77), "odd", nil},
	} {
		answer = status.Error(c.code, c.text)
		_, err := b.Txn(t.Context(), putTxn("k"))
		if c.want != nil {
			if !errors.Is(err, c.want) {
				t.Errorf("%v: got %v", answer, err)
			}
			continue
		}
		if r, ok := errors.AsType[*backends.Remote](err); !ok || *r != (backends.Remote{Code: uint32(c.code), Message: c.text}) {
			t.Errorf("%v: got %#v", answer, err)
		}
	}
}

// A write whose connection breaks before the answer may have been done; a read,
// or a write that found no connection, was not.
func TestOutcomeOfABrokenConnection(t *testing.T) {
	u := &upstream{}
	b, stop := u.serve(t)
	calls := 0
	hang := func(ctx context.Context) error {
		calls++
		go stop()
		<-ctx.Done()
		return ctx.Err()
	}
	u.put = func(ctx context.Context, _ *pb.PutRequest) (*pb.PutResponse, error) { return nil, hang(ctx) }
	if _, err := b.Txn(t.Context(), putTxn("k")); !errors.Is(err, backends.ErrOutcomeUnknown) {
		t.Errorf("write in flight: %v", err)
	}
	if calls != 1 {
		t.Errorf("the write was sent %d times", calls)
	}
	_, err := b.Txn(t.Context(), putTxn("k"))
	if r, ok := errors.AsType[*backends.Remote](err); !ok || codes.Code(r.Code) != codes.Unavailable {
		t.Errorf("write without a connection: %v", err)
	}

	u = &upstream{txn: func(ctx context.Context, _ *pb.TxnRequest) (*pb.TxnResponse, error) { return nil, hang(ctx) }}
	b, stop = u.serve(t)
	_, err = b.Txn(t.Context(), readTxn("k"))
	if r, ok := errors.AsType[*backends.Remote](err); !ok || codes.Code(r.Code) != codes.Unavailable {
		t.Errorf("read in flight: %v", err)
	}
}

func TestContextAndClose(t *testing.T) {
	u := &upstream{}
	b, _ := u.serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	u.put = func(ctx context.Context, _ *pb.PutRequest) (*pb.PutResponse, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := b.Txn(ctx, putTxn("k")); !errors.Is(err, context.Canceled) {
		t.Errorf("context ended: %v", err)
	}
	other, err := dial([]resolver.Address{{Addr: "127.0.0.1:1"}}, backends.SystemClock{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Txn(t.Context(), putTxn("k")); !errors.Is(err, backends.ErrStopped) {
		t.Errorf("closed: %v", err)
	}
	if _, err := other.Watch(t.Context(), backends.Caller{}); !errors.Is(err, backends.ErrStopped) {
		t.Errorf("closed: %v", err)
	}
}

func TestTokenIsForwarded(t *testing.T) {
	var got []string
	u := &upstream{put: func(ctx context.Context, _ *pb.PutRequest) (*pb.PutResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		got = md.Get("token")
		return &pb.PutResponse{}, nil
	}}
	b, _ := u.serve(t)
	for _, token := range []string{"secret", ""} {
		r := putTxn("k")
		r.Caller.Token = token
		if _, err := b.Txn(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if want := slices.DeleteFunc([]string{token}, func(s string) bool { return s == "" }); !slices.Equal(got, want) {
			t.Errorf("token %q arrived as %q", token, got)
		}
	}
}

// table answers ranges over n keys, as etcd does.
type table struct {
	n        int
	value    []byte
	requests []*pb.RangeRequest
}

func (s *table) key(i int) []byte { return fmt.Appendf(nil, "%06d", i) }

func (s *table) kv(i int) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: s.key(i), Value: s.value, CreateRevision: 7, ModRevision: 7, Version: 1}
}

func (s *table) answer(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.requests = append(s.requests, proto.Clone(r).(*pb.RangeRequest))
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 100 + int64(len(s.requests)), MemberId: 1<<63 + 5}}
	for i := range s.n {
		if bytes.Compare(s.key(i), r.Key) < 0 {
			continue
		}
		if resp.Count++; r.Limit > 0 && resp.Count > r.Limit {
			resp.More = true
			continue
		}
		resp.Kvs = append(resp.Kvs, s.kv(i))
	}
	return resp, nil
}

// drain reads a cursor to its end, and checks that the records are s's first ones.
func (s *table) drain(t *testing.T, c backends.Cursor, n int) backends.RangeResult {
	t.Helper()
	defer c.Close()
	i := 0
	for {
		chunk, err := c.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(chunk.Bytes()) > backends.ChunkBytes+proto.Size(s.kv(0))+10 {
			t.Errorf("a chunk of %d bytes", len(chunk.Bytes()))
		}
		count := 0
		for record := range chunk.Records() {
			want, err := proto.Marshal(s.kv(i))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(record, want) {
				t.Fatalf("record %d is %q, want %q", i, record, want)
			}
			i++
			count++
		}
		if count != chunk.Len() {
			t.Errorf("a chunk of %d records says that it has %d", count, chunk.Len())
		}
	}
	if i != n {
		t.Errorf("%d records, want %d", i, n)
	}
	return c.Result()
}

// Without RangeStream a large range is read in pages, all but the first at the
// revision of the first; what the cursor tells is true of the whole.
func TestRangeInPages(t *testing.T) {
	for _, c := range []struct {
		keys, want int
		limit      int64
		pages      int
	}{
		{keys: 0, want: 0, pages: 1},
		{keys: 1000, want: 1000, pages: 1},
		{keys: 1001, want: 1001, pages: 2},
		{keys: 2500, want: 2500, limit: -1, pages: 3},
		{keys: 2500, want: 2000, limit: 2000, pages: 2},
		{keys: 2000, want: 2000, limit: 2000, pages: 2},
		{keys: 2500, want: 1500, limit: 1500, pages: 2},
	} {
		s := &table{n: c.keys, value: make([]byte, 1000)}
		b, _ := (&upstream{ranged: s.answer}).serve(t)
		o := fromKey("0")
		o.Limit = c.limit
		cur, err := b.Range(t.Context(), &backends.RangeRequest{RangeOptions: o, Serializable: true})
		if err != nil {
			t.Fatal(err)
		}
		got := s.drain(t, cur, c.want)
		want := backends.RangeResult{Header: backends.Header{Revision: 101, MemberID: 1<<63 + 5}, Count: int64(c.keys), More: c.want < c.keys}
		if got != want {
			t.Errorf("%+v: got %+v, want %+v", c, got, want)
		}
		if len(s.requests) != c.pages {
			t.Errorf("%+v: %d pages", c, len(s.requests))
		}
		for i, r := range s.requests {
			if want := int64(101); i > 0 && r.Revision != want || i == 0 && r.Revision != 0 || !r.Serializable {
				t.Errorf("%+v: page %d is asked for by %v", c, i, r)
			}
		}
	}
}

// Where there is RangeStream it is used, for what can be large only, and never
// with a negative revision, which etcd would not pin.
func TestRangeStreamed(t *testing.T) {
	s := &table{n: 900, value: make([]byte, 1000)}
	var streams []*pb.RangeRequest
	u := &upstream{ranged: s.answer}
	u.streamed = func(r *pb.RangeRequest, out grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
		streams = append(streams, r)
		if string(r.Key) == "bad" {
			return status.Error(codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
		}
		all, err := s.answer(t.Context(), r)
		if err != nil {
			return err
		}
		for i := 0; i < s.n; i += 100 {
			part := &pb.RangeResponse{Kvs: all.Kvs[i : i+100]}
			if i+100 == s.n {
				part.Header, part.Count, part.More = &pb.ResponseHeader{Revision: 9}, int64(s.n), true
			}
			if err := out.Send(&pb.RangeStreamResponse{RangeResponse: part}); err != nil {
				return err
			}
			if i == 500 && string(r.Key) == "!" {
				return status.Error(codes.Unavailable, "gone")
			}
		}
		return nil
	}
	b, _ := u.serve(t)
	o := fromKey("0")
	o.Revision = -4
	cur, err := b.Range(t.Context(), &backends.RangeRequest{RangeOptions: o})
	if err != nil {
		t.Fatal(err)
	}
	if r := s.drain(t, cur, s.n); r.Count != int64(s.n) || !r.More || r.Header.Revision != 9 {
		t.Errorf("result %+v", r)
	}
	if len(streams) != 1 || streams[0].Revision != 0 {
		t.Errorf("streams %v", streams)
	}
	if _, err := b.Range(t.Context(), &backends.RangeRequest{RangeOptions: fromKey("bad")}); !errors.Is(err, backends.ErrCompacted) {
		t.Errorf("refused stream: %v", err)
	}
	cur, err = b.Range(t.Context(), &backends.RangeRequest{RangeOptions: fromKey("!")})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = cur.Next(t.Context())
	}
	if r, ok := errors.AsType[*backends.Remote](err); !ok || r.Message != "gone" {
		t.Errorf("a stream that ends with an error: %v", err)
	}
	cur.Close()

	before := len(streams)
	for _, o := range []backends.RangeOptions{
		{KeyRange: backends.KeyRange{Key: []byte("0")}},
		{KeyRange: fromKey("0").KeyRange, CountOnly: true},
		{KeyRange: fromKey("0").KeyRange, Limit: unaryRecords},
	} {
		if _, err := b.Range(t.Context(), &backends.RangeRequest{RangeOptions: o}); err != nil {
			t.Fatal(err)
		}
	}
	if len(streams) != before {
		t.Errorf("small ranges were streamed: %v", streams[before:])
	}
}

// A transaction's answer is cut up to its operations, nested ones too.
func TestTxnAnswer(t *testing.T) {
	kv := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v"), ModRevision: 3}
	record, err := proto.Marshal(kv)
	if err != nil {
		t.Fatal(err)
	}
	h := func(rev int64) *pb.ResponseHeader { return &pb.ResponseHeader{Revision: rev} }
	op := func(r *pb.ResponseOp) []*pb.ResponseOp { return []*pb.ResponseOp{r} }
	u := &upstream{txn: func(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
		nested := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: true, Responses: op(
			&pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: h(5), PrevKv: kv}}},
		)}
		return &pb.TxnResponse{Header: h(5), Responses: []*pb.ResponseOp{
			{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Header: h(4), Kvs: []*mvccpb.KeyValue{kv, kv}, Count: 3, More: true}}},
			{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Header: h(5), Deleted: 2, PrevKvs: []*mvccpb.KeyValue{kv, kv}}}},
			{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: nested}},
		}[:len(r.Failure)]}, nil
	}}
	b, _ := u.serve(t)
	ops := []backends.Op{
		{Range: &backends.RangeOptions{}},
		{Delete: &backends.DeleteOp{PrevKV: true}},
		{Txn: &backends.TxnOp{Success: []backends.Op{{Put: &backends.PutOp{PrevKV: true}}}}},
	}
	r, err := b.Txn(t.Context(), &backends.TxnRequest{TxnOp: backends.TxnOp{Failure: ops}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Header.Revision != 5 || r.Succeeded || len(r.Responses) != 3 {
		t.Fatalf("result %+v", r)
	}
	records := func(c backends.Cursor) (n int) {
		chunk, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for got := range chunk.Records() {
			if !bytes.Equal(got, record) {
				t.Errorf("record %q", got)
			}
			n++
		}
		return n
	}
	ranged, deleted, nested := r.Responses[0], r.Responses[1], r.Responses[2]
	if records(ranged.Range) != 2 || ranged.Revision != 4 || ranged.Range.Result().Count != 3 || !ranged.Range.Result().More {
		t.Errorf("range %+v", ranged.Range.Result())
	}
	if records(deleted.Delete.PrevKVs) != 2 || deleted.Delete.Deleted != 2 || deleted.Revision != 5 {
		t.Errorf("delete %+v", deleted.Delete)
	}
	put := nested.Txn.Responses[0]
	if !nested.Txn.Succeeded || nested.Revision != 0 || put.Revision != 5 || !bytes.Equal(put.Put.PrevKV, record) {
		t.Errorf("nested %+v %+v", nested.Txn, put)
	}

	// An answer that does not fit the request is an error, not a panic.
	ops[0], ops[1] = ops[1], ops[0]
	if r, err := b.Txn(t.Context(), &backends.TxnRequest{TxnOp: backends.TxnOp{Failure: ops}}); err == nil {
		t.Errorf("answers to other operations were taken: %+v", r)
	}
}

func TestCompareRequest(t *testing.T) {
	var got *pb.TxnRequest
	u := &upstream{txn: func(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
		got = r
		return &pb.TxnResponse{}, nil
	}}
	b, _ := u.serve(t)
	r := &backends.TxnRequest{}
	for target := backends.CompareVersion; target <= backends.CompareLease+1; target++ {
		r.Compare = append(r.Compare, backends.Compare{
			KeyRange: backends.KeyRange{Key: []byte("k"), End: []byte("l")},
			Target:   target, Result: backends.CompareLess + 7, Number: 8, Value: []byte("v"),
		})
	}
	if _, err := b.Txn(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	operand := []func(*pb.Compare) bool{
		func(c *pb.Compare) bool { return c.GetVersion() == 8 },
		func(c *pb.Compare) bool { return c.GetCreateRevision() == 8 },
		func(c *pb.Compare) bool { return c.GetModRevision() == 8 },
		func(c *pb.Compare) bool { return string(c.GetValue()) == "v" },
		func(c *pb.Compare) bool { return c.GetLease() == 8 },
		func(c *pb.Compare) bool { return c.TargetUnion == nil },
	}
	for i, c := range got.Compare {
		if int(c.Target) != i || c.Result != 9 || string(c.Key) != "k" || string(c.RangeEnd) != "l" || !operand[i](c) {
			t.Errorf("compare %d arrived as %v", i, c)
		}
	}
}

// etcd tells of unknown leases without an error.
func TestUnknownLease(t *testing.T) {
	ttl := int64(0)
	u := &upstream{
		keep: func(s grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
			r, err := s.Recv()
			if err != nil {
				return err
			}
			return s.Send(&pb.LeaseKeepAliveResponse{ID: r.ID, TTL: ttl, Header: &pb.ResponseHeader{Revision: 4}})
		},
		ttl: func(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
			if ttl == 0 {
				return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}, nil
			}
			// Of a lease that expired and was not revoked yet etcd tells a negative rest.
			return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1, GrantedTTL: ttl, Keys: [][]byte{{'b'}, {'a'}}}, nil
		},
	}
	b, _ := u.serve(t)
	if _, err := b.LeaseKeepAlive(t.Context(), backends.Caller{}, 7); !errors.Is(err, backends.ErrLeaseNotFound) {
		t.Errorf("keep-alive: %v", err)
	}
	if _, err := b.LeaseTimeToLive(t.Context(), backends.Caller{}, 7, true); !errors.Is(err, backends.ErrLeaseNotFound) {
		t.Errorf("time to live: %v", err)
	}
	ttl = 5
	if r, err := b.LeaseKeepAlive(t.Context(), backends.Caller{}, 7); err != nil || r.TTLSeconds != 5 || r.Header.Revision != 4 {
		t.Errorf("keep-alive: %+v, %v", r, err)
	}
	r, err := b.LeaseTimeToLive(t.Context(), backends.Caller{}, 7, true)
	if err != nil || r.TTLSeconds != -1 || r.GrantedTTLSeconds != 5 || fmt.Sprintf("%s", r.Keys) != "[a b]" {
		t.Errorf("time to live: %+v, %v", r, err)
	}
}

// A snapshot loses its checksum, and its last part is not handed out when that
// is wrong or missing.
func TestSnapshot(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10)
	var sum []byte
	u := &upstream{snapshot: func(_ *pb.SnapshotRequest, s grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
		for i := 0; i < 100; i += 25 {
			if err := s.Send(&pb.SnapshotResponse{Blob: data[i : i+25], RemainingBytes: uint64(75 - i), Version: "3.7.0"}); err != nil {
				return err
			}
		}
		if sum == nil {
			return nil
		}
		return s.Send(&pb.SnapshotResponse{Blob: sum})
	}}
	b, _ := u.serve(t)
	right := sha256.Sum256(data)
	for name, c := range map[string]struct {
		sum []byte
		ok  bool
	}{"right": {right[:], true}, "wrong": {make([]byte, sha256.Size), false}, "missing": {nil, false}} {
		sum = c.sum
		s, err := b.Snapshot(t.Context(), backends.Caller{})
		if err != nil {
			t.Fatal(err)
		}
		if s.SizeBytes != 100 || s.StorageVersion != "3.7.0" {
			t.Errorf("%s: %+v", name, s)
		}
		got := make([]byte, 100)
		n, err := io.ReadFull(s, got)
		switch {
		case c.ok:
			if _, end := s.Read(make([]byte, 1)); err != nil || !bytes.Equal(got, data) || !errors.Is(end, io.EOF) {
				t.Errorf("%s: read %d bytes, %v, %v", name, n, err, end)
			}
		case err == nil || n >= 100:
			t.Errorf("%s: read %d bytes, %v", name, n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Alarms that the upstream reports as text become alarms again.
func TestStatusAlarms(t *testing.T) {
	alarm := &pb.AlarmMember{MemberID: 1 << 63, Alarm: pb.AlarmType_NOSPACE}
	u := &upstream{status: &pb.StatusResponse{Version: "3.7.3", Errors: []string{alarm.String(), "etcdserver: no leader", "else"}}}
	b, _ := u.serve(t)
	st, err := b.Status(t.Context())
	if err != nil || len(st.Alarms) != 1 || st.Alarms[0] != (backends.Alarm{MemberID: 1 << 63, Kind: backends.AlarmNoSpace}) ||
		!slices.Equal(st.Errors, []string{"else"}) {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestOpenAddresses(t *testing.T) {
	got, err := addresses("a,b:1,[::1]:3,[::1]")
	if want := []resolver.Address{{Addr: "a:2379"}, {Addr: "b:1"}, {Addr: "[::1]:3"}, {Addr: "[::1]:2379"}}; err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, u := range []string{"etcd://", "etcd://host/path", "etcd://user@host", "etcd://a,,b", "etcd://:2379"} {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(t.Context(), parsed, backends.Env{Clock: backends.SystemClock{}}); err == nil {
			t.Errorf("%s was opened", u)
		}
	}
}

// The next address is used when one does not answer.
func TestSecondAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // closed below, so that nobody listens there
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	u := &upstream{put: func(context.Context, *pb.PutRequest) (*pb.PutResponse, error) { return &pb.PutResponse{}, nil }}
	u.serve(t)
	b, err := dial([]resolver.Address{{Addr: l.Addr().String()}, {Addr: u.address}}, backends.SystemClock{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := b.Txn(t.Context(), putTxn("k")); err != nil {
		t.Error(err)
	}
}
