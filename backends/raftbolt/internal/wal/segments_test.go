package wal

import (
	"errors"
	"os"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestHousekeepAfterAFailedClose: a released segment whose file fails to close is gone all the same. It once stayed the first to remove for
// good, and each Housekeep failed at it.
func TestHousekeepAfterAFailedClose(t *testing.T) {
	fs := &failingFS{}
	o := options(t)
	o.FS, o.NoSync = fs, true
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, o, 1)
	for index := uint64(2); index < 60; index++ {
		mustWrite(t, l, Batch{HardState: HardState{Term: 1, Commit: index - 1}, Entries: []*raftpb.Entry{entry(index, 1, 900)}})
	}
	l.Cut(58)
	fs.close = errors.New("planted")
	if !l.NeedsHousekeeping() {
		t.Fatal("there is nothing to remove")
	}
	if err := l.Housekeep(); err != nil {
		t.Errorf("housekeeping: %v", err)
	}
	if fs.close = nil; l.NeedsHousekeeping() {
		t.Error("housekeeping left something to do")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestEmptySegmentsBehindTheLastBatch: a crash may leave two empty segments, the one just taken into use and the next spare, in all the
// ways that this can come about. The start keeps one that the last batch's segment is followed by, and nothing that it leaves is taken for
// a gap by the starts after it.
func TestEmptySegmentsBehindTheLastBatch(t *testing.T) {
	for name, roll := range map[string]func(*Log) error{
		"rolled":                   func(l *Log) error { return l.roll(100) },
		"rolled, and a spare":      func(l *Log) error { return errors.Join(l.roll(100), l.Housekeep()) },
		"large":                    func(l *Log) error { return l.roll(100_000) },
		"large, and a spare":       func(l *Log) error { return errors.Join(l.roll(100_000), l.Housekeep()) },
		"rolled twice":             func(l *Log) error { return errors.Join(l.roll(100), l.Housekeep(), l.roll(100), l.Housekeep()) },
		"rolled, large, and spare": func(l *Log) error { return errors.Join(l.roll(100), l.Housekeep(), l.roll(100_000), l.Housekeep()) },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.NoSync = true
			if err := Create(o, 1, 1); err != nil {
				t.Fatal(err)
			}
			l := mustOpen(t, o, 1)
			var want []*raftpb.Entry
			for range 12 {
				index := uint64(len(want) + 2)
				e := entry(index, 1, 1500)
				mustWrite(t, l, Batch{HardState: HardState{Term: 1, Commit: index - 1}, Entries: []*raftpb.Entry{e}})
				want = append(want, e)
				if err := errors.Join(l.Housekeep(), roll(l), l.Close()); err != nil {
					t.Fatal(err)
				}
				l = mustOpen(t, o, 1)
				if names := sortedNames(files(t, o.Dir)); len(names) != len(l.segments)+len(l.free)+1 {
					t.Fatalf("files %v, of the log %d, to recycle %d", names, len(l.segments), len(l.free))
				}
				wantEntries(t, l, want)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNewestSyncedBatchIsKept: a cut between the writing of a batch and its sync does not let the segment of the batch before be used again: a
// power loss that takes the new one would leave no batch at all. It once did; a full disk cuts at any time.
func TestNewestSyncedBatchIsKept(t *testing.T) {
	o := options(t)
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, o, 1)
	defer func() { _ = l.Close() }()
	mustWrite(t, l, Batch{HardState: HardState{Term: 1, Commit: 1}, Entries: []*raftpb.Entry{entry(2, 1, 2500)}})
	old := l.active
	if err := l.Write(&Batch{HardState: HardState{Term: 1, Commit: 2}, Entries: []*raftpb.Entry{entry(3, 1, 2500)}}); err != nil {
		t.Fatal(err)
	}
	if l.active == old {
		t.Fatal("both batches are in one segment")
	}
	l.Cut(2)
	for range 2 {
		if err := l.Housekeep(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(old.name)
	if err != nil {
		t.Fatal(err)
	}
	if head, err := decodeSegmentHeader(b); err != nil || head.life != old.life {
		t.Errorf("the segment was used again: life %x, %x; %v", head.life, old.life, err)
	}
	if err := errors.Join(l.Sync(), l.Housekeep()); err != nil {
		t.Fatal(err)
	}
	if len(l.segments) != 1 || l.spare == nil || l.NeedsHousekeeping() {
		t.Errorf("%d segments and spare %v after the sync", len(l.segments), l.spare)
	}
}

// TestPassedOverSpareIsKept: a spare that a batch too large for it passed over is not used again before that batch is synced: a power loss in the
// middle of its new header, which takes the batch, would leave a damaged header at the end of the log, and a start refuse it. It once did.
func TestPassedOverSpareIsKept(t *testing.T) {
	o := options(t)
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, o, 1)
	defer func() { _ = l.Close() }()
	mustWrite(t, l, Batch{HardState: HardState{Term: 1, Commit: 1}, Entries: []*raftpb.Entry{entry(2, 1, 100)}})
	passed := l.spare
	if passed == nil {
		t.Fatal("no spare")
	}
	life := passed.life
	if err := l.Write(&Batch{HardState: HardState{Term: 1, Commit: 2}, Entries: []*raftpb.Entry{entry(3, 1, int(o.SegmentBytes))}}); err != nil {
		t.Fatal(err)
	}
	if l.active.sequence <= passed.sequence {
		t.Fatalf("the large batch is in segment %d, the spare is %d", l.active.sequence, passed.sequence)
	}
	if err := l.Housekeep(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(passed.name)
	if err != nil {
		t.Fatal(err)
	}
	if head, err := decodeSegmentHeader(b); err != nil || head.life != life {
		t.Errorf("the spare was used again: life %x, was %x; %v", head.life, life, err)
	}
	if err := errors.Join(l.Sync(), l.Housekeep()); err != nil {
		t.Fatal(err)
	}
	if l.spare != passed || passed.life == life || passed.sequence <= l.active.sequence || l.NeedsHousekeeping() {
		t.Errorf("after the sync the spare is %+v, was %+v", l.spare, passed)
	}
}
