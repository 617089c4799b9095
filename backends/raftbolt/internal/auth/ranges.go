package auth

import (
	"cmp"
	"slices"
	"sort"

	"github.com/etcdshim/shim/backends"
)

// interval is the keys from begin on, those at or above end excluded unless open.
type interval struct {
	begin, end string
	open       bool // there is no end
}

// intervalOf reads a range as etcd's wire names it: a single key, a half-open
// interval, or, with an end of one zero byte, everything from the key on. ok is
// false when nothing is in it, or when its key is empty, which is no key.
func intervalOf(key, end []byte) (r interval, ok bool) {
	r = interval{begin: string(key), end: string(end)}
	switch {
	case len(key) == 0:
		return r, false
	case len(end) == 0:
		r.end = r.begin + "\x00"
	case len(end) == 1 && end[0] == 0:
		r.end, r.open = "", true
	default:
		return r, r.begin < r.end
	}
	return r, true
}

// validRange tells whether a permission may be given on a range.
func validRange(r backends.KeyRange) bool {
	_, ok := intervalOf(r.Key, r.End)
	return ok
}

// ranges is a set of keys as intervals in order.
//
// Invariant: they neither overlap nor touch, and only the last may be open.
type ranges []interval

// union makes the set of all keys in any of the intervals.
func union(all []interval) ranges {
	slices.SortFunc(all, func(a, b interval) int { return cmp.Compare(a.begin, b.begin) })
	var out ranges
	for _, r := range all {
		if n := len(out); n > 0 && (out[n-1].open || r.begin <= out[n-1].end) {
			last := &out[n-1]
			last.open = last.open || r.open
			last.end = max(last.end, r.end)
			continue
		}
		out = append(out, r)
	}
	return out
}

// at is the interval that a key is in; ok is false when it is in none.
func (s ranges) at(key []byte) (r interval, ok bool) {
	i := sort.Search(len(s), func(i int) bool { return s[i].begin > string(key) })
	if i == 0 {
		return r, false
	}
	r = s[i-1]
	return r, r.open || string(key) < r.end
}

// cover tells whether the whole of a range is in the set: a single key, an
// interval, everything from a key on. One that is empty since its end is not above
// its key counts as its key alone.
func (s ranges) cover(key, end []byte) bool {
	r, ok := s.at(key)
	switch {
	case !ok, len(end) == 0, r.open:
		return ok
	case len(end) == 1 && end[0] == 0:
		return false // it has no end, and r has one
	}
	return string(end) <= r.end
}
