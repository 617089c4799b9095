package auth

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/etcdshim/shim/backends"
)

// naiveHolds tells whether a key is in a range, as etcd's wire reads ranges.
func naiveHolds(r backends.KeyRange, key string) bool {
	switch {
	case len(r.Key) == 0:
		return false
	case len(r.End) == 0:
		return key == string(r.Key)
	case bytes.Equal(r.End, []byte{0}):
		return key >= string(r.Key)
	}
	return key >= string(r.Key) && key < string(r.End)
}

// naiveCover looks at every key at which an answer can change.
func naiveCover(permitted []backends.KeyRange, asked backends.KeyRange) bool {
	points := []string{string(asked.Key)}
	for _, r := range permitted {
		points = append(points, string(r.Key), string(r.Key)+"\x00", string(r.End))
	}
	// Beyond all bounds: what "from the key on" reaches.
	points = append(points, "\xff\xff\xff\xff\xff")
	for _, p := range points {
		if p != string(asked.Key) && !naiveHolds(asked, p) {
			continue
		}
		held := false
		for _, r := range permitted {
			held = held || naiveHolds(r, p)
		}
		if !held {
			return false
		}
	}
	return true
}

func unionOf(permitted []backends.KeyRange) ranges {
	var all []interval
	for _, r := range permitted {
		if i, ok := intervalOf(r.Key, r.End); ok {
			all = append(all, i)
		}
	}
	return union(all)
}

// randomRange makes ranges that often touch and overlap: single keys, intervals,
// everything from a key on, and some that are empty or upside down.
func randomRange(rnd *rand.Rand) backends.KeyRange {
	key := func() []byte {
		k := make([]byte, 1+rnd.IntN(3))
		for i := range k {
			k[i] = "\x00ab\xff"[rnd.IntN(4)]
		}
		return k
	}
	r := backends.KeyRange{Key: key()}
	switch rnd.IntN(8) {
	case 0, 1, 2:
	case 3:
		r.End = []byte{0}
	default:
		r.End = key()
	}
	return r
}

// TestCoverModel compares what a union of permissions covers with a model that asks
// each permission about each key.
func TestCoverModel(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	covered := 0
	for range 200_000 {
		permitted := make([]backends.KeyRange, rnd.IntN(6))
		for i := range permitted {
			permitted[i] = randomRange(rnd)
		}
		set, asked := unionOf(permitted), randomRange(rnd)
		got, want := set.cover(asked.Key, asked.End), naiveCover(permitted, asked)
		if got != want {
			t.Fatalf("seed %d: %q permits %q: %v, want %v", seed, permitted, asked, got, want)
		}
		if got {
			covered++
		}
		for i := range set {
			if r := set[i]; r.begin >= r.end && !r.open || i > 0 && (set[i-1].open || r.begin <= set[i-1].end) {
				t.Fatalf("seed %d: %q unite to %+v", seed, permitted, set)
			}
		}
	}
	if covered < 10_000 {
		t.Fatalf("seed %d: only %d of the ranges were covered: the test asks for the wrong ones", seed, covered)
	}
}

func TestCoverExamples(t *testing.T) {
	type rs = [][2]string
	for _, c := range []struct {
		permitted rs
		asked     [2]string
		want      bool
	}{
		{rs{{"k", ""}}, [2]string{"k", ""}, true},
		{rs{{"k", ""}}, [2]string{"k", "k\x00"}, true},
		{rs{{"k", ""}}, [2]string{"k", "l"}, false},
		// GHSA-xg4h-6gfc-h4m8: the right to read one key is none to read from there on.
		{rs{{"k", ""}}, [2]string{"k", "\x00"}, false},
		{rs{{"k", "l"}}, [2]string{"k", "\x00"}, false},
		{rs{{"k", "\x00"}}, [2]string{"k", "\x00"}, true},
		{rs{{"k", "\x00"}}, [2]string{"\x00", "\x00"}, false},
		{rs{{"\x00", "\x00"}}, [2]string{"\x00", "\x00"}, true},
		{rs{{"\x00", "\x00"}}, [2]string{"a", "b"}, true},
		// Neighbours unite.
		{rs{{"a", "c"}, {"c", "e"}}, [2]string{"b", "d"}, true},
		{rs{{"a", "c"}, {"c\x00", "e"}}, [2]string{"b", "d"}, false},
		{rs{{"a", "c"}, {"c\x00", "e"}, {"c", ""}}, [2]string{"b", "d"}, true},
		{rs{{"a", "b"}, {"b", "\x00"}}, [2]string{"a", "\x00"}, true},
		// An empty permission, which older etcds took (etcd PR 15619), permits nothing.
		{rs{{"b", "a"}, {"", "\x00"}, {"", ""}}, [2]string{"b", ""}, false},
		// An upside-down range is checked as its key.
		{rs{{"b", "c"}}, [2]string{"b", "a"}, true},
		{rs{{"b", "c"}}, [2]string{"c", "a"}, false},
	} {
		var permitted []backends.KeyRange
		for _, r := range c.permitted {
			permitted = append(permitted, backends.KeyRange{Key: []byte(r[0]), End: []byte(r[1])})
		}
		if got := unionOf(permitted).cover([]byte(c.asked[0]), []byte(c.asked[1])); got != c.want {
			t.Errorf("%q permit %q: %v", c.permitted, c.asked, got)
		}
	}
}

func ExampleState_Read() {
	s := &State{enabled: true, revision: 3, users: map[string]*user{}, roles: map[string]*role{}}
	fmt.Println(s.Read(&backends.Caller{}, backends.KeyRange{Key: []byte("k")}))
	fmt.Println(s.Read(&backends.Caller{User: "nobody", AuthRevision: 2}, backends.KeyRange{Key: []byte("k")}))
	fmt.Println(s.Read(&backends.Caller{User: "nobody", AuthRevision: 3}, backends.KeyRange{Key: []byte("k")}))
	// Output:
	// user name is empty
	// revision of auth store is old
	// permission denied
}
