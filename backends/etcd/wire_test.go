package etcd

import (
	"testing"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

// FuzzDecode gives the decoders arbitrary messages: they return an error or what
// protobuf itself finds there, and never panic.
func FuzzDecode(f *testing.F) {
	kv := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v"), ModRevision: 1 << 40}
	for _, m := range []proto.Message{
		&pb.RangeResponse{Header: at(-3), Kvs: []*mvccpb.KeyValue{kv, {}, kv}, More: true, Count: 1 << 50},
		&pb.WatchResponse{Header: at(9), WatchId: -1, Created: true, Canceled: true, CompactRevision: 4, CancelReason: "r", Events: []*mvccpb.Event{{Kv: kv, PrevKv: kv}}},
		&pb.DeleteRangeResponse{Header: at(9), Deleted: 2, PrevKvs: []*mvccpb.KeyValue{kv}},
		&pb.PutResponse{Header: at(9), PrevKv: kv},
		&pb.TxnResponse{Header: at(9), Succeeded: true, Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		for n := range b {
			f.Add(b[:n])
		}
		f.Add(b)
	}
	f.Add([]byte("\x12\x00\x18\x01\x12\x00")) // records that do not stand together
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := decodeList(b); err == nil {
			var m pb.RangeResponse
			if proto.Unmarshal(b, &m) == nil && (len(m.Kvs) != l.n || m.More != l.result.More || m.Count != l.result.Count) {
				t.Errorf("got %d records, %+v of %v", l.n, l.result, &m)
			}
			n, want := 0, l.n
			for c := l.chunk(); c != nil; c = l.chunk() {
				for range c.Records() {
					n++
				}
			}
			if n != want {
				t.Errorf("%d records in chunks, want %d", n, want)
			}
		}
		if a, err := decodeAnswer(b); err == nil {
			var m pb.WatchResponse
			if proto.Unmarshal(b, &m) == nil && (len(m.Events) != len(a.events) || m.WatchId != a.id || m.Created != a.created ||
				m.Canceled != a.canceled || m.CompactRevision != a.compactRevision || m.CancelReason != a.reason) {
				t.Errorf("got %+v of %v", a, &m)
			}
		}
		for _, op := range []backends.Op{
			{Put: &backends.PutOp{}},
			{Delete: &backends.DeleteOp{PrevKV: true}},
			{Txn: &backends.TxnOp{Success: []backends.Op{{Put: &backends.PutOp{}}}}},
			{Txn: &backends.TxnOp{}},
		} {
			_, _, _ = decodeOp(&op, b) // whatever it is, it must not panic
		}
	})
}
