package etcdapi

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// services is the whole of what is answered, without grpc's generated stubs, so
// that a reply in wire form is an answer. A method that is not here is unknown to
// grpc, which answers Unimplemented.
func (s *Server) services() []grpc.ServiceDesc {
	const (
		kv          = "etcdserverpb.KV"
		watch       = "etcdserverpb.Watch"
		lease       = "etcdserverpb.Lease"
		cluster     = "etcdserverpb.Cluster"
		maintenance = "etcdserverpb.Maintenance"
	)
	return []grpc.ServiceDesc{
		{
			ServiceName: kv,
			Methods: []grpc.MethodDesc{
				unary(s, kv, "Range", (*Server).kvRange),
				unary(s, kv, "Put", (*Server).kvPut),
				unary(s, kv, "DeleteRange", (*Server).kvDeleteRange),
				unary(s, kv, "Txn", (*Server).kvTxn),
				unary(s, kv, "Compact", (*Server).kvCompact),
			},
			Streams: []grpc.StreamDesc{answering(s, kv, "RangeStream", (*Server).kvRangeStream)},
		},
		{
			ServiceName: watch,
			Streams:     []grpc.StreamDesc{streaming(s, watch, "Watch", true, (*Server).watch)},
		},
		{
			ServiceName: lease,
			Methods: []grpc.MethodDesc{
				unary(s, lease, "LeaseGrant", (*Server).leaseGrant),
				unary(s, lease, "LeaseRevoke", (*Server).leaseRevoke),
				unary(s, lease, "LeaseTimeToLive", (*Server).leaseTimeToLive),
				unary(s, lease, "LeaseLeases", (*Server).leaseLeases),
			},
			Streams: []grpc.StreamDesc{streaming(s, lease, "LeaseKeepAlive", true, (*Server).leaseKeepAlive)},
		},
		{
			ServiceName: cluster,
			Methods: []grpc.MethodDesc{
				unary(s, cluster, "MemberList", (*Server).memberList),
				unary(s, cluster, "MemberAdd", (*Server).memberAdd),
				unary(s, cluster, "MemberRemove", (*Server).memberRemove),
				unary(s, cluster, "MemberUpdate", (*Server).memberUpdate),
				unary(s, cluster, "MemberPromote", (*Server).memberPromote),
			},
		},
		{
			ServiceName: maintenance,
			Methods: []grpc.MethodDesc{
				unary(s, maintenance, "Status", (*Server).status),
				unary(s, maintenance, "Alarm", (*Server).alarm),
				unary(s, maintenance, "HashKV", (*Server).hashKV),
				unary(s, maintenance, "Defragment", (*Server).defragment),
				unary(s, maintenance, "Hash", (*Server).hash),
				unary(s, maintenance, "MoveLeader", (*Server).moveLeader),
				unary(s, maintenance, "Downgrade", (*Server).downgrade),
			},
			Streams: []grpc.StreamDesc{answering(s, maintenance, "Snapshot", (*Server).snapshot)},
		},
		s.authService(),
		s.lockService(),
		s.electionService(),
		s.healthService(),
	}
}

// healthService is grpc's health service: the server as a whole, "", is SERVING
// from the first connection until Shutdown.
func (s *Server) healthService() grpc.ServiceDesc {
	const name = "grpc.health.v1.Health"
	return grpc.ServiceDesc{
		ServiceName: name,
		Methods: []grpc.MethodDesc{
			unary(s, name, "Check", func(s *Server, ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (any, error) {
				return s.health.Check(ctx, r)
			}),
			unary(s, name, "List", func(s *Server, ctx context.Context, r *grpc_health_v1.HealthListRequest) (any, error) {
				return s.health.List(ctx, r)
			}),
		},
		Streams: []grpc.StreamDesc{
			answering(s, name, "Watch", func(s *Server, ctx context.Context, r *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStream) error {
				return s.health.Watch(r, &grpc.GenericServerStream[grpc_health_v1.HealthCheckRequest, grpc_health_v1.HealthCheckResponse]{
					ServerStream: contextStream{stream, ctx},
				})
			}),
		},
	}
}

// contextStream is a stream with the context that admitStream made.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is the stream's.
func (c contextStream) Context() context.Context { return c.ctx }
