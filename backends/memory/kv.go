package memory

import (
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

// Range implements backends.Backend.
func (b *Backend) Range(ctx context.Context, req *backends.RangeRequest) (backends.Cursor, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	switch {
	case req.Revision > b.revision:
		return nil, backends.ErrFutureRevision
	case req.Revision > 0 && req.Revision < b.compacted:
		return nil, backends.ErrCompacted
	}
	return b.newCursor(&req.RangeOptions, b.revision), nil
}

// Txn implements backends.Backend. As in etcd, everything that can go wrong is
// found in the state before the transaction, nested comparisons are decided
// there, too, and only then is anything written.
func (b *Backend) Txn(ctx context.Context, req *backends.TxnRequest) (*backends.TxnResult, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	p := b.decide(&req.TxnOp)
	if err := b.check(p, new(deleted)); err != nil {
		return nil, err
	}
	t := &txn{Backend: b, begin: b.revision}
	result, err := t.run(p)
	if err != nil {
		return nil, err
	}
	t.end()
	return &backends.TxnResult{Header: b.header(), TxnOpResult: result}, nil
}

// plan is a transaction body whose comparisons are decided.
type plan struct {
	succeeded bool
	ops       []backends.Op
	// nested has the plan of each op that is a transaction.
	nested map[int]*plan
}

func (b *Backend) decide(t *backends.TxnOp) *plan {
	p := &plan{succeeded: true, ops: t.Success, nested: make(map[int]*plan)}
	for i := range t.Compare {
		if !b.holds(&t.Compare[i]) {
			p.succeeded, p.ops = false, t.Failure
			break
		}
	}
	for i, op := range p.ops {
		if op.Txn != nil {
			p.nested[i] = b.decide(op.Txn)
		}
	}
	return p
}

func (b *Backend) holds(c *backends.Compare) bool {
	records := b.list(&c.KeyRange, b.revision)
	if len(records) == 0 {
		return c.Absent()
	}
	for _, rec := range records {
		if !c.Holds(rec.kv) {
			return false
		}
	}
	return true
}

// deleted is what the operations before one delete.
type deleted []*backends.KeyRange

func (d deleted) contains(key []byte) bool {
	return slices.ContainsFunc(d, func(r *backends.KeyRange) bool { return contains(r, key) })
}

// check finds the first operation that cannot be done, given what those before it
// delete, and adds to that.
func (b *Backend) check(p *plan, before *deleted) error {
	for i, op := range p.ops {
		var err error
		switch {
		case op.Range != nil:
			err = b.checkRange(op.Range)
		case op.Put != nil:
			err = b.checkPut(op.Put, *before)
		case op.Delete != nil:
			*before = append(*before, &op.Delete.KeyRange)
		case op.Txn != nil:
			err = b.check(p.nested[i], before)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRange differs from Range in that a negative revision is compared with the
// compacted one, too, as in etcd (checkRange in server/etcdserver/txn, 3.7.3).
func (b *Backend) checkRange(r *backends.RangeOptions) error {
	switch {
	case r.Revision > b.revision:
		return backends.ErrFutureRevision
	case r.Revision != 0 && r.Revision < b.compacted:
		return backends.ErrCompacted
	}
	return nil
}

// checkPut knows that what is to be kept may have been deleted before, where etcd
// 3.7.3 ends with a panic. No operation before can have put the key: etcdapi refuses
// a key that is put twice.
func (b *Backend) checkPut(p *backends.PutOp, before deleted) error {
	if p.Lease != 0 && b.leases[p.Lease] == nil {
		return backends.ErrLeaseNotFound
	}
	if (p.IgnoreValue || p.IgnoreLease) && (b.get(p.Key, b.revision) == nil || before.contains(p.Key)) {
		return backends.ErrKeyNotFound
	}
	return nil
}

// txn writes one revision, the one after begin, unless it changes nothing.
type txn struct {
	*Backend
	begin   int64
	changed bool
}

// current is the revision that reads of the transaction see.
func (t *txn) current() int64 {
	if t.changed {
		return t.begin + 1
	}
	return t.begin
}

func (t *txn) run(p *plan) (backends.TxnOpResult, error) {
	result := backends.TxnOpResult{Succeeded: p.succeeded, Responses: make([]backends.OpResult, len(p.ops))}
	for i, op := range p.ops {
		r := &result.Responses[i]
		var err error
		switch {
		case op.Range != nil:
			r.Range = t.newCursor(op.Range, t.current())
			r.Revision = t.current()
		case op.Put != nil:
			r.Put, err = t.put(op.Put)
			r.Revision = t.current()
		case op.Delete != nil:
			r.Delete = t.deleteRange(op.Delete)
			r.Revision = t.current()
		case op.Txn != nil:
			// etcd leaves the header of a nested transaction empty.
			r.Txn = new(backends.TxnOpResult)
			*r.Txn, err = t.run(p.nested[i])
		}
		if err != nil {
			return backends.TxnOpResult{}, err
		}
	}
	return result, nil
}

func (t *txn) put(p *backends.PutOp) (*backends.PutResult, error) {
	kv := &mvccpb.KeyValue{
		Key:            p.Key,
		Value:          p.Value,
		Lease:          p.Lease,
		CreateRevision: t.begin + 1,
		ModRevision:    t.begin + 1,
		Version:        1,
	}
	result := &backends.PutResult{}
	prev := t.get(p.Key, t.current())
	if prev != nil {
		kv.CreateRevision = prev.kv.CreateRevision
		kv.Version = prev.kv.Version + 1
		if p.IgnoreValue {
			kv.Value = prev.kv.Value
		}
		if p.IgnoreLease {
			kv.Lease = prev.kv.Lease
		}
		if p.PrevKV {
			var err error
			if result.PrevKV, err = proto.Marshal(prev.kv); err != nil {
				return nil, err
			}
		}
	}
	t.write(&record{kv: kv}, prev)
	return result, nil
}

func (t *txn) deleteRange(d *backends.DeleteOp) *backends.DeleteResult {
	// The cursor collects the records now, before they are gone.
	prev := t.newCursor(&backends.RangeOptions{KeyRange: d.KeyRange}, t.current())
	result := &backends.DeleteResult{Deleted: prev.result.Count}
	for _, rec := range prev.records {
		t.delete(rec)
	}
	if d.PrevKV {
		result.PrevKVs = prev
	}
	return result
}

func (t *txn) delete(prev *record) {
	kv := &mvccpb.KeyValue{Key: prev.kv.Key, ModRevision: t.begin + 1}
	t.write(&record{kv: kv, deleted: true}, prev)
}

// write adds a record and moves its key from the lease of prev, the record that
// it replaces, to its own.
func (t *txn) write(rec, prev *record) {
	t.changed = true
	if prev != nil && prev.kv.Lease != 0 {
		delete(t.leases[prev.kv.Lease].keys, string(prev.kv.Key))
	}
	if rec.kv.Lease != 0 {
		t.leases[rec.kv.Lease].keys[string(rec.kv.Key)] = struct{}{}
	}
	// A watch is told of the record before the transaction, not of one within it, and
	// of none when the key is new.
	if prev != nil {
		prev = t.get(prev.kv.Key, t.begin)
	}
	t.add(rec, prev)
}

// end makes what was written the store's revision.
func (t *txn) end() {
	if t.changed {
		t.Backend.revision++
		t.index++
		t.wake()
	}
}
