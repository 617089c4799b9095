package mvcc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestBuilder ensures that the index made at open is the one that inserting each
// change would make: for keys with long common prefixes, keys that are prefixes of
// others, keys with zero bytes and very long ones, in any number, and that it can
// be written to afterwards.
func TestBuilder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	prefixes := []string{"", "\x00", "/registry/pods/default/", strings.Repeat("a", 7), strings.Repeat("a", 8), strings.Repeat("long", 200)}
	makeKey := func(n int) string {
		key := prefixes[random.IntN(len(prefixes))] + strings.Repeat("\x00", random.IntN(4))
		if random.IntN(4) > 0 {
			key += fmt.Sprint(random.IntN(2*n + 1))
		}
		if key == "" {
			return "k"
		}
		return key
	}
	for _, n := range []int{0, 1, builtFanout, builtFanout + 1, 1000, 30_000} {
		b, x := newBuilder(), newIndex()
		want := map[string][]version{}
		for main := range int64(n) {
			key, v := makeKey(n), version{main: main + 2, number: random.Int64N(3), create: 1}
			b.add([]byte(key), v)
			want[key] = append(want[key], v)
			x.update(key, func(old *keyVersions) *keyVersions {
				if old != nil {
					return old.with(v)
				}
				return &keyVersions{key: key, last: v}
			})
		}
		built := b.index()
		checkTree(t, built.root, "", "", true)
		var last string
		got := 0
		built.root.ascend(everything(), func(k *keyVersions) bool {
			if k.key <= last {
				t.Fatalf("key %q comes after %q", k.key, last)
			}
			last = k.key
			got++
			if all := append(slices.Clone(k.older), k.last); !slices.Equal(all, want[k.key]) {
				t.Fatalf("key %q has the versions %v, want %v", k.key, all, want[k.key])
			}
			return true
		})
		if got != len(want) {
			t.Fatalf("%d keys of %d", got, len(want))
		}
		if a, b := built.root.count(everything()), x.root.count(everything()); a != b {
			t.Fatalf("%d live keys, want %d", a, b)
		}
		for range min(n, 2000) {
			key := makeKey(n)
			if s := (span{start: key, unbounded: true}); built.root.count(s) != x.root.count(s) {
				t.Fatalf("%d live keys from %q, want %d", built.root.count(s), key, x.root.count(s))
			}
		}
		for i := range min(n, 2000) {
			built.put(&keyVersions{key: fmt.Sprint("new", i), last: version{main: int64(n + i + 2), number: 1}})
			if key := makeKey(n); built.root.get(key) != nil {
				built.remove(key)
			}
		}
		checkTree(t, built.root, "", "", true)
	}
}
