package etcd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// LeaseGrant implements backends.Leases.
func (b *Backend) LeaseGrant(ctx context.Context, caller backends.Caller, id, ttlSeconds int64) (backends.LeaseGrantResult, error) {
	r := &pb.LeaseGrantResponse{}
	err := b.call(ctx, writing, pb.Lease_LeaseGrant_FullMethodName, caller, &pb.LeaseGrantRequest{ID: id, TTL: ttlSeconds}, r)
	return backends.LeaseGrantResult{Header: header(r.Header), ID: r.ID, TTLSeconds: r.TTL}, err
}

// LeaseRevoke implements backends.Leases.
func (b *Backend) LeaseRevoke(ctx context.Context, caller backends.Caller, id int64) (backends.Header, error) {
	r := &pb.LeaseRevokeResponse{}
	err := b.call(ctx, writing, pb.Lease_LeaseRevoke_FullMethodName, caller, &pb.LeaseRevokeRequest{ID: id}, r)
	return header(r.Header), err
}

// LeaseKeepAlive implements backends.Leases. etcd tells of an unknown lease by a
// TTL of zero.
func (b *Backend) LeaseKeepAlive(ctx context.Context, caller backends.Caller, id int64) (backends.LeaseKeepAliveResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rpc, a := b.begin(ctx, writing, caller)
	r, err := b.keepAlive(rpc, &pb.LeaseKeepAliveRequest{ID: id})
	if err != nil {
		return backends.LeaseKeepAliveResult{}, b.outcome(ctx, a, err)
	}
	result := backends.LeaseKeepAliveResult{Header: header(r.Header), TTLSeconds: r.TTL}
	if r.TTL <= 0 {
		return result, backends.ErrLeaseNotFound
	}
	return result, nil
}

// keepAlive makes one exchange on a stream of its own.
func (b *Backend) keepAlive(ctx context.Context, r *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	stream, err := b.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, pb.Lease_LeaseKeepAlive_FullMethodName)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(r); err != nil && !errors.Is(err, io.EOF) { // EOF: RecvMsg has the reason
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	answer := &pb.LeaseKeepAliveResponse{}
	if err := stream.RecvMsg(answer); err != nil {
		return nil, err
	}
	return answer, nil
}

// LeaseTimeToLive implements backends.Leases. etcd tells of an unknown lease by a
// TTL of -1.
func (b *Backend) LeaseTimeToLive(ctx context.Context, caller backends.Caller, id int64, keys bool) (backends.LeaseTimeToLiveResult, error) {
	r := &pb.LeaseTimeToLiveResponse{}
	err := b.call(ctx, reading, pb.Lease_LeaseTimeToLive_FullMethodName, caller, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys}, r)
	if err == nil && r.TTL < 0 && r.GrantedTTL == 0 {
		err = backends.ErrLeaseNotFound
	}
	return backends.LeaseTimeToLiveResult{
		Header: header(r.Header), TTLSeconds: r.TTL, GrantedTTLSeconds: r.GrantedTTL, Keys: sorted(r.Keys),
	}, err
}

// LeaseLeases implements backends.Leases.
func (b *Backend) LeaseLeases(ctx context.Context, caller backends.Caller) (backends.LeaseLeasesResult, error) {
	r := &pb.LeaseLeasesResponse{}
	err := b.call(ctx, reading, pb.Lease_LeaseLeases_FullMethodName, caller, &pb.LeaseLeasesRequest{}, r)
	result := backends.LeaseLeasesResult{Header: header(r.Header)}
	for _, l := range r.Leases {
		result.IDs = append(result.IDs, l.ID)
	}
	return result, err
}

// sorted is for etcd's answer, which is in no order.
func sorted(keys [][]byte) [][]byte {
	slices.SortFunc(keys, bytes.Compare)
	return keys
}
