package mvcc

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// checkTree asserts the index's invariants.
func checkTree(t *testing.T, n *node, floor, ceiling string, root bool) (depth int) {
	t.Helper()
	if len(n.floors) != len(n.children) {
		t.Fatalf("%d floors of %d children", len(n.floors), len(n.children))
	}
	if n.size() > maxFanout || n.size() == 0 && !root {
		t.Fatalf("node of %d", n.size())
	}
	for i, k := range n.keys {
		if k.key < floor || ceiling != "" && k.key >= ceiling || i > 0 && k.key <= n.keys[i-1].key {
			t.Fatalf("key %q outside [%q, %q) or out of order", k.key, floor, ceiling)
		}
	}
	for i, c := range n.children {
		lo, hi := floor, ceiling
		if i > 0 {
			lo = n.floors[i]
		}
		if i+1 < len(n.children) {
			hi = n.floors[i+1]
		}
		if live, stale := c.node.totals(); live != c.live || stale != c.stale {
			t.Fatalf("child says %d live, %d stale, has %d, %d", c.live, c.stale, live, stale)
		}
		d := checkTree(t, c.node, lo, hi, false)
		if i > 0 && d != depth {
			t.Fatalf("depths %d and %d", depth, d)
		}
		depth = d
	}
	return depth + 1
}

// TestIndexModel compares the tree with a sorted map, and roots frozen on the way
// with what the map was then.
func TestIndexModel(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 2))
		x, m := newIndex(), map[string]*keyVersions{}
		type frozen struct {
			root *node
			m    map[string]*keyVersions
		}
		var roots []frozen
		keys := 50 << (seed % 5 * 2)
		for step := range 6 * keys {
			key := fmt.Sprintf("%06d", r.IntN(keys))
			if seed%2 == 1 && step < keys {
				key = fmt.Sprintf("%06d", step) // ascending, as a rebuild or a bulk load
			}
			if grow := step < 3*keys; m[key] != nil && r.IntN(3) > 0 == !grow {
				x.remove(key)
				delete(m, key)
			} else {
				k := &keyVersions{key: key, last: version{main: int64(step), number: int64(r.IntN(3))}}
				x.put(k)
				m[key] = k
			}
			if r.IntN(keys) < 8 { // empty a stretch, so that whole nodes go
				for at, n := r.IntN(keys), r.IntN(1+keys/8); n > 0; n-- {
					if k := fmt.Sprintf("%06d", at+n); m[k] != nil {
						x.remove(k)
						delete(m, k)
					}
				}
			}
			if step%(keys/2) == 0 {
				roots = append(roots, frozen{x.freeze(), maps.Clone(m)})
			}
		}
		for len(m) > 0 && seed%3 == 0 {
			for k := range m {
				x.remove(k)
				delete(m, k)
				break
			}
		}
		roots = append(roots, frozen{x.freeze(), m})
		for _, f := range roots {
			checkTree(t, f.root, "", "", true)
			sorted := slices.Sorted(maps.Keys(f.m))
			for range 50 {
				s := span{start: fmt.Sprintf("%06d", r.IntN(keys)), end: fmt.Sprintf("%06d", r.IntN(keys)), unbounded: r.IntN(3) == 0}
				var want, got, wantStale, gotStale []string
				live := int64(0)
				for _, k := range sorted {
					if k >= s.start && f.m[k].stale() {
						wantStale = append(wantStale, k)
					}
					if k >= s.start && (s.unbounded || k < s.end) {
						want = append(want, k)
						live += int64(one(f.m[k].live()))
					}
				}
				f.root.ascend(s, func(k *keyVersions) bool { got = append(got, k.key); return true })
				f.root.ascendStale(s.start, func(k *keyVersions) bool { gotStale = append(gotStale, k.key); return true })
				if !slices.Equal(got, want) || !slices.Equal(gotStale, wantStale) || f.root.count(s) != live {
					t.Fatalf("seed %d: %+v: %d keys, %d stale, count %d, want %d, %d, %d", seed, s, len(got), len(gotStale),
						f.root.count(s), len(want), len(wantStale), live)
				}
				if k := f.root.get(s.start); k != f.m[s.start] {
					t.Fatalf("seed %d: get %q: %v", seed, s.start, k)
				}
			}
		}
	}
}

// TestKeyVersions walks one key's life: versions at each revision, and what a
// compaction at each leaves and drops.
func TestKeyVersions(t *testing.T) {
	// put 2, put 4, delete 6, put 8, delete 9
	versions := []version{
		{main: 2, create: 2, number: 1}, {main: 4, create: 2, number: 2}, {main: 6},
		{main: 8, create: 8, number: 1}, {main: 9},
	}
	k := &keyVersions{key: "k", last: versions[0]}
	for _, v := range versions[1:] {
		k = k.with(v)
	}
	text := func(k *keyVersions) string {
		if k == nil {
			return "none"
		}
		var s []string
		for _, v := range append(slices.Clone(k.older), k.last) {
			s = append(s, fmt.Sprintf("%d:%d", v.main, v.number))
		}
		return strings.Join(s, " ")
	}
	for _, tc := range []struct {
		main              int64
		at, kept, dropped string
	}{
		{1, "-", "2:1 4:2 6:0 8:1 9:0", ""},
		{2, "2:1", "2:1 4:2 6:0 8:1 9:0", ""},
		{3, "2:1", "2:1 4:2 6:0 8:1 9:0", ""},
		{4, "4:2", "4:2 6:0 8:1 9:0", "2 "},
		{5, "4:2", "4:2 6:0 8:1 9:0", "2 "},
		{6, "6:0", "6:0 8:1 9:0", "2 4 "},
		{7, "6:0", "8:1 9:0", "2 4 6 "},
		{8, "8:1", "8:1 9:0", "2 4 6 "},
		{9, "9:0", "9:0", "2 4 6 8 "},
		{10, "9:0", "none", "2 4 6 8 9 "},
	} {
		at := "-"
		if v, ok := k.at(tc.main); ok {
			at = fmt.Sprintf("%d:%d", v.main, v.number)
		}
		dropped := ""
		kept := text(k.compact(tc.main, func(vs []version) {
			for _, v := range vs {
				dropped += fmt.Sprint(v.main, " ")
			}
		}))
		if at != tc.at || kept != tc.kept || dropped != tc.dropped {
			t.Errorf("at %d: %s, compact leaves %s, drops %s; want %+v", tc.main, at, kept, dropped, tc)
		}
	}
	if text(k) != "2:1 4:2 6:0 8:1 9:0" {
		t.Errorf("compact changed the original: %s", text(k))
	}
}

// TestIndexJoinsInnerNodes empties the first leaf of each inner node, puts a key
// back that belongs there, and then joins the inner nodes: the first child's
// floor, which nobody kept up, must not become a separator.
func TestIndexJoinsInnerNodes(t *testing.T) {
	x := newIndex()
	for i := range 20_000 {
		x.put(&keyVersions{key: fmt.Sprintf("%06d", i), last: version{number: 1}})
	}
	if checkTree(t, x.root, "", "", true) < 3 {
		t.Fatal("too flat to test")
	}
	kept := map[string]bool{}
	for _, c := range x.freeze().children[1:] {
		inner := c.node
		for inner.children[0].node.children != nil {
			inner = inner.children[0].node
		}
		first := inner.children[0].node.keys
		for _, k := range first {
			x.remove(k.key)
		}
		x.put(first[0])
		kept[first[0].key] = true
	}
	for i := range 20_000 {
		if key := fmt.Sprintf("%06d", i); i%40 != 0 && !kept[key] && x.root.get(key) != nil {
			x.remove(key)
		}
	}
	checkTree(t, x.root, "", "", true)
	for key := range kept {
		if x.root.get(key) == nil {
			t.Errorf("key %s is lost", key)
		}
	}
}
