package mvcc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/etcdshim/shim/backends"
)

// pausingClock calls pause instead of waiting between two parts of a Defragment.
type pausingClock struct {
	backends.SystemClock
	pause func()
}

func (c *pausingClock) After(d time.Duration) (<-chan time.Time, func()) {
	if d != defragPause {
		return c.SystemClock.After(d)
	}
	c.pause()
	now := make(chan time.Time, 1)
	now <- c.Now()
	return now, func() {}
}

// fragmented is a store of some chunks, with as many free pages.
func fragmented(t *testing.T, pause func(b *bench), change func(*Config)) *bench {
	var b *bench
	b = newBench(t, func(c *Config) {
		c.Clock = &pausingClock{pause: func() { pause(b) }}
		if change != nil {
			change(c)
		}
	})
	for i := range 24_000 {
		b.put(fmt.Sprintf("key-%05d", i%12_000), strings.Repeat(string(rune('a'+i%26)), 1000))
	}
	b.compactPhysically(24_001)
	return b
}

// within fails the test unless f ends soon.
func within(t *testing.T, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// TestDefragmentWhileServing ensures that in the middle of a Defragment writes are
// taken, flushed and called durable, reads of old and new records answer, history and
// hashes, too, a snapshot is made, that compaction of the file waits, and that all of
// it is in the new file.
func TestDefragmentWhileServing(t *testing.T) {
	pauses, waiting := 0, int64(0)
	b := fragmented(t, func(b *bench) {
		if pauses++; pauses > 2 {
			return
		}
		written := b.put("during", fmt.Sprint(pauses))
		within(t, "flush", b.s.Flush)
		if b.durable.Load() != b.index {
			t.Errorf("durable %d of %d", b.durable.Load(), b.index)
		}
		v := b.s.View()
		defer v.Close()
		for key, revision := range map[string]int64{"during": 0, "key-00001": 0, "key-11999": b.s.CompactRevision()} {
			if _, ok, err := v.Get([]byte(key), revision); !ok || err != nil {
				t.Errorf("get %s at %d: %v, %v", key, revision, ok, err)
			}
		}
		within(t, "history", func(ctx context.Context) error {
			events, _, err := b.s.History(ctx, written-1, 1<<20)
			if len(events) < 2 {
				t.Errorf("%d events", len(events))
			}
			return err
		})
		within(t, "hash", func(ctx context.Context) error { _, err := b.s.HashKV(ctx, 0); return err })
		if pauses == 1 {
			within(t, "snapshot", func(ctx context.Context) error {
				s, err := b.s.Snapshot(ctx)
				if err != nil {
					return err
				}
				n, err := io.Copy(io.Discard, s)
				if n != s.SizeBytes {
					t.Errorf("snapshot of %d bytes, read %d", s.SizeBytes, n)
				}
				return errors.Join(err, s.Close())
			})
			waiting = b.put("during", "again")
			b.compact(waiting)
			within(t, "flush", b.s.Flush)
		}
		short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := b.s.CompactDone(short, waiting); err == nil {
			t.Error("the file was compacted meanwhile")
		}
	}, nil)
	before := b.s.Size()
	if err := b.s.Defragment(context.Background()); err != nil {
		t.Fatal(err)
	}
	if pauses < 2 {
		t.Fatalf("%d pauses", pauses)
	}
	if b.s.Size() > before*2/3 {
		t.Errorf("%d bytes, were %d", b.s.Size(), before)
	}
	within(t, "compaction", func(ctx context.Context) error { return b.s.CompactDone(ctx, waiting) })
	b.put("after", "1")
	hash := b.hash(0)
	b.close()
	b.open()
	if h := b.hash(0); h != hash {
		t.Errorf("reopened: %+v, was %+v", h, hash)
	}
}

// TestDefragmentRounds ensures for random writes at every pause, in all buckets and
// up to several MiB, that the new file has what the old one had, that it ends though
// writes never do, and that a crash at any time leaves what was durable.
func TestDefragmentRounds(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			largest := []int{50_000, 100_000, 400_000, 2_000_000}[seed]
			defragmenting, images := false, 0
			b := fragmented(t, func(b *bench) {
				if !defragmenting {
					return
				}
				for range 1 + r.IntN(3) {
					b.entry(func(txn *Txn) {
						for range 1 + r.IntN(2) {
							txn.Put(fmt.Appendf(nil, "new-%d", r.Uint32()), []byte(strings.Repeat("n", r.IntN(largest))), 0)
						}
						txn.DeleteRange(keyOf(fmt.Sprintf("key-%05d", r.IntN(12_000))), nil)
						txn.Set(BucketLease, fmt.Appendf(nil, "%08d", r.IntN(50)), []byte{byte(r.Uint32())})
						txn.Delete(BucketLease, fmt.Appendf(nil, "%08d", r.IntN(50)))
					})
				}
				if r.IntN(3) > 0 {
					b.flush()
				}
				if images < 3 && r.IntN(4) == 0 {
					images++
					looksSound(t, b)
				}
			}, func(c *Config) { c.FlushInterval = time.Hour })
			defragmenting = true
			if err := b.s.Defragment(context.Background()); err != nil {
				t.Fatal(err)
			}
			defragmenting = false
			entries := func() (text string) {
				if err := b.s.Bucket(BucketLease, func(k, v []byte) { text += fmt.Sprintf("%s=%x ", k, v) }); err != nil {
					t.Fatal(err)
				}
				return text
			}
			looksSound(t, b)
			hash, leases, keys := b.hash(0), entries(), b.s.Keys()
			b.close()
			b.open()
			if h, l := b.hash(0), entries(); h != hash || l != leases || b.s.Keys() != keys || leases == "" {
				t.Errorf("reopened: %+v, %d keys, leases %s; was %+v, %d, %s", h, b.s.Keys(), l, hash, keys, leases)
			}
			t.Logf("%d images, %d revisions", images, hash.Revision)
		})
	}
}

// TestDefragmentPatience ensures that a Defragment ends although more is flushed during
// each round than the last one may copy: after patientRounds flushes are held for it.
func TestDefragmentPatience(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	var b *bench
	write := func() { // more than one chunk: then there is a pause in each round
		for i := range 6 {
			b.put(fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), 1<<20))
		}
		b.flush()
	}
	b = newBench(t, func(c *Config) { c.Logger, c.Clock = zap.New(core), &pausingClock{pause: func() { write() }} })
	write()
	if err := b.s.Defragment(context.Background()); err != nil {
		t.Fatal(err)
	}
	ends := logs.FilterMessage("finished defragmenting directory").All()
	if len(ends) != 1 || ends[0].ContextMap()["rounds"] != int64(patientRounds+1) {
		t.Errorf("%+v, want %d rounds and the last", ends, patientRounds)
	}
	hash := b.hash(0)
	if hash.Revision != 1+6*(1+patientRounds) {
		t.Errorf("revision %d", hash.Revision)
	}
	b.close()
	b.open()
	if h := b.hash(0); h != hash {
		t.Errorf("reopened: %+v, was %+v", h, hash)
	}
}

// looksSound opens a copy of the file as it is, which must have all that is called
// durable.
func looksSound(t *testing.T, b *bench) {
	t.Helper()
	durable := b.durable.Load()
	b.s.writeFile.Lock()
	data, err := os.ReadFile(b.path)
	b.s.writeFile.Unlock()
	path := filepath.Join(t.TempDir(), "db")
	if err := errors.Join(err, os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if s.Applied().Index < durable {
		t.Errorf("a copy has index %d, durable is %d", s.Applied().Index, durable)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestDefragmentGivesUp ensures that a Defragment ends when the store is closed in
// its middle, and when the room for it vanishes, and leaves nothing behind.
func TestDefragmentGivesUp(t *testing.T) {
	var full atomic.Bool
	closed := make(chan error, 1)
	do := func(*bench) {}
	b := fragmented(t, func(b *bench) { do(b) }, func(c *Config) {
		c.room = func(string) (int64, error) {
			if full.Load() {
				return 1 << 20, nil
			}
			return 1 << 40, nil
		}
	})
	alone := func() {
		t.Helper()
		if files, err := os.ReadDir(filepath.Dir(b.path)); err != nil || len(files) != 1 {
			t.Errorf("left behind: %v, %v", files, err)
		}
	}
	hash := b.hash(0)
	do = func(*bench) { full.Store(true) }
	if err := b.s.Defragment(context.Background()); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("on a disk that fills up: %v", err)
	}
	alone()
	full.Store(false)
	do = func(b *bench) {
		do = func(*bench) {}
		s := b.s
		go func() { closed <- s.Close(context.Background()) }()
		<-s.stopped.Done()
	}
	if err := b.s.Defragment(context.Background()); !errors.Is(err, backends.ErrStopped) {
		t.Errorf("of a store that is closed: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	alone()
	if err := b.s.Defragment(context.Background()); !errors.Is(err, backends.ErrStopped) {
		t.Errorf("of a closed store: %v", err)
	}
	b.open()
	if h := b.hash(0); h != hash {
		t.Errorf("hash %+v, was %+v", h, hash)
	}
}
