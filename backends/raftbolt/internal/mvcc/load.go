package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// loader reads a store's file through once, at open: the positions in the meta
// bucket, and the index out of the key bucket.
type loader struct {
	path      string
	founding  uint64
	keys      *builder
	last      revision
	version   string
	applied   Applied
	scheduled int64
	finished  int64
}

// load reads the file at Config.Path without changing it.
func (s *Store) load() (*loader, error) { return s.loadBy((*loader).read) }

// loadBy is load with another notion of what the file must be, once the structure
// of its pages is sound.
func (s *Store) loadBy(read func(l *loader, tx *bolt.Tx) error) (*loader, error) {
	db, err := s.openBolt(s.cfg.Path, true)
	if err != nil {
		return nil, err
	}
	l := &loader{path: s.cfg.Path, founding: s.cfg.Founding, keys: newBuilder(), scheduled: -1, finished: -1}
	err = guard(l.path, func() error {
		return db.View(func(tx *bolt.Tx) error {
			if err := l.readPages(tx); err != nil {
				return err
			}
			return read(l, tx)
		})
	})
	closeErr := guard(l.path, db.Close)
	if err := errors.Join(err, closeErr); err != nil {
		return nil, err
	}
	return l, nil
}

// readPages checks the structure of all pages. What is opened for writing is
// walked by bbolt in a goroutine of its own, whose panic nobody could catch; and
// what was cut off a page's end would just be missing.
func (l *loader) readPages(tx *bolt.Tx) error {
	data := mapped(tx)
	meta, _, err := newestMetaPage(bytes.NewReader(data))
	if err != nil {
		return err
	}
	var first error
	err = newTreeWalker(bytes.NewReader(data), meta, func(format string, args ...any) {
		if first == nil {
			first = l.corrupt(format, args...)
		}
	}, func(uint64) {}).all()
	return errors.Join(first, err)
}

func (l *loader) corrupt(format string, args ...any) error {
	return &CorruptError{Path: l.path, Cause: fmt.Sprintf(format, args...)}
}

// read reads a store of this directory.
func (l *loader) read(tx *bolt.Tx) error {
	if err := l.needBuckets(tx); err != nil {
		return err
	}
	meta := tx.Bucket([]byte(bucketMeta))
	if err := l.readMeta(meta.Get); err != nil {
		return err
	}
	// Without a place in the log it may be a copy of ours that the disk lost a part of.
	if meta.Sequence() == 0 && l.applied.Index != 0 {
		return fmt.Errorf("%w: bucket %q of %s has no seal", ErrUnsealed, bucketMeta, l.path)
	}
	if seal, err := metaSeal(l.founding, meta.ForEach); err != nil || seal != meta.Sequence() {
		return errors.Join(err, fmt.Errorf("%w: %s: the seal of bucket %q is %x, of this directory it would be %x", ErrSeal, l.path, bucketMeta, meta.Sequence(), seal))
	}
	return l.readRecords(tx)
}

// needBuckets makes sure that the buckets are there without which a file is no store.
func (l *loader) needBuckets(tx *bolt.Tx) error {
	for _, name := range []Bucket{bucketMeta, bucketKey} {
		if tx.Bucket([]byte(name)) == nil {
			return l.corrupt("bucket %q is missing", name)
		}
	}
	return nil
}

// readRecords reads what the buckets hold, but for the meta bucket.
func (l *loader) readRecords(tx *bolt.Tx) error {
	// Small buckets are only walked, so that every page was looked at.
	err := tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		switch {
		case !slices.Contains(buckets(), Bucket(name)):
			return fmt.Errorf("%w: %s has a bucket %q, which storage version %s has not", ErrVersion, l.path, name, StorageVersion)
		case string(name) == string(bucketKey):
			return nil
		}
		return b.ForEach(func(_, _ []byte) error { return nil })
	})
	if err != nil {
		return err
	}
	c := tx.Bucket([]byte(bucketKey)).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if err := l.readChange(k, v); err != nil {
			return err
		}
	}
	return nil
}

// readMeta checks the storage version and reads the positions; get gives an entry
// of the meta bucket.
func (l *loader) readMeta(get func(k []byte) []byte) error {
	if l.version = string(get([]byte(metaStorageVersion))); !slices.Contains(storageVersions(), l.version) {
		return fmt.Errorf("%w: %s has %q, this program knows %q", ErrVersion, l.path, l.version, storageVersions())
	}
	return l.readPositions(get)
}

func (l *loader) readPositions(get func(k []byte) []byte) error {
	for name, to := range map[string]*uint64{metaConsistentIndex: &l.applied.Index, metaTerm: &l.applied.Term} {
		if v := get([]byte(name)); len(v) == 8 {
			*to = binary.BigEndian.Uint64(v)
		} else if v != nil {
			return l.corrupt("meta key %q has %d bytes", name, len(v))
		}
	}
	for name, to := range map[string]*int64{metaScheduledCompact: &l.scheduled, metaFinishedCompact: &l.finished} {
		if v := get([]byte(name)); v != nil {
			r, _, err := parseRevision(v)
			if err != nil {
				return l.corrupt("meta key %q: %v", name, err)
			}
			*to = r.main
		}
	}
	if v := get([]byte(metaConfState)); v != nil {
		l.applied.ConfState = append([]byte{}, v...)
	}
	return nil
}

// readChange adds one change to the index. Changes come in order.
func (l *loader) readChange(k, v []byte) error {
	r, tombstone, err := parseRevision(k)
	if err != nil {
		return l.corrupt("%v", err)
	}
	f, err := scanRecord(v)
	raised := isRaise(tombstone, v)
	if err != nil || len(f.key) == 0 && !raised {
		return l.corrupt("the record at revision %d.%d cannot be read", r.main, r.sub)
	}
	if r.sub > math.MaxUint32 {
		return l.corrupt("revision %d.%d counts too many changes", r.main, r.sub)
	}
	if !tombstone && !raised && (f.version <= 0 || f.mod != r.main) {
		return l.corrupt("the record at revision %d.%d says revision %d, version %d", r.main, r.sub, f.mod, f.version)
	}
	l.last = r
	ver := version{main: r.main, sub: uint32(r.sub)}
	switch {
	case raised:
		ver.create, ver.number = r.main, 1
	case !tombstone:
		ver.create, ver.number, ver.leased = f.create, f.version, f.lease != 0
	}
	l.keys.add(f.key, ver)
	return nil
}
