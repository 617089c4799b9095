package conformance

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// badInputCases are the rows of the table of bad inputs, each with etcd's code and message.
// Rows 32, 54 and 63 stand beside the cases of their RPCs, rows 19, 20 and 55 to 62 in wire.go.
func badInputCases() []Case {
	cases := []Case{
		{Name: "badinput/row-01-empty-key", RPC: "KV.Put", Run: badEmptyKey},
		{Name: "badinput/row-02-ignore-value-with-value", RPC: "KV.Put", Run: badIgnoreValue},
		{Name: "badinput/row-03-ignore-lease-with-lease", RPC: "KV.Put", Run: badIgnoreLease},
		{Name: "badinput/row-04-ignore-of-absent-key", RPC: "KV.Put", Run: badIgnoreAbsent},
		{Name: "badinput/row-05-unknown-lease", RPC: "KV.Put", Needs: Leases, Absent: leaseGrantAbsent, Run: badLease},
		{Name: "badinput/row-06-future-revision", RPC: "KV.Range", Run: badFuture},
		{Name: "badinput/row-07-compacted-revision", RPC: "KV.Range", Run: badCompacted},
		{Name: "badinput/row-08-negative-revision-and-limit", RPC: "KV.Range", Run: badNegative},
		{Name: "badinput/row-09-bad-sort-order", RPC: "KV.Range", Run: badSort},
		{Name: "badinput/row-10-compact-future", RPC: "KV.Compact", Run: badCompactFuture},
		{Name: "badinput/row-11-compact-compacted", RPC: "KV.Compact", Run: badCompactAgain},
		{Name: "badinput/row-12-duplicate-key", RPC: "KV.Txn", Run: badDuplicate},
		{Name: "badinput/row-13-too-many-ops", RPC: "KV.Txn", Run: badTooMany},
		{Name: "badinput/row-14-op-without-request", RPC: "KV.Txn", Run: badNoRequest},
		{Name: "badinput/row-15-compare-empty-key", RPC: "KV.Txn", Run: badCompareKey},
		{Name: "badinput/row-16-compare-unknown-enum", RPC: "KV.Txn", Run: badCompareEnum},
		{Name: "badinput/row-17-txn-revisions", RPC: "KV.Txn", Run: badTxnRevisions},
		{Name: "badinput/row-18-request-too-large", RPC: "KV.Put", Run: badTooLarge},
		{Name: "badinput/row-21-lease-ttl-too-large", RPC: "Lease.LeaseGrant", Needs: Leases, Run: badTTL},
		{Name: "badinput/row-22-lease-ttl-zero-or-negative", RPC: "Lease.LeaseGrant", Needs: Leases, Run: badTTLSmall},
		{Name: "badinput/row-23-lease-exists", RPC: "Lease.LeaseGrant", Needs: Leases, Run: badLeaseExists},
		{Name: "badinput/row-24-revoke-unknown", RPC: "Lease.LeaseRevoke", Needs: Leases, Run: badRevoke},
		{Name: "badinput/row-25-time-to-live-and-keep-alive-unknown", RPC: "Lease.LeaseTimeToLive", Needs: Leases, Run: badLeaseUnknown},
		{Name: "badinput/row-26-watch-compacted", RPC: "Watch.Watch", Run: badWatchCompacted},
		{Name: "badinput/row-27-watch-negative-revision", RPC: "Watch.Watch", Run: badWatchNegative},
		{Name: "badinput/row-28-watch-duplicate-id-and-empty-range", RPC: "Watch.Watch", Run: badWatchIDs},
		{Name: "badinput/row-29-watch-empty-key", RPC: "Watch.Watch", Run: badWatchEmptyKey},
		{Name: "badinput/row-30-watch-cancel-unknown", RPC: "Watch.Watch", Run: badWatchCancel},
		{Name: "badinput/row-34-unknown-enums", RPC: "KV.Range", Run: badEnums},
		{Name: "badinput/negative-and-huge-ids", RPC: "Lease.LeaseGrant", Needs: Leases, Run: badHugeIDs},
	}
	return cases
}

func badEmptyKey(c *C) {
	_, err := c.KV.Range(c.Ctx, &pb.RangeRequest{})
	c.wantError(err, codes.InvalidArgument, msgEmptyKey)
	_, err = c.KV.Put(c.Ctx, &pb.PutRequest{Value: []byte("1")})
	c.wantError(err, codes.InvalidArgument, msgEmptyKey)
	_, err = c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{RangeEnd: []byte{0}})
	c.wantError(err, codes.InvalidArgument, msgEmptyKey)
	for _, op := range []*pb.RequestOp{opPut(nil, ""), opGet(nil), opDelete(nil, nil), opTxn(&pb.TxnRequest{Failure: []*pb.RequestOp{opGet(nil)}})} {
		_, err = c.KV.Txn(c.Ctx, &pb.TxnRequest{Failure: []*pb.RequestOp{op}})
		c.wantError(err, codes.InvalidArgument, msgEmptyKey)
	}
}

// putOrTxn sends r as a Put and as a Txn's only operation; both must answer the error.
func (c *C) putOrTxn(r *pb.PutRequest, code codes.Code, message string) {
	c.Helper()
	before := c.revision()
	_, err := c.KV.Put(c.Ctx, r)
	c.wantError(err, code, message)
	_, err = c.KV.Txn(c.Ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		opPut(c.key("beside"), "1"), {Request: &pb.RequestOp_RequestPut{RequestPut: r}}}})
	c.wantError(err, code, message)
	equal(c, "count of the other put of the txn", c.get("beside").Count, 0)
	equal(c, "revision", c.revision(), before)
}

func badIgnoreValue(c *C) {
	c.put("a", "1")
	c.putOrTxn(&pb.PutRequest{Key: c.key("a"), Value: []byte("2"), IgnoreValue: true}, codes.InvalidArgument, msgValueGiven)
	equal(c, "value", string(c.get("a").Kvs[0].Value), "1")
}

func badIgnoreLease(c *C) {
	c.put("a", "1")
	c.putOrTxn(&pb.PutRequest{Key: c.key("a"), Lease: 1, IgnoreLease: true}, codes.InvalidArgument, msgLeaseGiven)
}

func badIgnoreAbsent(c *C) {
	c.putOrTxn(&pb.PutRequest{Key: c.key("a"), IgnoreValue: true}, codes.InvalidArgument, msgKeyNotFound)
	c.putOrTxn(&pb.PutRequest{Key: c.key("a"), IgnoreLease: true}, codes.InvalidArgument, msgKeyNotFound)
}

func badLease(c *C) {
	c.putOrTxn(&pb.PutRequest{Key: c.key("a"), Lease: freshID()}, codes.NotFound, msgLeaseNotFound)
	equal(c, "count", c.get("a").Count, 0)
}

func badFuture(c *C) {
	now := c.revision()
	for _, rev := range []int64{now + 1, now + 1000, 1 << 62} {
		_, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: c.key("a"), Revision: rev})
		c.wantError(err, codes.OutOfRange, msgFuture)
	}
	c.rng(&pb.RangeRequest{Key: c.key("a"), Revision: now})
}

func badCompacted(c *C) {
	old := c.put("a", "1").Header.Revision
	rev := c.put("a", "2").Header.Revision
	c.compact(rev, false)
	for _, r := range []*pb.RangeRequest{{}, {CountOnly: true}, {Limit: 1}, {Serializable: true}, {KeysOnly: true}} {
		r.Key, r.RangeEnd, r.Revision = c.key(""), c.end(""), old
		_, err := c.KV.Range(c.Ctx, r)
		c.wantError(err, codes.OutOfRange, msgCompacted)
	}
	equal(c, "count at the compacted revision", c.rng(&pb.RangeRequest{Key: c.key("a"), Revision: rev}).Count, 1)
}

func badNegative(c *C) {
	c.put("a", "1")
	c.put("b", "2")
	want := c.rng(c.all())
	for _, r := range []*pb.RangeRequest{{Revision: -1}, {Limit: -1}, {Revision: -1 << 62, Limit: -1 << 62}} {
		r.Key, r.RangeEnd = c.key(""), c.end("")
		equalProto(c, text(r), c.rng(r), want)
	}
	r := c.rng(&pb.RangeRequest{Key: c.key("b"), RangeEnd: c.key("a")})
	equal(c, "count of an end below the key", r.Count, 0)
}

func badSort(c *C) {
	for _, r := range []*pb.RangeRequest{{SortOrder: 99}, {SortTarget: 99}, {SortOrder: -1}, {SortTarget: -1}, {SortOrder: 3}, {SortTarget: 5}} {
		r.Key = c.key("a")
		_, err := c.KV.Range(c.Ctx, r)
		c.wantError(err, codes.InvalidArgument, msgSort)
		_, err = c.KV.Txn(c.Ctx, &pb.TxnRequest{Success: []*pb.RequestOp{opRange(r)}})
		c.wantError(err, codes.InvalidArgument, msgSort)
		_, err = c.chunks(r)
		c.wantError(err, codes.InvalidArgument, msgSort)
	}
}

func badCompactFuture(c *C) {
	now := c.revision()
	for _, rev := range []int64{now + 1, 1 << 62} {
		_, err := c.KV.Compact(c.Ctx, &pb.CompactionRequest{Revision: rev})
		c.wantError(err, codes.OutOfRange, msgFuture)
	}
}

func badCompactAgain(c *C) {
	rev := c.put("a", "1").Header.Revision
	c.compact(rev, false)
	for _, r := range []int64{rev, rev - 1, 0, -1, -1 << 62} {
		_, err := c.KV.Compact(c.Ctx, &pb.CompactionRequest{Revision: r})
		c.wantError(err, codes.OutOfRange, msgCompacted)
	}
}

func badDuplicate(c *C) {
	a, b := c.key("a"), c.key("b")
	before := c.revision()
	nested := func(ops ...*pb.RequestOp) *pb.RequestOp { return opTxn(&pb.TxnRequest{Success: ops}) }
	for i, ops := range [][]*pb.RequestOp{
		{opPut(a, "1"), opPut(a, "2")},
		{opPut(a, "1"), opDelete(a, nil)},
		{opDelete(a, nil), opPut(a, "1")},
		{opPut(a, "1"), opDelete(c.key(""), c.end(""))},
		{opPut(a, "1"), nested(opPut(a, "2"))},
		{nested(opPut(a, "1")), nested(opPut(a, "2"))},
		{opDelete(a, b), nested(opPut(a, "2"))},
		{nested(opDelete(a, b)), opPut(a, "2")},
	} {
		for _, t := range []*pb.TxnRequest{{Success: ops}, {Failure: ops}} {
			_, err := c.KV.Txn(c.Ctx, t)
			if err == nil {
				c.Fatalf("list %d was accepted", i)
			}
			c.wantError(err, codes.InvalidArgument, msgDuplicateKey)
		}
	}
	equal(c, "revision", c.revision(), before)
	// The two branches of one Txn exclude each other, and deletes may overlap.
	c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(a, "1")}, Failure: []*pb.RequestOp{opPut(a, "2")}})
	c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{
		Success: []*pb.RequestOp{opPut(a, "1")}, Failure: []*pb.RequestOp{opPut(a, "2")}})}})
	c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opDelete(a, nil), opDelete(a, b), opDelete(a, nil)}})
}

func badTooMany(c *C) {
	var ops []*pb.RequestOp
	var compares []*pb.Compare
	for i := range 129 {
		ops = append(ops, opGet(c.key(fmt.Sprint(i))))
		compares = append(compares, compareMod(c.key(fmt.Sprint(i)), 0))
	}
	deep := &pb.TxnRequest{}
	for range 200 {
		deep = &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(deep)}}
	}
	for _, t := range []*pb.TxnRequest{
		{Success: ops}, {Failure: ops}, {Compare: compares}, deep,
		{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: ops[:128]})}}, // the nested share the rest
	} {
		_, err := c.KV.Txn(c.Ctx, t)
		c.wantError(err, codes.InvalidArgument, msgTooManyOps)
	}
	c.txn(&pb.TxnRequest{Success: ops[:128], Failure: ops[:128], Compare: compares[:128]})
	c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: ops[:127]})}})
}

func badNoRequest(c *C) {
	for _, t := range []*pb.TxnRequest{
		{Success: []*pb.RequestOp{{}}}, {Failure: []*pb.RequestOp{{}}},
		{Success: []*pb.RequestOp{opPut(c.key("a"), "1"), {}}},
		{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Failure: []*pb.RequestOp{{}}})}},
	} {
		_, err := c.KV.Txn(c.Ctx, t)
		c.wantError(err, codes.InvalidArgument, msgKeyNotFound)
	}
	equal(c, "count", c.get("a").Count, 0)
}

func badCompareKey(c *C) {
	for _, t := range []*pb.TxnRequest{
		{Compare: []*pb.Compare{{}}},
		{Compare: []*pb.Compare{{RangeEnd: []byte{0}}}},
		{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Compare: []*pb.Compare{{}}})}},
	} {
		_, err := c.KV.Txn(c.Ctx, t)
		c.wantError(err, codes.InvalidArgument, msgEmptyKey)
	}
}

func badCompareEnum(c *C) {
	c.put("a", "1")
	for _, k := range []*pb.Compare{
		{Result: 99}, {Target: 99}, {Result: -1, Target: pb.Compare_VALUE}, {Target: 5, Result: pb.Compare_EQUAL},
	} {
		k.Key = c.key("a")
		equal(c, text(k), c.txn(&pb.TxnRequest{Compare: []*pb.Compare{k}}).Succeeded, true)
	}
}

func badTxnRevisions(c *C) {
	old := c.put("a", "1").Header.Revision
	c.compact(c.put("a", "2").Header.Revision, false)
	before := c.revision()
	for rev, message := range map[int64]string{old: msgCompacted, before + 1000: msgFuture} {
		read := opRange(&pb.RangeRequest{Key: c.key("a"), Revision: rev})
		for _, ops := range [][]*pb.RequestOp{
			{read}, {opPut(c.key("b"), "1"), read}, {read, opPut(c.key("b"), "1")},
			{opPut(c.key("b"), "1"), opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{read}})},
		} {
			_, err := c.KV.Txn(c.Ctx, &pb.TxnRequest{Success: ops})
			c.wantError(err, codes.OutOfRange, message)
		}
	}
	equal(c, "revision", c.revision(), before)
	equal(c, "count of the put beside", c.get("b").Count, 0)
	// What is not run is not looked at.
	c.txn(&pb.TxnRequest{Failure: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: c.key("a"), Revision: before + 1000})}})
}

func badTooLarge(c *C) {
	value := strings.Repeat("v", 3<<19+10)
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: []byte(value)})
	c.wantError(err, codes.InvalidArgument, msgTooLarge)
	_, err = c.KV.Txn(c.Ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		opPut(c.key("a"), value[:1<<20]), opPut(c.key("b"), value[:1<<20-1<<18])}})
	c.wantError(err, codes.InvalidArgument, msgTooLarge)
	equal(c, "count", c.rng(c.all()).Count, 0)
}

func badTTL(c *C) {
	for _, ttl := range []int64{9000000001, 1<<63 - 1} {
		_, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: ttl})
		c.wantError(err, codes.OutOfRange, msgLeaseTooLong)
	}
}

func badTTLSmall(c *C) {
	for _, ttl := range []int64{0, -5, 1, -1 << 63} {
		r, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: ttl})
		c.must(err, "grant of %d s", ttl)
		equal(c, "TTL: the minimum of an election time-out of one second", r.TTL, 2)
		c.revoke(r.ID)
	}
}

func badLeaseExists(c *C) {
	for _, id := range []int64{freshID(), -freshID()} {
		equal(c, "id", c.grantID(id, 600).ID, id)
		_, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{ID: id, TTL: 900})
		c.wantError(err, codes.FailedPrecondition, msgLeaseExists)
		equal(c, "granted TTL of the first", c.ttl(id).GrantedTTL, 600)
		c.revoke(id)
	}
}

func badRevoke(c *C) {
	before := c.revision()
	for _, id := range []int64{freshID(), 0, -1} {
		_, err := c.Lease.LeaseRevoke(c.Ctx, &pb.LeaseRevokeRequest{ID: id})
		c.wantError(err, codes.NotFound, msgLeaseNotFound)
	}
	equal(c, "revision", c.revision(), before)
}

func badLeaseUnknown(c *C) {
	renew := c.keepAlive()
	for _, id := range []int64{freshID(), 0, -1} {
		r := c.ttl(id)
		equal(c, "TTL", r.TTL, -1)
		equal(c, "id", r.ID, id)
		equal(c, "granted TTL", r.GrantedTTL, 0)
		c.header("time to live", r.Header)
		k := renew(id)
		equal(c, "TTL of the keep-alive", k.TTL, 0)
		equal(c, "id of the keep-alive", k.ID, id)
	}
}

func badWatchCompacted(c *C) {
	old := c.put("a", "1").Header.Revision
	rev := c.put("a", "2").Header.Revision
	c.compact(rev, false)
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{StartRevision: old, WatchId: 3}).WatchId
	r := w.recv()
	equal(c, "watch id", r.WatchId, id)
	equal(c, "canceled", r.Canceled, true)
	equal(c, "created", r.Created, false)
	equal(c, "compact revision", r.CompactRevision, rev)
	equal(c, "reason", r.CancelReason, "")
	equal(c, "header revision", r.Header.Revision, 0)
	equal(c, "events", len(r.Events), 0)
	// The stream lives on.
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 4})
	c.put("a", "3")
	w.wantEvents(4, "a=3")
}

// refused sends a create, which must be answered by created, canceled, id -1 and a reason.
func (w *watchStream) refused(r *pb.WatchCreateRequest, reason string) {
	w.c.Helper()
	w.sendCreate(r)
	got := w.recv()
	if !got.Created || !got.Canceled || got.WatchId != -1 || got.CompactRevision != 0 {
		w.c.Errorf("%s: got %s, want created and canceled with id -1", text(r), text(got))
	}
	equal(w.c, "reason", got.CancelReason, reason)
	equal(w.c, "header revision", got.Header.Revision, w.c.revision())
}

func badWatchNegative(c *C) {
	w := c.open()
	for _, rev := range []int64{-1, -1 << 63} {
		w.refused(&pb.WatchCreateRequest{Key: c.key("a"), StartRevision: rev}, msgCompacted)
	}
	id := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	c.put("a", "1")
	w.wantEvents(id, "a=1")
}

func badWatchIDs(c *C) {
	const duplicate, empty = "mvcc: duplicate watch ID provided on the WatchStream", "mvcc: watcher range is empty"
	w := c.open()
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 7})
	w.refused(&pb.WatchCreateRequest{Key: c.key("other"), WatchId: 7}, duplicate)
	w.refused(&pb.WatchCreateRequest{Key: c.key("b"), RangeEnd: c.key("a")}, empty)
	w.refused(&pb.WatchCreateRequest{Key: c.key("b"), RangeEnd: c.key("b"), WatchId: 9}, empty)
	c.put("other", "1")
	w.wantEvents(7, "other=1")
}

func badWatchEmptyKey(c *C) {
	w := c.open()
	w.create(&pb.WatchCreateRequest{WatchId: 1})                                              // the key \0 alone
	w.create(&pb.WatchCreateRequest{RangeEnd: []byte{0}, WatchId: 2, StartRevision: 1 << 62}) // waits
	w.create(&pb.WatchCreateRequest{RangeEnd: []byte{0}, WatchId: 3})                         // everything
	c.put("a", "1")
	w.wantEvents(3, "a=1")
}

func badWatchCancel(c *C) {
	w := c.open()
	w.sendCancel(12345)
	w.send(&pb.WatchRequest{})
	w.sendCancel(-1)
	// Had any of them been answered, this would not be the next answer.
	id := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	w.sendCancel(id)
	equal(c, "canceled", w.recv().Canceled, true)
	w.sendCancel(id)
	w.watchKeys(&pb.WatchCreateRequest{WatchId: 8})
	c.put("a", "1")
	w.wantEvents(8, "a=1")
}

func badEnums(c *C) {
	// etcd ignores unknown filters; the stream lives.
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{Filters: []pb.WatchCreateRequest_FilterType{99, -1}}).WatchId
	c.put("a", "1")
	w.wantEvents(id, "a=1")
	if !c.Endpoint.Capabilities[Alarms] {
		return
	}
	if !c.Endpoint.Upstream { // etcd 3.7.3 panics on it
		_, err := c.Maintenance.Alarm(c.Ctx, &pb.AlarmRequest{Action: 99})
		if status.Code(err) != codes.InvalidArgument {
			c.Errorf("alarm with an unknown action: got %v, want InvalidArgument", err)
		}
	}
	c.put("a", "2")
	w.wantEvents(id, "a=2")
}

func badHugeIDs(c *C) {
	for _, id := range []int64{1<<63 - 1, -1 << 63, -1} {
		if r := c.ttl(id); r.TTL != -1 {
			continue // somebody's lease on a live server
		}
		equal(c, "id", c.grantID(id, 600).ID, id)
		c.putLease("a", id)
		equal(c, "lease of the key", c.get("a").Kvs[0].Lease, id)
		equal(c, "number of keys", len(c.ttl(id).Keys), 1)
		c.revoke(id)
		equal(c, "count", c.get("a").Count, 0)
	}
}
