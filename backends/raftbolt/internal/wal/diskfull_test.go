package wal

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// fullFS is a disk on which no file can grow; what is written out already can be overwritten.
type fullFS struct {
	OS
	full bool
}

func (f *fullFS) Create(name string) (File, error) { return f.wrap(f.OS.Create(name)) }
func (f *fullFS) Open(name string) (File, error)   { return f.wrap(f.OS.Open(name)) }

func (f *fullFS) wrap(file File, err error) (File, error) { return &fullFile{file, f}, err }

type fullFile struct {
	File
	fs *fullFS
}

func (f *fullFile) WriteAt(b []byte, at int64) (int, error) {
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	if f.fs.full && at+int64(len(b)) > size {
		return 0, syscall.ENOSPC
	}
	return f.File.WriteAt(b, at)
}

// withoutSpare fills a log until its spare is in use, on a disk that is full by then.
func withoutSpare(t *testing.T, o Options, fs *fullFS) (l *Log, index uint64) {
	t.Helper()
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	l, index = mustOpen(t, o, 1), 1
	fs.full = true
	for !l.NeedsHousekeeping() {
		index++
		mustWrite(t, l, Batch{HardState: HardState{Term: 1, Commit: 1}, Entries: []*raftpb.Entry{entry(index, 1, 500)}})
	}
	return l, index
}

// TestFullDiskIsNotFilledFurther: an attempt to make a spare that finds no room leaves nothing behind, however often it is repeated: else
// the log would take whatever room is freed for the state machine.
func TestFullDiskIsNotFilledFurther(t *testing.T) {
	fs := &fullFS{}
	o := options(t)
	o.FS = fs
	l, index := withoutSpare(t, o, fs)
	for range 3 {
		if err := l.Housekeep(); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Housekeep = %v", err)
		}
	}
	names, err := fs.List(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, tempSuffix) {
			t.Errorf("%s is left behind", filepath.Join(o.Dir, n))
		}
	}
	// With room again, all goes on.
	fs.full = false
	if err := l.Housekeep(); err != nil || l.NeedsHousekeeping() {
		t.Errorf("Housekeep with room = %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, o, 1)
	defer l.Close()
	if l.LastIndex() != index {
		t.Errorf("last index %d, want %d", l.LastIndex(), index)
	}
}

// TestOpenOnFullDisk: a log without a spare opens on a full disk and goes on in the segment it has: a member that was stopped while its disk
// was full must come back, or nobody could free room in it.
func TestOpenOnFullDisk(t *testing.T) {
	fs := &fullFS{}
	o := options(t)
	o.FS = fs
	l, index := withoutSpare(t, o, fs)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := Open(o, 1)
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	defer func() { l.Close() }()
	index++
	mustWrite(t, l, Batch{HardState: HardState{Term: 1, Commit: 1}, Entries: []*raftpb.Entry{entry(index, 1, 500)}})
	if !l.NeedsHousekeeping() {
		t.Error("the log does not ask for a spare")
	}
	fs.full = false
	if err := l.Housekeep(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, o, 1)
	if l.LastIndex() != index {
		t.Errorf("last index %d, want %d", l.LastIndex(), index)
	}
}

// TestShrinkGivesRoomBack: after Shrink no file is left that the log does not need, save the spare.
func TestShrinkGivesRoomBack(t *testing.T) {
	o := options(t)
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	l, index := mustOpen(t, o, 1), uint64(1)
	defer l.Close()
	for range 400 {
		index++
		mustWrite(t, l, Batch{HardState: HardState{Term: 1, Commit: 1}, Entries: []*raftpb.Entry{entry(index, 1, 500)}})
		if err := l.Housekeep(); err != nil {
			t.Fatal(err)
		}
	}
	before, err := o.withDefaults().FS.List(o.Dir)
	if err != nil || len(before) < 5 {
		t.Fatalf("%d segments, %v", len(before), err)
	}
	l.Shrink(index)
	if !l.NeedsHousekeeping() {
		t.Fatal("nothing to do after Shrink")
	}
	if err := l.Housekeep(); err != nil {
		t.Fatal(err)
	}
	after, err := o.withDefaults().FS.List(o.Dir)
	if err != nil || len(after) != 2 {
		t.Errorf("%q are left, want the active segment and the spare; %v", after, err)
	}
	if room := l.Room(); room < o.SegmentBytes-firstBatch {
		t.Errorf("room for %d bytes with a spare of %d", room, o.SegmentBytes)
	}
}
