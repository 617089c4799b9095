package mvcc

import (
	"context"
	"sort"

	"go.uber.org/zap"
)

// layer is what was applied and is not in the file, beside the changes in
// state.frozen and state.active. It belongs to the holder of Store.mu.
type layer struct {
	// ops are writes to small buckets and meta, in order; frozenOps are being
	// flushed.
	ops       []bucketOp
	frozenOps []bucketOp
	// bytes and frozenBytes charge memory: see changeBytes and opBytes.
	bytes       int64
	frozenBytes int64
	// seq counts commits and entry ends; durable is the last that is in the file.
	seq     uint64
	durable uint64
	// boundary is where the last EndEntry was.
	boundary boundary
	// frozen is the boundary being flushed, when busy.
	frozen boundary
	busy   bool
}

// boundary is a raft-entry boundary within the layer.
type boundary struct {
	seq      uint64
	revision int64
	changes  int
	ops      int
	bytes    int64
	applied  Applied
}

// bucketOp is a write to a small bucket; a nil value deletes.
type bucketOp struct {
	bucket Bucket
	key    []byte
	value  []byte
}

// Bounds of what a change costs beside its own bytes: the event, slice and index
// entry that hold it. Rough, but on the safe side.
const (
	changeOverheadBytes = 256
	opOverheadBytes     = 128
)

func changeBytes(e *HistoryEvent) int64 {
	return int64(len(e.record)) + int64(len(e.Key)) + changeOverheadBytes
}

func opBytes(o bucketOp) int64 { return int64(len(o.key)+len(o.value)) + opOverheadBytes }

// find looks a change up in what of the layer a state saw.
func (st *state) find(r revision) *HistoryEvent {
	for _, run := range [2][]*HistoryEvent{st.active, st.frozen} {
		if len(run) == 0 || r.less(run[0].revision()) {
			continue
		}
		i := sort.Search(len(run), func(i int) bool { return !run[i].revision().less(r) })
		if i < len(run) && run[i].revision() == r {
			return run[i]
		}
		return nil
	}
	return nil
}

// commitLocked adds a transaction's outcome to the layer and publishes it.
func (s *Store) commitLocked(next state, changes []*HistoryEvent, ops []bucketOp) {
	l := &s.layer
	old := s.state.Load()
	next.frozen, next.flushedRevision = old.frozen, old.flushedRevision
	next.active = append(old.active, changes...)
	for _, e := range changes {
		l.bytes += changeBytes(e)
	}
	for _, o := range ops {
		l.bytes += opBytes(o)
	}
	l.ops = append(l.ops, ops...)
	l.seq++
	s.state.Store(&next)
	s.sizes.layer.Store(l.bytes + l.frozenBytes)
	if next.revision != old.revision || next.compactRevision != old.compactRevision {
		s.changed.notify()
	}
}

// EndEntry marks a raft-entry boundary: everything committed so far belongs to
// log positions up to a.Index. It blocks while the layer is above LayerBytes;
// above fullDiskLayers of them while the disk is full, so that what was under way
// does not stand before the alarm and the deletes that come now. It fails when the store has failed (with the error OnFatal got) or is closed.
func (s *Store) EndEntry(a Applied) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.layer
	if a.ConfState == nil {
		a.ConfState = l.boundary.applied.ConfState
	}
	wasClean := l.boundary.seq == l.durable
	l.seq++
	st := s.state.Load()
	l.boundary = boundary{seq: l.seq, revision: st.revision, changes: len(st.active), ops: len(l.ops), bytes: l.bytes, applied: a}
	if wasClean || l.bytes >= s.cfg.FlushBytes || s.want > l.durable {
		s.kickFlusher()
	}
	for l.bytes+l.frozenBytes >= s.layerBound() && s.stopped.Err() == nil {
		if s.full == nil {
			s.full = make(chan struct{})
			s.log.Warn("writes wait for the flush of the layer", zap.Int64("layer-bytes", l.bytes+l.frozenBytes))
		}
		full := s.full
		s.kickFlusher()
		s.mu.Unlock()
		select {
		case <-full:
		case <-s.stopped.Done():
		}
		s.mu.Lock()
	}
	if s.stopped.Err() != nil {
		return s.ended()
	}
	return nil
}

// fullDiskLayers is how many times LayerBytes the layer may hold while the disk
// is full: twice what the node has under way with the defaults, and as much again
// for deletes, of which a million fit.
const fullDiskLayers = 4

// layerBound is from where on EndEntry blocks. Caller holds mu.
func (s *Store) layerBound() int64 {
	if s.noRoom != nil {
		return fullDiskLayers * s.cfg.LayerBytes
	}
	return s.cfg.LayerBytes
}

// freeze cuts the layer at its last boundary for a flush. It returns false when
// there is nothing to flush.
func (s *Store) freeze() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.layer
	if l.busy {
		return true // A flush that found no room is tried again as it was.
	}
	b := l.boundary
	if b.seq == l.durable {
		return false
	}
	st := *s.state.Load()
	st.frozen = st.active[:b.changes:b.changes]
	st.active = append([]*HistoryEvent(nil), st.active[b.changes:]...)
	s.state.Store(&st)
	l.frozenOps = l.ops[:b.ops:b.ops]
	l.ops = append([]bucketOp(nil), l.ops[b.ops:]...)
	l.frozenBytes, l.bytes = b.bytes, l.bytes-b.bytes
	l.boundary.changes, l.boundary.ops, l.boundary.bytes = 0, 0, 0
	l.frozen, l.busy = b, true
	return true
}

// thaw drops what freeze cut off, after it was committed to the file.
func (s *Store) thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.layer
	st := *s.state.Load()
	st.frozen, st.flushedRevision = nil, l.frozen.revision
	s.state.Store(&st)
	l.durable = l.frozen.seq
	s.applied = l.frozen.applied
	l.frozenOps, l.frozenBytes, l.busy = nil, 0, false
	s.noRoom = nil
	s.starved.Store(false)
	s.sizes.layer.Store(l.bytes)
	if s.full != nil && l.bytes < s.cfg.LayerBytes {
		close(s.full)
		s.full = nil
	}
	close(s.flushed)
	s.flushed = make(chan struct{})
}

// Flush makes everything applied before the call durable: up to the next
// EndEntry when an entry is under way. The applier must not call it within an
// entry. ErrNoSpace when the disk has no room for it.
func (s *Store) Flush(ctx context.Context) error {
	s.mu.Lock()
	target := s.layer.seq
	s.mu.Unlock()
	return s.flushTo(ctx, target)
}

// flushBoundary makes everything up to the last EndEntry durable.
func (s *Store) flushBoundary(ctx context.Context) error {
	s.mu.Lock()
	target := s.layer.boundary.seq
	s.mu.Unlock()
	return s.flushTo(ctx, target)
}

// patientMisses is how many flushes without room a wait for one outlasts: the
// first may have begun before the wait, when there was no room yet.
const patientMisses = 2

// flushTo waits until the sequence number is durable. ErrNoSpace when the disk
// has no room for it.
func (s *Store) flushTo(ctx context.Context, target uint64) error {
	s.mu.Lock()
	enough := s.misses + patientMisses
	s.mu.Unlock()
	for {
		s.mu.Lock()
		if s.layer.durable >= target {
			s.mu.Unlock()
			return nil
		}
		if noRoom := s.noRoom; noRoom != nil && s.misses >= enough {
			s.mu.Unlock()
			return noRoom
		}
		s.want = max(s.want, target)
		flushed := s.flushed
		s.mu.Unlock()
		s.kickFlusher()
		select {
		case <-flushed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopped.Done():
			return s.ended()
		}
	}
}

func (s *Store) kickFlusher() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
