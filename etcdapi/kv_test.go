package etcdapi

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

var testHeader = backends.Header{ClusterID: 1 << 63, MemberID: 7, Revision: 12345, Term: 3}

// rangeOf serves the key-values, so many to a chunk, and counts releases.
func rangeOf(t testing.TB, kvs []*mvccpb.KeyValue, perChunk int, released *atomic.Int64) func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
	return func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
		c := &cursor{result: backends.RangeResult{Header: testHeader, Count: int64(len(kvs))}}
		for at := 0; at < len(kvs); at += perChunk {
			c.chunks = append(c.chunks, chunkOf(t, func() { released.Add(1) }, kvs[at:min(at+perChunk, len(kvs))]...))
		}
		return c, nil
	}
}

// TestRangeBytes: whatever the size of the answer, it is the message that
// protobuf's own encoder would make, and every chunk is released.
func TestRangeBytes(t *testing.T) {
	for _, n := range []int{0, 1, 3, 200, 20000} {
		kvs := keyValues(n, 100)
		var released atomic.Int64
		f := &fake{ranges: rangeOf(t, kvs, 1000, &released)}
		s, conn := serve(t, f, Config{})
		got, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte{0}})
		if err != nil {
			t.Fatal(err)
		}
		want := &pb.RangeResponse{Header: wireHeader(testHeader), Kvs: kvs, Count: int64(n)}
		if !proto.Equal(got, want) {
			t.Errorf("%d records: got %v", n, got)
		}
		awaitBudget(t, s, 0)
		if want := int64((n + 999) / 1000); released.Load() != want {
			t.Errorf("%d records: %d of %d chunks released", n, released.Load(), want)
		}
	}
}

// TestRangeStreamParts: records come in parts; header, count and more only in the last.
func TestRangeStreamParts(t *testing.T) {
	for _, n := range []int{0, 1, 10, 11, 25, 5000} {
		kvs := keyValues(n, 100)
		var released atomic.Int64
		s, conn := serve(t, &fake{ranges: rangeOf(t, kvs, 700, &released)}, Config{})
		stream, err := pb.NewKVClient(conn).RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte{0}})
		if err != nil {
			t.Fatal(err)
		}
		sum := &pb.RangeResponse{}
		for ended := false; ; {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if ended {
				t.Error("a message after the one with the header")
			}
			ended = part.RangeResponse.Header != nil
			if !ended && part.RangeResponse.Count != 0 {
				t.Error("a count before the end")
			}
			if len(sum.Kvs) == 0 && len(part.RangeResponse.Kvs) > streamFirstRecords {
				t.Errorf("first message has %d records", len(part.RangeResponse.Kvs))
			}
			proto.Merge(sum, part.RangeResponse)
		}
		if !proto.Equal(sum, &pb.RangeResponse{Header: wireHeader(testHeader), Kvs: kvs, Count: int64(n)}) {
			t.Errorf("%d records: got %d of them, header %v, count %d", n, len(sum.Kvs), sum.Header, sum.Count)
		}
		awaitBudget(t, s, 0)
		if want := int64((n + 699) / 700); released.Load() != want {
			t.Errorf("%d records: %d of %d chunks released", n, released.Load(), want)
		}
	}
}

// TestRangeErrorVoidsAll: an error after some chunks is the whole answer, and
// nothing stays held.
func TestRangeErrorVoidsAll(t *testing.T) {
	var released atomic.Int64
	f := &fake{ranges: func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
		return &cursor{
			chunks: []*backends.Chunk{chunkOf(t, func() { released.Add(1) }, keyValues(1000, 100)...)},
			err:    backends.ErrCompacted,
		}, nil
	}}
	s, conn := serve(t, f, Config{})
	_, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Revision: 2})
	if status.Code(err) != codes.OutOfRange || !strings.Contains(err.Error(), "etcdserver: mvcc: required revision has been compacted") {
		t.Errorf("got %v", err)
	}
	if released.Load() != 1 {
		t.Error("the chunk was not released")
	}
	awaitBudget(t, s, 0)
}

// TestRangeOvertakenByCompaction ensures that a range of the present revision is
// read again when a compaction overtook it, and one of a past revision is not.
func TestRangeOvertakenByCompaction(t *testing.T) {
	var calls int
	kvs := keyValues(3, 10)
	b := &fake{ranges: func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
		calls++
		if calls == 1 {
			return &cursor{chunks: []*backends.Chunk{chunkOf(t, nil, kvs[:1]...)}, err: backends.ErrCompacted}, nil
		}
		return &cursor{chunks: []*backends.Chunk{chunkOf(t, nil, kvs...)}, result: backends.RangeResult{Count: 3}}, nil
	}}
	_, conn := serve(t, b, Config{})
	kv := pb.NewKVClient(conn)
	resp, err := kv.Range(context.Background(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil || len(resp.Kvs) != 3 || resp.Count != 3 || calls != 2 {
		t.Errorf("%d keys of %d in %d reads, %v", len(resp.GetKvs()), resp.GetCount(), calls, err)
	}
	calls = 0
	if _, err := kv.Range(context.Background(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: 2}); err == nil || calls != 1 {
		t.Errorf("a past revision was read %d times, %v", calls, err)
	}
}

// TestTxnBytes: a nested outcome is the message that protobuf's encoder would make.
func TestTxnBytes(t *testing.T) {
	kvs := keyValues(300, 100)
	record, err := proto.Marshal(kvs[0])
	if err != nil {
		t.Fatal(err)
	}
	rangeCursor := func() backends.Cursor {
		return &cursor{
			chunks: []*backends.Chunk{chunkOf(t, nil, kvs...)},
			result: backends.RangeResult{Header: testHeader, Count: 400, More: true},
		}
	}
	f := &fake{txn: func(context.Context, *backends.TxnRequest) (*backends.TxnResult, error) {
		return &backends.TxnResult{Header: testHeader, TxnOpResult: backends.TxnOpResult{Succeeded: true, Responses: []backends.OpResult{
			{Revision: 5, Range: rangeCursor()},
			{Revision: 6, Put: &backends.PutResult{PrevKV: record}},
			{Revision: 6, Put: &backends.PutResult{}},
			{Revision: 6, Delete: &backends.DeleteResult{Deleted: 300, PrevKVs: rangeCursor()}},
			{Txn: &backends.TxnOpResult{Responses: []backends.OpResult{{Revision: 7, Range: rangeCursor()}}}},
		}}}, nil
	}}
	ranged := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}
	put := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
	}
	s, conn := serve(t, f, Config{})
	got, err := pb.NewKVClient(conn).Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
		ranged, put("b"), put("c"),
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("d"), PrevKv: true}}},
		{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Failure: []*pb.RequestOp{ranged}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	at := func(rev int64) *pb.ResponseHeader { return &pb.ResponseHeader{Revision: rev} }
	rangeAt := func(rev int64) *pb.ResponseOp {
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Header: at(rev), Kvs: kvs, More: true, Count: 400}}}
	}
	want := &pb.TxnResponse{Header: wireHeader(testHeader), Succeeded: true, Responses: []*pb.ResponseOp{
		rangeAt(5),
		{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: at(6), PrevKv: kvs[0]}}},
		{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: at(6)}}},
		{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Header: at(6), Deleted: 300, PrevKvs: kvs}}},
		{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{Header: at(0), Responses: []*pb.ResponseOp{rangeAt(7)}}}},
	}}
	if !proto.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	awaitBudget(t, s, 0)
}

// TestPanicIsOneRequests: a panic in a handler is an error of its request, and
// the server goes on.
func TestPanicIsOneRequests(t *testing.T) {
	_, conn := serve(t, &fake{ranges: func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
		panic("a fault of the backend")
	}}, Config{})
	for range 2 {
		_, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Revision: 2})
		if status.Code(err) != codes.Internal {
			t.Errorf("got %v", err)
		}
	}
}

// TestMalformedRequest: bytes that are no request get etcd's text.
func TestMalformedRequest(t *testing.T) {
	_, conn := serve(t, &fake{}, Config{})
	var out rawBytes
	err := conn.Invoke(t.Context(), "/etcdserverpb.KV/Range", rawBytes("\x0a\xff"), &out, grpc.ForceCodec(rawCodec{}))
	if want := "rpc error: code = Internal desc = grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

type rawBytes []byte

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return v.(rawBytes), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*rawBytes) = data; return nil }
func (rawCodec) Name() string                       { return "proto" }

// TestRangeStreamTargetWithoutOrder: a sort target without an order sorts the
// whole stream, over all chunks of the backend.
func TestRangeStreamTargetWithoutOrder(t *testing.T) {
	var kvs []*mvccpb.KeyValue
	for i := range int64(40) {
		kvs = append(kvs, &mvccpb.KeyValue{Key: []byte{'k', byte(i)}, CreateRevision: 2 + i, ModRevision: 100 - i, Version: 1})
	}
	var released atomic.Int64
	s, conn := serve(t, &fake{ranges: rangeOf(t, kvs, 7, &released)}, Config{})
	stream, err := pb.NewKVClient(conn).RangeStream(t.Context(), &pb.RangeRequest{
		Key: []byte("k"), RangeEnd: []byte{0}, SortTarget: pb.RangeRequest_MOD,
	})
	var got []*mvccpb.KeyValue
	var m *pb.RangeStreamResponse
	for err == nil {
		if m, err = stream.Recv(); err == nil {
			got = append(got, m.RangeResponse.Kvs...)
		}
	}
	if !errors.Is(err, io.EOF) || len(got) != len(kvs) {
		t.Fatalf("%d records, then %v", len(got), err)
	}
	for i := range got {
		if want := kvs[len(kvs)-1-i]; !proto.Equal(got[i], want) {
			t.Errorf("record %d: got %v, want %v", i, got[i], want)
		}
	}
	awaitBudget(t, s, 0)
	if want := int64(6); released.Load() != want {
		t.Errorf("%d of %d chunks released", released.Load(), want)
	}
}
