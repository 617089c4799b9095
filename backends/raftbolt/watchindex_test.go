package raftbolt

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/etcdshim/shim/backends"
)

// wantsKey is what a KeyRange says, in words of its doc comment.
func wantsKey(r *backends.KeyRange, key string) bool {
	switch end := string(r.End); {
	case end == "":
		return key == string(r.Key)
	case end == "\x00":
		return key >= string(r.Key)
	default:
		return key >= string(r.Key) && key < end
	}
}

// randomKey is short, so that ranges and keys meet often.
func randomKey(rng *rand.Rand) string {
	k := make([]byte, 1+rng.IntN(2))
	for i := range k {
		k[i] = "\x00abcdef\xff"[rng.IntN(8)]
	}
	return string(k)
}

func randomRange(rng *rand.Rand) backends.KeyRange {
	r := backends.KeyRange{Key: []byte(randomKey(rng))}
	switch rng.IntN(5) {
	case 0:
		r.End = []byte{0}
	case 1, 2:
		r.End = []byte(randomKey(rng)) // may be empty: at or below the start
	}
	return r
}

func TestWatchIndexAgainstNaive(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		x := newWatchIndex()
		var all []*watch
		for step := range 1500 {
			if len(all) == 0 || rng.IntN(100) < 52 {
				w := &watch{id: int64(step), keys: randomRange(rng)}
				x.add(w)
				all = append(all, w)
			} else {
				i := rng.IntN(len(all))
				x.remove(all[i])
				all = slices.Delete(all, i, i+1)
			}
			key := randomKey(rng)
			var got, want []int64
			x.match([]byte(key), func(w *watch) { got = append(got, w.id) })
			for _, w := range all {
				if wantsKey(&w.keys, key) {
					want = append(want, w.id)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) || x.len != len(all) {
				t.Fatalf("seed %d step %d: key %q matches %v, want %v", seed, step, key, got, want)
			}
			checkRanges(t, x.ranges)
		}
		for _, w := range all {
			x.remove(w)
		}
		if len(x.keys) != 0 || x.ranges != nil || x.len != 0 {
			t.Fatalf("seed %d: an empty index holds something", seed)
		}
	}
}

// checkRanges verifies order, heap order and highest.
func checkRanges(t *testing.T, n *rangeNode) {
	t.Helper()
	if n == nil {
		return
	}
	highest := n.end
	for i, c := range []*rangeNode{n.left, n.right} {
		if c == nil {
			continue
		}
		if order := n.compare(c.start, c.end); order == 0 || order > 0 != (i == 1) || c.priority > n.priority {
			t.Fatalf("node %q-%q is misplaced under %q-%q", c.start, c.end, n.start, n.end)
		}
		if compareEnds(c.highest, highest) > 0 {
			highest = c.highest
		}
		checkRanges(t, c)
	}
	if compareEnds(highest, n.highest) != 0 || len(n.watches) == 0 {
		t.Fatalf("node %q-%q: highest %q, want %q, %d watches", n.start, n.end, n.highest, highest, len(n.watches))
	}
}

// Matching does not walk the watches of other keys.
func TestWatchIndexVisitsFewNodes(t *testing.T) {
	x := newWatchIndex()
	for i := range 20_000 {
		key := fmt.Appendf(nil, "/registry/%05d/", i)
		x.add(&watch{keys: backends.KeyRange{Key: key, End: append(bytes.Clone(key), 0xff)}})
	}
	if deep := depth(x.ranges); deep > 64 {
		t.Errorf("20,000 ranges, inserted in order, are %d deep", deep)
	}
	n := 0
	x.match([]byte("/registry/12345/x"), func(*watch) { n++ })
	if n != 1 {
		t.Errorf("%d matches", n)
	}
}

func depth(n *rangeNode) int {
	if n == nil {
		return 0
	}
	return 1 + max(depth(n.left), depth(n.right))
}

func BenchmarkWatchIndexMatch(b *testing.B) {
	x := newWatchIndex()
	for i := range 10_000 {
		key := fmt.Appendf(nil, "/registry/%05d/", i)
		x.add(&watch{keys: backends.KeyRange{Key: key, End: append(bytes.Clone(key), 0xff)}})
		x.add(&watch{keys: backends.KeyRange{Key: append(bytes.Clone(key), "one"...)}})
	}
	key := []byte("/registry/04711/one")
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		x.match(key, func(*watch) { n++ })
	}
	if n != 2*b.N {
		b.Fatalf("%d matches in %d rounds", n, b.N)
	}
}
