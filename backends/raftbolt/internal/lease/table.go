package lease

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/etcdshim/shim/backends"
)

// MaxTTLSeconds is the largest TTL, as etcd's (server/lease/lessor.go,
// MaxLeaseTTL): in nanoseconds it still fits a time.Duration.
const MaxTTLSeconds = 9_000_000_000

// Table holds all leases. The zero Table is not usable; see New. It is not safe
// for concurrent use.
type Table struct {
	leases map[int64]*lease
	// due is the leader's half. It is empty on a member that does not lead.
	due deadlines
}

// lease is one lease: the replicated half, and its timers in the leader's.
type lease struct {
	Record
	// keys are those attached; nil when there was never one.
	keys map[string]struct{}

	timers timers
}

// ttl is how long the lease lives from a promotion on.
func (l *lease) ttl() time.Duration {
	if l.RemainingTTLSeconds > 0 {
		return seconds(l.RemainingTTLSeconds)
	}
	return seconds(l.TTLSeconds)
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// New makes a table without leases, on a member that does not lead.
func New() *Table { return &Table{leases: make(map[int64]*lease)} }

// Len is the number of leases.
func (t *Table) Len() int { return len(t.leases) }

// Load adds a lease of the bucket at start. A TTL below 1 second counts as 1, a
// checkpoint outside 0 to TTL as the nearest of these. ErrLeaseExists.
func (t *Table) Load(r Record) error {
	if _, taken := t.leases[r.ID]; taken {
		return backends.ErrLeaseExists
	}
	r.TTLSeconds = min(max(r.TTLSeconds, 1), MaxTTLSeconds)
	r.RemainingTTLSeconds = min(max(r.RemainingTTLSeconds, 0), r.TTLSeconds)
	t.leases[r.ID] = &lease{Record: r, timers: noTimers}
	return nil
}

// Grant adds a lease and returns its record. ttlSeconds is taken as it is, but
// for one below 1, which counts as 1: the member's minimum is applied by the
// proposer, since members may be configured differently. On the leader the
// lease's time begins at now; nothing else depends on now.
//
// ErrLeaseNotFound for the id zero, as etcd answers, ErrLeaseTTLTooLarge,
// ErrLeaseExists, in this order.
func (t *Table) Grant(id, ttlSeconds int64, now time.Time) (Record, error) {
	if id == 0 {
		return Record{}, backends.ErrLeaseNotFound
	}
	if ttlSeconds > MaxTTLSeconds {
		return Record{}, backends.ErrLeaseTTLTooLarge
	}
	if err := t.Load(Record{ID: id, TTLSeconds: ttlSeconds}); err != nil {
		return Record{}, err
	}
	l := t.leases[id]
	t.due.restart(l, now)
	return l.Record, nil
}

// Revoke removes a lease with its attachments. Its keys, which Keys tells
// before, are deleted by the caller in the same revision. ErrLeaseNotFound.
func (t *Table) Revoke(id int64) error {
	l, ok := t.leases[id]
	if !ok {
		return backends.ErrLeaseNotFound
	}
	t.due.remove(l)
	delete(t.leases, id)
	return nil
}

// Attach notes that a key hangs on a lease. Attaching twice is attaching once.
// ErrLeaseNotFound.
func (t *Table) Attach(id int64, key []byte) error {
	l, ok := t.leases[id]
	if !ok {
		return backends.ErrLeaseNotFound
	}
	if l.keys == nil {
		l.keys = make(map[string]struct{})
	}
	l.keys[string(key)] = struct{}{}
	return nil
}

// Detach takes a key off a lease. One that does not hang on it, or a lease that
// does not exist, is ignored: the key may be deleted because the lease was.
func (t *Table) Detach(id int64, key []byte) {
	if l, ok := t.leases[id]; ok {
		delete(l.keys, string(key))
	}
}

// ApplyCheckpoint sets the remaining TTL from which the lease's time starts at
// the next promotion; zero means the full TTL. A value outside 0 to TTL counts
// as the nearest of these. It does not move the present deadline. A lease that
// does not exist is ignored, as it may have been revoked meanwhile: then ok is
// false, and there is no record to write.
func (t *Table) ApplyCheckpoint(id, remainingSeconds int64) (r Record, ok bool) {
	l, ok := t.leases[id]
	if !ok {
		return Record{}, false
	}
	l.RemainingTTLSeconds = min(max(remainingSeconds, 0), l.TTLSeconds)
	if l.RemainingTTLSeconds > 0 {
		l.timers.checkpointing = false
	}
	return l.Record, true
}

// Get returns a lease's record. ErrLeaseNotFound.
func (t *Table) Get(id int64) (Record, error) {
	l, ok := t.leases[id]
	if !ok {
		return Record{}, backends.ErrLeaseNotFound
	}
	return l.Record, nil
}

// Keys returns copies of a lease's keys, ascending. ErrLeaseNotFound.
func (t *Table) Keys(id int64) ([][]byte, error) {
	l, ok := t.leases[id]
	if !ok {
		return nil, backends.ErrLeaseNotFound
	}
	sorted := make([]string, 0, len(l.keys))
	for k := range l.keys {
		sorted = append(sorted, k)
	}
	slices.Sort(sorted)
	keys := make([][]byte, len(sorted))
	for i, k := range sorted {
		keys[i] = []byte(k)
	}
	return keys, nil
}

// EachKey calls f for the keys of a lease, in no order, until it returns false. A
// lease that does not exist has none.
func (t *Table) EachKey(id int64, f func(key string) bool) {
	l, ok := t.leases[id]
	if !ok {
		return
	}
	for key := range l.keys {
		if !f(key) {
			return
		}
	}
}

// List returns all ids, those that expire first first, as etcd's LeaseLeases;
// of equal ones the smaller id first. A member that does not lead knows no
// deadlines: it orders by the TTL that a promotion would begin with.
func (t *Table) List() []int64 {
	all := make([]*lease, 0, len(t.leases))
	for _, l := range t.leases {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *lease) int {
		if t.due.leading {
			if c := a.timers.deadline.Compare(b.timers.deadline); c != 0 {
				return c
			}
		} else if c := cmp.Compare(a.ttl(), b.ttl()); c != 0 {
			return c
		}
		return cmp.Compare(a.ID, b.ID)
	})
	ids := make([]int64, len(all))
	for i, l := range all {
		ids[i] = l.ID
	}
	return ids
}

// check verifies the invariants that the fields state.
func (t *Table) check() error {
	for id, l := range t.leases {
		if l.ID != id || l.TTLSeconds < 1 || l.RemainingTTLSeconds < 0 || l.RemainingTTLSeconds > l.TTLSeconds {
			return fmt.Errorf("lease %d has record %+v", id, l.Record)
		}
	}
	return t.due.check(t.leases)
}
