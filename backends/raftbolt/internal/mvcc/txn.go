package mvcc

import (
	"bytes"
	"slices"

	"github.com/etcdshim/shim/backends"
)

// Txn is a change of the key space under way. It is the applier's alone. It ends
// with Commit or Discard.
//
// A read of the file may fail; then the store has failed, reads of the Txn find
// nothing, and Commit returns the error.
type Txn struct {
	s    *Store
	base *state
	// index is the base's root plus the Txn's changes.
	index   *index
	changes []*HistoryEvent
	ops     []bucketOp
	version string // to be set, "" for none
}

// Begin starts a transaction. There is at most one at a time.
func (s *Store) Begin() *Txn {
	s.mu.Lock()
	base := s.state.Load()
	return &Txn{s: s, base: base, index: indexOf(base.root)}
}

// Revision is the current revision at this point of the transaction: that of the
// store at Begin, or one more after the first write.
func (t *Txn) Revision() int64 {
	if len(t.changes) > 0 {
		return t.base.revision + 1
	}
	return t.base.revision
}

// Prev is the state of a key at a point of a transaction.
type Prev struct {
	Exists         bool
	CreateRevision int64
	ModRevision    int64
	Version        int64

	t *Txn
	v version
}

func (t *Txn) prev(k *keyVersions) Prev {
	if k == nil || !k.live() {
		return Prev{}
	}
	v := k.last
	return Prev{Exists: true, CreateRevision: v.create, ModRevision: v.main, Version: v.number, t: t, v: v}
}

// Lease is the key's lease; it reads the record only when the index says that it
// has one. It must be called before the Txn ends.
func (p *Prev) Lease() int64 {
	if !p.Exists || !p.v.leased {
		return 0
	}
	f, err := scanRecord(p.Record())
	if err != nil {
		p.t.s.fail(p.t.s.corrupt("the record at revision %d.%d cannot be read", p.v.main, p.v.sub))
	}
	return f.lease
}

// Record is the encoded mvccpb.KeyValue, nil when the key does not exist. It is
// immutable and the caller's. It must be called before the Txn ends; later, read
// it from a View taken at this point.
func (p *Prev) Record() []byte {
	if !p.Exists {
		return nil
	}
	if p.v.main > p.t.base.revision {
		return p.t.changes[p.v.sub].record
	}
	record, err := p.t.s.record(p.v)
	if err != nil {
		p.t.s.fail(err)
		return nil
	}
	return record
}

// Get looks a key up.
func (t *Txn) Get(key []byte) Prev { return t.prev(t.index.root.get(string(key))) }

// Ascend calls f for each live key of the range in order until f returns false.
// key must not be changed. The Txn must not be written to meanwhile.
func (t *Txn) Ascend(r backends.KeyRange, f func(key []byte, p *Prev) bool) {
	t.index.root.ascend(spanOf(r), func(k *keyVersions) bool {
		if !k.live() {
			return true
		}
		p := t.prev(k)
		return f([]byte(k.key), &p)
	})
}

// Put sets a key and returns what was there. It copies key and value.
func (t *Txn) Put(key, value []byte, lease int64) (prev Prev) {
	name := string(key)
	t.index.update(name, func(old *keyVersions) *keyVersions {
		prev = t.prev(old)
		main := t.base.revision + 1
		f := fields{key: key, create: main, mod: main, version: 1, lease: lease}
		if prev.Exists {
			f.create, f.version = prev.CreateRevision, prev.Version+1
		}
		event, record := putEvent(&f, value)
		v := t.change(&HistoryEvent{Key: recordKey(record, len(key)), plain: event, record: record},
			version{create: f.create, number: f.version, leased: lease != 0})
		if old == nil {
			return &keyVersions{key: name, last: v}
		}
		return old.with(v)
	})
	return prev
}

// recordKey is the key within a record, which begins with it.
func recordKey(record []byte, n int) []byte {
	start := 1 + varintSize(uint64(n))
	return record[start : start+n : start+n]
}

// change adds one change to the transaction and returns its version.
func (t *Txn) change(e *HistoryEvent, v version) version {
	v.main, v.sub = t.base.revision+1, uint32(len(t.changes))
	e.store, e.Revision, e.Sub = t.s, v.main, int64(v.sub)
	t.changes = append(t.changes, e)
	return v
}

// DeleteRange deletes every live key of the range, after calling f, which may be
// nil, with the key (not to be changed) and its lease. It returns how many there
// were. f must not use the Txn.
func (t *Txn) DeleteRange(r backends.KeyRange, f func(key []byte, lease int64)) int64 {
	var doomed []*keyVersions
	t.index.root.ascend(spanOf(r), func(k *keyVersions) bool {
		if k.live() {
			doomed = append(doomed, k)
		}
		return true
	})
	for _, k := range doomed {
		record := appendBytes(nil, tagKey, k.key)
		key := recordKey(record, len(k.key))
		if f != nil {
			p := t.prev(k)
			f(key, p.Lease())
		}
		t.index.put(k.with(t.change(&HistoryEvent{Key: key, Delete: true, record: record}, version{})))
	}
	return int64(len(doomed))
}

// Set writes to a small bucket. It makes no revision. key and value are copied.
func (t *Txn) Set(b Bucket, key, value []byte) {
	t.ops = append(t.ops, bucketOp{b, bytes.Clone(key), append([]byte{}, value...)})
}

// Delete removes a key of a small bucket, if it is there. It makes no revision.
func (t *Txn) Delete(b Bucket, key []byte) {
	t.ops = append(t.ops, bucketOp{b, bytes.Clone(key), nil})
}

// SetStorageVersion sets the version that the file is written for, and tells whether
// there is such a one. It makes no revision.
func (t *Txn) SetStorageVersion(version string) bool {
	if !slices.Contains(storageVersions(), version) {
		return false
	}
	t.Set(bucketMeta, []byte(metaStorageVersion), []byte(version))
	t.version = version
	return true
}

// View pins the state at this point of the transaction for reading after the Txn
// ended; to be read, if anything was written, only after a Commit. Until it is
// closed no physical compaction removes what it can read, so it must be closed
// with the request it belongs to.
func (t *Txn) View() *View {
	return &View{
		s:        t.s,
		root:     t.index.freeze(),
		revision: t.Revision(),
		compact:  t.base.compactRevision,
		partial:  len(t.changes) > 0,
		pin:      t.s.pins.add(t.base.compactRevision),
	}
}

// Commit makes the changes visible and returns the store's revision. An error is
// final: the store has failed, and nothing of the Txn is visible.
func (t *Txn) Commit() (int64, error) {
	s := t.s
	defer s.mu.Unlock()
	if err := s.Err(); err != nil {
		return 0, err
	}
	if len(t.changes) > 0 || len(t.ops) > 0 {
		// The ring first: who is told of a revision finds it there.
		s.ring.add(t.changes)
		s.commitLocked(state{
			root:            t.index.freeze(),
			revision:        t.Revision(),
			compactRevision: t.base.compactRevision,
		}, t.changes, t.ops)
		if version := t.version; version != "" {
			s.version.Store(&version)
		}
	}
	return t.Revision(), nil
}

// Discard leaves nothing behind, neither a revision nor bucket writes.
func (t *Txn) Discard() { t.s.mu.Unlock() }
