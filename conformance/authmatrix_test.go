package conformance

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestMatrixHasEveryRPC ensures that the matrix of callers asks for each RPC of etcd's services.
func TestMatrixHasEveryRPC(t *testing.T) {
	rows := map[string]int{}
	for _, row := range matrixRows() {
		rows[row.rpc]++
	}
	all := 0
	for _, file := range []protoreflect.FileDescriptor{pb.File_rpc_proto, v3lockpb.File_v3lock_proto, v3electionpb.File_v3election_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				all++
				rpc := fmt.Sprintf("%s.%s", service.Name(), service.Methods().Get(j).Name())
				if rows[rpc] == 0 && rpc != "Election.Observe" { // which tells nobody why it ends: auth/election-as-the-caller
					t.Errorf("no row is about %s", rpc)
				}
			}
		}
	}
	if all < 40 {
		t.Errorf("the descriptors have %d methods: the walk is broken", all)
	}
}
