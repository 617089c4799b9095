package replica

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sort"
	"syscall"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
)

// sectorBytes is what a disk writes whole or, at a power loss, torn.
const sectorBytes = 512

// errCrash is what every operation answers on and after the one at which the machine stops.
var errCrash = errors.New("the machine stopped")

// simDisk is a model disk behind a page cache. Written bytes are in the cache at once and on the disk after Sync; a power loss keeps any
// subset of the sectors written since, each of them perhaps torn, and a prefix of the directory operations since SyncDir.
type simDisk struct {
	rng   *rand.Rand
	names map[string]*inode // as a running process sees them
	disk  map[string]*inode // as they survive a power loss
	ops   []dirOp           // between the two, in order
	// fuse stops the machine at that many operations from now; negative: never.
	fuse int
	dead bool
	// limit is how many bytes its files may have, 0: any number.
	limit int
}

// dirOp makes name refer to file; nil removes it. A rename also removes from: a crash leaves one name or the other.
type dirOp struct {
	name string
	file *inode
	from string
}

type inode struct {
	cache   []byte
	disk    []byte
	dirty   []int  // sectors, in order of their first write
	isDirty []bool // by sector
}

func newSimDisk(rng *rand.Rand) *simDisk {
	return &simDisk{rng: rng, names: map[string]*inode{}, disk: map[string]*inode{}, fuse: -1}
}

// step burns the fuse.
func (d *simDisk) step() error {
	if d.fuse == 0 {
		d.dead = true
	}
	if d.fuse >= 0 {
		d.fuse--
	}
	if d.dead {
		return errCrash
	}
	return nil
}

// restart ends a crash. On a power loss only what reached the disk is left.
func (d *simDisk) restart(powerLoss bool) {
	d.dead, d.fuse = false, -1
	if !powerLoss {
		return
	}
	keep := d.rng.IntN(len(d.ops) + 1)
	for _, op := range d.ops[:keep] {
		op.apply(d.disk)
	}
	d.ops = nil
	mode := d.rng.IntN(3)
	names := make([]string, 0, len(d.disk))
	for name := range d.disk {
		names = append(names, name)
	}
	sort.Strings(names)
	d.names = map[string]*inode{}
	for _, name := range names {
		f := d.disk[name]
		f.losePower(d.rng, mode)
		d.names[name] = f
	}
}

func (op dirOp) apply(names map[string]*inode) {
	if op.file == nil {
		delete(names, op.name)
	} else {
		names[op.name] = op.file
		delete(names, op.from)
	}
}

// losePower settles each unsynced sector: mode 0 loses nearly all, 1 keeps nearly all, 2 flips a coin.
func (f *inode) losePower(rng *rand.Rand, mode int) {
	for _, s := range f.dirty {
		f.isDirty[s] = false
		keep := rng.IntN(2) == 0
		if mode < 2 && rng.IntN(8) > 0 {
			keep = mode == 1
		}
		if !keep {
			continue
		}
		from, to := s*sectorBytes, min((s+1)*sectorBytes, len(f.cache))
		if rng.IntN(8) == 0 {
			to = from + rng.IntN(to-from+1) // torn: the rest stays old
		}
		f.writeDisk(from, to)
	}
	f.dirty = f.dirty[:0]
	f.cache = append([]byte(nil), f.disk...)
}

// writeDisk brings [from, to) of the cache to the disk.
func (f *inode) writeDisk(from, to int) {
	if to > len(f.disk) {
		f.disk = append(f.disk, make([]byte, to-len(f.disk))...)
	}
	copy(f.disk[from:to], f.cache[from:to])
}

// used is what the files have, bytes.
func (d *simDisk) used() (n int) {
	for _, f := range d.names {
		n += len(f.cache)
	}
	return n
}

func (d *simDisk) change(op dirOp) {
	op.apply(d.names)
	d.ops = append(d.ops, op)
}

// MkdirAll implements wal.FS. Directories need no model: there is one.
func (d *simDisk) MkdirAll(string) error { return d.step() }

// List implements wal.FS.
func (d *simDisk) List(string) ([]string, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	var names []string
	for name := range d.names {
		names = append(names, filepath.Base(name))
	}
	sort.Strings(names)
	return names, nil
}

// simFile is an open file.
type simFile struct {
	d *simDisk
	f *inode
}

// Create implements wal.FS.
func (d *simDisk) Create(name string) (wal.File, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f := &inode{}
	d.change(dirOp{name: name, file: f})
	return &simFile{d, f}, nil
}

// Open implements wal.FS.
func (d *simDisk) Open(name string) (wal.File, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f, ok := d.names[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return &simFile{d, f}, nil
}

// Rename implements wal.FS.
func (d *simDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	f, ok := d.names[from]
	if !ok {
		return fs.ErrNotExist
	}
	d.change(dirOp{name: to, file: f, from: from})
	return nil
}

// Remove implements wal.FS.
func (d *simDisk) Remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.change(dirOp{name: name})
	return nil
}

// SyncDir implements wal.FS.
func (d *simDisk) SyncDir(string) error {
	if err := d.step(); err != nil {
		return err
	}
	for _, op := range d.ops {
		op.apply(d.disk)
	}
	d.ops = d.ops[:0]
	return nil
}

func (s *simFile) ReadAt(b []byte, offset int64) (int, error) {
	if s.d.dead {
		return 0, errCrash
	}
	if offset >= int64(len(s.f.cache)) {
		return 0, io.EOF
	}
	n := copy(b, s.f.cache[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (s *simFile) WriteAt(b []byte, offset int64) (int, error) {
	crash := s.d.step()
	if crash != nil {
		if s.d.fuse != -1 || len(b) == 0 { // stopped earlier
			return 0, crash
		}
		s.d.fuse = -2
		b = b[:s.d.rng.IntN(len(b))] // stopped within the write
	}
	f := s.f
	end := int(offset) + len(b)
	if s.d.limit > 0 && end > len(f.cache) && s.d.used()+end-len(f.cache) > s.d.limit {
		return 0, &fs.PathError{Op: "write", Err: syscall.ENOSPC}
	}
	if end > len(f.cache) {
		f.cache = append(f.cache, make([]byte, end-len(f.cache))...)
	}
	copy(f.cache[offset:], b)
	if n := (len(f.cache) + sectorBytes - 1) / sectorBytes; n > len(f.isDirty) {
		f.isDirty = append(f.isDirty, make([]bool, n-len(f.isDirty))...)
	}
	for sector := int(offset) / sectorBytes; sector*sectorBytes < end; sector++ {
		if !f.isDirty[sector] {
			f.isDirty[sector] = true
			f.dirty = append(f.dirty, sector)
		}
	}
	return len(b), crash
}

func (s *simFile) Sync() error {
	if err := s.d.step(); err != nil {
		return err
	}
	f := s.f
	for _, sector := range f.dirty {
		f.isDirty[sector] = false
		f.writeDisk(sector*sectorBytes, min((sector+1)*sectorBytes, len(f.cache)))
	}
	f.dirty = f.dirty[:0]
	return nil
}

func (s *simFile) Size() (int64, error) { return int64(len(s.f.cache)), nil }
func (s *simFile) Close() error         { return nil }
