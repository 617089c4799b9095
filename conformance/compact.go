package conformance

import (
	"fmt"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// compactCases are the cases of Compact.
func compactCases() []Case {
	cases := []Case{
		{Name: "compact/revision", Covers: []string{"CompactionRequest.revision"}, Run: compactRevision},
		{Name: "compact/keeps-what-is-current", Run: compactKeeps},
		{Name: "compact/at-current-revision", Run: compactCurrent},
		{Name: "compact/physical", Covers: []string{"CompactionRequest.physical"}, Run: compactPhysical},
		{Name: "compact/header", Run: compactHeader},
	}
	for i := range cases {
		cases[i].RPC = "KV.Compact"
	}
	return cases
}

func compactRevision(c *C) {
	r1 := c.put("a", "1").Header.Revision
	r2 := c.put("a", "2").Header.Revision
	r3 := c.put("a", "3").Header.Revision
	at := func(rev int64) (*pb.RangeResponse, error) {
		return c.KV.Range(c.Ctx, &pb.RangeRequest{Key: c.key("a"), Revision: rev})
	}
	_, err := at(r1)
	c.must(err, "read at the first revision before the compaction")
	c.compact(r2, false)
	_, err = at(r1)
	c.wantError(err, codes.OutOfRange, msgCompacted)
	for rev, want := range map[int64]string{r2: "2", r3: "3"} {
		r, err := at(rev)
		c.must(err, "read at %d", rev)
		equal(c, "value", string(r.Kvs[0].Value), want)
	}
}

func compactKeeps(c *C) {
	c.put("old", "1")
	c.put("deleted", "1")
	c.del("deleted")
	c.put("changed", "1")
	c.put("changed", "2")
	before := c.rng(c.all())
	rev := c.revision()
	c.compact(rev, true)
	equalProto(c, "keys after", c.rng(c.all()), before)
	r := c.all()
	r.Revision = rev
	equalProto(c, "keys at the compacted revision", c.rng(r), before)
	c.put("changed", "3")
	equal(c, "version goes on", c.get("changed").Kvs[0].Version, 3)
	r.Revision = rev
	equal(c, "value at the compacted revision", string(c.rng(r).Kvs[0].Value), "2")
}

func compactCurrent(c *C) {
	rev := c.put("a", "1").Header.Revision
	c.compact(rev, false)
	equal(c, "count at the compacted revision", c.rng(&pb.RangeRequest{Key: c.key("a"), Revision: rev}).Count, 1)
	_, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: c.key("a"), Revision: rev - 1})
	c.wantError(err, codes.OutOfRange, msgCompacted)
}

// compactPhysical: the answer comes after the space is free. Without physical, etcd answers
// at once and removes 1000 revisions each 10 ms.
func compactPhysical(c *C) {
	const revisions, writers = 6000, 32
	value := []byte(strings.Repeat("v", 1000))
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for w := range writers {
		wg.Go(func() {
			for range revisions / writers {
				if _, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key(fmt.Sprint(w)), Value: value}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		c.must(err, "put")
	default:
	}
	used := func() int64 {
		s, err := c.Maintenance.Status(c.Ctx, &pb.StatusRequest{})
		c.must(err, "status")
		return s.DbSizeInUse
	}
	before := used()
	c.compact(c.revision(), true)
	if after := used(); before-after < revisions*1000/2 {
		c.Errorf("dbSizeInUse went from %d to %d; %d bytes of history were compacted", before, after, revisions*1000)
	}
}

func compactHeader(c *C) {
	rev := c.put("a", "1").Header.Revision
	c.put("a", "2")
	r, err := c.KV.Compact(c.Ctx, &pb.CompactionRequest{Revision: rev})
	c.must(err, "compact")
	c.header("compact", r.Header)
	equal(c, "header revision: the current one", r.Header.Revision, rev+1)
}
