package conformance

import (
	"context"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// watchStream is one Watch stream of a case. Its receive methods end the case if
// nothing comes before the case's time-out, or if the stream ends.
type watchStream struct {
	c      *C
	stream pb.Watch_WatchClient
	cancel context.CancelFunc
}

// watchOn opens a stream; ctx may carry metadata.
func (c *C) watchOn(ctx context.Context) *watchStream {
	c.Helper()
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.Watch.Watch(ctx)
	if err != nil {
		cancel()
		c.Fatalf("open a watch stream: %v", err)
	}
	c.Cleanup(cancel)
	return &watchStream{c: c, stream: stream, cancel: cancel}
}

// open opens a stream.
func (c *C) open() *watchStream {
	c.Helper()
	return c.watchOn(c.Ctx)
}

func (w *watchStream) send(r *pb.WatchRequest) {
	w.c.Helper()
	if err := w.stream.Send(r); err != nil {
		w.c.Fatalf("send %s: %v", text(r), err)
	}
}

func (w *watchStream) sendCreate(r *pb.WatchCreateRequest) {
	w.c.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

func (w *watchStream) sendCancel(id int64) {
	w.c.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (w *watchStream) sendProgress() {
	w.c.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// recv returns the next answer.
func (w *watchStream) recv() *pb.WatchResponse {
	w.c.Helper()
	r, err := w.stream.Recv()
	if err != nil {
		w.c.Fatalf("receive from a watch stream: %v", err)
	}
	if h := r.Header; h == nil || h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 {
		w.c.Errorf("header lacks something: %s", text(r))
	}
	return r
}

// create makes a watch and returns its created answer, which must be the next one.
func (w *watchStream) create(r *pb.WatchCreateRequest) *pb.WatchResponse {
	w.c.Helper()
	w.sendCreate(r)
	got := w.recv()
	if !got.Created || got.Canceled || len(got.Events) != 0 {
		w.c.Fatalf("got %s, want the watch created", text(got))
	}
	if got.Header.Revision <= 0 {
		w.c.Errorf("header revision of a created watch: %d", got.Header.Revision)
	}
	return got
}

// watchKeys makes a watch on all keys of the case.
func (w *watchStream) watchKeys(r *pb.WatchCreateRequest) *pb.WatchResponse {
	w.c.Helper()
	r.Key, r.RangeEnd = w.c.key(""), w.c.end("")
	return w.create(r)
}

// events receives until n events of watch id came, and requires that nothing else comes,
// that revisions ascend, and that a revision is never split over answers.
func (w *watchStream) events(id int64, n int) []*mvccpb.Event {
	w.c.Helper()
	var events []*mvccpb.Event
	var last int64
	for len(events) < n {
		r := w.recv()
		if r.WatchId != id || r.Created || r.Canceled || r.Fragment || len(r.Events) == 0 {
			w.c.Fatalf("got %s, want events of watch %d (%d of %d came)", text(r), id, len(events), n)
		}
		if first := r.Events[0].Kv.ModRevision; first <= last {
			w.c.Fatalf("revision %d came again or late, after %d", first, last)
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision < last {
				w.c.Fatalf("revision %d after %d", e.Kv.ModRevision, last)
			}
			last = e.Kv.ModRevision
		}
		if r.Header.Revision < last {
			w.c.Errorf("header revision %d below the event's %d", r.Header.Revision, last)
		}
		events = append(events, r.Events...)
	}
	if len(events) > n {
		w.c.Fatalf("got %d events, want %d: %s", len(events), n, w.c.story(events))
	}
	return events
}

// wantEvents receives as many events of watch id as story tells, and compares.
func (w *watchStream) wantEvents(id int64, story string) []*mvccpb.Event {
	w.c.Helper()
	events := w.events(id, len(strings.Fields(story)))
	equal(w.c, fmt.Sprintf("events of watch %d", id), w.c.story(events), story)
	return events
}

// story writes events as "a=1 -a b=2": a put to 1, a deleted, b put to 2.
func (c *C) story(events []*mvccpb.Event) string {
	var words []string
	for _, e := range events {
		key := strings.TrimPrefix(string(e.Kv.Key), c.prefix)
		if e.Type == mvccpb.Event_DELETE {
			words = append(words, "-"+key)
		} else {
			words = append(words, key+"="+string(e.Kv.Value))
		}
	}
	return strings.Join(words, " ")
}
