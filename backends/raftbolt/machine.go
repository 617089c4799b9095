package raftbolt

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

var _ replica.StateMachine = (*machine)(nil)

// machine is the replicated state machine. The applier alone changes it; what
// others read is the store, which needs no lock, and what mu guards or an atomic
// holds.
//
// Invariant: its replicated part, the store with leases, alarms, members, users and
// roles, is a function of the applied entries alone: Apply reads no random source, no
// map order and no local size. The clock it reads goes into deadlines of leases, which
// are the leader's, and of tokens, which are each member's, and is not replicated.
type machine struct {
	store   *mvcc.Store
	waiters *waiters
	// answered is the index of the last entry of which a waiter was told the outcome. The
	// node takes an entry for applied a moment later.
	answered atomic.Uint64
	clock    backends.Clock
	logger   *zap.Logger
	metrics  *metrics // nil: nobody counts
	decoder  decoder
	// header has the ids of every header.
	header backends.Header
	// confState is the membership as of the last entry.
	confState replica.ConfState

	mu     sync.Mutex // of leases and ended
	leases *lease.Table
	// ended is closed and replaced when a lease ends.
	ended chan struct{}
	// leaseKick has a token when a deadline may be earlier than before.
	leaseKick chan struct{}

	// alarms, members, cluster and auth are replaced, never changed. auth is replaced after the
	// change of users and roles was committed, and before the next command is applied: who
	// takes a View, and then auth, has nothing in the View that is newer than auth.
	alarms  atomic.Pointer[alarmSet]
	members atomic.Pointer[memberSet]
	cluster atomic.Pointer[clusterState]
	auth    atomic.Pointer[auth.State]
	// tokens are this member's; apply assigns them, equally on every member.
	tokens *auth.Tokens
}

// newMachine loads what the store holds beside keys.
func newMachine(store *mvcc.Store, header backends.Header, w *waiters, tokens *auth.Tokens, env backends.Env) (*machine, error) {
	m := &machine{
		store: store, waiters: w, clock: env.Clock, logger: env.Logger, header: header,
		leases: lease.New(), ended: make(chan struct{}), leaseKick: make(chan struct{}, 1), tokens: tokens,
	}
	var err error
	if m.confState, err = decodeConfState(store.Applied().ConfState); err != nil {
		return nil, fmt.Errorf("%w: membership in the store: %w", ErrDirectoryCorrupt, err)
	}
	return m, errors.Join(m.loadLeases(), m.loadAlarms(), m.loadMembers(), m.loadAuth(), m.loadCluster())
}

// loadLeases rebuilds the lease table from its bucket and the keys' leases.
func (m *machine) loadLeases() error {
	var bad error
	err := m.store.Bucket(mvcc.BucketLease, func(k, v []byte) {
		r, err := lease.DecodeRecord(k, v)
		if err == nil {
			err = m.leases.Load(r)
		}
		bad = errors.Join(bad, err)
	})
	if err = errors.Join(err, bad); err != nil {
		return fmt.Errorf("leases in the store: %w", err)
	}
	err = m.store.LeasedKeys(func(key []byte, id int64) {
		if m.leases.Attach(id, key) != nil {
			// A restored file may have it; etcd tolerates it as well.
			m.logger.Warn("a key has a lease that does not exist", zap.ByteString("key", key), zap.Int64("lease", id))
		}
	})
	if err != nil {
		return fmt.Errorf("keys with leases: %w", err)
	}
	return nil
}

// Durable implements replica.StateMachine.
func (m *machine) Durable() replica.Durable {
	a := m.store.Applied()
	state, err := decodeConfState(a.ConfState)
	if err != nil {
		// newMachine read it before.
		m.logger.Error("membership in the store cannot be read", zap.Error(err))
	}
	return replica.Durable{Index: a.Index, Term: a.Term, ConfState: state}
}

// errNoSnapshots: without a transport there is nobody to send a snapshot to.
var errNoSnapshots = errors.New("this version does not exchange snapshots between members")

// Snapshot implements replica.StateMachine.
func (m *machine) Snapshot() (replica.Snapshot, error) { return replica.Snapshot{}, errNoSnapshots }

// StageSnapshot implements replica.StateMachine.
func (m *machine) StageSnapshot(replica.Snapshot) error { return errNoSnapshots }

// InstallSnapshot implements replica.StateMachine.
func (m *machine) InstallSnapshot(uint64, uint64) error { return errNoSnapshots }

// leaseEnded tells who waits for the end of a lease. Caller holds mu.
func (m *machine) leaseEnded() {
	close(m.ended)
	m.ended = make(chan struct{})
}

func (m *machine) kickLeases() {
	select {
	case m.leaseKick <- struct{}{}:
	default:
	}
}
