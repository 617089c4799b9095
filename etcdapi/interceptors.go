package etcdapi

import (
	"context"
	"runtime/debug"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// What follows wraps every RPC. It is called directly rather than through grpc's
// chains of interceptors, which cost a closure per link and request.

// message is a pointer to a request.
type message[T any] interface {
	*T
	proto.Message
}

// unary describes a unary RPC that h answers with a proto.Message or a *reply.
// h returns an error of any kind; it becomes a status here.
func unary[T any, M message[T]](s *Server, service, name string, h func(*Server, context.Context, M) (any, error)) grpc.MethodDesc {
	m := s.metrics.rpc("unary", service, name)
	full := "/" + service + "/" + name
	demand := s.access[full]
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			start := time.Now()
			m.started.Inc()
			// One allocation for the request and what tells whether it was understood.
			call := new(struct {
				request inbound
				message T
			})
			in := M(&call.message)
			call.request.message = in
			out, err := func() (out any, err error) {
				defer s.recover(full, &err)
				request := &call.request
				if err := decode(request); err != nil {
					return nil, err
				}
				m.received.Inc()
				if request.fault != nil {
					return nil, decodeError(request.fault)
				}
				if err := s.admit(ctx, "unary"); err != nil {
					return nil, err
				}
				ctx, err := s.permit(ctx, demand)
				if err != nil {
					return nil, err
				}
				return h(s, ctx, in)
			}()
			if err != nil {
				err = s.wireError(err)
				m.done(status.Code(err))
			} else {
				m.sent.Inc()
				m.done(codes.OK)
			}
			took := time.Since(start)
			m.took(took)
			switch {
			case took > s.cfg.WarningUnaryRequestDuration:
				s.logStats(ctx, zap.WarnLevel, full, start, took, in, out)
			case s.logsAll:
				s.logStats(ctx, zap.DebugLevel, full, start, took, in, out)
			}
			return out, err
		},
	}
}

// answering describes a streaming RPC with one request. As in etcd, the request is
// read before its caller is asked for: what is no request is told so, whoever sent it.
func answering[T any, M message[T]](s *Server, service, name string, h func(*Server, context.Context, M, grpc.ServerStream) error) grpc.StreamDesc {
	demand := s.access["/"+service+"/"+name]
	return streaming(s, service, name, false, func(s *Server, ctx context.Context, stream grpc.ServerStream) error {
		in := M(new(T))
		if err := stream.RecvMsg(in); err != nil {
			return err
		}
		ctx, err := s.permit(ctx, demand)
		if err != nil {
			return err
		}
		return h(s, ctx, in, stream)
	})
}

// streaming describes a streaming RPC. h reads requests with RecvMsg. Where they come from
// the client one after the other, the caller is asked for before h; else h does it: see answering.
func streaming(s *Server, service, name string, fromClient bool, h func(*Server, context.Context, grpc.ServerStream) error) grpc.StreamDesc {
	kind := "server_stream"
	if fromClient {
		kind = "bidi_stream"
	}
	m := s.metrics.rpc(kind, service, name)
	full := "/" + service + "/" + name
	demand := s.access[full]
	return grpc.StreamDesc{
		StreamName:    name,
		ServerStreams: true,
		ClientStreams: fromClient,
		Handler: func(_ any, stream grpc.ServerStream) error {
			start := time.Now()
			m.started.Inc()
			err := func() (err error) {
				defer s.recover(full, &err)
				ctx, end, err := s.admitStream(stream.Context())
				if err != nil {
					return err
				}
				defer end()
				if fromClient {
					if ctx, err = s.permit(ctx, demand); err != nil {
						return err
					}
				}
				return h(s, ctx, countedStream{stream, m})
			}()
			err = s.wireError(err)
			m.done(status.Code(err))
			m.took(time.Since(start))
			return err
		},
	}
}

// countedStream counts a stream's messages.
type countedStream struct {
	grpc.ServerStream
	metrics *rpcMetrics
}

// SendMsg sends and counts.
func (c countedStream) SendMsg(m any) error {
	err := c.ServerStream.SendMsg(m)
	if err == nil {
		c.metrics.sent.Inc()
	}
	return err
}

// RecvMsg receives and counts.
func (c countedStream) RecvMsg(m any) error {
	err := c.ServerStream.RecvMsg(m)
	if err == nil {
		c.metrics.received.Inc()
	}
	return err
}

// recover turns a panic of a handler into an error of that request alone.
func (s *Server) recover(method string, err *error) {
	if p := recover(); p != nil {
		s.log.Error("panic in a request", zap.String("method", method), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		*err = status.Error(codes.Internal, "etcdserver: internal error")
	}
}

// decodeError is the text that grpc 1.83, which etcd 3.7.3 is built with, answers
// to a unary request that is no protobuf.
func decodeError(err error) error {
	return status.Error(codes.Internal, "grpc: error unmarshalling request: "+err.Error())
}

// admit makes the checks that etcd's interceptors make of metadata.
func (s *Server) admit(ctx context.Context, kind string) error {
	version := "unknown"
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey); len(v) > 0 {
		version = v[0]
	}
	if !utf8.ValidString(version) {
		return rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	s.metrics.client(kind, version)
	if requiresLeader(ctx) && !s.hasLeader(ctx) {
		return rpctypes.ErrGRPCNoLeader
	}
	return nil
}

// admitStream is admit for a stream. The stream's context ends, with the error
// to answer as its cause, when the server stops or when the stream requires a
// leader and there was none for too long. end must be called.
func (s *Server) admitStream(parent context.Context) (ctx context.Context, end func(), err error) {
	if err := s.admit(parent, "stream"); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(parent)
	id := s.streams.add(cancel, requiresLeader(parent))
	return ctx, func() {
		s.streams.remove(id)
		cancel(nil)
	}, nil
}

func requiresLeader(ctx context.Context) bool {
	v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	return len(v) > 0 && v[0] == rpctypes.MetadataHasLeader
}

// hasLeader tells whether requests can be served. A store without consensus,
// whose term is zero, has no leader to lose; nor has a server behind this one that does
// not tell nobody.
func (s *Server) hasLeader(ctx context.Context) bool {
	st, err := s.state(ctx)
	return err == nil && (st.Leader != 0 || st.Header.Term == 0) || isOfAuth(err)
}

// logStats tells of a request, with the fields of etcd's line (v3rpc/interceptor.go,
// logUnaryRequestStats): at warn of one that took long, at debug of each. Values are not
// logged.
func (s *Server) logStats(ctx context.Context, level zapcore.Level, method string, start time.Time, took time.Duration, in proto.Message, out any) {
	remote := "No remote client info."
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	size := -1
	switch o := out.(type) {
	case *reply:
		size = o.size
	case proto.Message:
		size = proto.Size(o)
	}
	requests, responses := statsCounts(in, out)
	s.log.Log(level, "request stats",
		zap.Time("start time", start),
		zap.Duration("time spent", took),
		zap.String("remote", remote),
		zap.String("response type", method),
		zap.Int64("request count", requests),
		zap.Int("request size", proto.Size(in)),
		zap.Int64("response count", responses),
		zap.Int("response size", size),
		zap.String("request content", loggable(in)),
	)
}

// statsCounts are the counts of etcd's line: of a Txn the operations of the list that was
// taken, of a range its count, of a delete what was deleted; -1 where there is no such number.
func statsCounts(in proto.Message, out any) (requests, responses int64) {
	told := int64(0)
	if r, ok := out.(*reply); ok {
		told = r.count
	}
	switch in.(type) {
	case *pb.RangeRequest, *pb.DeleteRangeRequest:
		return 0, told
	case *pb.PutRequest:
		return 1, 0
	case *pb.TxnRequest:
		return told, 0
	}
	return -1, -1
}
