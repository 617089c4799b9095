package etcdapi

import (
	"context"

	"google.golang.org/grpc/mem"

	"github.com/etcdshim/shim/backends"
)

const (
	// joinBytes is the mean size up to which the events of a message are copied
	// into one piece: a piece of its own costs more than such a copy.
	joinBytes = 512
	// wholeBytes is the size of all events up to which each message has a copy of
	// them: one piece of memory in all, against two that grpc frames one by one.
	wholeBytes = 1 << 10
)

// send sends what the backend yields. It returns why there is nothing more.
func (w *watchStream) send(ctx context.Context) error {
	for {
		batch, err := w.backend.Next(ctx)
		if err != nil {
			return err
		}
		w.sending.Lock()
		err = w.sendBatch(&batch)
		w.sending.Unlock()
		if err != nil {
			return w.server.streamEnd(ctx, "send", "watch", err)
		}
	}
}

// sendBatch sends one batch to every watch it is for; sending is held.
func (w *watchStream) sendBatch(b *backends.WatchBatch) error {
	switch b.Kind {
	case backends.WatchCreated:
		for _, id := range b.IDs {
			if err := w.sendCreated(b, id); err != nil {
				return err
			}
		}
	case backends.WatchEvents:
		return w.sendEvents(b)
	case backends.WatchProgress:
		return w.sendProgress(b)
	case backends.WatchCanceled:
		for _, id := range b.IDs {
			if err := w.sendCanceled(b, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watchStream) sendCreated(b *backends.WatchBatch, id int64) error {
	watcher := w.watcher(id)
	if watcher == nil {
		return nil
	}
	w.mu.Lock()
	watcher.created = true
	w.mu.Unlock()
	defer w.answer()
	return w.sendResponse(&watchResponse{header: w.header(b), id: watcher.wireID, created: true})
}

// sendEvents sends the same events to each watch of a batch: they differ in the
// id, and in how they are cut.
func (w *watchStream) sendEvents(b *backends.WatchBatch) error {
	header := w.header(b)
	var shared mem.BufferSlice
	size := 0
	for _, e := range b.Events {
		size += len(e)
	}
	for _, id := range b.IDs {
		watcher := w.watcher(id)
		if watcher == nil {
			continue
		}
		r := watchResponse{header: header, id: watcher.wireID}
		var err error
		switch {
		case size <= wholeBytes: // too small to be cut, too
			err = w.stream.SendMsg(r.encodeWhole(b.Events, size))
		case watcher.fragment:
			err = w.sendFragments(&r, b.Events)
		default:
			if shared == nil {
				shared, size = joinEvents(b.Events)
			}
			err = w.stream.SendMsg(r.encodeWith(shared, size))
		}
		if err != nil {
			return err
		}
		w.server.metrics.events.Add(float64(len(b.Events)))
		w.mu.Lock()
		watcher.due = false
		w.mu.Unlock()
	}
	return nil
}

// sendFragments cuts events into messages that are smaller than the largest one a
// client may send, as etcd (v3rpc/watch.go, sendFragments). One event is never cut.
func (w *watchStream) sendFragments(r *watchResponse, events []backends.Event) error {
	limit := w.server.cfg.MaxRequestBytes + overheadBytes
	size := r.size()
	for _, e := range events {
		size += len(e)
	}
	if size < limit || len(events) < 2 {
		pieces, n := joinEvents(events)
		return w.stream.SendMsg(r.encodeWith(pieces, n))
	}
	for len(events) > 0 {
		r.fragment = true
		size, n := r.size()+len(events[0]), 1
		for n < len(events) && size+len(events[n]) < limit {
			size += len(events[n])
			n++
		}
		r.fragment = n < len(events)
		pieces, size := joinEvents(events[:n])
		if err := w.stream.SendMsg(r.encodeWith(pieces, size)); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// sendProgress sends a mark. One that is older than what was sent already is
// asked for again: it must not be given a revision that it does not stand for.
func (w *watchStream) sendProgress(b *backends.WatchBatch) error {
	for _, id := range b.IDs {
		wireID := int64(invalidWatchID)
		if id != backends.AllWatches {
			watcher := w.watcher(id)
			if watcher == nil {
				continue
			}
			wireID = watcher.wireID
		}
		if b.Header.Revision < w.revision {
			w.backend.Progress(id)
			continue
		}
		if err := w.sendResponse(&watchResponse{header: w.header(b), id: wireID}); err != nil {
			return err
		}
	}
	return nil
}

// sendCanceled tells the end of a watch. When the client asked for it while the
// backend ended it, both are told. One that ends before it was created is told as
// etcd tells of a creation that came to nothing.
func (w *watchStream) sendCanceled(b *backends.WatchBatch, id int64) error {
	watcher := w.watcher(id)
	if watcher == nil {
		return nil
	}
	w.mu.Lock()
	canceling, created := watcher.canceling, watcher.created
	dead := created && !canceling && b.Reason != nil
	watcher.dead = dead
	w.mu.Unlock()
	switch {
	case !created && isOfAuth(b.Reason):
		w.takeBack(watcher)
	case !dead:
		w.forget(watcher)
	}
	if b.Reason != nil {
		r := watchResponse{header: w.header(b), id: watcher.wireID, canceled: true, compactRevision: b.CompactRevision}
		if b.CompactRevision == 0 {
			r.reason = w.reason(b.Reason)
		} else {
			r.header.Revision = b.Header.Revision
		}
		if !created {
			r.id, r.created = invalidWatchID, true
			defer w.answer()
		}
		if err := w.sendResponse(&r); err != nil || !canceling {
			return err
		}
	}
	if canceling {
		defer w.answer()
	}
	return w.sendResponse(&watchResponse{header: w.header(b), id: watcher.wireID, canceled: true})
}

func (w *watchStream) watcher(id int64) *watcher {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.watchers[id]
}

// header is a batch's, never older than one that was sent; sending is held.
func (w *watchStream) header(b *backends.WatchBatch) backends.Header {
	h := b.Header
	h.Revision = max(h.Revision, w.revision)
	w.revision = h.Revision
	return h
}

func (w *watchStream) sendResponse(r *watchResponse) error { return w.stream.SendMsg(r.encode()) }

// joinEvents makes pieces of events, few ones if the events are small.
func joinEvents(events []backends.Event) (pieces mem.BufferSlice, size int) {
	for _, e := range events {
		size += len(e)
	}
	if size <= joinBytes*len(events) {
		joined := make([]byte, 0, size)
		for _, e := range events {
			joined = append(joined, e...)
		}
		return mem.BufferSlice{mem.SliceBuffer(joined)}, size
	}
	pieces = make(mem.BufferSlice, len(events))
	for i, e := range events {
		pieces[i] = mem.SliceBuffer(e)
	}
	return pieces, size
}

// watchResponse is a WatchResponse without its events.
type watchResponse struct {
	header                      backends.Header
	id                          int64
	created, canceled, fragment bool
	compactRevision             int64
	reason                      string
}

func (r *watchResponse) size() int {
	n := sizeHeader(r.header) + sizeField(uint64(r.id)) + sizeField(uint64(r.compactRevision))
	if r.reason != "" {
		n += sizeBytes(len(r.reason))
	}
	for _, set := range [3]bool{r.created, r.canceled, r.fragment} {
		if set {
			n += 2
		}
	}
	return n
}

func (r *watchResponse) append(b []byte) []byte {
	b = appendHeader(b, r.header)
	b = appendVarint(b, tagWatchID, uint64(r.id))
	b = appendBool(b, tagCreated, r.created)
	b = appendBool(b, tagCanceled, r.canceled)
	b = appendVarint(b, tagCompactRev, uint64(r.compactRevision))
	if r.reason != "" {
		b = appendBytes(b, tagCancelReason, r.reason)
	}
	return appendBool(b, tagFragment, r.fragment)
}

func (r *watchResponse) encode() *reply { return whole(r.append(make([]byte, 0, r.size()))) }

// encodeWhole appends a copy of events of that size together.
func (r *watchResponse) encodeWhole(events []backends.Event, size int) *reply {
	b := r.append(make([]byte, 0, r.size()+size))
	for _, e := range events {
		b = append(b, e...)
	}
	return whole(b)
}

// encodeWith appends events, whose pieces may be shared: they are the
// collector's, so that grpc's freeing of them does nothing.
func (r *watchResponse) encodeWith(events mem.BufferSlice, size int) *reply {
	head := r.append(make([]byte, 0, r.size()))
	pieces := make(mem.BufferSlice, 0, 1+len(events))
	pieces = append(append(pieces, mem.SliceBuffer(head)), events...)
	return &reply{pieces: pieces, size: len(head) + size}
}
