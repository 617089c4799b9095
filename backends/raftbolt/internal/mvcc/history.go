package mvcc

import (
	"context"
	"errors"
	"sync"

	bolt "go.etcd.io/bbolt"

	"github.com/etcdshim/shim/backends"
)

// HistoryEvent is one change. Its exported fields are immutable, and it is shared
// between watchers.
type HistoryEvent struct {
	Revision int64
	Sub      int64
	// Key must not be changed.
	Key    []byte
	Delete bool

	store *Store
	// record is what the file holds; see record.go. Of a put it lies within plain.
	record []byte

	// mu guards the encoded forms, which are made at most once. That of a put
	// without the record before it is there from the start.
	mu    sync.Mutex
	plain backends.Event
	prev  backends.Event
}

func (e *HistoryEvent) revision() revision { return revision{e.Revision, e.Sub} }

// Encoded is the event framed for the wire, with the record before it when prevKV
// is set and that record is not compacted. Each form is encoded at most once,
// however many ask; it may read the file.
func (e *HistoryEvent) Encoded(prevKV bool) (backends.Event, error) {
	// The record before an event at or below the compacted revision is compacted,
	// also when it is still in memory.
	prevKV = prevKV && e.Revision > e.store.CompactRevision()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !prevKV {
		if e.plain == nil {
			e.plain = frameEvent(e.Delete, e.wireRecord(), nil)
		}
		return e.plain, nil
	}
	if e.prev != nil {
		return e.prev, nil
	}
	before, err := e.before()
	if err != nil {
		return nil, err
	}
	if before == nil && e.plain != nil {
		e.prev = e.plain
	} else {
		e.prev = frameEvent(e.Delete, e.wireRecord(), before)
	}
	return e.prev, nil
}

// wireRecord is the record that watchers get: a deletion's has the revision
// beside the key, which the file's has not.
func (e *HistoryEvent) wireRecord() []byte {
	if !e.Delete {
		return e.record
	}
	return appendField(append([]byte(nil), e.record...), tagMod, e.Revision)
}

// before is the record that the event replaced, nil when there was none or it is
// compacted. As in etcd, that is what a read one revision earlier finds
// (etcdserver/api/v3rpc/watch.go, sendLoop).
func (e *HistoryEvent) before() ([]byte, error) {
	if !e.Delete {
		f, err := scanRecord(e.record)
		if err != nil {
			return nil, e.store.corrupt("the record at revision %d.%d cannot be read", e.Revision, e.Sub)
		}
		if f.create == e.Revision {
			return nil, nil
		}
	}
	v := e.store.View()
	defer v.Close()
	if e.Revision <= 1 {
		return nil, nil
	}
	record, ok, err := v.Get(e.Key, e.Revision-1)
	if !ok || errors.Is(err, backends.ErrCompacted) {
		return nil, ignoreCompacted(err)
	}
	return record, err
}

func ignoreCompacted(err error) error {
	if errors.Is(err, backends.ErrCompacted) {
		return nil
	}
	return err
}

// History returns the events of whole revisions from revision from on, in order,
// about maxBytes of them, at least one revision; next is the first revision not
// looked at: it is from when there is nothing yet. ErrCompacted when from is
// below the compacted revision; at that revision itself it works, as etcd's does.
//
// maxBytes counts keys and values. It may read the file.
func (s *Store) History(ctx context.Context, from, maxBytes int64) (events []*HistoryEvent, next int64, err error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	st := s.state.Load()
	from = max(from, 0)
	switch {
	case from < st.compactRevision:
		return nil, 0, backends.ErrCompacted
	case from > st.revision:
		return nil, from, nil
	}
	if events, next, ok := s.ring.read(from, st.revision, maxBytes); ok {
		return events, next, nil
	}
	if from <= st.flushedRevision {
		return s.fileHistory(from, st.flushedRevision, maxBytes)
	}
	if n := len(st.frozen); n > 0 && from <= st.frozen[n-1].Revision {
		events, next = takeRevisions(st.frozen, from, st.frozen[n-1].Revision, maxBytes)
		return events, next, nil
	}
	events, next = takeRevisions(st.active, from, st.revision, maxBytes)
	return events, next, nil
}

// fileHistory reads history out of the file.
func (s *Store) fileHistory(from, to, maxBytes int64) (events []*HistoryEvent, next int64, err error) {
	err = s.read(func(tx *bolt.Tx) error {
		// A compaction removes nothing before it was announced: if none is, this
		// transaction still sees everything.
		if from < s.CompactRevision() {
			return backends.ErrCompacted
		}
		var bytes int64
		c := tx.Bucket([]byte(bucketKey)).Cursor()
		for k, v := c.Seek(appendRevision(nil, revision{main: from}, false)); k != nil; k, v = c.Next() {
			r, tombstone, err := parseRevision(k)
			if err != nil {
				return s.corrupt("%v", err)
			}
			if r.main > to {
				break
			}
			if isRaise(tombstone, v) {
				continue
			}
			if n := len(events); n > 0 && events[n-1].Revision != r.main && bytes >= maxBytes {
				next = r.main
				return nil
			}
			bytes += int64(len(v))
			e, err := s.loadEvent(r, tombstone, v)
			if err != nil {
				return err
			}
			events = append(events, e)
		}
		next = to + 1
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return events, next, nil
}

// loadEvent makes an event of what the file holds.
func (s *Store) loadEvent(r revision, tombstone bool, v []byte) (*HistoryEvent, error) {
	f, err := scanRecord(v)
	if err != nil || len(f.key) == 0 {
		return nil, s.corrupt("the record at revision %d.%d cannot be read", r.main, r.sub)
	}
	e := &HistoryEvent{store: s, Revision: r.main, Sub: r.sub, Delete: tombstone}
	if tombstone {
		e.record = append([]byte(nil), v...)
	} else {
		e.plain = frameEvent(false, v, nil)
		e.record = e.plain[len(e.plain)-len(v):]
	}
	f, err = scanRecord(e.record)
	e.Key = f.key
	return e, err
}
