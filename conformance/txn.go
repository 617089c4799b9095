package conformance

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// txnCases are the cases of Txn. What is wrong with a Txn is in badinput.go.
func txnCases() []Case {
	cases := []Case{
		{Name: "txn/success-and-failure", Covers: []string{"TxnRequest.compare", "TxnRequest.success", "TxnRequest.failure",
			"RequestOp.request_put", "Compare.key"}, Run: txnBranches},
		{Name: "txn/compare-target-and-result", Covers: []string{"Compare.target", "Compare.result", "Compare.version",
			"Compare.create_revision", "Compare.mod_revision", "Compare.value"}, Run: txnCompares},
		{Name: "txn/compare-lease", Needs: Leases, Absent: leaseGrantAbsent, Covers: []string{"Compare.lease"}, Run: txnCompareLease},
		{Name: "txn/compare-absent-key", Run: txnCompareAbsent},
		{Name: "txn/compare-range", Covers: []string{"Compare.range_end"}, Run: txnCompareRange},
		{Name: "txn/compare-all-must-hold", Run: txnCompareAll},
		{Name: "txn/empty", Run: txnEmpty},
		{Name: "txn/read-only-makes-no-revision", Run: txnReadOnly},
		{Name: "txn/one-revision", Run: txnOneRevision},
		{Name: "txn/reads-its-own-writes", Covers: []string{"RequestOp.request_range"}, Run: txnReadsOwn},
		{Name: "txn/range-options", Run: txnRangeOptions},
		{Name: "txn/put-options", Run: txnPutOptions},
		{Name: "txn/delete", Covers: []string{"RequestOp.request_delete_range"}, Run: txnDelete},
		{Name: "txn/delete-overlapping", Run: txnDeleteOverlap},
		{Name: "txn/nested", Covers: []string{"RequestOp.request_txn"}, Run: txnNested},
		{Name: "txn/nested-compares-first", Run: txnNestedCompare},
		{Name: "txn/delete-absent-makes-no-revision", Run: txnDeleteAbsent},
		{Name: "txn/header-revisions", Run: txnHeaders},
		{Name: "txn/128-ops", Run: txnMaxOps},
	}
	for i := range cases {
		cases[i].RPC = "KV.Txn"
	}
	return cases
}

func txnBranches(c *C) {
	for i, held := range []bool{true, false} {
		name := fmt.Sprintf("%d", i)
		other := c.put(name+"x", "x").Header.Revision
		t := &pb.TxnRequest{
			Compare: []*pb.Compare{compareMod(c.key(name), 0)},
			Success: []*pb.RequestOp{opPut(c.key(name+"-then"), "then")},
			Failure: []*pb.RequestOp{opPut(c.key(name+"-else"), "else")},
		}
		if !held {
			t.Compare[0] = compareMod(c.key(name+"x"), other+1)
		}
		r := c.txn(t)
		equal(c, "succeeded", r.Succeeded, held)
		equal(c, "number of responses", len(r.Responses), 1)
		if r.Responses[0].GetResponsePut() == nil {
			c.Errorf("response is not of a put: %s", text(r))
		}
		equal(c, "key of the success branch", c.get(name+"-then").Count == 1, held)
		equal(c, "key of the failure branch", c.get(name+"-else").Count == 1, !held)
	}
}

// compareCase is a Compare and whether it holds.
type compareCase struct {
	compare *pb.Compare
	held    bool
}

func (c *C) compares(cases []compareCase) {
	c.Helper()
	for _, k := range cases {
		r := c.txn(&pb.TxnRequest{Compare: []*pb.Compare{k.compare}})
		equal(c, text(k.compare), r.Succeeded, k.held)
	}
}

// results returns the four comparisons of a value that lies at +1, 0 or -1 of the
// operand with that operand: value op operand.
func results(sign int, with func(pb.Compare_CompareResult) *pb.Compare) []compareCase {
	return []compareCase{
		{with(pb.Compare_EQUAL), sign == 0},
		{with(pb.Compare_NOT_EQUAL), sign != 0},
		{with(pb.Compare_GREATER), sign > 0},
		{with(pb.Compare_LESS), sign < 0},
	}
}

func txnCompares(c *C) {
	// version 3, create revision, mod revision and value all differ
	create := c.put("a", "1").Header.Revision
	c.put("a", "2")
	mod := c.put("a", "m").Header.Revision
	key := c.key("a")
	for sign := -1; sign <= 1; sign++ {
		d := int64(sign)
		c.compares(results(sign, func(r pb.Compare_CompareResult) *pb.Compare {
			return &pb.Compare{Key: key, Target: pb.Compare_VERSION, Result: r, TargetUnion: &pb.Compare_Version{Version: 3 - d}}
		}))
		c.compares(results(sign, func(r pb.Compare_CompareResult) *pb.Compare {
			return &pb.Compare{Key: key, Target: pb.Compare_CREATE, Result: r, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: create - d}}
		}))
		c.compares(results(sign, func(r pb.Compare_CompareResult) *pb.Compare {
			return &pb.Compare{Key: key, Target: pb.Compare_MOD, Result: r, TargetUnion: &pb.Compare_ModRevision{ModRevision: mod - d}}
		}))
		value := []string{"n", "m", "l"}[sign+1]
		c.compares(results(sign, func(r pb.Compare_CompareResult) *pb.Compare {
			return &pb.Compare{Key: key, Target: pb.Compare_VALUE, Result: r, TargetUnion: &pb.Compare_Value{Value: []byte(value)}}
		}))
	}
}

func txnCompareLease(c *C) {
	id := c.grant(600)
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Lease: id})
	c.must(err, "put with lease")
	for sign := -1; sign <= 1; sign++ {
		c.compares(results(sign, func(r pb.Compare_CompareResult) *pb.Compare {
			return &pb.Compare{Key: c.key("a"), Target: pb.Compare_LEASE, Result: r, TargetUnion: &pb.Compare_Lease{Lease: id - int64(sign)}}
		}))
	}
	c.revoke(id)
}

func txnCompareAbsent(c *C) {
	key := c.key("absent")
	c.compares([]compareCase{
		{compareMod(key, 0), true},
		{compareMod(key, 1), false},
		{&pb.Compare{Key: key, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 0}}, true},
		{&pb.Compare{Key: key, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: 0}}, false},
		{&pb.Compare{Key: key, Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 0}}, true},
		{&pb.Compare{Key: key, Target: pb.Compare_LEASE, TargetUnion: &pb.Compare_Lease{Lease: 0}}, true},
		// No comparison with the value of a key that does not exist holds.
		{&pb.Compare{Key: key, Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: nil}}, false},
		{&pb.Compare{Key: key, Target: pb.Compare_VALUE, Result: pb.Compare_NOT_EQUAL, TargetUnion: &pb.Compare_Value{Value: []byte("x")}}, false},
		{&pb.Compare{Key: key, Target: pb.Compare_VALUE, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_Value{Value: []byte("x")}}, false},
		// No operand is an operand of zero.
		{&pb.Compare{Key: key, Target: pb.Compare_VERSION}, true},
		{&pb.Compare{Key: key, Target: pb.Compare_MOD}, true},
	})
}

func txnCompareRange(c *C) {
	c.put("a", "1")
	first := c.put("b", "1").Header.Revision
	with := func(r pb.Compare_CompareResult, version int64) *pb.Compare {
		return &pb.Compare{Key: c.key("a"), RangeEnd: c.key("c"), Target: pb.Compare_VERSION, Result: r,
			TargetUnion: &pb.Compare_Version{Version: version}}
	}
	c.compares([]compareCase{{with(pb.Compare_EQUAL, 1), true}})
	c.put("b", "2")
	c.compares([]compareCase{
		{with(pb.Compare_EQUAL, 1), false}, // b is at 2 by now
		{with(pb.Compare_LESS, 3), true},
		{with(pb.Compare_GREATER, 1), false},
		// An empty range compares as one absent key.
		{&pb.Compare{Key: c.key("x"), RangeEnd: c.key("y"), Target: pb.Compare_MOD}, true},
		{&pb.Compare{Key: c.key("x"), RangeEnd: c.key("y"), Target: pb.Compare_MOD, Result: pb.Compare_GREATER}, false},
		{&pb.Compare{Key: c.key("x"), RangeEnd: c.key("y"), Target: pb.Compare_VALUE, Result: pb.Compare_NOT_EQUAL,
			TargetUnion: &pb.Compare_Value{Value: []byte("x")}}, false},
		// A range up to the end of all keys.
		{&pb.Compare{Key: c.key("b"), RangeEnd: []byte{0}, Target: pb.Compare_MOD, Result: pb.Compare_LESS,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: first}}, false},
	})
}

func txnCompareAll(c *C) {
	c.put("a", "1")
	yes, no := compareMod(c.key("x"), 0), compareMod(c.key("a"), 0)
	for _, k := range []struct {
		list []*pb.Compare
		held bool
	}{
		{[]*pb.Compare{yes, yes}, true}, {[]*pb.Compare{yes, no}, false},
		{[]*pb.Compare{no, yes}, false}, {[]*pb.Compare{no, no}, false}, {nil, true},
	} {
		equal(c, fmt.Sprintf("%d compares", len(k.list)), c.txn(&pb.TxnRequest{Compare: k.list}).Succeeded, k.held)
	}
}

func txnEmpty(c *C) {
	before := c.revision()
	r := c.txn(&pb.TxnRequest{})
	equal(c, "succeeded", r.Succeeded, true)
	equal(c, "number of responses", len(r.Responses), 0)
	equal(c, "revision of the answer", r.Header.Revision, before)
	equal(c, "revision after", c.revision(), before)
}

func txnReadOnly(c *C) {
	rev := c.put("a", "1").Header.Revision
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opGet(c.key("a")), opGet(c.key("b"))}})
	equal(c, "revision", r.Header.Revision, rev)
	equal(c, "count of a", r.Responses[0].GetResponseRange().GetCount(), 1)
	equal(c, "count of b", r.Responses[1].GetResponseRange().GetCount(), 0)
	equal(c, "revision after", c.revision(), rev)
}

func txnOneRevision(c *C) {
	rev := c.put("c", "1").Header.Revision
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		opPut(c.key("a"), "1"), opDelete(c.key("c"), nil), opPut(c.key("b"), "1")}})
	equal(c, "revision", r.Header.Revision, rev+1)
	equal(c, "revision after", c.revision(), rev+1)
	for _, kv := range c.rng(c.all()).Kvs {
		equal(c, "mod revision", kv.ModRevision, rev+1)
		equal(c, "create revision", kv.CreateRevision, rev+1)
	}
	equal(c, "keys", c.names(c.rng(c.all())), "a b")
	equal(c, "count one revision before", c.rng(&pb.RangeRequest{Key: c.key(""), RangeEnd: c.end(""), Revision: rev}).Count, 1)
}

func txnReadsOwn(c *C) {
	c.put("a", "old")
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		opGet(c.key("a")), opPut(c.key("a"), "new"), opGet(c.key("a")), opDelete(c.key("b"), c.key("c")), opRange(c.all())}})
	equal(c, "value before", string(r.Responses[0].GetResponseRange().Kvs[0].Value), "old")
	after := r.Responses[2].GetResponseRange()
	equal(c, "value after", string(after.Kvs[0].Value), "new")
	equal(c, "mod revision after", after.Kvs[0].ModRevision, r.Header.Revision)
	equal(c, "version after", after.Kvs[0].Version, 2)
	equal(c, "range after", c.names(r.Responses[4].GetResponseRange()), "a")
}

// txnRangeOptions runs Ranges of every option inside a Txn and alone, on unchanging data.
func txnRangeOptions(c *C) {
	sorted(c)
	old := c.revision() - 3
	for _, r := range rangeVariants(c, old) {
		alone := c.rng(r)
		got := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opRange(r)}})
		within := proto.CloneOf(got.Responses[0].GetResponseRange())
		equal(c, "revision of the txn", got.Header.Revision, alone.Header.Revision)
		within.Header, alone.Header = nil, nil
		equalProto(c, "in a txn: "+text(r), within, alone)
	}
}

// rangeVariants is one Range per option and some pairs, over the keys of sorted.
func rangeVariants(c *C, old int64) []*pb.RangeRequest {
	variants := []*pb.RangeRequest{
		{}, {Limit: 2}, {Revision: old}, {SortOrder: pb.RangeRequest_DESCEND},
		{SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_VALUE},
		{SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_MOD, Limit: 1},
		{KeysOnly: true}, {CountOnly: true}, {MinModRevision: old}, {MaxModRevision: old},
		{MinCreateRevision: old - 9}, {MaxCreateRevision: old - 9}, {MinModRevision: old, Limit: 1, KeysOnly: true},
		{Serializable: true, Limit: 3}, {Revision: old, CountOnly: true}, {Revision: old, Limit: 1},
	}
	for _, v := range variants {
		v.Key, v.RangeEnd = c.key(""), c.end("")
	}
	return append(variants, &pb.RangeRequest{Key: c.key("b")}, &pb.RangeRequest{Key: c.key("b"), RangeEnd: c.key("d")})
}

func txnPutOptions(c *C) {
	c.put("a", "kept")
	before := c.get("a").Kvs[0]
	put := func(r *pb.PutRequest) *pb.PutResponse {
		t := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: r}}}})
		return t.Responses[0].GetResponsePut()
	}
	r := put(&pb.PutRequest{Key: c.key("a"), IgnoreValue: true, PrevKv: true})
	equalProto(c, "prev_kv", r.PrevKv, before)
	equal(c, "value", string(c.get("a").Kvs[0].Value), "kept")
	if !c.Endpoint.Capabilities[Leases] {
		return
	}
	id := c.grant(600)
	put(&pb.PutRequest{Key: c.key("a"), Value: []byte("2"), Lease: id})
	put(&pb.PutRequest{Key: c.key("a"), Value: []byte("3"), IgnoreLease: true})
	equal(c, "lease", c.get("a").Kvs[0].Lease, id)
	c.revoke(id)
	equal(c, "count after revoke", c.get("a").Count, 0)
}

func txnDelete(c *C) {
	for _, k := range []string{"a", "b", "c"} {
		c.put(k, k)
	}
	before := c.rng(c.all()).Kvs
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{
			Key: c.key("a"), RangeEnd: c.key("c"), PrevKv: true}}},
	}})
	d := r.Responses[0].GetResponseDeleteRange()
	equal(c, "deleted", d.GetDeleted(), 2)
	equal(c, "number of prev_kvs", len(d.PrevKvs), 2)
	for i := range d.PrevKvs {
		equalProto(c, "prev_kv", d.PrevKvs[i], before[i])
	}
	equal(c, "keys left", c.names(c.rng(c.all())), "c")
}

func txnDeleteOverlap(c *C) {
	for _, k := range []string{"a", "b", "c"} {
		c.put(k, k)
	}
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		opDelete(c.key("a"), c.key("c")), opDelete(c.key("b"), c.key("d"))}})
	equal(c, "deleted by the first", r.Responses[0].GetResponseDeleteRange().Deleted, 2)
	equal(c, "deleted by the second", r.Responses[1].GetResponseDeleteRange().Deleted, 1)
	equal(c, "keys left", c.rng(c.all()).Count, 0)
}

func txnNested(c *C) {
	rev := c.put("a", "1").Header.Revision
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		opPut(c.key("b"), "1"),
		opTxn(&pb.TxnRequest{
			Compare: []*pb.Compare{compareMod(c.key("a"), rev)},
			Success: []*pb.RequestOp{opPut(c.key("c"), "1"), opTxn(&pb.TxnRequest{
				Compare: []*pb.Compare{compareMod(c.key("a"), 0)},
				Success: []*pb.RequestOp{opPut(c.key("no"), "1")},
				Failure: []*pb.RequestOp{opPut(c.key("d"), "1"), opGet(c.key("b"))},
			})},
			Failure: []*pb.RequestOp{opPut(c.key("no"), "1")},
		}),
		opRange(c.all()),
	}})
	equal(c, "revision", r.Header.Revision, rev+1)
	equal(c, "revision after", c.revision(), rev+1)
	inner := r.Responses[1].GetResponseTxn()
	equal(c, "inner succeeded", inner.GetSucceeded(), true)
	innermost := inner.Responses[1].GetResponseTxn()
	equal(c, "innermost succeeded", innermost.GetSucceeded(), false)
	equal(c, "innermost sees the outermost's put", innermost.Responses[1].GetResponseRange().GetCount(), 1)
	equal(c, "keys seen at the end", c.names(r.Responses[2].GetResponseRange()), "a b c d")
	for _, kv := range c.rng(c.all()).Kvs[1:] {
		equal(c, "mod revision", kv.ModRevision, rev+1)
	}
}

// txnNestedCompare: the compares of nested Txns are all decided before the first operation.
func txnNestedCompare(c *C) {
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		opPut(c.key("a"), "1"),
		opTxn(&pb.TxnRequest{
			Compare: []*pb.Compare{compareMod(c.key("a"), 0)},
			Success: []*pb.RequestOp{opPut(c.key("before"), "1")},
			Failure: []*pb.RequestOp{opPut(c.key("after"), "1")},
		}),
	}})
	equal(c, "inner succeeded", r.Responses[1].GetResponseTxn().GetSucceeded(), true)
	equal(c, "keys", c.names(c.rng(c.all())), "a before")
}

func txnDeleteAbsent(c *C) {
	before := c.revision()
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opDelete(c.key("a"), nil), opDelete(c.key("b"), c.key("z"))}})
	equal(c, "revision of the answer", r.Header.Revision, before)
	equal(c, "revision after", c.revision(), before)
}

func txnHeaders(c *C) {
	rev := c.put("a", "1").Header.Revision
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		opGet(c.key("a")), opPut(c.key("a"), "2"), opGet(c.key("a")), opDelete(c.key("b"), nil)}})
	c.header("txn", r.Header)
	equal(c, "revision", r.Header.Revision, rev+1)
	// The headers within carry a revision and nothing else.
	for i, want := range []int64{rev, rev + 1, rev + 1, rev + 1} {
		var h *pb.ResponseHeader
		switch op := r.Responses[i].Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			h = op.ResponseRange.Header
		case *pb.ResponseOp_ResponsePut:
			h = op.ResponsePut.Header
		case *pb.ResponseOp_ResponseDeleteRange:
			h = op.ResponseDeleteRange.Header
		}
		equalProto(c, fmt.Sprintf("header of response %d", i), h, &pb.ResponseHeader{Revision: want})
	}
}

func txnMaxOps(c *C) {
	t := &pb.TxnRequest{}
	for i := range 128 {
		key := c.key(fmt.Sprintf("%03d", i))
		t.Compare = append(t.Compare, compareMod(key, 0))
		t.Success = append(t.Success, opPut(key, "1"))
		t.Failure = append(t.Failure, opGet(key))
	}
	equal(c, "succeeded at first", c.txn(t).Succeeded, true)
	r := c.txn(t)
	equal(c, "succeeded again", r.Succeeded, false)
	equal(c, "number of responses", len(r.Responses), 128)
	equal(c, "count", c.rng(c.all()).Count, 128)
}
