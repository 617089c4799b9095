package rig

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

// Client issues writes one after another until one fails because the server is
// gone. Its state lives on over restarts.
type Client struct {
	id   int
	rng  *rand.Rand
	rec  *Record
	seq  int
	live map[string]bool // own keys that exist, as far as it knows
	// leases maps a long lease to the keys it was given.
	leases map[int64][]string
	// guards holds the last mod revision this client saw of a guarded key.
	guards map[string]int64
}

// NewClient makes client number id, whose choices follow from seed and id.
func NewClient(id int, seed uint64, rec *Record) *Client {
	return &Client{id: id, rng: rand.New(rand.NewPCG(seed, uint64(id))), rec: rec, live: map[string]bool{}, leases: map[int64][]string{}, guards: map[string]int64{}}
}

// GoneError wraps the error of the call that ended a Run: the server is gone.
type GoneError struct{ error }

// Run writes until the context ends or a call fails. A refusal that a correct
// server cannot give is returned as it is; the end of the server as GoneError.
func (c *Client) Run(ctx context.Context, conn *grpc.ClientConn) error {
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

// refresh reads what exists of the client's own keys: an operation that was not
// answered before the kill may or may not have taken effect.
func (c *Client) refresh(ctx context.Context, kv pb.KVClient) error {
	prefix := fmt.Sprintf("own/%02d/", c.id)
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(prefix[:len(prefix)-1] + "0"), KeysOnly: true})
	if err != nil {
		return GoneError{err}
	}
	clear(c.live)
	for _, r := range resp.Kvs {
		c.live[string(r.Key)] = true
	}
	clear(c.guards)
	return nil
}

func (c *Client) value() string {
	c.seq++
	return fmt.Sprintf("client%d-%d", c.id, c.seq)
}

func (c *Client) ownKey() string {
	return fmt.Sprintf("own/%02d/%03d", c.id, c.rng.IntN(ownKeys))
}

func (c *Client) put(ctx context.Context, kv pb.KVClient, lease int64) error {
	o := &Op{Kind: Put, Keys: []string{c.ownKey()}, Value: c.value(), Lease: lease}
	resp, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(o.Keys[0]), Value: []byte(o.Value), Lease: lease})
	if err != nil {
		c.rec.Lost(o)
		return GoneError{err}
	}
	c.live[o.Keys[0]] = true
	return c.rec.Ack(o, resp.Header.Revision)
}

func (c *Client) remove(ctx context.Context, kv pb.KVClient) error {
	o := &Op{Kind: Delete, Keys: []string{c.ownKey()}}
	resp, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(o.Keys[0])})
	if err != nil {
		c.rec.Lost(o)
		return GoneError{err}
	}
	existed := c.live[o.Keys[0]]
	delete(c.live, o.Keys[0])
	switch {
	case resp.Deleted == 1:
		return c.rec.Ack(o, resp.Header.Revision)
	case existed:
		return fmt.Errorf("delete of %s, which was acknowledged to exist, found nothing", o.Keys[0])
	}
	return nil
}

// guarded replaces a shared key if nobody did since this client last saw it.
func (c *Client) guarded(ctx context.Context, kv pb.KVClient) error {
	key := fmt.Sprintf("guarded/%d", c.rng.IntN(guardedKeys))
	o := &Op{Kind: Guarded, Keys: []string{key}, Value: c.value(), Guard: c.guards[key]}
	resp, err := kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: o.Guard}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(o.Value)}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
	})
	if err != nil {
		c.rec.Lost(o)
		return GoneError{err}
	}
	if resp.Succeeded {
		c.guards[key] = resp.Header.Revision
		return c.rec.Ack(o, resp.Header.Revision)
	}
	c.guards[key] = 0
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
		if c.guards[key] = kvs[0].ModRevision; kvs[0].ModRevision == o.Guard {
			return fmt.Errorf("guarded write of %s at mod revision %d was refused though that is its mod revision", key, o.Guard)
		}
	}
	return nil
}

// pair writes two keys in one transaction, wholly or not at all.
func (c *Client) pair(ctx context.Context, kv pb.KVClient) error {
	n := c.rng.IntN(5)
	o := &Op{Kind: Pair, Keys: []string{fmt.Sprintf("pair/%02d/%d/a", c.id, n), fmt.Sprintf("pair/%02d/%d/b", c.id, n)}, Value: c.value()}
	var ops []*pb.RequestOp
	for _, k := range o.Keys {
		ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k), Value: []byte(o.Value)}}})
	}
	resp, err := kv.Txn(ctx, &pb.TxnRequest{Success: ops})
	if err != nil {
		c.rec.Lost(o)
		return GoneError{err}
	}
	return c.rec.Ack(o, resp.Header.Revision)
}

// leased grants a lease and attaches new keys to it.
func (c *Client) leased(ctx context.Context, kv pb.KVClient, leases pb.LeaseClient) error {
	ttl := int64(longTTL)
	if c.rng.IntN(3) == 0 {
		ttl = shortTTL
	}
	grant, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: ttl})
	if err != nil {
		return GoneError{err}
	}
	if ttl == longTTL {
		c.leases[grant.ID] = nil
		c.rec.Lock()
		c.rec.longLeases[grant.ID] = true
		c.rec.Unlock()
	}
	for range 1 + c.rng.IntN(3) {
		value := c.value()
		o := &Op{Kind: Put, Keys: []string{"leased/" + value}, Value: value, Lease: grant.ID}
		if ttl == shortTTL {
			c.rec.Lock()
			c.rec.shortLived[o.Keys[0]] = true
			c.rec.Unlock()
		}
		resp, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(o.Keys[0]), Value: []byte(value), Lease: grant.ID})
		if status.Code(err) == codes.NotFound && ttl == shortTTL {
			return nil // it expired before the key came, which a slow machine may see
		}
		if err != nil {
			delete(c.leases, grant.ID) // its keys are not known any more: never revoke it
			c.rec.Lost(o)
			return GoneError{err}
		}
		if ttl == longTTL {
			c.leases[grant.ID] = append(c.leases[grant.ID], o.Keys[0])
		}
		if err := c.rec.Ack(o, resp.Header.Revision); err != nil {
			return err
		}
	}
	return nil
}

// revoke ends one of its long leases: its keys go in one revision.
func (c *Client) revoke(ctx context.Context, leases pb.LeaseClient) error {
	ids := make([]int64, 0, len(c.leases))
	for id := range c.leases {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	id := ids[c.rng.IntN(len(ids))]
	o := &Op{Kind: Revoke, Keys: c.leases[id], Lease: id}
	delete(c.leases, id)
	c.rec.Lock()
	delete(c.rec.longLeases, id)
	c.rec.Unlock()
	resp, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
	if err != nil {
		c.rec.Lost(o)
		return GoneError{err}
	}
	c.rec.Lock()
	c.rec.revoked[id] = true
	c.rec.Unlock()
	if len(o.Keys) == 0 {
		return nil
	}
	return c.rec.Ack(o, resp.Header.Revision)
}

// compact forgets all but the last revisions.
func (c *Client) compact(ctx context.Context, kv pb.KVClient) error {
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
		return GoneError{err}
	}
	c.rec.Lock()
	c.rec.compacted = target
	c.rec.Unlock()
	return nil
}
