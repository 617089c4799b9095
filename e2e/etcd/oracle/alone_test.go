package oracle

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// TestShimKeepsWhatEtcdLoses: a transaction that deletes all and puts a key leaves that key,
// also when its revision is compacted, and after a restart. From etcd 3.7.3 the compaction takes it.
func TestShimKeepsWhatEtcdLoses(t *testing.T) {
	s := process.Shim(t)
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	dial := func() pb.KVClient {
		conn, err := grpc.NewClient("passthrough:///"+s.Address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(reconnect()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return pb.NewKVClient(conn)
	}
	kv := dial()
	all := &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	for _, key := range []string{"a", "k"} {
		if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte("before")}); err != nil {
			t.Fatal(err)
		}
	}
	done, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: all}}, put("k", "after"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	holds := func(when string) {
		t.Helper()
		r, err := kv.Range(ctx, &pb.RangeRequest{Key: all.Key, RangeEnd: all.RangeEnd}, grpc.WaitForReady(true))
		if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "after" || r.Kvs[0].Version != 1 || r.Kvs[0].CreateRevision != done.Header.Revision {
			t.Errorf("%s: %v, %v", when, r, err)
		}
	}
	holds("at first")
	if _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: done.Header.Revision, Physical: true}); err != nil {
		t.Fatal(err)
	}
	holds("compacted")
	s.Kill()
	s = process.Start(t, process.Binary(t, "shim"), process.Port(t), s.DataDir)
	s.WaitReady(t)
	kv = dial()
	holds("restarted")
}

// TestShimAnswersWhatEndsEtcd asks shim alone for what makes etcd 3.7.3 end with a panic, and
// ensures that it is refused, leaves nothing behind, and ends nothing.
func TestShimAnswersWhatEndsEtcd(t *testing.T) {
	s := process.Shim(t)
	conn, err := grpc.NewClient("passthrough:///"+s.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	kv, maintenance := pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)
	key := []byte("a")
	first, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	// To put what is deleted is a duplicate key, but not where all from a key on is deleted.
	rest := &pb.DeleteRangeRequest{Key: key, RangeEnd: []byte{0}}
	gone := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: rest}}
	again := func(r *pb.PutRequest) error {
		put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
		_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{gone, put}})
		return err
	}
	nested := func(r *pb.PutRequest) error {
		put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
		inner := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{put}}}}
		_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{gone, inner}})
		return err
	}
	alarm := func(action pb.AlarmRequest_AlarmAction) error {
		_, err := maintenance.Alarm(ctx, &pb.AlarmRequest{Action: action, Alarm: pb.AlarmType_NOSPACE})
		return err
	}
	learner, err := pb.NewClusterClient(conn).MemberAdd(ctx, &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{"http://127.0.0.1:11"}})
	if err != nil {
		t.Fatal(err)
	}
	update := func(urls ...string) error {
		_, err := pb.NewClusterClient(conn).MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: learner.Member.ID, PeerURLs: urls})
		return err
	}
	const urls = "etcdserver: given member URLs are invalid"
	const notFound, action = "etcdserver: key not found", "etcdserver: unknown alarm action"
	for _, c := range []struct {
		what string
		err  error
		text string
	}{
		{"ignore_value of a key just deleted", again(&pb.PutRequest{Key: key, IgnoreValue: true}), notFound},
		{"ignore_lease of a key just deleted", again(&pb.PutRequest{Key: key, IgnoreLease: true}), notFound},
		{"the same, in a transaction within", nested(&pb.PutRequest{Key: key, IgnoreValue: true}), notFound},
		{"an unknown alarm action", alarm(3), action},
		{"a negative alarm action", alarm(-1), action},
		{"an empty URL of a learner", update(""), urls},
		{"no URL of a learner", update(), urls},
		{"a learner's URL that is none", update("http://127.0.0.1"), urls},
	} {
		if status.Code(c.err) != codes.InvalidArgument || status.Convert(c.err).Message() != c.text {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
	r, err := kv.Range(ctx, &pb.RangeRequest{Key: key})
	if err != nil || len(r.Kvs) != 1 || r.Kvs[0].ModRevision != first.Header.Revision || r.Header.Revision != first.Header.Revision {
		t.Errorf("afterwards: %v, %v", r, err)
	}
}
