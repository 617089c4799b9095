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

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/etcdshim/shim/backends"
)

// TestOpenRefuses ensures that a file that cannot be served is refused with an
// error that says why, and is left as it was.
func TestOpenRefuses(t *testing.T) {
	whole := func(t *testing.T) []byte {
		b := newBench(t, nil)
		for i := range 2000 {
			b.put(fmt.Sprintf("key-%04d", i), strings.Repeat("x", 300))
		}
		b.close()
		data, err := os.ReadFile(b.path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	data := whole(t)
	corrupt := func(err error) bool { c := (*CorruptError)(nil); return errors.As(err, &c) }
	meta := func(f func(*bolt.Tx) error) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(f), db.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	overwrite := func(offset, n int) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			d := append([]byte(nil), data...)
			for i := range n {
				d[offset+i] = 0xfe
			}
			if err := os.WriteFile(path, d, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	truncate := func(n int) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, data[:n], 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T, path string)
		is    func(error) bool
		text  string
	}{
		{"cut off in the middle", truncate(len(data) / 2), corrupt, "cut off"},
		{"cut off at the meta pages", truncate(8192), corrupt, "cut off"},
		{"empty", truncate(0), corrupt, "no valid meta page"},
		{"text", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("not a database\n", 5000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, corrupt, "no valid meta page"},
		{"meta pages overwritten", overwrite(0, 8192), corrupt, "no valid meta page"},
		{"storage version", meta(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("meta")).Put([]byte("storageVersion"), []byte("3.8.0"))
		}), func(err error) bool { return errors.Is(err, ErrVersion) }, `"3.8.0"`},
		{"no storage version", meta(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("meta")).Delete([]byte("storageVersion"))
		}), func(err error) bool { return errors.Is(err, ErrVersion) }, `""`},
		{"unknown bucket", meta(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte("other"))
			return err
		}), func(err error) bool { return errors.Is(err, ErrVersion) }, `"other"`},
		{"no key bucket", meta(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("key")) }), corrupt, `"key"`},
		{"bad revision", meta(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("key")).Put([]byte("odd"), []byte("x"))
		}), corrupt, "revision key"},
		{"bad record", meta(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("key")).Put(appendRevision(nil, revision{9999, 0}, false), []byte{0x0a, 0x7f})
		}), corrupt, "9999.0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "db")
			if err := os.WriteFile(copied, data, 0o600); err != nil {
				t.Fatal(err)
			}
			tc.spoil(t, copied)
			before, err := os.ReadFile(copied)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Open(Config{Path: copied, NoSync: true})
			if err == nil {
				t.Fatal("opened", s.Close(context.Background()))
			}
			if !tc.is(err) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%v", err)
			}
			if after, err := os.ReadFile(copied); err != nil || string(after) != string(before) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

// TestOpenDamagedPages ensures that a page of garbage anywhere is an error of
// Open, or of a read, and never the end of the process.
func TestOpenDamagedPages(t *testing.T) {
	b := newBench(t, nil)
	for i := range 1000 {
		b.put(fmt.Sprintf("key-%04d", i), strings.Repeat("x", 300))
	}
	b.close()
	data, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 4))
	found, opened := 0, 0
	for page := 2; page < len(data)/4096; page++ {
		d := append([]byte(nil), data...)
		for i := range 64 { // the header and the first elements
			d[page*4096+i] = byte(r.Uint32())
		}
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, d, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Config{Path: path, NoSync: true})
		if err != nil {
			if c := (*CorruptError)(nil); !errors.As(err, &c) {
				t.Errorf("page %d: %v", page, err)
			}
			found++
			continue
		}
		opened++ // a page that is free
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("page %d: %v", page, err)
		}
	}
	if found < 70 {
		t.Errorf("%d damaged pages found, %d not", found, opened)
	}
	t.Logf("%d damaged pages refused, %d were free", found, opened)
}

// TestLocked ensures that a second opener is told so.
func TestLocked(t *testing.T) {
	b := newBench(t, nil)
	start := time.Now()
	_, err := Open(b.cfg)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), b.path) {
		t.Errorf("%v", err)
	}
	if d := time.Since(start); d > 5*lockTimeout {
		t.Errorf("it took %v", d)
	}
}

// TestTruncatedUnderneath ensures that a fault on a mapped page of a file that
// was cut off while open ends in OnFatal, not in the end of the process.
func TestTruncatedUnderneath(t *testing.T) {
	var fatal atomic.Pointer[error]
	b := newBench(t, func(c *Config) { c.OnFatal = func(err error) { fatal.Store(&err) } })
	for i := range 2000 {
		b.put(fmt.Sprintf("key-%04d", i), strings.Repeat("x", 300))
	}
	b.flush()
	if err := os.Truncate(b.path, 8192); err != nil {
		t.Fatal(err)
	}
	v := b.s.View()
	_, _, err := v.Get([]byte("key-0000"), 0)
	if c := (*CorruptError)(nil); !errors.As(err, &c) || fatal.Load() == nil {
		t.Errorf("%v, fatal %v", err, fatal.Load())
	}
	txn := b.s.Begin()
	txn.Put([]byte("a"), nil, 0)
	if _, err := txn.Commit(); err == nil {
		t.Error("a failed store commits")
	}
	if err := b.s.EndEntry(Applied{Index: 9999}); err == nil {
		t.Error("a failed store ends an entry")
	}
	_ = b.s.Close(context.Background())
	b.s = nil
}

// TestNoSpace ensures that a full disk keeps writes in memory, is told once,
// leaves reads alone, fails who asks for a flush, lets more writes into the layer
// and holds them up at its bound for full disks, and mends itself.
func TestNoSpace(t *testing.T) {
	var full atomic.Bool
	told, waits := make(chan struct{}, 10), make(chan struct{}, 10)
	b := newBench(t, func(c *Config) {
		c.OnNoSpace = func() { told <- struct{}{} }
		c.FlushBytes, c.LayerBytes = 1, 100_000
		c.Logger = zap.New(zapcore.NewNopCore()).WithOptions(zap.WrapCore(func(zapcore.Core) zapcore.Core {
			return zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(io.Discard), zap.WarnLevel)
		}), zap.Hooks(func(e zapcore.Entry) error {
			if strings.HasPrefix(e.Message, "writes wait") {
				waits <- struct{}{}
			}
			return nil
		}))
		c.room = func(string) (int64, error) {
			if full.Load() {
				return 1, nil
			}
			return 1 << 40, nil
		}
	})
	b.put("a", "1")
	b.flush()
	full.Store(true)
	last := b.put("a", "2")
	<-told
	v := b.s.View()
	if kvs, _, _, err := list(t, v, backends.RangeOptions{KeyRange: allKeys()}); err != nil || len(kvs) != 1 || kvs[0].ModRevision != last {
		t.Errorf("read on a full disk: %v, %v", texts(kvs), err)
	}
	if b.s.LayerBytes() == 0 || b.durable.Load() != 1 {
		t.Errorf("layer %d bytes, durable %d", b.s.LayerBytes(), b.durable.Load())
	}
	if err := b.s.Flush(context.Background()); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("flush on a full disk: %v", err)
	}
	for range 3 * 100 { // beyond the bound, below that for full disks
		b.put("b", strings.Repeat("x", 1000))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 300 {
			b.put("b", strings.Repeat("x", 1000))
		}
	}()
	<-waits
	select {
	case <-done:
		t.Error("writes did not wait")
	case <-time.After(20 * time.Millisecond):
	}
	if n := b.s.LayerBytes(); n > fullDiskLayers*b.cfg.LayerBytes+5000 {
		t.Errorf("layer of %d bytes", n)
	}
	full.Store(false)
	<-done
	b.flush()
	if len(told) != 0 || b.durable.Load() != b.index || b.s.LayerBytes() != 0 {
		t.Errorf("told %d more times, durable %d of %d, layer %d", len(told), b.durable.Load(), b.index, b.s.LayerBytes())
	}
}

// TestReserve ensures that a store which is short of room says so before its layer has
// none, tells it once, still flushes into what is left, and notices by itself that there is
// room again.
func TestReserve(t *testing.T) {
	const layer = 1 << 20
	var free atomic.Int64
	told := make(chan struct{}, 10)
	b := newBench(t, func(c *Config) {
		free.Store(1 << 40)
		c.FlushInterval = time.Hour
		c.OnNoSpace = func() { told <- struct{}{} }
		c.room = func(string) (int64, error) { return free.Load(), nil }
	})
	check := func(when string, short bool, want int) {
		t.Helper()
		if b.s.Short() != short || len(told) != want {
			t.Errorf("%s: short %v, told %d times", when, b.s.Short(), len(told))
		}
	}
	b.put("a", "1")
	b.flush()
	check("on an empty disk", false, 0)
	free.Store(reserveBytes + layer + layer/2)
	b.put("a", "2")
	b.flush()
	check("with the reserve and some room", false, 0)
	b.put("b", strings.Repeat("x", layer))
	<-told
	check("with more in the layer than there is room beyond the reserve", true, 0)
	free.Store(reserveBytes / 2)
	b.flush()
	b.put("a", "3")
	b.flush()
	check("after flushes into the reserve", true, 0)
	free.Store(1 << 40)
	check("with room again", false, 0)
	free.Store(0)
	b.put("a", "4")
	if err := b.s.Flush(context.Background()); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("flush without any room: %v", err)
	}
	<-told
	check("without any room", true, 0)
	free.Store(reserveBytes - 1)
	b.flush()
	b.close()
	free.Store(0)
	b.open()
	check("opened on a disk without any room", true, 0)
	<-told
}

// TestFailedCommit ensures that a commit that fails otherwise than for want of
// room is final: it is told once, nothing is called durable any more, every write
// is refused, and nobody waits for ever.
func TestFailedCommit(t *testing.T) {
	fatal := make(chan error, 10)
	var broken atomic.Bool
	trouble := errors.New("disk on fire")
	b := newBench(t, func(c *Config) {
		c.OnFatal = func(err error) { fatal <- err }
		c.room = func(string) (int64, error) {
			if broken.Load() {
				return 0, trouble
			}
			return 1 << 40, nil
		}
	})
	b.put("a", "1")
	b.flush()
	broken.Store(true)
	b.put("a", "2")
	if err := b.s.Flush(context.Background()); !errors.Is(err, trouble) {
		t.Errorf("flush: %v", err)
	}
	if err := <-fatal; !errors.Is(err, trouble) || !errors.Is(b.s.Err(), trouble) {
		t.Errorf("fatal: %v", err)
	}
	txn := b.s.Begin()
	txn.Put([]byte("a"), []byte("3"), 0)
	if _, err := txn.Commit(); !errors.Is(err, trouble) {
		t.Errorf("commit: %v", err)
	}
	if err := b.s.EndEntry(Applied{Index: 3}); !errors.Is(err, trouble) {
		t.Errorf("end of entry: %v", err)
	}
	if err := b.s.Compact(2); !errors.Is(err, trouble) {
		t.Errorf("compact: %v", err)
	}
	if b.s.Committed() != 3 || b.durable.Load() != 1 || len(fatal) != 0 {
		t.Errorf("at %d, durable %d, told %d times more", b.s.Committed(), b.durable.Load(), len(fatal))
	}
	if err := b.s.Close(context.Background()); !errors.Is(err, trouble) {
		t.Errorf("close: %v", err)
	}
	broken.Store(false)
	b.open()
	if b.s.Committed() != 2 {
		t.Errorf("reopened at %d", b.s.Committed())
	}
}

// TestSnapshot ensures that a snapshot is a whole file of its moment, that there
// are at most two, and that none is left behind.
func TestSnapshot(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, nil)
	for i := range 500 {
		b.put(fmt.Sprint(i), "v")
	}
	first, err := b.s.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := b.hash(0)
	b.put("later", "v")
	second, err := b.s.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.s.Snapshot(ctx); !errors.Is(err, backends.ErrTooManyRequests) {
		t.Errorf("third: %v", err)
	}
	if err := errors.Join(second.Close(), b.s.Defragment(ctx)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy")
	data, err := io.ReadAll(first)
	if err != nil || int64(len(data)) != first.SizeBytes || first.Applied.Index != 500 {
		t.Errorf("read %d of %d bytes, applied %+v, %v", len(data), first.SizeBytes, first.Applied, err)
	}
	if err := errors.Join(first.Close(), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	checkFile(t, path)
	s, err := Open(Config{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := s.HashKV(ctx, 0); h != want || err != nil {
		t.Errorf("copy's hash %+v, %v, want %+v", h, err, want)
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	files, err := os.ReadDir(filepath.Dir(b.path))
	if err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	b.close()
	b.cfg.room = func(string) (int64, error) { return 10, nil }
	b.open()
	if _, err := b.s.Snapshot(ctx); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("no room: %v", err)
	}
	if err := b.s.Defragment(ctx); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("no room: %v", err)
	}
}

// TestDefragment ensures that the file shrinks, that nothing else changes, the
// options of the file included, and that a crash's leftovers vanish.
func TestDefragment(t *testing.T) {
	b := newBench(t, func(c *Config) { c.NoSync = false })
	for i := range 3000 {
		b.put(fmt.Sprint(i%10), strings.Repeat("x", 1000))
	}
	b.compactPhysically(3000)
	before, hash := b.s.Size(), b.hash(0)
	old := b.s.db
	if err := b.s.Defragment(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := b.s.Size(); after > before/4 || b.s.SizeInUse() > after || b.s.SizeInUse() == 0 {
		t.Errorf("size %d, in use %d, was %d", after, b.s.SizeInUse(), before)
	}
	if info, err := os.Stat(b.path); err != nil || info.Size() > before/4 {
		t.Errorf("file: %v, %v", info.Size(), err)
	}
	if h := b.hash(0); h != hash {
		t.Errorf("hash %+v, was %+v", h, hash)
	}
	if db := b.s.db; db.NoSync != old.NoSync || db.NoFreelistSync != old.NoFreelistSync || db.FreelistType != old.FreelistType ||
		db.NoGrowSync != old.NoGrowSync || db.MmapFlags != old.MmapFlags || db.MaxBatchSize != old.MaxBatchSize {
		t.Errorf("options changed: %+v", db)
	}
	b.put("after", "1")
	b.close()
	for _, name := range []string{"db.new", "db.defrag", "db.snapshot-1"} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(b.path), name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.open()
	if files, err := os.ReadDir(filepath.Dir(b.path)); err != nil || len(files) != 1 {
		t.Errorf("leftovers: %v, %v", files, err)
	}
}
