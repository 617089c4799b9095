package mvcc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
)

// TestSnapshotGivesUp ensures that a snapshot ends when the room that a flush needs
// vanishes under its copy, when its caller is gone, and when the store is closed, which does not wait for the
// rest, and leaves nothing behind.
func TestSnapshotGivesUp(t *testing.T) {
	const plenty = 1 << 40
	look := func() int64 { return plenty }
	b := newBench(t, func(c *Config) { c.room = func(string) (int64, error) { return look(), nil } })
	for i := range 20 {
		b.put(fmt.Sprint(i), strings.Repeat("x", 1<<20))
	}
	b.flush()
	alone := func() {
		t.Helper()
		if files, err := os.ReadDir(filepath.Dir(b.path)); err != nil || len(files) != 1 {
			t.Errorf("left behind: %v, %v", files, err)
		}
	}
	ctx, looks := context.Background(), 0
	look = func() int64 {
		if looks++; looks == 1 { // before the copy
			return plenty
		}
		return snapshotCheckBytes - 1
	}
	if s, err := b.s.Snapshot(ctx); !errors.Is(err, backends.ErrNoSpace) || looks != 2 {
		t.Errorf("on a disk that fills up: %v, %v after %d looks", s, err, looks)
	}
	alone()
	// At the first page, of which bbolt tells the error as text alone.
	cancelled, cancel := context.WithCancel(ctx)
	look = func() int64 { cancel(); return plenty }
	if s, err := b.s.Snapshot(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("of a caller who is gone: %v, %v", s, err)
	}
	alone()
	closed := make(chan error, 1)
	looks = 0
	store := b.s
	look = func() int64 {
		if looks++; looks == 2 {
			go func() { closed <- store.Close(ctx) }()
			<-store.stopped.Done()
		}
		return plenty
	}
	if s, err := b.s.Snapshot(ctx); !errors.Is(err, backends.ErrStopped) || looks != 2 {
		t.Errorf("of a store that is closed: %v, %v after %d looks", s, err, looks)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	alone()
	look = func() int64 { return plenty }
	b.open()
	s, err := b.s.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
