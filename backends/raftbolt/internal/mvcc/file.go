package mvcc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/etcdshim/shim/backends"
)

// guard runs f, which works on a bbolt file or on memory mapped from it, and
// turns a panic or a memory fault into a CorruptError: bbolt panics on what it
// finds damaged, and reading a page that the disk cannot give faults.
func guard(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &CorruptError{Path: path, Cause: fmt.Sprint(p)}
		}
	}()
	return f()
}

// withFile runs f on the open file: the one way to it. Corruption makes the
// store fail. ErrStopped after Close.
func (s *Store) withFile(f func(db *bolt.DB) error) error {
	err := s.withFileLocked(f)
	if c := (*CorruptError)(nil); errors.As(err, &c) {
		s.fail(err)
	}
	return err
}

func (s *Store) withFileLocked(f func(db *bolt.DB) error) error {
	s.fileMu.RLock()
	defer s.fileMu.RUnlock()
	if s.db == nil {
		return backends.ErrStopped
	}
	return guard(s.cfg.Path, func() error { return f(s.db) })
}

// read runs f in a read transaction. It must be short: pages freed meanwhile
// cannot be used again.
func (s *Store) read(f func(tx *bolt.Tx) error) error {
	return s.withFile(func(db *bolt.DB) error { return db.View(f) })
}

// write runs f in a synced write transaction and takes the file's sizes after
// it. The caller holds writeFile.
func (s *Store) write(f func(tx *bolt.Tx) error) error {
	var took CommitTimes
	err := s.withFile(func(db *bolt.DB) error {
		var committing *bolt.Tx
		var start time.Time
		err := db.Update(func(tx *bolt.Tx) error {
			if err := f(tx); err != nil {
				return err
			}
			err := s.seal(tx)
			committing, start = tx, s.cfg.Clock.Now()
			return err
		})
		if err != nil {
			return err
		}
		steps := committing.Stats()
		took = CommitTimes{
			Total:     s.cfg.Clock.Now().Sub(start),
			Rebalance: steps.GetRebalanceTime(), Spill: steps.GetSpillTime(), Write: steps.GetWriteTime(),
		}
		return s.measure(db)
	})
	if err == nil {
		s.cfg.OnCommit(took) // here, so that a fault of it does not pass for the file's
	}
	return err
}

// seal seals the meta bucket. It ends every write transaction.
func (s *Store) seal(tx *bolt.Tx) error {
	meta := tx.Bucket([]byte(bucketMeta))
	seal, err := metaSeal(s.cfg.Founding, meta.ForEach)
	if err != nil || meta.Sequence() == seal {
		return err
	}
	return meta.SetSequence(seal)
}

// measure takes the file's sizes.
func (s *Store) measure(db *bolt.DB) error {
	return db.View(func(tx *bolt.Tx) error {
		size := tx.Size()
		s.sizes.size.Store(size)
		s.sizes.inUse.Store(size - int64(db.Stats().FreePageN)*int64(db.Info().PageSize))
		return nil
	})
}

// corrupt reports damage that bbolt did not notice.
func (s *Store) corrupt(format string, args ...any) error {
	return &CorruptError{Path: s.cfg.Path, Cause: fmt.Sprintf(format, args...)}
}

// isNoSpace tells whether a commit failed for want of space before anything it
// wrote could count, so that it may be tried again. A failed sync never is that.
func isNoSpace(err error) bool {
	var p *fs.PathError
	return errors.As(err, &p) && p.Op == "write" && (errors.Is(p.Err, syscall.ENOSPC) || errors.Is(p.Err, syscall.EDQUOT))
}

// allocatedBytes is what a file takes on its disk; 0 when that cannot be told.
func allocatedBytes(path string) int64 {
	if info, err := os.Stat(path); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			return st.Blocks * 512
		}
	}
	return 0
}

// freeBytes is what an unprivileged writer may still use of dir's file system.
func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}
