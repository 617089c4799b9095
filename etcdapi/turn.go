package etcdapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

// sessionTTLSeconds is the TTL of the lease that a caller without one gets. Nobody
// renews it, as in etcd (client/v3/concurrency, session.go; v3lock/lock.go).
const sessionTTLSeconds = 60

// turn is a place in the queue for a lock, or in an election: a key below the queue's
// name, attached to a lease. First is the key that was created first; each of the
// others waits for the key just before its own to be deleted, so that one deletion
// wakes one of them. Names and order are those of etcd's client library
// (client/v3/concurrency: mutex.go, election.go, key.go), whose users stand in the
// same queues.
type turn struct {
	prefix   []byte
	key      []byte
	lease    int64
	revision int64           // at which the key was created; set by takeTurn
	caller   backends.Caller // who took it; set by takeTurn
}

func newTurn(name []byte, lease int64) *turn {
	prefix := turnPrefix(name)
	return &turn{prefix: prefix, key: fmt.Appendf(bytes.Clone(prefix), "%x", lease), lease: lease}
}

// turnPrefix is what the keys of a queue begin with.
func turnPrefix(name []byte) []byte {
	prefix := make([]byte, 0, len(name)+1)
	return append(append(prefix, name...), '/')
}

// turnRange asks for every key of a queue.
func turnRange(prefix []byte) *pb.RangeRequest {
	end := bytes.Clone(prefix)
	end[len(end)-1]++ // it is '/'
	return &pb.RangeRequest{Key: prefix, RangeEnd: end}
}

// firstOf asks for the key of a queue that was created first.
func firstOf(prefix []byte) *pb.RangeRequest {
	r := turnRange(prefix)
	r.SortTarget, r.SortOrder, r.Limit = pb.RangeRequest_CREATE, pb.RangeRequest_ASCEND, 1
	return r
}

// before asks for the key just before the turn's own.
func (t *turn) before() *pb.RangeRequest {
	r := turnRange(t.prefix)
	r.SortTarget, r.SortOrder, r.Limit = pb.RangeRequest_CREATE, pb.RangeRequest_DESCEND, 1
	r.MaxCreateRevision = t.revision - 1
	r.KeysOnly = true
	return r
}

// session returns the lease to use: the caller's, or a new one.
func (s *Server) session(ctx context.Context, lease int64) (int64, error) {
	if lease != 0 {
		return lease, nil
	}
	granted, err := s.innerGrant(ctx, &pb.LeaseGrantRequest{TTL: sessionTTLSeconds})
	if err != nil {
		return 0, err
	}
	return granted.ID, nil
}

// waiting is ctx for as long as the server runs: a caller that waits for its turn
// must not hold up Shutdown. end must be called.
func (s *Server) waiting(ctx context.Context) (waiting context.Context, end func()) {
	waiting, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(s.stopped, func() { cancel(backends.ErrStopped) })
	return waiting, func() {
		unhook()
		cancel(nil)
	}
}

// takeTurn puts the turn's key with a value at the end of the queue, or finds it
// there: then the answer has not Succeeded, and its first response is the range of
// the key. Further responses are those of also. The transaction is not cut off when
// ctx ends: it must be known whether the key is there, or it could stay behind.
func (s *Server) takeTurn(ctx context.Context, t *turn, value []byte, also ...*pb.RequestOp) (*pb.TxnResponse, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var err error
	if t.caller, err = s.caller(ctx); err != nil {
		return nil, s.innerError(err)
	}
	put := opPut(&pb.PutRequest{Key: t.key, Value: value, Lease: t.lease})
	get := opRange(&pb.RangeRequest{Key: t.key})
	ctx, cancel := settling(context.WithValue(ctx, callerKey{}, t.caller))
	defer cancel()
	resp, err := s.innerTxn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(t.key, 0)},
		Success: append([]*pb.RequestOp{put}, also...),
		Failure: append([]*pb.RequestOp{get}, also...),
	})
	if err != nil {
		return nil, err
	}
	t.revision = resp.Header.Revision
	if !resp.Succeeded {
		t.revision = resp.Responses[0].GetResponseRange().Kvs[0].CreateRevision
	}
	return resp, nil
}

// awaitTurn returns when no key of the queue is older than the turn's own, whether
// that is still there or not.
func (s *Server) awaitTurn(ctx context.Context, t *turn) error {
	for {
		resp, err := s.innerRange(ctx, t.before())
		if err != nil {
			return err
		}
		if len(resp.Kvs) == 0 {
			return nil
		}
		err = s.innerWatch(ctx, &backends.WatchRequest{
			KeyRange: backends.KeyRange{Key: resp.Kvs[0].Key}, StartRevision: resp.Header.Revision + 1, NoPut: true,
		}, func(backends.Header, *mvccpb.Event) (bool, error) { return true, nil })
		if err != nil && !errors.Is(err, backends.ErrCompacted) {
			return s.innerError(err)
		}
	}
}

// leaveTurn deletes the turn's key, for a caller that may be gone, and whose token may
// have ended while it waited: then the key is deleted in the name of who took the turn,
// as far as that one still may. A key that was created later under the same lease is
// another's, and stays. When this fails, the key ends with its lease.
func (s *Server) leaveTurn(ctx context.Context, t *turn) {
	ctx, cancel := settling(ctx)
	defer cancel()
	leave := t.whileMine(opDelete(t.key))
	if _, err := s.innerTxn(ctx, leave); err != nil {
		_, _ = s.innerTxn(context.WithValue(ctx, callerKey{}, t.caller), leave) // see above
	}
}

// whileMine is op if the key is the one that was created in the turn.
func (t *turn) whileMine(op *pb.RequestOp) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: []*pb.Compare{createdAt(t.key, t.revision)}, Success: []*pb.RequestOp{op}}
}

func createdAt(key []byte, revision int64) *pb.Compare {
	return &pb.Compare{
		Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: revision},
	}
}

func opPut(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opDelete(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
}
