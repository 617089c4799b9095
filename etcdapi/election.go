package etcdapi

import (
	"bytes"
	"context"
	"errors"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"

	"github.com/etcdshim/shim/backends"
)

// The behaviour is that of etcd's v3election/election.go and of
// client/v3/concurrency/election.go below it.

func (s *Server) electionService() grpc.ServiceDesc {
	const name = "v3electionpb.Election"
	return grpc.ServiceDesc{
		ServiceName: name,
		Methods: []grpc.MethodDesc{
			unary(s, name, "Campaign", (*Server).campaign),
			unary(s, name, "Proclaim", (*Server).proclaim),
			unary(s, name, "Leader", (*Server).leader),
			unary(s, name, "Resign", (*Server).resign),
		},
		Streams: []grpc.StreamDesc{answering(s, name, "Observe", (*Server).observe)},
	}
}

// campaign answers once the caller's key is the first of those below the election's
// name. The header is of the moment at which the caller began to wait. As in etcd, a
// caller whose lease ended meanwhile wins all the same, and learns from Proclaim
// that it does not lead.
func (s *Server) campaign(ctx context.Context, r *v3electionpb.CampaignRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("Campaign")
	}
	lease, err := s.session(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	ctx, end := s.waiting(ctx)
	defer end()
	t := newTurn(r.Name, lease)
	resp, err := s.takeTurn(ctx, t, r.Value)
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded && !bytes.Equal(resp.Responses[0].GetResponseRange().Kvs[0].Value, r.Value) {
		if _, err := s.proclaimTurn(ctx, t, r.Value); err != nil {
			if ctx.Err() == nil { // else the key, which was there before, stays as it is
				s.leaveTurn(ctx, t)
			}
			return nil, ended(ctx, err)
		}
	}
	err = s.awaitTurn(ctx, t)
	if ctx.Err() != nil && (err != nil || resp.Succeeded || r.Lease == 0) {
		s.leaveTurn(ctx, t) // nobody will ever know who won
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err // the caller keeps its place, as in etcd
	}
	return &v3electionpb.CampaignResponse{
		Header: resp.Header,
		Leader: &v3electionpb.LeaderKey{Name: r.Name, Key: t.key, Rev: t.revision, Lease: lease},
	}, nil
}

// proclaimTurn gives the turn's key a value, if it is still there.
func (s *Server) proclaimTurn(ctx context.Context, t *turn, value []byte) (*pb.ResponseHeader, error) {
	resp, err := s.innerTxn(ctx, t.whileMine(opPut(&pb.PutRequest{Key: t.key, Value: value, Lease: t.lease})))
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded {
		return nil, ErrElectionNotLeader
	}
	return resp.Header, nil
}

// resumeTurn is the turn that a leader's key tells of. Its name is not looked at, and
// the lease may be another than that of Campaign, as in etcd.
func (s *Server) resumeTurn(ctx context.Context, leader *v3electionpb.LeaderKey) (*turn, error) {
	if leader == nil {
		return nil, ErrMissingLeaderKey
	}
	lease, err := s.session(ctx, leader.Lease)
	if err != nil {
		return nil, err
	}
	return &turn{key: leader.Key, lease: lease, revision: leader.Rev}, nil
}

func (s *Server) proclaim(ctx context.Context, r *v3electionpb.ProclaimRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("Proclaim")
	}
	t, err := s.resumeTurn(ctx, r.Leader)
	if err != nil {
		return nil, err
	}
	header, err := s.proclaimTurn(ctx, t, r.Value)
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ProclaimResponse{Header: header}, nil
}

// resign deletes the leader's key. One that does not lead any more is not told.
func (s *Server) resign(ctx context.Context, r *v3electionpb.ResignRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("Resign")
	}
	t, err := s.resumeTurn(ctx, r.Leader)
	if err != nil {
		return nil, err
	}
	resp, err := s.innerTxn(ctx, t.whileMine(opDelete(t.key)))
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ResignResponse{Header: resp.Header}, nil
}

func (s *Server) leader(ctx context.Context, r *v3electionpb.LeaderRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("Leader")
	}
	resp, err := s.innerRange(ctx, firstOf(turnPrefix(r.Name)))
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, ErrElectionNoLeader
	}
	return &v3electionpb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}, nil
}

// observing is one Observe RPC.
type observing struct {
	server *Server
	prefix []byte
	stream grpc.ServerStream
	// told is what was sent last, and sendErr is not nil once sending failed.
	told    *mvccpb.KeyValue
	sendErr error
}

// observe sends each leader and each value that it proclaims, in order, until the
// client goes away. Leaders between two that were seen may be left out: who leads is
// looked up once the one before is gone. An error of the store, as a missing
// permission, ends the stream without an error, as in etcd.
func (s *Server) observe(ctx context.Context, r *v3electionpb.LeaderRequest, stream grpc.ServerStream) error {
	if s.leases == nil {
		return s.unsupported("Observe")
	}
	o := &observing{server: s, prefix: turnPrefix(r.Name), stream: stream}
	for {
		header, kv, err := o.awaitLeader(ctx)
		if err == nil {
			err = o.send(header, kv)
		}
		if err == nil {
			err = o.follow(ctx, kv, header.Revision)
		}
		switch {
		case err == nil, errors.Is(err, backends.ErrCompacted):
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case o.sendErr != nil:
			return s.streamEnd(ctx, "send", "election-observe", o.sendErr)
		default:
			return nil // see above
		}
	}
}

// awaitLeader returns the first key of the queue, waiting for one if there is none,
// and a header whose revision is one at which the key stood so.
func (o *observing) awaitLeader(ctx context.Context) (header *pb.ResponseHeader, kv *mvccpb.KeyValue, err error) {
	first := firstOf(o.prefix)
	resp, err := o.server.innerRange(ctx, first)
	if err != nil {
		return nil, nil, err
	}
	if len(resp.Kvs) > 0 {
		return resp.Header, resp.Kvs[0], nil
	}
	err = o.server.innerWatch(ctx, &backends.WatchRequest{
		KeyRange:      backends.KeyRange{Key: first.Key, End: first.RangeEnd},
		StartRevision: resp.Header.Revision + 1, NoDelete: true,
	}, func(h backends.Header, e *mvccpb.Event) (bool, error) {
		header, kv = wireHeader(h), e.Kv
		header.Revision = kv.ModRevision
		return true, nil
	})
	return header, kv, err
}

// follow sends what is proclaimed under a leader's key after revision, and returns
// when the key is deleted.
func (o *observing) follow(ctx context.Context, leader *mvccpb.KeyValue, revision int64) error {
	return o.server.innerWatch(ctx, &backends.WatchRequest{
		KeyRange: backends.KeyRange{Key: leader.Key}, StartRevision: revision + 1,
	}, func(h backends.Header, e *mvccpb.Event) (bool, error) {
		if e.Type == mvccpb.Event_DELETE {
			return true, nil
		}
		return false, o.send(wireHeader(h), e.Kv)
	})
}

// send tells a leader's value, unless it was told last: after a compaction the leader
// is looked up again, and may be the same.
func (o *observing) send(header *pb.ResponseHeader, kv *mvccpb.KeyValue) error {
	if o.told != nil && o.told.ModRevision == kv.ModRevision && bytes.Equal(o.told.Key, kv.Key) {
		return nil
	}
	o.told = kv
	o.sendErr = o.stream.SendMsg(&v3electionpb.LeaderResponse{Header: header, Kv: kv})
	return o.sendErr
}
