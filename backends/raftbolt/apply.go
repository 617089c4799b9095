package raftbolt

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// errStaleTerm: a command that the leader of one term decided on was committed in
// another; what it was decided on need not hold any more.
var errStaleTerm = errors.New("command of a leader of an earlier term")

// Apply implements replica.StateMachine.
func (m *machine) Apply(entries []replica.Entry) error {
	for _, e := range entries {
		for _, b := range e.Commands {
			if err := m.applyCommand(e, b); err != nil {
				return fmt.Errorf("apply entry %d: %w", e.Index, err)
			}
		}
		if err := m.store.EndEntry(mvcc.Applied{Index: e.Index, Term: e.Term}); err != nil {
			return fmt.Errorf("apply entry %d: %w", e.Index, err)
		}
	}
	return nil
}

// applyCommand applies one command and tells its waiter. Its error is final; a
// request's own error is in the outcome.
func (m *machine) applyCommand(e replica.Entry, b []byte) error {
	c, err := m.decoder.decode(b)
	if err != nil {
		return err
	}
	w := m.waiters.take(c.id)
	began := m.clock.Now()
	out, err := m.applyKind(e, c, w != nil)
	m.metrics.appliedCommand(c, cmp.Or(err, out.err), m.clock.Now().Sub(began))
	if err != nil {
		out.discard()
		out = outcome{err: backends.ErrOutcomeUnknown}
	}
	if w != nil {
		out.term, out.applied = e.Term, true
		m.answered.Store(e.Index)
		w.outcome <- out
	}
	return err
}

// applyKind is the one switch over what a command can be. answer tells that
// somebody waits for the outcome.
func (m *machine) applyKind(e replica.Entry, c *command, answer bool) (outcome, error) {
	if refusal := m.gate(c); refusal != nil {
		return outcome{err: refusal}, nil
	}
	if refusal := m.permit(c); refusal != nil {
		return outcome{err: refusal}, nil
	}
	switch c.kind {
	case kindTxn:
		return m.applyTxn(e, c.txn, answer)
	case kindCompact:
		return m.applyCompact(c)
	case kindLeaseGrant:
		return m.applyGrant(c)
	case kindLeaseRevoke:
		return m.applyRevoke(e, c)
	case kindCheckpoint:
		return m.applyCheckpoint(e, c)
	case kindAlarm:
		return m.applyAlarm(c)
	case kindAttributes:
		return m.applyAttributes(c)
	case kindAuthChange:
		return m.applyAuthChange(c)
	case kindAuthenticate:
		return m.applyAuthenticate(e, c)
	case kindVersion:
		return m.applyVersion(c)
	case kindDowngrade:
		return m.applyDowngrade(c)
	case kindMember: // never in an entry of commands
	}
	return outcome{}, fmt.Errorf("%w: %d", errCommandKind, c.kind)
}

// gate refuses what the raised alarms do not allow, as etcd's appliers do
// (etcdserver/apply/corrupt.go and capped.go).
func (m *machine) gate(c *command) error {
	alarms := m.alarms.Load()
	if len(alarms.list) == 0 {
		return nil
	}
	switch c.kind {
	case kindTxn, kindCompact, kindLeaseGrant, kindLeaseRevoke:
		if alarms.raised(backends.AlarmCorrupt) {
			return backends.ErrCorrupt
		}
	case kindCheckpoint, kindAlarm, kindAttributes, kindAuthChange, kindAuthenticate, kindVersion, kindDowngrade, kindMember:
		return nil
	}
	if c.grows() && alarms.raised(backends.AlarmNoSpace) {
		return backends.ErrNoSpace
	}
	return nil
}

// grows tells whether a command may make the store larger; the others free room,
// or tell of the lack of it, and go through on a full disk.
func (c *command) grows() bool {
	return c.kind == kindLeaseGrant || c.kind == kindTxn && txnCost(c.txn) > 0
}

func (m *machine) applyCompact(c *command) (outcome, error) {
	err := m.store.Compact(c.revision)
	if err != nil && !errors.Is(err, backends.ErrCompacted) && !errors.Is(err, backends.ErrFutureRevision) {
		return outcome{}, err
	}
	return outcome{err: err, revision: m.store.Committed()}, nil
}

func (m *machine) applyGrant(c *command) (outcome, error) {
	m.mu.Lock()
	record, err := m.leases.Grant(c.lease, c.ttlSeconds, m.clock.Now())
	m.mu.Unlock()
	if err != nil {
		return outcome{err: err}, nil
	}
	t := m.store.Begin()
	t.Set(mvcc.BucketLease, lease.Key(record.ID), record.Value())
	revision, err := t.Commit()
	m.kickLeases()
	m.metrics.leaseGranted(c.ttlSeconds)
	return outcome{revision: revision}, err
}

// applyRevoke deletes a lease and its keys, in order, in one revision.
func (m *machine) applyRevoke(e replica.Entry, c *command) (outcome, error) {
	if c.term != 0 && c.term != e.Term {
		return outcome{err: errStaleTerm}, nil
	}
	m.mu.Lock()
	keys, err := m.leases.Keys(c.lease)
	m.mu.Unlock()
	if err != nil {
		return outcome{err: err}, nil
	}
	t := m.store.Begin()
	for _, key := range keys {
		t.DeleteRange(backends.KeyRange{Key: key}, nil)
	}
	t.Delete(mvcc.BucketLease, lease.Key(c.lease))
	m.mu.Lock() // before the commit: who has seen the deletes does not find the lease
	defer m.mu.Unlock()
	revision, err := t.Commit()
	if err != nil {
		return outcome{}, err
	}
	if err := m.leases.Revoke(c.lease); err != nil {
		return outcome{}, err // it was there above, and nobody else removes one
	}
	m.leaseEnded()
	m.metrics.leaseEnded(len(keys), c.term != 0)
	return outcome{revision: revision}, nil
}

func (m *machine) applyCheckpoint(e replica.Entry, c *command) (outcome, error) {
	if c.term != 0 && c.term != e.Term {
		return outcome{err: errStaleTerm}, nil
	}
	t := m.store.Begin()
	m.mu.Lock()
	for _, p := range c.checkpoints {
		if record, ok := m.leases.ApplyCheckpoint(p.ID, p.RemainingTTLSeconds); ok {
			t.Set(mvcc.BucketLease, lease.Key(p.ID), record.Value())
		}
	}
	m.mu.Unlock()
	revision, err := t.Commit()
	return outcome{revision: revision}, err
}
