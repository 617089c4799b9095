package power

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/e2e/rig"
)

// latenciesOf measures writes of each kind, from several clients at a time: the second
// of two that are written together waits as long as the first.
func latenciesOf(t *testing.T, s *rig.Server) []time.Duration {
	t.Helper()
	const clients, rounds = 4, 5
	var mu sync.Mutex
	var all []time.Duration
	var work sync.WaitGroup
	for i := range clients {
		conn := s.Dial(t)
		kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
		key := fmt.Appendf(nil, "key%d", i)
		ctx, cancel := context.WithTimeout(context.Background(), rig.StartTimeout)
		t.Cleanup(cancel)
		writes := []func() error{
			func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: key}); return err },
			func() error {
				_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{putOp(key, key, 0)}})
				return err
			},
			func() error { _, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key}); return err },
			func() error { _, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 100}); return err },
		}
		work.Go(func() {
			for n := range rounds * len(writes) {
				start := time.Now()
				if err := writes[n%len(writes)](); err != nil {
					t.Error(err)
					return
				}
				took := time.Since(start)
				mu.Lock()
				all = append(all, took)
				mu.Unlock()
			}
		})
	}
	work.Wait()
	if len(all) != clients*rounds*4 {
		t.Fatalf("%d writes were answered", len(all))
	}
	return all
}
