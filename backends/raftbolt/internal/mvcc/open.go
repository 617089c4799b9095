package mvcc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/internal/failpoint"
)

// Open opens or creates the store at c.Path. It returns ErrMissing, ErrSeal, ErrUnsealed,
// ErrLocked, ErrVersion or a *CorruptError, and has then changed nothing. An interrupted compaction is taken up again in the background.
func Open(c Config) (*Store, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	s := &Store{
		cfg:       c.withDefaults(),
		flushed:   make(chan struct{}),
		kick:      make(chan struct{}, 1),
		snapshots: make(chan struct{}, maxSnapshots),
	}
	s.log = s.cfg.Logger
	s.stopped, s.stop = context.WithCancel(context.Background())
	s.ring.limit = s.cfg.RingBytes
	s.roots.clock = s.cfg.Clock
	s.compact.init()
	if err := s.openFile(); err != nil {
		s.stop()
		return nil, err
	}
	s.done.Add(2)
	go s.flusher()
	go s.compactor()
	return s, nil
}

// openFile removes leftovers, creates the file if there is none, reads it through
// once without changing it, and opens it for good.
//
// The first pass is what finds damage: opening for writing makes bbolt walk
// every page in a goroutine of its own, where a fault could not be caught.
func (s *Store) openFile() error {
	path := s.cfg.Path
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && s.cfg.Existing {
		return fmt.Errorf("%w: %s", ErrMissing, path)
	} else if errors.Is(err, os.ErrNotExist) {
		if err := s.createFile(path); err != nil {
			return fmt.Errorf("create store: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if err := checkLength(path); err != nil {
		return err
	}
	loaded, err := s.load()
	if err != nil {
		return err
	}
	db, err := s.openBolt(path, false)
	if err != nil {
		return err
	}
	s.db = db
	if err := s.syncRead(); err != nil {
		return errors.Join(fmt.Errorf("open store: %w", err), s.db.Close())
	}
	if err := removeLeftovers(path); err != nil {
		return errors.Join(err, s.db.Close())
	}
	if err := errors.Join(s.completeBuckets(), s.refreshSizes()); err != nil {
		return errors.Join(err, s.db.Close())
	}
	s.adopt(loaded)
	return nil
}

// syncRead makes durable what was read: the file's content and its name. A process
// that was killed may have left both in the page cache alone: the meta page of a
// commit that was not yet synced, or a file that was just renamed. The next commit
// overwrites the pages which that meta page made free, and which the one on the disk
// still needs; and the log is cut below what the renamed file holds.
func (s *Store) syncRead() error {
	if s.cfg.NoSync {
		return nil
	}
	return errors.Join(s.db.Sync(), syncDirectory(filepath.Dir(s.cfg.Path), false))
}

// completeBuckets creates the small buckets that a restored file may lack.
func (s *Store) completeBuckets() error {
	missing := false
	err := s.read(func(tx *bolt.Tx) error {
		for _, name := range buckets() {
			missing = missing || tx.Bucket([]byte(name)) == nil
		}
		return nil
	})
	if err != nil || !missing {
		return err
	}
	return s.withFile(func(db *bolt.DB) error { return db.Update(createBuckets) })
}

func createBuckets(tx *bolt.Tx) error {
	for _, name := range buckets() {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	return nil
}

// adopt makes what load found the store's state.
func (s *Store) adopt(l *loader) {
	current := max(1, l.last.main, l.scheduled, l.finished)
	// The log brings everything after this boundary.
	s.layer.boundary = boundary{revision: current, applied: l.applied}
	s.applied = l.applied
	version := l.version
	s.version.Store(&version)
	s.compact.finished = l.finished
	s.ring.from = current + 1
	s.state.Store(&state{
		root:            l.keys.index().freeze(),
		revision:        current,
		compactRevision: max(l.scheduled, l.finished),
		flushedRevision: current,
	})
	s.log.Info("opened store", zap.String("path", s.cfg.Path), zap.Int64("revision", current),
		zap.Int64("compact-revision", max(l.scheduled, l.finished)), zap.Uint64("applied-index", l.applied.Index))
}

// options are those of every open, so that a swapped file behaves as the first.
func (s *Store) options(readOnly bool) *bolt.Options {
	return &bolt.Options{
		Timeout:         lockTimeout,
		ReadOnly:        readOnly,
		NoSync:          s.cfg.NoSync,
		NoGrowSync:      s.cfg.NoSync,
		NoFreelistSync:  true,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: int(max(2*s.cfg.QuotaBytes, minMmapBytes)),
	}
}

// openBolt opens a bbolt file.
func (s *Store) openBolt(path string, readOnly bool) (db *bolt.DB, err error) {
	err = guard(path, func() (err error) {
		db, err = bolt.Open(path, 0o600, s.options(readOnly))
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w: %s. Stop that process first", ErrLocked, path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, &CorruptError{Path: path, Cause: err.Error()}
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, nil
}

// createFile makes an empty store, under another name until it is whole.
func (s *Store) createFile(path string) error {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(temporary, 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType, Timeout: lockTimeout})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if err := createBuckets(tx); err != nil {
			return err
		}
		if err := tx.Bucket([]byte(bucketMeta)).Put([]byte(metaStorageVersion), []byte(StorageVersion)); err != nil {
			return err
		}
		return s.seal(tx)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	failpoint.Hit(failpoint.StoreCreate)
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	failpoint.Hit(failpoint.StoreRename)
	return syncDirectory(filepath.Dir(path), s.cfg.NoSync)
}

func syncDirectory(dir string, noSync bool) error {
	if noSync {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeLeftovers removes what a crash left of files that were never published.
func removeLeftovers(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	base := filepath.Base(path)
	for _, e := range entries {
		switch name := e.Name(); {
		case name == base+".new", name == base+defragSuffix, strings.HasPrefix(name, base+snapshotInfix):
			if err := os.Remove(filepath.Join(filepath.Dir(path), name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// bbolt's meta pages are the file's first two. What is needed of each, after the
// page header of 16 bytes, in the machine's byte order (little on all we build for):
//
//	offset  size  field
//	0       4     magic
//	4       4     version
//	8       4     page size
//	16      8     page of the root bucket
//	32      8     page of the free list, or noFreelist
//	40      8     high-water mark: the first page that was never allocated
//	48      8     transaction id
//	56      8     FNV-1a of bytes 0..55
const (
	metaHeaderBytes = 16
	metaBytes       = 64
	metaSummed      = 56
	boltMagic       = 0xED0CDAED
	boltVersion     = 2
	// minBoltPage and maxBoltPage bound the page sizes that bbolt looks for.
	minBoltPage = 1 << 10
	maxBoltPage = 16 << 20
	// noFreelist says that the free list is not in the file: what is not reachable
	// is free.
	noFreelist = math.MaxUint64
)

// metaPage is what is needed of a meta page.
type metaPage struct{ pageSize, root, freelist, highWater, txid uint64 }

// readMetaPage reads the page at offset; ok is false if it is no sound meta page.
func readMetaPage(f io.ReaderAt, offset int64) (m metaPage, ok bool, err error) {
	var b [metaHeaderBytes + metaBytes]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return m, false, err
	}
	d := b[metaHeaderBytes:]
	sum := fnv.New64a()
	sum.Write(d[:metaSummed])
	if binary.LittleEndian.Uint32(d) != boltMagic || binary.LittleEndian.Uint32(d[4:]) != boltVersion ||
		binary.LittleEndian.Uint64(d[metaSummed:]) != sum.Sum64() {
		return m, false, nil
	}
	m = metaPage{
		pageSize:  uint64(binary.LittleEndian.Uint32(d[8:])),
		root:      binary.LittleEndian.Uint64(d[16:]),
		freelist:  binary.LittleEndian.Uint64(d[32:]),
		highWater: binary.LittleEndian.Uint64(d[40:]),
		txid:      binary.LittleEndian.Uint64(d[48:]),
	}
	return m, m.pageSize != 0, nil
}

// newestMetaPage finds the meta page that bbolt will go by. Only where the pages
// can be is looked: elsewhere, values may look like one.
func newestMetaPage(f io.ReaderAt) (newest metaPage, found bool, err error) {
	newest, found, err = readMetaPage(f, 0)
	if err != nil {
		return newest, found, err
	}
	if found {
		// The first page tells the page size, and with it where the second is.
		second, ok, err := readMetaPage(f, int64(newest.pageSize))
		if ok && second.txid > newest.txid {
			newest = second
		}
		return newest, true, err
	}
	for size := int64(minBoltPage); size <= maxBoltPage && !found && err == nil; size *= 2 {
		newest, found, err = readMetaPage(f, size)
		found = found && newest.pageSize == uint64(size)
	}
	return newest, found, err
}

// checkLength compares the file's length with what its newest meta page says,
// before any other page is read: behind the end of a cut-off file there is no
// page to read, only a fault.
func checkLength(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	m, found, err := newestMetaPage(f)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if !found {
		return &CorruptError{Path: path, Cause: "it has no valid meta page; it is not a bbolt file, or its beginning was overwritten"}
	}
	if length := uint64(info.Size()); m.highWater > length/m.pageSize {
		return &CorruptError{Path: path, Cause: fmt.Sprintf("its length is %d bytes, its newest meta page says %d pages of %d bytes: it was cut off",
			length, m.highWater, m.pageSize)}
	}
	return nil
}
