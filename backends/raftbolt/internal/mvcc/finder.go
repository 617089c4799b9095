package mvcc

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	bolt "go.etcd.io/bbolt"
)

// finder looks records up in the key bucket within one read transaction.
//
// A list wants records whose revisions are scattered over the file, each a search
// of its own; through bbolt's cursor that is half of the list's work. So the
// bucket's pages, whose format is in pages.go, are read here.
//
// Every access is within data; a page that leads outside of it panics, which
// guard turns into a CorruptError.
type finder struct {
	// data is the file up to the transaction's high-water mark, as it is mapped.
	data     []byte
	pageSize uint64
	root     uint64
	// cursor is used instead when the bucket is so small that it has no page.
	cursor *bolt.Cursor
	// branch is the lowest branch page that the last search went through, and
	// [low, high) the revisions below it; high is zero when there is no bound.
	branch    page
	low, high revision
}

func newFinder(tx *bolt.Tx) finder {
	b := tx.Bucket([]byte(bucketKey))
	f := finder{root: uint64(b.Root())}
	if f.root == 0 {
		f.cursor = b.Cursor()
		return f
	}
	f.pageSize = uint64(tx.DB().Info().PageSize)
	f.data = mapped(tx)
	return f
}

// mapped is the file up to the transaction's high-water mark. The map does not move
// while the transaction is open, and is no memory of the collector's.
func mapped(tx *bolt.Tx) []byte {
	info := tx.DB().Info()
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&info.Data)), tx.Size())
}

// find returns the record of a put, valid within the transaction, or nil.
func (f *finder) find(r revision) []byte {
	if f.cursor != nil {
		key := appendRevision(nil, r, false)
		if k, v := f.cursor.Seek(key); string(k) == string(key) {
			return v
		}
		return nil
	}
	var p page
	if f.branch != nil && !r.less(f.low) && (f.high == revision{} || r.less(f.high)) {
		p = f.branch
	} else {
		f.low, f.high = revision{}, revision{}
		p = f.page(f.root)
	}
	for range maxTreeDepth { // a leaf may be empty, when it is the root
		if p.flags() == kindLeaf {
			return p.value(r)
		}
		f.branch = p
		p = f.page(p.child(r, f))
	}
	panic("the pages of the key bucket form a circle")
}

// page returns the page of a number, and what follows it.
func (f *finder) page(n uint64) page {
	p := page(f.data[n*f.pageSize:])
	if p.number() != n {
		panic(fmt.Sprintf("page %d says that it is page %d", n, p.number()))
	}
	return p
}

// page is a page of the bucket with all of the file behind it.
type page []byte

func (p page) number() uint64 { return binary.LittleEndian.Uint64(p) }
func (p page) flags() uint16  { return binary.LittleEndian.Uint16(p[8:]) }
func (p page) count() int     { return int(binary.LittleEndian.Uint16(p[10:])) }

// element returns element i and what follows it.
func (p page) element(i int) []byte { return p[pageHeadBytes+elementBytes*i:] }

// branchKey is the first revision below child i.
func (p page) branchKey(i int) revision {
	e := p.element(i)
	return revisionAt(e[binary.LittleEndian.Uint32(e):])
}

// leafKey is the revision of element i.
func (p page) leafKey(i int) revision {
	e := p.element(i)
	return revisionAt(e[binary.LittleEndian.Uint32(e[4:]):])
}

// revisionAt reads a revision without a look at what else a key has: no two keys
// differ in that alone.
func revisionAt(b []byte) revision {
	_ = b[revisionBytes-1]
	return revision{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:]))}
}

// child is the page number of the child that holds r, if any does. It notes in f
// what the child's parent, which is p, is known to hold.
func (p page) child(r revision, f *finder) uint64 {
	if p.flags() != kindBranch || p.count() == 0 {
		panic(fmt.Sprintf("page %d has the flags %#x and %d elements", p.number(), p.flags(), p.count()))
	}
	// The first element with a key above r, of those after the first.
	lo, hi := 1, p.count()
	for lo < hi {
		if m := int(uint(lo+hi) / 2); r.less(p.branchKey(m)) {
			hi = m
		} else {
			lo = m + 1
		}
	}
	n := binary.LittleEndian.Uint64(p.element(lo - 1)[8:])
	if next := f.page(n); next.flags() == kindBranch {
		if lo > 1 {
			f.low = p.branchKey(lo - 1)
		}
		if lo < p.count() {
			f.high = p.branchKey(lo)
		}
	}
	return n
}

// value is the value of the put at r in a leaf, or nil.
func (p page) value(r revision) []byte {
	lo, hi := 0, p.count()
	for lo < hi {
		if m := int(uint(lo+hi) / 2); p.leafKey(m).less(r) {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == p.count() || p.leafKey(lo) != r {
		return nil
	}
	e := p.element(lo)
	key := uint64(binary.LittleEndian.Uint32(e[4:]))
	size := uint64(binary.LittleEndian.Uint32(e[8:]))
	if size != revisionBytes {
		return nil // a deletion
	}
	start := key + size
	end := start + uint64(binary.LittleEndian.Uint32(e[12:]))
	return e[start:end:end]
}
