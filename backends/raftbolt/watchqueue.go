package raftbolt

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/etcdshim/shim/backends"
)

const (
	// queueBytes and queueBatches bound what waits in a stream for Next; one
	// revision, or one turn of catching up, may exceed them. Beyond, the stream
	// goes back to reading history. 1,024 small batches are a second of a busy
	// store, which a client may pause without falling behind.
	queueBytes   = 1 << 20
	queueBatches = 1024
	// allQueuesBytes bounds the queues of all streams together: once it is reached,
	// a stream that has queueFloorBytes counts as full. So a thousand streams whose
	// clients do not read cannot hold a gigabyte. Events that streams share count
	// for each.
	allQueuesBytes  = 128 << 20
	queueFloorBytes = 64 << 10
	// queueControls bounds the answers to Add in a queue; Add waits beyond. It is
	// far above what a client that reads has under way.
	queueControls = 1024
	// batchOverheadBytes is what a batch costs besides its events.
	batchOverheadBytes = 160
	eventOverheadBytes = 24
)

// watchQueue is what a stream has for Next, in order.
type watchQueue struct {
	mu sync.Mutex
	// batches[head:] wait.
	batches []queuedBatch
	head    int
	bytes   int64
	// controls of them answer an Add or Cancel.
	controls int
	// highest is the largest revision in a header so far. A header never has less.
	highest int64
	// err is why the queue was closed.
	err error
	// all counts the bytes in the queues of all streams.
	all *atomic.Int64

	// ready has a token when there may be something for Next, room when an Add
	// may have room.
	ready chan struct{}
	room  chan struct{}
	// full is set when a bound was reached and cleared when half of it is free.
	// Only the hub sets it, holding its mutex.
	full atomic.Bool
}

type queuedBatch struct {
	backends.WatchBatch
	bytes int64
}

func (b *queuedBatch) control() bool {
	return b.Kind == backends.WatchCreated || b.Kind == backends.WatchCanceled
}

// newWatchQueue makes an empty queue that counts in all.
func newWatchQueue(all *atomic.Int64) *watchQueue {
	return &watchQueue{all: all, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// token puts a token into a channel of one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push appends a batch; bytes is the size of its events. It never waits.
func (q *watchQueue) push(b backends.WatchBatch, bytes int64) {
	q.mu.Lock()
	if q.err != nil {
		q.mu.Unlock()
		return
	}
	if b.Header.Revision != 0 {
		q.highest = max(q.highest, b.Header.Revision)
		b.Header.Revision = q.highest
	}
	e := queuedBatch{b, bytes + batchOverheadBytes}
	if e.control() {
		q.controls++
	}
	q.bytes += e.bytes
	all := q.all.Add(e.bytes)
	q.batches = append(q.batches, e)
	if q.bytes >= queueBytes || q.bytes >= queueFloorBytes && all >= allQueuesBytes || len(q.batches)-q.head >= queueBatches {
		q.full.Store(true)
	}
	q.mu.Unlock()
	token(q.ready)
}

// pop takes the first batch, if there is one. resumed tells that the queue was
// full and no longer is.
func (q *watchQueue) pop() (b backends.WatchBatch, ok, resumed bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil || q.head == len(q.batches) {
		return b, false, false, q.err
	}
	e := q.batches[q.head]
	q.batches[q.head] = queuedBatch{}
	q.head++
	q.bytes -= e.bytes
	limit := int64(queueBytes)
	if q.all.Add(-e.bytes) >= allQueuesBytes {
		limit = queueFloorBytes
	}
	if e.control() {
		if q.controls--; q.controls == queueControls-1 {
			token(q.room)
		}
	}
	q.trim()
	if q.full.Load() && q.bytes <= limit/2 && len(q.batches)-q.head <= queueBatches/2 {
		q.full.Store(false)
		resumed = true
	}
	return e.WatchBatch, true, resumed, nil
}

// trim gives the space of taken batches back.
func (q *watchQueue) trim() {
	switch {
	case q.head == len(q.batches) && cap(q.batches) > 64:
		// A queue that once was long does not keep its array for good.
		q.batches, q.head = nil, 0
	case q.head == len(q.batches):
		q.batches, q.head = q.batches[:0], 0
	case q.head >= 64 && q.head > len(q.batches)/2:
		n := copy(q.batches, q.batches[q.head:])
		clear(q.batches[n:])
		q.batches, q.head = q.batches[:n], 0
	}
}

// awaitRoom waits until another Add may be answered. It serves one caller at a time.
func (q *watchQueue) awaitRoom(ctx context.Context) error {
	for {
		q.mu.Lock()
		controls, err := q.controls, q.err
		q.mu.Unlock()
		if err != nil || controls < queueControls {
			return err
		}
		select {
		case <-q.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// highestRevision is the largest revision in a header so far.
func (q *watchQueue) highestRevision() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.highest
}

// close drops everything; pop and awaitRoom return err from now on. Of two calls
// the first counts.
func (q *watchQueue) close(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.all.Add(-q.bytes)
		q.err, q.batches, q.head, q.bytes = err, nil, 0, 0
	}
	q.mu.Unlock()
	token(q.ready)
	token(q.room)
}
