package raftbolt

import (
	"context"
	"errors"
	"io"

	"github.com/etcdshim/shim/backends"
)

var (
	_ backends.Hasher       = (*Backend)(nil)
	_ backends.Snapshotter  = (*Backend)(nil)
	_ backends.Defragmenter = (*Backend)(nil)
	_ backends.LeaderMover  = (*Backend)(nil)
)

// Status implements backends.Backend. It takes no lock.
func (b *Backend) Status(context.Context) (backends.Status, error) {
	if b.closed.Load() {
		return backends.Status{}, backends.ErrStopped
	}
	answered := b.machine.answered.Load() // who was answered finds it in the status
	s := b.node.Status()
	status := backends.Status{
		Header:          b.header(b.store.Committed()),
		CompactRevision: max(b.store.CompactRevision(), 0),
		SizeBytes:       b.store.Size(),
		SizeInUseBytes:  b.store.SizeInUse(),
		QuotaBytes:      b.config.QuotaBytes,
		Leader:          s.Leader,
		Learner:         s.Learner,
		RaftIndex:       max(s.Committed, answered),
		AppliedIndex:    max(s.Applied, answered),
		Alarms:          b.machine.alarms.Load().of(backends.AlarmNone),
		StorageVersion:  b.store.StorageVersion(),
		ClusterVersion:  b.machine.cluster.Load().version,
		Downgrade:       b.machine.cluster.Load().downgrade,
	}
	if err := b.store.Err(); err != nil {
		status.Errors = append(status.Errors, err.Error())
	}
	return status, nil
}

// Hash implements backends.Hasher.
func (b *Backend) Hash(ctx context.Context, _ backends.Caller) (backends.HashResult, error) {
	if err := b.awaitReady(ctx); err != nil {
		return backends.HashResult{}, err
	}
	began := b.env.Clock.Now()
	sum, revision, err := b.store.FileHash(ctx)
	if err != nil {
		return backends.HashResult{}, err
	}
	b.metrics.hash.Observe(b.env.Clock.Now().Sub(began).Seconds())
	return backends.HashResult{Header: b.header(revision), Hash: sum}, nil
}

// HashKV implements backends.Hasher.
func (b *Backend) HashKV(ctx context.Context, _ backends.Caller, revision int64) (backends.HashKVResult, error) {
	if err := b.awaitReady(ctx); err != nil {
		return backends.HashKVResult{}, err
	}
	began := b.env.Clock.Now()
	h, err := b.store.HashKV(ctx, revision)
	if err != nil {
		return backends.HashKVResult{}, err
	}
	b.metrics.hashKV.Observe(b.env.Clock.Now().Sub(began).Seconds())
	return backends.HashKVResult{
		Header: b.header(h.CurrentRevision), Hash: h.Hash, CompactRevision: h.CompactRevision, HashRevision: h.Revision,
	}, nil
}

// Snapshot implements backends.Snapshotter.
func (b *Backend) Snapshot(ctx context.Context, _ backends.Caller) (*backends.Snapshot, error) {
	if err := b.awaitReady(ctx); err != nil {
		return nil, err
	}
	began := b.env.Clock.Now()
	s, err := b.store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	timed := timedSnapshot{s, func() { b.metrics.snapshot.Observe(b.env.Clock.Now().Sub(began).Seconds()) }}
	return &backends.Snapshot{
		Header: b.header(b.store.Committed()), ReadCloser: timed, SizeBytes: s.SizeBytes, StorageVersion: s.StorageVersion,
	}, nil
}

// timedSnapshot tells when it is closed.
type timedSnapshot struct {
	io.ReadCloser
	closed func()
}

// Close closes the snapshot.
func (s timedSnapshot) Close() error {
	s.closed()
	return s.ReadCloser.Close()
}

// Defragment implements backends.Defragmenter.
func (b *Backend) Defragment(ctx context.Context, _ backends.Caller) (backends.Header, error) {
	if err := b.awaitReady(ctx); err != nil {
		return backends.Header{}, err
	}
	began := b.env.Clock.Now()
	b.metrics.defragInflight.Inc()
	err := b.store.Defragment(ctx)
	b.metrics.defragInflight.Dec()
	if err != nil {
		return backends.Header{}, err
	}
	b.metrics.defrag.Observe(b.env.Clock.Now().Sub(began).Seconds())
	return b.header(b.store.Committed()), nil
}

// MoveLeader implements backends.LeaderMover. To the leader itself it is done at
// once.
func (b *Backend) MoveLeader(ctx context.Context, _ backends.Caller, target uint64) error {
	if b.closed.Load() {
		return backends.ErrStopped
	}
	s := b.node.Status()
	if s.Leader != s.MemberID {
		return backends.ErrNotLeader
	}
	if member, ok := b.machine.members.Load().find(target); !ok || member.IsLearner {
		return backends.ErrBadLeaderTransferee
	}
	if target == s.MemberID {
		return nil
	}
	inner, cancel := context.WithTimeout(ctx, b.config.requestTimeout())
	defer cancel()
	err := b.node.TransferLeadership(inner, target)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded), err == nil && b.node.Status().Leader != target:
		return backends.ErrLeaderTransferTimeout
	case err != nil:
		return replicaError(err)
	}
	return nil
}
