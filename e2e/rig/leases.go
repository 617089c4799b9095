package rig

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// compareLeases compares the leases that there are with the record: none ended
// before its time, none outlived it, none came back.
func (v *Verifier) compareLeases(ctx context.Context, conn *grpc.ClientConn) error {
	alive, asked, err := listLeases(ctx, conn)
	if err != nil {
		return err
	}
	answered := time.Now()
	for id := range alive {
		l := v.rec.leases[id]
		switch {
		case l == nil:
			return fmt.Errorf("lease %x exists, and nobody granted it", id)
		case l.revoked, l.gone:
			return fmt.Errorf("lease %x has ended and is back", id)
		case l.ttl < longTTL && asked.After(v.mustEnd(l)):
			return fmt.Errorf("lease %x is there %v after its time", id, asked.Sub(v.mustEnd(l)))
		}
	}
	for id, l := range v.rec.leases {
		if alive[id] {
			continue
		}
		if !l.revoking && answered.Before(l.until) {
			return fmt.Errorf("lease %x is gone %v before its time", id, l.until.Sub(answered))
		}
		l.gone = true
	}
	return v.awaitNoOrphans(ctx, conn)
}

// pollPause is how often is looked for what makes no event.
const pollPause = 100 * time.Millisecond

// awaitNoOrphans waits until every key that has a lease has one that exists. Keys
// go with their lease; only who lists both may catch a lease on its way out.
func (v *Verifier) awaitNoOrphans(ctx context.Context, conn *grpc.ClientConn) error {
	for {
		alive, _, err := listLeases(ctx, conn)
		if err != nil {
			return err
		}
		resp, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("leased/"), RangeEnd: []byte("leased0"), KeysOnly: true})
		if err != nil {
			return err
		}
		orphan := slices.IndexFunc(resp.Kvs, func(r *mvccpb.KeyValue) bool { return r.Lease != 0 && !alive[r.Lease] })
		if orphan < 0 {
			return nil
		}
		if time.Since(v.started) > LeaseSlack {
			return fmt.Errorf("key %s is attached to a lease that does not exist", showRecord(resp.Kvs[orphan]))
		}
		time.Sleep(pollPause)
	}
}

// AwaitExpiry waits until every short lease is gone, on a server that no client
// uses any more.
func (v *Verifier) AwaitExpiry(ctx context.Context, conn *grpc.ClientConn) error {
	v.restarted()
	for {
		alive, asked, err := listLeases(ctx, conn)
		if err != nil {
			return err
		}
		waiting := 0
		for id := range alive {
			l := v.rec.leases[id]
			if l == nil || l.ttl >= longTTL {
				continue
			}
			waiting++
			if late := asked.Sub(v.mustEnd(l)); late > 0 {
				return fmt.Errorf("lease %x is there %v after its time", id, late)
			}
		}
		if waiting == 0 {
			return v.awaitNoOrphans(ctx, conn)
		}
		time.Sleep(pollPause)
	}
}

// listLeases lists the leases; asked is when.
func listLeases(ctx context.Context, conn *grpc.ClientConn) (alive map[int64]bool, asked time.Time, err error) {
	asked = time.Now()
	resp, err := pb.NewLeaseClient(conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return nil, asked, err
	}
	alive = map[int64]bool{}
	for _, l := range resp.Leases {
		alive[l.ID] = true
	}
	return alive, asked, nil
}
