package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

var (
	_ backends.Backend = (*Backend)(nil)
	_ backends.Leases  = (*Backend)(nil)
)

// fakeClock moves only by advance.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[chan time.Time]time.Time
	set    chan struct{} // a token for each timer set
}

func newFakeClock() *fakeClock {
	return &fakeClock{
		now:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		timers: make(map[chan time.Time]time.Time),
		set:    make(chan struct{}, 100),
	}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) After(d time.Duration) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.timers[ch] = c.now.Add(d)
	c.set <- struct{}{}
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, ch)
	}
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for ch, at := range c.timers {
		if !at.After(c.now) {
			ch <- c.now
			delete(c.timers, ch)
		}
	}
}

// store is a Backend with short names for what tests do to it.
type store struct {
	*testing.T
	*Backend
	clock *fakeClock
}

func newStore(t *testing.T) *store {
	clock := newFakeClock()
	b := New(clock)
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &store{T: t, Backend: b, clock: clock}
}

func key(s string) backends.KeyRange { return backends.KeyRange{Key: []byte(s)} }

func keys(from, to string) backends.KeyRange {
	return backends.KeyRange{Key: []byte(from), End: []byte(to)}
}

func put(k, v string) backends.Op {
	return backends.Op{Put: &backends.PutOp{Key: []byte(k), Value: []byte(v)}}
}

func putLease(k string, lease int64) backends.Op {
	return backends.Op{Put: &backends.PutOp{Key: []byte(k), Lease: lease}}
}

func del(r backends.KeyRange) backends.Op {
	return backends.Op{Delete: &backends.DeleteOp{KeyRange: r, PrevKV: true}}
}

func read(r backends.KeyRange) backends.Op {
	return backends.Op{Range: &backends.RangeOptions{KeyRange: r}}
}

func (s *store) tryTxn(t backends.TxnOp) (*backends.TxnResult, error) {
	return s.Txn(s.Context(), &backends.TxnRequest{TxnOp: t})
}

func (s *store) do(ops ...backends.Op) *backends.TxnResult {
	s.Helper()
	r, err := s.tryTxn(backends.TxnOp{Success: ops})
	if err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *store) read(o backends.RangeOptions) string {
	s.Helper()
	c, err := s.Range(s.Context(), &backends.RangeRequest{RangeOptions: o})
	if err != nil {
		return err.Error()
	}
	return s.drain(c)
}

// drain writes a cursor as "key=value@mod ... count more".
func (s *store) drain(c backends.Cursor) string {
	s.Helper()
	defer c.Close()
	var out []string
	for {
		chunk, err := c.Next(s.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.Fatal(err)
		}
		for rec := range chunk.Records() {
			out = append(out, s.kv(rec))
		}
		chunk.Release()
	}
	r := c.Result()
	return strings.TrimSpace(fmt.Sprintf("%s #%d more=%v @%d", strings.Join(out, " "), r.Count, r.More, r.Header.Revision))
}

func (s *store) kv(rec []byte) string {
	s.Helper()
	var kv mvccpb.KeyValue
	if err := proto.Unmarshal(rec, &kv); err != nil {
		s.Fatal(err)
	}
	return fmt.Sprintf("%s=%s@%d,%d,v%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
}

func (s *store) equal(got, want string) {
	s.Helper()
	if got != want {
		s.Errorf("got  %s\nwant %s", got, want)
	}
}

func (s *store) fails(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("got error %v, want %v", err, want)
	}
}

// A range at a past revision sees what a naive replay of the writes sees, with
// and without compaction.
func TestPastRevisionsStayUntilCompacted(t *testing.T) {
	s := newStore(t)
	s.do(put("a", "1"))         // 2
	s.do(put("b", "1"))         // 3
	s.do(put("a", "2"))         // 4
	s.do(del(key("a")))         // 5
	s.do(put("a", "3"))         // 6
	all := keys("\x00", "\x00") // from key
	at := func(rev int64) string {
		return s.read(backends.RangeOptions{KeyRange: all, Revision: rev})
	}
	want := map[int64]string{
		1: "#0 more=false @6",
		2: "a=1@2,2,v1 #1 more=false @6",
		3: "a=1@2,2,v1 b=1@3,3,v1 #2 more=false @6",
		4: "a=2@2,4,v2 b=1@3,3,v1 #2 more=false @6",
		5: "b=1@3,3,v1 #1 more=false @6",
		6: "a=3@6,6,v1 b=1@3,3,v1 #2 more=false @6",
		7: backends.ErrFutureRevision.Error(),
	}
	for rev := range int64(7) {
		s.equal(at(rev+1), want[rev+1])
	}
	s.equal(at(-3), want[6])
	for compact := int64(0); compact <= 6; compact++ {
		if _, err := s.Compact(s.Context(), &backends.CompactRequest{Revision: compact}); err != nil {
			t.Fatalf("compact at %d: %v", compact, err)
		}
		_, err := s.Compact(s.Context(), &backends.CompactRequest{Revision: compact})
		s.fails(err, backends.ErrCompacted)
		for rev := range int64(7) {
			if rev+1 < compact {
				s.equal(at(rev+1), backends.ErrCompacted.Error())
			} else {
				s.equal(at(rev+1), want[rev+1])
			}
		}
	}
	_, err := s.Compact(s.Context(), &backends.CompactRequest{Revision: 7})
	s.fails(err, backends.ErrFutureRevision)
	st, err := s.Status(s.Context())
	if err != nil || st.CompactRevision != 6 {
		t.Errorf("status %+v, %v", st, err)
	}
	var size int64
	s.items.Ascend(func(it *item) bool {
		for _, rec := range it.records {
			size += rec.sizeBytes()
		}
		return true
	})
	if st.SizeBytes != size || size == 0 {
		t.Errorf("size is said to be %d, records have %d", st.SizeBytes, size)
	}
}

// Large ranges come in bounded chunks, and a range does not see later writes.
func TestCursorIsPinnedAndChunked(t *testing.T) {
	s := newStore(t)
	for i := range 5 {
		s.do(put(fmt.Sprint(i), strings.Repeat("x", backends.ChunkBytes/2)))
	}
	c, err := s.Range(s.Context(), &backends.RangeRequest{RangeOptions: backends.RangeOptions{KeyRange: keys("0", "9")}})
	if err != nil {
		t.Fatal(err)
	}
	s.do(del(keys("0", "9")))
	var lens []int
	for {
		chunk, err := c.Next(s.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		lens = append(lens, chunk.Len())
	}
	if !slices.Equal(lens, []int{2, 2, 1}) {
		t.Errorf("chunks of %v records", lens)
	}
	if r := c.Result(); r.Count != 5 || r.Header.Revision != 6 {
		t.Errorf("result %+v", r)
	}
}

// A nested transaction's comparisons are decided before the first write, as
// etcd does, and its header stays empty, while ranges see the writes before.
func TestNestedTxn(t *testing.T) {
	s := newStore(t)
	absent := backends.Compare{KeyRange: key("a"), Target: backends.CompareVersion}
	r := s.do(
		read(key("a")),
		del(key("z")),
		put("a", "1"),
		backends.Op{Txn: &backends.TxnOp{
			Compare: []backends.Compare{absent},
			Success: []backends.Op{read(key("a")), del(keys("x", "z"))},
			Failure: []backends.Op{put("b", "1")},
		}},
		put("c", "1"),
	)
	var revisions []int64
	for _, o := range r.Responses {
		revisions = append(revisions, o.Revision)
	}
	if !slices.Equal(revisions, []int64{1, 1, 2, 0, 2}) || r.Header.Revision != 2 {
		t.Errorf("revisions %v, header %d", revisions, r.Header.Revision)
	}
	nested := r.Responses[3].Txn
	if !nested.Succeeded || nested.Responses[1].Revision != 2 {
		t.Errorf("nested %+v", nested)
	}
	s.equal(s.drain(r.Responses[0].Range), "#0 more=false @1")
	s.equal(s.drain(nested.Responses[0].Range), "a=1@2,2,v1 #1 more=false @2")
	r = s.do(del(keys("a", "z")))
	s.equal(s.drain(r.Responses[0].Delete.PrevKVs), "a=1@2,2,v1 c=1@2,2,v1 #2 more=false @2")
}

// Whatever fails leaves nothing behind, wherever in the transaction it stands.
func TestFailedTxnWritesNothing(t *testing.T) {
	s := newStore(t)
	s.do(put("k", "1"))
	s.do(put("k", "2"))
	if _, err := s.Compact(s.Context(), &backends.CompactRequest{Revision: 3}); err != nil {
		t.Fatal(err)
	}
	at := func(rev int64) backends.Op {
		return backends.Op{Range: &backends.RangeOptions{KeyRange: key("k"), Revision: rev}}
	}
	for want, bad := range map[error][]backends.Op{
		backends.ErrFutureRevision: {at(4)},
		backends.ErrCompacted:      {at(2), at(-1)},
		backends.ErrLeaseNotFound:  {putLease("n", 7)},
		backends.ErrKeyNotFound: {
			{Put: &backends.PutOp{Key: []byte("n"), IgnoreLease: true}},
			{Put: &backends.PutOp{Key: []byte("n"), IgnoreValue: true}},
		},
	} {
		for _, op := range bad {
			_, err := s.tryTxn(backends.TxnOp{Success: []backends.Op{put("a", "1"), op}})
			s.fails(err, want)
			_, err = s.tryTxn(backends.TxnOp{Success: []backends.Op{put("a", "1"),
				{Txn: &backends.TxnOp{Success: []backends.Op{put("b", "1"), op}}}, del(key("k"))}})
			s.fails(err, want)
		}
	}
	s.equal(s.read(backends.RangeOptions{KeyRange: keys("\x00", "\x00")}), "k=2@2,3,v2 #1 more=false @3")
}

func TestOpenRefusesAnAddress(t *testing.T) {
	env := backends.Env{Clock: newFakeClock()}
	b, err := backends.Open(t.Context(), "memory://", env)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"memory://host", "memory:///path", "memory://?x=1"} {
		if _, err := backends.Open(t.Context(), u, env); err == nil {
			t.Errorf("%s was opened", u)
		}
	}
}

// etcd lets one transaction delete all later keys and put one of them: the key
// begins anew. Keeping what was deleted is refused (etcd 3.7.3 ends with a panic).
func TestDeleteAndPutInOneTxn(t *testing.T) {
	s := newStore(t)
	s.grant(1, 100)
	s.do(put("a", "1"))      // 2
	s.do(putLease("a", 1))   // 3
	s.do(put("unseen", "1")) // 4
	w := s.watch()
	s.add(w, backends.WatchRequest{ID: 1, KeyRange: keys("a", "d"), PrevKV: true})
	s.equal(s.next(w), "created [1] @4")
	later := keys("a", "\x00")
	s.do(del(later), put("a", "2"), put("b", "1"), del(keys("b", "\x00"))) // 5
	s.equal(s.next(w), "events [1] @5 DELETE:a=@5<@3 PUT:a=2@5 PUT:b=1@5 DELETE:b=@5")
	s.equal(s.read(backends.RangeOptions{KeyRange: later}), "a=2@5,5,v1 #1 more=false @5")
	s.equal(s.read(backends.RangeOptions{KeyRange: later, Revision: 3}), "a=@2,3,v2 #1 more=false @5")
	s.equal(s.ttl(1), "100/100 []")
	for _, p := range []backends.PutOp{{Key: []byte("a"), IgnoreValue: true}, {Key: []byte("a"), IgnoreLease: true}} {
		keep := backends.Op{Put: &p}
		_, err := s.tryTxn(backends.TxnOp{Success: []backends.Op{
			{Txn: &backends.TxnOp{Success: []backends.Op{del(later)}}},
			{Txn: &backends.TxnOp{Success: []backends.Op{keep}}},
		}})
		s.fails(err, backends.ErrKeyNotFound)
		s.do(keep, del(later), put("a", "2"))
	}
	if _, err := s.Compact(s.Context(), &backends.CompactRequest{Revision: 7}); err != nil {
		t.Fatal(err)
	}
	s.equal(s.read(backends.RangeOptions{KeyRange: later}), "a=2@7,7,v1 #1 more=false @7")
}
