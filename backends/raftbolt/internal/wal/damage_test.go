package wal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample writes a log of some batches over more than one segment and answers them in order; the first is Create's.
func sample(t testing.TB, o Options) []Batch {
	t.Helper()
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, o, 1)
	batches := []Batch{
		{HardState: HardState{Term: 2, Vote: 9, Commit: 1}, Entries: []*raftpb.Entry{entry(2, 2, 0)}},
		{HardState: HardState{Term: 2, Vote: 9, Commit: 2}, Entries: []*raftpb.Entry{entry(3, 2, 300), entry(4, 2, 1)}},
		{HardState: HardState{Term: 3, Vote: 0, Commit: 2}},
		{HardState: HardState{Term: 3, Vote: 9, Commit: 3}, Entries: []*raftpb.Entry{entry(4, 3, 700), entry(5, 3, 700)}},
		{HardState: HardState{Term: 3, Vote: 9, Commit: 5}, Entries: []*raftpb.Entry{entry(6, 3, 1200)}},
		{HardState: HardState{Term: 3, Vote: 9, Commit: 6}, Entries: []*raftpb.Entry{entry(7, 3, 900)}},
		{HardState: HardState{Term: 4, Vote: 8, Commit: 6}, Entries: []*raftpb.Entry{entry(8, 4, 64)}},
	}
	for _, b := range batches {
		mustWrite(t, l, b)
	}
	if err := errors.Join(l.Housekeep(), l.Close()); err != nil {
		t.Fatal(err)
	}
	return batches
}

// after is what a log holds after the first n of batches.
func after(batches []Batch, n int) (entries []*raftpb.Entry, hard HardState) {
	hard = HardState{Term: 1, Commit: 1}
	for _, b := range batches[:n] {
		hard = b.HardState
		if len(b.Entries) > 0 {
			entries = append(entries[:b.Entries[0].GetIndex()-2:b.Entries[0].GetIndex()-2], b.Entries...)
		}
	}
	return entries, hard
}

// files reads a directory's files by name.
func files(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(name)] = b
	}
	return out
}

// restore makes dir hold exactly contents.
func restore(t testing.TB, dir string, contents map[string][]byte) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, b := range contents {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func sortedNames(contents map[string][]byte) []string {
	var names []string
	for name := range contents {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// batchStarts tells where each batch of a segment begins.
func batchStarts(b []byte) (starts []int64) {
	head, err := decodeSegmentHeader(b)
	if err != nil {
		return nil
	}
	for pos := int64(firstBatch); pos < int64(len(b)); {
		h, _, _, ok := decodeBatch(b[pos:])
		if !ok || h.life != head.life {
			break
		}
		starts = append(starts, pos)
		pos += h.size()
	}
	return starts
}

// TestCutAtEveryOffset: zeros from any offset of the last used segment on are a torn tail: the batches before it are there, and nothing
// else. If the store holds more, the log is refused. A file that is really shorter is refused.
func TestCutAtEveryOffset(t *testing.T) {
	o := options(t)
	o.NoSync = true // the disk is not the subject
	batches := sample(t, o)
	whole := files(t, o.Dir)
	names := sortedNames(whole)
	var last string
	before := -1 // batches in earlier segments, without Create's
	for _, name := range names {
		if n := len(batchStarts(whole[name])); n > 0 {
			if last != "" {
				before += len(batchStarts(whole[last]))
			}
			last = name
		}
	}
	starts := batchStarts(whole[last])
	if before < 2 || len(starts) < 2 {
		t.Fatalf("%d batches in earlier segments, %d in the last", before, len(starts))
	}
	for offset := int64(firstBatch); offset < int64(len(whole[last])); offset++ {
		contents := map[string][]byte{}
		for name, b := range whole {
			contents[name] = b
		}
		torn := append([]byte(nil), whole[last]...)
		clear(torn[offset:])
		contents[last] = torn
		restore(t, o.Dir, contents)
		kept := before
		for i, start := range starts {
			end := start + batchSize(whole[last][start:])
			if offset >= end || bytes.Equal(torn[start:end], whole[last][start:end]) {
				kept = before + i + 1
			}
		}
		want, hard := after(batches, kept)
		l, err := Open(o, 1)
		if err != nil {
			t.Fatalf("cut at %d: %v", offset, err)
		}
		wantEntries(t, l, want)
		if l.HardState() != hard {
			t.Fatalf("cut at %d: hard state %+v, want %+v", offset, l.HardState(), hard)
		}
		// It goes on where it was cut.
		next := entry(l.LastIndex()+1, hard.Term, 40)
		mustWrite(t, l, Batch{HardState: hard, Entries: []*raftpb.Entry{next}})
		_ = l.Close()
		l = mustOpen(t, o, 1)
		wantEntries(t, l, append(want[:len(want):len(want)], next))
		_ = l.Close()

		if kept < len(batches) && offset%64 == 0 {
			restore(t, o.Dir, contents)
			if _, err := Open(o, 8); !errors.Is(err, ErrBehindStore) {
				t.Fatalf("cut at %d with a store that holds all: %v", offset, err)
			}
			contents[last] = whole[last][:offset]
			restore(t, o.Dir, contents)
			if _, err := Open(o, 1); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("file shortened to %d: %v", offset, err)
			}
		}
	}
}

func batchSize(b []byte) int64 {
	h, _ := decodeBatchHeader(b)
	return h.size()
}

// TestBitFlips: whatever bit is flipped, Open refuses, or the log holds what was written, or it misses the last batch and nothing else (the
// known limit, which the store's durable index catches).
func TestBitFlips(t *testing.T) {
	o := options(t)
	o.NoSync = true
	batches := sample(t, o)
	whole := files(t, o.Dir)
	full, hard := after(batches, len(batches))
	less, lessHard := after(batches, len(batches)-1)
	outcomes := map[string]int{}
	for _, name := range sortedNames(whole) {
		for at := range whole[name] {
			contents := map[string][]byte{}
			for n, b := range whole {
				contents[n] = b
			}
			flipped := append([]byte(nil), whole[name]...)
			flipped[at] ^= 1 << (at % 8)
			contents[name] = flipped
			// Only a used byte can matter; of the rest a sample will do.
			if len(batchStarts(whole[name])) == 0 && at > firstBatch && at%97 != 0 {
				continue
			}
			restore(t, o.Dir, contents)
			l, err := Open(o, 1)
			switch {
			case errors.Is(err, ErrCorrupt), errors.Is(err, ErrVersion), errors.Is(err, ErrAheadOfStore):
				outcomes["refused"]++
				continue
			case err != nil:
				t.Fatalf("%s, bit in byte %d: %v", name, at, err)
			}
			if l.HardState() == hard {
				wantEntries(t, l, full)
				outcomes["unharmed"]++
			} else {
				if l.HardState() != lessHard {
					t.Fatalf("%s, bit in byte %d: hard state %+v", name, at, l.HardState())
				}
				wantEntries(t, l, less)
				outcomes["without the last batch"]++
			}
			_ = l.Close()
		}
	}
	t.Log(outcomes)
	for _, o := range []string{"refused", "unharmed", "without the last batch"} {
		if outcomes[o] == 0 {
			t.Errorf("never %s", o)
		}
	}
}

// TestLostSegments: a segment that is missing is refused, at the end too, where only the spare behind it tells.
func TestLostSegments(t *testing.T) {
	o := options(t)
	sample(t, o)
	whole := files(t, o.Dir)
	var used []string
	for _, name := range sortedNames(whole) {
		if len(batchStarts(whole[name])) > 0 {
			used = append(used, name)
		}
	}
	if len(used) < 2 {
		t.Fatalf("segments in use: %v", used)
	}
	for _, lost := range used {
		contents := map[string][]byte{}
		for name, b := range whole {
			if name != lost {
				contents[name] = b
			}
		}
		restore(t, o.Dir, contents)
		before := files(t, o.Dir)
		if _, err := Open(o, 1); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrAheadOfStore) {
			t.Errorf("%s lost: %v", lost, err)
		}
		if now := files(t, o.Dir); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Errorf("%s lost: the directory has changed", lost)
		}
	}
}

// TestForeignDirectories: other programs' and other versions' logs are refused and left as they are.
func TestForeignDirectories(t *testing.T) {
	o := options(t)
	sample(t, o)
	whole := files(t, o.Dir)
	first := sortedNames(whole)[0]
	newer := append([]byte(nil), whole[first]...)
	newer[4] = segmentVersion + 1
	tests := map[string]struct {
		contents map[string][]byte
		want     error
	}{
		"missing":         {nil, ErrNoLog},
		"empty":           {map[string][]byte{"notes.txt": nil}, ErrNoLog},
		"etcd":            {map[string][]byte{"0000000000000000-0000000000000000.wal": make([]byte, 4096)}, ErrForeign},
		"etcd beside":     {map[string][]byte{"0000000000000000-0000000000000000.wal": nil, first: whole[first]}, ErrForeign},
		"another version": {map[string][]byte{first: newer}, ErrVersion},
		"no segment":      {map[string][]byte{first: []byte("hello")}, ErrCorrupt},
		"no bytes":        {map[string][]byte{first: nil}, ErrCorrupt},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			restore(t, o.Dir, test.contents)
			if test.contents == nil {
				if err := os.RemoveAll(o.Dir); err != nil {
					t.Fatal(err)
				}
			}
			before := fmt.Sprint(files(t, o.Dir))
			if _, err := Open(o, 1); !errors.Is(err, test.want) {
				t.Errorf("Open = %v, want %v", err, test.want)
			}
			if before != fmt.Sprint(files(t, o.Dir)) {
				t.Error("the directory has changed")
			}
			exists, err := Exists(nil, o.Dir)
			if want := !errors.Is(test.want, ErrNoLog); err != nil || exists != want {
				t.Errorf("Exists = %v, %v", exists, err)
			}
			if exists {
				if err := Create(o, 1, 1); !errors.Is(err, ErrExists) {
					t.Errorf("Create = %v", err)
				}
			}
		})
	}
}

// TestGolden: the format stays what it is.
func TestGolden(t *testing.T) {
	o := options(t)
	batches := sample(t, o)
	const golden = "testdata/v2"
	if *update {
		restore(t, golden, files(t, o.Dir))
	}
	want := files(t, golden)
	got := files(t, o.Dir)
	if len(want) == 0 || len(got) != len(want) {
		t.Fatalf("%d files, want %d", len(got), len(want))
	}
	for name, b := range want {
		if !bytes.Equal(got[name], b) {
			t.Errorf("%s differs", name)
		}
	}
	restore(t, o.Dir, want)
	l := mustOpen(t, o, 1)
	defer l.Close()
	entries, hard := after(batches, len(batches))
	wantEntries(t, l, entries)
	if l.HardState() != hard {
		t.Errorf("hard state %+v", l.HardState())
	}
}

// TestFilesOnDisk: modes, names that etcd's reader does not take for its own, written blocks, and a spare.
func TestFilesOnDisk(t *testing.T) {
	o := options(t)
	o.SegmentBytes = 1 << 20
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, o, 1)
	defer l.Close()
	info, err := os.Stat(o.Dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	names, _ := filepath.Glob(filepath.Join(o.Dir, "*"))
	if len(names) != 2 {
		t.Fatalf("%v, want the active segment and the spare", names)
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || info.Size() != o.SegmentBytes {
			t.Errorf("%s: %v, %d bytes", name, info.Mode(), info.Size())
		}
		if st := info.Sys().(*syscall.Stat_t); st.Blocks*512 < o.SegmentBytes {
			t.Errorf("%s: only %d blocks are written", name, st.Blocks)
		}
		// etcd takes "%016x-%016x.wal" for its own.
		var sequence, index uint64
		if n, _ := fmt.Sscanf(filepath.Base(name), "%016x-%016x.wal", &sequence, &index); n != 0 || !strings.HasSuffix(name, ".wal") {
			t.Errorf("%s: etcd would read it", name)
		}
	}
}

// TestRecycling: a segment that is cut is used again under a new life id, and old batches in it are not read.
func TestRecycling(t *testing.T) {
	o := options(t)
	o.NoSync = true
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, o, 1)
	lives := map[lifeID]bool{}
	files := map[*segment]bool{}
	index := uint64(1)
	for range 200 {
		index++
		mustWrite(t, l, Batch{HardState: HardState{Term: 1, Commit: index - 1}, Entries: []*raftpb.Entry{entry(index, 1, 200)}})
		l.Cut(index - 1)
		if err := l.Housekeep(); err != nil {
			t.Fatal(err)
		}
		lives[l.active.life], files[l.active] = true, true
	}
	if len(lives) < 10 || len(files) > 5 {
		t.Errorf("%d lives in %d segments", len(lives), len(files))
	}
	_ = l.Close()
	l = mustOpen(t, o, index-1)
	defer l.Close()
	if l.LastIndex() != index || l.FirstIndex() > index {
		t.Errorf("log [%d, %d], want the end %d", l.FirstIndex(), l.LastIndex(), index)
	}
}

// failingFS fails writes or syncs of files on demand, and counts syncs.
type failingFS struct {
	OS
	write, sync, close error
	syncs              int
}

func (f *failingFS) Create(name string) (File, error) { return f.wrap(f.OS.Create(name)) }
func (f *failingFS) Open(name string) (File, error)   { return f.wrap(f.OS.Open(name)) }

func (f *failingFS) wrap(file File, err error) (File, error) { return &failingFile{file, f}, err }

type failingFile struct {
	File
	fs *failingFS
}

func (f *failingFile) WriteAt(b []byte, at int64) (int, error) {
	if f.fs.write != nil {
		return 0, f.fs.write
	}
	return f.File.WriteAt(b, at)
}

func (f *failingFile) Close() error { return errors.Join(f.File.Close(), f.fs.close) }

func (f *failingFile) Sync() error {
	f.fs.syncs++
	if f.fs.sync != nil {
		return f.fs.sync
	}
	return f.File.Sync()
}

// TestFailuresAreFinal: after a failed write or sync the log does nothing any more, even if the disk would.
func TestFailuresAreFinal(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		for _, sync := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/sync=%v", cause, sync), func(t *testing.T) {
				o := options(t)
				fs := &failingFS{}
				o.FS = fs
				if err := Create(o, 1, 1); err != nil {
					t.Fatal(err)
				}
				l := mustOpen(t, o, 1)
				b := Batch{HardState: HardState{Term: 1, Commit: 1}, Entries: []*raftpb.Entry{entry(2, 1, 10)}}
				if sync {
					fs.sync = cause
				} else {
					fs.write = cause
				}
				before := fs.syncs
				err := l.Write(&b)
				if sync {
					if err != nil {
						t.Fatal(err)
					}
					err = l.Sync()
					before++
				}
				if !errors.Is(err, cause) {
					t.Fatalf("err = %v", err)
				}
				fs.write, fs.sync = nil, nil
				if err := l.Sync(); !errors.Is(err, cause) {
					t.Errorf("Sync afterwards = %v", err)
				}
				if err := l.Write(&b); !errors.Is(err, cause) {
					t.Errorf("Write afterwards = %v", err)
				}
				if fs.syncs != before {
					t.Errorf("%d syncs too many", fs.syncs-before)
				}
			})
		}
	}
}

// TestSyncBetweenWrites: the writer must sync a batch before it writes the next: recovery relies on it.
func TestSyncBetweenWrites(t *testing.T) {
	o := options(t)
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, o, 1)
	defer l.Close()
	b := Batch{HardState: HardState{Term: 1, Commit: 1}, Entries: []*raftpb.Entry{entry(2, 1, 10)}}
	if err := l.Write(&b); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(&b); !errors.Is(err, errUnsynced) {
		t.Errorf("second Write = %v", err)
	}
}

// seal makes the checksums right, so that the fuzzer gets past them.
func seal(b []byte) {
	if len(b) < batchHead {
		return
	}
	n := uint32(b[32]) | uint32(b[33])<<8 | uint32(b[34])<<16 | uint32(b[35])<<24
	if int64(n) > int64(len(b)-batchHead) {
		return
	}
	put := func(at int, v uint32) {
		b[at], b[at+1], b[at+2], b[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
	put(4, checksum(b[batchHead:batchHead+int(n)]))
	put(92, checksum(b[:92]))
}
