package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

func clocked(clock *testClock) func(*Config, *backends.Env) {
	return func(_ *Config, e *backends.Env) { e.Clock = clock }
}

func (m *member) ttl(id int64) int64 {
	m.t.Helper()
	r, err := m.LeaseTimeToLive(context.Background(), backends.Caller{}, id, false)
	if errors.Is(err, backends.ErrLeaseNotFound) {
		return -1
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return r.TTLSeconds
}

func TestLeaseGrant(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	ctx := context.Background()
	for _, tc := range []struct {
		id, ttl, want int64
		err           error
	}{
		{0, 60, 60, nil}, {7, 0, 2, nil}, {-8, -5, 2, nil}, {9, 9_000_000_000, 9_000_000_000, nil},
		{7, 5, 0, backends.ErrLeaseExists}, {11, 9_000_000_001, 0, backends.ErrLeaseTTLTooLarge},
	} {
		r, err := m.LeaseGrant(ctx, backends.Caller{}, tc.id, tc.ttl)
		if !errors.Is(err, tc.err) || r.TTLSeconds != tc.want || tc.id != 0 && err == nil && r.ID != tc.id || err == nil && r.ID == 0 {
			t.Errorf("grant %d, %d s: %+v, %v", tc.id, tc.ttl, r, err)
		}
	}
	if r, err := m.LeaseLeases(ctx, backends.Caller{}); err != nil || len(r.IDs) != 4 || r.IDs[3] != 9 {
		t.Errorf("leases %+v, %v", r, err)
	}
	for what, f := range map[string]func() error{
		"revoke":    func() error { _, err := m.LeaseRevoke(ctx, backends.Caller{}, 99); return err },
		"keepalive": func() error { _, err := m.LeaseKeepAlive(ctx, backends.Caller{}, 99); return err },
		"ttl":       func() error { _, err := m.LeaseTimeToLive(ctx, backends.Caller{}, 99, true); return err },
	} {
		if err := f(); !errors.Is(err, backends.ErrLeaseNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Keys of a lease go in one revision with it, when it is revoked and when it
// expires.
func TestLeaseEndsWithItsKeys(t *testing.T) {
	clock := newTestClock()
	m := openIn(t, t.TempDir(), clocked(clock))
	m.grant(1, 10)
	m.grant(2, 10)
	if _, err := m.txn(one(leased("a", 1), leased("b", 1), leased("c", 2))); err != nil {
		t.Fatal(err)
	}
	last := m.put("b", "without lease now")
	h, err := m.LeaseRevoke(context.Background(), backends.Caller{}, 2)
	if err != nil || h.Revision != last+1 {
		t.Errorf("revoke: %+v, %v", h, err)
	}
	clock.awaitTimer(t, 5*time.Second) // its first checkpoint
	clock.advance(10*time.Second - 1)
	if m.ttl(1) < 0 {
		t.Fatal("the lease ended before its time")
	}
	clock.advance(1)
	eventually(t, "expired", func() bool { return m.ttl(1) < 0 })
	if got := m.all(); len(got) != 1 || got["b"] == "" {
		t.Errorf("left %v", got)
	}
	s, err := m.Status(context.Background())
	if err != nil || s.Header.Revision != last+2 {
		t.Errorf("revision %d, want %d", s.Header.Revision, last+2)
	}
}

// The time that is left survives a restart, down to the last checkpoint; a
// keep-alive resets it for good.
func TestRemainingTTLSurvivesRestart(t *testing.T) {
	clock, dir := newTestClock(), t.TempDir()
	m := openIn(t, dir, clocked(clock))
	m.grant(1, 100)
	m.grant(2, 100)
	clock.awaitTimer(t, 50*time.Second)
	clock.advance(60 * time.Second)
	checkpointed := func(m *member, id, want int64) bool {
		m.machine.mu.Lock()
		defer m.machine.mu.Unlock()
		r, err := m.machine.leases.Get(id)
		return err == nil && r.RemainingTTLSeconds == want
	}
	eventually(t, "checkpointed", func() bool { return checkpointed(m, 1, 40) && checkpointed(m, 2, 40) })
	if r, err := m.LeaseKeepAlive(context.Background(), backends.Caller{}, 2); err != nil || r.TTLSeconds != 100 {
		t.Fatalf("keep-alive: %+v, %v", r, err)
	}
	if !checkpointed(m, 2, 0) {
		t.Error("a keep-alive was acknowledged before the checkpoint was reset")
	}
	m.close()

	clock.advance(time.Hour) // while it was down; nobody counts that
	m = openIn(t, dir, clocked(clock))
	for id, want := range map[int64]int64{1: 41, 2: 101} { // with an election time-out
		if got := m.ttl(id); got != want {
			t.Errorf("lease %d has %d s left, want %d", id, got, want)
		}
	}
	clock.advance(41 * time.Second)
	eventually(t, "expired", func() bool { return m.ttl(1) < 0 })
	if got := m.ttl(2); got != 60 {
		t.Errorf("lease 2 has %d s left", got)
	}
}

// A keep-alive of an expired lease waits until it is gone, and says so.
func TestKeepAliveOfExpiredLease(t *testing.T) {
	clock := newTestClock()
	m := openIn(t, t.TempDir(), clocked(clock))
	m.grant(1, 10)
	clock.advance(10 * time.Second)
	if _, err := m.LeaseKeepAlive(context.Background(), backends.Caller{}, 1); !errors.Is(err, backends.ErrLeaseNotFound) {
		t.Errorf("keep-alive: %v", err)
	}
}

// Proposals of a leader of another term change nothing.
func TestStaleTermIsRejected(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	m.grant(1, 100)
	stale := m.node.Status().Term - 1
	for _, c := range []command{{kind: kindLeaseRevoke, lease: 1, term: stale}, {kind: kindCheckpoint, term: stale}} {
		if _, err := m.propose(context.Background(), &c); !errors.Is(err, errStaleTerm) {
			t.Errorf("kind %d: %v", c.kind, err)
		}
	}
	if m.ttl(1) < 0 {
		t.Error("the lease is gone")
	}
}

// Many leases that expire together end in bounded batches, each in a revision of
// its own.
func TestManyLeasesExpire(t *testing.T) {
	const many = 2*expiryBatch + 100
	clock := newTestClock()
	m := openIn(t, t.TempDir(), clocked(clock))
	ops := make([]backends.Op, 0, many)
	sent := make([]*waiter, 0, many)
	for i := range int64(many) {
		w, err := m.send(&command{kind: kindLeaseGrant, lease: i + 1, ttlSeconds: 10})
		if err != nil {
			t.Fatal(err)
		}
		sent, ops = append(sent, w), append(ops, leased(fmt.Sprintf("%05d", i), i+1))
	}
	for _, w := range sent {
		if _, err := m.await(context.Background(), w); err != nil {
			t.Fatal(err)
		}
	}
	r, err := m.txn(one(ops...))
	if err != nil {
		t.Fatal(err)
	}
	clock.advance(10 * time.Second)
	eventually(t, "all expired", func() bool { return m.store.Keys() == 0 })
	if got := m.store.Committed(); got != r.Header.Revision+many {
		t.Errorf("revision %d, want %d", got, r.Header.Revision+many)
	}
}

// TestLeaseTableAtRevision ensures that an answer of LeaseTimeToLive tells of the
// revision in its header: who has seen the deletes of a lease does not find it.
func TestLeaseTableAtRevision(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	for round := range int64(200) {
		id := round + 1
		m.grant(id, 100)
		before := m.store.Committed()
		attached, revoked := before+1, before+2
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			for {
				r, err := m.timeToLive(id, true)
				if err != nil {
					return
				}
				switch at := r.Header.Revision; {
				case at >= revoked:
					t.Errorf("lease %d is still there at revision %d, which deleted its keys", id, at)
					return
				case (at >= attached) != (len(r.Keys) == 1):
					t.Errorf("lease %d has %d keys at revision %d; its key was attached in %d", id, len(r.Keys), at, attached)
					return
				}
			}
		}()
		if _, err := m.txn(one(leased("k", id))); err != nil {
			t.Fatal(err)
		}
		if _, err := m.LeaseRevoke(context.Background(), backends.Caller{}, id); err != nil {
			t.Fatal(err)
		}
		<-asked
		if got := m.store.Committed(); got != revoked {
			t.Fatalf("revision %d after a put and a revoke, want %d", got, revoked)
		}
		if t.Failed() {
			return
		}
	}
}
