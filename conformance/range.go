package conformance

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// rangeCases are the cases of the unary Range: each option alone, then together.
func rangeCases() []Case {
	covers := func(fields ...string) []string {
		for i := range fields {
			fields[i] = "RangeRequest." + fields[i]
		}
		return fields
	}
	cases := []Case{
		{Name: "range/key", Covers: covers("key"), Run: rangeKey},
		{Name: "range/end", Covers: covers("range_end"), Run: rangeEnd},
		{Name: "range/end-nul-is-from-key", Run: rangeFromKey},
		{Name: "range/end-before-key", Run: rangeEmptyInterval},
		{Name: "range/order-is-bytewise", Run: rangeBytewise},
		{Name: "range/limit", Covers: covers("limit"), Run: rangeLimit},
		{Name: "range/paging", Run: rangePaging},
		{Name: "range/revision", Covers: covers("revision"), Run: rangeRevision},
		{Name: "range/revision-of-many", Run: rangeOldRange},
		{Name: "range/keys-only", Covers: covers("keys_only"), Run: rangeKeysOnly},
		{Name: "range/count-only", Covers: covers("count_only"), Run: rangeCountOnly},
		{Name: "range/sort-order", Covers: covers("sort_order"), Run: rangeSortOrder},
		{Name: "range/sort-target", Covers: covers("sort_target"), Run: rangeSortTarget},
		{Name: "range/sort-then-limit", Run: rangeSortLimit},
		{Name: "range/min-mod-revision", Covers: covers("min_mod_revision"), Run: rangeMinMod},
		{Name: "range/max-mod-revision", Covers: covers("max_mod_revision"), Run: rangeMaxMod},
		{Name: "range/min-create-revision", Covers: covers("min_create_revision"), Run: rangeMinCreate},
		{Name: "range/max-create-revision", Covers: covers("max_create_revision"), Run: rangeMaxCreate},
		{Name: "range/filter-then-limit", Run: rangeFilterLimit},
		{Name: "range/serializable-reads-too", Run: rangeSerializable},
		{Name: "range/serializable-without-quorum", Condition: NoQuorum, Slow: true, Covers: covers("serializable"), Run: rangeNoQuorum},
		{Name: "range/many-keys", Run: rangeManyKeys},
	}
	for i := range cases {
		cases[i].RPC = "KV.Range"
	}
	return cases
}

func rangeKey(c *C) {
	c.put("a", "1")
	c.put("b", "2")
	equal(c, "keys", c.names(c.get("a")), "a")
	equal(c, "keys", c.names(c.get("b")), "b")
	r := c.get("c")
	equal(c, "count of an absent key", r.Count, 0)
	equal(c, "keys of an absent key", len(r.Kvs), 0)
	equal(c, "more", r.More, false)
}

func rangeEnd(c *C) {
	for _, k := range []string{"b", "a", "c", "bb"} {
		c.put(k, k)
	}
	r := c.rng(&pb.RangeRequest{Key: c.key("a"), RangeEnd: c.key("c")})
	equal(c, "keys of [a, c)", c.names(r), "a b bb")
	equal(c, "count", r.Count, 3)
	equal(c, "more", r.More, false)
	r = c.rng(&pb.RangeRequest{Key: c.key("a\x00"), RangeEnd: c.key("bb")})
	equal(c, "keys of [a\\0, bb)", c.names(r), "b")
}

func rangeFromKey(c *C) {
	c.put("a", "1")
	c.put("b", "1")
	r := c.rng(&pb.RangeRequest{Key: c.key("b"), RangeEnd: []byte{0}, Limit: 1})
	equal(c, "first key from b on", c.names(r), "b")
	// Whatever else the server holds lies in [end of the case's keys, oo) too.
	rest := c.rng(&pb.RangeRequest{Key: c.end(""), RangeEnd: []byte{0}, CountOnly: true})
	equal(c, "count from b on", r.Count, 1+rest.Count)
	equal(c, "more", r.More, rest.Count > 0)
	every := c.rng(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	below := c.rng(&pb.RangeRequest{Key: []byte{0}, RangeEnd: c.key(""), CountOnly: true})
	equal(c, "count of all keys", every.Count, below.Count+2+rest.Count)
}

func rangeEmptyInterval(c *C) {
	c.put("a", "1")
	c.put("b", "1")
	r := c.rng(&pb.RangeRequest{Key: c.key("b"), RangeEnd: c.key("a")})
	equal(c, "count", r.Count, 0)
	equal(c, "keys", c.names(r), "")
	r = c.rng(&pb.RangeRequest{Key: c.key("a"), RangeEnd: c.key("a")})
	equal(c, "count of [a, a)", r.Count, 0)
}

func rangeBytewise(c *C) {
	for _, k := range []string{"\xff", "b", "\x00", "B", "a\x00", "a", "é"} {
		c.put(k, "")
	}
	equal(c, "keys", c.names(c.rng(c.all())), "\x00 B a a\x00 b é \xff")
}

func rangeLimit(c *C) {
	for _, k := range []string{"a", "b", "c"} {
		c.put(k, k)
	}
	for _, k := range []struct {
		limit int64
		keys  string
		more  bool
	}{{0, "a b c", false}, {1, "a", true}, {2, "a b", true}, {3, "a b c", false}, {4, "a b c", false}} {
		r := c.all()
		r.Limit = k.limit
		got := c.rng(r)
		equal(c, fmt.Sprintf("keys with limit %d", k.limit), c.names(got), k.keys)
		equal(c, fmt.Sprintf("more with limit %d", k.limit), got.More, k.more)
		equal(c, fmt.Sprintf("count with limit %d", k.limit), got.Count, 3)
	}
}

func rangePaging(c *C) {
	const keys, page = 57, 10
	for i := range keys {
		c.put(fmt.Sprintf("%03d", i), "v")
	}
	rev := c.revision()
	from := c.key("")
	for seen := 0; ; {
		// Writes between the pages must not show.
		c.put(fmt.Sprintf("%03d-new", seen), "late")
		r := c.rng(&pb.RangeRequest{Key: from, RangeEnd: c.end(""), Limit: page, Revision: rev})
		equal(c, "count of what remains", r.Count, int64(keys-seen))
		for _, kv := range r.Kvs {
			equal(c, "key", string(kv.Key), string(c.key(fmt.Sprintf("%03d", seen))))
			seen++
		}
		equal(c, "more", r.More, seen < keys)
		if !r.More || len(r.Kvs) == 0 {
			equal(c, "keys seen", seen, keys)
			return
		}
		from = append(r.Kvs[len(r.Kvs)-1].Key, 0)
	}
}

func rangeRevision(c *C) {
	r0 := c.revision()
	r1 := c.put("a", "1").Header.Revision
	r2 := c.put("a", "2").Header.Revision
	r3 := c.del("a").Header.Revision
	r4 := c.put("a", "4").Header.Revision
	for _, k := range []struct {
		rev     int64
		value   string
		version int64
	}{{r0, "", 0}, {r1, "1", 1}, {r2, "2", 2}, {r3, "", 0}, {r4, "4", 1}} {
		got := c.rng(&pb.RangeRequest{Key: c.key("a"), Revision: k.rev})
		what := fmt.Sprintf("at first revision + %d: ", k.rev-r0)
		equal(c, what+"header revision", got.Header.Revision, r4)
		if k.version == 0 {
			equal(c, what+"count", got.Count, 0)
			continue
		}
		if len(got.Kvs) != 1 {
			c.Fatalf("%sgot %d keys, want 1", what, len(got.Kvs))
		}
		equal(c, what+"value", string(got.Kvs[0].Value), k.value)
		equal(c, what+"version", got.Kvs[0].Version, k.version)
		equal(c, what+"mod revision", got.Kvs[0].ModRevision, k.rev)
	}
}

func rangeOldRange(c *C) {
	c.put("a", "1")
	c.put("b", "1")
	rev := c.put("c", "1").Header.Revision
	c.del("a")
	c.put("b", "2")
	c.put("d", "1")
	r := c.all()
	r.Revision = rev
	got := c.rng(r)
	equal(c, "keys at the old revision", c.names(got), "a b c")
	equal(c, "count at the old revision", got.Count, 3)
	equal(c, "value of b then", string(got.Kvs[1].Value), "1")
	r.CountOnly = true
	equal(c, "count-only at the old revision", c.rng(r).Count, 3)
	equal(c, "keys now", c.names(c.rng(c.all())), "b c d")
}

func rangeKeysOnly(c *C) {
	c.put("a", "1")
	c.put("b", "2")
	full := c.rng(c.all())
	r := c.all()
	r.KeysOnly = true
	got := c.rng(r)
	equal(c, "keys", c.names(got), "a b")
	equal(c, "count", got.Count, 2)
	for i, kv := range got.Kvs {
		want := full.Kvs[i]
		want.Value = nil
		equalProto(c, "key without its value", kv, want)
	}
}

func rangeCountOnly(c *C) {
	for _, k := range []string{"a", "b", "c"} {
		c.put(k, k)
	}
	r := c.all()
	r.CountOnly = true
	got := c.rng(r)
	equal(c, "count", got.Count, 3)
	equal(c, "number of keys", len(got.Kvs), 0)
	equal(c, "more", got.More, false)
	r.Limit = 2
	got = c.rng(r)
	equal(c, "count with limit 2", got.Count, 3)
	equal(c, "number of keys with limit 2", len(got.Kvs), 0)
}

// sorted puts keys whose order differs for each sort target:
//
//	key      a b c d
//	version  b c d a
//	create   d c a b
//	mod      c d b a
//	value    c a d b
func sorted(c *C) {
	values := map[string]string{"a": "2", "b": "4", "c": "1", "d": "3"}
	for _, k := range strings.Fields("d c a b c c d d d b a a a a") {
		c.put(k, values[k])
	}
	// versions: a 5, b 2, c 3, d 4; last written: c, d, b, a
}

func rangeSortOrder(c *C) {
	sorted(c)
	for _, k := range []struct {
		order pb.RangeRequest_SortOrder
		keys  string
	}{{pb.RangeRequest_NONE, "a b c d"}, {pb.RangeRequest_ASCEND, "a b c d"}, {pb.RangeRequest_DESCEND, "d c b a"}} {
		r := c.all()
		r.SortOrder = k.order
		equal(c, k.order.String(), c.names(c.rng(r)), k.keys)
	}
}

func rangeSortTarget(c *C) {
	sorted(c)
	for _, k := range []struct {
		target pb.RangeRequest_SortTarget
		keys   string
	}{
		{pb.RangeRequest_KEY, "a b c d"},
		{pb.RangeRequest_VERSION, "b c d a"},
		{pb.RangeRequest_CREATE, "d c a b"},
		{pb.RangeRequest_MOD, "c d b a"},
		{pb.RangeRequest_VALUE, "c a d b"},
	} {
		r := c.all()
		r.SortTarget, r.SortOrder = k.target, pb.RangeRequest_ASCEND
		equal(c, "ascending "+k.target.String(), c.names(c.rng(r)), k.keys)
		r.SortOrder = pb.RangeRequest_DESCEND
		equal(c, "descending "+k.target.String(), c.names(c.rng(r)), reverse(k.keys))
		// Without an order, etcd sorts ascending by any target but the key.
		r.SortOrder = pb.RangeRequest_NONE
		equal(c, "no order "+k.target.String(), c.names(c.rng(r)), k.keys)
	}
}

func reverse(words string) string {
	w := strings.Fields(words)
	for i, j := 0, len(w)-1; i < j; i, j = i+1, j-1 {
		w[i], w[j] = w[j], w[i]
	}
	return strings.Join(w, " ")
}

func rangeSortLimit(c *C) {
	sorted(c)
	r := c.all()
	r.SortTarget, r.SortOrder, r.Limit = pb.RangeRequest_MOD, pb.RangeRequest_DESCEND, 2
	got := c.rng(r)
	equal(c, "the two written last", c.names(got), "a b")
	equal(c, "more", got.More, true)
	equal(c, "count", got.Count, 4)
	r.KeysOnly, r.Limit, r.SortTarget = true, 1, pb.RangeRequest_VALUE
	got = c.rng(r)
	equal(c, "number of keys, keys only, by value", len(got.Kvs), 1)
	equal(c, "length of its value", len(got.Kvs[0].Value), 0)
}

// revs puts a, b, c once and then a again, and returns the revisions of the puts.
func revs(c *C) (a, b, d, a2 int64) {
	a = c.put("a", "1").Header.Revision
	b = c.put("b", "1").Header.Revision
	d = c.put("c", "1").Header.Revision
	a2 = c.put("a", "2").Header.Revision
	return a, b, d, a2
}

// filtered checks the keys that a filtered range gives; the count is of the whole range.
func filtered(c *C, r *pb.RangeRequest, keys string) {
	c.Helper()
	r.Key, r.RangeEnd = c.key(""), c.end("")
	got := c.rng(r)
	equal(c, "keys of "+text(r), c.names(got), keys)
	equal(c, "count", got.Count, 3)
	equal(c, "more", got.More, false)
}

func rangeMinMod(c *C) {
	_, b, d, a2 := revs(c)
	filtered(c, &pb.RangeRequest{MinModRevision: b}, "a b c")
	filtered(c, &pb.RangeRequest{MinModRevision: d}, "a c")
	filtered(c, &pb.RangeRequest{MinModRevision: a2}, "a")
	filtered(c, &pb.RangeRequest{MinModRevision: a2 + 1}, "")
}

func rangeMaxMod(c *C) {
	a, b, d, a2 := revs(c)
	filtered(c, &pb.RangeRequest{MaxModRevision: a2}, "a b c")
	filtered(c, &pb.RangeRequest{MaxModRevision: d}, "b c")
	filtered(c, &pb.RangeRequest{MaxModRevision: b}, "b")
	filtered(c, &pb.RangeRequest{MaxModRevision: a}, "")
}

func rangeMinCreate(c *C) {
	a, b, d, a2 := revs(c)
	filtered(c, &pb.RangeRequest{MinCreateRevision: a}, "a b c")
	filtered(c, &pb.RangeRequest{MinCreateRevision: b}, "b c")
	filtered(c, &pb.RangeRequest{MinCreateRevision: d}, "c")
	filtered(c, &pb.RangeRequest{MinCreateRevision: a2}, "")
}

func rangeMaxCreate(c *C) {
	a, b, d, _ := revs(c)
	filtered(c, &pb.RangeRequest{MaxCreateRevision: d}, "a b c")
	filtered(c, &pb.RangeRequest{MaxCreateRevision: b}, "a b")
	filtered(c, &pb.RangeRequest{MaxCreateRevision: a}, "a")
	filtered(c, &pb.RangeRequest{MaxCreateRevision: a - 1}, "")
}

func rangeFilterLimit(c *C) {
	_, b, _, _ := revs(c)
	// The limit counts what is left after the filter.
	r := c.all()
	r.MinCreateRevision, r.Limit = b, 1
	got := c.rng(r)
	equal(c, "keys", c.names(got), "b")
	equal(c, "more", got.More, true)
	equal(c, "count", got.Count, 3)
	r.Limit = 2
	got = c.rng(r)
	equal(c, "keys with limit 2", c.names(got), "b c")
	equal(c, "more with limit 2", got.More, false)
}

func rangeSerializable(c *C) {
	c.put("a", "1")
	r := c.rng(&pb.RangeRequest{Key: c.key("a"), Serializable: true})
	equal(c, "count", r.Count, 1)
	c.header("serializable range", r.Header)
}

func rangeNoQuorum(c *C) {
	r, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: c.key("a"), Serializable: true})
	c.must(err, "serializable range")
	equal(c, "count", r.Count, 0)
	_, err = c.KV.Range(c.Ctx, &pb.RangeRequest{Key: c.key("a")})
	c.wantError(err, codes.Unavailable, "etcdserver: request timed out")
}

func rangeManyKeys(c *C) {
	const keys = 3000
	c.fill(keys, 200)
	got := c.rng(c.all())
	equal(c, "count", got.Count, keys)
	equal(c, "number of keys", len(got.Kvs), keys)
	for i, kv := range got.Kvs {
		if want := string(c.key(fmt.Sprintf("%06d", i))); string(kv.Key) != want {
			c.Fatalf("key %d: got %q, want %q", i, kv.Key, want)
		}
	}
}

// fill puts n keys 000000, 000001, ... with values of size bytes, 100 per Txn.
func (c *C) fill(n, size int) {
	c.Helper()
	value := strings.Repeat("x", size)
	for at := 0; at < n; at += 100 {
		t := &pb.TxnRequest{}
		for i := at; i < min(n, at+100); i++ {
			t.Success = append(t.Success, opPut(c.key(fmt.Sprintf("%06d", i)), value))
		}
		c.txn(t)
	}
}
