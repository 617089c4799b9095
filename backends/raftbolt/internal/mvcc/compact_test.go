package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/etcdshim/shim/backends"
)

// records counts what the file's key bucket holds.
func (b *bench) records() (n int) {
	b.t.Helper()
	b.flush()
	err := b.s.read(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketKey)).ForEach(func(_, _ []byte) error { n++; return nil })
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// TestCompactResumes crashes after each batch of a compaction, the last one
// included, when nothing but the mark of its end is missing, and ensures that it
// is taken up again and ends as if nothing had been, and that no read noticed.
func TestCompactResumes(t *testing.T) {
	clock := &pausedClock{reached: make(chan struct{}, 10)}
	b := newBench(t, func(c *Config) { c.Clock = clock })
	const keys, rounds = 700, 5
	for round := range rounds {
		for k := range keys {
			b.put(fmt.Sprintf("%04d", k), fmt.Sprint(round))
		}
	}
	b.entry(func(t *Txn) {
		t.DeleteRange(backends.KeyRange{Key: []byte("0000"), End: []byte("0100")}, nil)
	})
	last, left := b.s.Committed(), keys*rounds+100
	b.compact(last)
	want := b.hash(0)
	for batch := range 3 {
		<-clock.reached
		if n := b.records(); n >= left {
			t.Errorf("batch %d removed nothing: %d of %d", batch, n, left)
		} else {
			left = n
		}
		b.crash()
		if b.s.CompactRevision() != last || b.s.Committed() != last {
			t.Fatalf("at %d, compacted %d, want %d", b.s.Committed(), b.s.CompactRevision(), last)
		}
		if h := b.hash(0); h != want {
			t.Fatalf("hash %+v, want %+v", h, want)
		}
	}
	if err := b.s.CompactDone(context.Background(), last); err != nil {
		t.Fatal(err)
	}
	// The deletions at the compacted revision itself stay, for watches from there.
	if n := b.records(); n != keys || n != left {
		t.Errorf("%d records left, %d after the last batch, want %d", n, left, keys)
	}
	events, next, err := b.s.History(context.Background(), last, 1<<20)
	if err != nil || len(events) != 100 || next != last+1 {
		t.Errorf("history from the compacted revision: %d events, %d, %v", len(events), next, err)
	}
	b.put("x", "")
	b.compact(last + 1)
	<-clock.reached
	if n := b.records(); n != keys-100+1 {
		t.Errorf("%d records left, want %d", n, keys-100+1)
	}
}

// pausedClock tells when a compaction pauses, and never ends the pause.
type pausedClock struct {
	fakeClock
	reached chan struct{}
}

func (c *pausedClock) After(d time.Duration) (<-chan time.Time, func()) {
	if d == defaultCompactPause {
		c.reached <- struct{}{}
	}
	return c.fakeClock.After(d)
}

// TestRevisionNeverGoesBack ensures that a store whose every key is deleted and
// compacted opens at the revision it was at, and counts on.
func TestRevisionNeverGoesBack(t *testing.T) {
	b := newBench(t, nil)
	for i := range 10 {
		b.put(fmt.Sprint(i), "")
	}
	b.entry(func(t *Txn) { t.DeleteRange(allKeys(), nil) })
	last := b.s.Committed()
	b.put("y", "")
	b.del("y")
	last += 2
	b.compactPhysically(last)
	for range 2 {
		b.close()
		b.open()
		if r := b.s.Committed(); r != last {
			t.Errorf("opened at %d, want %d", r, last)
		}
		if n := b.s.Keys(); n != 0 {
			t.Errorf("%d keys", n)
		}
	}
	if r := b.put("z", ""); r != last+1 {
		t.Errorf("next revision %d", r)
	}
}

// TestOpenAtCompactRevision ensures that a file whose newest change is older than
// its last compaction, as etcd before 3.5.16 left it after deleting everything,
// opens at the compaction's revision.
func TestOpenAtCompactRevision(t *testing.T) {
	for _, name := range []string{metaScheduledCompact, metaFinishedCompact} {
		b := newBench(t, nil)
		b.put("a", "1")
		b.close()
		db, err := bolt.Open(b.path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(db.Update(func(tx *bolt.Tx) (err error) {
			defer func() { err = errors.Join(err, (&Store{}).seal(tx)) }()
			return tx.Bucket([]byte("meta")).Put([]byte(name), metaRevision(50))
		}), db.Close())
		if err != nil {
			t.Fatal(err)
		}
		b.open()
		if err := b.s.CompactDone(context.Background(), 50); err != nil {
			t.Fatal(err)
		}
		if b.s.Committed() != 50 || b.s.CompactRevision() != 50 {
			t.Errorf("%s: at %d, compacted %d", name, b.s.Committed(), b.s.CompactRevision())
		}
		if r := b.put("b", "1"); r != 51 {
			t.Errorf("%s: next revision %d", name, r)
		}
	}
}

// TestPinnedRoots ensures that the pages of a list at a revision cost no walk as
// long as its root is pinned, and that roots are dropped by number, age and
// compaction.
func TestPinnedRoots(t *testing.T) {
	clock := new(fakeClock)
	b := newBench(t, func(c *Config) { c.Clock = clock })
	for i := range 10 {
		b.put(fmt.Sprintf("%02d", i), "v")
	}
	first := b.s.Committed()
	page := func(revision int64) (exact bool) {
		t.Helper()
		v := b.s.View()
		defer v.Close()
		_, _, exact, err := v.at(revision)
		if err != nil {
			t.Fatal(err)
		}
		kvs, count, more, err := list(t, v, backends.RangeOptions{KeyRange: allKeys(), Revision: revision, Limit: 3})
		if err != nil || len(kvs) != 3 || count != 10 || !more {
			t.Errorf("page at %d: %d of %d, more %v, %v", revision, len(kvs), count, more, err)
		}
		return exact
	}
	page(0)
	b.put("00", "w")
	if !page(first) {
		t.Error("the second page's root was not pinned")
	}
	if page(first); b.s.roots.len() != 1 {
		t.Errorf("%d roots", b.s.roots.len())
	}
	clock.offset.Add(int64(rootAge + time.Second))
	b.s.roots.prune(-1)
	if page(first) {
		t.Error("the root outlived its age")
	}
	for range maxRoots + 5 {
		b.put("00", "w")
		page(0)
	}
	if b.s.roots.len() != maxRoots {
		t.Errorf("%d roots", b.s.roots.len())
	}
	b.compact(b.s.Committed() - 1)
	if b.s.roots.len() != 2 {
		t.Errorf("%d roots after compaction", b.s.roots.len())
	}
}

// fakeClock stands still; timers of it never fire.
type fakeClock struct{ offset atomic.Int64 }

func (c *fakeClock) Now() time.Time { return time.Unix(0, c.offset.Load()) }
func (c *fakeClock) After(time.Duration) (<-chan time.Time, func()) {
	return make(chan time.Time), func() {}
}

// TestLargeChunks ensures that chunks keep their bound, except for a record that
// is larger by itself.
func TestLargeChunks(t *testing.T) {
	b := newBench(t, nil)
	for i := range 300 {
		b.put(fmt.Sprintf("%03d", i), strings.Repeat("x", 5000))
	}
	b.put("zz", strings.Repeat("x", backends.ChunkBytes+1))
	for range 2 {
		v := b.s.View()
		c, err := v.Range(backends.RangeOptions{KeyRange: allKeys()})
		if err != nil {
			t.Fatal(err)
		}
		n, chunks := 0, 0
		for n < 301 {
			chunk, err := c.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if len(chunk.Bytes()) > backends.ChunkBytes && chunk.Len() > 1 {
				t.Errorf("chunk of %d records, %d bytes", chunk.Len(), len(chunk.Bytes()))
			}
			n += chunk.Len()
			chunks++
			chunk.Release()
		}
		if chunks < 7 || chunks > 20 {
			t.Errorf("%d chunks", chunks)
		}
		c.Close()
		v.Close()
		b.flush()
	}
}

// TestFileNames ensures that the store leaves no other file beside its own.
func TestFileNames(t *testing.T) {
	b := newBench(t, nil)
	b.put("a", "b")
	b.flush()
	files, err := os.ReadDir(filepath.Dir(b.path))
	if err != nil || len(files) != 1 || files[0].Name() != "db" {
		t.Errorf("%v, %v", files, err)
	}
}

// TestPollersPushOutNoRoot ensures that clients which ask for one record at ever
// new revisions leave the roots of those who page through a list alone.
func TestPollersPushOutNoRoot(t *testing.T) {
	b := newBench(t, nil)
	for i := range 10 {
		b.put(fmt.Sprintf("%02d", i), "v")
	}
	first := b.s.Committed()
	ask := func(limit int64) {
		t.Helper()
		v := b.s.View()
		defer v.Close()
		kvs, count, more, err := list(t, v, backends.RangeOptions{KeyRange: allKeys(), Limit: limit})
		if err != nil || int64(len(kvs)) != limit || count != 10 || !more {
			t.Fatalf("limit %d: %d of %d, more %v, %v", limit, len(kvs), count, more, err)
		}
	}
	ask(2)
	for range 2 * maxRoots {
		b.put("00", "w")
		ask(1)
	}
	v := b.s.View()
	defer v.Close()
	if _, _, exact, err := v.at(first); !exact || err != nil {
		t.Errorf("the root of a list being paged was pushed out (%v)", err)
	}
}

// len is how many roots are kept.
func (r *roots) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.kept)
}

// TestPrevKVOfCompactedEvent ensures that an event at the compacted revision comes
// without the record before it, as etcd's does, also when that record was encoded
// while it was still there: Kubernetes' storage suite, WatchFromZero.
func TestPrevKVOfCompactedEvent(t *testing.T) {
	b := newBench(t, nil)
	b.put("a", "old")
	at := b.put("a", "new")
	b.put("a", "newer")
	encoded := func() (plain, prev backends.Event) {
		t.Helper()
		events, _, err := b.s.History(context.Background(), at, 1<<20)
		if err != nil || len(events) != 2 || events[0].Revision != at {
			t.Fatalf("history from %d is %v, %v", at, events, err)
		}
		if plain, err = events[0].Encoded(false); err != nil {
			t.Fatal(err)
		}
		if prev, err = events[0].Encoded(true); err != nil {
			t.Fatal(err)
		}
		return plain, prev
	}
	if plain, prev := encoded(); len(prev) <= len(plain) {
		t.Fatal("no previous record before the compaction")
	}
	b.compact(at)
	if plain, prev := encoded(); !bytes.Equal(plain, prev) {
		t.Error("the previous record is there though it is compacted")
	}
}
