package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

const (
	// maxRequests bounds the requests of a stream that wait to be sent, and the
	// watches whose creation was not answered; Add waits beyond it.
	maxRequests = 1024
	// progressRetry is how long a request for progress waits for its answer. etcd
	// drops one that comes before all watches of the stream are synced.
	progressRetry = time.Second
)

// watchStream is one Watch RPC of the upstream's. Ids on the wire are our own,
// since etcd takes the id zero for a request to choose one.
//
// Two goroutines, which end with ctx: send sends what is in requests, and asks
// again for progress; receive hands messages to Next, one at a time.
type watchStream struct {
	b       *Backend
	ctx     context.Context // of the RPC
	cancel  context.CancelFunc
	outer   context.Context // of the caller, ctx's parent
	attempt *attempt
	stream  grpc.ClientStream

	requests chan *pb.WatchRequest
	// ask has a token when wanted was empty and is no longer.
	ask chan struct{}
	// room has a token when creating became shorter.
	room    chan struct{}
	answers chan []byte
	// failed is closed after err was set: the RPC is over.
	failed chan struct{}
	err    error

	mu     sync.Mutex
	lastID int64
	// callers maps ids on the wire to the caller's, of every watch that may still
	// be heard of; wire maps the caller's to those on the wire, of every watch that
	// the caller did not cancel.
	callers map[int64]int64
	wire    map[int64]int64
	// creating are the watches, by ids on the wire, whose creation is to be
	// answered. etcd answers in order, and refuses under the id -1.
	creating []int64
	// wanted is for what progress is to be asked next, asked for what it was asked.
	wanted, asked map[int64]struct{}
	// ready are batches to yield before the next message.
	ready []backends.WatchBatch
}

// Watch implements backends.Backend.
func (b *Backend) Watch(ctx context.Context, caller backends.Caller) (backends.WatchStream, error) {
	if b.closed.Load() {
		return nil, backends.ErrStopped
	}
	inner, cancel := context.WithCancel(ctx)
	rpc, a := b.begin(inner, reading, caller)
	stream, err := b.conn.NewStream(rpc, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, pb.Watch_Watch_FullMethodName)
	if err != nil {
		cancel()
		return nil, b.outcome(ctx, a, err)
	}
	w := &watchStream{
		b: b, ctx: inner, cancel: cancel, outer: ctx, attempt: a, stream: stream,
		requests: make(chan *pb.WatchRequest, maxRequests),
		ask:      make(chan struct{}, 1),
		room:     make(chan struct{}, 1),
		answers:  make(chan []byte),
		failed:   make(chan struct{}),
		callers:  make(map[int64]int64),
		wire:     make(map[int64]int64),
		wanted:   make(map[int64]struct{}),
		asked:    make(map[int64]struct{}),
	}
	go w.receive()
	go w.send()
	return w, nil
}

// Add implements backends.WatchStream.
func (w *watchStream) Add(ctx context.Context, req *backends.WatchRequest) error {
	id, err := w.register(ctx, req.ID)
	if err != nil {
		return err
	}
	c := &pb.WatchCreateRequest{
		WatchId:       id,
		Key:           bytes.Clone(req.Key),
		RangeEnd:      bytes.Clone(req.End),
		StartRevision: req.StartRevision,
		PrevKv:        req.PrevKV,
	}
	if req.NoPut {
		c.Filters = append(c.Filters, pb.WatchCreateRequest_NOPUT)
	}
	if req.NoDelete {
		c.Filters = append(c.Filters, pb.WatchCreateRequest_NODELETE)
	}
	err = w.request(ctx, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: c}})
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.creating = slices.DeleteFunc(w.creating, func(other int64) bool { return other == id })
		w.forget(id)
	}
	return err
}

// register gives a watch its id on the wire, once there is room for its answer.
func (w *watchStream) register(ctx context.Context, id int64) (int64, error) {
	for {
		w.mu.Lock()
		if _, taken := w.wire[id]; taken || id == backends.AllWatches {
			w.mu.Unlock()
			return 0, fmt.Errorf("etcd backend: watch id %d is taken", id)
		}
		if len(w.creating) < maxRequests {
			break
		}
		w.mu.Unlock()
		select {
		case <-w.room:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-w.failed:
			return 0, w.err
		}
	}
	defer w.mu.Unlock()
	w.lastID++
	w.wire[id], w.callers[w.lastID] = w.lastID, id
	w.creating = append(w.creating, w.lastID)
	return w.lastID, nil
}

// forget drops a watch that will not be heard of again.
func (w *watchStream) forget(wire int64) {
	id := w.callers[wire]
	delete(w.callers, wire)
	if w.wire[id] == wire {
		delete(w.wire, id)
		delete(w.wanted, id)
		delete(w.asked, id)
	}
}

func (w *watchStream) request(ctx context.Context, r *pb.WatchRequest) error {
	select {
	case w.requests <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.failed:
		return w.err
	}
}

// Cancel implements backends.WatchStream.
func (w *watchStream) Cancel(id int64) {
	w.mu.Lock()
	wire, ok := w.wire[id]
	delete(w.wire, id)
	delete(w.wanted, id)
	delete(w.asked, id)
	w.mu.Unlock()
	if ok {
		// The only error is that of a stream which has ended.
		_ = w.request(w.ctx, cancelRequest(wire))
	}
}

func cancelRequest(wire int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: wire}}}
}

// Progress implements backends.WatchStream. etcd knows marks of a whole stream
// only; such a mark is good for each of its watches.
func (w *watchStream) Progress(id int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.wire[id]; ok || (id == backends.AllWatches && len(w.wire) > 0) {
		w.wanted[id] = struct{}{}
		w.askSoon()
	}
}

func (w *watchStream) askSoon() {
	select {
	case w.ask <- struct{}{}:
	default: // the token is there already
	}
}

// Close implements backends.WatchStream.
func (w *watchStream) Close() { w.cancel() }

// send sends requests until the RPC is over, whose error is for receive to tell.
func (w *watchStream) send() {
	var retry <-chan time.Time
	stop := func() {}
	defer func() { stop() }()
	for {
		var r *pb.WatchRequest
		select {
		case r = <-w.requests:
		case <-w.ask:
			// Requests that were made before go out before.
			if len(w.requests) > 0 {
				w.askSoon()
				r = <-w.requests
			}
		case <-retry:
		case <-w.failed:
			return
		}
		if r == nil {
			stop()
			if r = w.progressRequest(); r == nil {
				retry, stop = nil, func() {}
				continue
			}
			retry, stop = w.b.clock.After(progressRetry)
		}
		if err := w.stream.SendMsg(r); err != nil {
			return
		}
	}
}

// progressRequest asks for what is wanted and for what was not answered yet; nil
// when there is nothing.
func (w *watchStream) progressRequest() *pb.WatchRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.wanted {
		w.asked[id] = struct{}{}
	}
	clear(w.wanted)
	if len(w.asked) == 0 {
		return nil
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

// receive hands each message to Next until the RPC is over.
func (w *watchStream) receive() {
	defer close(w.failed)
	for {
		var answer raw
		if err := w.stream.RecvMsg(&answer); err != nil {
			w.err = w.end(err)
			w.cancel()
			return
		}
		select {
		case w.answers <- answer.bytes:
		case <-w.ctx.Done():
			w.err = w.end(w.ctx.Err())
			return
		}
	}
}

// end is why the RPC is over.
func (w *watchStream) end(err error) error {
	switch {
	case w.outer.Err() != nil:
		return w.outer.Err()
	case w.ctx.Err() != nil || w.b.closed.Load():
		return backends.ErrStopped
	case errors.Is(err, io.EOF):
		return &backends.Remote{Code: uint32(codes.Unavailable), Message: "upstream etcd: the watch stream ended"}
	}
	return w.b.outcome(w.ctx, w.attempt, err)
}

// Next implements backends.WatchStream.
func (w *watchStream) Next(ctx context.Context) (backends.WatchBatch, error) {
	for {
		w.mu.Lock()
		if len(w.ready) > 0 {
			batch := w.ready[0]
			w.ready = w.ready[1:]
			w.mu.Unlock()
			return batch, nil
		}
		w.mu.Unlock()
		select {
		case message := <-w.answers:
			a, err := decodeAnswer(message)
			if err != nil {
				return backends.WatchBatch{}, err
			}
			w.mu.Lock()
			w.take(&a)
			w.mu.Unlock()
		case <-w.failed:
			return backends.WatchBatch{}, w.err
		case <-ctx.Done():
			return backends.WatchBatch{}, ctx.Err()
		}
	}
}

// answer is a WatchResponse, cut up.
type answer struct {
	header          backends.Header
	id              int64
	created         bool
	canceled        bool
	compactRevision int64
	reason          string
	events          []backends.Event
}

func decodeAnswer(message []byte) (a answer, err error) {
	err = eachField("watch response", message, func(f field) (err error) {
		switch f.tag {
		case anyHeader:
			a.header, err = decodeHeader(f.bytes)
		case watchID:
			a.id = f.int64()
		case watchCreated:
			a.created = f.bool()
		case watchCanceled:
			a.canceled = f.bool()
		case watchCompactRevision:
			a.compactRevision = f.int64()
		case watchCancelReason:
			a.reason = string(f.bytes)
		case watchEvents:
			if !f.framed() {
				return malformed("watch response")
			}
			a.events = append(a.events, backends.Event(f.frame))
		}
		return err
	})
	return a, err
}

// take adds to ready what an answer means.
func (w *watchStream) take(a *answer) {
	wire := a.id
	if a.created && len(w.creating) > 0 {
		wire = w.creating[0]
		w.creating = w.creating[1:]
		select {
		case w.room <- struct{}{}:
		default: // nobody waits
		}
	}
	id, known := w.callers[wire]
	if wire == backends.AllWatches && !a.created && !a.canceled {
		w.takeProgress(a)
		return
	}
	if !known {
		return // cancelled on both sides
	}
	batch := backends.WatchBatch{IDs: []int64{id}, Header: a.header}
	if a.created && !a.canceled { // else it is a refusal
		batch.Kind = backends.WatchCreated
		w.ready = append(w.ready, batch)
	}
	switch {
	case a.canceled:
		batch.Kind = backends.WatchCanceled
		batch.Reason = a.cause()
		batch.CompactRevision = a.compactRevision
		w.forget(wire)
		if a.compactRevision != 0 {
			// etcd remembers the id of such a watch until the client cancels it. It
			// would be a pity, but no fault, if there were no room to say so.
			select {
			case w.requests <- cancelRequest(wire):
			default:
			}
		}
	case len(a.events) > 0:
		batch.Kind = backends.WatchEvents
		batch.Events = a.events
	default:
		return
	}
	w.ready = append(w.ready, batch)
}

// cause is the reason of a cancellation that the caller did not ask for, or nil.
func (a *answer) cause() error {
	if a.compactRevision != 0 {
		return backends.ErrCompacted
	}
	// etcd refuses a watch by the text of a status (v3rpc/watch.go, recvLoop).
	for _, e := range [...]struct{ wire, is error }{
		{rpctypes.ErrGRPCPermissionDenied, backends.ErrPermissionDenied},
		{rpctypes.ErrGRPCInvalidAuthToken, backends.ErrInvalidAuthToken},
		{rpctypes.ErrGRPCAuthOldRevision, backends.ErrAuthOldRevision},
		{rpctypes.ErrGRPCUserEmpty, backends.ErrUserEmpty},
	} {
		if a.reason == e.wire.Error() {
			return e.is
		}
	}
	if a.reason != "" {
		return &backends.Remote{Code: uint32(codes.Unknown), Message: strings.Clone(a.reason)}
	}
	return nil
}

// takeProgress yields a mark to everything that asked before etcd was asked.
func (w *watchStream) takeProgress(a *answer) {
	batch := backends.WatchBatch{Kind: backends.WatchProgress, Header: a.header}
	for id := range w.asked {
		if id != backends.AllWatches {
			batch.IDs = append(batch.IDs, id)
		}
	}
	if len(batch.IDs) > 0 {
		slices.Sort(batch.IDs)
		w.ready = append(w.ready, batch)
	}
	if _, all := w.asked[backends.AllWatches]; all {
		batch.IDs = []int64{backends.AllWatches}
		w.ready = append(w.ready, batch)
	}
	clear(w.asked)
	if len(w.wanted) > 0 {
		w.askSoon()
	}
}
