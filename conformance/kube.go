package conformance

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// kubeCases are the requests of kube-apiserver 1.37, exactly as it sends them, and what it
// relies on in the answers.
func kubeCases() []Case {
	return []Case{
		{Name: "kube/create", RPC: "KV.Txn", Run: kubeCreate},
		{Name: "kube/update", RPC: "KV.Txn", Run: kubeUpdate},
		{Name: "kube/update-with-revision-zero", RPC: "KV.Txn", Run: kubeUpdateZero},
		{Name: "kube/delete", RPC: "KV.Txn", Run: kubeDelete},
		{Name: "kube/create-with-lease", RPC: "KV.Txn", Needs: Leases, Absent: leaseGrantAbsent, Run: kubeLease},
		{Name: "kube/lease-moves-by-update", RPC: "KV.Txn", Needs: Leases, Absent: leaseGrantAbsent, Run: kubeLeaseMoves},
		{Name: "kube/get-one", RPC: "KV.Range", Run: kubeGet},
		{Name: "kube/get-resource-version", RPC: "KV.Range", Run: kubeResourceVersion},
		{Name: "kube/count", RPC: "KV.Range", Run: kubeCount},
		{Name: "kube/paged-list", RPC: "KV.Range", Run: kubePages},
		{Name: "kube/paged-list-by-stream", RPC: "KV.RangeStream", Run: kubeStreamPages},
		{Name: "kube/list-at-exact-revision-by-stream", RPC: "KV.RangeStream", Run: kubeStreamExact},
		{Name: "kube/list-compacted", RPC: "KV.Range", Run: kubeCompacted},
		{Name: "kube/compaction", RPC: "KV.Compact", Run: kubeCompaction},
		{Name: "kube/watch", RPC: "Watch.Watch", Run: kubeWatch},
		{Name: "kube/watch-compacted", RPC: "Watch.Watch", Run: kubeWatchCompacted},
		{Name: "kube/watch-compact-rev-key", RPC: "Watch.Watch", Run: kubeWatchCompactKey},
		{Name: "kube/consistent-read-by-progress", RPC: "Watch.Watch", Run: kubeProgress},
		{Name: "kube/status", RPC: "Maintenance.Status", Run: maintStatus},
	}
}

// kubernetesRelies names the cases outside area kube that profile kubernetes holds.
func kubernetesRelies() []string {
	return []string{
		"kv/put-version-and-revisions", "kv/put-binary-key-and-value", "kv/put-large-value",
		"kv/delete-then-create-restarts-version", "kv/headers",
		"range/key", "range/end", "range/order-is-bytewise", "range/limit", "range/paging", "range/revision",
		"range/revision-of-many", "range/count-only", "range/many-keys",
		"rangestream/same-as-range", "rangestream/many-chunks", "rangestream/header-only-at-the-end",
		"rangestream/pinned-revision", "rangestream/empty", "rangestream/compacted-and-future",
		"txn/success-and-failure", "txn/one-revision", "txn/read-only-makes-no-revision",
		"compact/revision", "compact/keeps-what-is-current",
		"watch/range-end", "watch/event-contents", "watch/start-in-the-past", "watch/start-in-the-future", "watch/prev-kv",
		"watch/prev-kv-of-the-past", "watch/prev-kv-at-compacted-revision", "watch/one-revision-in-one-answer", "watch/many-on-one-stream",
		"watch/progress-request", "watch/progress-request-after-events", "watch/progress-notify",
		"watch/catch-up-without-gap-or-duplicate", "watch/long-history", "watch/header-revisions-never-go-back",
		"watch/delete-at-compacted-revision",
		"lease/grant-generated-ids", "lease/expiry-deletes-in-one-revision", "lease/moved-key-stays",
		"badinput/row-06-future-revision", "badinput/row-07-compacted-revision", "badinput/row-11-compact-compacted",
		"badinput/row-18-request-too-large", "badinput/row-26-watch-compacted",
		"concurrency/compare-and-swap",
		"http/health", "http/livez", "http/readyz",
	}
}

// kubeContext carries what kube-apiserver sends along.
func (c *C) kubeContext(leader bool) *C {
	k := *c
	k.Ctx = metadata.AppendToOutgoingContext(c.Ctx, "client-api-version", "3.7")
	if leader {
		k.Ctx = metadata.AppendToOutgoingContext(k.Ctx, "hasleader", "true")
	}
	return &k
}

func putOf(key []byte, value string, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte(value), Lease: lease}}}
}

// kubePut is kube-apiserver's create (revision 0, no failure branch) and update.
func (c *C) kubePut(name, value string, revision, lease int64) *pb.TxnResponse {
	c.Helper()
	t := &pb.TxnRequest{Compare: []*pb.Compare{compareMod(c.key(name), revision)},
		Success: []*pb.RequestOp{putOf(c.key(name), value, lease)}}
	if revision != 0 {
		t.Failure = []*pb.RequestOp{opGet(c.key(name))}
	}
	return c.kubeContext(false).txn(t)
}

func kubeCreate(c *C) {
	before := c.revision()
	r := c.kubePut("a", "1", 0, 0)
	equal(c, "succeeded", r.Succeeded, true)
	equal(c, "header revision", r.Header.Revision, before+1)
	equal(c, "mod revision", c.get("a").Kvs[0].ModRevision, r.Header.Revision)
	again := c.kubePut("a", "2", 0, 0)
	equal(c, "succeeded again", again.Succeeded, false)
	equal(c, "number of responses", len(again.Responses), 0)
	equal(c, "value", string(c.get("a").Kvs[0].Value), "1")
}

func kubeUpdate(c *C) {
	rev := c.kubePut("a", "1", 0, 0).Header.Revision
	r := c.kubePut("a", "2", rev, 0)
	equal(c, "succeeded", r.Succeeded, true)
	equal(c, "header revision", r.Header.Revision, rev+1)
	conflict := c.kubePut("a", "3", rev, 0)
	equal(c, "succeeded on conflict", conflict.Succeeded, false)
	kvs := conflict.Responses[0].GetResponseRange().GetKvs()
	if len(kvs) != 1 {
		c.Fatalf("the conflict shows %d keys", len(kvs))
	}
	equal(c, "value shown", string(kvs[0].Value), "2")
	equal(c, "revision shown", kvs[0].ModRevision, r.Header.Revision)
}

func kubeUpdateZero(c *C) {
	t := func(value string) *pb.TxnResponse {
		return c.txn(&pb.TxnRequest{Compare: []*pb.Compare{compareMod(c.key("a"), 0)},
			Success: []*pb.RequestOp{opPut(c.key("a"), value)}, Failure: []*pb.RequestOp{opGet(c.key("a"))}})
	}
	equal(c, "succeeded", t("1").Succeeded, true)
	r := t("2")
	equal(c, "succeeded again", r.Succeeded, false)
	equal(c, "value shown", string(r.Responses[0].GetResponseRange().Kvs[0].Value), "1")
}

func kubeDelete(c *C) {
	rev := c.kubePut("a", "1", 0, 0).Header.Revision
	t := func(revision int64) *pb.TxnResponse {
		return c.txn(&pb.TxnRequest{Compare: []*pb.Compare{compareMod(c.key("a"), revision)},
			Success: []*pb.RequestOp{opDelete(c.key("a"), nil)}, Failure: []*pb.RequestOp{opGet(c.key("a"))}})
	}
	r := t(rev - 1)
	equal(c, "succeeded with an old revision", r.Succeeded, false)
	equal(c, "revision shown", r.Responses[0].GetResponseRange().Kvs[0].ModRevision, rev)
	r = t(rev)
	equal(c, "succeeded", r.Succeeded, true)
	equal(c, "deleted", r.Responses[0].GetResponseDeleteRange().Deleted, 1)
	equal(c, "header revision", r.Header.Revision, rev+1)
	r = t(rev)
	equal(c, "succeeded on the absent", r.Succeeded, false)
	equal(c, "count shown of the absent", r.Responses[0].GetResponseRange().Count, 0)
}

func kubeLease(c *C) {
	id := c.kubeContext(false).grant(3660)
	r := c.kubePut("event", "1", 0, id)
	equal(c, "succeeded", r.Succeeded, true)
	equal(c, "lease", c.get("event").Kvs[0].Lease, id)
	c.revoke(id)
	equal(c, "count", c.get("event").Count, 0)
}

func kubeLeaseMoves(c *C) {
	first := c.grant(15)
	rev := c.kubePut("masterlease", "1", 0, first).Header.Revision
	second := c.grant(15)
	c.kubePut("masterlease", "2", rev, second)
	c.revoke(first)
	equal(c, "lease", c.get("masterlease").Kvs[0].Lease, second)
	c.revoke(second)
	equal(c, "count", c.get("masterlease").Count, 0)
}

func kubeGet(c *C) {
	rev := c.kubePut("pods/default/a", "1", 0, 0).Header.Revision
	c.kubePut("pods/default/ab", "1", 0, 0)
	r := c.kubeContext(false).rng(&pb.RangeRequest{Key: c.key("pods/default/a"), Limit: 1})
	equal(c, "keys", c.names(r), "pods/default/a")
	equal(c, "mod revision", r.Kvs[0].ModRevision, rev)
	equal(c, "header revision", r.Header.Revision, rev+1)
	equal(c, "count", r.Count, 1)
	equal(c, "more", r.More, false)
}

func kubeResourceVersion(c *C) {
	rev := c.kubePut("pods/a", "1", 0, 0).Header.Revision
	r := c.rng(&pb.RangeRequest{Key: c.key("pods"), Limit: 1})
	equal(c, "count of the resource's own key", r.Count, 0)
	equal(c, "header revision", r.Header.Revision, rev)
}

func kubeCount(c *C) {
	for i := range 25 {
		c.put(fmt.Sprintf("events/%02d", i), "e")
	}
	c.put("eventsx", "beside")
	r := c.rng(&pb.RangeRequest{Key: c.key("events/"), RangeEnd: c.end("events/"), CountOnly: true})
	equal(c, "count", r.Count, 25)
	equal(c, "keys", len(r.Kvs), 0)
}

// pages lists with limit and continue as kube-apiserver does, while keys come and go.
func (c *C) pages(list func(*pb.RangeRequest) *pb.RangeResponse) {
	c.Helper()
	const keys, limit = 23, 5
	for i := range keys {
		c.put(fmt.Sprintf("pods/%02d", i), "v")
	}
	first := list(&pb.RangeRequest{Key: c.key("pods/"), RangeEnd: c.end("pods/"), Limit: limit})
	rev := first.Header.Revision
	equal(c, "revision of the list", rev, c.revision())
	equal(c, "count ignores the limit", first.Count, keys)
	equal(c, "more", first.More, true)
	all := first.Kvs
	c.del("pods/20")
	c.put("pods/07x", "late")
	for page := first; page.More; {
		page = list(&pb.RangeRequest{Key: append(all[len(all)-1].Key, 0), RangeEnd: c.end("pods/"), Limit: limit, Revision: rev})
		equal(c, "count of what remains", page.Count, int64(keys-len(all)))
		all = append(all, page.Kvs...)
	}
	equal(c, "keys in all", len(all), keys)
	for i, kv := range all {
		equal(c, "key", strings.TrimPrefix(string(kv.Key), c.prefix), fmt.Sprintf("pods/%02d", i))
	}
}

func kubePages(c *C) { c.pages(c.kubeContext(true).rng) }

func kubeStreamPages(c *C) { c.pages(c.kubeContext(true).streamed) }

func kubeStreamExact(c *C) {
	c.fill(300, 500)
	rev := c.revision()
	c.put("000000", "changed")
	now := c.put("000300", "new").Header.Revision
	for _, limit := range []int64{0, 10000} {
		r := c.all()
		r.Revision, r.Limit = rev, limit
		got := c.kubeContext(false).streamed(r)
		equal(c, "keys", len(got.Kvs), 300)
		equal(c, "count", got.Count, 300)
		equal(c, "value of the first", len(got.Kvs[0].Value), 500)
		equal(c, "header revision", got.Header.Revision, now)
	}
}

func kubeCompacted(c *C) {
	rev := c.put("a", "1").Header.Revision
	c.compact(c.put("a", "2").Header.Revision, false)
	r := c.all()
	r.Revision, r.Limit = rev, 500
	_, err := c.KV.Range(c.kubeContext(false).Ctx, r)
	c.wantError(err, codes.OutOfRange, msgCompacted)
	_, err = c.chunks(r)
	c.wantError(err, codes.OutOfRange, msgCompacted)
}

// compactTxn is the Txn by which apiservers agree on who compacts.
func (c *C) compactTxn(version int64, revision string) *pb.TxnResponse {
	key := c.key("compact_rev_key")
	return c.txn(&pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_Version{Version: version}}},
		Success: []*pb.RequestOp{opPut(key, revision)},
		Failure: []*pb.RequestOp{opGet(key)},
	})
}

func kubeCompaction(c *C) {
	r := c.compactTxn(0, "0")
	equal(c, "succeeded", r.Succeeded, true)
	rev := r.Header.Revision
	loser := c.compactTxn(0, "0")
	equal(c, "succeeded of the second server", loser.Succeeded, false)
	kv := loser.Responses[0].GetResponseRange().Kvs[0]
	equal(c, "version shown", kv.Version, 1)
	equal(c, "value shown", string(kv.Value), "0")
	r = c.compactTxn(1, fmt.Sprint(rev))
	equal(c, "succeeded", r.Succeeded, true)
	c.compact(rev, false)
	_, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: c.key("a"), Revision: rev - 1})
	c.wantError(err, codes.OutOfRange, msgCompacted)
}

func kubeWatch(c *C) {
	c.kubePut("a", "0", 0, 0)
	list := c.rng(c.all())
	w := c.watchOn(c.kubeContext(true).Ctx)
	id := w.watchKeys(&pb.WatchCreateRequest{StartRevision: list.Header.Revision + 1, ProgressNotify: true, PrevKv: true}).WatchId
	equal(c, "watch id", id, 0)
	rev := c.kubePut("a", "1", list.Kvs[0].ModRevision, 0).Header.Revision
	c.kubePut("b", "0", 0, 0)
	d := c.txn(&pb.TxnRequest{Compare: []*pb.Compare{compareMod(c.key("a"), rev)}, Success: []*pb.RequestOp{opDelete(c.key("a"), nil)}})
	events := w.wantEvents(id, "a=1 b=0 -a")
	equal(c, "previous value of the update", string(events[0].GetPrevKv().GetValue()), "0")
	equal(c, "create and mod revision of the create differ", events[1].Kv.CreateRevision != events[1].Kv.ModRevision, false)
	equal(c, "previous value of the delete", string(events[2].GetPrevKv().GetValue()), "1")
	equal(c, "type", events[2].Type, mvccpb.Event_DELETE)
	equal(c, "revision of the delete", events[2].Kv.ModRevision, d.Header.Revision)
}

func kubeWatchCompacted(c *C) {
	old := c.put("a", "1").Header.Revision
	rev := c.put("a", "2").Header.Revision
	c.compact(rev, false)
	w := c.watchOn(c.kubeContext(true).Ctx)
	w.watchKeys(&pb.WatchCreateRequest{StartRevision: old, ProgressNotify: true, PrevKv: true})
	r := w.recv()
	equal(c, "canceled", r.Canceled, true)
	equal(c, "compact revision", r.CompactRevision, rev)
}

func kubeWatchCompactKey(c *C) {
	rev := c.compactTxn(0, "0").Header.Revision
	w := c.watchOn(c.kubeContext(false).Ctx)
	id := w.create(&pb.WatchCreateRequest{Key: c.key("compact_rev_key"), StartRevision: rev}).WatchId
	c.compactTxn(1, "77")
	w.wantEvents(id, "compact_rev_key=0 compact_rev_key=77")
}

// kubeProgress is a consistent read from a watch cache: a write beside the watch, then marks
// are asked for until one reaches the revision.
func kubeProgress(c *C) {
	w := c.watchOn(c.kubeContext(true).Ctx)
	w.create(&pb.WatchCreateRequest{Key: c.key("pods/"), RangeEnd: c.end("pods/"), StartRevision: c.revision() + 1,
		ProgressNotify: true, PrevKv: true})
	for i := range 50 {
		rev := c.put("other", fmt.Sprint(i)).Header.Revision
		read := c.rng(&pb.RangeRequest{Key: c.key("pods"), Limit: 1}).Header.Revision
		equal(c, "revision of the read", read, rev)
		w.sendProgress()
		w.wantProgress(rev)
	}
}
