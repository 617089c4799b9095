package wal

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/etcdshim/shim/internal/failpoint"
)

// Open recovers the log in o.Dir. What it then reports is synced. durable is the index that the state machine holds durably, which the log
// must adjoin. Nothing is changed before the log is known to be sound, ours, and fitting.
// Errors: ErrNoLog, ErrForeign, ErrVersion, ErrOwner, ErrCorrupt, ErrBehindStore, ErrAheadOfStore, the file system's.
func Open(o Options, durable uint64) (_ *Log, err error) {
	l := &Log{opt: o.withDefaults()}
	defer func() {
		if err != nil {
			l.closeAll()
		}
	}()
	r := recovery{log: l}
	if err := r.read(); err != nil {
		return nil, err
	}
	if err := r.adjoins(durable); err != nil {
		return nil, err
	}
	if err := l.removeTemps(); err != nil {
		return nil, err
	}
	if err := r.repair(); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.LogRepaired)
	l.tornBatch = r.torn != nil
	if err := l.takeOver(r.dropped, r.empty); err != nil {
		return nil, err
	}
	if err := l.Housekeep(); err != nil && !IsShortage(err) {
		return nil, err
	}
	// On a full disk the log goes on without a spare, as it does when the disk fills later: who frees room needs it open.
	return l, nil
}

// closeAll closes what a failed Open had opened.
func (l *Log) closeAll() {
	for _, s := range append(append(append([]*segment(nil), l.segments...), l.free...), l.spare) {
		if s != nil {
			_ = s.file.Close()
		}
	}
}

// recovery reads segments in order.
type recovery struct {
	log     *Log
	dropped []*segment // interrupted recyclings and unreadable heads, to be removed
	empty   []*segment // without a batch, behind the last batch
	broken  *segment   // the last segment whose header is unreadable, if no batch came behind it
	end     int64      // where the last batch ends in its segment
	torn    *tornBatch // what is left of a batch at the end of the log
	// visit, if set, is told of each batch; its error ends the recovery.
	visit func(seg *segment, offset int64, h *batchHeader, b *Batch) error
}

// tornBatch is a batch whose header survived and whose payload did not.
type tornBatch struct {
	seg    *segment
	offset int64
	size   int64
}

// read reads all segments, and judges what does not depend on the store.
func (r *recovery) read() error {
	o := &r.log.opt
	names, err := listLog(o.FS, o.Dir)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("%w in %s", ErrNoLog, o.Dir)
	}
	for _, n := range names {
		if _, ours := parseSegmentName(n); !ours {
			return fmt.Errorf("%w: %s", ErrForeign, filepath.Join(o.Dir, n))
		}
	}
	for _, n := range names {
		if err := r.add(n); err != nil {
			return err
		}
	}
	return r.finish()
}

// add reads one segment file.
func (r *recovery) add(base string) error {
	l := r.log
	seg := &segment{name: filepath.Join(l.opt.Dir, base)}
	var err error
	if seg.file, err = l.opt.FS.Open(seg.name); err != nil {
		return err
	}
	l.segments = append(l.segments, seg)
	b, err := readAll(seg.file)
	if err != nil {
		return err
	}
	sequence, _ := parseSegmentName(base)
	l.nextSequence = max(l.nextSequence, sequence+1)
	head, err := decodeSegmentHeader(b)
	switch {
	case err != nil && errors.Is(err, ErrVersion):
		return fmt.Errorf("%w: %s; use the program that wrote it", err, seg.name)
	case err != nil:
		r.broken = seg
		r.drop(seg)
		return nil
	case head.size != int64(len(b)):
		return fmt.Errorf("%w: %s has %d bytes instead of %d; %s", ErrCorrupt, seg.name, len(b), head.size, advice)
	case head.owner != l.opt.Owner:
		return fmt.Errorf("%w: %s is of cluster %x, member %x, founding %x; this is cluster %x, member %x, founding %x", ErrOwner, seg.name,
			head.owner.Cluster, head.owner.Member, head.owner.Founding, l.opt.Owner.Cluster, l.opt.Owner.Member, l.opt.Owner.Founding)
	case head.sequence < sequence || head.sequence > sequence && holdsBatch(b, head.life):
		return fmt.Errorf("%w: %s is segment %x, as its header says: it was renamed; %s", ErrCorrupt, seg.name, head.sequence, advice)
	case head.sequence != sequence:
		// To be used again: it has its new header and, since the rename is missing, no batch yet.
		l.nextSequence = max(l.nextSequence, head.sequence+1)
		r.drop(seg)
		return nil
	}
	seg.segmentHeader = head
	return r.scan(seg, b)
}

// holdsBatch tells whether b, a segment's bytes, begins with a batch of the given life.
func holdsBatch(b []byte, life lifeID) bool {
	if len(b) < firstBatch {
		return false
	}
	h, _, _, ok := decodeBatch(b[firstBatch:])
	return ok && h.life == life
}

func (r *recovery) drop(seg *segment) { r.dropped = append(r.dropped, seg) }

// scan admits the batches of seg, whose bytes are b.
func (r *recovery) scan(seg *segment, b []byte) error {
	l := r.log
	pos := int64(firstBatch)
	for pos < int64(len(b)) {
		h, batch, headOK, ok := decodeBatch(b[pos:])
		if !ok || h.life != seg.life {
			if headOK && h.life == seg.life {
				r.torn = &tornBatch{seg: seg, offset: pos, size: h.size()}
			}
			break
		}
		if l.number != 0 && h.number != l.number+1 {
			return r.corrupt(seg, pos, fmt.Sprintf("batch %d follows batch %d", h.number, l.number))
		}
		if l.number == 0 {
			l.first = h.first
			l.terms.reset(h.first-1, h.prevTerm)
		}
		if batch.Snapshot == nil && h.first < l.first && (l.record == nil || h.first > l.record.Index) {
			// What it replaces from h.first on was partly in segments that are gone: all read so far is dead.
			l.first, l.refs, l.refBytes = h.first, l.refs[:0], 0
			l.terms.reset(h.first-1, h.prevTerm)
			l.cache.reset()
		}
		if batch.Snapshot == nil && (h.first < l.first || h.first > l.terms.last+1) {
			return r.corrupt(seg, pos, fmt.Sprintf("entries from %d on, the log holds [%d, %d]", h.first, l.first, l.terms.last))
		}
		if r.visit != nil {
			if err := r.visit(seg, pos, &h, &batch); err != nil {
				return err
			}
		}
		l.admit(&h, &batch, seg, pos, h.size())
		pos += h.size()
		r.end, r.torn, r.broken, r.empty = pos, nil, nil, nil
	}
	if l.lastBatch != seg {
		r.empty = append(r.empty, seg)
	}
	return r.lookBehind(seg, b, min(pos, int64(len(b))))
}

// lookBehind makes sure that no batch of this life lies behind the place where the scan stopped.
func (r *recovery) lookBehind(seg *segment, b []byte, pos int64) error {
	const lifeOffset = 8
	for at := pos; ; {
		i := bytes.Index(b[min(at, int64(len(b))):], seg.life[:])
		if i < 0 {
			return nil
		}
		at += int64(i)
		if start := at - lifeOffset; start > pos && start%batchAlignment == 0 {
			h, ok := decodeBatchHeader(b[start:])
			// Number 0 is no batch; a batch at pos itself is the torn one.
			if ok && h.life == seg.life && h.number > r.log.number {
				if _, _, _, whole := decodeBatch(b[start:]); whole {
					return r.corrupt(seg, pos, fmt.Sprintf("batch %d is damaged, but batch %d behind it, at offset %d, is whole",
						r.log.number+1, h.number, start))
				}
			}
		}
		at++
	}
}

func (r *recovery) corrupt(seg *segment, pos int64, what string) error {
	return fmt.Errorf("%w: %s at offset %d: %s; %s", ErrCorrupt, seg.name, pos, what, advice)
}

// finish judges the whole.
func (r *recovery) finish() error {
	l := r.log
	if r.broken != nil {
		return r.corrupt(r.broken, 0, "the segment's header is damaged")
	}
	if l.number == 0 {
		return fmt.Errorf("%w: %s holds no batch; %s", ErrCorrupt, l.opt.Dir, advice)
	}
	l.active, l.pos, l.synced = l.lastBatch, r.end, l.lastBatch
	return r.followed()
}

// followed makes sure that no segment is missing behind the last batch: the empty ones say which took batches when they were made.
func (r *recovery) followed() error {
	for _, s := range r.empty {
		there := func(o *segment) bool { return o.sequence == s.follows }
		if s.follows != 0 && !slices.ContainsFunc(r.log.segments, there) {
			return fmt.Errorf("%w: %s is missing, which %s follows; %s", ErrCorrupt, segmentName(r.log.opt.Dir, s.follows), s.name, advice)
		}
	}
	return nil
}

// adjoins judges whether the log goes with a store that holds everything up to
// durable.
func (r *recovery) adjoins(durable uint64) error {
	l := r.log
	if l.terms.last < durable {
		return fmt.Errorf("%w: in %s the last entry is %d, the store holds %d; %s", ErrBehindStore, l.opt.Dir, l.terms.last, durable, advice)
	}
	// A record above the durable index is a snapshot whose installation the caller completes.
	if install := l.record != nil && l.record.Index > durable; l.first > durable+1 && !install {
		return fmt.Errorf("%w: in %s the first entry is %d, the store holds %d; %s", ErrAheadOfStore, l.opt.Dir, l.first, durable, advice)
	}
	return nil
}

// repair overwrites what a torn batch may have left and syncs, so that what was read is durable and nothing stale lies ahead.
// A single batch can be unsynced at a crash: it lies behind the last one, or first in the next segment.
func (r *recovery) repair() error {
	l := r.log
	if l.opt.SkipRepair {
		if r.torn != nil && r.torn.seg == l.active {
			l.pos = min(r.torn.offset+r.torn.size, l.active.size)
		}
		return nil
	}
	if err := zeroRest(l.active, l.pos); err != nil {
		return err
	}
	failpoint.Hit(failpoint.LogRepair)
	if err := l.opt.sync(l.active.file); err != nil {
		return err
	}
	for _, s := range r.empty {
		end := int64(firstBatch + batchHead)
		if r.torn != nil && r.torn.seg == s {
			end = max(end, r.torn.offset+r.torn.size)
		}
		if err := writeZeros(s.file, firstBatch, min(end, s.size)); err != nil {
			return err
		}
		if err := l.opt.sync(s.file); err != nil {
			return err
		}
	}
	return l.opt.syncDir()
}

// removeTemps removes segments whose making was interrupted.
func (l *Log) removeTemps() error {
	names, err := l.opt.FS.List(l.opt.Dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, segmentPrefix) && strings.HasSuffix(n, tempSuffix) {
			if err := l.opt.FS.Remove(filepath.Join(l.opt.Dir, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// zeroRest overwrites s from pos to its end, if anything but zeros is there.
func zeroRest(s *segment, pos int64) error {
	b := make([]byte, min(zeroChunk, max(1, s.size-pos)))
	for pos < s.size {
		n, err := s.file.ReadAt(b[:min(int64(len(b)), s.size-pos)], pos)
		if n == 0 {
			return err
		}
		if len(bytes.Trim(b[:n], "\x00")) > 0 {
			return writeZeros(s.file, pos, s.size)
		}
		pos += int64(n)
	}
	return nil
}

// takeOver sorts the segments: those of the log, the spare, those to recycle. Empty ones that cannot follow the active one are removed.
func (l *Log) takeOver(dropped, empty []*segment) error {
	out := make(map[*segment]bool)
	for _, s := range dropped {
		out[s] = true
	}
	for _, s := range empty {
		out[s] = true
	}
	kept := l.segments[:0:0]
	for _, s := range l.segments {
		if !out[s] {
			kept = append(kept, s)
		}
	}
	l.segments = kept
	l.free = append(l.free, dropped...)
	// The last first, so that none is ever there without the one that it follows.
	for _, s := range slices.Backward(empty) {
		if l.spare == nil && s.follows == l.active.sequence && s.size == l.opt.SegmentBytes {
			l.spare = s
			continue
		}
		if err := l.remove(s); err != nil {
			l.free = append(l.free, empty...) // for closeAll
			return err
		}
	}
	l.release()
	return nil
}
