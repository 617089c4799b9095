package mvcc

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

// TestFlushIntoFreePages ensures that on a full disk the layer still goes into
// the file while that has free pages enough: so deletions and compactions make
// room in it.
func TestFlushIntoFreePages(t *testing.T) {
	var full atomic.Bool
	b := newBench(t, func(c *Config) {
		c.room = func(string) (int64, error) {
			if full.Load() {
				return 0, nil
			}
			return 1 << 40, nil
		}
	})
	t.Cleanup(func() { full.Store(false) }) // so that the store can be closed
	for i := range 200 {
		b.put(fmt.Sprintf("%03d", i), strings.Repeat("x", 100_000))
	}
	b.flush()
	b.entry(func(t *Txn) { t.DeleteRange(backends.KeyRange{Key: []byte("000"), End: []byte("190")}, nil) })
	b.compactPhysically(b.s.Committed())
	if free := b.s.Size() - b.s.SizeInUse(); free < 10<<20 {
		t.Fatalf("%d bytes of the file are free", free)
	}
	full.Store(true)
	b.put("small", "value")
	b.entry(func(t *Txn) { t.DeleteRange(backends.KeyRange{Key: []byte("190"), End: []byte("195")}, nil) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.s.Flush(ctx); err != nil {
		t.Fatalf("Flush: %v", err)
	}
	b.compact(b.s.Committed())
	if err := b.s.CompactDone(ctx, b.s.CompactRevision()); err != nil {
		t.Fatalf("CompactDone: %v", err)
	}
	// What does not fit waits.
	big := strings.Repeat("x", 1<<20)
	for i := range 40 {
		b.put(fmt.Sprint("big", i), big)
	}
	short, cancelShort := context.WithTimeout(context.Background(), 2*b.s.cfg.FlushInterval)
	defer cancelShort()
	if err := b.s.Flush(short); err == nil {
		t.Error("40 MiB were flushed into 20 MiB on a full disk")
	}
}
