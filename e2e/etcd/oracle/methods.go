package oracle

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// method is an RPC, as its service descriptor tells it.
type method struct {
	name string // "KV.Range"
	path string // "/etcdserverpb.KV/Range"
	// request and answer make empty messages.
	request, answer            protoreflect.MessageType
	clientStreams, serverSends bool
}

// methods are all RPCs of etcd's API, by name.
func methods() (map[string]*method, error) {
	out := map[string]*method{}
	for _, file := range []protoreflect.FileDescriptor{pb.File_rpc_proto, v3lockpb.File_v3lock_proto, v3electionpb.File_v3election_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				d := service.Methods().Get(j)
				m := &method{
					name:          string(service.Name()) + "." + string(d.Name()),
					path:          fmt.Sprintf("/%s/%s", service.FullName(), d.Name()),
					clientStreams: d.IsStreamingClient(), serverSends: d.IsStreamingServer(),
				}
				var err error
				if m.request, err = protoregistry.GlobalTypes.FindMessageByName(d.Input().FullName()); err != nil {
					return nil, err
				}
				if m.answer, err = protoregistry.GlobalTypes.FindMessageByName(d.Output().FullName()); err != nil {
					return nil, err
				}
				out[m.name] = m
			}
		}
	}
	return out, nil
}

func (m *method) newRequest() proto.Message { return m.request.New().Interface() }
func (m *method) newAnswer() proto.Message  { return m.answer.New().Interface() }

// service is the part of a method's name before the dot.
func service(name string) string {
	before, _, _ := strings.Cut(name, ".")
	return before
}
