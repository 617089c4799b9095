package etcdapi

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// benchMethod runs a unary method as grpc does, from the request's bytes to the
// answer's pieces.
func benchMethod(b *testing.B, f *fake, name string, request proto.Message) {
	s, err := New(f, Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Shutdown(context.Background()) }()
	var method grpc.MethodDesc
	for _, m := range s.services()[0].Methods {
		if m.MethodName == name {
			method = m
		}
	}
	raw, err := proto.Marshal(request)
	if err != nil {
		b.Fatal(err)
	}
	c := codec{s.metrics}
	decode := func(v any) error { return c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, v) }
	b.ReportAllocs()
	for b.Loop() {
		out, err := method.Handler(nil, context.Background(), decode, nil)
		if err != nil {
			b.Fatal(err)
		}
		pieces, err := c.Marshal(out)
		if err != nil {
			b.Fatal(err)
		}
		pieces.Free()
	}
}

func BenchmarkPointRange(b *testing.B) {
	chunk := chunkOf(b, nil, keyValues(1, 1000)...)
	cur := &cursor{}
	f := &fake{ranges: func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
		*cur = cursor{chunks: []*backends.Chunk{chunk}, result: backends.RangeResult{Header: testHeader, Count: 1}}
		return cur, nil
	}}
	benchMethod(b, f, "Range", &pb.RangeRequest{Key: []byte("/registry/pods/default/x"), Limit: 1})
}

func BenchmarkPut(b *testing.B) {
	result := &backends.TxnResult{Header: testHeader, TxnOpResult: backends.TxnOpResult{
		Succeeded: true, Responses: []backends.OpResult{{Put: &backends.PutResult{}}},
	}}
	f := &fake{txn: func(context.Context, *backends.TxnRequest) (*backends.TxnResult, error) { return result, nil }}
	benchMethod(b, f, "Put", &pb.PutRequest{Key: []byte("/registry/pods/default/x"), Value: make([]byte, 1000)})
}

func BenchmarkList(b *testing.B) {
	kvs := keyValues(10_000, 1000)
	var chunks []*backends.Chunk
	for at := 0; at < len(kvs); at += 250 {
		chunks = append(chunks, chunkOf(b, nil, kvs[at:at+250]...))
	}
	f := &fake{ranges: func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
		return &cursor{chunks: chunks, result: backends.RangeResult{Header: testHeader, Count: int64(len(kvs))}}, nil
	}}
	benchMethod(b, f, "Range", &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte{0}})
}
