package raftbolt

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/etcdshim/shim/backends"
)

var _ backends.WatchStream = (*watchStream)(nil)

// watchStream implements backends.WatchStream. The hub's mutex guards its fields.
type watchStream struct {
	hub   *watchHub
	queue *watchQueue
	// permit refuses what the caller of a watch may not read; nil refuses nothing. It is
	// set before the stream is used.
	permit func(context.Context, *backends.WatchRequest) error
	// release ends the watching of the stream's context.
	release func() bool
	// watches by id; nil once the stream has ended.
	watches map[int64]*watch
	// lagging counts the watches that are not synced.
	lagging int
	// future holds the watches whose start revision was not reached when last
	// looked at.
	future map[*watch]struct{}
	// asked holds the watches of which progress was asked for, and the store's
	// revision at the last request: the mark is at or above it, so that it tells
	// the asker all that was committed before. askedAll is the same for the whole
	// stream; zero means that it was not asked for.
	asked    map[*watch]int64
	askedAll int64

	// out is the delivery under way: batches for this stream; see watchDelivery.
	out   []outBatch
	outOf map[*eventGroup]int
	taken bool
	skip  bool
}

// watch is one watch of a stream. The hub's mutex guards its fields.
type watch struct {
	id     int64
	self   []int64 // {id}, shared by its batches
	stream *watchStream
	keys   backends.KeyRange
	start  int64

	prevKV, noPut, noDelete bool

	// next is the first revision that may be delivered: all events below it were
	// queued or are not wanted. It only grows.
	//
	// Invariant: a synced watch was queued every event in [next, hub.head], and
	// a lagging one none at or above next; lagging implies next <= hub.head.
	next  int64
	state watchState
	// place in the index it is in.
	place int
	// lastTurn is the last turn of catching up that served it, or before which it
	// began to lag.
	lastTurn int64
	// turn is the turn of catching up that it takes part in.
	turn int64

	// hits are the events of the delivery under way, and signature their hash.
	hits      []*watchEvent
	signature uint64
}

type watchState int

const (
	watchGone watchState = iota
	watchSynced
	watchLagging
)

func (w *watch) wants(e *watchEvent) bool {
	if e.Revision < w.next {
		return false
	}
	if e.Delete {
		return !w.noDelete
	}
	return !w.noPut
}

// Add implements backends.WatchStream.
func (s *watchStream) Add(ctx context.Context, req *backends.WatchRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.queue.awaitRoom(ctx); err != nil {
		return err
	}
	var refusal error
	if s.permit != nil {
		if refusal = s.permit(ctx, req); refusal != nil && !isRefusal(refusal) {
			return refusal
		}
	}
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.watches == nil {
		return backends.ErrStopped
	}
	if refusal != nil {
		s.queue.push(backends.WatchBatch{Kind: backends.WatchCanceled, IDs: []int64{req.ID}, Header: h.header(h.history.Committed()), Reason: refusal}, 0)
		return nil
	}
	if s.watches[req.ID] != nil || req.ID == backends.AllWatches {
		return fmt.Errorf("raftbolt: watch id %d is taken", req.ID)
	}
	revision := h.history.Committed()
	w := &watch{
		id: req.ID, self: []int64{req.ID}, stream: s,
		keys:   backends.KeyRange{Key: bytes.Clone(req.Key), End: bytes.Clone(req.End)},
		start:  req.StartRevision,
		prevKV: req.PrevKV, noPut: req.NoPut, noDelete: req.NoDelete,
		next: req.StartRevision,
	}
	if w.start == 0 {
		w.next = revision + 1
	}
	s.watches[w.id] = w
	s.queue.push(backends.WatchBatch{Kind: backends.WatchCreated, IDs: w.self, Header: h.header(revision)}, 0)
	if w.next < h.history.CompactRevision() {
		h.cancelCompacted(w)
		return nil
	}
	if w.start > h.head {
		s.future[w] = struct{}{}
	}
	if w.next > h.head {
		h.sync(w)
	} else {
		h.lag(w, w.next)
		token(h.kick)
	}
	return nil
}

// Cancel implements backends.WatchStream.
func (s *watchStream) Cancel(id int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	w := s.watches[id]
	if w == nil {
		return
	}
	h.remove(w)
	s.queue.push(backends.WatchBatch{Kind: backends.WatchCanceled, IDs: w.self, Header: h.header(h.history.Committed())}, 0)
	h.answerProgress(s) // it may have been the one that held the others up
}

// Progress implements backends.WatchStream. As in etcd, a stream without watches
// has no progress.
func (s *watchStream) Progress(id int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	w := s.watches[id]
	if w == nil && (id != backends.AllWatches || len(s.watches) == 0) {
		return
	}
	if id == backends.AllWatches {
		s.askedAll = h.history.Committed()
	} else {
		s.asked[w] = h.history.Committed()
	}
	h.asking[s] = struct{}{}
	h.answerProgress(s)
}

// Next implements backends.WatchStream.
func (s *watchStream) Next(ctx context.Context) (backends.WatchBatch, error) {
	if err := ctx.Err(); err != nil {
		return backends.WatchBatch{}, err
	}
	for {
		b, ok, resumed, err := s.queue.pop()
		if resumed {
			token(s.hub.kick)
		}
		if ok || err != nil {
			return b, err
		}
		select {
		case <-s.queue.ready:
		case <-ctx.Done():
			return b, ctx.Err()
		}
	}
}

// Close implements backends.WatchStream.
func (s *watchStream) Close() { s.end(backends.ErrStopped) }

// end closes the stream and frees its watches; Next returns err from now on.
func (s *watchStream) end(err error) {
	s.queue.close(err)
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.release()
	for _, w := range s.watches {
		h.remove(w)
	}
	s.watches = nil
	delete(h.streams, s)
	delete(h.asking, s)
}

// answerProgress queues the progress that was asked for and can be told now: the
// hub's mutex is held.
//
// Every header of the stream so far is at or below the hub's head then, so that
// the mark's revision, which must not be raised, does not go back.
func (h *watchHub) answerProgress(s *watchStream) {
	if len(s.asked) == 0 && s.askedAll == 0 {
		delete(h.asking, s)
		return
	}
	if s.queue.full.Load() || h.head < s.queue.highestRevision() {
		return
	}
	mark := func(ids []int64) {
		s.queue.push(backends.WatchBatch{Kind: backends.WatchProgress, IDs: ids, Header: h.header(h.head)}, 0)
	}
	var ids []int64
	for w, floor := range s.asked {
		if w.state == watchSynced && max(floor, w.start) <= h.head {
			ids = append(ids, w.id)
			delete(s.asked, w)
		}
	}
	if len(ids) > 0 {
		slices.Sort(ids)
		mark(ids)
	}
	if s.askedAll > 0 && s.askedAll <= h.head && s.lagging == 0 && !s.awaitsFuture(h.head) {
		s.askedAll = 0
		mark([]int64{backends.AllWatches})
	}
	if len(s.asked) == 0 && s.askedAll == 0 {
		delete(h.asking, s)
	}
}

// awaitsFuture tells whether a watch of the stream starts above head.
func (s *watchStream) awaitsFuture(head int64) bool {
	for w := range s.future {
		if w.start > head {
			return true
		}
		delete(s.future, w)
	}
	return false
}
