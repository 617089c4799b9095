package etcdapi

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

// The Lock and Election services are clients of the server's own KV, Watch and
// Lease, in the name of who called them, as etcd's are through a client embedded in
// the server (server/etcdserver/api/v3client). So every check and limit of those
// services holds for them, and every backend with leases has them.

// settleTimeout bounds what is done for a client whether it waits for the answer or
// not: longer than the 7 s for which etcd lets a write wait for its quorum.
const settleTimeout = 10 * time.Second

// settling is ctx without its end, for settleTimeout at most: a write must not be
// left half known because its client went away.
func settling(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
}

func (s *Server) innerRange(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	out, err := s.kvRange(ctx, r)
	resp := new(pb.RangeResponse)
	return resp, s.innerAnswer(out, err, resp)
}

func (s *Server) innerTxn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	out, err := s.kvTxn(ctx, r)
	resp := new(pb.TxnResponse)
	return resp, s.innerAnswer(out, err, resp)
}

func (s *Server) innerDelete(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	out, err := s.kvDeleteRange(ctx, r)
	resp := new(pb.DeleteRangeResponse)
	return resp, s.innerAnswer(out, err, resp)
}

func (s *Server) innerGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	ctx, err := s.permit(ctx, s.access[pb.Lease_LeaseGrant_FullMethodName])
	if err != nil {
		return nil, s.innerError(err)
	}
	out, err := s.leaseGrant(ctx, r)
	if err != nil {
		return nil, s.innerError(err)
	}
	return out.(*pb.LeaseGrantResponse), nil
}

// innerAnswer decodes what a handler of KV answered.
func (s *Server) innerAnswer(out any, err error, into proto.Message) error {
	if err != nil {
		return s.innerError(err)
	}
	pieces := out.(*reply).take()
	defer pieces.Free()
	return proto.Unmarshal(pieces.Materialize(), into)
}

// innerError is what etcd answers when a call that Lock or Election made failed.
// Its embedded client turns the errors that it knows, which are those of etcd's own
// texts, into a form that has no code on the wire (client/v3, ContextError).
func (s *Server) innerError(err error) error {
	wire := s.wireError(err)
	if known, ok := errors.AsType[rpctypes.EtcdError](rpctypes.Error(wire)); ok {
		return status.Error(codes.Unknown, known.Error())
	}
	return wire
}

// innerWatch calls each with the events of a watch, in order, until each says that
// it has seen enough, or fails; then it returns each's error. The watch is over when
// innerWatch returns. ErrCompacted is returned as it is: what was watched for may
// have happened since, and is to be looked at anew.
func (s *Server) innerWatch(
	ctx context.Context, r *backends.WatchRequest, each func(backends.Header, *mvccpb.Event) (enough bool, err error),
) error {
	caller, err := s.caller(ctx)
	if err != nil {
		return err
	}
	r.ID, r.Caller = 1, caller
	stream, err := s.backend.Watch(ctx, caller)
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := stream.Add(ctx, r); err != nil {
		return err
	}
	for {
		batch, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		if batch.Kind == backends.WatchCanceled {
			return batch.Reason // not nil: nobody here cancels
		}
		for _, raw := range batch.Events {
			var framed pb.WatchResponse // an event is framed as it stands in one
			if err := proto.Unmarshal(raw, &framed); err != nil {
				return err
			}
			if enough, err := each(batch.Header, framed.Events[0]); enough || err != nil {
				return err
			}
		}
	}
}
