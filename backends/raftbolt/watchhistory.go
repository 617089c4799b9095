package raftbolt

import (
	"context"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
)

// watchHistory is where the watch hub reads what happened.
type watchHistory interface {
	// Committed is the current revision, and CompactRevision that of the last
	// compaction. Both only grow.
	Committed() int64
	CompactRevision() int64
	// Changed returns a channel that is closed at the first commit after the call.
	Changed() <-chan struct{}
	// Recent returns the events of whole revisions from revision from on, in
	// order, about maxBytes of them, at least one revision; next is the first
	// revision not looked at. It reads memory only, and knows nothing of
	// compaction; ok is false when memory does not go back as far as from.
	Recent(from, maxBytes int64) (events []watchEvent, next int64, ok bool)
	// History is the same out of the whole store. ErrCompacted when from is below
	// the compacted revision.
	History(ctx context.Context, from, maxBytes int64) (events []watchEvent, next int64, err error)
}

// watchEvent is one change. It is shared between watches.
type watchEvent struct {
	Revision int64
	Key      []byte
	Delete   bool
	eventEncoder
}

// eventEncoder encodes one event, each form at most once.
type eventEncoder interface {
	// Encoded is the event framed for the wire, with the record before it when
	// prevKV is set.
	Encoded(prevKV bool) (backends.Event, error)
}

// storeHistory is the history of the real store.
type storeHistory struct{ *mvcc.Store }

// Recent implements watchHistory.
func (h storeHistory) Recent(from, maxBytes int64) ([]watchEvent, int64, bool) {
	events, next, ok := h.Store.Recent(from, maxBytes)
	return watchEvents(events), next, ok
}

// History implements watchHistory.
func (h storeHistory) History(ctx context.Context, from, maxBytes int64) ([]watchEvent, int64, error) {
	events, next, err := h.Store.History(ctx, from, maxBytes)
	return watchEvents(events), next, err
}

func watchEvents(events []*mvcc.HistoryEvent) []watchEvent {
	out := make([]watchEvent, len(events))
	for i, e := range events {
		out[i] = watchEvent{Revision: e.Revision, Key: e.Key, Delete: e.Delete, eventEncoder: e}
	}
	return out
}
