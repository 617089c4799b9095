package kill

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	ownKeys     = 40 // keys that only one client writes
	guardedKeys = 4  // keys that every client writes, guarded
	shortTTL    = 2
	longTTL     = 3600
	// keepHistory is how many revisions a compaction leaves.
	keepHistory = 400
)

// client issues writes one after another until one fails because the server is
// gone. Its state lives on over restarts.
type client struct {
	id   int
	rng  *rand.Rand
	rec  *record
	seq  int
	live map[string]bool // own keys that exist, as far as it knows
	// leases maps a long lease to the keys it was given.
	leases map[int64][]string
	// guards holds the last mod revision this client saw of a guarded key.
	guards map[string]int64
}

func newClient(id int, seed uint64, rec *record) *client {
	return &client{id: id, rng: rand.New(rand.NewPCG(seed, uint64(id))), rec: rec, live: map[string]bool{}, leases: map[int64][]string{}, guards: map[string]int64{}}
}

// errGone wraps the error of the call that ended a run.
type errGone struct{ error }

// run writes until the context ends or a call fails. A refusal that a correct
// server cannot give is returned as it is; the end of the server as errGone.
func (c *client) run(ctx context.Context, conn *grpc.ClientConn) error {
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	for ctx.Err() == nil {
		var err error
		switch n := c.rng.IntN(100); {
		case n < 50:
			err = c.put(ctx, kv, 0)
		case n < 60:
			err = c.remove(ctx, kv)
		case n < 80:
			err = c.guarded(ctx, kv)
		case n < 88:
			err = c.pair(ctx, kv)
		case n < 93:
			err = c.leased(ctx, kv, leases)
		case n < 96:
			err = c.revoke(ctx, leases)
		case n < 97 && c.id == 0:
			err = c.compact(ctx, kv)
		default:
			err = c.put(ctx, kv, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *client) value() string {
	c.seq++
	return fmt.Sprintf("client%d-%d", c.id, c.seq)
}

func (c *client) ownKey() string {
	return fmt.Sprintf("own/%02d/%03d", c.id, c.rng.IntN(ownKeys))
}

func (c *client) put(ctx context.Context, kv pb.KVClient, lease int64) error {
	o := &op{kind: opPut, keys: []string{c.ownKey()}, value: c.value(), lease: lease}
	resp, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(o.keys[0]), Value: []byte(o.value), Lease: lease})
	if err != nil {
		c.rec.lost(o)
		return errGone{err}
	}
	c.live[o.keys[0]] = true
	return c.rec.ack(o, resp.Header.Revision)
}

func (c *client) remove(ctx context.Context, kv pb.KVClient) error {
	o := &op{kind: opDelete, keys: []string{c.ownKey()}}
	resp, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(o.keys[0])})
	if err != nil {
		c.rec.lost(o)
		return errGone{err}
	}
	existed := c.live[o.keys[0]]
	delete(c.live, o.keys[0])
	switch {
	case resp.Deleted == 1:
		return c.rec.ack(o, resp.Header.Revision)
	case existed:
		return fmt.Errorf("delete of %s, which was acknowledged to exist, found nothing", o.keys[0])
	}
	return nil
}

// guarded replaces a shared key if nobody did since this client last saw it.
func (c *client) guarded(ctx context.Context, kv pb.KVClient) error {
	key := fmt.Sprintf("guarded/%d", c.rng.IntN(guardedKeys))
	o := &op{kind: opGuarded, keys: []string{key}, value: c.value(), guard: c.guards[key]}
	resp, err := kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: o.guard}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(o.value)}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
	})
	if err != nil {
		c.rec.lost(o)
		return errGone{err}
	}
	if resp.Succeeded {
		c.guards[key] = resp.Header.Revision
		return c.rec.ack(o, resp.Header.Revision)
	}
	c.guards[key] = 0
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
		if c.guards[key] = kvs[0].ModRevision; kvs[0].ModRevision == o.guard {
			return fmt.Errorf("guarded write of %s at mod revision %d was refused though that is its mod revision", key, o.guard)
		}
	}
	return nil
}

// pair writes two keys in one transaction, wholly or not at all.
func (c *client) pair(ctx context.Context, kv pb.KVClient) error {
	n := c.rng.IntN(5)
	o := &op{kind: opPair, keys: []string{fmt.Sprintf("pair/%02d/%d/a", c.id, n), fmt.Sprintf("pair/%02d/%d/b", c.id, n)}, value: c.value()}
	var ops []*pb.RequestOp
	for _, k := range o.keys {
		ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k), Value: []byte(o.value)}}})
	}
	resp, err := kv.Txn(ctx, &pb.TxnRequest{Success: ops})
	if err != nil {
		c.rec.lost(o)
		return errGone{err}
	}
	return c.rec.ack(o, resp.Header.Revision)
}

// leased grants a lease and attaches new keys to it.
func (c *client) leased(ctx context.Context, kv pb.KVClient, leases pb.LeaseClient) error {
	ttl := int64(longTTL)
	if c.rng.IntN(3) == 0 {
		ttl = shortTTL
	}
	grant, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: ttl})
	if err != nil {
		return errGone{err}
	}
	if ttl == longTTL {
		c.leases[grant.ID] = nil
		c.rec.Lock()
		c.rec.longLeases[grant.ID] = true
		c.rec.Unlock()
	}
	for range 1 + c.rng.IntN(3) {
		value := c.value()
		o := &op{kind: opPut, keys: []string{"leased/" + value}, value: value, lease: grant.ID}
		if ttl == shortTTL {
			c.rec.Lock()
			c.rec.shortLived[o.keys[0]] = true
			c.rec.Unlock()
		}
		resp, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(o.keys[0]), Value: []byte(value), Lease: grant.ID})
		if status.Code(err) == codes.NotFound && ttl == shortTTL {
			return nil // it expired before the key came, which a slow machine may see
		}
		if err != nil {
			delete(c.leases, grant.ID) // its keys are not known any more: never revoke it
			c.rec.lost(o)
			return errGone{err}
		}
		if ttl == longTTL {
			c.leases[grant.ID] = append(c.leases[grant.ID], o.keys[0])
		}
		if err := c.rec.ack(o, resp.Header.Revision); err != nil {
			return err
		}
	}
	return nil
}

// revoke ends one of its long leases: its keys go in one revision.
func (c *client) revoke(ctx context.Context, leases pb.LeaseClient) error {
	ids := make([]int64, 0, len(c.leases))
	for id := range c.leases {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	id := ids[c.rng.IntN(len(ids))]
	o := &op{kind: opRevoke, keys: c.leases[id], lease: id}
	delete(c.leases, id)
	c.rec.Lock()
	delete(c.rec.longLeases, id)
	c.rec.Unlock()
	resp, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
	if err != nil {
		c.rec.lost(o)
		return errGone{err}
	}
	c.rec.Lock()
	c.rec.revoked[id] = true
	c.rec.Unlock()
	if len(o.keys) == 0 {
		return nil
	}
	return c.rec.ack(o, resp.Header.Revision)
}

// compact forgets all but the last revisions.
func (c *client) compact(ctx context.Context, kv pb.KVClient) error {
	c.rec.Lock()
	target := c.rec.revision - keepHistory
	ok := target > c.rec.compacted && target > c.rec.maybeCompacted
	if ok {
		c.rec.maybeCompacted = target
	}
	c.rec.Unlock()
	if !ok {
		return nil
	}
	if _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: target, Physical: c.rng.IntN(4) == 0}); err != nil {
		return errGone{err}
	}
	c.rec.Lock()
	c.rec.compacted = target
	c.rec.Unlock()
	return nil
}
