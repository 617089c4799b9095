package conformance

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// kvCases are the cases of Put and DeleteRange.
func kvCases() []Case {
	return []Case{
		{Name: "kv/put-and-get", RPC: "KV.Put", Covers: []string{"PutRequest.key", "PutRequest.value"}, Run: kvPutAndGet},
		{Name: "kv/put-version-and-revisions", RPC: "KV.Put", Run: kvVersions},
		{Name: "kv/put-empty-value", RPC: "KV.Put", Run: kvEmptyValue},
		{Name: "kv/put-binary-key-and-value", RPC: "KV.Put", Run: kvBinary},
		{Name: "kv/put-large-value", RPC: "KV.Put", Run: kvLargeValue},
		{Name: "kv/put-prev-kv", RPC: "KV.Put", Covers: []string{"PutRequest.prev_kv"}, Run: kvPutPrev},
		{Name: "kv/put-lease", RPC: "KV.Put", Needs: Leases, Covers: []string{"PutRequest.lease"}, Absent: leaseGrantAbsent, Run: kvPutLease},
		{Name: "kv/put-ignore-value", RPC: "KV.Put", Covers: []string{"PutRequest.ignore_value"}, Run: kvIgnoreValue},
		{Name: "kv/put-ignore-lease", RPC: "KV.Put", Needs: Leases, Covers: []string{"PutRequest.ignore_lease"}, Absent: leaseGrantAbsent, Run: kvIgnoreLease},
		{Name: "kv/put-detaches-lease", RPC: "KV.Put", Needs: Leases, Absent: leaseGrantAbsent, Run: kvDetachLease},
		{Name: "kv/delete-one", RPC: "KV.DeleteRange", Covers: []string{"DeleteRangeRequest.key"}, Run: kvDeleteOne},
		{Name: "kv/delete-absent-makes-no-revision", RPC: "KV.DeleteRange", Run: kvDeleteAbsent},
		{Name: "kv/delete-range", RPC: "KV.DeleteRange", Covers: []string{"DeleteRangeRequest.range_end"}, Run: kvDeleteRange},
		{Name: "kv/delete-prev-kv", RPC: "KV.DeleteRange", Covers: []string{"DeleteRangeRequest.prev_kv"}, Run: kvDeletePrev},
		{Name: "kv/delete-then-create-restarts-version", RPC: "KV.DeleteRange", Run: kvRecreate},
		{Name: "kv/delete-end-before-key", RPC: "KV.DeleteRange", Run: kvDeleteEmptyInterval},
		{Name: "kv/headers", RPC: "KV.Put", Run: kvHeaders},
	}
}

func kvPutAndGet(c *C) {
	p := c.put("a", "1")
	g := c.get("a")
	if len(g.Kvs) != 1 {
		c.Fatalf("got %d keys, want 1", len(g.Kvs))
	}
	equal(c, "key", string(g.Kvs[0].Key), string(c.key("a")))
	equal(c, "value", string(g.Kvs[0].Value), "1")
	equal(c, "mod revision", g.Kvs[0].ModRevision, p.Header.Revision)
	equal(c, "count", g.Count, 1)
	equal(c, "header revision of the read", g.Header.Revision, p.Header.Revision)
	equal(c, "the neighbour's count", c.get("b").Count, 0)
	if p.PrevKv != nil {
		c.Errorf("prev_kv not asked for but given: %s", text(p.PrevKv))
	}
}

func kvVersions(c *C) {
	first := c.put("a", "1").Header.Revision
	second := c.put("a", "2").Header.Revision
	third := c.put("a", "2").Header.Revision
	equal(c, "revision of the second put", second, first+1)
	equal(c, "revision of the third put, of an equal value", third, first+2)
	kv := c.get("a").Kvs[0]
	equal(c, "create revision", kv.CreateRevision, first)
	equal(c, "mod revision", kv.ModRevision, third)
	equal(c, "version", kv.Version, 3)
}

func kvEmptyValue(c *C) {
	c.put("a", "")
	g := c.get("a")
	equal(c, "count", g.Count, 1)
	equal(c, "value length", len(g.Kvs[0].Value), 0)
}

func kvBinary(c *C) {
	key := append(c.key(""), 0, 1, 0xff, 0xfe, 0x80, '\n')
	value := make([]byte, 256)
	for i := range value {
		value[i] = byte(i)
	}
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: key, Value: value})
	c.must(err, "put")
	g := c.rng(&pb.RangeRequest{Key: key})
	equal(c, "count", g.Count, 1)
	if !bytes.Equal(g.Kvs[0].Key, key) || !bytes.Equal(g.Kvs[0].Value, value) {
		c.Errorf("got %q = %q", g.Kvs[0].Key, g.Kvs[0].Value)
	}
	equal(c, "count of the key cut at its NUL", c.rng(&pb.RangeRequest{Key: c.key("x")[:len(c.key(""))]}).Count, 0)
}

func kvLargeValue(c *C) {
	// Just under the request limit of 1.5 MiB, all fields counted.
	value := bytes.Repeat([]byte("0123456789abcdef"), (1<<20+1<<18)/16)
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: value})
	c.must(err, "put")
	if g := c.get("a"); !bytes.Equal(g.Kvs[0].Value, value) {
		c.Errorf("got %d bytes back, want the %d bytes sent", len(g.Kvs[0].Value), len(value))
	}
}

func kvPutPrev(c *C) {
	p, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: []byte("1"), PrevKv: true})
	c.must(err, "first put")
	if p.PrevKv != nil {
		c.Errorf("prev_kv of a new key: %s", text(p.PrevKv))
	}
	before := c.get("a").Kvs[0]
	p, err = c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: []byte("2"), PrevKv: true})
	c.must(err, "second put")
	equalProto(c, "prev_kv", p.PrevKv, before)
}

func kvPutLease(c *C) {
	id := c.grant(600)
	c.put("a", "1")
	equal(c, "lease of a key without", c.get("a").Kvs[0].Lease, 0)
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: []byte("2"), Lease: id})
	c.must(err, "put with lease")
	equal(c, "lease", c.get("a").Kvs[0].Lease, id)
	c.revoke(id)
	equal(c, "count after revoke", c.get("a").Count, 0)
}

func kvIgnoreValue(c *C) {
	c.put("a", "kept")
	p, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), IgnoreValue: true})
	c.must(err, "put with ignore_value")
	kv := c.get("a").Kvs[0]
	equal(c, "value", string(kv.Value), "kept")
	equal(c, "version", kv.Version, 2)
	equal(c, "mod revision", kv.ModRevision, p.Header.Revision)
}

func kvIgnoreLease(c *C) {
	id := c.grant(600)
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: []byte("1"), Lease: id})
	c.must(err, "put with lease")
	_, err = c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: []byte("2"), IgnoreLease: true})
	c.must(err, "put with ignore_lease")
	kv := c.get("a").Kvs[0]
	equal(c, "lease", kv.Lease, id)
	equal(c, "value", string(kv.Value), "2")
	c.revoke(id)
	equal(c, "count after revoke", c.get("a").Count, 0)
}

func kvDetachLease(c *C) {
	id := c.grant(600)
	_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key("a"), Value: []byte("1"), Lease: id})
	c.must(err, "put with lease")
	c.put("a", "2")
	equal(c, "lease after a put without", c.get("a").Kvs[0].Lease, 0)
	c.revoke(id)
	equal(c, "count after the old lease's revoke", c.get("a").Count, 1)
}

func kvDeleteOne(c *C) {
	c.put("a", "1")
	p := c.put("ab", "1")
	d := c.del("a")
	equal(c, "deleted", d.Deleted, 1)
	equal(c, "revision", d.Header.Revision, p.Header.Revision+1)
	equal(c, "keys left", c.names(c.rng(c.all())), "ab")
	if len(d.PrevKvs) != 0 {
		c.Errorf("prev_kvs not asked for but given: %v", d.PrevKvs)
	}
	old := c.rng(&pb.RangeRequest{Key: c.key("a"), Revision: p.Header.Revision})
	equal(c, "count before the delete's revision", old.Count, 1)
}

func kvDeleteAbsent(c *C) {
	before := c.revision()
	d := c.del("a")
	equal(c, "deleted", d.Deleted, 0)
	equal(c, "revision of the answer", d.Header.Revision, before)
	equal(c, "revision after", c.revision(), before)
}

func kvDeleteRange(c *C) {
	for _, k := range []string{"a", "b", "c", "d"} {
		c.put(k, k)
	}
	before := c.revision()
	d, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: c.key("b"), RangeEnd: c.key("d")})
	c.must(err, "delete")
	equal(c, "deleted", d.Deleted, 2)
	equal(c, "one revision for all", d.Header.Revision, before+1)
	equal(c, "keys left", c.names(c.rng(c.all())), "a d")
}

func kvDeletePrev(c *C) {
	c.put("b", "1")
	c.put("a", "2")
	before := c.rng(c.all()).Kvs
	d, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: c.key(""), RangeEnd: c.end(""), PrevKv: true})
	c.must(err, "delete")
	equal(c, "number of prev_kvs", len(d.PrevKvs), 2)
	for i := range d.PrevKvs {
		equalProto(c, "prev_kv", d.PrevKvs[i], before[i])
	}
}

func kvRecreate(c *C) {
	c.put("a", "1")
	c.put("a", "2")
	c.del("a")
	p := c.put("a", "3")
	kv := c.get("a").Kvs[0]
	equal(c, "version", kv.Version, 1)
	equal(c, "create revision", kv.CreateRevision, p.Header.Revision)
}

func kvDeleteEmptyInterval(c *C) {
	c.put("a", "1")
	c.put("b", "1")
	before := c.revision()
	d, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: c.key("b"), RangeEnd: c.key("a")})
	c.must(err, "delete")
	equal(c, "deleted", d.Deleted, 0)
	equal(c, "revision", c.revision(), before)
}

func kvHeaders(c *C) {
	p := c.put("a", "1")
	c.header("put", p.Header)
	g := c.get("a")
	c.header("range", g.Header)
	t := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{opGet(c.key("a"))}})
	c.header("txn", t.Header)
	d := c.del("a")
	c.header("delete", d.Header)
	equal(c, "cluster id", g.Header.ClusterId, p.Header.ClusterId)
	equal(c, "member id", g.Header.MemberId, p.Header.MemberId)
	equal(c, "term", g.Header.RaftTerm, p.Header.RaftTerm)
	_, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: c.key("a"), Revision: d.Header.Revision + 1000000})
	c.wantError(err, codes.OutOfRange, msgFuture)
}
