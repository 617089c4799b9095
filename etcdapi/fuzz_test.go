package etcdapi

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

// FuzzUnary: whatever the bytes of a unary request, there is an answer or an
// error, and no panic.
func FuzzUnary(f *testing.F) {
	b := memory.New(backends.SystemClock{})
	s, err := New(b, Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = s.Shutdown(context.Background())
		_ = b.Close(context.Background())
	})
	var methods []grpc.MethodDesc
	for _, service := range s.services() {
		methods = append(methods, service.Methods...)
	}
	nested := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("a"), Target: 9, Result: 9, TargetUnion: &pb.Compare_Lease{Lease: 1}}},
		Success: []*pb.RequestOp{
			{},
			{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), SortTarget: 3, SortOrder: 2, Limit: -1}}},
			{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, PrevKv: true}}},
		},
	}
	nested.Failure = []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: proto.CloneOf(nested)}}, nested.Success[1]}
	for i, m := range []proto.Message{
		&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, SortTarget: 4, SortOrder: 1, KeysOnly: true, MinModRevision: 1},
		&pb.PutRequest{Key: []byte("a"), Value: []byte("b"), PrevKv: true}, &pb.DeleteRangeRequest{Key: []byte("a"), PrevKv: true}, nested,
		&pb.CompactionRequest{Revision: 1 << 62}, &pb.LeaseGrantRequest{TTL: -1, ID: -1},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), raw)
	}
	f.Add(byte(0), []byte("\x0a\xff"))
	c := codec{s.metrics}
	f.Fuzz(func(t *testing.T, method byte, raw []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		decode := func(v any) error { return c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, v) }
		out, err := methods[int(method)%len(methods)].Handler(nil, ctx, decode, nil)
		if err != nil {
			if st := status.Convert(err); st.Code() == codes.Internal && !strings.HasPrefix(st.Message(), "grpc: error unmarshalling request: ") {
				t.Fatal(err)
			}
			return
		}
		pieces, err := c.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		pieces.Free()
	})
}
