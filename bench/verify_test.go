package main

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// pieces cuts an encoded message as the wire may.
func pieces(b []byte, size int) mem.BufferSlice {
	var s mem.BufferSlice
	for chunk := range slices.Chunk(b, size) {
		s = append(s, mem.SliceBuffer(chunk))
	}
	return s
}

func testState() (*state, []int) {
	d := newDataset(sizes{list: 5, paged: 7, others: 16, restart: 40, limit: 3}, 7)
	s := newState(d)
	for n, i := range d.order(1, d.list, d.paged, d.others) {
		s.put(int(i), int64(n+2))
	}
	return s, d.pagedSorted
}

// record is the record that a server must return, built from etcd's own messages.
func record(s *state, i int) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: s.data.keys[i], CreateRevision: s.create[i], ModRevision: s.mod[i], Version: s.version[i],
		Value: s.data.appendValue(nil, i, s.version[i]),
	}
}

// TestRangeVerifier ensures that a right answer passes however it is cut, and that a
// missing, doubled, swapped or damaged record, a wrong count and a wrong "more" do not.
func TestRangeVerifier(t *testing.T) {
	s, sorted := testState()
	want := s.expect(sorted)
	answer := func() *etcdserverpb.RangeResponse {
		r := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: 99, RaftTerm: 3}, Count: 9, More: true}
		for _, i := range sorted {
			r.Kvs = append(r.Kvs, record(s, i))
		}
		return r
	}
	check := func(r *etcdserverpb.RangeResponse, size int) error {
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var got ranged
		if err := (codec{}).Unmarshal(pieces(b, size), &got); err != nil {
			return err
		}
		if got.revision != r.Header.Revision {
			t.Errorf("revision %d, sent %d", got.revision, r.Header.Revision)
		}
		return got.verify(want, 9, true)
	}
	for _, size := range []int{1, 2, 7, 64, 1 << 20} {
		if err := check(answer(), size); err != nil {
			t.Errorf("a right answer in pieces of %d bytes: %v", size, err)
		}
	}
	for name, change := range map[string]func(*etcdserverpb.RangeResponse){
		"missing record":    func(r *etcdserverpb.RangeResponse) { r.Kvs = r.Kvs[1:] },
		"doubled record":    func(r *etcdserverpb.RangeResponse) { r.Kvs = append(r.Kvs, r.Kvs[0]) },
		"swapped records":   func(r *etcdserverpb.RangeResponse) { r.Kvs[0], r.Kvs[1] = r.Kvs[1], r.Kvs[0] },
		"flipped bit":       func(r *etcdserverpb.RangeResponse) { r.Kvs[3].Value[100] ^= 1 },
		"wrong revision":    func(r *etcdserverpb.RangeResponse) { r.Kvs[3].ModRevision++ },
		"wrong version":     func(r *etcdserverpb.RangeResponse) { r.Kvs[3].Version++ },
		"wrong count":       func(r *etcdserverpb.RangeResponse) { r.Count++ },
		"more is not set":   func(r *etcdserverpb.RangeResponse) { r.More = false },
		"a lease too many":  func(r *etcdserverpb.RangeResponse) { r.Kvs[0].Lease = 5 },
		"no records at all": func(r *etcdserverpb.RangeResponse) { r.Kvs = nil },
	} {
		r := answer()
		change(r)
		if err := check(r, 1<<20); err == nil {
			t.Errorf("%s was not noticed", name)
		}
	}
}

// TestStreamVerifier ensures that the chunks of a RangeStream add up to the answer of
// a Range, and that a lost chunk is noticed.
func TestStreamVerifier(t *testing.T) {
	s, sorted := testState()
	want := s.expect(sorted)
	got := ranged{stream: true}
	for chunk := range slices.Chunk(sorted, 3) {
		if got.verify(want, 7, false) == nil {
			t.Error("a stream that is not over passed")
		}
		part := &etcdserverpb.RangeResponse{}
		for _, i := range chunk {
			part.Kvs = append(part.Kvs, record(s, i))
		}
		if chunk[len(chunk)-1] == sorted[len(sorted)-1] {
			part.Header, part.Count = &etcdserverpb.ResponseHeader{Revision: 12}, 7
		}
		b, err := proto.Marshal(&etcdserverpb.RangeStreamResponse{RangeResponse: part})
		if err != nil {
			t.Fatal(err)
		}
		if err := (codec{}).Unmarshal(pieces(b, 11), &got); err != nil {
			t.Fatal(err)
		}
	}
	if err := got.verify(want, 7, false); err != nil || got.revision != 12 {
		t.Errorf("revision %d, %v", got.revision, err)
	}
}

// TestTruncatedAnswer ensures that an answer cut off anywhere is an error or an answer
// that does not verify, never a panic.
func TestTruncatedAnswer(t *testing.T) {
	s, sorted := testState()
	r := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: 99}, Count: 7}
	for _, i := range sorted {
		r.Kvs = append(r.Kvs, record(s, i))
	}
	b, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		var got ranged
		if err := (codec{}).Unmarshal(pieces(b[:n], 5), &got); err == nil && got.verify(s.expect(sorted), 7, false) == nil {
			t.Errorf("the first %d of %d bytes passed", n, len(b))
		}
	}
}

// TestRequests ensures that requests read as what they should be in etcd's own
// messages.
func TestRequests(t *testing.T) {
	s, sorted := testState()
	b := &requestBuilder{data: s.data}
	i := sorted[2]
	value := string(s.data.appendValue(nil, i, 5))
	cases := []struct {
		name string
		got  encoded
		want proto.Message
	}{
		{"range", rangeRequest{key: []byte("a"), end: []byte("b"), limit: 500, revision: 7, countOnly: true}.encode(), &etcdserverpb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b"), Limit: 500, Revision: 7, CountOnly: true}},
		{"get", slices.Clone(b.get(i)), &etcdserverpb.RangeRequest{Key: s.data.keys[i]}},
		{"put", slices.Clone(b.put(i, 5)), &etcdserverpb.PutRequest{Key: s.data.keys[i], Value: []byte(value)}},
		{"guarded", slices.Clone(b.guarded(i, 4, 5)), &etcdserverpb.TxnRequest{
			Compare: []*etcdserverpb.Compare{{Key: s.data.keys[i], Target: etcdserverpb.Compare_MOD, TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: 4}}},
			Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: s.data.keys[i], Value: []byte(value)}}}},
			Failure: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: s.data.keys[i]}}}},
		}},
	}
	for _, c := range cases {
		got := c.want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(c.got, got); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !proto.Equal(got, c.want) {
			t.Errorf("%s reads as %v; it must be %v", c.name, got, c.want)
		}
	}
	if len(value) != smallValue || strings.Contains(value, string(s.data.appendValue(nil, i, 6)[20:])) {
		t.Error("a value has the wrong size, or does not depend on its version")
	}
}

// TestWatchVerifier ensures that a stream takes the next event of its watch and
// refuses one that is doubled, skipped, out of order, a deletion or changed.
func TestWatchVerifier(t *testing.T) {
	s, sorted := testState()
	i := sorted[0]
	stream := func() *watchStream {
		f := &fan{t: &target{state: s}, index: i}
		return &watchStream{fan: f, last: map[int64]*seen{4: {mod: s.mod[i], version: s.version[i]}}}
	}
	event := func(id, mod, version int64) *watched {
		return &watched{id: id, revision: mod, events: [][]byte{s.data.appendRecord(nil, i, s.create[i], mod, version)}}
	}
	mod, version := s.mod[i], s.version[i]
	if err := stream().check(event(4, mod+1, version+1)); err != nil {
		t.Errorf("the next event: %v", err)
	}
	damaged := event(4, mod+1, version+1)
	damaged.events[0] = bytes.Clone(damaged.events[0])
	damaged.events[0][len(damaged.events[0])-1] ^= 1
	deleted := event(4, mod+1, version+1)
	deleted.deletes = 1
	future := event(4, mod+1, version+1)
	future.revision = mod
	for name, w := range map[string]*watched{
		"the last event again": event(4, mod, version), "a skipped event": event(4, mod+2, version+2), "an older revision": event(4, mod-1, version+1),
		"an unknown watch": event(5, mod+1, version+1), "a damaged value": damaged, "a deletion": deleted, "an event above its header": future,
	} {
		if err := stream().check(w); err == nil {
			t.Errorf("%s was not noticed", name)
		}
	}
}

// TestNextBatch ensures that batches hold distinct keys and lose nothing.
func TestNextBatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var order []int32
	counts := map[int32]int{}
	for range 5000 {
		k := int32(rng.IntN(200))
		order = append(order, k)
		counts[k]++
	}
	for rest := order; len(rest) > 0; {
		var taken []int32
		taken, rest = nextBatch(rest)
		seen := map[int32]bool{}
		if len(taken) == 0 || len(taken) > batch {
			t.Fatalf("a batch of %d", len(taken))
		}
		for _, k := range taken {
			if seen[k] {
				t.Fatalf("key %d twice in one batch", k)
			}
			seen[k] = true
			counts[k]--
		}
	}
	for k, n := range counts {
		if n != 0 {
			t.Errorf("key %d: %d puts too few", k, n)
		}
	}
}

// TestReport ensures that medians and ratios are those of the rounds.
func TestReport(t *testing.T) {
	r := report{rows: []row{{name: "x"}}}
	for round, cpu := range [][2]int64{{10, 5}, {30, 9}, {20, 8}} {
		r.figures = append(r.figures,
			figure{row: "x", server: "etcd", round: round, ops: 1000, cpu: 1000 * time.Duration(cpu[0]) * time.Microsecond, took: 1},
			figure{row: "x", server: "shim", round: round, ops: 1000, cpu: 1000 * time.Duration(cpu[1]) * time.Microsecond, took: 1})
	}
	got := r.table(quantities()[0])
	if want := "| x | 20.0 µs | 8.00 µs | 0.40 | 0.30 to 0.50 |"; !strings.Contains(got, want) {
		t.Errorf("the table is\n%s\nand lacks %s", got, want)
	}
}
