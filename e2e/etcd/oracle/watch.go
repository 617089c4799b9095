package oracle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// sentinelID is the watch by which a stream of the future is waited for.
	sentinelID = 1 << 40
	// sentinelKey is the key that it watches, the stream's number added: above those of scripts.
	sentinelKey = "\xff\xfforacle/"
	// askAgain is after which time progress is asked for again: etcd forgets a
	// request that came while a watch was catching up, which it does each 100 ms.
	askAgain = 10 * time.Millisecond
	// maxUnread bounds what is kept of a stream between two steps, in messages; a
	// stream beyond it waits.
	maxUnread = 4096
)

var (
	errStreamEnded = errors.New("the watch stream has ended")
	errNotCaughtUp = errors.New("a watch stream did not catch up")
)

// stream is one Watch RPC.
type stream struct {
	number int
	cancel context.CancelFunc
	client pb.Watch_WatchClient
	// messages are what came; it is closed when the stream ends, err being why.
	messages chan *pb.WatchResponse
	err      error

	// live are the watches that the server has told of and not cancelled; dead
	// are those that it cancelled by itself, whose ids it keeps.
	live, dead map[int64]bool
	newest     int64 // the id of the one that was created last
	// got is what came since it was collected.
	got []*pb.WatchResponse
	// mark is the revision of the newest event of the sentinel; unsettled tells that
	// it could not be put after the newest step that may have written.
	mark      int64
	unsettled bool
	// created, cancelled and progressed count the messages of their kind that came, asked
	// the progress that was asked for.
	created, cancelled, progressed, asked int
	// progress is the newest answer to a request for it.
	progress *pb.WatchResponse
	// notifies are the watches that are told of progress from time to time, with the
	// newest that each was told.
	notifies map[int64]*pb.WatchResponse
}

// watch sends a request on a stream, opening it if need be, and waits for its
// answer if it has one.
func (s *Side) watch(step Step) (Answer, error) {
	request, ok := s.known.toServer(step.Requests[0]).(*pb.WatchRequest)
	if !ok {
		return Answer{}, fmt.Errorf("watch takes a watch request, not a %T", step.Requests[0])
	}
	w, err := s.open(step)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Calls: 1}
	created, cancelled, progressed := w.created, w.cancelled, w.progressed
	if request.GetProgressRequest() != nil {
		w.asked++
	}
	if err := w.client.Send(request); err != nil {
		return a, err
	}
	switch u := request.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		if u.CreateRequest == nil {
			break
		}
		err = s.until(w, func() bool { return w.created > created })
		a.Refused = w.refused()
		if u.CreateRequest.ProgressNotify && err == nil && !a.Refused {
			w.notifies[w.newest] = nil
		}
	case *pb.WatchRequest_CancelRequest:
		if u.CancelRequest != nil && (w.live[u.CancelRequest.WatchId] || w.dead[u.CancelRequest.WatchId]) {
			err = s.until(w, func() bool { return w.cancelled > cancelled })
		}
	case *pb.WatchRequest_ProgressRequest:
		// Every watch has caught up, so there is one answer, unless there is nobody
		// to answer for or a watch begins in the future.
		if len(w.live) > 0 && w.number < streamOfFuture {
			// One that was asked for earlier, and again, may tell an earlier revision.
			goal := s.known.revision
			if err = s.until(w, func() bool { return w.progressed > progressed && w.toldOf(goal) }); err == nil {
				s.receive("Watch.Watch", w.progress)
				w.got = append(w.got, w.progress)
			}
		}
	}
	return a, err
}

// notify waits until a watch that asked for it is told the present revision by the
// clock, which is compared. Without such a watch there is nothing to wait for.
func (s *Side) notify(step Step) (Answer, error) {
	w := s.streams[step.Stream]
	if w == nil || len(w.notifies) == 0 {
		return Answer{}, nil
	}
	id := slices.Min(slices.Collect(maps.Keys(w.notifies)))
	w.notifies[id] = nil
	goal := s.known.revision
	err := s.until(w, func() bool { return w.notifies[id] != nil && w.notifies[id].Header.GetRevision() >= goal })
	if err == nil {
		w.got = append(w.got, w.notifies[id])
	}
	return Answer{}, err
}

// refused tells whether the newest answer to a creation is a refusal.
func (w *stream) refused() bool {
	for i := len(w.got) - 1; i >= 0; i-- {
		if w.got[i].Created {
			return w.got[i].Canceled
		}
	}
	return false
}

// open returns a stream, which it opens the first time. One of the future begins
// with the watch of its sentinel.
func (s *Side) open(step Step) (*stream, error) {
	if w := s.streams[step.Stream]; w != nil {
		return w, nil
	}
	ctx, cancel := context.WithCancel(s.as(context.Background(), step.As))
	client, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	w := &stream{
		number: step.Stream, cancel: cancel, client: client, messages: make(chan *pb.WatchResponse, maxUnread),
		live: map[int64]bool{}, dead: map[int64]bool{}, notifies: map[int64]*pb.WatchResponse{},
	}
	go w.read(s.receive)
	s.streams[step.Stream] = w
	if step.Stream < streamOfFuture {
		return w, nil
	}
	create := &pb.WatchCreateRequest{Key: w.sentinel(), WatchId: sentinelID}
	if err := client.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return nil, err
	}
	return w, s.until(w, func() bool { return w.live[sentinelID] })
}

func (w *stream) sentinel() []byte { return fmt.Appendf(nil, "%s%d", sentinelKey, w.number) }

// read passes on what comes until the stream ends; receive sees all but what the
// harness asked for itself.
func (w *stream) read(receive func(string, proto.Message)) {
	defer close(w.messages)
	for {
		m, err := w.client.Recv()
		if err != nil {
			w.err = err
			return
		}
		if m.WatchId != sentinelID && (m.Created || m.Canceled || len(m.Events) > 0) {
			receive("Watch.Watch", m)
		}
		w.messages <- m
	}
}

// until takes messages until done.
func (s *Side) until(w *stream, done func() bool) error {
	deadline := time.NewTimer(s.patience)
	defer deadline.Stop()
	for !done() {
		select {
		case m, ok := <-w.messages:
			if !ok {
				return fmt.Errorf("%w: %s", errStreamEnded, status.Convert(w.err).Message())
			}
			s.take(w, m)
		case <-deadline.C:
			return fmt.Errorf("stream %d: %w, or did not answer, within %v", w.number, errNotCaughtUp, s.patience)
		}
	}
	return nil
}

// take notes one message.
func (s *Side) take(w *stream, m *pb.WatchResponse) {
	s.seen(m.Header)
	switch {
	case m.Created:
		w.created++
		if !m.Canceled {
			w.live[m.WatchId], w.newest = true, m.WatchId
			if m.WatchId == sentinelID {
				return
			}
		}
	case m.Canceled:
		w.cancelled++
		delete(w.dead, m.WatchId)
		if m.CompactRevision != 0 {
			w.dead[m.WatchId] = true
		}
		delete(w.live, m.WatchId)
		delete(w.notifies, m.WatchId)
	case len(m.Events) == 0 && m.WatchId == -1:
		w.progressed++
		w.progress = m
		if w.progressed <= w.asked {
			return // it may have been asked for again: see watch
		}
	case len(m.Events) == 0:
		if _, asked := w.notifies[m.WatchId]; asked {
			w.notifies[m.WatchId] = m
			return // it comes by the clock: see notify
		}
	}
	events := slices.DeleteFunc(m.Events, func(e *mvccpb.Event) bool { return w.own(e) })
	if len(events) == 0 && len(m.Events) > 0 {
		return
	}
	m.Events = events
	w.got = append(w.got, m)
}

// own tells whether an event is of a sentinel, and notes this stream's.
func (w *stream) own(e *mvccpb.Event) bool {
	if !bytes.HasPrefix(e.Kv.GetKey(), []byte(sentinelKey)) {
		return false
	}
	if bytes.Equal(e.Kv.Key, w.sentinel()) {
		w.mark = max(w.mark, e.Kv.ModRevision)
	}
	return true
}

// settle waits until all streams have yielded what there is.
func (s *Side) settle() error {
	for _, n := range s.numbers() {
		w := s.streams[n]
		var err error
		if n < streamOfFuture {
			err = s.settlePast(w)
		} else {
			err = s.settleFuture(w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Side) numbers() []int {
	var out []int
	for n := range s.streams {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// settlePast asks for progress until it is told, at the newest revision. A watch that
// the server ended is cancelled, as etcd tells no progress while it is there.
func (s *Side) settlePast(w *stream) error {
	deadline := time.Now().Add(s.patience)
	goal := s.known.revision
	begun := w.progressed
	for {
		for id := range w.dead {
			if err := s.bury(w, id); err != nil {
				return err
			}
		}
		if len(w.live) == 0 || w.progressed > begun && w.toldOf(goal) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("stream %d: %w within %v: at %v of revision %d", w.number, errNotCaughtUp, s.patience, w.progress, goal)
		}
		progress := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		w.asked++
		if err := w.client.Send(progress); err != nil {
			return err
		}
		again := time.NewTimer(askAgain)
		for waiting := true; waiting; {
			select {
			case m, ok := <-w.messages:
				if !ok {
					again.Stop()
					return fmt.Errorf("%w: %s", errStreamEnded, status.Convert(w.err).Message())
				}
				s.take(w, m)
				waiting = (w.progressed == begun || !w.toldOf(goal)) && len(w.dead) == 0
			case <-again.C:
				waiting = false
			}
		}
		again.Stop()
	}
}

// toldOf tells whether the newest progress is at a revision, or after it.
func (w *stream) toldOf(revision int64) bool { return w.progress.GetHeader().GetRevision() >= revision }

// bury cancels a watch that the server has ended.
func (s *Side) bury(w *stream, id int64) error {
	cancel := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
	if err := w.client.Send(cancel); err != nil {
		return err
	}
	return s.until(w, func() bool { return !w.dead[id] })
}

// settleFuture puts the sentinel's key and waits for its event: those of revisions
// before it came before. While an alarm refuses puts nothing is waited for, and what comes
// belongs to a later step: see collect.
func (s *Side) settleFuture(w *stream) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	put, err := pb.NewKVClient(s.conn).Put(ctx, &pb.PutRequest{Key: w.sentinel()})
	if code := status.Code(err); code == codes.ResourceExhausted || code == codes.DataLoss {
		w.unsettled = true // an alarm is on
		return nil
	}
	if err != nil {
		return err
	}
	w.unsettled = false
	s.seen(put.Header)
	return s.until(w, func() bool { return w.mark >= put.Header.Revision })
}

// collect returns what the streams have yielded.
func (s *Side) collect() []watched {
	var out []watched
	for _, n := range s.numbers() {
		w := s.streams[n]
		if w.unsettled {
			continue
		}
		slices.SortStableFunc(w.got, func(a, b *pb.WatchResponse) int { return int(a.WatchId - b.WatchId) })
		for _, m := range w.got {
			if m, ok := s.known.fromServer(m).(*pb.WatchResponse); ok {
				out = append(out, watched{n, m})
			}
		}
		w.got = nil
	}
	return out
}
