package mvcc

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/etcdshim/shim/backends"
)

// TestFinder ensures that the finder, which reads bbolt's pages itself, finds what
// bbolt's own cursor finds, and nothing else: in a bucket without a page, with a
// leaf, and with branches of one and more levels; for puts, deletions and
// revisions that are not there; in any order of asking; and after a compaction
// took pages out of the middle.
func TestFinder(t *testing.T) {
	for _, entries := range []int{0, 3, 40, 30_000} {
		t.Run(fmt.Sprint(entries), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			s := newBench(t, nil)
			var last int64 = 1
			for i := range entries {
				s.entry(func(tx *Txn) {
					for range 1 + random.IntN(3) {
						tx.Put(benchKey(random.IntN(entries)), make([]byte, random.IntN(300)), 0)
					}
					if i%5 == 4 {
						tx.DeleteRange(backends.KeyRange{Key: benchKey(random.IntN(entries))}, nil)
					}
				})
				last++
			}
			s.flush()
			compareFinder(t, s.s, random, last)
			if entries < 40 {
				return
			}
			if err := s.s.Compact(last - last/4); err != nil {
				t.Fatal(err)
			}
			s.end()
			if err := s.s.CompactDone(t.Context(), last-last/4); err != nil {
				t.Fatal(err)
			}
			s.flush()
			compareFinder(t, s.s, random, last)
		})
	}
}

func compareFinder(t *testing.T, s *Store, random *rand.Rand, last int64) {
	t.Helper()
	found, absent := 0, 0
	err := s.read(func(tx *bolt.Tx) error {
		f := newFinder(tx)
		cursor := tx.Bucket([]byte(bucketKey)).Cursor()
		for range 20_000 {
			r := revision{random.Int64N(last + 3), random.Int64N(5)}
			want := r
			key := appendRevision(nil, r, false)
			k, v := cursor.Seek(key)
			if !bytes.Equal(k, key) {
				v = nil
			}
			if got := f.find(want); !bytes.Equal(got, v) || (got == nil) != (v == nil) {
				return fmt.Errorf("revision %v: found %q, the cursor %q", r, got, v)
			}
			if v == nil {
				absent++
			} else {
				found++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if last > 1 && (found == 0 || absent == 0) {
		t.Fatalf("%d found, %d absent: nothing was compared", found, absent)
	}
}

// TestFinderRefusesDamage ensures that a page which is not what it should be ends
// as corruption, never as a wrong record or a dead process.
func TestFinderRefusesDamage(t *testing.T) {
	s := newBench(t, nil)
	for i := range 2000 {
		s.entry(func(tx *Txn) { tx.Put(benchKey(i), make([]byte, 100), 0) })
	}
	s.flush()
	var whole finder
	err := s.s.read(func(tx *bolt.Tx) error {
		whole = newFinder(tx)
		whole.data = bytes.Clone(whole.data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	root := whole.root * whole.pageSize
	for name, damage := range map[string]func(page []byte){
		"number":  func(p []byte) { p[0] ^= 1 },
		"flags":   func(p []byte) { p[8] = 4 },
		"empty":   func(p []byte) { p[10], p[11] = 0, 0 },
		"child":   func(p []byte) { p[pageHeadBytes+13] = 0xff },
		"itself":  func(p []byte) { copy(p[pageHeadBytes+8:pageHeadBytes+16], p[:8]) },
		"key":     func(p []byte) { p[pageHeadBytes+elementBytes+3] = 0xff },
		"missing": func(p []byte) { clear(p[:16]) },
	} {
		t.Run(name, func(t *testing.T) {
			f := whole
			f.data = bytes.Clone(whole.data)
			damage(f.data[root:])
			err := guard("file", func() error {
				// The first child and the second are looked at.
				f.find(revision{2, 0})
				f.find(revision{1, 0})
				return nil
			})
			if err == nil {
				t.Fatal("a damaged page was read")
			}
			t.Log(err)
		})
	}
}
