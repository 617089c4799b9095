package raftbolt

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

var _ backends.Leases = (*Backend)(nil)

// LeaseGrant implements backends.Leases.
func (b *Backend) LeaseGrant(ctx context.Context, _ backends.Caller, id, ttlSeconds int64) (backends.LeaseGrantResult, error) {
	// That the time is too long is found at apply, after alarms, as in etcd.
	if err := b.checkQuota(ctx, grantOverhead); err != nil {
		return backends.LeaseGrantResult{}, err
	}
	ttlSeconds = max(ttlSeconds, b.config.minLeaseTTL())
	chosen := id
	for {
		if id == 0 {
			// Of 63 random bits two are hardly ever equal; if so, the next are not.
			chosen = rand.Int64N(math.MaxInt64) + 1
		}
		out, err := b.propose(ctx, &command{kind: kindLeaseGrant, lease: chosen, ttlSeconds: ttlSeconds})
		if id == 0 && errors.Is(err, backends.ErrLeaseExists) {
			continue
		}
		if err != nil {
			return backends.LeaseGrantResult{}, err
		}
		return backends.LeaseGrantResult{Header: b.headerOf(out), ID: chosen, TTLSeconds: ttlSeconds}, nil
	}
}

// LeaseRevoke implements backends.Leases.
func (b *Backend) LeaseRevoke(ctx context.Context, caller backends.Caller, id int64) (backends.Header, error) {
	if err := b.machine.auth.Load().Known(&caller); err != nil {
		return backends.Header{}, err
	}
	out, err := b.propose(ctx, &command{kind: kindLeaseRevoke, caller: identity(&caller), lease: id})
	if err != nil {
		return backends.Header{}, err
	}
	return b.headerOf(out), nil
}

// LeaseKeepAlive implements backends.Leases. The leadership is confirmed before
// the lease is renewed, and a checkpoint reset before it is acknowledged. As in etcd
// it takes the right to write the lease's keys (etcdserver/v3_server.go, checkLeaseRenew).
func (b *Backend) LeaseKeepAlive(ctx context.Context, caller backends.Caller, id int64) (backends.LeaseKeepAliveResult, error) {
	timeout, stop := (<-chan time.Time)(nil), func() {}
	defer func() { stop() }()
	for {
		if err := b.readIndex(ctx); err != nil {
			return backends.LeaseKeepAliveResult{}, err
		}
		m := b.machine
		again, err := b.permitRead(ctx, &caller, func(s *auth.State, who *backends.Caller) error {
			return m.permitRenew(s, who, id)
		})
		if again {
			continue
		}
		if err != nil {
			return backends.LeaseKeepAliveResult{}, err
		}
		term := b.node.Status().Term
		m.mu.Lock()
		ttl, err := m.leases.Renew(id, b.env.Clock.Now())
		ended := m.ended
		m.mu.Unlock()
		switch {
		case err == nil:
			b.metrics.renewed.Inc()
			return backends.LeaseKeepAliveResult{Header: b.header(b.store.Committed()), TTLSeconds: ttl}, nil
		case errors.Is(err, lease.ErrCheckpointed):
			_, err = b.propose(ctx, &command{kind: kindCheckpoint, term: term, checkpoints: []lease.Checkpoint{{ID: id}}})
			if err != nil && !errors.Is(err, errStaleTerm) {
				return backends.LeaseKeepAliveResult{}, err
			}
		case errors.Is(err, lease.ErrExpired):
			if timeout == nil {
				timeout, stop = b.env.Clock.After(b.config.requestTimeout())
			}
			select {
			case <-ended:
			case <-b.node.Changed():
			case <-timeout:
				return backends.LeaseKeepAliveResult{}, backends.ErrTimeout
			case <-ctx.Done():
				return backends.LeaseKeepAliveResult{}, ctx.Err()
			case <-b.running.Done():
				return backends.LeaseKeepAliveResult{}, backends.ErrStopped
			}
		default:
			return backends.LeaseKeepAliveResult{}, err
		}
	}
}

// LeaseTimeToLive implements backends.Leases. Who asks for keys must be allowed to
// read all of them.
func (b *Backend) LeaseTimeToLive(ctx context.Context, caller backends.Caller, id int64, keys bool) (backends.LeaseTimeToLiveResult, error) {
	if err := b.readIndex(ctx); err != nil {
		return backends.LeaseTimeToLiveResult{}, err
	}
	for {
		result, err := b.timeToLive(id, keys)
		again, refusal := b.permitRead(ctx, &caller, func(s *auth.State, who *backends.Caller) error {
			return permitLeaseKeys(s, who, result.Keys)
		})
		switch {
		case again:
		case refusal != nil:
			return backends.LeaseTimeToLiveResult{}, refusal
		default:
			return result, err
		}
	}
}

// timeToLive is LeaseTimeToLive without asking who asks.
func (b *Backend) timeToLive(id int64, keys bool) (backends.LeaseTimeToLiveResult, error) {
	m := b.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	record, err := m.leases.Get(id)
	if err != nil {
		return backends.LeaseTimeToLiveResult{}, err
	}
	remaining, err := m.leases.Remaining(id, b.env.Clock.Now())
	if err != nil {
		return backends.LeaseTimeToLiveResult{}, err
	}
	result := backends.LeaseTimeToLiveResult{
		Header:     b.header(b.store.Committed()),
		TTLSeconds: max(int64(remaining/time.Second), 0), GrantedTTLSeconds: record.TTLSeconds,
	}
	if keys {
		result.Keys, err = m.leases.Keys(id)
	}
	return result, err
}

// LeaseLeases implements backends.Leases. It takes the right to read the keys of all
// leases, as in etcd (etcdserver/v3_server.go, checkLeaseLeases).
func (b *Backend) LeaseLeases(ctx context.Context, caller backends.Caller) (backends.LeaseLeasesResult, error) {
	if err := b.readIndex(ctx); err != nil {
		return backends.LeaseLeasesResult{}, err
	}
	m := b.machine
	for {
		m.mu.Lock()
		result := backends.LeaseLeasesResult{Header: b.header(b.store.Committed()), IDs: m.leases.List()}
		m.mu.Unlock()
		again, err := b.permitRead(ctx, &caller, func(s *auth.State, who *backends.Caller) error {
			return m.permitLeases(s, who, result.IDs)
		})
		switch {
		case again:
		case err != nil:
			return backends.LeaseLeasesResult{}, err
		default:
			return result, nil
		}
	}
}

const (
	// expiryBatch is how many revocations are in flight: enough to fill a batch of
	// the log, few enough that requests between them hardly wait.
	expiryBatch = 512
	// checkpointBatch bounds one command of checkpoints: about 16 KiB.
	checkpointBatch = 1000
	// idleCheck is how often the loop looks although nothing is due.
	idleCheck = time.Hour
)

// runLeases follows the leadership: it promotes and demotes the lease table,
// and, while leading, proposes what is due.
func (b *Backend) runLeases() {
	var leader uint64 // as it was last seen
	var term uint64   // of the promotion; 0: not leading
	for b.running.Err() == nil {
		changed := b.node.Changed()
		if s := b.node.Status(); s.Leader != 0 && s.Leader != leader {
			leader = s.Leader
			b.metrics.leaderChanges.Inc()
		}
		term = b.followLeadership(term)
		wait := idleCheck
		if term != 0 {
			if b.expire(term) || b.checkpoint(term) {
				continue
			}
			wait = b.untilDue()
		}
		timer, stop := b.env.Clock.After(wait)
		select {
		case <-timer:
		case <-changed:
		case <-b.machine.leaseKick:
		case <-b.running.Done():
		}
		stop()
	}
}

// followLeadership promotes or demotes the table when leadership or term
// changed, and returns the term that it leads in.
func (b *Backend) followLeadership(term uint64) uint64 {
	s := b.node.Status()
	leads := s.Role == replica.Leader && s.TermApplied
	m := b.machine
	switch {
	case leads && s.Term != term:
		m.mu.Lock()
		m.leases.Promote(b.env.Clock.Now(), b.config.ElectionTimeout)
		m.mu.Unlock()
		term = s.Term
	case !leads && term != 0:
		m.mu.Lock()
		m.leases.Demote()
		m.mu.Unlock()
		term = 0
	}
	if leads {
		select {
		case <-b.ready:
		default:
			close(b.ready)
			// Its outcome comes later; leases do not wait for it.
			b.work.Go(func() {
				if err := b.publish(b.running); err != nil && b.running.Err() == nil {
					b.env.Logger.Warn("could not tell the cluster this member's name and client URLs", zap.Error(err))
				}
			})
		}
	}
	return term
}

func (b *Backend) untilDue() time.Duration {
	m := b.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.leases.NextDue(); ok {
		return max(at.Sub(b.env.Clock.Now()), 0)
	}
	return idleCheck
}

// expire proposes to revoke expired leases, one batch, and waits for it. It tells
// whether there may be more.
func (b *Backend) expire(term uint64) (more bool) {
	m := b.machine
	m.mu.Lock()
	ids := m.leases.Expired(b.env.Clock.Now(), expiryBatch)
	m.mu.Unlock()
	sent := make([]*waiter, 0, len(ids))
	for _, id := range ids {
		w, err := b.send(&command{kind: kindLeaseRevoke, lease: id, term: term})
		if err != nil {
			b.leaseFailed("revoke", err)
			break // the table offers the rest again
		}
		sent = append(sent, w)
	}
	for _, w := range sent {
		if _, err := b.await(b.running, w); err != nil && !errors.Is(err, backends.ErrLeaseNotFound) {
			b.leaseFailed("revoke", err)
		}
	}
	return len(ids) == expiryBatch && len(sent) == len(ids)
}

// checkpoint replicates the remaining time of leases that are due for it, all in
// one command. It tells whether there may be more.
func (b *Backend) checkpoint(term uint64) (more bool) {
	m := b.machine
	m.mu.Lock()
	due := m.leases.Checkpoints(b.env.Clock.Now(), checkpointBatch)
	m.mu.Unlock()
	if len(due) == 0 {
		return false
	}
	w, err := b.send(&command{kind: kindCheckpoint, term: term, checkpoints: due})
	if err != nil {
		m.mu.Lock()
		m.leases.RefuseCheckpoints(due)
		m.mu.Unlock()
		b.leaseFailed("checkpoint", err)
		return false
	}
	if _, err := b.await(b.running, w); err != nil {
		b.leaseFailed("checkpoint", err)
		if !errors.Is(err, backends.ErrOutcomeUnknown) {
			m.mu.Lock()
			m.leases.RefuseCheckpoints(due)
			m.mu.Unlock()
		}
		return false
	}
	return len(due) == checkpointBatch
}

func (b *Backend) leaseFailed(what string, err error) {
	if b.running.Err() == nil {
		b.env.Logger.Warn("lease proposal failed; it is tried again", zap.String("what", what), zap.Error(err))
	}
}
