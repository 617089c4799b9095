package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
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
	other, err := dial([]resolver.Address{{Addr: "127.0.0.1:1"}}, insecure.NewCredentials(), backends.SystemClock{})
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
	b, err := dial([]resolver.Address{{Addr: l.Addr().String()}, {Addr: u.address}}, insecure.NewCredentials(), backends.SystemClock{})
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
