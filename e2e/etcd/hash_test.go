package etcd

import (
	"context"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// TestHashOfEqualContent: Hash goes over everything in the file, so that equal values say that shim's file has etcd's content: names
// of buckets and keys, members, cluster version, raft's configuration, leases, alarms, compactions. Both servers get the same ids
// by the same peer URLs, and the same requests; the hashes are compared after each.
func TestHashOfEqualContent(t *testing.T) {
	peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
	flags := []string{"--name", "default", "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
		"--advertise-client-urls", "http://127.0.0.1:2379"}
	servers := map[string]*process.Server{
		"etcd": process.Start(t, process.Binary(t, "etcd"), process.Port(t), t.TempDir(), append(flags, "--listen-peer-urls", peer)...),
		"shim": process.Start(t, process.Binary(t, "shim"), process.Port(t), t.TempDir(), flags...),
	}
	for _, s := range servers {
		s.WaitReady(t)
	}
	var self uint64
	for _, step := range []struct {
		name string
		do   func(context.Context, *grpc.ClientConn) error
	}{
		{"nothing", func(ctx context.Context, c *grpc.ClientConn) error {
			r, err := pb.NewMaintenanceClient(c).Status(ctx, &pb.StatusRequest{})
			self = r.GetHeader().GetMemberId()
			return err
		}},
		{"put", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
			return err
		}},
		{"grant", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := pb.NewLeaseClient(c).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 3600})
			return err
		}},
		{"put with a lease, and delete", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
				{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("b"), Lease: 7}}},
				{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}},
			}})
			return err
		}},
		{"alarm", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := pb.NewMaintenanceClient(c).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 5, Alarm: pb.AlarmType_NOSPACE})
			return err
		}},
		{"compact", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Compact(ctx, &pb.CompactionRequest{Revision: 3, Physical: true})
			return err
		}},
		{"member update", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := pb.NewClusterClient(c).MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: self, PeerURLs: []string{"http://127.0.0.1:9", peer}})
			return err
		}},
		{"member update to none", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := pb.NewClusterClient(c).MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: self})
			return err
		}},
	} {
		hashes := map[string]uint32{}
		for name, s := range servers {
			call(t, s, step.do)
			call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
				r, err := pb.NewMaintenanceClient(c).Hash(ctx, &pb.HashRequest{})
				hashes[name] = r.GetHash()
				return err
			})
		}
		if hashes["etcd"] != hashes["shim"] {
			t.Fatalf("after %s: %v", step.name, hashes)
		}
	}
}
