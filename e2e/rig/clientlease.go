package rig

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// shortTTL is the least that a server with etcd's election time-out grants.
	shortTTL = 2 * time.Second
	longTTL  = time.Hour
	// keptLeases bounds how many leases a client keeps alive.
	keptLeases = 4
)

// longLease is a lease that a client may revoke, with how many keys it gave it.
type longLease struct {
	id   int64
	keys int
}

// leaseID is unique, and never 0.
func (c *Client) leaseID() int64 {
	c.seq++
	return int64(c.id+1)<<32 | int64(c.seq)
}

// leased grants a lease and attaches new keys to it. A third are short: of those,
// half are kept alive for a while, until all are left to expire.
func (c *Client) leased(ctx context.Context, kv pb.KVClient, leases pb.LeaseClient) error {
	ttl := longTTL
	if c.rng.IntN(3) == 0 {
		ttl = shortTTL
	}
	id := c.leaseID()
	c.rec.leaseSent(id, ttl)
	sent := time.Now()
	grant, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: int64(ttl / time.Second)})
	if err != nil {
		c.rec.leaseOver(id, sent, 0)
		return GoneError{err}
	}
	c.rec.leaseOver(id, sent, time.Duration(grant.TTL)*time.Second)
	if ttl == shortTTL && c.rng.IntN(2) == 0 && len(c.kept) < keptLeases {
		c.kept = append(c.kept, id)
	}
	keys := c.rng.IntN(4)
	for range keys {
		value := c.value(0)
		o := &Op{Kind: Put, Keys: []string{"leased/" + value}, Value: value, Lease: id}
		resp, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(o.Keys[0]), Value: []byte(value), Lease: id})
		if status.Code(err) == codes.NotFound {
			return c.mayBeGone(id)
		}
		if err != nil {
			c.rec.Lost(o)
			return GoneError{err}
		}
		if err := c.rec.Ack(o, resp.Header.Revision); err != nil {
			return err
		}
	}
	if ttl == longTTL {
		c.long = append(c.long, longLease{id, keys})
	}
	return nil
}

// mayBeGone judges the answer that a lease does not exist.
func (c *Client) mayBeGone(id int64) error {
	if until := c.rec.mustLive(id); time.Now().Before(until) {
		return fmt.Errorf("lease %x is gone %v before its time", id, time.Until(until))
	}
	return nil
}

// renew keeps one of its short leases alive, or leaves it to expire.
func (c *Client) renew(ctx context.Context, leases pb.LeaseClient) error {
	if len(c.kept) == 0 {
		return nil
	}
	at := c.rng.IntN(len(c.kept))
	id := c.kept[at]
	if c.rng.IntN(20) == 0 {
		c.kept = slices.Delete(c.kept, at, at+1)
		return nil
	}
	if c.keepAlive == nil {
		var err error
		if c.keepAlive, err = leases.LeaseKeepAlive(ctx); err != nil {
			return GoneError{err}
		}
	}
	sent := time.Now()
	err := c.keepAlive.Send(&pb.LeaseKeepAliveRequest{ID: id})
	var resp *pb.LeaseKeepAliveResponse
	if err == nil {
		resp, err = c.keepAlive.Recv()
	}
	if err != nil {
		c.rec.leaseOver(id, sent, 0)
		return GoneError{err}
	}
	if resp.ID != id {
		return fmt.Errorf("keep-alive of lease %x was answered for lease %x", id, resp.ID)
	}
	c.rec.leaseOver(id, sent, time.Duration(resp.TTL)*time.Second)
	if resp.TTL <= 0 {
		c.kept = slices.Delete(c.kept, at, at+1)
		return c.mayBeGone(id)
	}
	return nil
}

// revoke ends one of its long leases: its keys go in one revision.
func (c *Client) revoke(ctx context.Context, leases pb.LeaseClient) error {
	if len(c.long) == 0 {
		return nil
	}
	at := c.rng.IntN(len(c.long))
	o, keys := &Op{Kind: Revoke, Lease: c.long[at].id}, c.long[at].keys
	c.long = slices.Delete(c.long, at, at+1)
	c.rec.Lock()
	c.rec.leases[o.Lease].revoking = true
	c.rec.Unlock()
	resp, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: o.Lease})
	if err != nil {
		c.rec.Lost(o)
		return GoneError{err}
	}
	c.rec.Lock()
	c.rec.leases[o.Lease].revoked = true
	c.rec.Unlock()
	if keys == 0 {
		return nil
	}
	return c.rec.Ack(o, resp.Header.Revision)
}
