package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

func fromKey(k string) backends.RangeOptions {
	return backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte(k), End: []byte{0}}}
}

// table answers ranges over n keys, as etcd does.
type table struct {
	n        int
	value    []byte
	requests []*pb.RangeRequest
}

func (s *table) key(i int) []byte { return fmt.Appendf(nil, "%06d", i) }

func (s *table) kv(i int) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: s.key(i), Value: s.value, CreateRevision: 7, ModRevision: 7, Version: 1}
}

func (s *table) answer(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.requests = append(s.requests, proto.Clone(r).(*pb.RangeRequest))
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 100 + int64(len(s.requests)), MemberId: 1<<63 + 5}}
	for i := range s.n {
		if bytes.Compare(s.key(i), r.Key) < 0 {
			continue
		}
		if resp.Count++; r.Limit > 0 && resp.Count > r.Limit {
			resp.More = true
			continue
		}
		resp.Kvs = append(resp.Kvs, s.kv(i))
	}
	return resp, nil
}

// drain reads a cursor to its end, and checks that the records are s's first ones.
func (s *table) drain(t *testing.T, c backends.Cursor, n int) backends.RangeResult {
	t.Helper()
	defer c.Close()
	i := 0
	for {
		chunk, err := c.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(chunk.Bytes()) > backends.ChunkBytes+proto.Size(s.kv(0))+10 {
			t.Errorf("a chunk of %d bytes", len(chunk.Bytes()))
		}
		count := 0
		for record := range chunk.Records() {
			want, err := proto.Marshal(s.kv(i))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(record, want) {
				t.Fatalf("record %d is %q, want %q", i, record, want)
			}
			i++
			count++
		}
		if count != chunk.Len() {
			t.Errorf("a chunk of %d records says that it has %d", count, chunk.Len())
		}
	}
	if i != n {
		t.Errorf("%d records, want %d", i, n)
	}
	return c.Result()
}

// Without RangeStream a large range is read in pages, all but the first at the
// revision of the first; what the cursor tells is true of the whole.
func TestRangeInPages(t *testing.T) {
	for _, c := range []struct {
		keys, want int
		limit      int64
		pages      int
	}{
		{keys: 0, want: 0, pages: 1},
		{keys: 1000, want: 1000, pages: 1},
		{keys: 1001, want: 1001, pages: 2},
		{keys: 2500, want: 2500, limit: -1, pages: 3},
		{keys: 2500, want: 2000, limit: 2000, pages: 2},
		{keys: 2000, want: 2000, limit: 2000, pages: 2},
		{keys: 2500, want: 1500, limit: 1500, pages: 2},
	} {
		s := &table{n: c.keys, value: make([]byte, 1000)}
		b, _ := (&upstream{ranged: s.answer}).serve(t)
		o := fromKey("0")
		o.Limit = c.limit
		cur, err := b.Range(t.Context(), &backends.RangeRequest{RangeOptions: o, Serializable: true})
		if err != nil {
			t.Fatal(err)
		}
		got := s.drain(t, cur, c.want)
		want := backends.RangeResult{Header: backends.Header{Revision: 101, MemberID: 1<<63 + 5}, Count: int64(c.keys), More: c.want < c.keys}
		if got != want {
			t.Errorf("%+v: got %+v, want %+v", c, got, want)
		}
		if len(s.requests) != c.pages {
			t.Errorf("%+v: %d pages", c, len(s.requests))
		}
		for i, r := range s.requests {
			if want := int64(101); i > 0 && r.Revision != want || i == 0 && r.Revision != 0 || !r.Serializable {
				t.Errorf("%+v: page %d is asked for by %v", c, i, r)
			}
		}
	}
}

// Where there is RangeStream it is used, for what can be large only, and never
// with a negative revision, which etcd would not pin.
func TestRangeStreamed(t *testing.T) {
	s := &table{n: 900, value: make([]byte, 1000)}
	var streams []*pb.RangeRequest
	u := &upstream{ranged: s.answer}
	u.streamed = func(r *pb.RangeRequest, out grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
		streams = append(streams, r)
		if string(r.Key) == "bad" {
			return status.Error(codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
		}
		all, err := s.answer(t.Context(), r)
		if err != nil {
			return err
		}
		for i := 0; i < s.n; i += 100 {
			part := &pb.RangeResponse{Kvs: all.Kvs[i : i+100]}
			if i+100 == s.n {
				part.Header, part.Count, part.More = &pb.ResponseHeader{Revision: 9}, int64(s.n), true
			}
			if err := out.Send(&pb.RangeStreamResponse{RangeResponse: part}); err != nil {
				return err
			}
			if i == 500 && string(r.Key) == "!" {
				return status.Error(codes.Unavailable, "gone")
			}
		}
		return nil
	}
	b, _ := u.serve(t)
	o := fromKey("0")
	o.Revision = -4
	cur, err := b.Range(t.Context(), &backends.RangeRequest{RangeOptions: o})
	if err != nil {
		t.Fatal(err)
	}
	if r := s.drain(t, cur, s.n); r.Count != int64(s.n) || !r.More || r.Header.Revision != 9 {
		t.Errorf("result %+v", r)
	}
	if len(streams) != 1 || streams[0].Revision != 0 {
		t.Errorf("streams %v", streams)
	}
	if _, err := b.Range(t.Context(), &backends.RangeRequest{RangeOptions: fromKey("bad")}); !errors.Is(err, backends.ErrCompacted) {
		t.Errorf("refused stream: %v", err)
	}
	cur, err = b.Range(t.Context(), &backends.RangeRequest{RangeOptions: fromKey("!")})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = cur.Next(t.Context())
	}
	if r, ok := errors.AsType[*backends.Remote](err); !ok || r.Message != "gone" {
		t.Errorf("a stream that ends with an error: %v", err)
	}
	cur.Close()

	before := len(streams)
	for _, o := range []backends.RangeOptions{
		{KeyRange: backends.KeyRange{Key: []byte("0")}},
		{KeyRange: fromKey("0").KeyRange, CountOnly: true},
		{KeyRange: fromKey("0").KeyRange, Limit: unaryRecords},
	} {
		if _, err := b.Range(t.Context(), &backends.RangeRequest{RangeOptions: o}); err != nil {
			t.Fatal(err)
		}
	}
	if len(streams) != before {
		t.Errorf("small ranges were streamed: %v", streams[before:])
	}
}
