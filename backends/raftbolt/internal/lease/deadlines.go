package lease

import (
	"fmt"
	"time"

	"github.com/etcdshim/shim/backends"
)

const (
	// retryAfter is when an expired lease is reported again if it still exists:
	// its revocation may have been refused. It is etcd's interval, longer than a
	// proposal takes on a slow disk.
	retryAfter = 3 * time.Second
	// checkpointEvery is the pause between checkpoints of a lease that is not
	// renewed; it bounds how much longer a lease lives through a change of
	// leader.
	checkpointEvery = 10 * time.Second
	// checkpointGrid is the grain of checkpoint times, counted from the
	// promotion, so that many leases share one command instead of each making
	// an entry of its own.
	checkpointGrid = time.Second
)

// deadlines is the leader's half of a Table. The zero value is that of a member
// that does not lead.
type deadlines struct {
	leading bool
	// since is the promotion: the origin of checkpointGrid.
	since time.Time
	// While leading every lease is in both queues; otherwise both are empty.
	expiry      queue
	checkpoints queue
}

// timers is what deadlines knows of one lease; meaningful while leading.
type timers struct {
	// deadline is when the lease expires.
	deadline time.Time
	// checkpointing: a checkpoint was handed out and is not known to be applied.
	checkpointing bool
	expiry        timer
	checkpoint    timer
}

var noTimers = timers{expiry: timer{place: absent}, checkpoint: timer{place: absent}}

// Checkpoint is the remaining TTL of one lease at a moment.
type Checkpoint struct {
	ID int64
	// RemainingTTLSeconds is rounded up to whole seconds, 1 to TTL; zero resets
	// the lease to its full TTL.
	RemainingTTLSeconds int64
}

// Leading tells whether the table was promoted.
func (t *Table) Leading() bool { return t.due.leading }

// Promote begins a leadership: each lease expires its checkpointed remaining
// TTL, or full TTL if there is none, after now, and extend later still, so that
// clients find the new leader in time.
func (t *Table) Promote(now time.Time, extend time.Duration) {
	t.Demote()
	d := &t.due
	d.leading, d.since = true, now
	for _, l := range t.leases {
		l.timers.deadline = now.Add(l.ttl()).Add(extend)
		d.expiry.add(&l.timers.expiry, l, l.timers.deadline)
		first := checkpointEvery
		if l.RemainingTTLSeconds == 0 {
			first = seconds(l.TTLSeconds) / 2
		}
		d.checkpoints.add(&l.timers.checkpoint, l, d.grid(now.Add(first)))
	}
	d.expiry.init()
	d.checkpoints.init()
}

// Demote ends a leadership: nothing expires any more. It may be called when
// there is none.
func (t *Table) Demote() {
	if !t.due.leading {
		return
	}
	for _, l := range t.leases {
		l.timers = noTimers
	}
	t.due = deadlines{}
}

// Renew starts a lease's time again at now and returns its TTL in seconds. The
// errors tell what to do first; nothing is changed then: ErrNotLeader,
// ErrLeaseNotFound, ErrExpired, ErrCheckpointed.
func (t *Table) Renew(id int64, now time.Time) (int64, error) {
	l, err := t.led(id)
	switch {
	case err != nil:
		return 0, err
	case !now.Before(l.timers.deadline):
		return 0, ErrExpired
	case l.timers.checkpointing || l.RemainingTTLSeconds > 0:
		return 0, ErrCheckpointed
	}
	t.due.restart(l, now)
	return l.TTLSeconds, nil
}

// Remaining is the time until a lease expires, negative once that has passed.
// ErrNotLeader, ErrLeaseNotFound.
func (t *Table) Remaining(id int64, now time.Time) (time.Duration, error) {
	l, err := t.led(id)
	if err != nil {
		return 0, err
	}
	return l.timers.deadline.Sub(now), nil
}

func (t *Table) led(id int64) (*lease, error) {
	if !t.due.leading {
		return nil, backends.ErrNotLeader
	}
	l, ok := t.leases[id]
	if !ok {
		return nil, backends.ErrLeaseNotFound
	}
	return l, nil
}

// Expired returns at most limit leases whose deadline has passed at now, the
// earliest first. One that is still there 3 seconds later is returned again.
// Without leadership there are none.
func (t *Table) Expired(now time.Time, limit int) []int64 {
	var ids []int64
	q := &t.due.expiry
	for len(ids) < limit && q.due(now) {
		l := q.first().lease
		ids = append(ids, l.ID)
		q.set(&l.timers.expiry, l, now.Add(retryAfter))
	}
	return ids
}

// Checkpoints returns at most limit checkpoints that are due at now: of leases
// not renewed for half their TTL, and then every 10 seconds. Until it is
// applied or given back with RefuseCheckpoints, a lease is not returned again,
// nor renewed.
func (t *Table) Checkpoints(now time.Time, limit int) []Checkpoint {
	var out []Checkpoint
	d := &t.due
	for len(out) < limit && d.checkpoints.due(now) {
		l := d.checkpoints.first().lease
		d.checkpoints.set(&l.timers.checkpoint, l, d.grid(now.Add(checkpointEvery)))
		left := l.timers.deadline.Sub(now)
		if left <= 0 || l.timers.checkpointing {
			// It waits to be revoked, or for its last checkpoint.
			continue
		}
		l.timers.checkpointing = true
		up := int64((left + time.Second - 1) / time.Second)
		out = append(out, Checkpoint{ID: l.ID, RemainingTTLSeconds: min(up, l.TTLSeconds)})
	}
	return out
}

// RefuseCheckpoints gives back checkpoints of the present leadership that
// certainly will never be applied.
// They are due again when they would have been next.
func (t *Table) RefuseCheckpoints(refused []Checkpoint) {
	for _, c := range refused {
		if l, ok := t.leases[c.ID]; ok {
			l.timers.checkpointing = false
		}
	}
}

// NextDue is when Expired or Checkpoints has something next; ok is false when
// there is no such time.
func (t *Table) NextDue() (at time.Time, ok bool) {
	for _, q := range []*queue{&t.due.expiry, &t.due.checkpoints} {
		if q.Len() > 0 && (!ok || q.first().at.Before(at)) {
			at, ok = q.first().at, true
		}
	}
	return at, ok
}

// restart begins a lease's full TTL at now.
func (d *deadlines) restart(l *lease, now time.Time) {
	if !d.leading {
		return
	}
	ttl := seconds(l.TTLSeconds)
	l.timers.deadline = now.Add(ttl)
	d.expiry.set(&l.timers.expiry, l, l.timers.deadline)
	d.checkpoints.set(&l.timers.checkpoint, l, d.grid(now.Add(ttl/2)))
}

func (d *deadlines) remove(l *lease) {
	if d.leading {
		d.expiry.remove(&l.timers.expiry)
		d.checkpoints.remove(&l.timers.checkpoint)
	}
}

// grid rounds a time up to the next of checkpointGrid.
func (d *deadlines) grid(at time.Time) time.Time {
	if over := at.Sub(d.since) % checkpointGrid; over > 0 {
		return at.Add(checkpointGrid - over)
	}
	return at
}

func (d *deadlines) check(leases map[int64]*lease) error {
	want := 0
	if d.leading {
		want = len(leases)
	}
	for name, q := range map[string]*queue{"expiry": &d.expiry, "checkpoint": &d.checkpoints} {
		if q.Len() != want {
			return fmt.Errorf("%d leases, leading %v, have %d %s timers", len(leases), d.leading, q.Len(), name)
		}
		for i, t := range q.timers {
			if t.place != i || leases[t.lease.ID] != t.lease {
				return fmt.Errorf("%s timer %d says place %d, lease %d", name, i, t.place, t.lease.ID)
			}
			if i > 0 && q.Less(i, (i-1)/2) {
				return fmt.Errorf("%s timer %d is before its parent", name, i)
			}
		}
	}
	return nil
}
