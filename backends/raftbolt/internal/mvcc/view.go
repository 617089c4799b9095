package mvcc

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdshim/shim/backends"
)

// View is a state of the key space. It may be used by several goroutines.
//
// It keeps the index as it was, and looks records up by their revision in
// whatever layer or file they are by then; so it costs next to nothing to hold.
// Only the View of a Txn keeps compaction from removing records.
type View struct {
	s        *Store
	root     *node
	revision int64
	compact  int64
	// partial: the root holds a part of its revision's changes.
	partial bool
	pin     *pin
	closed  atomic.Bool
}

// View returns the current state. Close it when done.
func (s *Store) View() *View {
	st := s.state.Load()
	return &View{s: s, root: st.root, revision: st.revision, compact: st.compactRevision}
}

// Revision is the state's revision.
func (v *View) Revision() int64 { return v.revision }

// CompactRevision is that of the last compaction at that time, -1 for none.
func (v *View) CompactRevision() int64 { return v.compact }

// Close lets go of the View. It may be called more than once.
func (v *View) Close() {
	if v.pin != nil && v.closed.CompareAndSwap(false, true) {
		v.pin.release()
	}
}

// Check tells whether revision can be read in this View: ErrFutureRevision,
// ErrCompacted or nil. Zero or below stands for the View's own.
func (v *View) Check(revision int64) error {
	switch {
	case revision > v.revision:
		return backends.ErrFutureRevision
	case revision > 0 && revision < v.compact:
		return backends.ErrCompacted
	}
	return nil
}

// at returns the index to read a revision with: as is when exact, else by
// looking at each key's versions at that revision.
func (v *View) at(revision int64) (root *node, main int64, exact bool, err error) {
	if err := v.Check(revision); err != nil {
		return nil, 0, false, err
	}
	if revision <= 0 || revision == v.revision {
		return v.root, v.revision, true, nil
	}
	if root := v.s.roots.get(revision); root != nil {
		return root, revision, true, nil
	}
	return v.root, revision, false, nil
}

// Get reads one key's record at a revision (0: the View's). ok is false when the
// key does not exist there. The record is the caller's.
func (v *View) Get(key []byte, revision int64) (record []byte, ok bool, err error) {
	root, main, _, err := v.at(revision)
	if err != nil {
		return nil, false, err
	}
	k := root.get(string(key))
	if k == nil {
		return nil, false, nil
	}
	ver, ok := k.liveAt(main)
	if !ok {
		return nil, false, nil
	}
	record, err = v.s.record(ver)
	if err != nil {
		return nil, false, v.s.readError(err, main)
	}
	return record, true, nil
}

// Count counts the keys of a range at a revision (0: the View's). At the View's
// own revision, or one whose index is pinned, it takes O(log n); at another it
// walks the range's keys.
func (v *View) Count(r backends.KeyRange, revision int64) (int64, error) {
	root, main, exact, err := v.at(revision)
	if err != nil {
		return 0, err
	}
	return countAt(root, spanOf(r), main, exact), nil
}

func countAt(root *node, s span, main int64, exact bool) (count int64) {
	if exact {
		return root.count(s)
	}
	root.ascend(s, func(k *keyVersions) bool {
		if _, ok := k.liveAt(main); ok {
			count++
		}
		return true
	})
	return count
}

// errMissing: a record is neither in a layer nor in the file.
var errMissing = errors.New("record is missing")

// readError explains why reading at a revision failed. A record that is missing
// was compacted, or the store is damaged, which makes it fail.
func (s *Store) readError(err error, main int64) error {
	if !errors.Is(err, errMissing) {
		return err
	}
	if main < s.CompactRevision() {
		return backends.ErrCompacted
	}
	err = s.corrupt("a record of a live key is missing (read at revision %d)", main)
	s.fail(err)
	return err
}

// pins are the compacted revisions that Views of transactions and hashes rely on:
// a compaction in the file waits until none lower than its own is left. There
// are as many as requests in flight.
type pins struct {
	mu     sync.Mutex
	counts map[int64]int
	// fewer is closed, when not nil, as soon as a revision has no pin any more.
	fewer chan struct{}
}

// pin is one of them. It is released once.
type pin struct {
	pins     *pins
	revision int64
}

func (p *pins) add(compactRevision int64) *pin {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counts == nil {
		p.counts = make(map[int64]int)
	}
	p.counts[compactRevision]++
	return &pin{pins: p, revision: compactRevision}
}

// again pins the same once more.
func (p *pin) again() *pin {
	if p == nil {
		return nil
	}
	return p.pins.add(p.revision)
}

func (p *pin) release() {
	p.pins.mu.Lock()
	defer p.pins.mu.Unlock()
	if p.pins.counts[p.revision]--; p.pins.counts[p.revision] > 0 {
		return
	}
	delete(p.pins.counts, p.revision)
	if p.pins.fewer != nil {
		close(p.pins.fewer)
		p.pins.fewer = nil
	}
}

// below returns nil when there is no pin lower than revision, else what to wait
// for before asking again.
func (p *pins) below(revision int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	for r := range p.counts {
		if r < revision {
			if p.fewer == nil {
				p.fewer = make(chan struct{})
			}
			return p.fewer
		}
	}
	return nil
}

// Bounds of pinned index roots: as many lists being paged through as a busy
// Kubernetes has, and as long as its continue tokens live.
const (
	maxRoots = 64
	rootAge  = 5 * time.Minute
)

// roots are index roots of past revisions that a limited list will come back to.
type roots struct {
	mu    sync.Mutex
	clock backends.Clock
	// kept is in the order of use, the last used last.
	kept []pinnedRoot
}

type pinnedRoot struct {
	revision int64
	root     *node
	used     time.Time
}

// add keeps a root.
func (r *roots) add(revision int64, root *node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(func(p pinnedRoot) bool { return p.revision == revision })
	if len(r.kept) == maxRoots {
		r.kept = append(r.kept[:0], r.kept[1:]...)
	}
	r.kept = append(r.kept, pinnedRoot{revision, root, r.clock.Now()})
}

// get returns the root of a revision, if it is kept.
func (r *roots) get(revision int64) *node {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, p := range r.kept {
		if p.revision == revision {
			p.used = r.clock.Now()
			r.kept = append(append(r.kept[:i], r.kept[i+1:]...), p)
			return p.root
		}
	}
	return nil
}

// prune drops the roots that are too old or compacted.
func (r *roots) prune(compactRevision int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := r.clock.Now().Add(-rootAge)
	r.remove(func(p pinnedRoot) bool { return p.revision < compactRevision || p.used.Before(oldest) })
}

func (r *roots) remove(f func(pinnedRoot) bool) {
	kept := r.kept[:0]
	for _, p := range r.kept {
		if !f(p) {
			kept = append(kept, p)
		}
	}
	clear(r.kept[len(kept):])
	r.kept = kept
}
