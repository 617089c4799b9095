package conformance

import (
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// descriptors are the files of every service that the suite may speak to.
func descriptors() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{
		pb.File_rpc_proto, healthpb.File_grpc_health_v1_health_proto, v3lockpb.File_v3lock_proto, v3electionpb.File_v3election_proto,
	}
}

// methodDescriptor finds "KV.Range" or "Health.Check"; nil if there is none.
func methodDescriptor(rpc string) protoreflect.MethodDescriptor {
	service, method, _ := strings.Cut(rpc, ".")
	for _, file := range descriptors() {
		if s := file.Services().ByName(protoreflect.Name(service)); s != nil {
			if m := s.Methods().ByName(protoreflect.Name(method)); m != nil {
				return m
			}
		}
	}
	return nil
}

// elsewhere lists what a server of etcd's has and the suite does not ask for, with where it is
// tested, for the table.
func elsewhere() []string {
	return []string{"JSON gateway (e2e/etcd, etcdapi)", "TLS (etcdapi, cmd/shim)"}
}

// requestFields lists, as "RangeRequest.limit", the fields of every message that is
// reachable from the requests of the RPCs. A request message nested in another (a Txn's
// operations) is listed under its own name.
func requestFields() []string {
	var fields []string
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			fields = append(fields, string(m.Name())+"."+string(f.Name()))
			if f.Message() != nil {
				walk(f.Message())
			}
		}
	}
	for _, file := range descriptors() {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				if m.IsStreamingServer() && seen[m.Input().FullName()] {
					// RangeStream shares Range's request; its fields are listed under the method.
					for k := range m.Input().Fields().Len() {
						fields = append(fields, string(m.Name())+"."+string(m.Input().Fields().Get(k).Name()))
					}
				}
				walk(m.Input())
			}
		}
	}
	return fields
}
