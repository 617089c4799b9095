package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// options are those of a small log in a directory of its own, with life ids from a fixed source.
func options(t testing.TB) Options {
	return Options{Dir: t.TempDir() + "/wal", Owner: Owner{Cluster: 7, Member: 9}, Random: rand.New(rand.NewSource(1)), SegmentBytes: 4096}
}

// entry is one with n bytes of data that its index and term determine.
func entry(index, term uint64, n int) *raftpb.Entry {
	data := bytes.Repeat([]byte{byte(index), byte(term)}, n/2+1)[:n]
	return &raftpb.Entry{Index: new(index), Term: new(term), Type: raftpb.EntryNormal.Enum(), Data: data}
}

func mustOpen(t testing.TB, o Options, durable uint64) *Log {
	t.Helper()
	l, err := Open(o, durable)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustWrite(t testing.TB, l *Log, b Batch) {
	t.Helper()
	if err := errors.Join(l.Write(&b), l.Sync()); err != nil {
		t.Fatal(err)
	}
}

// wantEntries compares all of l's entries with want.
func wantEntries(t testing.TB, l *Log, want []*raftpb.Entry) {
	t.Helper()
	var got []*raftpb.Entry
	for lo := l.FirstIndex(); lo <= l.LastIndex(); {
		part, err := l.Entries(lo, l.LastIndex()+1, 300)
		if err != nil {
			t.Fatalf("Entries(%d): %v", lo, err)
		}
		got = append(got, part...)
		lo += uint64(len(part))
	}
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i, e := range got {
		w := want[i]
		if e.GetIndex() != w.GetIndex() || e.GetTerm() != w.GetTerm() || e.GetType() != w.GetType() || !bytes.Equal(e.GetData(), w.GetData()) {
			t.Fatalf("entry %d is (%d, %d, %d bytes), want (%d, %d, %d bytes)", i,
				e.GetIndex(), e.GetTerm(), len(e.GetData()), w.GetIndex(), w.GetTerm(), len(w.GetData()))
		}
		if term, err := l.Term(e.GetIndex()); err != nil || term != w.GetTerm() {
			t.Fatalf("Term(%d) = %d, %v", e.GetIndex(), term, err)
		}
	}
}

// TestRandomOperations: whatever is written, replaced, cut and reopened, the log shows what a plain slice shows; with and without a cache.
func TestRandomOperations(t *testing.T) {
	for _, cacheBytes := range []int64{1, 600, 1 << 20} {
		for seed := int64(1); seed <= 20; seed++ {
			t.Run(fmt.Sprintf("cache=%d/seed=%d", cacheBytes, seed), func(t *testing.T) { randomOperations(t, seed, cacheBytes) })
		}
	}
}

func randomOperations(t *testing.T, seed, cacheBytes int64) {
	r := rand.New(rand.NewSource(seed))
	o := options(t)
	o.CacheBytes, o.NoSync = cacheBytes, true
	if err := Create(o, 5, 2); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, o, 5)
	defer func() { l.Close() }()
	var want []*raftpb.Entry
	hard, durable := HardState{Term: 2, Commit: 5}, uint64(5)
	for range 150 {
		last := durable
		if len(want) > 0 {
			last = want[len(want)-1].GetIndex()
		}
		switch p := r.Intn(20); {
		case p < 12: // append, sometimes in place of a tail
			from := last + 1
			if r.Intn(4) == 0 && last > durable {
				from = durable + 1 + uint64(r.Int63n(int64(last-durable)))
				hard.Term++
				want = want[:len(want)-int(last+1-from)]
			}
			var add []*raftpb.Entry
			for range 1 + r.Intn(4) {
				n := r.Intn(120)
				if r.Intn(60) == 0 {
					n = 5000 // above a segment
				}
				add = append(add, entry(from, hard.Term, n))
				from++
			}
			mustWrite(t, l, Batch{HardState: hard, Entries: add})
			want = append(want, add...)
		case p < 14: // a vote
			hard.Term++
			hard.Vote = uint64(r.Intn(3))
			mustWrite(t, l, Batch{HardState: hard})
		case p < 17: // cut
			if last > durable {
				durable += uint64(r.Int63n(int64(last - durable + 1)))
				l.Cut(durable)
				for len(want) > 0 && want[0].GetIndex() <= durable {
					want = want[1:]
				}
				if err := l.Housekeep(); err != nil {
					t.Fatal(err)
				}
			}
		case p < 18: // a snapshot replaces all
			durable = last + 1 + uint64(r.Intn(9))
			want = nil
			mustWrite(t, l, Batch{HardState: hard, Snapshot: &SnapshotRecord{Index: durable, Term: hard.Term, ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}}}})
		default:
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = mustOpen(t, o, durable)
			if l.HardState() != hard {
				t.Fatalf("hard state %+v, want %+v", l.HardState(), hard)
			}
			if first := l.FirstIndex(); first > durable+1 {
				t.Fatalf("first index %d after a cut at %d", first, durable)
			}
			l.Cut(durable)
		}
		wantEntries(t, l, want)
	}
}
