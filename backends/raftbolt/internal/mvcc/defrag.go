package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/internal/failpoint"
)

const (
	defragSuffix = ".defrag"
	// defragChunkBytes are read in one transaction and written in another: the copy's
	// memory, and a few milliseconds of a read transaction's life.
	defragChunkBytes = 4 << 20
	// defragSyncBytes are written before they are synced: the disk gets them bit by
	// bit, and the log's syncs do not wait for all of them at once.
	defragSyncBytes = 16 << 20
	// defragPause lies between two chunks, so that the copy does not take the disk
	// for itself.
	defragPause = 5 * time.Millisecond
	// lastRoundBytes may be left to copy when flushes are held for the last round: some
	// milliseconds.
	lastRoundBytes = 1 << 20
	// patientRounds are made to get there. Where each flush is larger, and one follows the
	// other, flushes are then held with as much left as the last round took time for.
	patientRounds = 16
)

// Defragment rewrites the file without its free pages. Reads, writes and flushes go
// on meanwhile; compaction of the file waits, and so does a new snapshot towards the
// end. Only while the last of what was flushed meanwhile is copied no flush begins,
// and only for the exchange of two pointers reads wait.
//
// The copy is whole and synced before it takes the file's name, and the directory is
// synced before the copy is used: a crash leaves the one or the other, and nothing is
// called durable that is in the file that vanishes.
//
// ErrNoSpace when there is no room for the copy, or when it would take what a flush
// needs; after an error before the copy has the file's name the store goes on as
// before. ctx is heeded until the copying begins: as in etcd, a client that goes away
// does not stop it.
func (s *Store) Defragment(ctx context.Context) error {
	s.rewriting.Lock()
	defer s.rewriting.Unlock()
	if s.stopped.Err() != nil {
		return s.ended()
	}
	if err := s.Flush(ctx); err != nil {
		return err
	}
	d := &defragmentation{s: s, path: s.cfg.Path + defragSuffix}
	if err := s.needRoom(s.SizeInUse() + flushMarginBytes + s.flushReserve()); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	before, start := s.Size(), s.cfg.Clock.Now()
	if err := d.run(); err != nil {
		if isNoSpace(err) {
			err = errors.Join(backends.ErrNoSpace, err)
		}
		return err
	}
	s.log.Info("finished defragmenting directory", zap.String("path", s.cfg.Path), zap.Int64("size-before", before),
		zap.Int64("size-after", s.Size()), zap.Int("rounds", d.rounds), zap.Duration("took", s.cfg.Clock.Now().Sub(start)))
	return nil
}

// defragmentation is a Defragment under way. Its goroutine holds Store.rewriting,
// so that nothing is removed from the key bucket: changes only come, at its end.
type defragmentation struct {
	s *Store
	// path is the copy's, and to the copy.
	path string
	to   *bolt.DB
	// next is the first key of the key bucket that may not be copied.
	next []byte
	// unsynced bytes were written since the last sync.
	unsynced int64
	rounds   int
	chunk    chunk
}

// run makes the copy and puts it in the file's place.
func (d *defragmentation) run() error {
	if err := d.create(); err != nil {
		return errors.Join(err, removeIfThere(d.path))
	}
	old, err := d.copyAndSwap()
	if old == nil { // It has not come to the exchange.
		return errors.Join(err, d.guarded(d.to.Close), removeIfThere(d.path))
	}
	// Freeing the blocks of a large file takes a while, and nobody waits for it.
	if closeErr := guard(d.s.cfg.Path, old.Close); closeErr != nil {
		d.s.log.Warn("the file that was defragmented could not be closed", zap.Error(closeErr))
	}
	return err
}

// create makes the copy's file, empty, with all buckets.
func (d *defragmentation) create() error {
	if err := removeIfThere(d.path); err != nil {
		return err
	}
	options := d.s.options(false)
	// Until it has the file's name only sync syncs it.
	options.NoSync, options.NoGrowSync = true, true
	err := d.guarded(func() (err error) {
		d.to, err = bolt.Open(d.path, 0o600, options)
		return err
	})
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.DefragmentCopy)
	if err := d.guarded(func() error { return d.to.Update(createBuckets) }); err != nil {
		return errors.Join(err, d.guarded(d.to.Close))
	}
	return nil
}

// copyAndSwap copies in rounds, each of what was flushed during the one before, the
// last one alone with flushes held, and exchanges the files. It returns the old file
// once that was taken out of use.
func (d *defragmentation) copyAndSwap() (old *bolt.DB, err error) {
	if err := d.roundToNow(); err != nil {
		return nil, err
	}
	// A snapshot that is being copied would hold up the exchange, and the waiting
	// exchange all readers.
	d.s.copying.Lock()
	defer d.s.copying.Unlock()
	for {
		if err := d.roundToNow(); err != nil {
			return nil, err
		}
		d.s.writeFile.Lock()
		few, err := d.fewLeft()
		if err != nil {
			d.s.writeFile.Unlock()
			return nil, err
		}
		if few || d.rounds >= patientRounds {
			break
		}
		d.s.writeFile.Unlock()
	}
	defer d.s.writeFile.Unlock()
	if err := d.round(nil, 0); err != nil {
		return nil, err
	}
	if err := d.smallBuckets(); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.DefragmentCopied)
	if err := d.sync(); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.DefragmentSynced)
	return d.swap()
}

// roundToNow copies the changes that are flushed by now. It does not run after
// those that are flushed meanwhile, which might be for ever.
func (d *defragmentation) roundToNow() error {
	var last []byte
	err := d.s.read(func(tx *bolt.Tx) error {
		k, _ := tx.Bucket([]byte(bucketKey)).Cursor().Last()
		last = bytes.Clone(k)
		return nil
	})
	if err != nil || last == nil {
		return err
	}
	return d.round(last, defragPause)
}

// round copies the changes up to the key last, which nil does not bound, and syncs
// them.
func (d *defragmentation) round(last []byte, pause time.Duration) error {
	d.rounds++
	for {
		done, err := d.copyChunk(bucketKey, &d.next, last)
		if err != nil {
			return err
		}
		if done {
			return d.sync()
		}
		if d.unsynced >= defragSyncBytes {
			if err := d.sync(); err != nil {
				return err
			}
		}
		if pause > 0 {
			if err := d.s.pause(pause); err != nil {
				return err
			}
		}
	}
}

// fewLeft tells whether there is little enough left for the last round. The caller
// holds writeFile.
func (d *defragmentation) fewLeft() (few bool, err error) {
	left := 0
	err = d.s.read(func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte(bucketKey)).Cursor()
		for k, v := c.Seek(d.next); k != nil && left <= lastRoundBytes; k, v = c.Next() {
			left += len(k) + len(v)
		}
		return nil
	})
	return left <= lastRoundBytes, err
}

// smallBuckets copies all buckets but that of the keys, whole, and the sequence
// numbers of all, of which the meta bucket's is its seal. The caller holds
// writeFile.
func (d *defragmentation) smallBuckets() error {
	sequences := map[Bucket]uint64{}
	err := d.s.read(func(tx *bolt.Tx) error {
		for _, name := range buckets() {
			sequences[name] = tx.Bucket([]byte(name)).Sequence()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range buckets() {
		if name == bucketKey {
			continue
		}
		var next []byte
		for done := false; !done; {
			if done, err = d.copyChunk(name, &next, nil); err != nil {
				return err
			}
		}
	}
	return d.guarded(func() error {
		return d.to.Update(func(tx *bolt.Tx) error {
			for _, name := range buckets() {
				if err := tx.Bucket([]byte(name)).SetSequence(sequences[name]); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// copyChunk copies entries of a bucket from next on, which it advances, up to last if
// that is not nil. done tells that there were no more.
func (d *defragmentation) copyChunk(name Bucket, next *[]byte, last []byte) (done bool, err error) {
	if d.s.stopped.Err() != nil {
		return false, d.s.ended()
	}
	err = d.s.read(func(tx *bolt.Tx) error {
		done = d.chunk.fill(tx.Bucket([]byte(name)).Cursor(), *next, last)
		return nil
	})
	if err != nil || len(d.chunk.entries) == 0 {
		return done, err
	}
	if err := d.s.needRoom(int64(len(d.chunk.bytes)) + d.s.flushReserve()); err != nil {
		return false, err
	}
	err = d.guarded(func() error {
		return d.to.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(name))
			b.FillPercent = 1 // in order, and the key bucket never grows but at its end
			return d.chunk.each(b.Put)
		})
	})
	if err != nil {
		return false, err
	}
	*next = d.chunk.after(*next)
	d.unsynced += int64(len(d.chunk.bytes))
	failpoint.Hit(failpoint.DefragmentChunk)
	return done, nil
}

// sync makes what was written durable.
func (d *defragmentation) sync() error {
	d.unsynced = 0
	if d.s.cfg.NoSync {
		return nil
	}
	to := d.to
	return to.Sync()
}

// guarded runs f on the copy. Its damage is not the store's.
func (d *defragmentation) guarded(f func() error) error {
	err := guard(d.path, f)
	if c := (*CorruptError)(nil); errors.As(err, &c) {
		return fmt.Errorf("defragment: the copy %s cannot be written: %s", d.path, c.Cause)
	}
	return err
}

// swap puts the copy in the file's place, and returns the file that was there; nil
// when it is still there. The caller holds copying and writeFile: nothing is written
// between the last round and the use of the copy. A failure after the rename is final.
func (d *defragmentation) swap() (old *bolt.DB, err error) {
	s := d.s
	if err := os.Rename(d.path, s.cfg.Path); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.DefragmentRename)
	err = syncDirectory(filepath.Dir(s.cfg.Path), s.cfg.NoSync)
	failpoint.Hit(failpoint.DefragmentSwap)
	d.to.NoSync, d.to.NoGrowSync = s.cfg.NoSync, s.cfg.NoSync
	s.fileMu.Lock()
	old, s.db = s.db, d.to
	if err != nil {
		s.db = nil // Whatever is flushed now would be lost, with the one file or the other.
	}
	s.fileMu.Unlock()
	if err != nil {
		err = fmt.Errorf("defragment: the name of the new file could not be made durable: %w. Start again", errors.Join(err, d.guarded(d.to.Close)))
		s.fail(err)
		return old, err
	}
	failpoint.Hit(failpoint.DefragmentOpened)
	return old, s.refreshSizes()
}

// refreshSizes takes the file's sizes, after an empty write transaction has
// counted the free pages.
func (s *Store) refreshSizes() error {
	return s.withFile(func(db *bolt.DB) error {
		tx, err := db.Begin(true)
		if err != nil {
			return err
		}
		return errors.Join(tx.Rollback(), s.measure(db))
	})
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// chunk is a run of a bucket's entries in memory.
type chunk struct {
	bytes   []byte
	entries []entry
}

// entry is where key and value end in the bytes; it begins where the one before ends.
type entry struct{ key, value int }

// fill reads entries from next on, up to last if that is not nil: defragChunkBytes and
// one entry at most. done tells that there are no more.
func (c *chunk) fill(cursor *bolt.Cursor, next, last []byte) (done bool) {
	c.bytes, c.entries = c.bytes[:0], c.entries[:0]
	k, v := cursor.First()
	if next != nil {
		k, v = cursor.Seek(next)
	}
	within := func() bool { return k != nil && (last == nil || bytes.Compare(k, last) <= 0) }
	for ; within() && len(c.bytes) < defragChunkBytes; k, v = cursor.Next() {
		c.bytes = append(c.bytes, k...)
		key := len(c.bytes)
		c.bytes = append(c.bytes, v...)
		c.entries = append(c.entries, entry{key, len(c.bytes)})
	}
	return !within()
}

// each calls f with each entry in order. Keys and values are valid until the next fill.
func (c *chunk) each(f func(k, v []byte) error) error {
	start := 0
	for _, e := range c.entries {
		if err := f(c.bytes[start:e.key:e.key], c.bytes[e.key:e.value:e.value]); err != nil {
			return err
		}
		start = e.value
	}
	return nil
}

// after is the first key that may follow the entries, in memory of its own; before if
// there are none.
func (c *chunk) after(before []byte) []byte {
	n := len(c.entries)
	if n == 0 {
		return before
	}
	start := 0
	if n > 1 {
		start = c.entries[n-2].value
	}
	return append(append([]byte(nil), c.bytes[start:c.entries[n-1].key]...), 0)
}
