package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
)

// watchedStore is the real store, written as apply does.
type watchedStore struct {
	t     *testing.T
	store *mvcc.Store
	index uint64
}

func openWatchedStore(t *testing.T, cfg mvcc.Config) *watchedStore {
	t.Helper()
	cfg.Path, cfg.NoSync = filepath.Join(t.TempDir(), "db"), true
	cfg.OnFatal = func(err error) { t.Errorf("the store failed: %v", err) }
	store, err := mvcc.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &watchedStore{t: t, store: store}
}

func (s *watchedStore) end() {
	s.index++
	if err := s.store.EndEntry(mvcc.Applied{Index: s.index, Term: 1}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *watchedStore) commit(changes ...change) int64 {
	txn := s.store.Begin()
	for _, c := range changes {
		if c.value == "" {
			txn.DeleteRange(backends.KeyRange{Key: []byte(c.key)}, nil)
		} else {
			txn.Put([]byte(c.key), []byte(c.value), 0)
		}
	}
	revision, err := txn.Commit()
	if err != nil {
		s.t.Fatal(err)
	}
	s.end()
	return revision
}

func (s *watchedStore) compact(revision int64) {
	if err := s.store.Compact(revision); err != nil && !errors.Is(err, backends.ErrCompacted) {
		s.t.Fatal(err)
	}
	s.end()
}

// The hub over the real store passes the same model, with a ring so small and
// flushes so frequent that history comes from the ring, the layers and the file.
func TestWatchModelOnStore(t *testing.T) {
	var all seenCounts
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			store := openWatchedStore(t, mvcc.Config{RingBytes: 20 << 10, FlushBytes: 30 << 10, FlushInterval: 20 * time.Millisecond})
			record := newFakeHistory()
			runWatchModel(t, seed, &modelWorld{
				record: record, history: storeHistory{store.store},
				// A record that is compacted cannot stand beside an event any more.
				compacts: seed%2 == 0, prevKV: seed%2 == 1,
				commit: func(c ...change) int64 {
					want := record.commit(c...)
					if got := store.commit(c...); got != want {
						t.Fatalf("revision %d, want %d", got, want)
					}
					return want
				},
				compact: func(revision int64) {
					record.compactTo(revision)
					store.compact(revision)
				},
			}, &all)
		})
	}
	t.Logf("%+v", all)
	if all.events == 0 || all.marks == 0 || all.compacted == 0 || all.canceled == 0 {
		t.Error("something never happened")
	}
}

// A put, a put over it and a delete, as a watch with and one without the record
// before sees them, live and from history.
func TestWatchStoreEvents(t *testing.T) {
	store := openWatchedStore(t, mvcc.Config{})
	hub := startHub(t, storeHistory{store.store})
	s := openStream(t, hub)
	add(t, s, 1, "a", "c", 0)
	add(t, s, 2, "a", "c", 0, withPrev)
	expect(t, s, "created [1] @1", "created [2] @1")
	store.commit(change{"a", "1"}, change{"b", "1"})
	store.commit(change{"a", "2"}, change{"c", "x"})
	store.commit(change{"a", ""})
	plain := []string{"2:a=1 2:b=1", "3:a=2", "4:a-"}
	prev := []string{"2:a=1 2:b=1", "3:a=2(1)", "4:a-(2)"}
	got := map[string]bool{}
	for range 6 {
		got[words(t, nextBatch(t, s))] = true
	}
	for i, at := range []int{2, 3, 4} {
		for id, events := range []string{plain[i], prev[i]} {
			if w := fmt.Sprintf("events [%d] @%d %s", id+1, at, events); !got[w] {
				t.Errorf("no %q in %v", w, got)
			}
		}
	}
	if err := store.store.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	add(t, s, 3, "a", "c", 2, withPrev)
	s.Progress(backends.AllWatches)
	expect(t, s, "created [3] @4", "events [3] @4 2:a=1 2:b=1 3:a=2(1) 4:a-(2)", "progress [-1] @4")
}
