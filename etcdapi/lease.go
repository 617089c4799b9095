package etcdapi

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

func (s *Server) leaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("LeaseGrant")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.leases.LeaseGrant(ctx, caller, r.ID, r.TTL)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseGrantResponse{Header: wireHeader(res.Header), ID: res.ID, TTL: res.TTLSeconds}, nil
}

func (s *Server) leaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("LeaseRevoke")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	h, err := s.leases.LeaseRevoke(ctx, caller, r.ID)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseRevokeResponse{Header: wireHeader(h)}, nil
}

// leaseTimeToLive answers an unknown lease with a TTL of -1 and no error, as
// etcd (v3rpc/lease.go, LeaseTimeToLive).
func (s *Server) leaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("LeaseTimeToLive")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.leases.LeaseTimeToLive(ctx, caller, r.ID, r.Keys)
	if errors.Is(err, backends.ErrLeaseNotFound) {
		st, err := s.state(ctx)
		if err != nil {
			return nil, err
		}
		return &pb.LeaseTimeToLiveResponse{Header: wireHeader(st.Header), ID: r.ID, TTL: -1}, nil
	}
	if err != nil {
		return nil, err
	}
	return &pb.LeaseTimeToLiveResponse{
		Header: wireHeader(res.Header), ID: r.ID, TTL: res.TTLSeconds, GrantedTTL: res.GrantedTTLSeconds, Keys: res.Keys,
	}, nil
}

func (s *Server) leaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("LeaseLeases")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.leases.LeaseLeases(ctx, caller)
	if err != nil {
		return nil, err
	}
	leases := make([]*pb.LeaseStatus, len(res.IDs))
	for i, id := range res.IDs {
		leases[i] = &pb.LeaseStatus{ID: id}
	}
	return &pb.LeaseLeasesResponse{Header: wireHeader(res.Header), Leases: leases}, nil
}

// leaseKeepAlive renews the leases that the client names, one after the other,
// until the client closes its side.
func (s *Server) leaseKeepAlive(ctx context.Context, stream grpc.ServerStream) error {
	if s.leases == nil {
		return s.unsupported("LeaseKeepAlive")
	}
	requests := receive[pb.LeaseKeepAliveRequest](ctx, stream)
	for {
		select {
		case r := <-requests:
			if r.err != nil {
				return s.streamEnd(ctx, "receive", "lease-keepalive", r.err)
			}
			if r.message == nil {
				return nil // the client is done
			}
			resp, err := s.renew(ctx, r.message.ID)
			if err != nil {
				return err
			}
			if err := stream.SendMsg(resp); err != nil {
				return s.streamEnd(ctx, "send", "lease-keepalive", err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// renew renews one lease; an unknown one is answered with a TTL of 0. Each renewal is
// asked for permission anew (v3_server.go, checkLeaseRenew), and one that is refused
// ends the stream. The header
// is older than the renewal: a client must not believe that the lease lived at a
// revision at which it was revoked (v3rpc/lease.go, leaseKeepAlive).
func (s *Server) renew(ctx context.Context, id int64) (*reply, error) {
	st, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	caller, err := s.authorize(ctx, backends.AccessUser)
	if err != nil {
		return nil, err
	}
	res, err := s.leases.LeaseKeepAlive(ctx, caller, id)
	switch {
	case errors.Is(err, backends.ErrLeaseNotFound):
		res.TTLSeconds = 0
	case err != nil:
		return nil, err
	}
	return encodeKeepAlive(st.Header, id, res.TTLSeconds), nil
}
