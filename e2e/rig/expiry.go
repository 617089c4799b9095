package rig

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// AwaitExpiry waits until every key on a short lease is gone.
func (v *Verifier) AwaitExpiry(ctx context.Context, conn *grpc.ClientConn) error {
	kv := pb.NewKVClient(conn)
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("leased/"), RangeEnd: []byte("leased0")})
	if err != nil {
		return err
	}
	waiting := map[string]bool{}
	for _, r := range resp.Kvs {
		if v.rec.shortLived[string(r.Key)] {
			waiting[string(r.Key)] = true
		}
	}
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	if err := w.Send(watchFrom(resp.Header.Revision + 1)); err != nil {
		return err
	}
	for len(waiting) > 0 {
		events, err := w.Recv()
		if err != nil {
			return fmt.Errorf("%d keys of expired leases are still there: %w", len(waiting), err)
		}
		for _, e := range events.Events {
			delete(waiting, string(e.Kv.Key))
		}
	}
	return nil
}
