package etcdapi

import (
	"context"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

func (s *Server) lockService() grpc.ServiceDesc {
	const name = "v3lockpb.Lock"
	return grpc.ServiceDesc{
		ServiceName: name,
		Methods: []grpc.MethodDesc{
			unary(s, name, "Lock", (*Server).lock),
			unary(s, name, "Unlock", (*Server).unlock),
		},
	}
}

// lock answers once the caller's key is the first of those below the lock's name
// (etcd's v3lock/lock.go and client/v3/concurrency/mutex.go, Lock). A caller that goes
// away before it is answered leaves no key. One whose lease ends meanwhile learns of it when
// its turn has come, from ErrSessionExpired. In one thing etcd differs: there a
// caller that waits holds the lock, too, when its key was deleted and created anew
// by another with the same lease, behind others.
func (s *Server) lock(ctx context.Context, r *v3lockpb.LockRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("Lock")
	}
	lease, err := s.session(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	ctx, end := s.waiting(ctx)
	defer end()
	t := newTurn(r.Name, lease)
	resp, err := s.takeTurn(ctx, t, nil, opRange(firstOf(t.prefix)))
	if err != nil {
		return nil, err
	}
	header := resp.Header
	first := resp.Responses[1].GetResponseRange().Kvs
	if len(first) > 0 && first[0].CreateRevision != t.revision {
		if header, err = s.awaitLock(ctx, t); err != nil {
			s.leaveTurn(ctx, t)
			return nil, ended(ctx, err)
		}
	}
	if ctx.Err() != nil && (resp.Succeeded || r.Lease == 0) {
		s.leaveTurn(ctx, t) // nobody knows of the key; one that was there before stays
		return nil, context.Cause(ctx)
	}
	return &v3lockpb.LockResponse{Header: header, Key: t.key}, nil
}

// awaitLock waits for the turn, and sees that its key is still there.
func (s *Server) awaitLock(ctx context.Context, t *turn) (*pb.ResponseHeader, error) {
	if err := s.awaitTurn(ctx, t); err != nil {
		return nil, err
	}
	mine, err := s.innerRange(ctx, &pb.RangeRequest{Key: t.key, KeysOnly: true})
	if err != nil {
		return nil, err
	}
	if len(mine.Kvs) == 0 || mine.Kvs[0].CreateRevision != t.revision {
		return nil, ErrSessionExpired
	}
	return mine.Header, nil
}

// unlock deletes a key, whichever it is, as etcd.
func (s *Server) unlock(ctx context.Context, r *v3lockpb.UnlockRequest) (any, error) {
	if s.leases == nil {
		return nil, s.unsupported("Unlock")
	}
	resp, err := s.innerDelete(ctx, &pb.DeleteRangeRequest{Key: r.Key})
	if err != nil {
		return nil, err
	}
	return &v3lockpb.UnlockResponse{Header: resp.Header}, nil
}

// ended is why a wait ended: what ended its context, if that has ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
