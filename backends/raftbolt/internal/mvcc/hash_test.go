package mvcc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

func (b *bench) hash(revision int64) Hash {
	b.t.Helper()
	h, err := b.s.HashKV(context.Background(), revision)
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

func (b *bench) compactPhysically(revision int64) {
	b.t.Helper()
	b.compact(revision)
	if err := b.s.CompactDone(context.Background(), revision); err != nil {
		b.t.Fatal(err)
	}
}

// TestHashGolden holds hashes that etcd 3.7.3 answered (HashKV) after the same
// requests.
func TestHashGolden(t *testing.T) {
	b := newBench(t, nil)
	want := func(when string, revision int64, h Hash) {
		t.Helper()
		if got := b.hash(revision); got != h {
			t.Errorf("%s, at %d: %+v, want %+v", when, revision, got, h)
		}
	}
	want("empty", 0, Hash{1084519789, 1, -1, 1})
	b.put("a", "1")
	b.put("b", "2")
	b.put("a", "3")
	b.del("b")
	b.put("c", "")
	b.entry(func(t *Txn) {
		t.Put([]byte("d"), []byte("1"), 0)
		t.Put([]byte("e"), []byte("2"), 0)
		t.DeleteRange(keyOf("a"), nil)
	})
	b.entry(func(t *Txn) { t.Put([]byte("l"), []byte("v"), 0x457ea20588057f09) })
	want("uncompacted", 0, Hash{3915911164, 8, -1, 8})
	want("of a negative revision", -1, Hash{1084519789, -1, -1, 8})
	want("uncompacted", 4, Hash{2069675932, 4, -1, 8})
	want("uncompacted", 5, Hash{1125682900, 5, -1, 8})
	want("uncompacted", 6, Hash{1947802976, 6, -1, 8})
	b.compactPhysically(6)
	want("compacted at 6", 0, Hash{2902967248, 8, 6, 8})
	want("compacted at 6", 7, Hash{2379103518, 7, 6, 8})
	b.put("f", "1")
	b.put("a", "9")
	want("compacted at 6", 9, Hash{3598683251, 9, 6, 10})
	b.entry(func(t *Txn) { t.DeleteRange(allKeys(), nil) })
	want("all deleted", 0, Hash{3448620403, 11, 6, 11})
	b.compactPhysically(10)
	want("compacted at 10", 0, Hash{1399453465, 11, 10, 11})
	b.close()
	b.open()
	want("reopened", 0, Hash{1399453465, 11, 10, 11})
}

// TestHashOfCompaction holds what etcd 3.7.3 answered at the revisions of compactions,
// done one after the other: the hash that each took, above the one before, also once it
// is compacted itself; forgotten at a restart, where the revision is hashed as any other.
func TestHashOfCompaction(t *testing.T) {
	b := newBench(t, nil)
	want := func(when string, revision int64, h Hash) {
		t.Helper()
		if got := b.hash(revision); got != h {
			t.Errorf("%s, at %d: %+v, want %+v", when, revision, got, h)
		}
	}
	b.put("a", "1")
	b.put("b", "2")
	b.put("a", "3")
	b.del("b")
	b.put("c", "4")
	b.compactPhysically(4)
	want("first", 4, Hash{2069675932, 4, -1, 6})
	b.compactPhysically(5)
	want("at a deletion", 5, Hash{1468967122, 5, 4, 6})
	want("compacted", 4, Hash{2069675932, 4, -1, 6})
	b.entry(func(t *Txn) { t.DeleteRange(allKeys(), nil) })
	b.compactPhysically(7)
	want("nothing left", 7, Hash{2041240338, 7, 5, 7})
	b.put("d", "5")
	b.close()
	b.open()
	want("reopened", 7, Hash{1084519789, 7, 7, 8})
	if _, err := b.s.HashKV(context.Background(), 5); !errors.Is(err, backends.ErrCompacted) {
		t.Errorf("reopened, at 5: %v", err)
	}
	want("negative", -3, Hash{1084519789, -3, 7, 8})
	for i := range 12 {
		b.put("d", fmt.Sprint(i))
		b.compactPhysically(b.s.Committed())
	}
	if _, err := b.s.HashKV(context.Background(), 10); !errors.Is(err, backends.ErrCompacted) {
		t.Errorf("the eleventh last compaction: %v", err)
	}
	if h := b.hash(11); h.Revision != 11 || h.CompactRevision != 10 {
		t.Errorf("the tenth last compaction: %+v", h)
	}
}

// TestHashFlushSchedules ensures that equal operations give equal hashes whatever
// was flushed when, and while a compaction is under way.
func TestHashFlushSchedules(t *testing.T) {
	var want string
	for schedule := range uint64(6) {
		r := rand.New(rand.NewPCG(schedule, 3))
		b := newBench(t, func(c *Config) {
			c.FlushInterval = []time.Duration{time.Millisecond, time.Hour, 5 * time.Millisecond}[schedule%3]
			c.FlushBytes = []int64{1, 1 << 20}[schedule%2]
		})
		operations := rand.New(rand.NewPCG(7, 7))
		hashes := ""
		for i := range 3000 {
			key := fmt.Sprint(operations.IntN(400))
			switch n := operations.IntN(100); {
			case n < 85:
				b.put(key, fmt.Sprint(i))
			case n < 99:
				b.del(key)
			default:
				b.compact(b.s.CompactRevision() + 1 + operations.Int64N(b.s.Committed()-b.s.CompactRevision()))
				h := b.hash(0) // the compaction is under way
				hashes += fmt.Sprint(h, " ")
			}
			if r.IntN(200) == 0 {
				b.flush()
			}
			if r.IntN(1000) == 0 {
				b.close()
				b.open()
			}
			if i%500 == 0 {
				// At the very revision of a compaction it depends on who did it.
				above := b.s.CompactRevision() + 1
				if above > b.s.Committed() {
					above = 0
				}
				hashes += fmt.Sprint(b.hash(0), b.hash(max(0, above)), b.hash(-above), " ")
			}
		}
		if schedule == 0 {
			want = hashes
		} else if hashes != want {
			t.Errorf("schedule %d: hashes\n%s, want\n%s", schedule, hashes, want)
		}
		b.close()
	}
}

// TestPinnedView ensures that the View of a transaction can be read after a
// compaction above it, which waits in the file until the View is closed.
func TestPinnedView(t *testing.T) {
	b := newBench(t, nil)
	b.put("a", "1")
	b.put("a", "2")
	txn := b.s.Begin()
	v := txn.View()
	txn.Discard()
	b.put("a", "3")
	b.compact(4)
	b.flush()
	kvs, _, _, err := list(t, v, backends.RangeOptions{KeyRange: allKeys()})
	if fmt.Sprint(texts(kvs)) != "[a=2 c2 m3 v2 l0]" || err != nil {
		t.Errorf("pinned view: %v, %v", texts(kvs), err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := b.s.CompactDone(ctx, 4); err == nil {
		t.Error("the file was compacted under a pinned view")
	}
	v.Close()
	if err := b.s.CompactDone(context.Background(), 4); err != nil {
		t.Error(err)
	}
}
