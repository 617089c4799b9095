package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"sort"

	"go.etcd.io/raft/v3/raftpb"
)

// maxRead bounds what one call of Entries takes from segments, bytes of data: it runs where raft waits.
const maxRead = 1 << 20

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// CutTornBatch tells whether Open found, and cut, a batch whose header was whole and whose payload was not. A batch that lost its
// header, too, leaves nothing to tell it by.
func (l *Log) CutTornBatch() bool { return l.tornBatch }

// FirstIndex is the lowest index that Entries answers.
func (l *Log) FirstIndex() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

// LastIndex is the highest index written; FirstIndex-1 when there is no entry.
func (l *Log) LastIndex() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.terms.last
}

// HardState is the newest one written.
func (l *Log) HardState() HardState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hard
}

// Snapshot is the newest snapshot record, nil if none is left.
func (l *Log) Snapshot() *SnapshotRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.record
}

// Term answers the term of index, in [FirstIndex-1, LastIndex]. Errors: ErrCut, ErrBeyond.
func (l *Log) Term(index uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index+1 < l.first {
		return 0, ErrCut
	}
	if index > l.terms.last {
		return 0, ErrBeyond
	}
	return l.terms.at(index), nil
}

// Entries answers consecutive entries from lo on, below hi: at least one, at most about maxBytes of them, and fewer where that saves a read.
// Entries are immutable; the slice is the caller's. Errors: ErrCut, ErrBeyond, ErrCorrupt, the file system's.
func (l *Log) Entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lo < l.first {
		return nil, ErrCut
	}
	if lo >= hi || hi > l.terms.last+1 {
		return nil, ErrBeyond
	}
	if from := l.cache.from(lo); from != nil {
		return limited(from[:min(uint64(len(from)), hi-lo)], maxBytes), nil
	}
	i := sort.Search(len(l.refs), func(i int) bool { return l.refs[i].last >= lo })
	ref := l.refs[i]
	all, err := ref.read()
	if err != nil {
		return nil, err
	}
	skip := lo - all[0].GetIndex()
	count := min(hi, ref.last+1) - lo
	return limited(all[skip:skip+count], min(maxBytes, maxRead)), nil
}

// limited copies the head of entries that holds at most maxBytes, but at least one.
func limited(entries []*raftpb.Entry, maxBytes uint64) []*raftpb.Entry {
	size := uint64(0)
	n := 0
	for n < len(entries) {
		size += uint64(len(entries[n].GetData())) + entryOverhead
		if n > 0 && size > maxBytes {
			break
		}
		n++
	}
	return append([]*raftpb.Entry(nil), entries[:n]...)
}

// read reads the batch's entries, dead ones too.
func (r *batchRef) read() ([]*raftpb.Entry, error) {
	b := make([]byte, r.size)
	if n, err := r.seg.file.ReadAt(b, r.offset); err != nil && (!errors.Is(err, io.EOF) || int64(n) != r.size) {
		return nil, fmt.Errorf("wal: read %s at %d: %w", r.seg.name, r.offset, err)
	}
	h, batch, _, ok := decodeBatch(b)
	if !ok || h.life != r.seg.life || h.first > r.first || h.last < r.last {
		return nil, fmt.Errorf("%w: %s at offset %d changed since it was written; %s", ErrCorrupt, r.seg.name, r.offset, advice)
	}
	return batch.Entries, nil
}

// cache holds the newest entries. Invariant: indexes ascend without gaps and end at the log's last index.
type cache struct {
	entries []*raftpb.Entry
	bytes   int64
}

func entryBytes(e *raftpb.Entry) int64 { return int64(len(e.GetData())) + entryOverhead }

func (c *cache) reset() { *c = cache{} }

// append adds entries that follow, and evicts the oldest above limit bytes.
func (c *cache) append(entries []*raftpb.Entry, limit int64) {
	c.entries = append(c.entries, entries...)
	for _, e := range entries {
		c.bytes += entryBytes(e)
	}
	n := 0
	for n < len(c.entries) && c.bytes > limit {
		c.bytes -= entryBytes(c.entries[n])
		n++
	}
	c.drop(n)
}

// drop forgets the first n, whose bytes are already taken off. The array is left behind when append outgrows it.
func (c *cache) drop(n int) {
	clear(c.entries[:n])
	c.entries = c.entries[n:]
}

// truncate drops index and above.
func (c *cache) truncate(index uint64) {
	n := len(c.entries)
	for n > 0 && c.entries[n-1].GetIndex() >= index {
		n--
		c.bytes -= entryBytes(c.entries[n])
		c.entries[n] = nil
	}
	c.entries = c.entries[:n]
}

// cut drops index and below.
func (c *cache) cut(index uint64) {
	n := 0
	for n < len(c.entries) && c.entries[n].GetIndex() <= index {
		c.bytes -= entryBytes(c.entries[n])
		n++
	}
	c.drop(n)
}

// from answers the entries from index on, nil if index is not held.
func (c *cache) from(index uint64) []*raftpb.Entry {
	if len(c.entries) == 0 || index < c.entries[0].GetIndex() {
		return nil
	}
	return c.entries[index-c.entries[0].GetIndex():]
}
