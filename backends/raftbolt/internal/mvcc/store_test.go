package mvcc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

// bench is a store under test with the applier's position.
type bench struct {
	t     testing.TB
	path  string
	cfg   Config
	s     *Store
	index uint64
	// durable is what OnDurable said last.
	durable atomic.Uint64
}

func newBench(t testing.TB, change func(*Config)) *bench {
	b := &bench{t: t, path: filepath.Join(t.TempDir(), "db")}
	b.cfg = Config{
		Path: b.path, NoSync: true,
		OnFatal: func(err error) { t.Errorf("OnFatal: %v", err) },
		OnDurable: func(index uint64) {
			if old := b.durable.Swap(index); old > index {
				t.Errorf("durable went from %d back to %d", old, index)
			}
		},
	}
	if change != nil {
		change(&b.cfg)
	}
	b.open()
	t.Cleanup(func() {
		if b.s != nil {
			b.close()
		}
	})
	return b
}

func (b *bench) open() {
	b.t.Helper()
	s, err := Open(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.s, b.index = s, s.Applied().Index
}

// close closes the store and checks the file as bbolt does.
func (b *bench) close() {
	b.t.Helper()
	if err := b.s.Close(context.Background()); err != nil {
		b.t.Error(err)
	}
	b.s = nil
	checkFile(b.t, b.path)
}

func checkFile(t testing.TB, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Error(err)
		return
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Error("bbolt check:", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// crash reopens a copy of the file as it is now, without a clean close.
func (b *bench) crash() {
	b.t.Helper()
	// Between two bbolt commits a copy is what a power cut leaves. It must have all
	// that was called durable.
	durable := b.durable.Load()
	b.s.writeFile.Lock()
	data, err := os.ReadFile(b.path)
	b.s.writeFile.Unlock()
	if err != nil {
		b.t.Fatal(err)
	}
	old := b.s
	b.path = filepath.Join(b.t.TempDir(), "db")
	b.cfg.Path = b.path
	if err := os.WriteFile(b.path, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.open()
	if b.index < durable {
		b.t.Errorf("%d was called durable, the file has %d", durable, b.index)
	}
	if err := old.Close(context.Background()); err != nil {
		b.t.Error(err)
	}
	b.durable.Store(b.index)
}

// entry runs f as one raft entry with one transaction.
func (b *bench) entry(f func(t *Txn)) int64 {
	b.t.Helper()
	t := b.s.Begin()
	f(t)
	revision, err := t.Commit()
	if err != nil {
		b.t.Fatal(err)
	}
	b.end()
	return revision
}

func (b *bench) end() {
	b.t.Helper()
	b.index++
	if err := b.s.EndEntry(Applied{Index: b.index, Term: 1}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) put(key, value string) int64 {
	b.t.Helper()
	return b.entry(func(t *Txn) { t.Put([]byte(key), []byte(value), 0) })
}

func (b *bench) del(key string) int64 {
	b.t.Helper()
	return b.entry(func(t *Txn) { t.DeleteRange(keyOf(key), nil) })
}

func (b *bench) compact(revision int64) {
	b.t.Helper()
	if err := b.s.Compact(revision); err != nil {
		b.t.Fatal(err)
	}
	b.end()
}

func (b *bench) flush() {
	b.t.Helper()
	if err := b.s.Flush(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}

func keyOf(key string) backends.KeyRange { return backends.KeyRange{Key: []byte(key)} }

func allKeys() backends.KeyRange { return backends.KeyRange{Key: []byte{0}, End: []byte{0}} }

// list drains a range of a view.
func list(t testing.TB, v *View, o backends.RangeOptions) (kvs []*mvccpb.KeyValue, count int64, more bool, err error) {
	t.Helper()
	c, err := v.Range(o)
	if err != nil {
		return nil, 0, false, err
	}
	defer c.Close()
	for {
		chunk, err := c.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return kvs, c.Count(), c.More(), nil
		}
		if err != nil {
			return nil, 0, false, err
		}
		n := 0
		for r := range chunk.Records() {
			kv := new(mvccpb.KeyValue)
			if err := proto.Unmarshal(r, kv); err != nil {
				t.Fatal(err)
			}
			kvs = append(kvs, kv)
			n++
		}
		if n != chunk.Len() || n == 0 {
			t.Errorf("chunk says %d records, has %d", chunk.Len(), n)
		}
		chunk.Release()
	}
}

func texts(kvs []*mvccpb.KeyValue) []string {
	var s []string
	for _, kv := range kvs {
		s = append(s, fmt.Sprintf("%s=%s c%d m%d v%d l%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease))
	}
	return s
}

func TestPutRangeReopen(t *testing.T) {
	b := newBench(t, nil)
	if r := b.s.Committed(); r != 1 {
		t.Fatalf("empty store is at revision %d, want 1", r)
	}
	b.put("a", "1")
	b.put("b", "1")
	b.put("a", "2")
	b.entry(func(t *Txn) { t.Put([]byte("c"), nil, 7) })
	b.del("b")
	check := func(when string) {
		t.Helper()
		v := b.s.View()
		defer v.Close()
		for _, tc := range []struct {
			revision int64
			want     string
		}{
			{0, "[a=2 c2 m4 v2 l0 c= c5 m5 v1 l7]"},
			{5, "[a=2 c2 m4 v2 l0 b=1 c3 m3 v1 l0 c= c5 m5 v1 l7]"},
			{3, "[a=1 c2 m2 v1 l0 b=1 c3 m3 v1 l0]"},
			{1, "[]"},
		} {
			kvs, count, more, err := list(t, v, backends.RangeOptions{KeyRange: allKeys(), Revision: tc.revision})
			if err != nil || fmt.Sprint(texts(kvs)) != tc.want || count != int64(len(kvs)) || more {
				t.Errorf("%s: at %d: %v, count %d, more %v, %v, want %s", when, tc.revision, texts(kvs), count, more, err, tc.want)
			}
		}
		if err := v.Check(7); !errors.Is(err, backends.ErrFutureRevision) {
			t.Errorf("%s: future: %v", when, err)
		}
	}
	check("in memory")
	b.flush()
	check("flushed")
	b.close()
	b.open()
	check("reopened")
	if a := b.s.Applied(); a.Index != 5 || a.Term != 1 {
		t.Errorf("applied %+v", a)
	}
	b.compact(5)
	if err := b.s.CompactDone(context.Background(), 5); err != nil {
		t.Fatal(err)
	}
	v := b.s.View()
	if err := v.Check(4); !errors.Is(err, backends.ErrCompacted) {
		t.Errorf("compacted: %v", err)
	}
	kvs, _, _, err := list(t, v, backends.RangeOptions{KeyRange: allKeys(), Revision: 5})
	if got := fmt.Sprint(texts(kvs)); err != nil || got != "[a=2 c2 m4 v2 l0 b=1 c3 m3 v1 l0 c= c5 m5 v1 l7]" {
		t.Errorf("at the compacted revision: %s, %v", got, err)
	}
}

// TestLayerFullBeforeFlushBytes names a bug: a writer that waits for room in the
// layer waited for the flush interval when FlushBytes was above LayerBytes.
func TestLayerFullBeforeFlushBytes(t *testing.T) {
	b := newBench(t, func(c *Config) {
		c.LayerBytes, c.FlushBytes, c.FlushInterval = 1, 1<<30, 1000*time.Hour
	})
	b.put("a", "1")
	if got := b.durable.Load(); got != b.index {
		t.Errorf("the layer is full of entry %d, and %d is durable", b.index, got)
	}
}
