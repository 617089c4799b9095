package conformance

import (
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// rangeStreamCases are the cases of RangeStream.
func rangeStreamCases() []Case {
	covers := func(fields ...string) []string {
		for i := range fields {
			fields[i] = "RangeStream." + fields[i]
		}
		return fields
	}
	cases := []Case{
		{Name: "rangestream/same-as-range", Covers: covers("key", "range_end", "limit", "revision", "keys_only", "count_only"), Run: streamSame},
		{Name: "rangestream/many-chunks", Run: streamChunks},
		{Name: "rangestream/header-only-at-the-end", Run: streamHeader},
		{Name: "rangestream/pinned-revision", Run: streamPinned},
		{Name: "rangestream/empty", Run: streamEmpty},
		{Name: "rangestream/serializable-without-quorum", Condition: NoQuorum, Slow: true, Covers: covers("serializable"), Run: streamNoQuorum},
		{Name: "rangestream/compacted-and-future", Run: streamRevisions},
		{Name: "rangestream/revision-filters-unimplemented",
			Covers: covers("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"), Run: streamFilters},
		{Name: "badinput/row-63-rangestream-sorted", Covers: covers("sort_order", "sort_target"), Run: streamSorted},
	}
	for i := range cases {
		cases[i].RPC = "KV.RangeStream"
	}
	return cases
}

// chunks returns the messages of a RangeStream, or its error.
func (c *C) chunks(r *pb.RangeRequest) ([]*pb.RangeResponse, error) {
	stream, err := c.KV.RangeStream(c.Ctx, r)
	if err != nil {
		return nil, err
	}
	var chunks []*pb.RangeResponse
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return chunks, nil
		}
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, m.GetRangeResponse())
	}
}

// streamed returns a RangeStream's messages put together.
func (c *C) streamed(r *pb.RangeRequest) *pb.RangeResponse {
	c.Helper()
	chunks, err := c.chunks(r)
	c.must(err, "range stream %s", text(r))
	whole := &pb.RangeResponse{}
	for _, m := range chunks {
		proto.Merge(whole, m)
	}
	return whole
}

func streamSame(c *C) {
	sorted(c)
	old := c.revision() - 3
	for _, r := range rangeVariants(c, old) {
		if r.SortOrder != pb.RangeRequest_NONE || r.MinModRevision+r.MaxModRevision+r.MinCreateRevision+r.MaxCreateRevision != 0 {
			continue
		}
		equalProto(c, text(r), c.streamed(r), c.rng(r))
	}
}

func streamChunks(c *C) {
	const keys = 4000
	c.fill(keys, 1000)
	chunks, err := c.chunks(c.all())
	c.must(err, "range stream")
	// 4 MB may not travel in fewer messages than the request limit allows.
	if len(chunks) < 3 {
		c.Errorf("%d keys of 1000 bytes came in %d messages", keys, len(chunks))
	}
	n := 0
	for _, m := range chunks {
		for _, kv := range m.Kvs {
			if want := string(c.key(fmt.Sprintf("%06d", n))); string(kv.Key) != want || len(kv.Value) != 1000 {
				c.Fatalf("key %d: got %q with %d bytes, want %q", n, kv.Key, len(kv.Value), want)
			}
			n++
		}
	}
	equal(c, "keys", n, keys)
	r := c.all()
	r.Limit = keys / 2
	got := c.streamed(r)
	equal(c, "keys with a limit", len(got.Kvs), keys/2)
	equal(c, "more", got.More, true)
	equal(c, "count", got.Count, keys)
}

func streamHeader(c *C) {
	c.fill(500, 100)
	chunks, err := c.chunks(c.all())
	c.must(err, "range stream")
	for i, m := range chunks[:len(chunks)-1] {
		if m.Header != nil || m.More || m.Count != 0 {
			c.Errorf("message %d of %d has a header, more or count: %v %v %v", i, len(chunks), m.Header, m.More, m.Count)
		}
		if len(m.Kvs) == 0 {
			c.Errorf("message %d of %d is empty", i, len(chunks))
		}
	}
	last := chunks[len(chunks)-1]
	c.header("last message", last.Header)
	equal(c, "header revision", last.Header.Revision, c.revision())
	equal(c, "count", last.Count, 500)
	equal(c, "more", last.More, false)
}

func streamPinned(c *C) {
	const keys = 4000
	c.fill(keys, 1000)
	rev := c.revision()
	stream, err := c.KV.RangeStream(c.Ctx, c.all())
	c.must(err, "range stream")
	whole := &pb.RangeResponse{}
	for first := true; ; first = false {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		c.must(err, "receive")
		proto.Merge(whole, m.GetRangeResponse())
		if first {
			_, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: c.key(""), RangeEnd: c.end("")})
			c.must(err, "delete while the stream runs")
			c.put("000001", "late")
		}
	}
	equal(c, "keys", len(whole.Kvs), keys)
	equal(c, "count", whole.Count, keys)
	equal(c, "header revision: the pinned one", whole.Header.GetRevision(), rev)
	for _, kv := range whole.Kvs {
		if kv.ModRevision > rev || len(kv.Value) != 1000 {
			c.Fatalf("%q of revision %d shows at revision %d", kv.Key, kv.ModRevision, rev)
		}
	}
}

func streamEmpty(c *C) {
	for _, r := range []*pb.RangeRequest{c.all(), {Key: c.key("a")}} {
		chunks, err := c.chunks(r)
		c.must(err, "range stream")
		equal(c, "messages", len(chunks), 1)
		c.header("empty range stream", chunks[0].Header)
		equal(c, "count", chunks[0].Count, 0)
	}
}

func streamNoQuorum(c *C) {
	got := c.streamed(&pb.RangeRequest{Key: c.key("a"), Serializable: true})
	equal(c, "count", got.Count, 0)
	_, err := c.chunks(&pb.RangeRequest{Key: c.key("a")})
	c.wantError(err, codes.Unavailable, "etcdserver: request timed out")
}

func streamRevisions(c *C) {
	_, err := c.chunks(&pb.RangeRequest{Key: c.key("a"), Revision: c.revision() + 1000})
	c.wantError(err, codes.OutOfRange, msgFuture)
	old := c.put("a", "1").Header.Revision
	rev := c.put("a", "2").Header.Revision
	c.compact(rev, false)
	_, err = c.chunks(&pb.RangeRequest{Key: c.key("a"), Revision: old})
	c.wantError(err, codes.OutOfRange, msgCompacted)
	_, err = c.chunks(&pb.RangeRequest{})
	c.wantError(err, codes.InvalidArgument, msgEmptyKey)
}

func streamFilters(c *C) {
	for _, r := range []*pb.RangeRequest{{MinModRevision: 1}, {MaxModRevision: 1}, {MinCreateRevision: 1}, {MaxCreateRevision: 1}} {
		r.Key = c.key("a")
		_, err := c.chunks(r)
		c.wantError(err, codes.Unimplemented, msgStreamFilter)
	}
}

func streamSorted(c *C) {
	for _, r := range []*pb.RangeRequest{
		{SortOrder: pb.RangeRequest_DESCEND}, {SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_VALUE},
		{SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_MOD},
	} {
		r.Key = c.key("a")
		_, err := c.chunks(r)
		c.wantError(err, codes.Unimplemented, msgStreamSort)
	}
	_, err := c.chunks(&pb.RangeRequest{Key: c.key("a"), SortOrder: pb.RangeRequest_ASCEND})
	c.must(err, "ascending by key is the default order")
}
