package wal

import "sort"

// terms maps a range of indexes to terms, as runs: a log has few terms and many entries.
// Invariant: first indexes and terms of the runs ascend strictly.
type terms struct {
	runs []termRun
	last uint64 // last index; the range is [runs[0].first, last]
}

type termRun struct{ first, term uint64 }

// reset makes the range one index.
func (t *terms) reset(index, term uint64) {
	t.runs = append(t.runs[:0], termRun{index, term})
	t.last = index
}

// at answers the term at index, which must be in the range.
func (t *terms) at(index uint64) uint64 {
	if last := t.runs[len(t.runs)-1]; index >= last.first {
		return last.term
	}
	i := sort.Search(len(t.runs), func(i int) bool { return t.runs[i].first > index })
	return t.runs[i-1].term
}

// truncate drops index and all above it. index is above the first.
func (t *terms) truncate(index uint64) {
	for len(t.runs) > 1 && t.runs[len(t.runs)-1].first >= index {
		t.runs = t.runs[:len(t.runs)-1]
	}
	t.last = index - 1
}

// append adds the next index.
func (t *terms) append(term uint64) {
	t.last++
	if t.runs[len(t.runs)-1].term != term {
		t.runs = append(t.runs, termRun{t.last, term})
	}
}

// cut drops all below index, which is in the range.
func (t *terms) cut(index uint64) {
	n := 0
	for n+1 < len(t.runs) && t.runs[n+1].first <= index {
		n++
	}
	if n > 0 {
		t.runs = append([]termRun(nil), t.runs[n:]...)
	}
	t.runs[0].first = index
}
