package rig

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	ownKeys     = 40 // keys that only one client writes
	guardedKeys = 4  // keys that every client writes, guarded
	severalKeys = 8  // at most in one transaction
	bigKeys     = 3  // keys of one client with large values
	// bigValue makes the log roll every hundred such writes, bytes.
	bigValue = 128 << 10
	// keepHistory is how many revisions a compaction leaves at most.
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
	// long are leases that it may revoke, kept those that it keeps alive.
	long      []longLease
	kept      []int64
	keepAlive pb.Lease_LeaseKeepAliveClient // of the session, opened when needed
	// guards holds the last mod revision this client saw of a guarded key.
	guards map[string]int64
	big    atomic.Int64 // see Load.SetBig
}

// NewClient makes client number id, whose choices follow from seed and id.
func NewClient(id int, seed uint64, rec *Record) *Client {
	return &Client{id: id, rng: rand.New(rand.NewPCG(seed, uint64(id))), rec: rec, live: map[string]bool{}, guards: map[string]int64{}}
}

// GoneError wraps the error of the call that ended a Run: the server is gone.
type GoneError struct{ error }

// Unwrap is the call's error.
func (e GoneError) Unwrap() error { return e.error }

// Run writes until the context ends or a call fails. A refusal that a correct
// server cannot give is returned as it is; the end of the server as GoneError.
func (c *Client) Run(ctx context.Context, conn *grpc.ClientConn) error {
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	c.keepAlive = nil
	for ctx.Err() == nil {
		var err error
		switch n := c.rng.IntN(100); {
		case c.rng.Int64N(100) < c.big.Load():
			err = c.put(ctx, kv, c.bigKey(), bigValue)
		case n < 46:
			err = c.put(ctx, kv, c.ownKey(), 0)
		case n < 48:
			err = c.put(ctx, kv, c.bigKey(), bigValue)
		case n < 56:
			err = c.remove(ctx, kv)
		case n < 57:
			err = c.removeRange(ctx, kv)
		case n < 73:
			err = c.guarded(ctx, kv)
		case n < 82:
			err = c.several(ctx, kv)
		case n < 87:
			err = c.leased(ctx, kv, leases)
		case n < 95:
			err = c.renew(ctx, leases)
		case n < 97:
			err = c.revoke(ctx, leases)
		case c.id == 0:
			err = c.compact(ctx, kv)
		default:
			err = c.put(ctx, kv, c.ownKey(), 0)
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
	prefix := c.ownPrefix()
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

// value is unique, and at least size bytes long.
func (c *Client) value(size int) string {
	c.seq++
	id := fmt.Sprintf("client%d-%d ", c.id, c.seq)
	return id + strings.Repeat(".", max(0, size-len(id)))
}

func (c *Client) ownPrefix() string { return fmt.Sprintf("own/%02d/", c.id) }

func (c *Client) ownKey() string {
	return fmt.Sprintf("%s%03d", c.ownPrefix(), c.rng.IntN(ownKeys))
}

func (c *Client) bigKey() string { return fmt.Sprintf("big/%02d/%d", c.id, c.rng.IntN(bigKeys)) }

func (c *Client) put(ctx context.Context, kv pb.KVClient, key string, size int) error {
	o := &Op{Kind: Put, Keys: []string{key}, Value: c.value(size)}
	resp, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(o.Value)})
	if err != nil {
		c.rec.Lost(o)
		return GoneError{err}
	}
	c.live[key] = true
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
	o := &Op{Kind: Guarded, Keys: []string{key}, Value: c.value(0), Guard: c.guards[key]}
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

// removeRange deletes a quarter of its own keys in one revision.
func (c *Client) removeRange(ctx context.Context, kv pb.KVClient) error {
	prefix := c.ownPrefix() + "0" + string('0'+byte(c.rng.IntN(ownKeys/10)))
	o := &Op{Kind: DeleteRange, Keys: []string{prefix, prefix + ":"}}
	resp, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(o.Keys[0]), RangeEnd: []byte(o.Keys[1])})
	if err != nil {
		c.rec.Lost(o)
		return GoneError{err}
	}
	n := int64(0)
	for key := range c.live {
		if strings.HasPrefix(key, prefix) {
			delete(c.live, key)
			n++
		}
	}
	if n != resp.Deleted {
		return fmt.Errorf("delete of %s* found %d keys, %d were acknowledged to exist", prefix, resp.Deleted, n)
	}
	if n == 0 {
		return nil
	}
	return c.rec.Ack(o, resp.Header.Revision)
}

// several writes some keys in one transaction, wholly or not at all.
func (c *Client) several(ctx context.Context, kv pb.KVClient) error {
	group := c.rng.IntN(5)
	o := &Op{Kind: Several, Value: c.value(0)}
	var ops []*pb.RequestOp
	for n := range 2 + c.rng.IntN(severalKeys-1) {
		key := fmt.Sprintf("several/%02d/%d/%d", c.id, group, n)
		o.Keys = append(o.Keys, key)
		ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(o.Value)}}})
	}
	resp, err := kv.Txn(ctx, &pb.TxnRequest{Success: ops})
	if err != nil {
		c.rec.Lost(o)
		return GoneError{err}
	}
	return c.rec.Ack(o, resp.Header.Revision)
}

// compact forgets all but some of the last revisions, and none that the verifier
// has not seen: so it knows them all.
func (c *Client) compact(ctx context.Context, kv pb.KVClient) error {
	c.rec.Lock()
	target := min(c.rec.revision-1-c.rng.Int64N(keepHistory), c.rec.witnessed)
	// A compaction at 1 forgets nothing: no watch is told of it.
	ok := target > max(c.rec.compacted, c.rec.maybeCompacted, 1)
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
