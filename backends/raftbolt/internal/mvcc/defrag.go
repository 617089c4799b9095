package mvcc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/internal/failpoint"
)

const (
	defragSuffix = ".defrag"
	// defragTxBytes is copied in one transaction: the copy's memory.
	defragTxBytes = 4 << 20
)

// Defragment rewrites the file without its free pages. Meanwhile nothing is
// flushed, so that writes wait once the layer is full; reads wait only while the
// files are swapped. ErrNoSpace when there is no room for the copy; after an
// error before the swap the store goes on as before. ctx is heeded until the
// copying begins.
//
// The copy is whole and synced before it takes the file's name, and the
// directory is synced after it: a crash leaves the one or the other.
func (s *Store) Defragment(ctx context.Context) error {
	if err := s.Flush(ctx); err != nil {
		return err
	}
	// Snapshots first: a copy under way would hold up the swap, and the waiting
	// swap all readers.
	s.copying.Lock()
	defer s.copying.Unlock()
	s.writeFile.Lock()
	defer s.writeFile.Unlock()
	if err := s.needRoom(s.SizeInUse() + flushMarginBytes); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	before := s.Size()
	temporary := s.cfg.Path + defragSuffix
	err := s.withFile(func(db *bolt.DB) error { return s.copyFile(db, temporary) })
	if err != nil {
		if isNoSpace(err) {
			err = errors.Join(backends.ErrNoSpace, err)
		}
		return errors.Join(err, removeIfThere(temporary))
	}
	failpoint.Hit(failpoint.DefragmentSynced)
	if err := s.swap(temporary); err != nil {
		return err
	}
	s.log.Info("defragmented", zap.Int64("size-before", before), zap.Int64("size-after", s.Size()))
	return nil
}

// copyFile writes a compact copy, synced unless the store is NoSync.
func (s *Store) copyFile(db *bolt.DB, path string) (err error) {
	if err := removeIfThere(path); err != nil {
		return err
	}
	options := s.options(false)
	options.NoSync, options.NoGrowSync = true, true
	to, err := bolt.Open(path, 0o600, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	failpoint.Hit(failpoint.DefragmentCopy)
	if err := bolt.Compact(to, db, defragTxBytes); err != nil {
		return err
	}
	failpoint.Hit(failpoint.DefragmentCopied)
	if s.cfg.NoSync {
		return nil
	}
	return to.Sync()
}

// swap puts the copy in the file's place. A failure after the rename is final.
func (s *Store) swap(temporary string) error {
	s.fileMu.Lock()
	old := s.db
	if old == nil {
		s.fileMu.Unlock()
		return errors.Join(backends.ErrStopped, removeIfThere(temporary))
	}
	if err := os.Rename(temporary, s.cfg.Path); err != nil {
		s.fileMu.Unlock()
		return errors.Join(err, removeIfThere(temporary))
	}
	failpoint.Hit(failpoint.DefragmentRename)
	s.db = nil
	err := errors.Join(syncDirectory(filepath.Dir(s.cfg.Path), s.cfg.NoSync), old.Close())
	failpoint.Hit(failpoint.DefragmentSwap)
	if err == nil {
		s.db, err = s.openBolt(s.cfg.Path, false)
	}
	failpoint.Hit(failpoint.DefragmentOpened)
	s.fileMu.Unlock()
	if err != nil {
		err = fmt.Errorf("defragment: the new file could not be taken into use: %w. Start again", err)
		s.fail(err)
		return err
	}
	return s.refreshSizes()
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
