package raftbolt

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// A Txn runs in three steps, as in etcd (server/etcdserver/txn/txn.go): every
// comparison, nested ones too, is evaluated on the state before the Txn, which
// gives its path; every operation on the path is checked on the same state; then
// the path is executed. A refusal comes before the first write.

// present is a state that comparisons and checks read.
type present interface {
	revision() int64
	compactRevision() int64
	// each calls f for the live keys of a range in order until it returns false,
	// with those parts of the record set that a comparison of target looks at.
	each(r backends.KeyRange, target backends.CompareTarget, f func(*mvccpb.KeyValue) bool) error
	exists(key []byte) (bool, error)
}

// path holds, for a transaction and then each nested one that runs, in order,
// whether its comparisons hold.
type path struct {
	first bool
	rest  []bool
}

// next takes the first step off the path.
func (p *path) next() bool {
	b := p.first
	if len(p.rest) > 0 {
		p.first, p.rest = p.rest[0], p.rest[1:]
	}
	return b
}

func branch(t *backends.TxnOp, holds bool) []backends.Op {
	if holds {
		return t.Success
	}
	return t.Failure
}

// choose evaluates the comparisons.
func choose(s present, t *backends.TxnOp) (path, error) {
	var p path
	var err error
	if p.first, err = holds(s, t.Compare); err != nil {
		return p, err
	}
	err = chooseNested(s, branch(t, p.first), &p)
	return p, err
}

func chooseNested(s present, ops []backends.Op, p *path) error {
	for i := range ops {
		nested := ops[i].Txn
		if nested == nil {
			continue
		}
		ok, err := holds(s, nested.Compare)
		if err != nil {
			return err
		}
		p.rest = append(p.rest, ok)
		if err := chooseNested(s, branch(nested, ok), p); err != nil {
			return err
		}
	}
	return nil
}

func holds(s present, compares []backends.Compare) (bool, error) {
	for i := range compares {
		c := &compares[i]
		found, ok := false, true
		err := s.each(c.KeyRange, c.Target, func(kv *mvccpb.KeyValue) bool {
			found, ok = true, c.Holds(kv)
			return ok
		})
		if err != nil {
			return false, err
		}
		if !found {
			ok = c.Absent()
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

// check validates every operation on the path, on the state before the Txn.
func (m *machine) check(s present, t *backends.TxnOp, p *path) error {
	ops := branch(t, p.next())
	for i := range ops {
		var err error
		switch o := &ops[i]; {
		case o.Range != nil:
			err = checkRange(s, o.Range.Revision)
		case o.Put != nil:
			err = m.checkPut(s, o.Put)
		case o.Txn != nil:
			err = m.check(s, o.Txn, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRange refuses a revision that cannot be read. Within a Txn etcd takes a
// negative one as compacted, where a plain Range reads the current revision.
func checkRange(s present, revision int64) error {
	switch {
	case revision == 0:
		return nil
	case revision > s.revision():
		return backends.ErrFutureRevision
	case revision < s.compactRevision():
		return backends.ErrCompacted
	}
	return nil
}

func (m *machine) checkPut(s present, p *backends.PutOp) error {
	if p.Lease != 0 {
		m.mu.Lock()
		_, err := m.leases.Get(p.Lease)
		m.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if p.IgnoreValue || p.IgnoreLease {
		ok, err := s.exists(p.Key)
		if err != nil {
			return err
		}
		if !ok {
			return backends.ErrKeyNotFound
		}
	}
	return nil
}

// applyTxn applies a Txn that may write.
func (m *machine) applyTxn(e replica.Entry, t *backends.TxnOp, answer bool) (outcome, error) {
	tx := m.store.Begin()
	var s present = txnPresent{tx, m.store}
	p, err := choose(s, t)
	if err == nil {
		checked := p
		err = m.check(s, t, &checked)
	}
	if err != nil {
		tx.Discard()
		return outcome{err: err}, nil
	}
	run := txnRun{tx: tx, answer: answer, header: m.header}
	run.header.Term = e.Term
	result := new(txnAnswer)
	if err := run.txn(t, &p, &result.TxnOpResult, &result.only); err != nil {
		tx.Discard()
		result.Close()
		return outcome{err: err}, nil
	}
	revision, err := m.commit(tx, run.attachments)
	if err != nil {
		result.Close()
		return outcome{}, err
	}
	m.metrics.ran(run.tally)
	if !answer {
		return outcome{}, nil
	}
	run.header.Revision = revision
	result.Header = run.header
	return outcome{txn: &result.TxnResult, revision: revision}, nil
}

// commit commits a Txn that moves keys between leases. It holds mu meanwhile: who
// reads the lease table finds it as it was at the committed revision.
func (m *machine) commit(tx *mvcc.Txn, changes []attachment) (int64, error) {
	if len(changes) == 0 {
		return tx.Commit()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	revision, err := tx.Commit()
	if err != nil {
		return 0, err
	}
	for _, a := range changes {
		if a.from != 0 {
			m.leases.Detach(a.from, a.key)
		}
		if a.to != 0 {
			// It was checked before the Txn ran.
			_ = m.leases.Attach(a.to, a.key)
		}
	}
	return revision, nil
}

// attachment moves a key from one lease to another; zero is none.
type attachment struct {
	key      []byte
	from, to int64
}

// txnAnswer is a TxnResult with room for the commonest, of one operation, so
// that it is one allocation.
type txnAnswer struct {
	backends.TxnResult
	only oneResult
}

type oneResult struct {
	results [1]backends.OpResult
	put     backends.PutResult
	del     backends.DeleteResult
}

// txnRun executes a path that was checked.
type txnRun struct {
	tx *mvcc.Txn
	// answer: results are wanted, with this header.
	answer      bool
	header      backends.Header
	attachments []attachment
	tally       tally
}

func (r *txnRun) txn(t *backends.TxnOp, p *path, out *backends.TxnOpResult, only *oneResult) error {
	out.Succeeded = p.next()
	ops := branch(t, out.Succeeded)
	switch {
	case len(ops) == 0:
		return nil
	case len(ops) == 1 && only != nil:
		out.Responses = only.results[:]
	default:
		out.Responses, only = make([]backends.OpResult, len(ops)), nil
	}
	for i := range ops {
		if err := r.op(&ops[i], p, &out.Responses[i], only); err != nil {
			return err
		}
	}
	return nil
}

func (r *txnRun) op(o *backends.Op, p *path, out *backends.OpResult, only *oneResult) error {
	switch {
	case o.Range != nil:
		r.tally.ranges++
		out.Revision = r.tx.Revision()
		if !r.answer {
			return nil
		}
		cursor, err := r.read(*o.Range)
		if err != nil {
			return err
		}
		out.Range = cursor
		return nil
	case o.Put != nil:
		out.Put = new(backends.PutResult)
		if only != nil {
			out.Put = &only.put
		}
		err := r.put(o.Put, out.Put)
		out.Revision = r.tx.Revision()
		return err
	case o.Delete != nil:
		out.Delete = new(backends.DeleteResult)
		if only != nil {
			out.Delete = &only.del
		}
		err := r.delete(o.Delete, out.Delete)
		out.Revision = r.tx.Revision()
		return err
	default:
		// A nested transaction's header is empty in etcd: Revision stays zero.
		out.Txn = new(backends.TxnOpResult)
		return r.txn(o.Txn, p, out.Txn, nil)
	}
}

// read pins the state at this point; the records are read later, by whoever
// reads the cursor.
func (r *txnRun) read(o backends.RangeOptions) (backends.Cursor, error) {
	view := r.tx.View()
	defer view.Close()
	cursor, err := view.Range(o)
	if err != nil {
		return nil, err
	}
	header := r.header
	header.Revision = r.tx.Revision()
	return &rangeCursor{cursor, header}, nil
}

func (r *txnRun) put(o *backends.PutOp, out *backends.PutResult) error {
	value, to := o.Value, o.Lease
	r.tally.put(o)
	if o.IgnoreValue || o.IgnoreLease {
		old := r.tx.Get(o.Key)
		if !old.Exists {
			// It existed before the Txn, which deleted it. The API refuses such
			// requests; etcd would panic.
			return backends.ErrKeyNotFound
		}
		if o.IgnoreLease {
			to = old.Lease()
		}
		if o.IgnoreValue {
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(old.Record(), &kv); err != nil {
				return err
			}
			value = kv.Value
		}
	}
	prev := r.tx.Put(o.Key, value, to)
	if from := prev.Lease(); from != to {
		r.attachments = append(r.attachments, attachment{o.Key, from, to})
	}
	if r.answer && o.PrevKV {
		out.PrevKV = prev.Record()
	}
	return nil
}

func (r *txnRun) delete(o *backends.DeleteOp, out *backends.DeleteResult) (err error) {
	r.tally.delete(o)
	if r.answer && o.PrevKV {
		if out.PrevKVs, err = r.read(backends.RangeOptions{KeyRange: o.KeyRange}); err != nil {
			return err
		}
	}
	out.Deleted = r.tx.DeleteRange(o.KeyRange, func(key []byte, from int64) {
		if from != 0 {
			r.attachments = append(r.attachments, attachment{key, from, 0})
		}
	})
	return nil
}

// txnPresent is the state at the beginning of a mvcc.Txn.
type txnPresent struct {
	tx    *mvcc.Txn
	store *mvcc.Store
}

func (s txnPresent) revision() int64        { return s.tx.Revision() }
func (s txnPresent) compactRevision() int64 { return s.store.CompactRevision() }

func (s txnPresent) exists(key []byte) (bool, error) {
	p := s.tx.Get(key)
	return p.Exists, nil
}

func (s txnPresent) each(r backends.KeyRange, target backends.CompareTarget, f func(*mvccpb.KeyValue) bool) error {
	var bad error
	visit := func(_ []byte, p *mvcc.Prev) bool {
		kv := mvccpb.KeyValue{CreateRevision: p.CreateRevision, ModRevision: p.ModRevision, Version: p.Version}
		if target == backends.CompareLease {
			kv.Lease = p.Lease()
		}
		if target == backends.CompareValue {
			if bad = proto.Unmarshal(p.Record(), &kv); bad != nil {
				return false
			}
		}
		return f(&kv)
	}
	if len(r.End) > 0 {
		s.tx.Ascend(r, visit)
	} else if p := s.tx.Get(r.Key); p.Exists {
		visit(r.Key, &p)
	}
	return bad
}

// viewPresent is the state that a Txn which only reads is evaluated on.
type viewPresent struct {
	ctx  context.Context
	view *mvcc.View
}

func (s viewPresent) revision() int64        { return s.view.Revision() }
func (s viewPresent) compactRevision() int64 { return s.view.CompactRevision() }

func (s viewPresent) exists(key []byte) (bool, error) {
	_, ok, err := s.view.Get(key, 0)
	return ok, err
}

func (s viewPresent) each(r backends.KeyRange, target backends.CompareTarget, f func(*mvccpb.KeyValue) bool) error {
	needsRecord := target == backends.CompareValue || target == backends.CompareLease
	cursor, err := s.view.Range(backends.RangeOptions{KeyRange: r, KeysOnly: !needsRecord})
	if err != nil {
		return err
	}
	defer cursor.Close()
	for {
		chunk, err := cursor.Next(s.ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		more, err := eachRecord(chunk, f)
		if !more || err != nil {
			return err
		}
	}
}

func eachRecord(chunk *backends.Chunk, f func(*mvccpb.KeyValue) bool) (more bool, err error) {
	defer chunk.Release()
	for record := range chunk.Records() {
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(record, &kv); err != nil {
			return false, err
		}
		if !f(&kv) {
			return false, nil
		}
	}
	return true, nil
}

// rangeCursor is a cursor with its answer's header.
type rangeCursor struct {
	*mvcc.Cursor
	header backends.Header
}

// Result implements backends.Cursor.
func (c *rangeCursor) Result() backends.RangeResult {
	return backends.RangeResult{Header: c.header, Count: c.Count(), More: c.More()}
}
