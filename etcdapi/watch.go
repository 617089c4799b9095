package etcdapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

const (
	// maxWatches bounds the watches of one stream, which cost memory here and in
	// the backend. Known clients have fewer than 10,000.
	maxWatches = 100_000
	// maxUnanswered bounds the creations and cancellations of one stream that the
	// backend was asked for and whose answers were not sent: a client that does not
	// read is not read from.
	maxUnanswered = 1024
	// watchMethod is the RPC's name in the log.
	watchMethod = "/etcdserverpb.Watch/Watch"
	// invalidWatchID is the id in answers that are about no watch, or about all.
	invalidWatchID = -1
)

// watcher is one watch of a stream, known to the backend by an id of its own, so
// that a client may use any number, and use it again.
type watcher struct {
	wireID   int64
	chosen   bool // the id is the server's choice
	fragment bool

	// Guarded by watchStream.mu.
	created   bool // the client was told
	notify    bool // progress_notify was asked for
	due       bool // the next tick asks for progress: no event was sent since the last
	canceling bool // the client asked to cancel it
	dead      bool // the backend cancelled it; etcd keeps the id taken until the client cancels
}

// watchStream is one Watch RPC. A receiver handles the client's requests and a
// sender sends what the backend yields; the RPC's own goroutine supervises both,
// keeps the time, and sends the answers that the backend has no part in.
//
// Answers to requests go out in the order of the requests: those of the backend
// come out of Next in order, and the receiver lets any other wait for them.
type watchStream struct {
	server  *Server
	stream  grpc.ServerStream
	backend backends.WatchStream

	// direct are answers that the supervisor sends.
	direct chan directAnswer
	// answered tells the receiver, by at most one token, that unanswered went down.
	answered chan struct{}

	mu         sync.Mutex
	watchers   map[int64]*watcher // by the backend's id
	byWire     map[int64]*watcher
	backendID  map[*watcher]int64
	lastID     int64 // the last id given to the backend
	nextWireID int64 // where the search for a free id goes on, as etcd's
	unanswered int   // answers that the backend still owes

	sending  sync.Mutex // held for each message
	revision int64      // the last one sent; guarded by sending
}

type directAnswer struct {
	response watchResponse
	sent     chan struct{}
}

func (s *Server) watch(ctx context.Context, stream grpc.ServerStream) error {
	var caller backends.Caller
	if s.authEnabled() {
		caller = s.credentials(ctx) // nobody is asked before the first watch is created
	}
	b, err := s.backend.Watch(ctx, caller)
	if err != nil {
		return err
	}
	w := &watchStream{
		server: s, stream: stream, backend: b,
		direct:    make(chan directAnswer),
		answered:  make(chan struct{}, 1),
		watchers:  make(map[int64]*watcher),
		byWire:    make(map[int64]*watcher),
		backendID: make(map[*watcher]int64),
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	// The backend's stream is closed by the last who uses it. The receiver may be
	// reading from the client until this function returned.
	var users sync.WaitGroup
	users.Add(2)
	go func() {
		users.Wait()
		b.Close()
	}()
	go func() {
		defer users.Done()
		var err error
		defer func() {
			if err != nil {
				cancel(err)
			}
		}()
		defer s.recover(watchMethod, &err)
		err = w.receive(ctx)
	}()
	sent := make(chan struct{})
	go func() {
		defer users.Done()
		defer close(sent)
		var err error
		defer func() { cancel(err) }()
		defer s.recover(watchMethod, &err)
		err = w.send(ctx)
	}()
	w.supervise(ctx)
	<-sent
	return watchEnd(ctx)
}

// watchEnd is why a watch stream ended. A cancelled one has a text of its own.
func watchEnd(ctx context.Context) error {
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

// supervise runs until ctx ends.
func (w *watchStream) supervise(ctx context.Context) {
	// Spread by a tenth, so that the watches of a client that was restarted are not
	// notified all at once, for ever.
	interval := w.server.cfg.WatchProgressNotifyInterval
	interval += rand.N(interval/10 + 1)
	for {
		tick, stop := w.server.cfg.Clock.After(interval)
		for ticked := false; !ticked; {
			select {
			case <-tick:
				ticked = true
			case a := <-w.direct:
				w.sendDirect(ctx, &a.response)
				close(a.sent)
			case <-ctx.Done():
				stop()
				return
			}
		}
		w.notify()
	}
}

// notify asks for the progress of every watch that wants it and had no event
// since the last tick.
func (w *watchStream) notify() {
	var due []int64
	w.mu.Lock()
	for id, watcher := range w.watchers {
		if !watcher.notify || watcher.dead {
			continue
		}
		if watcher.due {
			due = append(due, id)
		}
		watcher.due = true
	}
	w.mu.Unlock()
	for _, id := range due {
		w.backend.Progress(id)
	}
}

// receive handles requests until the client closes its side, which does not end
// the stream, or reading fails.
func (w *watchStream) receive(ctx context.Context) error {
	for {
		var r pb.WatchRequest
		if err := w.stream.RecvMsg(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return w.server.streamEnd(ctx, "receive", "watch", err)
		}
		if err := w.awaitAnswers(ctx, maxUnanswered); err != nil {
			return err
		}
		var err error
		// A request without content is ignored, as an unknown one.
		switch u := r.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if u.CreateRequest != nil {
				err = w.create(ctx, u.CreateRequest)
			}
		case *pb.WatchRequest_CancelRequest:
			if u.CancelRequest != nil {
				err = w.cancel(ctx, u.CancelRequest.WatchId)
			}
		case *pb.WatchRequest_ProgressRequest:
			if u.ProgressRequest != nil {
				w.progress()
			}
		}
		if err != nil {
			return err
		}
	}
}

// create opens a watch. The checks are in etcd's order (v3rpc/watch.go, recvLoop;
// storage/mvcc/watcher.go, Watch).
func (w *watchStream) create(ctx context.Context, r *pb.WatchCreateRequest) error {
	key := r.Key
	if len(key) == 0 {
		key = []byte{0}
	}
	if r.StartRevision < 0 {
		return w.refuse(ctx, rpctypes.ErrCompacted.Error())
	}
	caller, err := w.identify(ctx)
	if err != nil {
		return w.refuse(ctx, w.reason(err))
	}
	keys := backends.KeyRange{Key: key, End: r.RangeEnd}
	watcher := &watcher{fragment: r.Fragment, notify: r.ProgressNotify, due: true}
	id, reason := w.register(watcher, r.WatchId, keys)
	if reason != "" {
		if err := w.readable(ctx, caller, keys); err != nil {
			reason = w.reason(err) // which etcd finds before
		}
		return w.refuse(ctx, reason)
	}
	request := &backends.WatchRequest{
		Caller: caller, ID: id,
		KeyRange:      keys,
		StartRevision: r.StartRevision,
		PrevKV:        r.PrevKv,
	}
	for _, f := range r.Filters {
		switch f {
		case pb.WatchCreateRequest_NOPUT:
			request.NoPut = true
		case pb.WatchCreateRequest_NODELETE:
			request.NoDelete = true
		}
	}
	if err := w.backend.Add(ctx, request); err != nil {
		w.takeBack(watcher)
		w.answer()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return w.refuse(ctx, w.reason(err))
	}
	return nil
}

// identify tells who creates a watch. One that is refused gives its id back; so while
// callers are looked at, it is awaited what became of the creations before.
func (w *watchStream) identify(ctx context.Context) (backends.Caller, error) {
	if !w.server.authEnabled() {
		return backends.Caller{}, nil
	}
	if err := w.awaitAnswers(ctx, 1); err != nil {
		return backends.Caller{}, err
	}
	return w.server.caller(ctx)
}

// readable asks the backend whether the caller may read keys. Only its answer to that counts.
func (w *watchStream) readable(ctx context.Context, caller backends.Caller, keys backends.KeyRange) error {
	if !w.server.authEnabled() {
		return nil
	}
	cur, err := w.server.backend.Range(ctx, &backends.RangeRequest{
		Caller: caller, RangeOptions: backends.RangeOptions{KeyRange: keys, CountOnly: true}, Serializable: true,
	})
	if err == nil {
		_, err = cur.Next(ctx)
		cur.Close()
	}
	if isOfAuth(err) {
		return err
	}
	return nil
}

// register gives a watch its ids, or tells why it cannot be.
func (w *watchStream) register(watcher *watcher, wireID int64, keys backends.KeyRange) (id int64, reason string) {
	open := len(keys.End) == 1 && keys.End[0] == 0
	if len(keys.End) > 0 && !open && bytes.Compare(keys.Key, keys.End) >= 0 {
		return 0, reasonEmptyRange
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if watcher.chosen = wireID == 0; watcher.chosen {
		for w.byWire[w.nextWireID] != nil {
			w.nextWireID++
		}
		wireID = w.nextWireID
		w.nextWireID++
	} else if w.byWire[wireID] != nil {
		return 0, reasonDuplicateWatch
	}
	if len(w.byWire) >= maxWatches {
		return 0, reasonTooManyWatches
	}
	w.lastID++
	watcher.wireID = wireID
	w.watchers[w.lastID], w.byWire[wireID], w.backendID[watcher] = watcher, watcher, w.lastID
	w.unanswered++
	return w.lastID, ""
}

// takeBack is forget for a watch that was refused: the id that was chosen for it is the next
// one's, since etcd asks for permission before it chooses.
func (w *watchStream) takeBack(watcher *watcher) {
	w.forget(watcher)
	w.mu.Lock()
	defer w.mu.Unlock()
	if watcher.chosen {
		w.nextWireID = min(w.nextWireID, watcher.wireID)
	}
}

// forget removes a watch, but leaves its wire id to one that has it by now.
func (w *watchStream) forget(watcher *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.watchers, w.backendID[watcher])
	delete(w.backendID, watcher)
	if w.byWire[watcher.wireID] == watcher {
		delete(w.byWire, watcher.wireID)
	}
}

// cancel ends a watch. One that the backend ended is answered all the same; an
// unknown one is not.
func (w *watchStream) cancel(ctx context.Context, wireID int64) error {
	w.mu.Lock()
	watcher := w.byWire[wireID]
	if watcher == nil {
		w.mu.Unlock()
		return nil
	}
	delete(w.byWire, wireID)
	id, dead := w.backendID[watcher], watcher.dead
	if dead {
		delete(w.watchers, id)
		delete(w.backendID, watcher)
	} else {
		watcher.canceling = true
		w.unanswered++
	}
	w.mu.Unlock()
	if dead {
		return w.answerDirectly(ctx, watchResponse{id: wireID, canceled: true})
	}
	w.backend.Cancel(id)
	return nil
}

// progress asks for one mark of the whole stream. Without a watch there is no answer.
func (w *watchStream) progress() {
	w.mu.Lock()
	alive := false
	for _, watcher := range w.byWire {
		if !watcher.dead {
			alive = true
			break
		}
	}
	w.mu.Unlock()
	if alive {
		w.backend.Progress(backends.AllWatches)
	}
}

// refuse answers a creation that came to nothing.
func (w *watchStream) refuse(ctx context.Context, reason string) error {
	return w.answerDirectly(ctx, watchResponse{id: invalidWatchID, created: true, canceled: true, reason: reason})
}

// answerDirectly sends an answer once those to earlier requests were sent, and
// returns when it is sent itself.
func (w *watchStream) answerDirectly(ctx context.Context, r watchResponse) error {
	if err := w.awaitAnswers(ctx, 1); err != nil {
		return err
	}
	a := directAnswer{response: r, sent: make(chan struct{})}
	select {
	case w.direct <- a:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-a.sent:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitAnswers waits until fewer than limit answers are owed by the backend.
func (w *watchStream) awaitAnswers(ctx context.Context, limit int) error {
	for {
		w.mu.Lock()
		enough := w.unanswered < limit
		w.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-w.answered:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// answer notes that the backend gave an answer that it owed.
func (w *watchStream) answer() {
	w.mu.Lock()
	w.unanswered--
	w.mu.Unlock()
	select {
	case w.answered <- struct{}{}:
	default:
	}
}

// sendDirect sends an answer with the store's present revision. An error ends the
// stream by the sender's next message or the client's absence.
func (w *watchStream) sendDirect(ctx context.Context, r *watchResponse) {
	w.sending.Lock()
	defer w.sending.Unlock()
	st, err := w.server.state(ctx)
	if isOfAuth(err) { // the server behind this one tells everybody only whether it asks
		var res backends.AuthStatusResult
		res, err = w.server.auth.AuthStatus(ctx, backends.Caller{})
		st.Header = res.Header
	}
	if err != nil {
		return
	}
	r.header = st.Header
	r.header.Revision = max(r.header.Revision, w.revision)
	w.revision = r.header.Revision
	_ = w.stream.SendMsg(r.encode()) // see above
}

// reason is the text of an error in cancel_reason. etcd's is that of the status.
func (w *watchStream) reason(err error) string {
	wire := w.server.wireError(err)
	if isOfAuth(err) {
		return wire.Error()
	}
	return status.Convert(wire).Message()
}
