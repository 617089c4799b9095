package rig

import (
	"fmt"
	"sync"
	"time"
)

// Kind is what an operation does.
type Kind int

// What operations do.
const (
	Put         Kind = iota
	Delete           // of one key
	DeleteRange      // of [Keys[0], Keys[1])
	Guarded          // if mod_revision(key) == Guard then put
	Several          // one transaction that puts several keys
	Revoke           // of Lease, with every key attached to it
	Expire           // what a lease with a short TTL does by itself
)

// Op is one write as its client knows it.
type Op struct {
	Kind  Kind
	Keys  []string
	Value string // unique among all operations
	Lease int64
	Guard int64
	// Rev is the acknowledged revision; 0 while the outcome is not known.
	Rev int64
}

// shownValue bounds what is printed of a value, bytes.
const shownValue = 40

func (o *Op) String() string {
	return fmt.Sprintf("{kind %d keys %v value %.*q lease %x guard %d revision %d}", o.Kind, o.Keys, shownValue, o.Value, o.Lease, o.Guard, o.Rev)
}

// Deletes tells whether the operation removes keys.
func (o *Op) Deletes() bool {
	return o.Kind == Delete || o.Kind == DeleteRange || o.Kind == Revoke || o.Kind == Expire
}

// lease is what the clients know of a lease. It is guarded by its Record.
type lease struct {
	ttl time.Duration
	// until is before when it must not be revoked by itself: its TTL after the last
	// acknowledged grant or keep-alive was sent. Zero: never granted for certain.
	until time.Time
	// touched is when the last grant or keep-alive, acknowledged or not, was over;
	// it may be renewed up to then.
	touched time.Time
	// revoking tells that a client asked for its end, revoked that it was granted.
	revoking, revoked bool
	// gone tells that its end was seen.
	gone bool
}

// Record is what all clients know together. Keys have one writer at a time, save
// for the guarded ones, whose guard decides.
type Record struct {
	sync.Mutex
	// acked maps each acknowledged revision that is not verified yet to its operation.
	acked map[int64]*Op
	// unknown are operations that were sent and not answered, by value;
	// unknownDeletes those that delete.
	unknown        map[string]*Op
	unknownDeletes []*Op
	leases         map[int64]*lease
	// compacted is the last acknowledged compaction, maybeCompacted the last one
	// asked for. Neither is above witnessed.
	compacted, maybeCompacted int64
	// witnessed is the last revision whose events the verifier has.
	witnessed int64
	// revision is the highest one acknowledged.
	revision int64
	writes   int
}

// NewRecord makes the record of an empty store.
func NewRecord() *Record {
	return &Record{acked: map[int64]*Op{}, unknown: map[string]*Op{}, leases: map[int64]*lease{}}
}

// Writes is how many writes were acknowledged.
func (r *Record) Writes() int {
	r.Lock()
	defer r.Unlock()
	return r.writes
}

// Revision is the highest one acknowledged.
func (r *Record) Revision() int64 {
	r.Lock()
	defer r.Unlock()
	return r.revision
}

// Ack notes an acknowledged write. It returns an error when its revision was
// acknowledged to somebody else.
func (r *Record) Ack(o *Op, revision int64) error {
	r.Lock()
	defer r.Unlock()
	if other := r.acked[revision]; other != nil {
		return fmt.Errorf("revision %d was acknowledged twice: %v and %v", revision, other, o)
	}
	o.Rev = revision
	r.acked[revision] = o
	r.revision = max(r.revision, revision)
	r.writes++
	return nil
}

// Lost notes a write whose answer never came.
func (r *Record) Lost(o *Op) {
	r.Lock()
	defer r.Unlock()
	if o.Deletes() {
		r.unknownDeletes = append(r.unknownDeletes, o)
		return
	}
	r.unknown[o.Value] = o
}

// leaseSent notes that a lease is being granted or renewed.
func (r *Record) leaseSent(id int64, ttl time.Duration) {
	r.Lock()
	defer r.Unlock()
	if r.leases[id] == nil {
		r.leases[id] = &lease{ttl: ttl}
	}
}

// leaseOver notes that a grant or keep-alive that was sent at sent is over, with
// the TTL that was answered; 0 when it was not acknowledged.
func (r *Record) leaseOver(id int64, sent time.Time, ttl time.Duration) {
	r.Lock()
	defer r.Unlock()
	l := r.leases[id]
	l.touched = time.Now()
	if ttl > 0 {
		l.ttl = max(l.ttl, ttl)
		if until := sent.Add(ttl); until.After(l.until) {
			l.until = until
		}
	}
}

// mustLive tells until when a lease may not end by itself.
func (r *Record) mustLive(id int64) time.Time {
	r.Lock()
	defer r.Unlock()
	return r.leases[id].until
}
