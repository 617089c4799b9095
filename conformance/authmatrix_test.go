package conformance

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestMatrixHasEveryRPC ensures that the matrix of callers asks for each RPC of etcd's services.
func TestMatrixHasEveryRPC(t *testing.T) {
	rows := map[string]int{}
	for _, row := range matrixRows() {
		rows[row.rpc]++
	}
	services, all := pb.File_rpc_proto.Services(), 0
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			all++
			if rpc := fmt.Sprintf("%s.%s", services.Get(i).Name(), services.Get(i).Methods().Get(j).Name()); rows[rpc] == 0 {
				t.Errorf("no row is about %s", rpc)
			}
		}
	}
	if all < 40 {
		t.Errorf("the descriptors have %d methods: the walk is broken", all)
	}
}
