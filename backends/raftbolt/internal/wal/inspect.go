package wal

import (
	"fmt"
	"os"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
)

// Summary is what Inspect read.
type Summary struct {
	Segments  int // files of the log
	SizeBytes int64
	Batches   int
	Entries   int // all in the files, those that later ones replaced too
	First     uint64
	Last      uint64
	// TermBefore is the term of the entry before First.
	TermBefore uint64
	HardState  HardState
	Snapshot   *SnapshotRecord // the newest, nil if none is left
	// Notes tell of what interrupted writes left; the next start puts it right.
	Notes []string
}

// Inspect reads a whole log as Open does, and changes nothing, not even what a crash left: o.FS is not used. entry, which may be nil, is told
// of each entry and where it is; its error is reported as damage of the log. durable is what Open takes; nil when it is not known.
//
// Memory: one segment, and the options' cache.
//
// Errors: those of Open. With one of them the summary covers what was read before.
func Inspect(o Options, durable *uint64, entry func(*raftpb.Entry) error) (s Summary, err error) {
	o = o.withDefaults()
	o.FS = readOnly{}
	l := &Log{opt: o}
	defer l.closeAll()
	r := recovery{log: l}
	term := uint64(0)
	r.visit = func(seg *segment, offset int64, h *batchHeader, b *Batch) error {
		s.Batches++
		if b.HardState.Term < term {
			return r.corrupt(seg, offset, fmt.Sprintf("term %d follows term %d", b.HardState.Term, term))
		}
		term = b.HardState.Term
		before := h.prevTerm
		for _, e := range b.Entries {
			s.Entries++
			if e.GetTerm() < before || e.GetTerm() > b.HardState.Term {
				return r.corrupt(seg, offset, fmt.Sprintf("entry %d has term %d after term %d, in term %d", e.GetIndex(), e.GetTerm(), before, b.HardState.Term))
			}
			before = e.GetTerm()
			if entry == nil {
				continue
			}
			if err := entry(e); err != nil {
				return r.corrupt(seg, offset, fmt.Sprintf("entry %d: %v", e.GetIndex(), err))
			}
		}
		return nil
	}
	err = r.read()
	s.sum(&r)
	if err == nil && durable != nil {
		err = r.adjoins(*durable)
	}
	if err == nil && l.hard.Commit > l.terms.last {
		err = fmt.Errorf("%w: in %s the last entry is %d, but %d is said to be committed; %s", ErrCorrupt, o.Dir, l.terms.last, l.hard.Commit, advice)
	}
	if err == nil {
		err = s.leftovers(&r)
	}
	return s, err
}

// sum takes over what was read.
func (s *Summary) sum(r *recovery) {
	l := r.log
	s.Segments = len(l.segments)
	for _, seg := range l.segments {
		s.SizeBytes += seg.size
	}
	s.HardState, s.Snapshot = l.hard, l.record
	if l.number == 0 {
		return
	}
	s.First, s.Last, s.TermBefore = l.first, l.terms.last, l.terms.at(l.first-1)
}

// leftovers notes what the next start puts right.
func (s *Summary) leftovers(r *recovery) error {
	note := func(format string, args ...any) { s.Notes = append(s.Notes, fmt.Sprintf(format, args...)) }
	if r.torn != nil {
		note("%s at offset %d: the last batch was cut off while it was written; nothing in it was acknowledged, and the next start cuts it off. "+
			"(A bit that flipped in the very last batch looks the same.)", r.torn.seg.name, r.torn.offset)
	}
	for _, seg := range r.dropped {
		note("%s: its reuse was interrupted; it holds nothing of the log", seg.name)
	}
	names, err := r.log.opt.FS.List(r.log.opt.Dir)
	for _, n := range names {
		if strings.HasPrefix(n, segmentPrefix) && strings.HasSuffix(n, tempSuffix) {
			note("%s in %s: the making of a segment was interrupted; the next start removes it", n, r.log.opt.Dir)
		}
	}
	return err
}

// readOnly is the operating system's file system, opened for reading. Nothing but Open and List is called.
type readOnly struct{ OS }

// Open implements FS.
func (readOnly) Open(name string) (File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}
