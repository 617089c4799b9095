package rig

import (
	"fmt"
	"sync"
)

// Kind is what an operation does.
type Kind int

// What operations do.
const (
	Put Kind = iota
	Delete
	Guarded // if mod_revision(key) == guard then put
	Pair    // one transaction that puts two keys
	Revoke  // revokes a lease, which deletes the keys attached to it
	Expire  // what a lease with a short TTL does by itself
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

func (o *Op) String() string {
	return fmt.Sprintf("{kind %d keys %v value %q lease %d guard %d revision %d}", o.Kind, o.Keys, o.Value, o.Lease, o.Guard, o.Rev)
}

// Deletes tells whether the operation removes its keys.
func (o *Op) Deletes() bool { return o.Kind == Delete || o.Kind == Revoke || o.Kind == Expire }

// Record is what all clients know together. Keys have one writer at a time, save
// for the guarded ones, whose guard decides.
type Record struct {
	sync.Mutex
	// acked maps each acknowledged revision to its operation.
	acked map[int64]*Op
	// unknown are operations that were sent and not answered, by value; for
	// deletes and revokes, by key.
	unknown        map[string]*Op
	unknownDeletes map[string][]*Op
	// shortLived are keys attached to a lease that may expire by itself.
	shortLived map[string]bool
	// longLeases are leases that must be alive; revoked ones must not.
	longLeases map[int64]bool
	revoked    map[int64]bool
	// compacted is the last acknowledged compaction, maybeCompacted the last one
	// asked for.
	compacted, maybeCompacted int64
	// revision is the highest one acknowledged.
	revision int64
	writes   int
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

// NewRecord makes the record of an empty store.
func NewRecord() *Record {
	return &Record{
		acked: map[int64]*Op{}, unknown: map[string]*Op{}, unknownDeletes: map[string][]*Op{}, shortLived: map[string]bool{},
		longLeases: map[int64]bool{}, revoked: map[int64]bool{},
	}
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
	if !o.Deletes() {
		r.unknown[o.Value] = o
		return
	}
	for _, k := range o.Keys {
		r.unknownDeletes[k] = append(r.unknownDeletes[k], o)
	}
}
