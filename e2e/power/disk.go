package power

import (
	"fmt"
	"path"
	"strings"
)

const (
	pageBytes   = 4096 // what the page cache writes back whole
	sectorBytes = 512  // what the disk writes whole
)

// Disk is a model file system behind a page cache. Its root is durable and empty at
// first.
type Disk struct {
	root *inode
	next int
	// changes counts what was done to it, so that a caller sees whether a call did
	// anything.
	changes int
}

// inode is a file or a directory.
type inode struct {
	number int
	// Of a directory: its entries as processes see them, and as they are durable.
	entries, durableEntries map[string]*inode
	// Of a file: what is durable.
	durable image
	size    int64 // as processes see it
	// pending are the changes since, in order.
	pending []*change
}

func (n *inode) isDir() bool { return n.entries != nil }

// image is the content of a file. A page that is absent is zeros; one that is present is never
// changed, only replaced.
type image struct {
	size  int64
	pages map[int64][]byte
}

type changeKind int

const (
	changeWrite    changeKind = iota // data at offset
	changeTruncate                   // to offset
	changeEnter                      // name gets node
	changeRemove                     // name is gone
	changeRename                     // name becomes to
)

func (k changeKind) String() string {
	return [...]string{"write", "truncate", "enter", "remove", "rename"}[k]
}

// change is one of a file or a directory.
type change struct {
	kind   changeKind
	offset int64
	data   []byte
	zero   bool  // data is zeros
	size   int64 // the file's after it
	name   string
	to     string
	node   *inode
	// returned tells that the call that made it did.
	returned bool
}

// newDisk makes an empty one.
func newDisk() *Disk {
	d := &Disk{}
	d.root = d.newDir()
	return d
}

func (d *Disk) newDir() *inode {
	d.next++
	return &inode{number: d.next, entries: map[string]*inode{}, durableEntries: map[string]*inode{}}
}

func (d *Disk) newFile() *inode {
	d.next++
	return &inode{number: d.next, durable: image{pages: map[int64][]byte{}}}
}

// lookup finds the directory that p, relative to the root, lies in, its last element,
// and what is there, nil if nothing.
func (d *Disk) lookup(p string) (dir *inode, base string, n *inode, err error) {
	p = path.Clean(p)
	if p == "." || p == "/" {
		return nil, "", d.root, nil
	}
	dir = d.root
	elements := strings.Split(strings.Trim(p, "/"), "/")
	for _, e := range elements[:len(elements)-1] {
		if dir = dir.entries[e]; dir == nil || !dir.isDir() {
			return nil, "", nil, fmt.Errorf("%s: no such directory in the model", p)
		}
	}
	base = elements[len(elements)-1]
	return dir, base, dir.entries[base], nil
}

func (d *Disk) add(n *inode, c *change) *change {
	d.changes++
	n.pending = append(n.pending, c)
	return c
}

// enter gives name in dir to n.
func (d *Disk) enter(dir *inode, name string, n *inode) {
	dir.entries[name] = n
	d.add(dir, &change{kind: changeEnter, name: name, node: n, returned: true})
}

func (d *Disk) remove(dir *inode, name string) {
	delete(dir.entries, name)
	d.add(dir, &change{kind: changeRemove, name: name, returned: true})
}

func (d *Disk) rename(dir *inode, name, to string) {
	n := dir.entries[name]
	delete(dir.entries, name)
	dir.entries[to] = n
	d.add(dir, &change{kind: changeRename, name: name, to: to, node: n, returned: true})
}

// write is issued, and has returned once the caller says so.
func (d *Disk) write(n *inode, offset int64, data []byte) *change {
	n.size = max(n.size, offset+int64(len(data)))
	return d.add(n, &change{kind: changeWrite, offset: offset, data: data, zero: allZero(data), size: n.size})
}

func (d *Disk) truncate(n *inode, size int64) *change {
	n.size = size
	return d.add(n, &change{kind: changeTruncate, offset: size, size: size})
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// covered is what a sync of n makes durable that is entered now.
func (n *inode) covered() []*change {
	var c []*change
	for _, p := range n.pending {
		if p.returned {
			c = append(c, p)
		}
	}
	return c
}

// settle makes covered durable: the sync returned.
func (d *Disk) settle(n *inode, covered []*change) {
	d.changes++
	done := map[*change]bool{}
	for _, c := range covered {
		done[c] = true
	}
	rest := n.pending[:0:0]
	for _, c := range n.pending {
		if !done[c] {
			rest = append(rest, c)
			continue
		}
		if n.isDir() {
			c.applyEntry(n.durableEntries)
		} else {
			n.durable.apply(c)
		}
	}
	n.pending = rest
}

// applyEntry changes a directory's entries.
func (c *change) applyEntry(entries map[string]*inode) {
	switch c.kind {
	case changeEnter:
		entries[c.name] = c.node
	case changeRemove:
		delete(entries, c.name)
	case changeRename:
		delete(entries, c.name)
		entries[c.to] = c.node
	}
}

// apply changes the whole of an image.
func (i *image) apply(c *change) {
	if c.kind == changeTruncate {
		i.shrink(c.offset)
	} else {
		for p := c.offset / pageBytes; p*pageBytes < c.offset+int64(len(c.data)); p++ {
			i.set(p, c.page(p, i.pages[p]))
		}
	}
	i.size = c.size
}

// shrink drops what lies at or behind size.
func (i *image) shrink(size int64) {
	for p, old := range i.pages {
		switch {
		case p*pageBytes >= size:
			delete(i.pages, p)
		case (p+1)*pageBytes > size:
			page := append([]byte(nil), old...)
			clear(page[size-p*pageBytes:])
			i.set(p, page)
		}
	}
}

func (i *image) set(p int64, page []byte) {
	if page == nil {
		delete(i.pages, p)
		return
	}
	i.pages[p] = page
}

// touches tells whether a change of a file alters page p.
func (c *change) touches(p int64) bool {
	if c.kind == changeTruncate {
		return (p+1)*pageBytes > c.offset
	}
	return c.offset < (p+1)*pageBytes && c.offset+int64(len(c.data)) > p*pageBytes
}

// page is page p, which was old, after the change; nil is zeros.
func (c *change) page(p int64, old []byte) []byte {
	if old == nil && (c.zero || c.kind == changeTruncate) {
		return nil
	}
	page := make([]byte, pageBytes)
	copy(page, old)
	start := p * pageBytes
	if c.kind == changeTruncate {
		clear(page[max(0, c.offset-start):])
		return page
	}
	if c.offset >= start {
		copy(page[c.offset-start:], c.data)
	} else {
		copy(page, c.data[start-c.offset:])
	}
	return page
}
