package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// FuzzOpen does harm to a log and opens it: bytes overwritten, bits flipped, files
// cut, zeroed from an offset on, removed, swapped. Open must not panic and must
// not take memory beyond what the files are worth; when it succeeds, the log holds
// what some of the batches, from the first on, made, and nothing that was not
// written. A second form of input is a batch as such, its checksums made right: what
// decodes must encode to the same. Of etcd's log, damage made slices out of bounds and huge
// ones: CVE-2020-15106, CVE-2020-15112, GO-2020-0005.
func FuzzOpen(f *testing.F) {
	o := options(f)
	o.NoSync = true // the disk is not the subject
	batches := sample(f, o)
	whole := files(f, o.Dir)
	names := sortedNames(whole)
	seedOpen(f, whole, names)
	f.Fuzz(func(t *testing.T, harm []byte) {
		if len(harm) > 0 && harm[0] == 0xff {
			checkBatch(t, harm[1:])
			return
		}
		contents := map[string][]byte{}
		for name, b := range whole {
			contents[name] = bytes.Clone(b)
		}
		spoil(contents, names, harm)
		o := o
		o.Dir = t.TempDir()
		restore(t, o.Dir, contents)
		l := openBounded(t, o, contents)
		if l == nil {
			return
		}
		defer l.Close()
		got, err := readEverything(l)
		if err != nil {
			t.Fatalf("opened, but cannot be read: %v", err)
		}
		for n := range len(batches) + 1 {
			if want, hard := after(batches, n); equalEntries(got, want) && (l.HardState() == hard || n == 0) {
				return
			}
		}
		t.Fatalf("the log holds %d entries, hard state %+v, which no part of what was written made", len(got), l.HardState())
	})
}

// openBounded opens the log, or returns nil when it is refused with a sentinel.
func openBounded(t *testing.T, o Options, contents map[string][]byte) *Log {
	size := uint64(0)
	for _, b := range contents {
		size += uint64(len(b))
	}
	var before, between runtime.MemStats
	runtime.ReadMemStats(&before)
	l, err := Open(o, 1)
	runtime.ReadMemStats(&between)
	// A file is read whole, its entries and those that replace them are kept, and a
	// spare is written: a small multiple, whatever lengths the bytes claim.
	if took, most := between.TotalAlloc-before.TotalAlloc, 16*size+8<<20; took > most {
		t.Fatalf("Open took %d bytes of memory for %d bytes of log", took, size)
	}
	if err == nil {
		return l
	}
	for _, is := range []error{ErrNoLog, ErrForeign, ErrVersion, ErrOwner, ErrCorrupt, ErrBehindStore, ErrAheadOfStore} {
		if errors.Is(err, is) {
			return nil
		}
	}
	t.Fatalf("Open: %v, which is none of its errors", err)
	return nil
}

func readEverything(l *Log) (all []*raftpb.Entry, err error) {
	for lo := l.FirstIndex(); lo <= l.LastIndex(); {
		some, err := l.Entries(lo, l.LastIndex()+1, 1<<20)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		lo += uint64(len(some))
	}
	return all, nil
}

func equalEntries(a, b []*raftpb.Entry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].GetIndex() != b[i].GetIndex() || a[i].GetTerm() != b[i].GetTerm() || !bytes.Equal(a[i].GetData(), b[i].GetData()) {
			return false
		}
	}
	return true
}

// spoil does what harm says: runs of (what, file, offset in two bytes, argument).
func spoil(contents map[string][]byte, names []string, harm []byte) {
	for ; len(harm) >= 5; harm = harm[5:] {
		name := names[int(harm[1])%len(names)]
		b := contents[name]
		if len(b) == 0 {
			continue
		}
		at := int(binary.LittleEndian.Uint16(harm[2:])) % len(b)
		switch harm[0] % 7 {
		case 0:
			b[at] ^= 1 << (harm[4] % 8)
		case 1:
			b[at] = harm[4]
		case 2:
			clear(b[at:])
		case 3:
			contents[name] = b[:at]
		case 4:
			delete(contents, name)
		case 5:
			other := names[int(harm[4])%len(names)]
			contents[name], contents[other] = contents[other], contents[name]
			if contents[name] == nil || contents[other] == nil {
				delete(contents, name)
				delete(contents, other)
			}
		case 6: // a piece of the log once more, elsewhere
			copy(b[at:], b[int(harm[4])*8%len(b):])
		}
	}
}

// seedOpen adds each kind of harm at each kind of place, and whole batches.
func seedOpen(f *testing.F, whole map[string][]byte, names []string) {
	f.Add([]byte{})
	for n, name := range names {
		for _, start := range append(batchStarts(whole[name]), 0) {
			for what := range byte(7) {
				f.Add([]byte{what, byte(n), byte(start + 5), byte((start + 5) >> 8), 1})
			}
		}
	}
	for _, b := range []Batch{
		{HardState: HardState{Term: 3, Vote: 2, Commit: 1}, Entries: []*raftpb.Entry{entry(2, 2, 0), entry(3, 2, 40)}},
		{Snapshot: &SnapshotRecord{Index: 7, Term: 2, ConfState: &raftpb.ConfState{Voters: []uint64{1}}}},
	} {
		h := batchHeader{number: 4, first: 2, last: 3}
		if b.Snapshot != nil {
			h.first, h.last = 8, 7
		}
		encoded, err := encodeBatch([]byte{0xff}, &b, h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
		f.Add(encoded[:len(encoded)-9])
	}
}

// checkBatch: any bytes decode without a panic, and what decodes encodes to a batch
// that decodes to the same.
func checkBatch(t *testing.T, b []byte) {
	_, _ = decodeSegmentHeader(b)
	b = bytes.Clone(b)
	seal(b)
	h, batch, _, ok := decodeBatch(b)
	if !ok {
		return
	}
	again, err := encodeBatch(nil, &batch, h)
	if err != nil {
		t.Fatal(err)
	}
	h2, batch2, _, ok := decodeBatch(again)
	if !ok || batch2.HardState != batch.HardState || h2.last != h.last || !equalEntries(batch.Entries, batch2.Entries) {
		t.Fatalf("%+v decodes to %+v", batch, batch2)
	}
}
