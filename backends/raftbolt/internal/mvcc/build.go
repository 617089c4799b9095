package mvcc

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// builder makes an index out of all changes of a file in the order of their
// revisions. It finds a key by its hash and sorts the keys once at the end, which
// takes half the time of inserting each change into the tree from its root.
type builder struct {
	keys map[string]*keyVersions
}

func newBuilder() *builder { return &builder{keys: make(map[string]*keyVersions)} }

// add adds a change of key, which it copies. Nobody else has the builder's
// keyVersions yet, so they are changed in place.
func (b *builder) add(key []byte, v version) {
	if k := b.keys[string(key)]; k != nil {
		k.older, k.last = append(k.older, k.last), v
		return
	}
	k := &keyVersions{key: string(key), last: v}
	b.keys[k.key] = k
}

// builtFanout is how full the nodes are: a store that was just opened has room for
// some new keys before nodes are split.
const builtFanout = maxFanout * 7 / 8

// index is the index of all keys. The builder is empty afterwards.
func (b *builder) index() *index {
	sorted := make([]sortedKey, 0, len(b.keys))
	for _, k := range b.keys {
		sorted = append(sorted, sortedKey{versions: k})
	}
	b.keys = nil
	sortKeys(sorted, 0)

	x := newIndex()
	var level []*node
	for part := range slices.Chunk(sorted, builtFanout) {
		leaf := &node{edit: x.edit, keys: make([]*keyVersions, len(part))}
		for i := range part {
			leaf.keys[i] = part[i].versions
		}
		level = append(level, leaf)
	}
	for len(level) > 1 {
		var above []*node
		for part := range slices.Chunk(level, builtFanout) {
			n := &node{edit: x.edit, children: make([]child, len(part)), floors: make([]string, len(part))}
			for i, c := range part {
				n.children[i], n.floors[i] = counted(c), c.first()
			}
			above = append(above, n)
		}
		level = above
	}
	if len(level) == 1 {
		x.root = level[0]
	}
	return x
}

// sortedKey is a key being sorted.
type sortedKey struct {
	// window has eight bytes of the key, as a number in the order of bytes.
	window   uint64
	versions *keyVersions
}

// maxSortDepth bounds the recursion of sortKeys, in bytes: beyond it few keys are
// still equal.
const maxSortDepth = 256

// sortKeys sorts keys that are equal in their first depth bytes, eight bytes at a
// time: keys have long prefixes in common, and comparing whole ones means to fetch
// each from memory some twenty times.
func sortKeys(keys []sortedKey, depth int) {
	if depth >= maxSortDepth {
		sortWhole(keys)
		return
	}
	ends := false
	for i := range keys {
		rest := keys[i].versions.key[depth:]
		if len(rest) >= 8 {
			keys[i].window = binary.BigEndian.Uint64([]byte(rest[:8]))
			continue
		}
		var window [8]byte
		copy(window[:], rest)
		keys[i].window = binary.BigEndian.Uint64(window[:])
		ends = true
	}
	slices.SortFunc(keys, func(a, b sortedKey) int { return cmp.Compare(a.window, b.window) })
	for len(keys) > 1 {
		n := 1
		for n < len(keys) && keys[n].window == keys[0].window {
			n++
		}
		switch run := keys[:n]; {
		case n == 1:
		case ends && slices.ContainsFunc(run, func(k sortedKey) bool { return len(k.versions.key) < depth+8 }):
			// A key that ends here and one that goes on with zeros look equal.
			sortWhole(run)
		default:
			sortKeys(run, depth+8)
		}
		keys = keys[n:]
	}
}

// sortWhole sorts keys by comparing them.
func sortWhole(keys []sortedKey) {
	slices.SortFunc(keys, func(a, b sortedKey) int { return strings.Compare(a.versions.key, b.versions.key) })
}
