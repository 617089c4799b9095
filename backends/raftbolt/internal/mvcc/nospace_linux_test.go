package mvcc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDiskFull fills a small file system for real, behind the back of the check
// for room, so that a commit fails half-way: the store must keep what it has,
// read on, and go on once there is room. It needs the right to mount.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=96m"); err != nil {
		t.Skip("cannot mount a small file system:", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 90<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{}, 10)
	b := newBench(t, func(c *Config) {
		c.Path = filepath.Join(dir, "db")
		c.NoSync = false
		c.FlushBytes = 1
		c.OnNoSpace = func() { told <- struct{}{} }
		c.room = func(string) (int64, error) { return 1 << 40, nil }
	})
	b.path = b.cfg.Path
	b.put("first", "1")
	b.flush()
	for range 40 { // twice the room there is
		b.put("big", strings.Repeat("x", 300_000))
	}
	<-told
	if !b.s.Short() {
		t.Error("a flush found no room, and the store is not short of it")
	}
	for _, key := range []string{"first", "big"} {
		v := b.s.View()
		if _, ok, err := v.Get([]byte(key), 0); !ok || err != nil {
			t.Errorf("read %q on a full disk: %v, %v", key, ok, err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	b.flush()
	hash := b.hash(0)
	b.crash()
	if h := b.hash(0); h != hash {
		t.Errorf("hash %+v, was %+v", h, hash)
	}
}

// TestCompactOnFullDisk ensures that deletes and a compaction make room on a disk that has
// hardly any, although a removal writes anew what shares pages with what it removes. It
// needs the right to mount.
func TestCompactOnFullDisk(t *testing.T) {
	const (
		size  = 96 << 20
		value = 100_000
		keys  = 400
		left  = 1 << 20 // far less than a compaction in one transaction writes anew
	)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", size)); err != nil {
		t.Skip("cannot mount a small file system:", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	b := newBench(t, func(c *Config) {
		c.Path = filepath.Join(dir, "db")
		c.NoSync = false
		c.FlushInterval = time.Hour // one flush of all, which packs the pages
	})
	b.path = b.cfg.Path
	content := strings.Repeat("x", value)
	for i := range keys {
		b.put(fmt.Sprintf("%04d", i), content)
	}
	b.flush()
	for i := 0; i < keys; i += 2 {
		b.del(fmt.Sprintf("%04d", i))
	}
	b.flush()
	free, err := freeBytes(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, free-left), 0o600); err != nil {
		t.Fatal(err)
	}
	before := b.s.SizeInUse()
	b.compactPhysically(b.s.Committed())
	b.put("last", "1")
	b.flush()
	if after := b.s.SizeInUse(); after > before*2/3 {
		t.Errorf("%d bytes in use, were %d", after, before)
	}
	if b.s.Short() {
		t.Error("no room was made")
	}
	if n := b.s.Keys(); n != keys/2+1 {
		t.Errorf("%d keys", n)
	}
	b.close()
	b.open()
	b.close() // before its file system is gone
}
