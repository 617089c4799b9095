package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// sentinelWatch is always there, so that progress is always answered.
const sentinelWatch = 1000

// watchRun is the watch stream of one server. What it yields is kept as texts by
// watch, without how it was cut into messages.
type watchRun struct {
	stream   grpc.ClientStream
	cancel   context.CancelFunc
	messages chan *pb.WatchResponse
	ended    chan error
	texts    map[int64][]string
	// progress is the revision of the last mark for all watches.
	progress int64
	header   int64
}

// openWatches opens the streams at the first watch request of an input.
func (r *requestRun) openWatches() {
	for i, conn := range r.conns {
		ctx, cancel := context.WithCancel(r.t.Context())
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/etcdserverpb.Watch/Watch")
		if err != nil {
			r.t.Fatal(err)
		}
		w := &watchRun{stream: s, cancel: cancel, messages: make(chan *pb.WatchResponse, 1024), ended: make(chan error, 1), texts: map[int64][]string{}}
		r.watches[i] = w
		go w.receive()
	}
	r.create(&pb.WatchCreateRequest{WatchId: sentinelWatch, Key: []byte("sentinel")})
}

func (w *watchRun) receive() {
	for {
		var raw []byte
		if err := w.stream.RecvMsg(&raw); err != nil {
			w.ended <- err
			return
		}
		m := new(pb.WatchResponse)
		if err := proto.Unmarshal(raw, m); err != nil {
			w.ended <- err
			return
		}
		w.messages <- m
	}
}

func (r *requestRun) closeWatches() {
	for _, w := range r.watches {
		w.cancel()
		for ended := false; !ended; {
			select {
			case <-w.messages:
			case <-w.ended:
				ended = true
			}
		}
	}
}

// send sends one request to one server.
func (r *requestRun) send(w *watchRun, m *pb.WatchRequest) {
	b, err := proto.Marshal(m)
	if err == nil {
		err = w.stream.SendMsg(&b)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		r.t.Fatal(err)
	}
}

// next takes the next message in.
func (r *requestRun) next(w *watchRun) *pb.WatchResponse {
	r.t.Helper()
	select {
	case m := <-w.messages:
		r.take(w, m)
		return m
	case err := <-w.ended:
		r.t.Fatalf("the watch stream ended: %v", err)
	case <-time.After(answerTimeout):
		r.t.Fatalf("no answer on the watch stream; so far %v", w.texts)
	}
	return nil
}

func (r *requestRun) take(w *watchRun, m *pb.WatchResponse) {
	revision := m.Header.GetRevision()
	if revision != 0 && revision < w.header {
		r.t.Fatalf("the header's revision went back from %d to %d: %v", w.header, revision, m)
	}
	w.header = max(w.header, revision)
	add := func(format string, args ...any) {
		w.texts[m.WatchId] = append(w.texts[m.WatchId], fmt.Sprintf(format, args...))
	}
	switch {
	case m.Created && m.Canceled:
		add("refused %q", m.CancelReason)
	case m.Created:
		add("created @%d", revision)
	case m.Canceled:
		add("canceled %q, compacted %d", m.CancelReason, m.CompactRevision)
	case len(m.Events) > 0:
		for _, e := range m.Events {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
			if err != nil {
				r.t.Fatal(err)
			}
			add("event %x", b)
		}
	case m.WatchId == -1:
		w.progress = revision
	}
}

// watchStep does one thing with the watch streams.
func (r *requestRun) watchStep() {
	raw := r.payload(new(pb.WatchRequest))
	m := new(pb.WatchRequest)
	if proto.Unmarshal(raw, m) != nil {
		r.brokenWatch(raw)
		return
	}
	if r.watches[0] == nil {
		r.openWatches()
	}
	switch {
	case m.GetCreateRequest() != nil:
		r.create(m.GetCreateRequest())
	case m.GetCancelRequest() != nil:
		r.cancel(m.GetCancelRequest().WatchId)
	case m.GetProgressRequest() != nil:
		r.barrier()
	default: // ignored
		for _, w := range r.watches {
			r.send(w, m)
		}
	}
}

// create opens a watch on both, and waits until it is answered.
func (r *requestRun) create(c *pb.WatchCreateRequest) {
	if len(r.starts) > 0 && c.WatchId == sentinelWatch {
		c.WatchId = 7
	}
	var ids [2]int64
	for i, w := range r.watches {
		r.send(w, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: c}})
		m := r.next(w)
		for !m.Created {
			m = r.next(w)
		}
		if ids[i] = m.WatchId; m.Canceled {
			ids[i] = -1
		}
	}
	if ids[0] != ids[1] {
		r.t.Fatalf("create %v: memory %d, raftbolt %d", c, ids[0], ids[1])
	}
	if ids[0] >= 0 {
		r.starts[ids[0]] = c.StartRevision
	}
}

// cancel ends a watch on both, after what it is owed.
func (r *requestRun) cancel(id int64) {
	r.barrier()
	if id == sentinelWatch {
		return
	}
	_, known := r.starts[id]
	delete(r.starts, id)
	for _, w := range r.watches {
		r.send(w, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
		for known {
			if m := r.next(w); m.Canceled && m.WatchId == id {
				break
			}
		}
	}
}

// barrier waits until both streams have yielded everything up to the present, and
// compares. No progress is told while a watch starts in the future, so that comes first.
func (r *requestRun) barrier() {
	r.t.Helper()
	const nearRevisions = 40
	for _, id := range slices.Sorted(maps.Keys(r.starts)) {
		if r.starts[id] > r.revision+nearRevisions {
			delete(r.starts, id)
			for _, w := range r.watches {
				r.send(w, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
				for m := r.next(w); !m.Canceled || m.WatchId != id; {
					m = r.next(w)
				}
			}
			continue
		}
		for r.starts[id] > r.revision {
			r.mustBoth("KV/Put", &pb.PutRequest{Key: []byte("sentinel")}, &pb.PutResponse{})
		}
	}
	for _, w := range r.watches {
		for w.progress < r.revision {
			r.send(w, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
			for m := r.next(w); m.WatchId != -1 || m.Created; {
				m = r.next(w)
			}
		}
	}
	r.compareWatches()
}

// compareWatches waits until the texts are equal: that a watch was cancelled for a
// compaction may be told later than the progress of the others.
func (r *requestRun) compareWatches() {
	r.t.Helper()
	timeout := time.After(answerTimeout)
	for {
		a, b := r.watches[0], r.watches[1]
		if maps.EqualFunc(a.texts, b.texts, slices.Equal[[]string]) {
			return
		}
		select {
		case m := <-a.messages:
			r.take(a, m)
		case m := <-b.messages:
			r.take(b, m)
		case <-timeout:
			for _, id := range slices.Sorted(maps.Keys(a.texts)) {
				r.t.Errorf("watch %d at %d:\nmemory   %s\nraftbolt %s", id, r.base, strings.Join(a.texts[id], ", "), strings.Join(b.texts[id], ", "))
			}
			r.t.FailNow()
		}
	}
}

// brokenWatch sends what is no request on a stream of its own, which must end.
func (r *requestRun) brokenWatch(raw []byte) {
	var texts [2]string
	for i, conn := range r.conns {
		ctx, cancel := context.WithTimeout(r.t.Context(), answerTimeout)
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/etcdserverpb.Watch/Watch")
		if err == nil {
			err = s.SendMsg(&raw)
		}
		if err == nil || errors.Is(err, io.EOF) {
			var out []byte
			err = s.RecvMsg(&out)
		}
		cancel()
		texts[i] = fmt.Sprintf("%v: %s", status.Code(err), status.Convert(err).Message())
		if err == nil || texts[0] != texts[i] {
			r.t.Fatalf("a watch request of %x: memory %s, now %s", raw, texts[0], texts[i])
		}
	}
}
