package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/etcdshim/shim/backends"
)

const (
	// followBytes is how much new history is delivered in one go: little enough
	// that the mutex is held for milliseconds with a thousand watches on it.
	followBytes = 64 << 10
	// catchUpBytes is a lagging watch's turn: large enough that its cost per turn
	// vanishes, small enough that the next one's turn comes soon.
	catchUpBytes = 256 << 10
)

// watchHub serves all watches of a store. Writers never wait for it, nor it for
// clients: it reads new revisions from history, matches each event to the
// watches that want it, and puts batches into bounded queues of their streams.
//
// A watch is synced, or lagging. The synced ones get each new revision at the
// hub's head. A watch that starts in the past is lagging, and so are those of a
// stream whose queue is full when an event comes: they read history again from
// where they stood, and are synced once that is at the head. Lagging watches
// share their reads, take turns, and wait while their queue is full.
//
// Two goroutines work for it, both started by newWatchHub and ended by stop:
// follow owns the head, catchUp the turns of lagging watches.
//
// Lock order: mu before a queue's mutex. Next takes only the latter.
type watchHub struct {
	history watchHistory
	// header makes the header of a batch at a revision. It must not block.
	header func(revision int64) backends.Header
	// failed is told, at most once by each goroutine, that history cannot be read.
	failed func(error)

	cancel context.CancelFunc
	done   sync.WaitGroup
	// queued is what waits in the queues of all streams, bytes.
	queued atomic.Int64
	// kick has a token when there may be work for catchUp.
	kick chan struct{}

	mu      sync.Mutex
	stopped error
	streams map[*watchStream]struct{}
	// head is the last revision that was delivered to the synced watches.
	head   int64
	synced *watchIndex
	// lagged indexes the watches in lagging.
	lagged  *watchIndex
	lagging map[*watch]struct{}
	// turn counts the turns of catching up.
	turn int64
	// asking are the streams that wait for progress.
	asking map[*watchStream]struct{}

	live *watchDelivery
	past *watchDelivery
}

// newWatchHub starts a hub at the store's present revision.
func newWatchHub(history watchHistory, header func(revision int64) backends.Header, failed func(error)) *watchHub {
	ctx, cancel := context.WithCancel(context.Background())
	h := &watchHub{
		history: history, header: header, failed: failed,
		cancel: cancel, kick: make(chan struct{}, 1),
		streams: make(map[*watchStream]struct{}),
		head:    history.Committed(),
		synced:  newWatchIndex(), lagged: newWatchIndex(),
		lagging: make(map[*watch]struct{}),
		asking:  make(map[*watchStream]struct{}),
		live:    newWatchDelivery(), past: newWatchDelivery(),
	}
	h.done.Add(2)
	go h.follow(ctx)
	go h.catchUp(ctx)
	return h
}

// hubCounts are numbers of a hub.
type hubCounts struct{ streams, watches, lagging int }

func (h *watchHub) counts() hubCounts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return hubCounts{streams: len(h.streams), watches: h.synced.len + len(h.lagging), lagging: len(h.lagging)}
}

// stop ends all streams with ErrStopped, and the hub's goroutines.
func (h *watchHub) stop() {
	h.cancel()
	h.done.Wait()
	h.endAll(backends.ErrStopped)
}

// endAll ends all streams, and refuses new ones, with err.
func (h *watchHub) endAll(err error) {
	h.mu.Lock()
	if h.stopped == nil {
		h.stopped = err
	}
	streams := make([]*watchStream, 0, len(h.streams))
	for s := range h.streams {
		streams = append(streams, s)
	}
	h.mu.Unlock()
	for _, s := range streams {
		s.end(err)
	}
}

// open makes a stream that ends with ctx. ErrStopped.
func (h *watchHub) open(ctx context.Context) (*watchStream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &watchStream{
		hub: h, queue: newWatchQueue(&h.queued),
		watches: make(map[int64]*watch),
		future:  make(map[*watch]struct{}),
		asked:   make(map[*watch]int64),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped != nil {
		return nil, h.stopped
	}
	// It runs in a goroutine of its own, so not before the mutex is free.
	s.release = context.AfterFunc(ctx, func() { s.end(ctx.Err()) })
	h.streams[s] = struct{}{}
	return s, nil
}

// follow delivers new revisions to the synced watches.
func (h *watchHub) follow(ctx context.Context) {
	defer h.done.Done()
	for {
		changed := h.history.Changed()
		worked, err := h.followTurn(ctx)
		if !h.goOn(ctx, err) {
			return
		}
		if worked {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// catchUp gives lagging watches their turns.
func (h *watchHub) catchUp(ctx context.Context) {
	defer h.done.Done()
	for {
		worked, err := h.catchUpTurn(ctx)
		if !h.goOn(ctx, err) {
			return
		}
		if worked {
			continue
		}
		select {
		case <-h.kick:
		case <-ctx.Done():
			return
		}
	}
}

// goOn tells whether a goroutine goes on after a turn. An error of history ends
// every stream: none may skip what could not be read.
func (h *watchHub) goOn(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if err == nil {
		return true
	}
	h.failed(fmt.Errorf("read history for watches: %w", err))
	h.endAll(backends.ErrStopped)
	return false
}

// followTurn moves the head, if there is something new.
func (h *watchHub) followTurn(ctx context.Context) (worked bool, err error) {
	h.mu.Lock()
	committed := h.history.Committed()
	from := h.head + 1
	if from <= committed && h.synced.len == 0 {
		h.setHead(committed) // nobody to tell
		from = committed + 1
	}
	h.mu.Unlock()
	if from > committed {
		return false, nil
	}
	events, next, ok := h.history.Recent(from, followBytes)
	if !ok {
		events, next, err = h.history.History(ctx, from, followBytes)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if errors.Is(err, backends.ErrCompacted) {
		// Memory was outrun, and what is missing compacted: catchUp cancels those
		// who need it.
		head := h.history.CompactRevision() - 1
		for s := range h.streams {
			h.fallBehind(s, from, head)
		}
		h.setHead(head)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if err := h.deliver(events); err != nil {
		return false, err
	}
	h.setHead(next - 1)
	return next > from, nil
}

// deliver queues new events for the synced watches, a revision at a time.
func (h *watchHub) deliver(events []watchEvent) error {
	for len(events) > 0 {
		revision, n := events[0].Revision, 0
		for ; n < len(events) && events[n].Revision == revision; n++ {
			e := &events[n]
			h.synced.match(e.Key, func(w *watch) {
				if w.wants(e) {
					h.live.hit(w, n, e)
				}
			})
		}
		err := h.live.flush(h.header(revision), func(s *watchStream) { h.fallBehind(s, revision, revision) })
		if err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// setHead moves the head; every synced watch has its events up to there.
func (h *watchHub) setHead(head int64) {
	h.head = max(h.head, head)
	for s := range h.asking {
		h.answerProgress(s)
	}
}

// fallBehind makes those watches of a stream that were to see revisions from up
// to through read them, and what follows, from history.
func (h *watchHub) fallBehind(s *watchStream, from, through int64) {
	for _, w := range s.watches {
		if w.state == watchSynced && w.next <= through {
			h.leave(w)
			h.lag(w, from)
		}
	}
	token(h.kick)
}

// catchUpTurn reads one chunk of history for the lagging watch that has waited
// longest, and for all others that can use it.
func (h *watchHub) catchUpTurn(ctx context.Context) (worked bool, err error) {
	h.mu.Lock()
	for s := range h.asking {
		h.answerProgress(s) // a queue may have room again
	}
	from, ok := h.nextTurn()
	h.mu.Unlock()
	if !ok {
		return false, nil
	}
	events, next, err := h.history.History(ctx, from, catchUpBytes)
	if errors.Is(err, backends.ErrCompacted) {
		return true, nil // nextTurn cancels
	}
	if err == nil && next <= from {
		err = fmt.Errorf("it ends at revision %d, the hub has seen more", from)
	}
	if err != nil {
		return false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turn++
	var served []*watch
	for w := range h.lagging {
		if from <= w.next && w.next < next && !w.stream.queue.full.Load() {
			w.turn, w.lastTurn = h.turn, h.turn
			served = append(served, w)
		}
	}
	for n := range events {
		e := &events[n]
		h.lagged.match(e.Key, func(w *watch) {
			if w.turn == h.turn && w.wants(e) {
				h.past.hit(w, n, e)
			}
		})
	}
	if err := h.past.flush(h.header(max(h.head, next-1)), nil); err != nil {
		return false, err
	}
	for _, w := range served {
		w.next = next
		if next > h.head {
			h.leave(w)
			h.sync(w)
			h.answerProgress(w.stream)
		}
	}
	return true, nil
}

// nextTurn is where the lagging watch stands that has waited longest and whose
// queue has room, of equal ones that which is furthest behind. It cancels those
// whose history is gone.
func (h *watchHub) nextTurn() (from int64, ok bool) {
	compact := h.history.CompactRevision()
	var chosen *watch
	for w := range h.lagging {
		switch {
		case w.stream.queue.full.Load():
		case w.next < compact:
			h.cancelCompacted(w)
		case chosen == nil || w.lastTurn < chosen.lastTurn ||
			w.lastTurn == chosen.lastTurn && w.next < chosen.next:
			chosen = w
		}
	}
	if chosen == nil {
		return 0, false
	}
	return chosen.next, true
}

// cancelCompacted ends a watch that needs history which is gone.
func (h *watchHub) cancelCompacted(w *watch) {
	h.remove(w)
	w.stream.queue.push(backends.WatchBatch{
		Kind:            backends.WatchCanceled,
		IDs:             w.self,
		Header:          h.header(0),
		Reason:          backends.ErrCompacted,
		CompactRevision: h.history.CompactRevision(),
	}, 0)
	h.answerProgress(w.stream)
}

// sync makes a watch that is in no index a synced one.
func (h *watchHub) sync(w *watch) {
	w.state = watchSynced
	h.synced.add(w)
}

// lag makes a watch that is in no index a lagging one, which stands at next.
func (h *watchHub) lag(w *watch, next int64) {
	w.next, w.state, w.lastTurn = max(w.next, next), watchLagging, h.turn
	w.stream.lagging++
	h.lagged.add(w)
	h.lagging[w] = struct{}{}
}

// leave takes a watch out of the index it is in, if any.
func (h *watchHub) leave(w *watch) {
	switch w.state {
	case watchSynced:
		h.synced.remove(w)
	case watchLagging:
		h.lagged.remove(w)
		delete(h.lagging, w)
		w.stream.lagging--
	}
	w.state = watchGone
}

// remove ends a watch without a word.
func (h *watchHub) remove(w *watch) {
	h.leave(w)
	s := w.stream
	delete(s.watches, w.id)
	delete(s.future, w)
	delete(s.asked, w)
	if len(s.watches) == 0 {
		s.askedAll = 0
	}
}
