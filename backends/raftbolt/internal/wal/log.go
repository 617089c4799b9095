package wal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/etcdshim/shim/internal/failpoint"
)

// Defaults of Options.
const (
	// DefaultSegmentBytes: large enough that rolling is rare, small enough that a spare costs little disk.
	DefaultSegmentBytes = 16 << 20
	// DefaultCacheBytes holds what live followers and the applier read again.
	DefaultCacheBytes = 16 << 20
	// entryOverhead is what an entry counts in cache and read limits beside its data, bytes.
	entryOverhead = 32
)

// Owner is the member that a log belongs to.
type Owner struct {
	Cluster, Member uint64
	// Founding is a random number of the member's directory: ids are derived from names, so that two members may have the same.
	Founding uint64
}

// Options say where the log is and how it is kept.
type Options struct {
	Dir          string
	Owner        Owner
	FS           FS        // default OS
	Random       io.Reader // of life ids; default crypto/rand
	SegmentBytes int64     // default DefaultSegmentBytes
	CacheBytes   int64     // default DefaultCacheBytes
	NoSync       bool      // leave out every sync: a power loss then loses acknowledged entries

	// Timer is told what writes and syncs of batches take; nil is nobody.
	Timer *Timer

	// SkipRepair leaves a torn batch where it is and goes on behind it. It is a planted fault that the simulator must find; never set it.
	SkipRepair bool
}

// Timer times what the disk does. Its functions must not block or call the log.
type Timer struct {
	Now    func() time.Time
	Wrote  func(bytes int, took time.Duration)
	Synced func(took time.Duration)
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = OS{}
	}
	if o.Timer == nil {
		o.Timer = &Timer{Now: func() time.Time { return time.Time{} }, Wrote: func(int, time.Duration) {}, Synced: func(time.Duration) {}}
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	return o
}

// batchRef says where live entries are. Invariant: refs ascend without gaps; the first may begin below Log.first.
type batchRef struct {
	first, last uint64 // of the entries that are live in it
	seg         *segment
	offset      int64
	size        int64 // header and payload, bytes
}

// Log is an open log. Write, Sync and Close are for one goroutine, the writer; Housekeep for one more; everything else for any.
type Log struct {
	opt Options

	tornBatch bool // Open cut one

	// Of the writer alone.
	buf    []byte
	dirty  bool  // a batch is written and not synced
	failed error // final

	housekeeping sync.Mutex // held over a whole Housekeep; before mu

	mu     sync.Mutex
	active *segment
	pos    int64 // where the next batch goes in active
	number uint64
	hard   HardState
	record *SnapshotRecord // the newest, nil if its segment is gone
	// recordSegment holds the record; the segment is kept until the log is cut at or above it.
	recordSegment *segment
	lastBatch     *segment // holds the newest batch, and with it the hard state: never recycled
	synced        *segment // holds the newest batch that is synced: not used again yet, since the newest may still be lost
	segments      []*segment
	spare         *segment
	free          []*segment // released, ascending; oldest is recycled first
	lean          bool       // the next Housekeep keeps none of them
	nextSequence  uint64
	first         uint64 // first index that Entries answers
	terms         terms  // Invariant: terms.first() == first-1
	refs          []batchRef
	refBytes      int64 // sum of refs' sizes
	cache         cache
}

// Exists tells whether dir holds any log, ours or not. A missing directory holds none.
func Exists(fs FS, dir string) (bool, error) {
	if fs == nil {
		fs = OS{}
	}
	names, err := listLog(fs, dir)
	return len(names) > 0, err
}

// Own tells whether dir holds a segment that is named as ours. A missing directory holds none.
func Own(fs FS, dir string) (bool, error) {
	if fs == nil {
		fs = OS{}
	}
	names, err := listLog(fs, dir)
	return slices.ContainsFunc(names, func(n string) bool { _, ours := parseSegmentName(n); return ours }), err
}

// listLog names dir's *.wal files.
func listLog(fs FS, dir string) ([]string, error) {
	names, err := fs.List(dir)
	if err != nil {
		if isNotExist(err) {
			return nil, nil
		}
		return nil, err
	}
	kept := names[:0]
	for _, n := range names {
		if strings.HasSuffix(n, segmentSuffix) {
			kept = append(kept, n)
		}
	}
	return kept, nil
}

// Create makes a log whose first entry will follow (index, term). It is durable on return: either it exists whole or not at all.
func Create(o Options, index, term uint64) error {
	o = o.withDefaults()
	if found, err := Exists(o.FS, o.Dir); err != nil || found {
		if err == nil {
			err = fmt.Errorf("%w in %s", ErrExists, o.Dir)
		}
		return err
	}
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return err
	}
	b := Batch{
		HardState: HardState{Term: term, Commit: index},
		Snapshot:  &SnapshotRecord{Index: index, Term: term, ConfState: &raftpb.ConfState{}},
	}
	s, err := o.newSegment(segmentHeader{sequence: 1, size: o.SegmentBytes}, func(life lifeID) ([]byte, error) {
		return encodeBatch(nil, &b, batchHeader{life: life, number: 1, first: index + 1, last: index, prevTerm: term})
	})
	if err != nil {
		return err
	}
	return s.file.Close()
}

// encodeBatch appends b, padded, to buf. h gives life, number, first, last and prevTerm.
func encodeBatch(buf []byte, b *Batch, h batchHeader) ([]byte, error) {
	n := payloadSize(b)
	if n > maxPayload {
		return nil, fmt.Errorf("wal: a batch of %d bytes exceeds %d", n, maxPayload)
	}
	start := len(buf)
	buf = append(buf, make([]byte, batchHead)...)
	buf, err := appendPayload(buf, b)
	if err != nil {
		return nil, err
	}
	h.length, h.hard = uint32(n), b.HardState
	if b.Snapshot != nil {
		h.flags |= flagSnapshot
	}
	h.payloadCRC = checksum(buf[start+batchHead:])
	h.encode(buf[start:])
	for int64(len(buf)-start) < h.size() {
		buf = append(buf, 0)
	}
	return buf, nil
}

// Write puts b after the log's last batch with one write. It is durable after Sync; Entries, Term and the indexes show it at once. b's hard
// state must be the newest, whether or not it changed.
func (l *Log) Write(b *Batch) error {
	if l.failed != nil {
		return l.failed
	}
	if l.dirty && !l.opt.NoSync {
		return l.fail(errUnsynced)
	}
	l.mu.Lock()
	h := l.headerFor(b)
	l.mu.Unlock()
	need := align(batchHead + int64(payloadSize(b)))
	if l.pos+need > l.active.size {
		if err := l.roll(need); err != nil {
			return l.fail(err)
		}
	}
	h.life = l.active.life
	buf, err := encodeBatch(l.buf[:0], b, h)
	if err != nil {
		return l.fail(err)
	}
	if cap(buf) <= maxKeptBuffer {
		l.buf = buf
	}
	l.dirty = true
	failpoint.Hit(failpoint.LogBatchWrite)
	if failpoint.Reached(failpoint.LogBatchTorn) {
		_, _ = l.active.file.WriteAt(buf[:len(buf)/2], l.pos)
		failpoint.Die(failpoint.LogBatchTorn)
	}
	began := l.opt.Timer.Now()
	if _, err := l.active.file.WriteAt(buf, l.pos); err != nil {
		return l.fail(err)
	}
	l.opt.Timer.Wrote(len(buf), l.opt.Timer.Now().Sub(began))
	failpoint.Hit(failpoint.LogBatchWritten)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.admit(&h, b, l.active, l.pos, int64(len(buf)))
	l.pos += int64(len(buf))
	if l.opt.NoSync {
		l.synced = l.active
	}
	return nil
}

// maxKeptBuffer bounds the encoding buffer that is kept between batches, bytes.
const maxKeptBuffer = 4 << 20

// headerFor numbers the next batch.
func (l *Log) headerFor(b *Batch) batchHeader {
	h := batchHeader{number: l.number + 1, first: l.terms.last + 1, last: l.terms.last}
	switch {
	case b.Snapshot != nil:
		if len(b.Entries) > 0 {
			panic("wal: a batch with a snapshot record and entries")
		}
		h.first, h.last, h.prevTerm = b.Snapshot.Index+1, b.Snapshot.Index, b.Snapshot.Term
		return h
	case len(b.Entries) > 0:
		h.first = b.Entries[0].GetIndex()
		h.last = h.first + uint64(len(b.Entries)) - 1
	}
	if h.first < l.first || h.first > l.terms.last+1 {
		panic(fmt.Sprintf("wal: batch begins at %d, the log holds [%d, %d]", h.first, l.first, l.terms.last))
	}
	h.prevTerm = l.terms.at(h.first - 1)
	return h
}

// admit makes a batch that lies in seg part of the log. Caller holds mu, or is Open.
func (l *Log) admit(h *batchHeader, b *Batch, seg *segment, offset, size int64) {
	l.number, l.hard, l.lastBatch = h.number, b.HardState, seg
	if s := b.Snapshot; s != nil {
		l.record, l.recordSegment = s, seg
		l.first = s.Index + 1
		l.terms.reset(s.Index, s.Term)
		l.refs, l.refBytes = l.refs[:0], 0
		l.cache.reset()
		return
	}
	if len(b.Entries) == 0 {
		return
	}
	if h.first <= l.terms.last {
		l.truncate(h.first)
	}
	for _, e := range b.Entries {
		l.terms.append(e.GetTerm())
	}
	l.refs = append(l.refs, batchRef{first: h.first, last: h.last, seg: seg, offset: offset, size: size})
	l.refBytes += size
	l.cache.append(b.Entries, l.opt.CacheBytes)
}

// truncate drops entries from index on: they are being replaced.
func (l *Log) truncate(index uint64) {
	for n := len(l.refs); n > 0 && l.refs[n-1].first >= index; n-- {
		l.refBytes -= l.refs[n-1].size
		l.refs = l.refs[:n-1]
	}
	if n := len(l.refs); n > 0 && l.refs[n-1].last >= index {
		l.refs[n-1].last = index - 1
	}
	l.terms.truncate(index)
	l.cache.truncate(index)
}

// Sync makes the written batch durable.
func (l *Log) Sync() error {
	if l.failed != nil {
		return l.failed
	}
	if !l.dirty {
		return nil
	}
	failpoint.Hit(failpoint.LogSync)
	began := l.opt.Timer.Now()
	if err := l.opt.sync(l.active.file); err != nil {
		return l.fail(err)
	}
	l.opt.Timer.Synced(l.opt.Timer.Now().Sub(began))
	failpoint.Hit(failpoint.LogSynced)
	l.dirty = false
	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced = l.active
	return nil
}

// fail makes err final.
func (l *Log) fail(err error) error {
	l.failed = fmt.Errorf("wal: %w", err)
	return l.failed
}

// roll makes a segment with room for need bytes the active one.
func (l *Log) roll(need int64) error {
	if need > l.opt.SegmentBytes-firstBatch {
		return l.rollLarge(need)
	}
	if l.spareNow() == nil {
		if err := l.Housekeep(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.activate(l.spare)
	l.spare = nil
	failpoint.Hit(failpoint.LogSwitch)
	return nil
}

func (l *Log) spareNow() *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spare
}

// rollLarge makes a segment for one batch that is larger than a segment. The spare keeps its lower number, which an empty segment may.
func (l *Log) rollLarge(need int64) error {
	l.housekeeping.Lock()
	defer l.housekeeping.Unlock()
	const page = 4096
	head := l.nextHeader()
	head.size = (firstBatch + need + page - 1) &^ (page - 1)
	s, err := l.opt.newSegment(head, nil)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// A spare below the active segment could not follow it: it becomes the next one to recycle.
	if l.spare != nil {
		l.free = append(l.free, l.spare)
		l.spare = nil
	}
	l.activate(s)
	return nil
}

// nextHeader is the header of the next segment, without life. Until that segment is activated, no other is: the caller holds housekeeping.
func (l *Log) nextHeader() segmentHeader {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nextSequence++
	return segmentHeader{sequence: l.nextSequence - 1, size: l.opt.SegmentBytes, follows: l.active.sequence}
}

// activate makes s take the next batches. Caller holds mu.
func (l *Log) activate(s *segment) {
	l.segments = append(l.segments, s)
	l.active, l.pos = s, firstBatch
}

// CutKeeping cuts at or below durable, which the state machine holds durably, so that at most keepEntries of the entries below it stay, and
// fewer while the log holds more than keepBytes.
func (l *Log) CutKeeping(durable, keepEntries uint64, keepBytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	index, bytes := uint64(0), l.refBytes
	for _, r := range l.refs {
		if r.last > durable || r.last+keepEntries > durable && bytes <= keepBytes {
			break
		}
		index = r.last
		bytes -= r.size
	}
	l.cut(max(index, durable-min(durable, keepEntries)))
}

// Cut forgets entries up to and including index, which the state machine must hold durably, and releases segments that hold none above it.
// An index outside the log is brought inside.
func (l *Log) Cut(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut(index)
}

func (l *Log) cut(index uint64) {
	index = min(index, l.terms.last)
	if index < l.first {
		return
	}
	// First the index, then the segment: nobody reads a recycled one.
	l.first = index + 1
	l.terms.cut(index)
	n := 0
	for n < len(l.refs) && l.refs[n].last <= index {
		l.refBytes -= l.refs[n].size
		n++
	}
	// The array is left behind when append outgrows it.
	l.refs = l.refs[n:]
	l.cache.cut(index)
	if l.record != nil && l.record.Index <= index {
		l.recordSegment = nil
	}
	l.release()
}

// release moves the oldest segments to free while they hold nothing that recovery needs: no live entry, not the newest batch, not a record above
// the cut.
func (l *Log) release() {
	for len(l.segments) > 1 {
		s := l.segments[0]
		if s == l.active || s == l.lastBatch || s == l.recordSegment || len(l.refs) > 0 && s == l.refs[0].seg {
			return
		}
		l.segments = l.segments[1:]
		l.free = append(l.free, s)
		sort.Slice(l.free, func(i, j int) bool { return l.free[i].sequence < l.free[j].sequence })
	}
}

// Close closes the files. The log cannot be used afterwards.
func (l *Log) Close() error {
	l.housekeeping.Lock()
	defer l.housekeeping.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.failed, ErrClosed) {
		return nil
	}
	l.failed = ErrClosed
	var first error
	all := append(append([]*segment(nil), l.segments...), l.free...)
	if l.spare != nil {
		all = append(all, l.spare)
	}
	for _, s := range all {
		if err := s.file.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Dir is the log's directory.
func (l *Log) Dir() string { return filepath.Clean(l.opt.Dir) }
