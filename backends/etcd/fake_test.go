package etcd

import (
	"context"
	"net"
	"net/url"
	"testing"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

var (
	_ backends.Backend      = (*Backend)(nil)
	_ backends.Leases       = (*Backend)(nil)
	_ backends.Auth         = (*Backend)(nil)
	_ backends.Alarms       = (*Backend)(nil)
	_ backends.Hasher       = (*Backend)(nil)
	_ backends.Snapshotter  = (*Backend)(nil)
	_ backends.Defragmenter = (*Backend)(nil)
	_ backends.Members      = (*Backend)(nil)
	_ backends.LeaderMover  = (*Backend)(nil)
	_ backends.Downgrader   = (*Backend)(nil)
)

// upstream is an etcd of which a test says what it answers. What it does not say
// is Unimplemented.
type upstream struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedClusterServer
	pb.UnimplementedMaintenanceServer

	ranged   func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error)
	streamed func(*pb.RangeRequest, grpc.ServerStreamingServer[pb.RangeStreamResponse]) error
	put      func(context.Context, *pb.PutRequest) (*pb.PutResponse, error)
	txn      func(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error)
	watch    func(grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error
	keep     func(grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error
	ttl      func(context.Context, *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error)
	snapshot func(*pb.SnapshotRequest, grpc.ServerStreamingServer[pb.SnapshotResponse]) error
	status   *pb.StatusResponse

	address string // where it serves
}

func (u *upstream) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if u.ranged == nil {
		return u.UnimplementedKVServer.Range(ctx, r)
	}
	return u.ranged(ctx, r)
}

func (u *upstream) RangeStream(r *pb.RangeRequest, s grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
	if u.streamed == nil {
		return u.UnimplementedKVServer.RangeStream(r, s)
	}
	return u.streamed(r, s)
}

func (u *upstream) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if u.put == nil {
		return u.UnimplementedKVServer.Put(ctx, r)
	}
	return u.put(ctx, r)
}

func (u *upstream) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if u.txn == nil {
		return u.UnimplementedKVServer.Txn(ctx, r)
	}
	return u.txn(ctx, r)
}

func (u *upstream) Watch(s grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	if u.watch == nil {
		return u.UnimplementedWatchServer.Watch(s)
	}
	return u.watch(s)
}

func (u *upstream) LeaseKeepAlive(s grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
	if u.keep == nil {
		return u.UnimplementedLeaseServer.LeaseKeepAlive(s)
	}
	return u.keep(s)
}

func (u *upstream) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if u.ttl == nil {
		return u.UnimplementedLeaseServer.LeaseTimeToLive(ctx, r)
	}
	return u.ttl(ctx, r)
}

func (u *upstream) Snapshot(r *pb.SnapshotRequest, s grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
	if u.snapshot == nil {
		return u.UnimplementedMaintenanceServer.Snapshot(r, s)
	}
	return u.snapshot(r, s)
}

func (u *upstream) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	if u.status == nil {
		return &pb.StatusResponse{Version: "3.7.3"}, nil
	}
	return u.status, nil
}

// serve runs the upstream and opens a backend over it. stop breaks its connections.
func (u *upstream) serve(t *testing.T) (b *Backend, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.address = l.Addr().String()
	s := grpc.NewServer()
	pb.RegisterKVServer(s, u)
	pb.RegisterWatchServer(s, u)
	pb.RegisterLeaseServer(s, u)
	pb.RegisterClusterServer(s, u)
	pb.RegisterMaintenanceServer(s, u)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	opened, err := open(t.Context(), &url.URL{Scheme: "etcd", Host: u.address}, backends.Env{Clock: backends.SystemClock{}})
	if err != nil {
		t.Fatal(err)
	}
	b = opened.(*Backend)
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return b, s.Stop
}
