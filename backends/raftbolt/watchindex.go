package raftbolt

import (
	"bytes"
	"math/rand/v2"

	"github.com/etcdshim/shim/backends"
)

// watchIndex finds the watches that want a key without walking the others: those
// of one key in a map, those of a range in an interval tree. Finding costs
// O(log n) and the matches; watches with equal ranges share one node.
type watchIndex struct {
	keys   map[string]*watchSet
	ranges *rangeNode
	// priorities balance the tree. Its shape is never seen, so a fixed seed does.
	priorities *rand.Rand
	len        int
}

// watchSet is the set of watches of one key or range. Each knows its place.
type watchSet struct{ watches []*watch }

func newWatchIndex() *watchIndex {
	return &watchIndex{keys: make(map[string]*watchSet), priorities: rand.New(rand.NewPCG(1, 2))}
}

// add enters a watch that is in no index.
func (x *watchIndex) add(w *watch) {
	x.len++
	set := x.set(&w.keys)
	w.place = len(set.watches)
	set.watches = append(set.watches, w)
}

// set finds or makes the set of a range.
func (x *watchIndex) set(r *backends.KeyRange) *watchSet {
	if len(r.End) == 0 {
		set := x.keys[string(r.Key)]
		if set == nil {
			set = &watchSet{}
			x.keys[string(r.Key)] = set
		}
		return set
	}
	start, end := r.Key, rangeEnd(r)
	if n := x.ranges.find(start, end); n != nil {
		return &n.watchSet
	}
	n := &rangeNode{start: start, end: end, highest: end, priority: x.priorities.Uint64()}
	x.ranges = x.ranges.insert(n)
	return &n.watchSet
}

// remove takes a watch out of the index it is in.
func (x *watchIndex) remove(w *watch) {
	x.len--
	single := len(w.keys.End) == 0
	set := x.set(&w.keys)
	last := len(set.watches) - 1
	set.watches[w.place] = set.watches[last]
	set.watches[w.place].place = w.place
	set.watches[last] = nil
	set.watches = set.watches[:last]
	if last > 0 {
		return
	}
	if single {
		delete(x.keys, string(w.keys.Key))
	} else {
		x.ranges = x.ranges.remove(w.keys.Key, rangeEnd(&w.keys))
	}
}

// match calls visit for each watch that wants key. visit must not change the index.
func (x *watchIndex) match(key []byte, visit func(*watch)) {
	if set := x.keys[string(key)]; set != nil {
		for _, w := range set.watches {
			visit(w)
		}
	}
	x.ranges.match(key, visit)
}

// rangeEnd is the end of a range that has one: nil means that there is no upper
// bound, which the wire writes as one zero byte.
func rangeEnd(r *backends.KeyRange) []byte {
	if len(r.End) == 1 && r.End[0] == 0 {
		return nil
	}
	return r.End
}

// rangeNode is a node of a treap of ranges, ordered by start, then end; the nil
// node is the empty tree.
type rangeNode struct {
	watchSet
	start, end []byte
	// highest is the largest end in this subtree; nil is above all.
	highest     []byte
	priority    uint64
	left, right *rangeNode
}

func compareEnds(a, b []byte) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return bytes.Compare(a, b)
}

func (n *rangeNode) compare(start, end []byte) int {
	if c := bytes.Compare(start, n.start); c != 0 {
		return c
	}
	return compareEnds(end, n.end)
}

func (n *rangeNode) find(start, end []byte) *rangeNode {
	for n != nil {
		switch c := n.compare(start, end); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n
		}
	}
	return nil
}

// insert adds a node whose range is not in the tree, and returns the new root.
func (n *rangeNode) insert(added *rangeNode) *rangeNode {
	if n == nil {
		return added
	}
	if added.priority > n.priority {
		added.left, added.right = n.split(added.start, added.end)
		added.update()
		return added
	}
	if n.compare(added.start, added.end) < 0 {
		n.left = n.left.insert(added)
	} else {
		n.right = n.right.insert(added)
	}
	n.update()
	return n
}

// split divides the tree into the ranges before and after one that is not in it.
func (n *rangeNode) split(start, end []byte) (before, after *rangeNode) {
	if n == nil {
		return nil, nil
	}
	if n.compare(start, end) < 0 {
		before, n.left = n.left.split(start, end)
		after = n
	} else {
		n.right, after = n.right.split(start, end)
		before = n
	}
	n.update()
	return before, after
}

// remove takes out the node of a range, and returns the new root.
func (n *rangeNode) remove(start, end []byte) *rangeNode {
	switch c := n.compare(start, end); {
	case c < 0:
		n.left = n.left.remove(start, end)
	case c > 0:
		n.right = n.right.remove(start, end)
	default:
		return mergeRanges(n.left, n.right)
	}
	n.update()
	return n
}

// mergeRanges joins two trees of which the first is wholly before the second.
func mergeRanges(before, after *rangeNode) *rangeNode {
	switch {
	case before == nil:
		return after
	case after == nil:
		return before
	case before.priority > after.priority:
		before.right = mergeRanges(before.right, after)
		before.update()
		return before
	}
	after.left = mergeRanges(before, after.left)
	after.update()
	return after
}

// update sets highest from the node and its children.
func (n *rangeNode) update() {
	n.highest = n.end
	for _, child := range []*rangeNode{n.left, n.right} {
		if child != nil && compareEnds(child.highest, n.highest) > 0 {
			n.highest = child.highest
		}
	}
}

func (n *rangeNode) match(key []byte, visit func(*watch)) {
	if n == nil || n.highest != nil && bytes.Compare(key, n.highest) >= 0 {
		return
	}
	n.left.match(key, visit)
	if bytes.Compare(key, n.start) < 0 {
		return
	}
	if n.end == nil || bytes.Compare(key, n.end) < 0 {
		for _, w := range n.watches {
			visit(w)
		}
	}
	n.right.match(key, visit)
}
