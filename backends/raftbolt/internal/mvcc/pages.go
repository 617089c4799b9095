package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"slices"
)

// A page of a bbolt file, as its newest meta page reaches it. Numbers have the
// machine's byte order (little on all we build for).
//
//	offset  size  field
//	0       8     the page's own number
//	8       2     kind: 1 branch, 2 leaf, 4 meta, 0x10 free list
//	10      2     number of elements
//	12      4     pages that follow and belong to it
//
// Branch element, 16 bytes: position of the key, counted from the element (4),
// length of the key (4), child page (8). Leaf element, 16 bytes: flags (4; 1: the
// value is a bucket), position (4), length of the key (4) and of the value (4).
// After the last element come keys and values, packed in the elements' order.
//
// Value of a bucket: root page (8; 0: a leaf page follows inline), sequence (8).
const (
	pageHeadBytes  = 16
	elementBytes   = 16
	bucketBytes    = 16
	kindBranch     = 0x01
	kindLeaf       = 0x02
	kindMeta       = 0x04
	kindFreelist   = 0x10
	flagBucket     = 0x01
	manyFree       = 0xFFFF // the free list's length stands before it
	freePageBytes  = 8
	maxTreeDepth   = 64 // of pages above each other: each holds two at least
	maxBoltKeySize = 32768
)

// pageHead is the head of a page.
type pageHead struct {
	id          uint64
	kind, count uint16
	overflow    uint32
}

func decodePageHead(b []byte) pageHead {
	return pageHead{
		id:       binary.LittleEndian.Uint64(b),
		kind:     binary.LittleEndian.Uint16(b[8:]),
		count:    binary.LittleEndian.Uint16(b[10:]),
		overflow: binary.LittleEndian.Uint32(b[12:]),
	}
}

// treeWalker reads the trees of pages in a bbolt file with plain reads, so that
// no damage can fault or panic, and checks whatever bbolt relies on: each page is
// what the page above takes it for, is reached once, and its elements are packed
// as they were written and in order.
//
// Memory: one bit for each page of the file, and the pages on the way down to one
// leaf.
type treeWalker struct {
	file io.ReaderAt
	meta metaPage
	// reached has a bit for each page below the high-water mark.
	reached []uint64
	used    uint64
	levels  [maxTreeDepth][]byte
	// damage is told of every fault; the walk goes on beside it. It tells whether
	// that makes sense.
	damage func(format string, args ...any)
	// branchKey, if set, is told of each key in a branch page.
	branchKey func(key []byte, at place)
	// progress is told of each page run read, in pages.
	progress func(pages uint64)
}

// element is a decoded element of a page. key and value share the page's memory.
type element struct {
	flags      uint32
	key, value []byte
	child      uint64
}

// place is where an element is: in a page, or in the inline page of a bucket.
type place struct {
	bucket       string
	page, offset uint64
	element      int
}

func (p place) String() string {
	if p.bucket != "" {
		return fmt.Sprintf("bucket %q, element %d", p.bucket, p.element)
	}
	return fmt.Sprintf("page %d, element %d (offset %d)", p.page, p.element, p.offset)
}

// elementFunc gets each element of the leaves in key order, and its place.
type elementFunc func(e *element, at place) error

func newTreeWalker(file io.ReaderAt, meta metaPage, damage func(string, ...any), progress func(uint64)) *treeWalker {
	w := &treeWalker{file: file, meta: meta, damage: damage, progress: progress, reached: make([]uint64, meta.highWater/64+1)}
	w.reach(0, 1)
	return w
}

// all walks every bucket and the free list, for the structure alone.
func (w *treeWalker) all() error {
	heads := map[string][]byte{}
	err := w.tree(w.meta.root, func(e *element, _ place) error {
		if e.flags&flagBucket != 0 {
			heads[string(e.key)] = slices.Clone(e.value)
		}
		return nil
	})
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		err = errors.Join(err, w.bucket(name, heads[name], func(e *element, at place) error {
			if e.flags != 0 {
				w.damage("%s: a bucket within bucket %q", at, name)
			}
			return nil
		}))
	}
	return errors.Join(err, w.freelist())
}

// reach marks the pages [first, last]; it tells whether none was marked.
func (w *treeWalker) reach(first, last uint64) bool {
	for id := first; id <= last; id++ {
		if w.reached[id/64]&(1<<(id%64)) != 0 {
			return false
		}
		w.reached[id/64] |= 1 << (id % 64)
	}
	w.used += last - first + 1
	return true
}

func (w *treeWalker) place(id uint64) string {
	return fmt.Sprintf("page %d (offset %d)", id, id*w.meta.pageSize)
}

// tree walks the tree at page id. Errors are f's and the file's; damage is no
// error.
func (w *treeWalker) tree(id uint64, f elementFunc) error {
	var last []byte // the key before, over all leaves
	ordered := func(e *element, at place) error {
		if last != nil && bytes.Compare(e.key, last) <= 0 {
			w.damage("%s: key %x does not come after key %x before it", at, e.key, last)
		}
		last = append(last[:0], e.key...)
		return f(e, at)
	}
	return w.walk(id, nil, nil, 0, ordered)
}

// walk walks the page id and those below it, whose keys are in [low, high); nil
// is no bound.
func (w *treeWalker) walk(id uint64, low, high []byte, depth int, f elementFunc) error {
	if depth == maxTreeDepth {
		w.damage("%s: more than %d pages lie above it", w.place(id), maxTreeDepth)
		return nil
	}
	page, kind, err := w.page(id, depth)
	if err != nil || page == nil {
		return err
	}
	count := int(binary.LittleEndian.Uint16(page[10:]))
	var e element
	var before []byte
	for i := range count {
		at := place{page: id, element: i, offset: id*w.meta.pageSize + uint64(decodeElement(page, kind, i, &e))}
		if low != nil && bytes.Compare(e.key, low) < 0 || high != nil && bytes.Compare(e.key, high) >= 0 {
			w.damage("%s: key %x is outside of what the page above says, [%x, %x)", at, e.key, low, high)
		}
		if kind == kindLeaf {
			if err := f(&e, at); err != nil {
				return err
			}
			continue
		}
		if i > 0 && bytes.Compare(e.key, before) <= 0 {
			w.damage("%s: key %x does not come after key %x before it", at, e.key, before)
		}
		if w.branchKey != nil {
			w.branchKey(e.key, at)
		}
		before = e.key
		above := high
		if i+1 < count {
			var next element
			decodeElement(page, kind, i+1, &next)
			above = next.key
		}
		if err := w.walk(e.child, e.key, above, depth+1, f); err != nil {
			return err
		}
	}
	return nil
}

// page reads and checks a branch or leaf page; nil if it is damaged. It is valid
// until the next page of the same depth is read.
func (w *treeWalker) page(id uint64, depth int) (page []byte, _ uint16, err error) {
	if id < 2 || id >= w.meta.highWater {
		w.damage("%s is referred to, but the file's pages of a tree are 2 to %d", w.place(id), w.meta.highWater-1)
		return nil, 0, nil
	}
	offset := int64(id * w.meta.pageSize)
	page, err = w.read(w.levels[depth][:0], offset, int(w.meta.pageSize))
	if err != nil {
		return nil, 0, err
	}
	h := decodePageHead(page)
	kind, count, overflow := h.kind, int(h.count), uint64(h.overflow)
	switch {
	case h.id != id:
		w.damage("%s says that it is page %d", w.place(id), h.id)
		return nil, 0, nil
	case kind != kindBranch && kind != kindLeaf:
		w.damage("%s is neither branch nor leaf: its kind is %#x", w.place(id), kind)
		return nil, 0, nil
	case kind == kindBranch && count == 0:
		w.damage("%s is a branch without children", w.place(id))
		return nil, 0, nil
	case overflow >= w.meta.highWater-id:
		w.damage("%s says that %d pages follow it: the file ends before", w.place(id), overflow)
		return nil, 0, nil
	}
	if !w.reach(id, id+overflow) {
		w.damage("%s, with %d pages that follow, is used twice", w.place(id), overflow)
		return nil, 0, nil
	}
	// First the elements, then what they say there is: a damaged length makes no
	// large buffer.
	run := int((overflow + 1) * w.meta.pageSize)
	head := pageHeadBytes + count*elementBytes
	if head > run {
		w.damage("%s says that it has %d elements, which do not fit", w.place(id), count)
		return nil, 0, nil
	}
	if page, err = w.read(page, offset, head); err != nil {
		return nil, 0, err
	}
	size, fault := packed(page, kind, count)
	if need := (size + int(w.meta.pageSize) - 1) / int(w.meta.pageSize); fault == "" && uint64(need) != overflow+1 && uint64(size)/w.meta.pageSize != overflow {
		fault = fmt.Sprintf("it needs %d pages and has %d", need, overflow+1)
	}
	if fault != "" {
		w.damage("%s: %s", w.place(id), fault)
		return nil, 0, nil
	}
	page, err = w.read(page, offset, size)
	w.levels[depth] = page
	w.progress(overflow + 1)
	return page, kind, err
}

// read extends b, which begins at offset of the file, to n bytes.
func (w *treeWalker) read(b []byte, offset int64, n int) ([]byte, error) {
	have := len(b)
	if have >= n {
		return b, nil
	}
	if cap(b) < n {
		b = append(make([]byte, 0, 1<<bits.Len(uint(n-1))), b...)
	}
	b = b[:n]
	_, err := w.file.ReadAt(b[have:], offset+int64(have))
	return b, err
}

// packed checks that the elements of a page lie as bbolt writes them, and tells
// the page's size in bytes. page holds the elements at least.
func packed(page []byte, kind uint16, count int) (size int, fault string) {
	size = pageHeadBytes + count*elementBytes
	for i := range count {
		at := pageHeadBytes + i*elementBytes
		b := page[at:]
		var pos, key, value uint32
		if kind == kindLeaf {
			pos, key, value = binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
			if flags := binary.LittleEndian.Uint32(b); flags&^flagBucket != 0 {
				return 0, fmt.Sprintf("element %d has flags %#x", i, flags)
			}
		} else {
			pos, key = binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		}
		if at+int(pos) != size {
			return 0, fmt.Sprintf("element %d begins at %d of the page, but the one before ends at %d", i, at+int(pos), size)
		}
		if key > maxBoltKeySize || key == 0 && kind == kindLeaf {
			return 0, fmt.Sprintf("element %d has a key of %d bytes", i, key)
		}
		size += int(key) + int(value)
	}
	return size, ""
}

// decodeElement decodes element i of a page that packed found sound, and tells
// where in the page it is.
func decodeElement(page []byte, kind uint16, i int, e *element) (at int) {
	at = pageHeadBytes + i*elementBytes
	b := page[at:]
	*e = element{}
	var start, key, value uint32
	if kind == kindLeaf {
		e.flags, start = binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		key, value = binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	} else {
		start, key, e.child = binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint64(b[8:])
	}
	b = b[start:]
	e.key, e.value = b[:key:key], b[key:key+value:key+value]
	return at
}

// bucket walks the tree of a bucket; value is what stands for it in the root.
func (w *treeWalker) bucket(name string, value []byte, f elementFunc) error {
	if len(value) < bucketBytes {
		w.damage("bucket %q: its head has %d bytes", name, len(value))
		return nil
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return w.tree(root, f)
	}
	page := value[bucketBytes:]
	if len(page) < pageHeadBytes {
		w.damage("bucket %q: its inline page has %d bytes", name, len(page))
		return nil
	}
	h := decodePageHead(page)
	count := int(h.count)
	if (h != pageHead{kind: kindLeaf, count: h.count}) || pageHeadBytes+count*elementBytes > len(page) {
		w.damage("bucket %q: the head of its inline page, %x, is damaged", name, page[:pageHeadBytes])
		return nil
	}
	if size, fault := packed(page, kindLeaf, count); fault != "" || size != len(page) {
		w.damage("bucket %q: its inline page of %d bytes is damaged: %d are used; %s", name, len(page), size, fault)
		return nil
	}
	var e element
	var before []byte
	for i := range count {
		decodeElement(page, kindLeaf, i, &e)
		at := place{bucket: name, element: i}
		if i > 0 && bytes.Compare(e.key, before) <= 0 {
			w.damage("%s: key %x does not come after key %x before it", at, e.key, before)
		}
		before = e.key
		if err := f(&e, at); err != nil {
			return err
		}
	}
	return nil
}

// freelist checks the list of free pages, if the file has one, after all trees
// were walked: each page is either reached or free.
func (w *treeWalker) freelist() error {
	if w.meta.freelist == noFreelist {
		return nil
	}
	id := w.meta.freelist
	if id < 2 || id >= w.meta.highWater {
		w.damage("the free list is said to be at page %d, the file's pages are 2 to %d", id, w.meta.highWater-1)
		return nil
	}
	offset := int64(id * w.meta.pageSize)
	page, err := w.read(nil, offset, int(w.meta.pageSize))
	if err != nil {
		return err
	}
	h := decodePageHead(page)
	overflow := uint64(h.overflow)
	if h.id != id || h.kind != kindFreelist || overflow >= w.meta.highWater-id {
		w.damage("%s should be the free list; its head is %x", w.place(id), page[:pageHeadBytes])
		return nil
	}
	if !w.reach(id, id+overflow) {
		w.damage("%s, the free list, is used twice", w.place(id))
		return nil
	}
	count, start := uint64(h.count), uint64(pageHeadBytes)
	if count == manyFree {
		count, start = binary.LittleEndian.Uint64(page[pageHeadBytes:]), pageHeadBytes+freePageBytes
	}
	if count > w.meta.highWater || start+count*freePageBytes > (overflow+1)*w.meta.pageSize {
		w.damage("%s: the free list says that it has %d pages", w.place(id), count)
		return nil
	}
	if page, err = w.read(page, offset, int(start+count*freePageBytes)); err != nil {
		return err
	}
	before := uint64(1)
	for b := page[start : start+count*freePageBytes]; len(b) > 0; b = b[freePageBytes:] {
		free := binary.LittleEndian.Uint64(b)
		if free <= before || free >= w.meta.highWater {
			w.damage("%s: the free list has page %d after page %d", w.place(id), free, before)
			return nil
		}
		before = free
		if !w.reach(free, free) {
			w.damage("%s: the free list has page %d, which is in use", w.place(id), free)
		}
		w.used--
	}
	for free := uint64(2); free < w.meta.highWater; free++ {
		if w.reached[free/64]&(1<<(free%64)) == 0 {
			w.damage("page %d (offset %d) is neither in use nor in the free list", free, free*w.meta.pageSize)
		}
	}
	return nil
}
