package etcdapi

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// registered lists the full methods that a server answers, on any of its ports, with whether each
// is a stream.
func registered(s *Server) map[string]bool {
	methods := make(map[string]bool)
	for _, server := range []*grpc.Server{s.grpc, s.viaHTTP} {
		for name, service := range server.GetServiceInfo() {
			for _, m := range service.Methods {
				methods["/"+name+"/"+m.Name] = m.IsClientStream || m.IsServerStream
			}
		}
	}
	return methods
}

// TestEveryRPCHasAnAccess: each RPC that is answered, and each of etcd's services by their
// descriptors, has an entry in the table, and no entry of a service that is answered is about
// an RPC that does not exist.
func TestEveryRPCHasAnAccess(t *testing.T) {
	s, err := New(&fake{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	methods := registered(s)
	services := make(map[string]bool)
	for method := range methods {
		services[method[:strings.LastIndex(method, "/")]] = true
		if s.access[method] == denied {
			t.Errorf("%s has no entry in the table of access", method)
		}
	}
	for method, demand := range s.access {
		if demand == denied {
			t.Errorf("the entry of %s denies it: leave it out", method)
		}
		if _, ok := methods[method]; !ok && services[method[:strings.LastIndex(method, "/")]] {
			t.Errorf("the table has an entry for %s, which is not answered", method)
		}
	}
	found := 0
	for _, file := range []protoreflect.FileDescriptor{
		pb.File_rpc_proto, v3lockpb.File_v3lock_proto, v3electionpb.File_v3election_proto, grpc_health_v1.File_grpc_health_v1_health_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := fmt.Sprintf("/%s/%s", service.FullName(), service.Methods().Get(j).Name())
				found++
				if s.access[method] == denied {
					t.Errorf("%s has no entry in the table of access", method)
				}
				if _, ok := methods[method]; !ok {
					t.Errorf("%s is not answered", method)
				}
			}
		}
	}
	if found != len(s.access) || found != len(methods) {
		t.Errorf("the descriptors have %d methods, the table %d, the server %d", found, len(s.access), len(methods))
	}
}

// TestUnlistedMethodIsDenied: what is not in the table is denied to everybody, with
// authentication or without.
func TestUnlistedMethodIsDenied(t *testing.T) {
	a := newAccounts(t)
	s, err := New(a, Config{})
	if err != nil {
		t.Fatal(err)
	}
	ran := false
	desc := unary(s, "etcdserverpb.KV", "New", func(*Server, context.Context, *pb.RangeRequest) (any, error) {
		ran = true
		return &pb.RangeResponse{}, nil
	})
	for _, on := range []bool{true, false} {
		a.on.Store(on)
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("token", "token-root"))
		_, err = desc.Handler(nil, ctx, func(any) error { return nil }, nil)
		if status.Code(err) != codes.PermissionDenied || ran {
			t.Errorf("authentication %t: %v, handler called: %t", on, err, ran)
		}
	}
}

// answer is the kind of a refusal for reasons of authentication; "" when there was none.
func answer(err error) string {
	switch st := status.Convert(err); st.Message() {
	case "etcdserver: user name is empty":
		return "nobody"
	case "etcdserver: invalid auth token":
		return "bad token"
	case "etcdserver: permission denied":
		return "denied"
	}
	return ""
}

// TestAccess: each RPC, called with an empty request, refuses those whom the table says,
// and only them. Where the handler or the backend asks, an empty request mostly has other faults
// that etcd finds first; what they ask is in the tests of the package conformance.
func TestAccess(t *testing.T) {
	a := newAccounts(t)
	s, conn := serve(t, a, Config{})
	call := func(ctx context.Context, method string, stream bool) error {
		if !stream {
			return conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		rpc, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			return err
		}
		_ = rpc.SendMsg(&emptypb.Empty{}) // the answer tells
		_ = rpc.CloseSend()
		return rpc.RecvMsg(&emptypb.Empty{})
	}
	asks := registered(s)
	for method := range asks {
		if d := s.access[method]; d == open || d == byBackend || d == adminByHandler {
			delete(asks, method)
		}
	}
	if len(asks) < 15 {
		t.Fatalf("only %d methods are asked here", len(asks))
	}
	for method, stream := range asks {
		d := s.access[method]
		for who, want := range map[string]string{"": "nobody", "bad": "bad token", "alice": "", "root": ""} {
			ctx := as(t.Context(), who)
			if who == "bad" {
				ctx = metadata.AppendToOutgoingContext(t.Context(), "token", "stolen")
			}
			if who == "alice" && d == admin {
				want = "denied"
			}
			if got := answer(call(ctx, method, stream)); got != want {
				t.Errorf("%s as %q: %q, want %q", method, who, got, want)
			}
		}
	}
	a.on.Store(false)
	for method, stream := range asks {
		if got := answer(call(metadata.AppendToOutgoingContext(t.Context(), "token", "stolen"), method, stream)); got != "" {
			t.Errorf("%s while authentication is off: %q", method, got)
		}
	}
}

// TestBrokenRequestBeforeAccess: a request that is no protobuf is told so to everybody, as by
// etcd, which reads a stream's one request before it asks who calls. Snapshot
// answered PermissionDenied.
func TestBrokenRequestBeforeAccess(t *testing.T) {
	_, conn := serve(t, newAccounts(t), Config{}, grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	broken := []byte{0x0a, 0xff}
	for _, method := range []string{"Maintenance/Snapshot", "Maintenance/Hash", "KV/RangeStream"} {
		for _, who := range []string{"", "alice", "root"} {
			rpc, err := conn.NewStream(as(t.Context(), who), &grpc.StreamDesc{ServerStreams: true}, "/etcdserverpb."+method)
			if err != nil {
				t.Fatal(err)
			}
			if err = rpc.SendMsg(&broken); err == nil {
				err = rpc.CloseSend()
			}
			var answer []byte
			if err == nil {
				err = rpc.RecvMsg(&answer)
			}
			if status.Code(err) != codes.Internal {
				t.Errorf("%s as %q: %v, want Internal", method, who, err)
			}
		}
	}
}

// TestUnlistedStreamIsDenied: a stream that is not in the table is denied, too, once its request was read.
func TestUnlistedStreamIsDenied(t *testing.T) {
	s, err := New(newAccounts(t), Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, fromClient := range []bool{true, false} {
		ran := false
		desc := streaming(s, "etcdserverpb.KV", "New", true, func(*Server, context.Context, grpc.ServerStream) error {
			ran = true
			return nil
		})
		if !fromClient {
			desc = answering(s, "etcdserverpb.KV", "New", func(*Server, context.Context, *pb.RangeRequest, grpc.ServerStream) error {
				ran = true
				return nil
			})
		}
		err := desc.Handler(nil, oneRequest{ctx: metadata.NewIncomingContext(t.Context(), metadata.Pairs("token", "token-root"))})
		if status.Code(err) != codes.PermissionDenied || ran {
			t.Errorf("from the client %t: %v, handler called: %t", fromClient, err, ran)
		}
	}
}

// oneRequest is a stream with an empty request.
type oneRequest struct {
	grpc.ServerStream
	ctx context.Context
}

func (s oneRequest) Context() context.Context { return s.ctx }
func (oneRequest) RecvMsg(any) error          { return nil }

// TestAlarmAccess: everybody who is somebody may list alarms; changing them needs root.
func TestAlarmAccess(t *testing.T) {
	_, conn := serve(t, newAccounts(t), Config{})
	client := pb.NewMaintenanceClient(conn)
	for who, want := range map[string]string{"": "nobody", "alice": "denied", "root": ""} {
		for _, action := range []pb.AlarmRequest_AlarmAction{pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE, 9} {
			_, err := client.Alarm(as(t.Context(), who), &pb.AlarmRequest{Action: action})
			if got := answer(err); got != want {
				t.Errorf("%v as %q: %q, want %q", action, who, got, want)
			}
		}
	}
	if _, err := client.Alarm(as(t.Context(), "alice"), &pb.AlarmRequest{}); err != nil {
		t.Errorf("list as alice: %v", err)
	}
}
