package mvcc

import (
	"slices"
	"sort"
)

// index is an ordered tree of keyVersions: a B+ tree whose inner nodes know how
// many live keys are below each child, so that counting a range takes one walk
// to each of its ends. It is copy on write: freeze hands out a root that never
// changes again, and later changes copy the nodes they touch.
//
// A root may be read by any goroutine, without a lock. The index itself belongs
// to whoever holds Store.mu.
type index struct {
	root *node
	// edit marks the nodes that were made since the last freeze and may be
	// changed in place.
	edit *edit
	// live and stale are what the last put or remove changed the counts by.
	live, stale int32
}

// edit is an identity; it is not empty, so that each has an address of its own.
type edit struct{ _ byte }

// maxFanout bounds both kinds of nodes: large enough for a shallow tree, small
// enough that copying a path for one write costs little (about 1 KiB a level).
const maxFanout = 32

// node is a leaf when it has no children.
type node struct {
	edit     *edit
	keys     []*keyVersions
	children []child
	// floors has one key for each child: at or below the child's first and above
	// those of the child before; the first is not looked at. It is never changed,
	// only replaced when children come or go, which is rare: so the copies of a
	// node share it.
	floors []string
}

// child is a node with what its parent knows of it: live counts live keys, stale
// those for a compaction to look at.
type child struct {
	node  *node
	live  int32
	stale int32
}

func newIndex() *index {
	e := new(edit)
	return &index{root: &node{edit: e}, edit: e}
}

// indexOf continues from a frozen root.
func indexOf(root *node) *index { return &index{root: root, edit: new(edit)} }

// freeze returns the root as it is now, for good.
func (x *index) freeze() *node {
	x.edit = new(edit)
	return x.root
}

func (x *index) own(n *node) *node {
	if n.edit == x.edit {
		return n
	}
	c := &node{edit: x.edit}
	if n.children != nil {
		c.children = append(make([]child, 0, len(n.children)), n.children...)
		c.floors = n.floors
	} else {
		c.keys = append(make([]*keyVersions, 0, len(n.keys)), n.keys...)
	}
	return c
}

// find is where key is, or would be, in a leaf.
func (n *node) find(key string) (int, bool) {
	i := sort.Search(len(n.keys), func(i int) bool { return n.keys[i].key >= key })
	return i, i < len(n.keys) && n.keys[i].key == key
}

// childOf is the child that holds key, if any does.
func (n *node) childOf(key string) int {
	return sort.Search(len(n.floors)-1, func(i int) bool { return n.floors[i+1] > key })
}

// get looks a key up.
func (n *node) get(key string) *keyVersions {
	for n.children != nil {
		n = n.children[n.childOf(key)].node
	}
	if i, ok := n.find(key); ok {
		return n.keys[i]
	}
	return nil
}

// totals sums a node up.
func (n *node) totals() (live, stale int32) {
	for _, c := range n.children {
		live += c.live
		stale += c.stale
	}
	for _, k := range n.keys {
		live += one(k.live())
		stale += one(k.stale())
	}
	return live, stale
}

func one(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// liveBelow counts live keys less than key.
func (n *node) liveBelow(key string) int64 {
	var count int64
	for n.children != nil {
		i := n.childOf(key)
		for _, c := range n.children[:i] {
			count += int64(c.live)
		}
		n = n.children[i].node
	}
	i, _ := n.find(key)
	for _, k := range n.keys[:i] {
		count += int64(one(k.live()))
	}
	return count
}

// count counts live keys of a span.
func (n *node) count(s span) int64 {
	if s.empty() {
		return 0
	}
	if s.unbounded {
		live, _ := n.totals()
		return int64(live) - n.liveBelow(s.start)
	}
	return n.liveBelow(s.end) - n.liveBelow(s.start)
}

// ascend calls f for each key of a span, dead ones too, until it returns false.
func (n *node) ascend(s span, f func(*keyVersions) bool) bool {
	if n.children == nil {
		i, _ := n.find(s.start)
		for _, k := range n.keys[i:] {
			if s.ends(k.key) || !f(k) {
				return false
			}
		}
		return true
	}
	for i := n.childOf(s.start); i < len(n.children); i++ {
		if !n.children[i].node.ascend(s, f) {
			return false
		}
	}
	return true
}

// ascendStale is ascend over the keys at or above start that are stale.
func (n *node) ascendStale(start string, f func(*keyVersions) bool) bool {
	if n.children == nil {
		i, _ := n.find(start)
		for _, k := range n.keys[i:] {
			if k.stale() && !f(k) {
				return false
			}
		}
		return true
	}
	for i := n.childOf(start); i < len(n.children); i++ {
		if c := n.children[i]; c.stale > 0 && !c.node.ascendStale(start, f) {
			return false
		}
	}
	return true
}

// put sets the versions of a key.
func (x *index) put(k *keyVersions) {
	x.update(k.key, func(*keyVersions) *keyVersions { return k })
}

// update sets the versions of a key to what f makes of the present ones, nil when
// there are none.
func (x *index) update(key string, f func(old *keyVersions) *keyVersions) {
	left, right := x.insert(x.root, key, f)
	x.root = left
	if right != nil {
		x.root = &node{edit: x.edit, children: []child{counted(left), counted(right)}, floors: []string{"", right.first()}}
	}
}

// counted is a node as its parent keeps it.
func counted(n *node) child {
	live, stale := n.totals()
	return child{node: n, live: live, stale: stale}
}

// first is a floor for the node.
func (n *node) first() string {
	if n.children != nil {
		return n.floors[0]
	}
	return n.keys[0].key
}

// insert returns the changed node and, when it had to be split, its right half.
func (x *index) insert(n *node, key string, f func(*keyVersions) *keyVersions) (left, right *node) {
	n = x.own(n)
	if n.children == nil {
		i, found := n.find(key)
		if found {
			old := n.keys[i]
			n.keys[i] = f(old)
			x.count(n.keys[i])
			x.uncount(old)
			return n, nil
		}
		k := f(nil)
		x.count(k)
		n.keys = slices.Insert(n.keys, i, k)
		if len(n.keys) <= maxFanout {
			return n, nil
		}
		at := splitAt(i, len(n.keys))
		right = &node{edit: x.edit, keys: slices.Clone(n.keys[at:])}
		clear(n.keys[at:])
		n.keys = n.keys[:at]
		return n, right
	}
	i := n.childOf(key)
	c, r := x.insert(n.children[i].node, key, f)
	if r == nil {
		x.recount(&n.children[i], c)
		return n, nil
	}
	n.children[i] = counted(c)
	n.children = slices.Insert(n.children, i+1, counted(r))
	n.floors = slices.Insert(slices.Clone(n.floors), i+1, r.first())
	if len(n.children) <= maxFanout {
		return n, nil
	}
	at := splitAt(i+1, len(n.children))
	right = &node{edit: x.edit, children: slices.Clone(n.children[at:]), floors: slices.Clone(n.floors[at:])}
	clear(n.children[at:])
	n.children, n.floors = n.children[:at], slices.Clone(n.floors[:at])
	return n, right
}

// count begins the counts' change with a key.
func (x *index) count(k *keyVersions) { x.live, x.stale = one(k.live()), one(k.stale()) }

// uncount takes a key off the counts' change.
func (x *index) uncount(k *keyVersions) {
	x.live -= one(k.live())
	x.stale -= one(k.stale())
}

// recount puts the changed node into its place.
func (x *index) recount(c *child, n *node) {
	c.node = n
	c.live += x.live
	c.stale += x.stale
}

// splitAt halves a node, but leaves it full when keys come in ascending order.
func splitAt(inserted, n int) int {
	if inserted == n-1 {
		return n - 1
	}
	return n / 2
}

// remove takes a key out. It must be there.
func (x *index) remove(key string) {
	x.root = x.delete(x.root, key)
	for len(x.root.children) == 1 {
		x.root = x.root.children[0].node
	}
	if x.root.children != nil && len(x.root.children) == 0 {
		x.root = &node{edit: x.edit}
	}
}

// delete returns the changed node, which may be empty.
func (x *index) delete(n *node, key string) *node {
	n = x.own(n)
	if n.children == nil {
		x.live, x.stale = 0, 0
		if i, ok := n.find(key); ok {
			x.uncount(n.keys[i])
			n.keys = slices.Delete(n.keys, i, i+1)
		}
		return n
	}
	i := n.childOf(key)
	x.recount(&n.children[i], x.delete(n.children[i].node, key))
	x.mend(n, i)
	return n
}

// size is the number of a node's keys or children.
func (n *node) size() int { return len(n.keys) + len(n.children) }

// mend drops an empty child and joins one that has become small with a
// neighbour, when both fit into one node with room to spare.
func (x *index) mend(n *node, i int) {
	c := n.children[i].node
	if c.size() == 0 {
		n.removeChild(i)
		return
	}
	if c.size() >= maxFanout/4 || len(n.children) == 1 {
		return
	}
	if i == len(n.children)-1 {
		i--
	}
	l, r := n.children[i].node, n.children[i+1].node
	if l.size()+r.size() > maxFanout*3/4 {
		return
	}
	l = x.own(l)
	l.keys = append(l.keys, r.keys...)
	if r.children != nil {
		l.children = append(l.children, r.children...)
		l.floors = slices.Concat(l.floors, r.floors)
		// The first child's floor was not kept up; the parent's is good.
		l.floors[len(l.floors)-len(r.floors)] = n.floors[i+1]
	}
	n.children[i] = counted(l)
	n.removeChild(i + 1)
}

func (n *node) removeChild(i int) {
	n.children = slices.Delete(n.children, i, i+1)
	n.floors = slices.Delete(slices.Clone(n.floors), i, i+1)
}
