package mvcc

import (
	"sort"
	"sync"
)

// ring holds the most recent events, whole revisions, for watchers that keep up.
type ring struct {
	mu    sync.Mutex
	limit int64
	// events[head:] are kept, in order: every one at or above revision from.
	events []*HistoryEvent
	head   int
	from   int64
	bytes  int64
}

// ringBytes charges an event: its own form, and as much again twice for the form
// with the record before it, which is made when a watcher asks for it.
func ringBytes(e *HistoryEvent) int64 { return 3*int64(len(e.record)) + changeOverheadBytes }

// add appends a transaction's events and drops the oldest revisions above the limit.
func (r *ring) add(events []*HistoryEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, events...)
	for _, e := range events {
		r.bytes += ringBytes(e)
	}
	for r.bytes > r.limit && r.head < len(r.events) {
		main := r.events[r.head].Revision
		for r.head < len(r.events) && r.events[r.head].Revision == main {
			r.bytes -= ringBytes(r.events[r.head])
			r.events[r.head] = nil
			r.head++
		}
		r.from = main + 1
	}
	if r.head > len(r.events)/2 {
		n := copy(r.events, r.events[r.head:])
		clear(r.events[n:])
		r.events, r.head = r.events[:n], 0
	}
}

// read returns events as History does; ok is false when the ring does not go
// back as far as from.
func (r *ring) read(from, to, maxBytes int64) (events []*HistoryEvent, next int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from < r.from {
		return nil, 0, false
	}
	kept := r.events[r.head:]
	events, next = takeRevisions(kept, from, to, maxBytes)
	return append([]*HistoryEvent(nil), events...), next, true
}

// takeRevisions returns the events of whole revisions in [from, to] out of run,
// at least one revision if there is any, and the revision to go on from.
func takeRevisions(run []*HistoryEvent, from, to, maxBytes int64) (events []*HistoryEvent, next int64) {
	start := sort.Search(len(run), func(i int) bool { return run[i].Revision >= from })
	var bytes int64
	for i := start; i < len(run); i++ {
		main := run[i].Revision
		if main > to {
			return run[start:i], to + 1
		}
		if i > start && main != run[i-1].Revision && bytes >= maxBytes {
			return run[start:i], main
		}
		bytes += int64(len(run[i].record))
	}
	return run[start:], to + 1
}
