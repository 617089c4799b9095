package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// sector is what a disk writes whole, bytes.
const sector = 512

// step is one operation on a recorded disk, or a mark of the log's caller.
type step struct {
	kind     string // write, sync, create, rename, remove, syncdir; issued, synced, durable
	file     int
	offset   int64
	data     []byte
	name, to string
	// issued and synced: how many batches of the log were written, or acknowledged;
	// durable: the index that the state machine holds.
	n int
}

// recordFS is a file system in memory that records what is done to it.
type recordFS struct {
	steps []step
	names map[string]int // by base name; there is one directory
	files map[int]*[]byte
}

func newRecordFS() *recordFS { return &recordFS{names: map[string]int{}, files: map[int]*[]byte{}} }

func (r *recordFS) do(s step)             { r.steps = append(r.steps, s) }
func (r *recordFS) MkdirAll(string) error { return nil }
func (r *recordFS) SyncDir(string) error  { r.do(step{kind: "syncdir"}); return nil }

func (r *recordFS) List(string) ([]string, error) {
	var names []string
	for name := range r.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (r *recordFS) Create(name string) (File, error) {
	name = filepath.Base(name)
	n := len(r.files) + 1
	r.names[name], r.files[n] = n, new([]byte)
	r.do(step{kind: "create", file: n, name: name})
	return &recordFile{r, n}, nil
}

func (r *recordFS) Open(name string) (File, error) {
	n, ok := r.names[filepath.Base(name)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return &recordFile{r, n}, nil
}

func (r *recordFS) Rename(from, to string) error {
	from, to = filepath.Base(from), filepath.Base(to)
	s := step{kind: "rename", file: r.names[from], name: from, to: to}
	s.enter(r.names)
	r.do(s)
	return nil
}

func (r *recordFS) Remove(name string) error {
	s := step{kind: "remove", name: filepath.Base(name)}
	if _, ok := r.names[s.name]; !ok {
		return fs.ErrNotExist
	}
	s.enter(r.names)
	r.do(s)
	return nil
}

// enter applies a change of the directory.
func (s step) enter(names map[string]int) {
	delete(names, s.name)
	switch s.kind {
	case "create":
		names[s.name] = s.file
	case "rename":
		names[s.to] = s.file
	}
}

type recordFile struct {
	r *recordFS
	n int
}

func (f *recordFile) ReadAt(b []byte, offset int64) (int, error) {
	content := *f.r.files[f.n]
	n := copy(b, content[min(offset, int64(len(content))):])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *recordFile) WriteAt(b []byte, offset int64) (int, error) {
	content := f.r.files[f.n]
	*content = overwrite(*content, offset, b)
	f.r.do(step{kind: "write", file: f.n, offset: offset, data: slices.Clone(b)})
	return len(b), nil
}

func overwrite(content []byte, offset int64, b []byte) []byte {
	if grow := int(offset) + len(b) - len(content); grow > 0 {
		content = append(content, make([]byte, grow)...)
	}
	copy(content[offset:], b)
	return content
}

func (f *recordFile) Sync() error          { f.r.do(step{kind: "sync", file: f.n}); return nil }
func (f *recordFile) Size() (int64, error) { return int64(len(*f.r.files[f.n])), nil }
func (f *recordFile) Close() error         { return nil }

// recordLog writes a log that rolls, recycles, replaces its tail, takes a batch above a
// segment and is opened again, and marks what its caller knows.
func recordLog(t *testing.T, o Options) (r *recordFS, batches []Batch) {
	t.Helper()
	r = o.FS.(*recordFS)
	if err := Create(o, 1, 1); err != nil {
		t.Fatal(err)
	}
	r.do(step{kind: "durable", n: 1})
	l := mustOpen(t, o, 1)
	index, durable, term := uint64(1), uint64(1), uint64(1)
	for i := range 120 {
		var add []*raftpb.Entry
		switch {
		case i%9 == 5 && index > durable: // another leader replaces the tail
			term++
		default:
			index++
		}
		size := 90 + 370*(i%4)
		if i == 17 {
			size = 6000 // above a segment
		}
		add = append(add, entry(index, term, size))
		b := Batch{HardState: HardState{Term: term, Vote: uint64(i + 1), Commit: durable}, Entries: add}
		batches = append(batches, b)
		r.do(step{kind: "issued", n: len(batches)})
		mustWrite(t, l, b)
		r.do(step{kind: "synced", n: len(batches)})
		if i%5 == 4 {
			durable = index - 1
			r.do(step{kind: "durable", n: int(durable)})
			l.Cut(durable)
		}
		if l.NeedsHousekeeping() {
			if err := l.Housekeep(); err != nil {
				t.Fatal(err)
			}
		}
		if i%13 == 12 {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = mustOpen(t, o, durable)
		}
	}
	return r, batches
}

// disk is what is durable after some steps, and what is not.
type disk struct {
	names   map[string]int
	files   map[int][]byte
	entries []step         // changes of the directory that no sync has covered
	writes  map[int][]step // of files
}

// play takes the next step.
func (d *disk) play(s step) {
	switch s.kind {
	case "create", "rename", "remove":
		d.entries = append(d.entries, s)
	case "syncdir":
		for _, e := range d.entries {
			e.enter(d.names)
		}
		d.entries = nil
	case "write":
		d.writes[s.file] = append(d.writes[s.file], s)
	case "sync":
		for _, w := range d.writes[s.file] {
			d.files[s.file] = overwrite(d.files[s.file], w.offset, w.data)
		}
		delete(d.writes, s.file)
	}
}

// directories are all that the directory may be: any of the changes, save that a lost one
// loses the later ones of its names.
func (d *disk) directories() []map[string]int {
	var all []map[string]int
	for choice := range 1 << len(d.entries) {
		names, lost, possible := map[string]int{}, map[string]bool{}, true
		for name, file := range d.names {
			names[name] = file
		}
		for i, e := range d.entries {
			if choice>>i&1 == 0 {
				lost[e.name], lost[e.to] = true, true
				continue
			}
			if lost[e.name] || e.to != "" && lost[e.to] {
				possible = false
			}
			e.enter(names)
		}
		if possible {
			all = append(all, names)
		}
	}
	return all
}

// contents are all that file n may hold: of its unsynced writes each beginning and each
// with one missing; of the last one each beginning, in sectors, each with a sector
// missing and each sector alone.
func (d *disk) contents(n int) [][]byte {
	writes := d.writes[n]
	if len(writes) == 0 {
		return [][]byte{d.files[n]}
	}
	var all [][]byte
	with := func(kept []step) {
		content := slices.Clone(d.files[n])
		for _, w := range kept {
			content = overwrite(content, w.offset, w.data)
		}
		all = append(all, content)
	}
	before := writes[:len(writes)-1]
	for i := range before {
		with(before[:i])
		with(slices.Delete(slices.Clone(writes), i, i+1))
	}
	var pieces []step
	last := writes[len(writes)-1]
	for at := last.offset; at < last.offset+int64(len(last.data)); {
		end := min((at/sector+1)*sector, last.offset+int64(len(last.data)))
		pieces = append(pieces, step{offset: at, data: last.data[at-last.offset : end-last.offset]})
		at = end
	}
	for i := range len(pieces) + 1 {
		with(append(slices.Clone(before), pieces[:i]...))
		if i < len(pieces) && len(pieces) > 2 {
			with(append(slices.Clone(before), slices.Delete(slices.Clone(pieces), i, i+1)...))
			with(append(slices.Clone(before), pieces[i]))
		}
	}
	return all
}

// states calls try with each state that the disk may be in.
func (d *disk) states(try func(*recordFS)) {
	dirty := make([]int, 0, len(d.writes))
	for n := range d.writes {
		dirty = append(dirty, n)
	}
	slices.Sort(dirty)
	for _, names := range d.directories() {
		choices := []map[int][]byte{{}}
		for _, n := range dirty {
			var more []map[int][]byte
			for _, c := range choices {
				for _, content := range d.contents(n) {
					next := map[int][]byte{n: content}
					for k, v := range c {
						next[k] = v
					}
					more = append(more, next)
				}
			}
			choices = more
		}
		for _, c := range choices {
			r := newRecordFS()
			for name, n := range names {
				content, ok := c[n]
				if !ok {
					content = d.files[n]
				}
				content = slices.Clone(content)
				r.names[name], r.files[n] = n, &content
			}
			try(r)
		}
	}
}

// TestEveryPrefix: the power fails after each operation of a log's life, and of what no
// sync has covered the disk holds any part: the log opens, holds every batch whose Sync
// returned, and of the others the first ones, whole. Before Create returned it holds
// nothing or does not exist.
func TestEveryPrefix(t *testing.T) {
	o := options(t)
	o.FS = newRecordFS()
	rec, batches := recordLog(t, o)
	tried, torn := 0, 0
	err := prefixes(o, rec.steps, batches, func(int, step) bool { return true }, func(partial bool) {
		tried++
		if partial {
			torn++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations, %d states, %d without all that was written", len(rec.steps), tried, torn)
	recycled := slices.ContainsFunc(rec.steps, func(s step) bool { return s.kind == "rename" && filepath.Ext(s.name) == segmentSuffix })
	removed := slices.ContainsFunc(rec.steps, func(s step) bool { return s.kind == "remove" && filepath.Ext(s.name) == segmentSuffix })
	if !recycled || !removed || torn < 500 {
		t.Errorf("a segment was recycled: %v, and removed: %v; %d torn states", recycled, removed, torn)
	}
}

// TestEveryPrefixNoticesMissingSyncs: the test before is one: without the syncs of
// files, or of the directory, from Create on it fails.
func TestEveryPrefixNoticesMissingSyncs(t *testing.T) {
	for _, kind := range []string{"sync", "syncdir"} {
		t.Run(kind, func(t *testing.T) {
			o := options(t)
			o.FS = newRecordFS()
			rec, batches := recordLog(t, o)
			created := slices.IndexFunc(rec.steps, func(s step) bool { return s.kind == "durable" })
			plays := func(i int, s step) bool { return s.kind != kind || i < created }
			if err := prefixes(o, rec.steps, batches, plays, nil); err == nil {
				t.Error("nobody noticed")
			} else {
				t.Log(err)
			}
		})
	}
}

// prefixes tries the states after each step that plays.
func prefixes(o Options, steps []step, batches []Batch, plays func(i int, s step) bool, told func(partial bool)) error {
	d := &disk{names: map[string]int{}, files: map[int][]byte{}, writes: map[int][]step{}}
	issued, synced, durable := 0, 0, 0
	for i, s := range steps {
		switch s.kind {
		case "issued":
			issued = s.n
			continue
		case "synced":
			synced = s.n
		case "durable":
			durable = s.n
		default:
			if !plays(i, s) {
				continue
			}
			d.play(s)
		}
		// Without its syncs a disk may hold too much to try all of it.
		const most = 3
		if len(d.entries) > most || len(d.writes) > most {
			d.entries, d.writes = d.entries[:min(len(d.entries), most)], map[int][]step{}
		}
		var failed error
		d.states(func(r *recordFS) {
			if failed != nil {
				return
			}
			held, err := reopen(o, r, uint64(durable), batches, issued, synced)
			if err != nil {
				failed = fmt.Errorf("power lost after operation %d (%s), %d batches synced: %w", i, s.kind, synced, err)
				return
			}
			if told != nil {
				told(held < issued)
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

// reopen opens the log on a state and compares it with what was written: it holds the
// first batches, at least those that were synced. It answers how many.
func reopen(o Options, r *recordFS, durable uint64, batches []Batch, issued, synced int) (int, error) {
	o.FS, o.Random = r, rand.New(rand.NewSource(2))
	l, err := Open(o, max(durable, 1))
	if durable == 0 { // Create has not returned: whoever called it begins anew
		if err != nil && !errors.Is(err, ErrNoLog) {
			return 0, err
		}
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer l.Close()
	for k := synced; k <= issued; k++ {
		entries, hard := after(batches, k)
		if l.HardState() == hard {
			return k, sameEntries(l, entries)
		}
	}
	return 0, fmt.Errorf("the hard state is %+v, %d batches were synced and %d written", l.HardState(), synced, issued)
}

// sameEntries compares what the log holds with the end of want.
func sameEntries(l *Log, want []*raftpb.Entry) error {
	last := uint64(1)
	if len(want) > 0 {
		last = want[len(want)-1].GetIndex()
	}
	if l.LastIndex() != last {
		return fmt.Errorf("the last index is %d, want %d", l.LastIndex(), last)
	}
	for index := l.FirstIndex(); index <= last; {
		got, err := l.Entries(index, last+1, 1<<20)
		if err != nil {
			return err
		}
		for _, e := range got {
			w := want[index-2]
			if e.GetIndex() != w.GetIndex() || e.GetTerm() != w.GetTerm() || string(e.GetData()) != string(w.GetData()) {
				return fmt.Errorf("entry %d differs", index)
			}
			index++
		}
	}
	return nil
}
