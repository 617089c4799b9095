package conformance

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// grant makes a lease of ttl seconds with an id that the server chooses.
func (c *C) grant(ttl int64) int64 {
	c.Helper()
	r, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: ttl})
	c.must(err, "grant of %d s", ttl)
	return r.ID
}

// revoke revokes a lease, which must exist.
func (c *C) revoke(id int64) *pb.LeaseRevokeResponse {
	c.Helper()
	r, err := c.Lease.LeaseRevoke(c.Ctx, &pb.LeaseRevokeRequest{ID: id})
	c.must(err, "revoke %x", id)
	return r
}

// leaseGrantAbsent is what cases of other RPCs that need a lease assert where there are none.
func leaseGrantAbsent(c *C) {
	_, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: 60})
	if status.Code(err) != codes.Unimplemented {
		c.Errorf("LeaseGrant without the capability: got %v, want Unimplemented", err)
	}
}

// leaseCases are the cases of the Lease service.
func leaseCases() []Case {
	cases := []Case{
		{Name: "lease/grant-chosen-id", RPC: "Lease.LeaseGrant", Covers: []string{"LeaseGrantRequest.ID"}, Run: leaseChosenID},
		{Name: "lease/grant-generated-ids", RPC: "Lease.LeaseGrant", Run: leaseGenerated},
		{Name: "lease/grant-ttl", RPC: "Lease.LeaseGrant", Covers: []string{"LeaseGrantRequest.TTL"}, Run: leaseTTL},
		{Name: "lease/grant-makes-no-revision", RPC: "Lease.LeaseGrant", Run: leaseNoRevision},
		{Name: "lease/revoke", RPC: "Lease.LeaseRevoke", Covers: []string{"LeaseRevokeRequest.ID"}, Run: leaseRevoke},
		{Name: "lease/revoke-in-one-revision", RPC: "Lease.LeaseRevoke", Run: leaseRevokeOnce},
		{Name: "lease/revoke-without-keys", RPC: "Lease.LeaseRevoke", Run: leaseRevokeEmpty},
		{Name: "lease/moved-key-stays", RPC: "Lease.LeaseRevoke", Run: leaseMoved},
		{Name: "lease/time-to-live", RPC: "Lease.LeaseTimeToLive", Covers: []string{"LeaseTimeToLiveRequest.ID"}, Run: leaseTimeToLive},
		{Name: "lease/time-to-live-keys", RPC: "Lease.LeaseTimeToLive", Covers: []string{"LeaseTimeToLiveRequest.keys"}, Run: leaseKeys},
		{Name: "lease/leases", RPC: "Lease.LeaseLeases", Run: leaseLeases},
		{Name: "lease/keep-alive-many-on-one-stream", RPC: "Lease.LeaseKeepAlive", Covers: []string{"LeaseKeepAliveRequest.ID"}, Run: leaseKeepAliveMany},
		{Name: "lease/keep-alive-renews", RPC: "Lease.LeaseKeepAlive", Slow: true, Run: leaseKeepAlive},
		{Name: "lease/expiry-deletes-in-one-revision", RPC: "Lease.LeaseGrant", Slow: true, Run: leaseExpiry},
		{Name: "lease/expiry-of-many", RPC: "Lease.LeaseGrant", Slow: true, Run: leaseExpiryMany},
		{Name: "lease/expired-is-unknown", RPC: "Lease.LeaseTimeToLive", Slow: true, Run: leaseExpired},
		{Name: "lease/headers", RPC: "Lease.LeaseGrant", Run: leaseHeaders},
	}
	for i := range cases {
		cases[i].Needs = Leases
	}
	return cases
}

// grantID makes a lease with an id that the case chose.
func (c *C) grantID(id, ttl int64) *pb.LeaseGrantResponse {
	c.Helper()
	r, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
	c.must(err, "grant %x", id)
	return r
}

// putLease writes key(name) with a lease.
func (c *C) putLease(name string, id int64) *pb.PutResponse {
	c.Helper()
	r, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key(name), Value: []byte("v"), Lease: id})
	c.must(err, "put %s with lease %x", name, id)
	return r
}

// ttl asks for a lease's state with its keys.
func (c *C) ttl(id int64) *pb.LeaseTimeToLiveResponse {
	c.Helper()
	r, err := c.Lease.LeaseTimeToLive(c.Ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	c.must(err, "time to live of %x", id)
	return r
}

// freshID returns a positive lease id that is in use nowhere.
func freshID() int64 { return rand.Int64N(1<<62) + 1 }

func leaseChosenID(c *C) {
	id := freshID()
	r := c.grantID(id, 600)
	equal(c, "id", r.ID, id)
	equal(c, "granted TTL of that id", c.ttl(id).GrantedTTL, 600)
	equal(c, "error", r.Error, "")
	c.revoke(id)
}

func leaseGenerated(c *C) {
	seen := map[int64]bool{}
	for range 20 {
		id := c.grant(600)
		if id <= 0 || seen[id] {
			c.Errorf("generated id %d is not positive or came before", id)
		}
		seen[id] = true
		c.revoke(id)
	}
}

func leaseTTL(c *C) {
	for _, ttl := range []int64{60, 3660, 9000000000} {
		r := c.grantID(freshID(), ttl)
		equal(c, "TTL", r.TTL, ttl)
		equal(c, "granted TTL", c.ttl(r.ID).GrantedTTL, ttl)
		c.revoke(r.ID)
	}
}

func leaseNoRevision(c *C) {
	before := c.revision()
	id := c.grant(600)
	equal(c, "revision after grant", c.revision(), before)
	c.ttl(id)
	c.revoke(id)
	equal(c, "revision after revoke", c.revision(), before)
}

func leaseRevoke(c *C) {
	a, b := c.grant(600), c.grant(600)
	c.putLease("a", a)
	c.putLease("b", b)
	c.put("c", "1")
	c.revoke(a)
	equal(c, "keys left", c.names(c.rng(c.all())), "b c")
	equal(c, "TTL of the revoked", c.ttl(a).TTL, -1)
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("x"), Lease: a})
	c.wantError(err, codes.NotFound, msgLeaseNotFound)
	c.revoke(b)
	equal(c, "keys left", c.names(c.rng(c.all())), "c")
}

func leaseRevokeOnce(c *C) {
	id := c.grant(600)
	w := c.open()
	watch := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	for _, k := range []string{"c", "a", "b"} {
		c.putLease(k, id)
	}
	w.wantEvents(watch, "c=v a=v b=v")
	before := c.revision()
	equal(c, "header revision of the revoke", c.revoke(id).Header.Revision, before+1)
	r := w.recv()
	equal(c, "events, in the order of the keys", c.story(r.Events), "-a -b -c")
	for _, e := range r.Events {
		equal(c, "revision", e.Kv.ModRevision, before+1)
	}
}

func leaseRevokeEmpty(c *C) {
	before := c.put("a", "1").Header.Revision
	id := c.grant(600)
	r := c.revoke(id)
	equal(c, "header revision", r.Header.Revision, before)
	equal(c, "revision", c.revision(), before)
}

func leaseMoved(c *C) {
	a, b := c.grant(600), c.grant(600)
	c.putLease("k", a)
	c.putLease("k", b)
	equal(c, "keys of the old lease", len(c.ttl(a).Keys), 0)
	c.revoke(a)
	equal(c, "count after the old lease's revoke", c.get("k").Count, 1)
	c.del("k")
	equal(c, "keys of the new lease after the delete", len(c.ttl(b).Keys), 0)
	c.put("k", "free")
	c.revoke(b)
	equal(c, "count after the new lease's revoke", c.get("k").Count, 1)
}

func leaseTimeToLive(c *C) {
	a, b := c.grant(600), c.grant(900)
	for id, granted := range map[int64]int64{a: 600, b: 900} {
		r := c.ttl(id)
		equal(c, "id", r.ID, id)
		equal(c, "granted TTL", r.GrantedTTL, granted)
		if r.TTL > granted || r.TTL < granted-60 {
			c.Errorf("TTL %d of %d right after the grant", r.TTL, granted)
		}
		c.revoke(id)
	}
}

func leaseKeys(c *C) {
	id := c.grant(600)
	for _, k := range []string{"b", "a"} {
		c.putLease(k, id)
	}
	var keys []string
	for _, k := range c.ttl(id).Keys {
		keys = append(keys, strings.TrimPrefix(string(k), c.prefix))
	}
	sort.Strings(keys)
	equal(c, "keys", strings.Join(keys, " "), "a b")
	r, err := c.Lease.LeaseTimeToLive(c.Ctx, &pb.LeaseTimeToLiveRequest{ID: id})
	c.must(err, "time to live")
	equal(c, "number of keys without asking", len(r.Keys), 0)
	c.revoke(id)
}

func leaseLeases(c *C) {
	var ids []int64
	for _, ttl := range []int64{3000, 1000, 2000} {
		ids = append(ids, c.grant(ttl))
	}
	list := func() []int64 {
		r, err := c.Lease.LeaseLeases(c.Ctx, &pb.LeaseLeasesRequest{})
		c.must(err, "leases")
		c.header("leases", r.Header)
		var own []int64
		for _, l := range r.Leases {
			if slices.Contains(ids, l.ID) {
				own = append(own, l.ID)
			}
		}
		return own
	}
	equal(c, "leases, first to expire first", fmt.Sprint(list()), fmt.Sprint([]int64{ids[1], ids[2], ids[0]}))
	c.revoke(ids[2])
	equal(c, "leases after a revoke", fmt.Sprint(list()), fmt.Sprint([]int64{ids[1], ids[0]}))
	c.revoke(ids[0])
	c.revoke(ids[1])
}

// keepAlive opens a keep-alive stream and returns a function that renews one lease on it.
func (c *C) keepAlive() func(id int64) *pb.LeaseKeepAliveResponse {
	c.Helper()
	stream, err := c.Lease.LeaseKeepAlive(c.Ctx)
	c.must(err, "open a keep-alive stream")
	return func(id int64) *pb.LeaseKeepAliveResponse {
		c.Helper()
		c.must(stream.Send(&pb.LeaseKeepAliveRequest{ID: id}), "send a keep-alive")
		r, err := stream.Recv()
		c.must(err, "receive a keep-alive's answer")
		return r
	}
}

func leaseKeepAliveMany(c *C) {
	renew := c.keepAlive()
	a, b := c.grant(600), c.grant(900)
	for range 5 {
		for id, ttl := range map[int64]int64{a: 600, b: 900} {
			r := renew(id)
			equal(c, "id", r.ID, id)
			equal(c, "TTL", r.TTL, ttl)
			c.header("keep-alive", r.Header)
		}
	}
	c.revoke(a)
	r := renew(a)
	equal(c, "TTL of the revoked", r.TTL, 0)
	equal(c, "id of the revoked", r.ID, a)
	equal(c, "TTL of the other", renew(b).TTL, 900)
	c.revoke(b)
}

// shortTTL is the TTL, in seconds, of leases that cases wait for. etcd raises it
// to 1.5 times its election time-out.
const shortTTL = 2

// maxExpiryDelay is how late an expiry may be on a busy machine.
const maxExpiryDelay = 15 * time.Second

// waitDeletes waits for n deletes on a watch of all keys and returns them and when the last came.
func (w *watchStream) waitDeletes(id int64, n int) ([]*mvccpb.Event, time.Time) {
	w.c.Helper()
	events := w.events(id, n)
	for _, e := range events {
		if e.Type != mvccpb.Event_DELETE {
			w.c.Fatalf("got %s, want deletes", w.c.story(events))
		}
	}
	return events, time.Now()
}

func leaseKeepAlive(c *C) {
	renew := c.keepAlive()
	w := c.open()
	g := c.grantID(freshID(), shortTTL)
	ttl := time.Duration(g.TTL) * time.Second
	c.putLease("a", g.ID)
	watch := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	var renewed time.Time
	tick := time.NewTicker(ttl / 4)
	defer tick.Stop()
	for range 10 { // two and a half TTLs
		<-tick.C
		renewed = time.Now()
		equal(c, "TTL of a renewed lease", renew(g.ID).TTL, g.TTL)
		equal(c, "count", c.get("a").Count, 1)
	}
	_, gone := w.waitDeletes(watch, 1)
	if d := gone.Sub(renewed); d < ttl || d > ttl+maxExpiryDelay {
		c.Errorf("the key went %s after the last renewal of a lease of %s", d, ttl)
	}
}

func leaseExpiry(c *C) {
	w := c.open()
	granted := time.Now()
	g := c.grantID(freshID(), shortTTL)
	for _, k := range []string{"b", "a", "c"} {
		c.putLease(k, g.ID)
	}
	c.put("kept", "1")
	watch := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	events, gone := w.waitDeletes(watch, 3)
	for _, e := range events {
		equal(c, "revision", e.Kv.ModRevision, events[0].Kv.ModRevision)
	}
	equal(c, "events", c.story(events), "-a -b -c")
	ttl := time.Duration(g.TTL) * time.Second
	if d := gone.Sub(granted); d < ttl || d > ttl+maxExpiryDelay {
		c.Errorf("the keys went %s after the grant of %s", d, ttl)
	}
	equal(c, "keys left", c.names(c.rng(c.all())), "kept")
	equal(c, "TTL", c.ttl(g.ID).TTL, -1)
}

func leaseExpiryMany(c *C) {
	const leases = 30
	w := c.open()
	var ids []int64
	for range leases {
		ids = append(ids, c.grant(shortTTL))
	}
	for i, id := range ids {
		c.putLease(fmt.Sprintf("%02d-a", i), id)
		c.putLease(fmt.Sprintf("%02d-b", i), id)
	}
	watch := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	events, _ := w.waitDeletes(watch, 2*leases)
	// One revision per lease: its two keys, and none of another's.
	byRevision := map[int64]string{}
	for _, e := range events {
		byRevision[e.Kv.ModRevision] += strings.TrimPrefix(string(e.Kv.Key), c.prefix)[:2]
	}
	equal(c, "revisions", len(byRevision), leases)
	for revision, of := range byRevision {
		if len(of) != 4 || of[:2] != of[2:] {
			c.Errorf("revision %d holds the keys of leases %s", revision, of)
		}
	}
}

func leaseExpired(c *C) {
	w := c.open()
	id := c.grant(shortTTL)
	c.putLease("a", id)
	watch := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	w.waitDeletes(watch, 1)
	r := c.ttl(id)
	equal(c, "TTL", r.TTL, -1)
	equal(c, "granted TTL", r.GrantedTTL, 0)
	equal(c, "number of keys", len(r.Keys), 0)
	equal(c, "TTL of a keep-alive", c.keepAlive()(id).TTL, 0)
	_, err := c.Lease.LeaseRevoke(c.Ctx, &pb.LeaseRevokeRequest{ID: id})
	c.wantError(err, codes.NotFound, msgLeaseNotFound)
}

func leaseHeaders(c *C) {
	rev := c.put("a", "1").Header.Revision
	g := c.grantID(freshID(), 600)
	c.header("grant", g.Header)
	equal(c, "header revision of the grant", g.Header.Revision, rev)
	t := c.ttl(g.ID)
	c.header("time to live", t.Header)
	r := c.revoke(g.ID)
	c.header("revoke", r.Header)
}
