package conformance

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// watchCases are the cases of Watch. Malformed watches are in badinput.go.
func watchCases() []Case {
	covers := func(fields ...string) []string {
		for i := range fields {
			fields[i] = "WatchCreateRequest." + fields[i]
		}
		return fields
	}
	cases := []Case{
		{Name: "watch/key", Covers: append(covers("key"), "WatchRequest.create_request"), Run: watchKey},
		{Name: "watch/range-end", Covers: covers("range_end"), Run: watchRange},
		{Name: "watch/event-contents", Run: watchContents},
		{Name: "watch/start-now", Run: watchNow},
		{Name: "watch/start-in-the-past", Covers: covers("start_revision"), Run: watchPast},
		{Name: "watch/start-in-the-future", Run: watchFuture},
		{Name: "watch/start-at-compacted-revision", Run: watchAtCompaction},
		{Name: "watch/delete-at-compacted-revision", Run: watchDeleteAtCompaction},
		{Name: "watch/prev-kv", Covers: covers("prev_kv"), Run: watchPrev},
		{Name: "watch/prev-kv-of-the-past", Run: watchPrevPast},
		{Name: "watch/prev-kv-at-compacted-revision", Run: watchPrevAtCompaction},
		{Name: "watch/filters", Covers: covers("filters"), Run: watchFilters},
		{Name: "watch/chosen-id", Covers: covers("watch_id"), Run: watchChosenID},
		{Name: "watch/server-ids", Run: watchServerIDs},
		{Name: "watch/many-on-one-stream", Run: watchMany},
		{Name: "watch/one-revision-in-one-answer", Run: watchAtomic},
		{Name: "watch/fragment", Covers: covers("fragment"), Run: watchFragment},
		{Name: "watch/no-fragment", Run: watchNoFragment},
		{Name: "watch/cancel", Covers: []string{"WatchRequest.cancel_request", "WatchCancelRequest.watch_id"}, Run: watchCancel},
		{Name: "watch/id-free-after-cancel", Run: watchReuseID},
		{Name: "watch/progress-request", Covers: []string{"WatchRequest.progress_request"}, Run: watchProgress},
		{Name: "watch/progress-request-waits-for-future-watch", Run: watchProgressFuture},
		{Name: "watch/progress-request-after-events", Run: watchProgressAfterEvents},
		{Name: "watch/progress-notify", Condition: QuickProgress, Slow: true, Covers: covers("progress_notify"), Run: watchProgressNotify},
		{Name: "watch/catch-up-without-gap-or-duplicate", Run: watchCatchUp},
		{Name: "watch/long-history", Run: watchLongHistory},
		{Name: "watch/header-revisions-never-go-back", Run: watchHeaders},
		{Name: "watch/streams-are-separate", Run: watchStreams},
	}
	for i := range cases {
		cases[i].RPC = "Watch.Watch"
	}
	return cases
}

func watchKey(c *C) {
	w := c.open()
	id := w.create(&pb.WatchCreateRequest{Key: c.key("b")}).WatchId
	for _, k := range []string{"a", "b", "ba", "b", "c"} {
		c.put(k, k)
	}
	c.del("a")
	c.del("b")
	w.wantEvents(id, "b=b b=b -b")
}

func watchRange(c *C) {
	w := c.open()
	w.create(&pb.WatchCreateRequest{Key: c.key("b"), RangeEnd: c.key("d"), WatchId: 1})
	for _, k := range []string{"a", "b", "bx", "c", "d", "e"} {
		c.put(k, "1")
	}
	w.wantEvents(1, "b=1 bx=1 c=1")
	w.create(&pb.WatchCreateRequest{Key: c.key("x"), RangeEnd: []byte{0}, WatchId: 2})
	for _, k := range []string{"a", "x", "y"} {
		c.put(k, "2")
	}
	c.del("e")
	c.del("y")
	w.wantEvents(2, "x=2 y=2 -y")
	w.create(&pb.WatchCreateRequest{Key: c.key("c"), RangeEnd: c.end("c"), WatchId: 3, StartRevision: 1 + c.revision()})
	c.put("cz", "3")
	w2, w1 := w.recv(), w.recv()
	if w2.WatchId > w1.WatchId {
		w1, w2 = w2, w1
	}
	equal(c, "ids of the watches on cz", fmt.Sprint(w2.WatchId, w1.WatchId), "1 3")
}

func watchContents(c *C) {
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	c.put("a", "1")
	p := c.put("a", "2")
	kv := c.get("a").Kvs[0]
	d := c.del("a")
	events := w.events(id, 3)
	equalProto(c, "put", events[1], &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv})
	equal(c, "mod revision of the put", events[1].Kv.ModRevision, p.Header.Revision)
	equalProto(c, "delete", events[2], &mvccpb.Event{Type: mvccpb.Event_DELETE,
		Kv: &mvccpb.KeyValue{Key: c.key("a"), ModRevision: d.Header.Revision}})
}

func watchNow(c *C) {
	c.put("a", "before")
	w := c.open()
	created := w.watchKeys(&pb.WatchCreateRequest{})
	equal(c, "header revision", created.Header.Revision, c.revision())
	c.put("a", "after")
	w.wantEvents(created.WatchId, "a=after")
}

func watchPast(c *C) {
	c.put("a", "0")
	from := c.put("a", "1").Header.Revision
	c.put("b", "2")
	c.del("a")
	c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(c.key("c"), "3"), opPut(c.key("d"), "3")}})
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{StartRevision: from}).WatchId
	events := w.wantEvents(id, "a=1 b=2 -a c=3 d=3")
	equal(c, "revision of the first", events[0].Kv.ModRevision, from)
	equal(c, "revision of the last", events[4].Kv.ModRevision, from+3)
	c.put("e", "4")
	w.wantEvents(id, "e=4")
}

func watchFuture(c *C) {
	now := c.revision()
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{StartRevision: now + 3}).WatchId
	for i := 1; i <= 4; i++ {
		c.put("a", fmt.Sprint(i))
	}
	events := w.wantEvents(id, "a=3 a=4")
	equal(c, "revision of the first", events[0].Kv.ModRevision, now+3)
}

func watchAtCompaction(c *C) {
	c.put("a", "1")
	rev := c.put("a", "2").Header.Revision
	c.put("a", "3")
	c.compact(rev, false)
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{StartRevision: rev}).WatchId
	w.wantEvents(id, "a=2 a=3")
}

func watchDeleteAtCompaction(c *C) {
	c.put("a", "1")
	c.put("b", "1")
	rev := c.del("a").Header.Revision
	c.compact(rev, true)
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{StartRevision: rev}).WatchId
	c.put("c", "1")
	w.wantEvents(id, "-a c=1")
}

func watchPrev(c *C) {
	with, without := c.open(), c.open()
	id := with.watchKeys(&pb.WatchCreateRequest{PrevKv: true}).WatchId
	other := without.watchKeys(&pb.WatchCreateRequest{}).WatchId
	c.put("a", "1")
	first := c.get("a").Kvs[0]
	c.put("a", "2")
	second := c.get("a").Kvs[0]
	c.del("a")
	c.put("a", "3")
	events := with.events(id, 4)
	for i, want := range []*mvccpb.KeyValue{nil, first, second, nil} {
		if want == nil {
			if events[i].PrevKv != nil {
				c.Errorf("event %d, a create, has prev_kv %s", i, text(events[i].PrevKv))
			}
			continue
		}
		equalProto(c, fmt.Sprintf("prev_kv of event %d", i), events[i].PrevKv, want)
	}
	for i, e := range without.events(other, 4) {
		if e.PrevKv != nil {
			c.Errorf("event %d has a prev_kv that was not asked for", i)
		}
	}
}

func watchPrevPast(c *C) {
	c.put("a", "1")
	first := c.get("a").Kvs[0]
	from := c.put("a", "2").Header.Revision
	second := c.get("a").Kvs[0]
	c.del("a")
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{PrevKv: true, StartRevision: from}).WatchId
	events := w.events(id, 2)
	equalProto(c, "prev_kv of the put", events[0].PrevKv, first)
	equalProto(c, "prev_kv of the delete", events[1].PrevKv, second)
}

// watchPrevAtCompaction: the record before an event at the compacted revision is
// compacted, also where an earlier watch was given it.
func watchPrevAtCompaction(c *C) {
	w := c.open()
	early := w.watchKeys(&pb.WatchCreateRequest{PrevKv: true}).WatchId
	c.put("a", "1")
	rev := c.put("a", "2").Header.Revision
	second := c.get("a").Kvs[0]
	c.put("a", "3")
	if events := w.events(early, 3); events[1].PrevKv == nil {
		c.Errorf("no prev_kv before the compaction")
	}
	c.compact(rev, false)
	again := c.open()
	id := again.watchKeys(&pb.WatchCreateRequest{PrevKv: true, StartRevision: rev}).WatchId
	events := again.events(id, 2)
	if events[0].PrevKv != nil {
		c.Errorf("the event at the compacted revision has prev_kv %s", text(events[0].PrevKv))
	}
	equalProto(c, "prev_kv of the event after it", events[1].PrevKv, second)
}

func watchFilters(c *C) {
	from := c.revision() + 1
	w := c.open()
	type filters = []pb.WatchCreateRequest_FilterType
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 1, Filters: filters{pb.WatchCreateRequest_NOPUT}})
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 2, Filters: filters{pb.WatchCreateRequest_NODELETE}})
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 3, Filters: filters{pb.WatchCreateRequest_NODELETE, pb.WatchCreateRequest_NOPUT}})
	c.put("a", "1")
	c.del("a")
	equal(c, "what came first", w.recv().WatchId, 2)
	r := w.recv()
	equal(c, "what came then", fmt.Sprint(r.WatchId, " ", c.story(r.Events)), "1 -a")
	c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(c.key("b"), "1"), opDelete(c.key("b"), nil)}[:1]})
	equal(c, "after a put", w.recv().WatchId, 2)
	// The filters hold for history too.
	past := c.open()
	past.watchKeys(&pb.WatchCreateRequest{WatchId: 4, StartRevision: from, Filters: filters{pb.WatchCreateRequest_NOPUT}})
	past.wantEvents(4, "-a")
}

func watchChosenID(c *C) {
	w := c.open()
	equal(c, "id", w.watchKeys(&pb.WatchCreateRequest{WatchId: 77}).WatchId, 77)
	equal(c, "id", w.watchKeys(&pb.WatchCreateRequest{WatchId: 1 << 40}).WatchId, 1<<40)
	c.put("a", "1")
	equal(c, "sum of the ids that see the put", w.recv().WatchId+w.recv().WatchId, 77+1<<40)
}

func watchServerIDs(c *C) {
	w := c.open()
	var ids []string
	for _, chosen := range []int64{0, 2, 0, 0, 0} {
		ids = append(ids, fmt.Sprint(w.watchKeys(&pb.WatchCreateRequest{WatchId: chosen}).WatchId))
	}
	equal(c, "ids", strings.Join(ids, " "), "0 2 1 3 4")
}

func watchMany(c *C) {
	const watches = 200
	w := c.open()
	for i := range watches {
		w.create(&pb.WatchCreateRequest{Key: c.key(fmt.Sprintf("%03d", i)), WatchId: int64(i + 1)})
	}
	for i := watches - 1; i >= 0; i-- {
		c.put(fmt.Sprintf("%03d", i), "v")
		w.wantEvents(int64(i+1), fmt.Sprintf("%03d=v", i))
	}
}

func watchAtomic(c *C) {
	from := c.revision() + 1
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	for range 3 {
		t := &pb.TxnRequest{}
		for i := range 50 {
			t.Success = append(t.Success, opPut(c.key(fmt.Sprintf("%02d", 49-i)), "v"))
		}
		rev := c.txn(t).Header.Revision
		r := w.recv()
		equal(c, "events in the answer", len(r.Events), 50)
		for i, e := range r.Events {
			equal(c, "revision", e.Kv.ModRevision, rev)
			// Events of one revision come in the order of the operations.
			equal(c, "key", string(e.Kv.Key), string(c.key(fmt.Sprintf("%02d", 49-i))))
		}
	}
	past := c.open()
	pastID := past.watchKeys(&pb.WatchCreateRequest{StartRevision: from}).WatchId
	past.events(pastID, 150) // checks that no revision is split
	c.put("last", "v")
	w.wantEvents(id, "last=v")
}

// bigDelete puts four keys of 1 MiB and returns a request that deletes them in one revision,
// whose events with prev_kv exceed the message limit.
func bigDelete(c *C) *pb.DeleteRangeRequest {
	value := strings.Repeat("v", 1<<20)
	for _, k := range []string{"a", "b", "c", "d"} {
		c.put(k, value)
	}
	return &pb.DeleteRangeRequest{Key: c.key(""), RangeEnd: c.end("")}
}

func watchFragment(c *C) {
	d := bigDelete(c)
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{PrevKv: true, Fragment: true}).WatchId
	r, err := c.KV.DeleteRange(c.Ctx, d)
	c.must(err, "delete")
	keys, answers := "", 0
	for {
		got := w.recv()
		answers++
		equal(c, "watch id", got.WatchId, id)
		equal(c, "header revision", got.Header.Revision, r.Header.Revision)
		if size := proto.Size(got); size > 3<<19 {
			c.Errorf("a fragment has %d bytes, more than the request limit of %d", size, 3<<19)
		}
		for _, e := range got.Events {
			keys += strings.TrimPrefix(string(e.Kv.Key), c.prefix)
			equal(c, "size of the previous value", len(e.GetPrevKv().GetValue()), 1<<20)
		}
		if !got.Fragment {
			break
		}
	}
	equal(c, "keys", keys, "abcd")
	if answers < 3 {
		c.Errorf("4 MiB of events came in %d answers", answers)
	}
	c.put("e", "1")
	w.wantEvents(id, "e=1")
}

func watchNoFragment(c *C) {
	d := bigDelete(c)
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{PrevKv: true}).WatchId
	_, err := c.KV.DeleteRange(c.Ctx, d)
	c.must(err, "delete")
	w.wantEvents(id, "-a -b -c -d")
}

func watchCancel(c *C) {
	w := c.open()
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 1})
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 2})
	w.sendCancel(1)
	r := w.recv()
	equal(c, "id", r.WatchId, 1)
	equal(c, "canceled", r.Canceled, true)
	equal(c, "created", r.Created, false)
	equal(c, "reason", r.CancelReason, "")
	equal(c, "compact revision", r.CompactRevision, 0)
	equal(c, "header revision", r.Header.Revision, c.revision())
	c.put("a", "1")
	w.wantEvents(2, "a=1")
	c.put("a", "2")
	w.wantEvents(2, "a=2")
}

func watchReuseID(c *C) {
	w := c.open()
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 5})
	w.sendCancel(5)
	equal(c, "canceled", w.recv().Canceled, true)
	equal(c, "id", w.watchKeys(&pb.WatchCreateRequest{WatchId: 5}).WatchId, 5)
	c.put("a", "1")
	w.wantEvents(5, "a=1")
}

// wantProgress requires the next answer to be a mark of all watches at revision.
func (w *watchStream) wantProgress(revision int64) {
	w.c.Helper()
	r := w.recv()
	if r.WatchId != -1 || r.Created || r.Canceled || len(r.Events) != 0 {
		w.c.Fatalf("got %s, want a progress mark", text(r))
	}
	equal(w.c, "revision of the progress mark", r.Header.Revision, revision)
}

func watchProgress(c *C) {
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	w.sendProgress()
	w.wantProgress(c.revision())
	c.put("a", "1")
	w.wantEvents(id, "a=1")
	// A write beside the watch moves the mark too.
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: append(c.end(""), 'x')})
	c.must(err, "put beside")
	rev := c.revision()
	w.sendProgress()
	w.wantProgress(rev)
	_, err = c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: append(c.end(""), 'x')})
	c.must(err, "delete beside")
}

func watchProgressFuture(c *C) {
	w := c.open()
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 1})
	w.create(&pb.WatchCreateRequest{Key: c.key("f"), WatchId: 2, StartRevision: c.revision() + 1000})
	w.sendProgress()
	// This answer tells that the request was read; had a mark been made, it would come
	// before one of the events.
	w.create(&pb.WatchCreateRequest{Key: c.key("g"), WatchId: 3})
	for i := range 5 {
		c.put("a", fmt.Sprint(i))
		w.wantEvents(1, fmt.Sprintf("a=%d", i))
	}
}

func watchProgressAfterEvents(c *C) {
	from := c.revision() + 1
	w := c.open()
	const rounds, puts = 5, 40
	id := w.watchKeys(&pb.WatchCreateRequest{StartRevision: from}).WatchId
	for range rounds {
		var last int64
		for i := range puts {
			last = c.put("a", fmt.Sprint(i)).Header.Revision
		}
		w.sendProgress()
		seen := 0
		for {
			r := w.recv()
			if r.WatchId == -1 {
				equal(c, "events before the mark", seen, puts)
				equal(c, "revision of the mark", r.Header.Revision, last)
				break
			}
			equal(c, "watch id", r.WatchId, id)
			seen += len(r.Events)
		}
	}
}

func watchProgressNotify(c *C) {
	with, without := c.open(), c.open()
	id := with.watchKeys(&pb.WatchCreateRequest{ProgressNotify: true}).WatchId
	other := without.watchKeys(&pb.WatchCreateRequest{}).WatchId
	before := c.revision()
	for range 3 {
		r := with.recv()
		equal(c, "watch id", r.WatchId, id)
		equal(c, "number of events", len(r.Events), 0)
		equal(c, "created or canceled", r.Created || r.Canceled, false)
		if r.Header.Revision < before {
			c.Errorf("header revision %d below the current %d", r.Header.Revision, before)
		}
	}
	// Three intervals have passed: a notification that nobody asked for would be first.
	c.put("a", "1")
	without.wantEvents(other, "a=1")
}

func watchCatchUp(c *C) {
	const writes = 600
	from := c.revision() + 1
	failed := make(chan error, 1)
	go func() {
		for i := range writes {
			if _, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: fmt.Append(nil, i)}); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	// Watches that begin while the writer writes, all from the first revision.
	for range 4 {
		w := c.open()
		id := w.watchKeys(&pb.WatchCreateRequest{StartRevision: from}).WatchId
		for i, e := range w.events(id, writes) {
			if got := string(e.Kv.Value); got != fmt.Sprint(i) || e.Kv.ModRevision != from+int64(i) {
				c.Fatalf("event %d is %s at revision %d, want revision %d", i, got, e.Kv.ModRevision, from+int64(i))
			}
		}
	}
	c.must(<-failed, "writer")
}

func watchLongHistory(c *C) {
	const txns, ops = 60, 100
	from := c.revision() + 1
	c.fill(txns*ops, 100)
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{StartRevision: from}).WatchId
	events := w.events(id, txns*ops)
	for i, e := range events {
		if want := string(c.key(fmt.Sprintf("%06d", i))); string(e.Kv.Key) != want {
			c.Fatalf("event %d: got %q, want %q", i, e.Kv.Key, want)
		}
	}
}

func watchHeaders(c *C) {
	w := c.open()
	w.watchKeys(&pb.WatchCreateRequest{StartRevision: c.revision() + 1})
	last, seen := int64(0), 0
	for i := range 100 {
		c.put("a", fmt.Sprint(i))
		if i%10 == 0 {
			w.sendProgress()
		}
	}
	c.put("z", "end")
	for seen < 101 {
		r := w.recv()
		if r.Header.Revision < last {
			c.Fatalf("header revision went back from %d to %d", last, r.Header.Revision)
		}
		last = r.Header.Revision
		seen += len(r.Events)
	}
}

func watchStreams(c *C) {
	a, b := c.open(), c.open()
	a.watchKeys(&pb.WatchCreateRequest{WatchId: 1})
	b.watchKeys(&pb.WatchCreateRequest{WatchId: 1})
	a.sendCancel(1)
	equal(c, "canceled on a", a.recv().Canceled, true)
	c.put("x", "1")
	b.wantEvents(1, "x=1")
	a.cancel()
	// The other stream and the connection live on.
	c.put("x", "2")
	b.wantEvents(1, "x=2")
}
