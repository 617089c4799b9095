package conformance

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// authTurnCases are the cases of locks and elections by callers that may not do everything.
func authTurnCases() []Case {
	return []Case{
		{Name: "auth/matrix-lock-and-election", RPC: "Lock.Lock", Run: func(c *C) { c.matrix(matrixTurns()) }},
		{Name: "auth/lock-as-the-caller", RPC: "Lock.Lock", Run: authLock},
		{Name: "auth/election-as-the-caller", RPC: "Election.Campaign", Run: authElection},
	}
}

// matrixTurns are the calls of Lock and Election, save Observe, which tells nobody why it ends. Whoever
// takes a turn reads the queue and writes a key of it.
func matrixTurns() []matrixRow {
	nobody := func(m *matrix) *v3electionpb.LeaderKey {
		return &v3electionpb.LeaderKey{Name: m.key, Key: m.key, Rev: 1, Lease: m.lease}
	}
	return []matrixRow{
		{"Lock.Lock", "with a lease", needBoth, func(m *matrix, ctx context.Context) error { return m.lockOnce(ctx, m.lease) }},
		{"Lock.Lock", "with a lease of the server's", needBoth, func(m *matrix, ctx context.Context) error { return m.lockOnce(ctx, 0) }},
		{"Lock.Unlock", "", needWrite, func(m *matrix, ctx context.Context) error {
			_, err := m.Lock.Unlock(ctx, &v3lockpb.UnlockRequest{Key: m.key})
			return err
		}},
		{"Election.Campaign", "with a lease", needBoth, func(m *matrix, ctx context.Context) error { return m.campaignOnce(ctx, m.lease) }},
		{"Election.Campaign", "with a lease of the server's", needBoth, func(m *matrix, ctx context.Context) error { return m.campaignOnce(ctx, 0) }},
		{"Election.Proclaim", "without leading", needBoth, func(m *matrix, ctx context.Context) error {
			_, err := m.Election.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: nobody(m), Value: []byte("x")})
			return err
		}},
		{"Election.Resign", "without leading", needBoth, func(m *matrix, ctx context.Context) error {
			_, err := m.Election.Resign(ctx, &v3electionpb.ResignRequest{Leader: nobody(m)})
			return err
		}},
		{"Election.Leader", "of nobody", needRead, func(m *matrix, ctx context.Context) error {
			_, err := m.Election.Leader(ctx, &v3electionpb.LeaderRequest{Name: m.key})
			return err
		}},
	}
}

// leave empties the queue below the matrix' key, so that nobody has to wait.
func (m *matrix) leave(err error) error {
	if err != nil {
		return err
	}
	queue := append(append([]byte(nil), m.key...), '/')
	_, err = m.KV.DeleteRange(m.Ctx, &pb.DeleteRangeRequest{Key: queue, RangeEnd: prefixEnd(queue)})
	return err
}

func (m *matrix) lockOnce(ctx context.Context, lease int64) error {
	_, err := m.Lock.Lock(ctx, &v3lockpb.LockRequest{Name: m.key, Lease: lease})
	return m.leave(err)
}

func (m *matrix) campaignOnce(ctx context.Context, lease int64) error {
	_, err := m.Election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: m.key, Lease: lease})
	return m.leave(err)
}

// strangers are those who may do nothing with keys, and what they are told.
func (c *C) strangers() map[string]context.Context {
	c.Helper()
	return map[string]context.Context{msgNobody: c.nobody(), msgBadToken: withToken(c.nobody(), "bad"), msgDenied: c.as("stranger")}
}

// refused requires a refusal as Lock and Election tell it: without a code.
func (c *C) refused(what string, err error, message string) {
	c.Helper()
	if st := status.Convert(err); st.Code() != codes.Unknown || st.Message() != message {
		c.Errorf("%s: got %v, want %v %q", what, err, codes.Unknown, message)
	}
}

// authLock: each step of a lock, the last ones when its turn has come, is made as the caller.
func authLock(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("l/"), c.end("l/")))
	c.user("stranger")
	c.enable()
	alice := c.as("alice")
	holder, err := c.Lock.Lock(alice, &v3lockpb.LockRequest{Name: c.key("l"), Lease: c.grant(longTTL)})
	c.must(err, "lock as alice")
	w := c.waitLock(alice, "l")
	before := c.revision()
	for message, ctx := range c.strangers() {
		_, err := c.Lock.Lock(ctx, &v3lockpb.LockRequest{Name: c.key("l"), Lease: c.grant(longTTL)})
		c.refused("lock", err, message)
		_, err = c.Lock.Unlock(ctx, &v3lockpb.UnlockRequest{Key: holder.Key})
		c.refused("unlock", err, message)
	}
	_, err = c.Lock.Lock(alice, &v3lockpb.LockRequest{Name: c.key("other"), Lease: c.grant(longTTL)})
	c.refused("lock another", err, msgDenied)
	equal(c, "revision", c.revision(), before)
	u, err := c.Lock.Unlock(alice, &v3lockpb.UnlockRequest{Key: holder.Key})
	c.must(err, "unlock as alice")
	c.acquired(w, u.Header.Revision)

	ctx, cancel := context.WithCancel(alice)
	gone := c.waitLock(ctx, "l")
	cancel()
	_, err = gone.done(c)
	equal(c, "code of who went away", status.Code(err), codes.Canceled)
	if !c.Endpoint.Upstream { // etcd 3.7.3 deletes the key as nobody, who may not: it stays
		c.gone(gone.key, u.Header.Revision)
	}
}

// authElection: the same of an election. Observe ends for who may not read, and does not say why.
func authElection(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("e/"), c.end("e/")))
	c.member("reader", permission(authpb.Permission_READ, c.key("e/"), c.end("e/")))
	c.user("stranger")
	c.enable()
	alice, reader := c.as("alice"), c.as("reader")
	lease := c.grant(longTTL)
	r, err := c.Election.Campaign(alice, &v3electionpb.CampaignRequest{Name: c.key("e"), Lease: lease, Value: []byte("1")})
	c.must(err, "campaign as alice")
	w := wait(c, "e", c.grant(longTTL), func(lease int64) (*v3electionpb.CampaignResponse, error) {
		return c.Election.Campaign(alice, &v3electionpb.CampaignRequest{Name: c.key("e"), Lease: lease, Value: []byte("2")})
	})
	observing := c.observeAs(reader, "e")
	observing.next(r.Leader.Key, "1")
	before := c.revision()
	refused := c.strangers()
	for message, ctx := range refused {
		_, err := c.Election.Leader(ctx, &v3electionpb.LeaderRequest{Name: c.key("e")})
		c.refused("leader", err, message)
		if _, err := c.observeAs(ctx, "e").stream.Recv(); !errors.Is(err, io.EOF) {
			c.Errorf("observe of who is told %q: %v", message, err)
		}
	}
	refused[msgDenied] = reader
	for message, ctx := range refused {
		_, err := c.Election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: c.key("e"), Lease: c.grant(longTTL)})
		c.refused("campaign", err, message)
		_, err = c.Election.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: r.Leader, Value: []byte("x")})
		c.refused("proclaim", err, message)
		_, err = c.Election.Resign(ctx, &v3electionpb.ResignRequest{Leader: r.Leader})
		c.refused("resign", err, message)
	}
	equal(c, "revision", c.revision(), before)
	_, err = c.Election.Proclaim(alice, &v3electionpb.ProclaimRequest{Leader: r.Leader, Value: []byte("1 again")})
	c.must(err, "proclaim as alice")
	observing.next(r.Leader.Key, "1 again")
	_, err = c.Election.Resign(alice, &v3electionpb.ResignRequest{Leader: r.Leader})
	c.must(err, "resign as alice")
	c.won(w, "e", "2")
	observing.next(w.key, "2")
}
