package memory

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

const (
	// maxControls bounds the answers to Add that wait in a stream for Next; Add
	// waits beyond it. It is far above what a client has under way that reads.
	maxControls = 1024
	// batchBytes is when a batch of past events is large enough: etcd's default
	// request limit, which its clients are known to cope with. A revision is
	// never divided.
	batchBytes = 1536 << 10
	// eventTag is the protobuf tag of WatchResponse.events (field 11).
	eventTag = 0x5a
)

// stream implements backends.WatchStream. All fields are guarded by b.mu.
type stream struct {
	b      *Backend
	ctx    context.Context
	closed bool
	// watches by id.
	watches map[int64]*watch
	// controls are answers to Add and Cancel, which Next yields before events.
	controls []backends.WatchBatch
	// progress holds what was asked for and not yielded yet; AllWatches is one id.
	progress map[int64]struct{}
	// yielded is the highest revision in a header so far.
	yielded int64
}

// watch is one watch of a stream.
type watch struct {
	id    int64
	start int64
	keys  backends.KeyRange
	// next is the first revision not yielded yet, or passed over.
	next int64
	// past is the store's revision when the watch began. Events at or below it
	// come in large batches, later ones a revision at a time, as in etcd.
	past int64
	// compacted was the store's compacted revision when the watch began: the
	// state before it is gone, so that an event at it has no previous record.
	compacted int64
	prevKV    bool
	noPut     bool
	noDelete  bool
}

// Watch implements backends.Backend.
func (b *Backend) Watch(ctx context.Context, _ backends.Caller) (backends.WatchStream, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	return &stream{b: b, ctx: ctx, watches: make(map[int64]*watch), progress: make(map[int64]struct{})}, nil
}

// Add implements backends.WatchStream.
func (s *stream) Add(ctx context.Context, req *backends.WatchRequest) error {
	b := s.b
	for {
		if err := b.enter(ctx); err != nil {
			return err
		}
		if s.closed {
			b.mu.Unlock()
			return backends.ErrStopped
		}
		if len(s.controls) < maxControls {
			break
		}
		changed := b.changed
		b.mu.Unlock()
		if err := s.wait(ctx, changed); err != nil {
			return err
		}
	}
	defer b.mu.Unlock()
	if s.watches[req.ID] != nil || req.ID == backends.AllWatches {
		return fmt.Errorf("memory: watch id %d is taken", req.ID)
	}
	w := &watch{
		id:        req.ID,
		start:     req.StartRevision,
		keys:      backends.KeyRange{Key: bytes.Clone(req.Key), End: bytes.Clone(req.End)},
		next:      req.StartRevision,
		past:      b.revision,
		compacted: b.compacted,
		prevKV:    req.PrevKV,
		noPut:     req.NoPut,
		noDelete:  req.NoDelete,
	}
	if w.start == 0 {
		w.next = b.revision + 1
	}
	s.watches[w.id] = w
	s.control(backends.WatchBatch{Kind: backends.WatchCreated, IDs: []int64{w.id}, Header: b.header()})
	if w.next < b.compacted {
		s.cancelCompacted(w)
	}
	return nil
}

func (s *stream) control(c backends.WatchBatch) {
	s.controls = append(s.controls, c)
	s.b.wake()
}

func (s *stream) remove(w *watch) {
	delete(s.watches, w.id)
	delete(s.progress, w.id)
}

// cancelCompacted ends a watch that needs history which is gone.
func (s *stream) cancelCompacted(w *watch) {
	s.remove(w)
	s.control(backends.WatchBatch{
		Kind:            backends.WatchCanceled,
		IDs:             []int64{w.id},
		Header:          headerAt(0),
		Reason:          backends.ErrCompacted,
		CompactRevision: s.b.compacted,
	})
}

// Cancel implements backends.WatchStream.
func (s *stream) Cancel(id int64) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if w := s.watches[id]; w != nil {
		s.remove(w)
		s.control(backends.WatchBatch{Kind: backends.WatchCanceled, IDs: []int64{id}, Header: s.b.header()})
	}
}

// Progress implements backends.WatchStream.
func (s *stream) Progress(id int64) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.watches[id] != nil || (id == backends.AllWatches && len(s.watches) > 0) {
		s.progress[id] = struct{}{}
		s.b.wake()
	}
}

// Close implements backends.WatchStream.
func (s *stream) Close() {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.closed = true
	s.watches, s.controls = nil, nil
	s.b.wake()
}

// Next implements backends.WatchStream.
func (s *stream) Next(ctx context.Context) (backends.WatchBatch, error) {
	for {
		if err := s.b.enter(ctx); err != nil {
			return backends.WatchBatch{}, err
		}
		if s.closed {
			s.b.mu.Unlock()
			return backends.WatchBatch{}, backends.ErrStopped
		}
		batch, ok, err := s.take()
		changed := s.b.changed
		s.b.mu.Unlock()
		if ok || err != nil {
			return batch, err
		}
		if err := s.wait(ctx, changed); err != nil {
			return backends.WatchBatch{}, err
		}
	}
}

// wait waits for a change of the store, without the mutex.
func (s *stream) wait(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// take is what Next yields now, if there is something: controls first, then
// events, and progress only when no watch has events left.
func (s *stream) take() (batch backends.WatchBatch, ok bool, err error) {
	if err := s.ctx.Err(); err != nil {
		return batch, false, err
	}
	for {
		if len(s.controls) > 0 {
			batch = s.controls[0]
			s.controls = s.controls[1:]
			if len(s.controls) == maxControls-1 {
				s.b.wake() // an Add may wait for room
			}
			return s.yield(batch), true, nil
		}
		w := s.furthestBehind()
		if w == nil {
			break
		}
		if w.next < s.b.logFirst {
			s.cancelCompacted(w)
			continue
		}
		if batch, ok, err = s.events(w); ok || err != nil {
			return s.yield(batch), ok, err
		}
	}
	if batch, ok = s.takeProgress(); ok {
		return s.yield(batch), true, nil
	}
	return batch, false, nil
}

// yield keeps header revisions from going back.
func (s *stream) yield(batch backends.WatchBatch) backends.WatchBatch {
	if batch.Header.Revision != 0 {
		s.yielded = max(s.yielded, batch.Header.Revision)
		batch.Header.Revision = s.yielded
	}
	return batch
}

// furthestBehind is the watch that has to read the oldest part of the log, nil
// when all have read it to the end.
func (s *stream) furthestBehind() *watch {
	var found *watch
	for _, w := range s.watches {
		if w.next <= s.b.revision && (found == nil ||
			cmp.Or(cmp.Compare(w.next, found.next), cmp.Compare(w.id, found.id)) < 0) {
			found = w
		}
	}
	return found
}

// events reads the log from w.next on: whole revisions up to batchBytes of the
// past, one revision of what came after the watch began. Without an event the
// watch has read the log to its end.
func (s *stream) events(w *watch) (batch backends.WatchBatch, ok bool, err error) {
	log := s.b.log
	var events []backends.Event
	size := 0
	for i := s.b.logIndex(w.next); i < len(log); {
		revision := log[i].revision()
		if len(events) > 0 && (revision > w.past || size >= batchBytes) {
			break
		}
		for ; i < len(log) && log[i].revision() == revision; i++ {
			if !w.wants(&log[i]) {
				continue
			}
			e, err := w.encode(&log[i])
			if err != nil {
				return batch, false, err
			}
			events = append(events, e)
			size += len(e)
		}
		w.next = revision + 1
	}
	if len(events) == 0 {
		w.next = s.b.revision + 1
		return batch, false, nil
	}
	header := w.next - 1
	if header <= w.past {
		header = s.b.revision
	}
	return backends.WatchBatch{
		Kind:   backends.WatchEvents,
		IDs:    []int64{w.id},
		Header: headerAt(header),
		Events: events,
	}, true, nil
}

func (w *watch) wants(e *event) bool {
	if (e.deleted && w.noDelete) || (!e.deleted && w.noPut) {
		return false
	}
	return contains(&w.keys, e.kv.Key)
}

func (w *watch) encode(e *event) (backends.Event, error) {
	m := &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: e.kv}
	if e.deleted {
		m.Type = mvccpb.Event_DELETE
	}
	if w.prevKV && e.prev != nil && e.revision() > w.compacted {
		m.PrevKv = e.prev.kv
	}
	frame := binary.AppendUvarint([]byte{eventTag}, uint64(proto.Size(m)))
	return proto.MarshalOptions{}.MarshalAppend(frame, m)
}

// takeProgress is called when every watch has read the log to its end.
func (s *stream) takeProgress() (backends.WatchBatch, bool) {
	batch := backends.WatchBatch{Kind: backends.WatchProgress, Header: s.b.header()}
	for _, id := range slices.Sorted(maps.Keys(s.progress)) {
		if id != backends.AllWatches && s.watches[id].start <= s.b.revision {
			batch.IDs = append(batch.IDs, id)
		}
	}
	if _, all := s.progress[backends.AllWatches]; all && len(batch.IDs) == 0 && s.begun() {
		batch.IDs = []int64{backends.AllWatches}
	}
	for _, id := range batch.IDs {
		delete(s.progress, id)
	}
	return batch, len(batch.IDs) > 0
}

// begun tells that no watch of the stream starts in the future, and that there
// is one: etcd does not mark progress of a stream without watches.
func (s *stream) begun() bool {
	for _, w := range s.watches {
		if w.start > s.b.revision {
			return false
		}
	}
	return len(s.watches) > 0
}
