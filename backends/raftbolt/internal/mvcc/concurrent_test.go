package mvcc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

// TestConcurrent runs readers of every kind against one writer, flushes,
// compactions, snapshots and defragmentation. Each transaction writes the same
// number to all of ten keys, so that any torn read shows.
func TestConcurrent(t *testing.T) {
	b := newBench(t, func(c *Config) {
		c.FlushBytes, c.FlushInterval, c.RingBytes = 20_000, time.Millisecond, 50_000
	})
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	reader := func(f func(r *rand.Rand)) {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for r := rand.New(rand.NewPCG(1, 5)); ctx.Err() == nil; {
				f(r)
			}
		}()
	}
	const keys = 10
	value := func(n int) []byte { return []byte(fmt.Sprint(n, strings.Repeat("x", 500))) }
	for i := range 3 {
		reader(func(r *rand.Rand) {
			v := b.s.View()
			defer v.Close()
			o := backends.RangeOptions{KeyRange: allKeys()}
			if i > 0 {
				o.Revision = max(1, v.Revision()-r.Int64N(50))
			}
			kvs, count, _, err := list(t, v, o)
			if errors.Is(err, backends.ErrCompacted) && i > 0 {
				return
			}
			if err != nil || count != 0 && count != keys {
				t.Errorf("range: %d keys, %v", count, err)
				return
			}
			for _, kv := range kvs {
				if kv.ModRevision != kvs[0].ModRevision || string(kv.Value) != string(kvs[0].Value) {
					t.Errorf("torn read: %d and %d", kv.ModRevision, kvs[0].ModRevision)
				}
			}
		})
	}
	for range 2 {
		next := int64(2)
		reader(func(r *rand.Rand) {
			changed := b.s.Changed()
			events, n, err := b.s.History(ctx, next, r.Int64N(20_000))
			switch {
			case errors.Is(err, backends.ErrCompacted):
				next = b.s.CompactRevision()
				return
			case errors.Is(err, context.Canceled):
				return
			case err != nil:
				t.Errorf("history: %v", err)
				return
			case n == next:
				select {
				case <-changed:
				case <-ctx.Done():
				}
				return
			}
			if int64(len(events)) != (n-next)*keys {
				t.Errorf("history [%d, %d) has %d events", next, n, len(events))
			}
			for _, e := range events {
				if e.Revision < next {
					t.Errorf("event at %d, before %d", e.Revision, next)
				}
				if _, err := e.Encoded(r.IntN(2) == 0); err != nil {
					t.Errorf("encode: %v", err)
				}
			}
			next = n
		})
	}
	reader(func(r *rand.Rand) {
		if _, err := b.s.HashKV(ctx, 0); err != nil && ctx.Err() == nil {
			t.Errorf("hash: %v", err)
		}
		if r.IntN(3) == 0 {
			if err := b.s.Defragment(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("defragment: %v", err)
			}
		}
		s, err := b.s.Snapshot(ctx)
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("snapshot: %v", err)
			}
			return
		}
		if n, err := io.Copy(io.Discard, s); n != s.SizeBytes || err != nil {
			t.Errorf("snapshot: %d of %d bytes, %v", n, s.SizeBytes, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	var txns sync.WaitGroup
	for n := range 800 {
		txn := b.s.Begin()
		before := txn.View()
		for k := range keys {
			txn.Put(fmt.Appendf(nil, "key-%d", k), value(n), 0)
		}
		after := txn.View()
		if _, err := txn.Commit(); err != nil {
			t.Fatal(err)
		}
		b.end()
		txns.Add(1)
		go func() {
			defer txns.Done()
			checkPinned(t, before, n-1)
			checkPinned(t, after, n)
		}()
		if n%100 == 99 {
			b.compact(b.s.Committed() - 20)
		}
	}
	txns.Wait()
	if err := b.s.CompactDone(context.Background(), b.s.CompactRevision()); err != nil {
		t.Error(err)
	}
	cancel()
	readers.Wait()
}

// checkPinned reads one key of a transaction's view.
func checkPinned(t *testing.T, v *View, n int) {
	defer v.Close()
	record, ok, err := v.Get([]byte("key-3"), 0)
	if err != nil || ok != (n >= 0) {
		t.Errorf("pinned view: %v, %v", ok, err)
		return
	}
	kv := new(mvccpb.KeyValue)
	if err := proto.Unmarshal(record, kv); err != nil || ok && !strings.HasPrefix(string(kv.Value), fmt.Sprint(n, "x")) {
		t.Errorf("pinned view of %d: %.10q, %v", n, kv.Value, err)
	}
}
