package kill

import (
	"fmt"
	"sync"
)

// kind is what an operation does.
type kind int

const (
	opPut kind = iota
	opDelete
	opGuarded // if mod_revision(key) == guard then put
	opPair    // one transaction that puts two keys
	opRevoke  // revokes a lease, which deletes the keys attached to it
	opExpire  // what a lease with a short TTL does by itself
)

// op is one write as its client knows it.
type op struct {
	kind  kind
	keys  []string
	value string // unique among all operations
	lease int64
	guard int64
	// rev is the acknowledged revision; 0 while the outcome is not known.
	rev int64
}

func (o *op) String() string {
	return fmt.Sprintf("{kind %d keys %v value %q lease %d guard %d revision %d}", o.kind, o.keys, o.value, o.lease, o.guard, o.rev)
}

// deletes tells whether the operation removes its keys.
func (o *op) deletes() bool { return o.kind == opDelete || o.kind == opRevoke || o.kind == opExpire }

// record is what all clients know together. Keys have one writer at a time, save
// for the guarded ones, whose guard decides.
type record struct {
	sync.Mutex
	// acked maps each acknowledged revision to its operation.
	acked map[int64]*op
	// unknown are operations that were sent and not answered, by value; for
	// deletes and revokes, by key.
	unknown        map[string]*op
	unknownDeletes map[string][]*op
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

func newRecord() *record {
	return &record{
		acked: map[int64]*op{}, unknown: map[string]*op{}, unknownDeletes: map[string][]*op{}, shortLived: map[string]bool{},
		longLeases: map[int64]bool{}, revoked: map[int64]bool{},
	}
}

// ack notes an acknowledged write. It returns an error when its revision was
// acknowledged to somebody else.
func (r *record) ack(o *op, revision int64) error {
	r.Lock()
	defer r.Unlock()
	if other := r.acked[revision]; other != nil {
		return fmt.Errorf("revision %d was acknowledged twice: %v and %v", revision, other, o)
	}
	o.rev = revision
	r.acked[revision] = o
	r.revision = max(r.revision, revision)
	r.writes++
	return nil
}

// lost notes a write whose answer never came.
func (r *record) lost(o *op) {
	r.Lock()
	defer r.Unlock()
	if !o.deletes() {
		r.unknown[o.value] = o
		return
	}
	for _, k := range o.keys {
		r.unknownDeletes[k] = append(r.unknownDeletes[k], o)
	}
}
