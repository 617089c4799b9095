package power

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Style is how a state is chosen from what a cut allows.
type Style int

const (
	// KeepAll: everything issued reached the disk, as after a SIGKILL.
	KeepAll Style = iota
	// LoseAll: nothing but what is durable did.
	LoseAll
	// LoseOne: all changes but one reached the disk.
	LoseOne
	// KeepOne: one alone did.
	KeepOne
	// Mixed: each change for itself, more or less likely; pages, sectors and sizes
	// mixed as well.
	Mixed
	styles
)

func (s Style) String() string {
	return [...]string{"keep all", "lose all", "lose one", "keep one", "mixed"}[s]
}

// chooser decides what of the pending changes a state holds.
type chooser struct {
	style Style
	rng   *rand.Rand
	// one is the change that LoseOne and KeepOne mean.
	one *change
	// likely is how likely a change is kept, torn how likely a page is mixed from
	// sectors, stale how likely a size is an older one.
	likely, torn, stale float64
}

// newChooser makes the choices of one state, which seed and number determine.
func (d *Disk) newChooser(style Style, rng *rand.Rand) *chooser {
	c := &chooser{style: style, rng: rng}
	switch style {
	case LoseOne, KeepOne:
		if all := d.pending(d.root, map[*inode]bool{}, nil); len(all) > 0 {
			c.one = all[rng.IntN(len(all))]
		}
	case Mixed:
		c.likely = []float64{0.05, 0.3, 0.5, 0.7, 0.95}[rng.IntN(5)]
		c.torn = []float64{0, 0.1, 1}[rng.IntN(3)]
		c.stale = []float64{0, 0.3, 1}[rng.IntN(3)]
	}
	return c
}

// pending lists the changes that are not durable, of all that can be on the disk.
func (d *Disk) pending(n *inode, seen map[*inode]bool, all []*change) []*change {
	if n == nil || seen[n] {
		return all
	}
	seen[n] = true
	all = append(all, n.pending...)
	names := make([]string, 0, len(n.durableEntries))
	for name := range n.durableEntries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		all = d.pending(n.durableEntries[name], seen, all)
	}
	for _, c := range n.pending {
		all = d.pending(c.node, seen, all)
	}
	return all
}

func (c *chooser) keep(x *change) bool {
	switch c.style {
	case KeepAll:
		return true
	case LoseAll:
		return false
	case LoseOne:
		return x != c.one
	case KeepOne:
		return x == c.one
	}
	return c.rng.Float64() < c.likely
}

// contents is what a crash leaves: files by path relative to the root, and
// directories.
type contents struct {
	dirs  []string
	files []file
}

type file struct {
	path  string
	image image
}

// crash makes a state.
func (d *Disk) crash(c *chooser) *contents {
	out := &contents{}
	out.add(d.root, ".", c, map[*inode]image{})
	return out
}

func (o *contents) add(n *inode, path string, c *chooser, images map[*inode]image) {
	if !n.isDir() {
		i, ok := images[n]
		if !ok {
			i = c.image(n)
			images[n] = i
		}
		o.files = append(o.files, file{path, i})
		return
	}
	o.dirs = append(o.dirs, path)
	entries := c.entries(n)
	names := make([]string, 0, len(entries))
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		o.add(entries[name], filepath.Join(path, name), c, images)
	}
}

// entries are those of a directory. What happened to one name happened in order: once a
// change is lost, so are the later ones of its names.
func (c *chooser) entries(n *inode) map[string]*inode {
	entries := make(map[string]*inode, len(n.durableEntries))
	for name, node := range n.durableEntries {
		entries[name] = node
	}
	lost := map[string]bool{}
	for _, x := range n.pending {
		// A choice is made for each, so that it depends on no other.
		keep := c.keep(x)
		if keep && !lost[x.name] && (x.to == "" || !lost[x.to]) {
			x.applyEntry(entries)
			continue
		}
		lost[x.name] = true
		if x.to != "" {
			lost[x.to] = true
		}
	}
	return entries
}

// image is the content of a file.
func (c *chooser) image(n *inode) image {
	out := image{size: n.durable.size, pages: make(map[int64][]byte, len(n.durable.pages))}
	for p, b := range n.durable.pages {
		out.pages[p] = b
	}
	if len(n.pending) == 0 {
		return out
	}
	last := -1 // the last change that is kept
	kept := make([]bool, len(n.pending))
	for i, x := range n.pending {
		if kept[i] = c.keep(x); kept[i] {
			last = i
		}
	}
	for _, p := range n.touchedPages() {
		out.set(p, c.page(n, p, kept))
	}
	switch {
	case c.style == Mixed && c.rng.Float64() < c.stale:
		if i := c.rng.IntN(len(n.pending) + 1); i > 0 {
			out.size = n.pending[i-1].size
		}
	case last >= 0:
		out.size = n.pending[last].size
	}
	out.shrink(out.size)
	return out
}

// touchedPages are those that a pending change alters, ascending.
func (n *inode) touchedPages() []int64 {
	touched := map[int64]bool{}
	for _, x := range n.pending {
		if x.kind != changeWrite {
			continue
		}
		for p := x.offset / pageBytes; p*pageBytes < x.offset+int64(len(x.data)); p++ {
			// Zeros on a page that has nothing else change nothing.
			if !x.zero || touched[p] || n.durable.pages[p] != nil {
				touched[p] = true
			}
		}
	}
	for _, x := range n.pending {
		if x.kind != changeTruncate {
			continue
		}
		for p := range n.durable.pages {
			if x.touches(p) {
				touched[p] = true
			}
		}
	}
	pages := make([]int64, 0, len(touched))
	for p := range touched {
		pages = append(pages, p)
	}
	slices.Sort(pages)
	return pages
}

// page is as after the last change of it that is kept. It was in the cache with those
// before. Sectors of a torn page are older, each for itself.
func (c *chooser) page(n *inode, p int64, kept []bool) []byte {
	versions := [][]byte{n.durable.pages[p]}
	newest := 0
	for i, x := range n.pending {
		if !x.touches(p) {
			continue
		}
		versions = append(versions, x.page(p, versions[len(versions)-1]))
		if kept[i] {
			newest = len(versions) - 1
		}
	}
	if c.style != Mixed || c.rng.Float64() >= c.torn {
		return versions[newest]
	}
	page := make([]byte, pageBytes)
	for s := 0; s < pageBytes; s += sectorBytes {
		if v := versions[c.rng.IntN(len(versions))]; v != nil {
			copy(page[s:s+sectorBytes], v[s:])
		}
	}
	return page
}

// write makes the state in the empty directory dir.
func (o *contents) write(dir string) error {
	for _, d := range o.dirs {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	for _, f := range o.files {
		if err := f.image.write(filepath.Join(dir, f.path)); err != nil {
			return err
		}
	}
	return nil
}

// write makes a sparse file.
func (i *image) write(name string) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	for p, b := range i.pages {
		if _, err := f.WriteAt(b[:min(pageBytes, i.size-p*pageBytes)], p*pageBytes); err != nil {
			return err
		}
	}
	return f.Truncate(i.size)
}
