package conformance

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// longTTL is the TTL, in seconds, of leases that outlive their case.
const longTTL = 600

// lockCases are the cases of the Lock service.
func lockCases() []Case {
	cases := []Case{
		{Name: "lock/key-and-header", RPC: "Lock.Lock", Covers: []string{"LockRequest.name", "LockRequest.lease"}, Run: lockKey},
		{Name: "lock/same-lease-again", RPC: "Lock.Lock", Run: lockAgain},
		{Name: "lock/lease-of-the-servers", RPC: "Lock.Lock", Run: lockOwnLease},
		{Name: "lock/negative-and-large-lease-ids", RPC: "Lock.Lock", Run: lockLeaseIDs},
		{Name: "lock/empty-name", RPC: "Lock.Lock", Run: lockEmptyName},
		{Name: "lock/names-do-not-meet", RPC: "Lock.Lock", Run: lockNames},
		{Name: "lock/any-key-below-the-name-counts", RPC: "Lock.Lock", Run: lockForeignKey},
		{Name: "lock/waiters-in-order", RPC: "Lock.Lock", Run: lockOrder},
		{Name: "lock/released-by-delete", RPC: "Lock.Lock", Run: lockDeleted},
		{Name: "lock/released-by-revoke", RPC: "Lock.Lock", Run: lockRevoked},
		{Name: "lock/released-by-expiry", RPC: "Lock.Lock", Slow: true, Run: lockExpired},
		{Name: "lock/cancelled-waiter-leaves-no-key", RPC: "Lock.Lock", Run: lockCancelled},
		{Name: "lock/timed-out-waiter-leaves-no-key", RPC: "Lock.Lock", Slow: true, Run: lockTimedOut},
		{Name: "lock/waiter-behind-a-cancelled-one-waits-on", RPC: "Lock.Lock", Run: lockGap},
		{Name: "lock/lease-lost-while-waiting", RPC: "Lock.Lock", Run: lockLeaseLost},
		{Name: "lock/unknown-lease", RPC: "Lock.Lock", Run: lockUnknownLease},
		{Name: "lock/too-large", RPC: "Lock.Lock", Run: lockTooLarge},
		{Name: "lock/mutual-exclusion", RPC: "Lock.Lock", Run: lockExclusion},
		{Name: "lock/unlock", RPC: "Lock.Unlock", Covers: []string{"UnlockRequest.key"}, Run: lockUnlock},
		{Name: "lock/unlock-without-key", RPC: "Lock.Unlock", Run: lockUnlockNothing},
	}
	for i := range cases {
		cases[i].Needs = Leases
	}
	return cases
}

// lock takes the lock name with a lease; it must be free.
func (c *C) lock(name string, lease int64) *v3lockpb.LockResponse {
	c.Helper()
	r, err := c.Lock.Lock(c.Ctx, &v3lockpb.LockRequest{Name: c.key(name), Lease: lease})
	c.must(err, "lock %s with lease %x", name, lease)
	return r
}

func (c *C) unlock(key []byte) *v3lockpb.UnlockResponse {
	c.Helper()
	r, err := c.Lock.Unlock(c.Ctx, &v3lockpb.UnlockRequest{Key: key})
	c.must(err, "unlock %q", key)
	return r
}

// queueKey is the key that a lease has in the queue of a lock or an election.
func queueKey(name []byte, lease int64) []byte { return fmt.Appendf(nil, "%s/%x", name, lease) }

// waiter is a call that waits for its turn.
type waiter[R any] struct {
	lease  int64
	key    []byte
	result chan outcomeOf[R]
}

// outcomeOf is what came of a call.
type outcomeOf[R any] struct {
	response R
	err      error
}

// wait starts a call with a lease of its own, and returns once the call's key stands
// in the queue name: calls started one after another wait in that order.
func wait[R any](c *C, name string, lease int64, call func(lease int64) (R, error)) *waiter[R] {
	c.Helper()
	w := &waiter[R]{lease: lease, key: queueKey(c.key(name), lease), result: make(chan outcomeOf[R], 1)}
	stream := c.open()
	defer stream.cancel()
	id := stream.create(&pb.WatchCreateRequest{Key: w.key}).WatchId
	go func() {
		r, err := call(lease)
		w.result <- outcomeOf[R]{r, err}
	}()
	stream.events(id, 1)
	// The call's transaction is answered to it about when the event is out. A call that is
	// cancelled in between leaves its key on etcd, so that what follows here comes later.
	for range 3 {
		c.revision()
	}
	return w
}

// done is the call's result, which comes or ends the case.
func (w *waiter[R]) done(c *C) (R, error) {
	c.Helper()
	select {
	case o := <-w.result:
		return o.response, o.err
	case <-c.Ctx.Done():
		c.Fatalf("the call with lease %x still waits", w.lease)
		panic("unreachable")
	}
}

// waitLock waits for a lock until ctx ends.
func (c *C) waitLock(ctx context.Context, name string) *waiter[*v3lockpb.LockResponse] {
	c.Helper()
	return wait(c, name, c.grant(longTTL), func(lease int64) (*v3lockpb.LockResponse, error) {
		return c.Lock.Lock(ctx, &v3lockpb.LockRequest{Name: c.key(name), Lease: lease})
	})
}

// acquired requires that a waiter got its lock, not before revision: at that the lock
// was released.
func (c *C) acquired(w *waiter[*v3lockpb.LockResponse], revision int64) *v3lockpb.LockResponse {
	c.Helper()
	r, err := w.done(c)
	c.must(err, "the lock of lease %x", w.lease)
	c.header("lock", r.Header)
	equal(c, "key", string(r.Key), string(w.key))
	if r.Header.Revision < revision {
		c.Errorf("locked at revision %d, before the release at %d", r.Header.Revision, revision)
	}
	return r
}

// gone requires that a key is deleted, or will be.
func (c *C) gone(key []byte, since int64) {
	c.Helper()
	stream := c.open()
	defer stream.cancel()
	id := stream.create(&pb.WatchCreateRequest{
		Key: key, StartRevision: since, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT},
	}).WatchId
	stream.waitDeletes(id, 1)
	equal(c, "count of a deleted key", c.rng(&pb.RangeRequest{Key: key}).Count, 0)
}

func lockKey(c *C) {
	before := c.revision()
	lease := c.grant(longTTL)
	r := c.lock("l", lease)
	c.header("lock", r.Header)
	equal(c, "header revision", r.Header.Revision, before+1)
	equal(c, "key", string(r.Key), string(queueKey(c.key("l"), lease)))
	kv := c.rng(&pb.RangeRequest{Key: r.Key}).Kvs[0]
	equal(c, "lease of the key", kv.Lease, lease)
	equal(c, "value", string(kv.Value), "")
	equal(c, "create revision", kv.CreateRevision, before+1)
	equal(c, "version", kv.Version, 1)
}

func lockAgain(c *C) {
	lease := c.grant(longTTL)
	first := c.lock("l", lease)
	c.put("x", "1")
	again := c.lock("l", lease)
	equal(c, "key", string(again.Key), string(first.Key))
	equal(c, "header revision", again.Header.Revision, first.Header.Revision+1)
	equal(c, "version of the key", c.rng(&pb.RangeRequest{Key: first.Key}).Kvs[0].Version, 1)
}

func lockOwnLease(c *C) {
	r := c.lock("l", 0)
	var lease int64
	if _, err := fmt.Sscanf(strings.TrimPrefix(string(r.Key), string(c.key("l"))+"/"), "%x", &lease); err != nil || lease <= 0 {
		c.Fatalf("key %q does not end with a lease: %v", r.Key, err)
	}
	ttl := c.ttl(lease)
	equal(c, "granted TTL", ttl.GrantedTTL, 60)
	equal(c, "keys of the lease", string(bytes.Join(ttl.Keys, nil)), string(r.Key))
	c.revoke(lease)
	equal(c, "count after the revoke", c.rng(&pb.RangeRequest{Key: r.Key}).Count, 0)
}

func lockLeaseIDs(c *C) {
	for _, id := range []int64{-freshID(), 1<<63 - 1 - freshID()>>32} {
		c.grantID(id, longTTL)
		equal(c, "key", string(c.lock("l", id).Key), string(queueKey(c.key("l"), id)))
		c.revoke(id)
	}
}

// lockEmptyName: a lock without a name is one like any other. It may have to wait, if the
// server holds other keys that begin with a slash.
func lockEmptyName(c *C) {
	lease := c.grant(longTTL)
	ctx, cancel := context.WithCancel(c.Ctx)
	defer cancel()
	stream := c.open()
	id := stream.create(&pb.WatchCreateRequest{Key: queueKey(nil, lease)}).WatchId
	result := make(chan error, 1)
	go func() {
		_, err := c.Lock.Lock(ctx, &v3lockpb.LockRequest{Lease: lease})
		result <- err
	}()
	equal(c, "lease of the key", stream.events(id, 1)[0].Kv.Lease, lease)
	cancel()
	if err := <-result; err != nil && status.Code(err) != codes.Canceled {
		c.Errorf("got %v", err)
	}
	c.revoke(lease)
}

func lockNames(c *C) {
	for _, name := range []string{"l", "l2", "l-", "l0", "L", "l/l", "", "\x00", "\xff", "\xff\xfe\x00l"} {
		c.lock(name, c.grant(longTTL))
	}
}

func lockForeignKey(c *C) {
	c.put("l/not-a-lease", "v")
	c.put("l/and/deeper", "v")
	w := c.waitLock(c.Ctx, "l")
	c.del("l/not-a-lease")
	c.acquired(w, c.del("l/and/deeper").Header.Revision)
}

func lockOrder(c *C) {
	holder := c.lock("l", c.grant(longTTL)).Key
	var waiters []*waiter[*v3lockpb.LockResponse]
	for range 5 {
		waiters = append(waiters, c.waitLock(c.Ctx, "l"))
	}
	for _, w := range waiters {
		holder = c.acquired(w, c.unlock(holder).Header.Revision).Key
	}
	equal(c, "keys left", c.rng(c.all()).Count, 1)
}

func lockDeleted(c *C) {
	holder := c.lock("l", c.grant(longTTL))
	w := c.waitLock(c.Ctx, "l")
	d, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: holder.Key})
	c.must(err, "delete")
	c.acquired(w, d.Header.Revision)
}

func lockRevoked(c *C) {
	lease := c.grant(longTTL)
	c.lock("l", lease)
	w := c.waitLock(c.Ctx, "l")
	c.acquired(w, c.revoke(lease).Header.Revision)
}

func lockExpired(c *C) {
	granted := time.Now()
	g := c.grantID(freshID(), shortTTL)
	holder := c.lock("l", g.ID)
	w := c.waitLock(c.Ctx, "l")
	c.acquired(w, holder.Header.Revision+2) // +1 is the waiter's key
	ttl := time.Duration(g.TTL) * time.Second
	if d := time.Since(granted); d < ttl || d > ttl+maxExpiryDelay {
		c.Errorf("locked %s after the grant of %s to the holder", d, ttl)
	}
}

func lockCancelled(c *C) {
	holder := c.lock("l", c.grant(longTTL))
	ctx, cancel := context.WithCancel(c.Ctx)
	w := c.waitLock(ctx, "l")
	cancel()
	_, err := w.done(c)
	equal(c, "code", status.Code(err), codes.Canceled)
	c.gone(w.key, holder.Header.Revision)
	equal(c, "granted TTL of the waiter's lease", c.ttl(w.lease).GrantedTTL, longTTL)
	equal(c, "count of the holder's key", c.rng(&pb.RangeRequest{Key: holder.Key}).Count, 1)
}

func lockTimedOut(c *C) {
	holder := c.lock("l", c.grant(longTTL))
	ctx, cancel := context.WithTimeout(c.Ctx, 4*time.Second)
	defer cancel()
	w := c.waitLock(ctx, "l")
	_, err := w.done(c)
	equal(c, "code", status.Code(err), codes.DeadlineExceeded)
	c.gone(w.key, holder.Header.Revision)
}

func lockGap(c *C) {
	holder := c.lock("l", c.grant(longTTL))
	ctx, cancel := context.WithCancel(c.Ctx)
	middle := c.waitLock(ctx, "l")
	last := c.waitLock(c.Ctx, "l")
	cancel()
	c.gone(middle.key, holder.Header.Revision)
	c.acquired(last, c.unlock(holder.Key).Header.Revision)
}

func lockLeaseLost(c *C) {
	holder := c.lock("l", c.grant(longTTL))
	lost := c.waitLock(c.Ctx, "l")
	last := c.waitLock(c.Ctx, "l")
	c.revoke(lost.lease)
	released := c.unlock(holder.Key).Header.Revision
	_, err := lost.done(c)
	c.wantError(err, codes.Unknown, "mutex: session is expired")
	c.acquired(last, released)
}

func lockUnknownLease(c *C) {
	before := c.revision()
	_, err := c.Lock.Lock(c.Ctx, &v3lockpb.LockRequest{Name: c.key("l"), Lease: freshID()})
	c.wantError(err, codes.Unknown, msgLeaseNotFound)
	equal(c, "revision", c.revision(), before)
}

// lockTooLarge: the transaction below holds the name seven times.
func lockTooLarge(c *C) {
	lease := c.grant(longTTL)
	name := bytes.Repeat([]byte("n"), 200<<10)
	copy(name, c.key(""))
	r, err := c.Lock.Lock(c.Ctx, &v3lockpb.LockRequest{Name: name, Lease: lease})
	c.must(err, "lock a long name")
	c.unlock(r.Key)
	_, err = c.Lock.Lock(c.Ctx, &v3lockpb.LockRequest{Name: append(name, name[:100<<10]...), Lease: lease})
	c.wantError(err, codes.Unknown, msgTooLarge)
}

// lockExclusion: clients count up a number by reading and writing it under a lock;
// none is lost.
func lockExclusion(c *C) {
	const clients, each = 6, 8
	c.put("n", "0")
	var wg sync.WaitGroup
	errs := make(chan error, clients)
	for range clients {
		conn := dial(c.T, c.Endpoint.Address)
		kv, locks, lease := pb.NewKVClient(conn), v3lockpb.NewLockClient(conn), c.grant(longTTL)
		wg.Go(func() {
			for range each {
				if err := c.countUp(kv, locks, lease); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		c.must(err, "client")
	}
	equal(c, "the number", string(c.get("n").Kvs[0].Value), fmt.Sprint(clients*each))
}

func (c *C) countUp(kv pb.KVClient, locks v3lockpb.LockClient, lease int64) error {
	held, err := locks.Lock(c.Ctx, &v3lockpb.LockRequest{Name: c.key("l"), Lease: lease})
	if err != nil {
		return err
	}
	r, err := kv.Range(c.Ctx, &pb.RangeRequest{Key: c.key("n")})
	if err != nil {
		return err
	}
	var n int
	if _, err := fmt.Sscan(string(r.Kvs[0].Value), &n); err != nil {
		return err
	}
	if _, err := kv.Put(c.Ctx, &pb.PutRequest{Key: c.key("n"), Value: fmt.Append(nil, n+1)}); err != nil {
		return err
	}
	_, err = locks.Unlock(c.Ctx, &v3lockpb.UnlockRequest{Key: held.Key})
	return err
}

func lockUnlock(c *C) {
	r := c.lock("l", c.grant(longTTL))
	u := c.unlock(r.Key)
	c.header("unlock", u.Header)
	equal(c, "header revision", u.Header.Revision, r.Header.Revision+1)
	equal(c, "count", c.rng(&pb.RangeRequest{Key: r.Key}).Count, 0)
	equal(c, "header revision of a second unlock", c.unlock(r.Key).Header.Revision, r.Header.Revision+1)
	c.put("x", "of no lock")
	c.unlock(c.key("x"))
	equal(c, "count of a key of no lock", c.get("x").Count, 0)
}

func lockUnlockNothing(c *C) {
	_, err := c.Lock.Unlock(c.Ctx, &v3lockpb.UnlockRequest{})
	c.wantError(err, codes.Unknown, msgEmptyKey)
}
