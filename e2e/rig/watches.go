package rig

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

const (
	watchStreams    = 8
	watchesOfStream = 256
	// oldStart is one in how many watches begins in the past.
	oldStart = 4
	// progressEvery is after how many answers a stream asks for its progress.
	progressEvery = 50
)

// watches are a few thousand watches of single keys and prefixes, on a few
// streams, for one run of the server. What they get is kept, and compared with the
// history after it.
type watches struct {
	mu      sync.Mutex
	streams []*watchStream
}

// watchStream is one stream's watches. Only its goroutine uses it until it ends.
type watchStream struct {
	watches []watched
	// progress is the highest revision up to which the stream said that all its
	// watches have had everything.
	progress int64
}

// watched is one watch.
type watched struct {
	key, end string // half-open; end empty: one key
	start    int64  // 0 until it is known
	canceled bool   // its start was compacted
	got      []seenEvent
}

// seenEvent is what is kept of an event.
type seenEvent struct {
	revision int64
	kind     mvccpb.Event_EventType
	key      string
	value    uint64 // its length and first bytes, which hold the operation's number
}

func seenOf(e *mvccpb.Event) seenEvent {
	s := seenEvent{revision: e.Kv.ModRevision, kind: e.Type, key: string(e.Kv.Key), value: uint64(len(e.Kv.Value))}
	for _, b := range e.Kv.Value[:min(len(e.Kv.Value), shownValue)] {
		s.value = s.value*1099511628211 + uint64(b)
	}
	return s
}

// open makes a stream's watches: most of one key, the others of prefixes; some
// from a revision of the past on.
func newWatchStream(rng *rand.Rand, clients int, oldest, newest int64) *watchStream {
	s := &watchStream{}
	for range watchesOfStream {
		var w watched
		client := rng.IntN(clients)
		switch n := rng.IntN(100); {
		case n < 80:
			w.key = fmt.Sprintf("own/%02d/%03d", client, rng.IntN(ownKeys))
		case n < 85:
			w.key = fmt.Sprintf("guarded/%d", rng.IntN(guardedKeys))
		case n < 90:
			w.key = fmt.Sprintf("several/%02d/", client)
		case n < 95:
			w.key = fmt.Sprintf("own/%02d/", client)
		default:
			w.key = fmt.Sprintf("leased/client%d-", client)
		}
		if last := w.key[len(w.key)-1]; last == '/' || last == '-' {
			w.end = w.key[:len(w.key)-1] + string(last+1)
		}
		if rng.IntN(oldStart) == 0 && oldest <= newest {
			w.start = oldest + rng.Int64N(newest-oldest+1)
		}
		s.watches = append(s.watches, w)
	}
	return s
}

// run opens the watches and takes what they get, until the server is gone.
func (s *watchStream) run(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return GoneError{err}
	}
	for id, w := range s.watches {
		err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: []byte(w.key), RangeEnd: []byte(w.end), StartRevision: w.start, WatchId: int64(id) + 1,
		}}})
		if err != nil {
			return GoneError{err}
		}
	}
	for answers := 1; ; answers++ {
		resp, err := stream.Recv()
		if err != nil {
			return GoneError{err}
		}
		if err := s.take(resp); err != nil {
			return err
		}
		if answers%progressEvery == 0 && answers > len(s.watches) {
			if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}); err != nil {
				return GoneError{err}
			}
		}
	}
}

// take notes one answer.
func (s *watchStream) take(resp *pb.WatchResponse) error {
	if resp.WatchId == -1 {
		s.progress = max(s.progress, resp.Header.Revision)
		return nil
	}
	if resp.WatchId < 1 || resp.WatchId > int64(len(s.watches)) {
		return fmt.Errorf("answer for watch %d, which nobody made", resp.WatchId)
	}
	w := &s.watches[resp.WatchId-1]
	switch {
	case resp.Canceled && resp.CompactRevision > w.start && w.start > 0:
		w.canceled = true
	case resp.Canceled:
		return fmt.Errorf("watch of %q from revision %d was cancelled: %q, compacted %d", w.key, w.start, resp.CancelReason, resp.CompactRevision)
	case resp.Created && w.start == 0:
		w.start = resp.Header.Revision + 1
	}
	for _, e := range resp.Events {
		w.got = append(w.got, seenOf(e))
	}
	return nil
}

// add makes a stream part of the run.
func (w *watches) add(s *watchStream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams = append(w.streams, s)
}

// compare compares what every watch got with the history, once no stream runs and
// after a Verify, which knows the events since the compaction before the last
// one. It returns how many events were compared.
func (w *watches) compare(v *Verifier) (events int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v.rec.Lock()
	defer v.rec.Unlock()
	byKey := map[string][]seenEvent{}
	var all []seenEvent
	for _, r := range v.history {
		for _, e := range r.events {
			s := seenOf(e)
			byKey[s.key] = append(byKey[s.key], s)
			all = append(all, s)
		}
	}
	for _, s := range w.streams {
		for i := range s.watches {
			one := &s.watches[i]
			if one.start == 0 {
				continue // it was never told to be made
			}
			candidates := all
			if one.end == "" {
				candidates = byKey[one.key]
			}
			if err := one.compare(candidates, s.progress); err != nil {
				return events, err
			}
			events += len(one.got)
		}
	}
	return events, nil
}

// compare tells how what the watch got differs from its part of events: it must
// be a beginning, which reaches at least up to progress.
func (w *watched) compare(events []seenEvent, progress int64) error {
	name := fmt.Sprintf("watch of [%q, %q) from revision %d on", w.key, w.end, w.start)
	n := 0
	for _, e := range events {
		if e.revision < w.start || w.end != "" && (e.key < w.key || e.key >= w.end) {
			continue
		}
		if n == len(w.got) {
			if e.revision <= progress && !w.canceled {
				return fmt.Errorf("%s was told that it has everything up to %d, and did not get %v", name, progress, e)
			}
			return nil
		}
		if w.got[n] != e {
			return fmt.Errorf("%s got %v where the history has %v", name, w.got[n], e)
		}
		n++
	}
	if n < len(w.got) {
		return fmt.Errorf("%s got %v, which never happened", name, w.got[n])
	}
	return nil
}
