package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// electionCases are the cases of the Election service.
func electionCases() []Case {
	cases := []Case{
		{Name: "election/campaign", RPC: "Election.Campaign", Run: electionCampaign, Covers: []string{
			"CampaignRequest.name", "CampaignRequest.lease", "CampaignRequest.value"}},
		{Name: "election/campaign-again", RPC: "Election.Campaign", Run: electionAgain},
		{Name: "election/lease-of-the-servers", RPC: "Election.Campaign", Run: electionOwnLease},
		{Name: "election/empty-name", RPC: "Election.Campaign", Run: electionEmptyName},
		{Name: "election/succession", RPC: "Election.Campaign", Run: electionSuccession},
		{Name: "election/succession-by-revoke", RPC: "Election.Campaign", Run: electionRevoked},
		{Name: "election/succession-by-expiry", RPC: "Election.Campaign", Slow: true, Run: electionExpired},
		{Name: "election/cancelled-candidate-leaves-no-key", RPC: "Election.Campaign", Run: electionCancelled},
		{Name: "election/lease-lost-while-waiting", RPC: "Election.Campaign", Run: electionLeaseLost},
		{Name: "election/unknown-lease", RPC: "Election.Campaign", Run: electionUnknownLease},
		{Name: "election/proclaim", RPC: "Election.Proclaim", Run: electionProclaim, Covers: []string{
			"ProclaimRequest.leader", "ProclaimRequest.value", "LeaderKey.key", "LeaderKey.name"}},
		{Name: "election/proclaim-with-another-lease", RPC: "Election.Proclaim", Run: electionProclaimLease, Covers: []string{"LeaderKey.lease"}},
		{Name: "election/proclaim-of-a-waiting-candidate", RPC: "Election.Proclaim", Run: electionProclaimWaiting},
		{Name: "election/proclaim-by-another", RPC: "Election.Proclaim", Run: electionProclaimOther, Covers: []string{"LeaderKey.rev"}},
		{Name: "election/proclaim-refused", RPC: "Election.Proclaim", Run: electionProclaimRefused},
		{Name: "election/resign", RPC: "Election.Resign", Run: electionResign, Covers: []string{"ResignRequest.leader"}},
		{Name: "election/resign-of-another", RPC: "Election.Resign", Run: electionResignOther},
		{Name: "election/resign-refused", RPC: "Election.Resign", Run: electionResignRefused},
		{Name: "election/leader", RPC: "Election.Leader", Run: electionLeader, Covers: []string{"LeaderRequest.name"}},
		{Name: "election/observe-first-leader", RPC: "Election.Observe", Run: electionObserveFirst, Covers: []string{"Observe.name"}},
		{Name: "election/observe-every-leader", RPC: "Election.Observe", Run: electionObserveLeaders},
		{Name: "election/observe-every-proclaimed-value", RPC: "Election.Observe", Run: electionObserveValues},
		{Name: "election/observe-cancelled", RPC: "Election.Observe", Run: electionObserveCancelled},
	}
	for i := range cases {
		cases[i].Needs = Leases
	}
	return cases
}

// campaign wins the election name with a lease; nobody else may stand in it.
func (c *C) campaign(name string, lease int64, value string) *v3electionpb.CampaignResponse {
	c.Helper()
	r, err := c.Election.Campaign(c.Ctx, &v3electionpb.CampaignRequest{Name: c.key(name), Lease: lease, Value: []byte(value)})
	c.must(err, "campaign in %s with lease %x", name, lease)
	return r
}

// candidate waits in an election until ctx ends.
func (c *C) candidate(ctx context.Context, name, value string) *waiter[*v3electionpb.CampaignResponse] {
	c.Helper()
	return wait(c, name, c.grant(longTTL), func(lease int64) (*v3electionpb.CampaignResponse, error) {
		return c.Election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: c.key(name), Lease: lease, Value: []byte(value)})
	})
}

// won requires that a candidate won, and leads with value. The header is of the time at which
// it began to stand.
func (c *C) won(w *waiter[*v3electionpb.CampaignResponse], name, value string) *v3electionpb.LeaderKey {
	c.Helper()
	r, err := w.done(c)
	c.must(err, "the campaign of lease %x", w.lease)
	c.header("campaign", r.Header)
	equal(c, "header revision", r.Header.Revision, r.Leader.Rev)
	equal(c, "leader's key", string(r.Leader.Key), string(w.key))
	l := c.leads(name)
	equal(c, "key of who leads", string(l.Kv.Key), string(w.key))
	equal(c, "create revision of the key", l.Kv.CreateRevision, r.Leader.Rev)
	equal(c, "value of the leader", string(l.Kv.Value), value)
	return r.Leader
}

// leads asks who leads, which somebody must.
func (c *C) leads(name string) *v3electionpb.LeaderResponse {
	c.Helper()
	r, err := c.Election.Leader(c.Ctx, &v3electionpb.LeaderRequest{Name: c.key(name)})
	c.must(err, "leader of %s", name)
	return r
}

func (c *C) resign(l *v3electionpb.LeaderKey) *v3electionpb.ResignResponse {
	c.Helper()
	r, err := c.Election.Resign(c.Ctx, &v3electionpb.ResignRequest{Leader: l})
	c.must(err, "resign %q", l.GetKey())
	c.header("resign", r.Header)
	return r
}

func (c *C) proclaim(l *v3electionpb.LeaderKey, value string) *v3electionpb.ProclaimResponse {
	c.Helper()
	r, err := c.Election.Proclaim(c.Ctx, &v3electionpb.ProclaimRequest{Leader: l, Value: []byte(value)})
	c.must(err, "proclaim %s as %q", value, l.GetKey())
	c.header("proclaim", r.Header)
	return r
}

// record reads a key, which must exist.
func (c *C) record(key []byte) *mvccpb.KeyValue {
	c.Helper()
	r := c.rng(&pb.RangeRequest{Key: key})
	if len(r.Kvs) != 1 {
		c.Fatalf("no key %q", key)
	}
	return r.Kvs[0]
}

// like is a copy of l with something changed.
func like(l *v3electionpb.LeaderKey, change func(*v3electionpb.LeaderKey)) *v3electionpb.LeaderKey {
	other := &v3electionpb.LeaderKey{Name: l.Name, Key: l.Key, Rev: l.Rev, Lease: l.Lease}
	change(other)
	return other
}

const (
	msgNotLeader     = "election: not leader"
	msgNoLeader      = "election: no leader"
	msgMissingLeader = `"leader" field must be provided`
)

func electionCampaign(c *C) {
	before := c.revision()
	lease := c.grant(longTTL)
	r := c.campaign("e", lease, "me")
	c.header("campaign", r.Header)
	equal(c, "header revision", r.Header.Revision, before+1)
	equalProto(c, "leader", r.Leader, &v3electionpb.LeaderKey{
		Name: c.key("e"), Key: queueKey(c.key("e"), lease), Rev: before + 1, Lease: lease})
	kv := c.record(r.Leader.Key)
	equal(c, "value", string(kv.Value), "me")
	equal(c, "lease of the key", kv.Lease, lease)
	equal(c, "create revision", kv.CreateRevision, before+1)
}

// electionAgain: a candidate that stands already may change its value, as by Proclaim. The
// header is older than that.
func electionAgain(c *C) {
	lease := c.grant(longTTL)
	first := c.campaign("e", lease, "1")
	same := c.campaign("e", lease, "1")
	equalProto(c, "leader with the same value", same.Leader, first.Leader)
	equal(c, "header revision with the same value", same.Header.Revision, first.Header.Revision)
	other := c.campaign("e", lease, "2")
	equalProto(c, "leader with another value", other.Leader, first.Leader)
	equal(c, "header revision with another value", other.Header.Revision, first.Header.Revision)
	kv := c.record(first.Leader.Key)
	equal(c, "value", string(kv.Value), "2")
	equal(c, "version", kv.Version, 2)
	equal(c, "mod revision", kv.ModRevision, first.Header.Revision+1)
}

func electionOwnLease(c *C) {
	r := c.campaign("e", 0, "me")
	if r.Leader.Lease <= 0 {
		c.Fatalf("lease %d", r.Leader.Lease)
	}
	equal(c, "key", string(r.Leader.Key), string(queueKey(c.key("e"), r.Leader.Lease)))
	equal(c, "granted TTL", c.ttl(r.Leader.Lease).GrantedTTL, 60)
	c.revoke(r.Leader.Lease)
	equal(c, "count after the revoke", c.rng(&pb.RangeRequest{Key: r.Leader.Key}).Count, 0)
}

// electionEmptyName: an election without a name is one like any other. The candidate may have to
// wait, if the server holds other keys that begin with a slash.
func electionEmptyName(c *C) {
	lease := c.grant(longTTL)
	ctx, cancel := context.WithCancel(c.Ctx)
	defer cancel()
	stream := c.open()
	id := stream.create(&pb.WatchCreateRequest{Key: queueKey(nil, lease)}).WatchId
	result := make(chan error, 1)
	go func() {
		_, err := c.Election.Campaign(ctx, &v3electionpb.CampaignRequest{Lease: lease, Value: []byte("me")})
		result <- err
	}()
	equal(c, "value of the key", string(stream.events(id, 1)[0].Kv.Value), "me")
	if r, err := c.Election.Leader(c.Ctx, &v3electionpb.LeaderRequest{}); err != nil || r.Kv == nil || r.Kv.Key[0] != '/' {
		c.Errorf("leader: %v, %v", r, err)
	}
	cancel()
	if err := <-result; err != nil && status.Code(err) != codes.Canceled {
		c.Errorf("got %v", err)
	}
	c.revoke(lease)
}

func electionSuccession(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "0").Leader
	var waiters []*waiter[*v3electionpb.CampaignResponse]
	for i := range 4 {
		waiters = append(waiters, c.candidate(c.Ctx, "e", fmt.Sprint(i+1)))
	}
	for i, w := range waiters {
		equal(c, "value of who leads before", string(c.leads("e").Kv.Value), fmt.Sprint(i))
		c.resign(leader)
		leader = c.won(w, "e", fmt.Sprint(i+1))
	}
	equal(c, "keys left", c.rng(c.all()).Count, 1)
}

func electionRevoked(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	w := c.candidate(c.Ctx, "e", "2")
	c.revoke(leader.Lease)
	c.won(w, "e", "2")
}

func electionExpired(c *C) {
	granted := time.Now()
	g := c.grantID(freshID(), shortTTL)
	c.campaign("e", g.ID, "1")
	w := c.candidate(c.Ctx, "e", "2")
	c.won(w, "e", "2")
	ttl := time.Duration(g.TTL) * time.Second
	if d := time.Since(granted); d < ttl || d > ttl+maxExpiryDelay {
		c.Errorf("won %s after the grant of %s to the leader", d, ttl)
	}
}

func electionCancelled(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1")
	ctx, cancel := context.WithCancel(c.Ctx)
	middle := c.candidate(ctx, "e", "2")
	last := c.candidate(c.Ctx, "e", "3")
	cancel()
	_, err := middle.done(c)
	equal(c, "code", status.Code(err), codes.Canceled)
	c.gone(middle.key, leader.Header.Revision)
	equal(c, "value of the leader", string(c.leads("e").Kv.Value), "1")
	c.resign(leader.Leader)
	c.won(last, "e", "3")
}

// electionLeaseLost: whoever lost its lease while it waited is told that it won, and then by
// Proclaim that it did not.
func electionLeaseLost(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	lost := c.candidate(c.Ctx, "e", "2")
	last := c.candidate(c.Ctx, "e", "3")
	c.revoke(lost.lease)
	c.resign(leader)
	r, err := lost.done(c)
	c.must(err, "campaign of a lost lease")
	equal(c, "key", string(r.Leader.Key), string(lost.key))
	_, err = c.Election.Proclaim(c.Ctx, &v3electionpb.ProclaimRequest{Leader: r.Leader, Value: []byte("x")})
	c.wantError(err, codes.Unknown, msgNotLeader)
	c.won(last, "e", "3")
}

func electionUnknownLease(c *C) {
	before := c.revision()
	_, err := c.Election.Campaign(c.Ctx, &v3electionpb.CampaignRequest{Name: c.key("e"), Lease: freshID()})
	c.wantError(err, codes.Unknown, msgLeaseNotFound)
	equal(c, "revision", c.revision(), before)
}

// electionProclaim: the name in the leader's key is not looked at.
func electionProclaim(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	for i, name := range []string{"e", "another", ""} {
		l := like(leader, func(l *v3electionpb.LeaderKey) { l.Name = []byte(name) })
		r := c.proclaim(l, fmt.Sprint("value ", i))
		equal(c, "header revision", r.Header.Revision, leader.Rev+int64(i)+1)
		kv := c.record(leader.Key)
		equal(c, "value", string(kv.Value), fmt.Sprint("value ", i))
		equal(c, "create revision", kv.CreateRevision, leader.Rev)
		equal(c, "lease", kv.Lease, leader.Lease)
	}
}

func electionProclaimLease(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	other := c.grant(longTTL)
	c.proclaim(like(leader, func(l *v3electionpb.LeaderKey) { l.Lease = other }), "2")
	equal(c, "lease of the key", c.record(leader.Key).Lease, other)
	c.proclaim(like(leader, func(l *v3electionpb.LeaderKey) { l.Lease = 0 }), "3")
	given := c.record(leader.Key).Lease
	if given == 0 || given == other || given == leader.Lease {
		c.Fatalf("lease %x after a proclamation without one", given)
	}
	equal(c, "granted TTL of the given lease", c.ttl(given).GrantedTTL, 60)
	_, err := c.Election.Proclaim(c.Ctx, &v3electionpb.ProclaimRequest{
		Leader: like(leader, func(l *v3electionpb.LeaderKey) { l.Lease = freshID() }), Value: []byte("4")})
	c.wantError(err, codes.Unknown, msgLeaseNotFound)
	equal(c, "value", string(c.record(leader.Key).Value), "3")
	c.revoke(given)
}

func electionProclaimWaiting(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	w := c.candidate(c.Ctx, "e", "2")
	c.proclaim(&v3electionpb.LeaderKey{Key: w.key, Rev: c.record(w.key).CreateRevision, Lease: w.lease}, "changed")
	equal(c, "value of the leader", string(c.leads("e").Kv.Value), "1")
	c.resign(leader)
	c.won(w, "e", "changed")
}

func electionProclaimOther(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	for what, l := range map[string]*v3electionpb.LeaderKey{
		"an earlier revision": like(leader, func(l *v3electionpb.LeaderKey) { l.Rev-- }),
		"a later revision":    like(leader, func(l *v3electionpb.LeaderKey) { l.Rev++ }),
		"no revision":         like(leader, func(l *v3electionpb.LeaderKey) { l.Rev = 0 }),
		"another key":         like(leader, func(l *v3electionpb.LeaderKey) { l.Key = c.key("e/1") }),
	} {
		_, err := c.Election.Proclaim(c.Ctx, &v3electionpb.ProclaimRequest{Leader: l, Value: []byte("x")})
		if s := status.Convert(err); s.Code() != codes.Unknown || s.Message() != msgNotLeader {
			c.Errorf("%s: got %v", what, err)
		}
	}
	equal(c, "revision", c.revision(), leader.Rev)
	c.resign(leader)
	_, err := c.Election.Proclaim(c.Ctx, &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte("x")})
	c.wantError(err, codes.Unknown, msgNotLeader)
	again := c.campaign("e", leader.Lease, "2").Leader
	_, err = c.Election.Proclaim(c.Ctx, &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte("x")})
	c.wantError(err, codes.Unknown, msgNotLeader)
	equal(c, "value", string(c.record(again.Key).Value), "2")
}

func electionProclaimRefused(c *C) {
	_, err := c.Election.Proclaim(c.Ctx, &v3electionpb.ProclaimRequest{Value: []byte("x")})
	c.wantError(err, codes.Unknown, msgMissingLeader)
	_, err = c.Election.Proclaim(c.Ctx, &v3electionpb.ProclaimRequest{Leader: &v3electionpb.LeaderKey{Lease: c.grant(longTTL), Rev: 1}})
	c.wantError(err, codes.Unknown, msgEmptyKey)
}

func electionResign(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	equal(c, "header revision", c.resign(leader).Header.Revision, leader.Rev+1)
	equal(c, "count", c.rng(&pb.RangeRequest{Key: leader.Key}).Count, 0)
	equal(c, "header revision of a second resignation", c.resign(leader).Header.Revision, leader.Rev+1)
	equal(c, "granted TTL of the lease", c.ttl(leader.Lease).GrantedTTL, longTTL)
}

// electionResignOther: a resignation of somebody who does not lead does nothing, and is not refused.
func electionResignOther(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	for _, l := range []*v3electionpb.LeaderKey{
		like(leader, func(l *v3electionpb.LeaderKey) { l.Rev-- }),
		like(leader, func(l *v3electionpb.LeaderKey) { l.Key = c.key("e/1") }),
	} {
		equal(c, "header revision", c.resign(l).Header.Revision, leader.Rev)
	}
	equal(c, "value of the leader", string(c.leads("e").Kv.Value), "1")
}

func electionResignRefused(c *C) {
	_, err := c.Election.Resign(c.Ctx, &v3electionpb.ResignRequest{})
	c.wantError(err, codes.Unknown, msgMissingLeader)
	_, err = c.Election.Resign(c.Ctx, &v3electionpb.ResignRequest{Leader: &v3electionpb.LeaderKey{Lease: c.grant(longTTL), Rev: 1}})
	c.wantError(err, codes.Unknown, msgEmptyKey)
}

func electionLeader(c *C) {
	_, err := c.Election.Leader(c.Ctx, &v3electionpb.LeaderRequest{Name: c.key("e")})
	c.wantError(err, codes.Unknown, msgNoLeader)
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	c.candidate(c.Ctx, "e", "2")
	c.campaign("e2", c.grant(longTTL), "of another election")
	c.put("x", "1")
	l := c.leads("e")
	c.header("leader", l.Header)
	equal(c, "header revision", l.Header.Revision, c.revision())
	equalProto(c, "record", l.Kv, &mvccpb.KeyValue{
		Key: leader.Key, Value: []byte("1"), CreateRevision: leader.Rev, ModRevision: leader.Rev, Version: 1, Lease: leader.Lease})
}

// observer is one Observe stream of a case.
type observer struct {
	c      *C
	stream v3electionpb.Election_ObserveClient
	cancel context.CancelFunc
}

func (c *C) observe(name string) *observer {
	c.Helper()
	return c.observeAs(c.Ctx, name)
}

func (c *C) observeAs(ctx context.Context, name string) *observer {
	c.Helper()
	ctx, cancel := context.WithCancel(ctx)
	c.Cleanup(cancel)
	stream, err := c.Election.Observe(ctx, &v3electionpb.LeaderRequest{Name: c.key(name)})
	c.must(err, "observe %s", name)
	return &observer{c, stream, cancel}
}

// next requires that the next thing observed is a record as it stands now.
func (o *observer) next(key []byte, value string) *v3electionpb.LeaderResponse {
	o.c.Helper()
	r, err := o.stream.Recv()
	o.c.must(err, "observe")
	o.c.header("observe", r.Header)
	equal(o.c, "observed key", string(r.Kv.GetKey()), string(key))
	equal(o.c, "observed value", string(r.Kv.GetValue()), value)
	if r.Header.Revision < r.Kv.GetModRevision() {
		o.c.Errorf("header revision %d below the record's %d", r.Header.Revision, r.Kv.GetModRevision())
	}
	return r
}

func electionObserveFirst(c *C) {
	waits := c.observe("e")
	lease := c.grant(longTTL)
	c.campaign("e2", lease, "of another election")
	leader := c.campaign("e", lease, "1").Leader
	r := waits.next(leader.Key, "1")
	equal(c, "header revision", r.Header.Revision, leader.Rev)
	c.put("x", "1")
	r = c.observe("e").next(leader.Key, "1")
	equal(c, "header revision of one that comes later", r.Header.Revision, leader.Rev+1)
	equalProto(c, "record", r.Kv, c.record(leader.Key))
}

func electionObserveLeaders(c *C) {
	o := c.observe("e")
	leader := c.campaign("e", c.grant(longTTL), "0").Leader
	o.next(leader.Key, "0")
	var waiters []*waiter[*v3electionpb.CampaignResponse]
	for i := range 3 {
		waiters = append(waiters, c.candidate(c.Ctx, "e", fmt.Sprint(i+1)))
	}
	for i, w := range waiters {
		value := fmt.Sprint(i, " again")
		c.proclaim(leader, value)
		o.next(leader.Key, value)
		// What a candidate proclaims is seen when it leads.
		c.proclaim(&v3electionpb.LeaderKey{Key: w.key, Rev: c.record(w.key).CreateRevision, Lease: w.lease}, fmt.Sprint(i+1, " waiting"))
		if i%2 == 0 {
			c.resign(leader)
		} else {
			c.revoke(leader.Lease)
		}
		o.next(w.key, fmt.Sprint(i+1, " waiting"))
		leader = c.won(w, "e", fmt.Sprint(i+1, " waiting"))
	}
	c.resign(leader)
	next := c.campaign("e", c.grant(longTTL), "after nobody").Leader
	o.next(next.Key, "after nobody")
}

func electionObserveValues(c *C) {
	const values = 100
	leader := c.campaign("e", c.grant(longTTL), "first").Leader
	o := c.observe("e")
	o.next(leader.Key, "first")
	for i := range values {
		c.proclaim(leader, fmt.Sprint(i))
	}
	var revisions []int64
	for i := range values {
		revisions = append(revisions, o.next(leader.Key, fmt.Sprint(i)).Header.Revision)
	}
	if !slices.IsSorted(revisions) {
		c.Errorf("header revisions go back: %v", revisions)
	}
}

func electionObserveCancelled(c *C) {
	leader := c.campaign("e", c.grant(longTTL), "1").Leader
	o := c.observe("e")
	o.next(leader.Key, "1")
	o.cancel()
	_, err := o.stream.Recv()
	if errors.Is(err, io.EOF) || status.Code(err) != codes.Canceled {
		c.Errorf("got %v", err)
	}
}
