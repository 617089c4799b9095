package memory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/etcdshim/shim/backends"
)

// A lease's TTL is between these, in seconds. The smallest is what etcd derives
// from its default election time-out of one second (minTTL in
// server/etcdserver/server.go); the largest is its lease.MaxLeaseTTL.
const (
	minTTLSeconds = 2
	maxTTLSeconds = 9_000_000_000
)

type lease struct {
	id         int64
	ttlSeconds int64
	deadline   time.Time
	keys       map[string]struct{}
}

func (l *lease) renew(now time.Time) {
	l.deadline = now.Add(time.Duration(l.ttlSeconds) * time.Second)
}

func (l *lease) sortedKeys() []string { return slices.Sorted(maps.Keys(l.keys)) }

// leasesByDeadline is all leases, those expiring first first.
func (b *Backend) leasesByDeadline() []*lease {
	return slices.SortedFunc(maps.Values(b.leases), func(x, y *lease) int {
		return cmp.Or(x.deadline.Compare(y.deadline), cmp.Compare(x.id, y.id))
	})
}

// LeaseGrant implements backends.Leases.
func (b *Backend) LeaseGrant(ctx context.Context, _ backends.Caller, id, ttlSeconds int64) (backends.LeaseGrantResult, error) {
	if err := b.enter(ctx); err != nil {
		return backends.LeaseGrantResult{}, err
	}
	defer b.mu.Unlock()
	if ttlSeconds > maxTTLSeconds {
		return backends.LeaseGrantResult{}, backends.ErrLeaseTTLTooLarge
	}
	now := b.clock.Now()
	if id == 0 {
		id = b.newLeaseID(now)
	}
	if b.leases[id] != nil {
		return backends.LeaseGrantResult{}, backends.ErrLeaseExists
	}
	l := &lease{id: id, ttlSeconds: max(ttlSeconds, minTTLSeconds), keys: make(map[string]struct{})}
	l.renew(now)
	b.leases[id] = l
	b.index++
	if b.nextDeadline.IsZero() || l.deadline.Before(b.nextDeadline) {
		b.nextDeadline = l.deadline
		select {
		case b.leaseSooner <- struct{}{}:
		default: // the goroutine has yet to take the token that is there
		}
	}
	return backends.LeaseGrantResult{Header: b.header(), ID: id, TTLSeconds: l.ttlSeconds}, nil
}

// newLeaseID is a positive id that is free. It begins with the time, so that a
// client with a lease of an earlier process does not take another's for its own.
func (b *Backend) newLeaseID(now time.Time) int64 {
	const counterBits = 16
	id := max(b.lastLeaseID+1, now.UnixMilli()<<counterBits)
	for b.leases[id] != nil {
		id++
	}
	b.lastLeaseID = id
	return id
}

// LeaseRevoke implements backends.Leases.
func (b *Backend) LeaseRevoke(ctx context.Context, _ backends.Caller, id int64) (backends.Header, error) {
	if err := b.enter(ctx); err != nil {
		return backends.Header{}, err
	}
	defer b.mu.Unlock()
	l := b.leases[id]
	if l == nil {
		return backends.Header{}, backends.ErrLeaseNotFound
	}
	b.revoke(l)
	return b.header(), nil
}

// revoke deletes the keys of a lease in one revision, in order, and the lease.
// Without keys it makes no revision.
func (b *Backend) revoke(l *lease) {
	t := &txn{Backend: b, begin: b.revision}
	for _, key := range l.sortedKeys() {
		t.delete(b.get([]byte(key), b.revision))
	}
	t.end()
	b.index++
	delete(b.leases, l.id)
}

// LeaseKeepAlive implements backends.Leases.
func (b *Backend) LeaseKeepAlive(ctx context.Context, _ backends.Caller, id int64) (backends.LeaseKeepAliveResult, error) {
	if err := b.enter(ctx); err != nil {
		return backends.LeaseKeepAliveResult{}, err
	}
	defer b.mu.Unlock()
	l := b.leases[id]
	if l == nil {
		return backends.LeaseKeepAliveResult{Header: b.header()}, backends.ErrLeaseNotFound
	}
	l.renew(b.clock.Now())
	return backends.LeaseKeepAliveResult{Header: b.header(), TTLSeconds: l.ttlSeconds}, nil
}

// LeaseTimeToLive implements backends.Leases.
func (b *Backend) LeaseTimeToLive(ctx context.Context, _ backends.Caller, id int64, keys bool) (backends.LeaseTimeToLiveResult, error) {
	if err := b.enter(ctx); err != nil {
		return backends.LeaseTimeToLiveResult{}, err
	}
	defer b.mu.Unlock()
	l := b.leases[id]
	if l == nil {
		return backends.LeaseTimeToLiveResult{Header: b.header()}, backends.ErrLeaseNotFound
	}
	result := backends.LeaseTimeToLiveResult{
		Header:            b.header(),
		TTLSeconds:        int64(l.deadline.Sub(b.clock.Now()) / time.Second),
		GrantedTTLSeconds: l.ttlSeconds,
	}
	if keys {
		for _, key := range l.sortedKeys() {
			result.Keys = append(result.Keys, []byte(key))
		}
	}
	return result, nil
}

// LeaseLeases implements backends.Leases.
func (b *Backend) LeaseLeases(ctx context.Context, _ backends.Caller) (backends.LeaseLeasesResult, error) {
	if err := b.enter(ctx); err != nil {
		return backends.LeaseLeasesResult{}, err
	}
	defer b.mu.Unlock()
	result := backends.LeaseLeasesResult{Header: b.header()}
	for _, l := range b.leasesByDeadline() {
		result.IDs = append(result.IDs, l.id)
	}
	return result, nil
}

// expire revokes the leases whose deadline has come, in the order of deadlines.
func (b *Backend) expire() {
	now := b.clock.Now()
	if b.nextDeadline.IsZero() || now.Before(b.nextDeadline) {
		return
	}
	b.nextDeadline = time.Time{}
	for _, l := range b.leasesByDeadline() {
		if now.Before(l.deadline) {
			b.nextDeadline = l.deadline
			return
		}
		b.revoke(l)
	}
}

// expireWhenIdle expires leases although no request comes. It ends with Close.
func (b *Backend) expireWhenIdle() {
	defer close(b.done)
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return
		}
		b.expire()
		next := b.nextDeadline
		b.mu.Unlock()

		var due <-chan time.Time
		stop := func() {}
		if !next.IsZero() {
			due, stop = b.clock.After(next.Sub(b.clock.Now()))
		}
		select {
		case <-due:
		case <-b.leaseSooner:
		case <-b.stop:
		}
		stop()
	}
}
