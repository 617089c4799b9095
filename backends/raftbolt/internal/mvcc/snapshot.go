package mvcc

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	bolt "go.etcd.io/bbolt"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/internal/failpoint"
)

const (
	// maxSnapshots at a time: one for a slow reader and one more; each holds a
	// copy of the file on disk.
	maxSnapshots  = 2
	snapshotInfix = ".snapshot-"
	// snapshotCheckBytes are copied between two looks at the room that is left.
	snapshotCheckBytes = 4 << 20
)

// Snapshot is a copy of the file at one moment, to be read from its beginning.
// It must be closed.
type Snapshot struct {
	io.ReadCloser
	SizeBytes int64
	// Applied is the log position that it reflects.
	Applied Applied
	// StorageVersion is the file's.
	StorageVersion string
}

// Snapshot flushes and copies the file, to an unlinked file beside it.
// ErrTooManyRequests when two are under way, ErrNoSpace when there is no room for
// the copy, or when it would take what a flush needs.
func (s *Store) Snapshot(ctx context.Context) (*Snapshot, error) {
	select {
	case s.snapshots <- struct{}{}:
	default:
		return nil, backends.ErrTooManyRequests
	}
	free := sync.OnceFunc(func() { <-s.snapshots })
	snap, err := s.snapshot(ctx, free)
	if err != nil {
		free()
		return nil, err
	}
	return snap, nil
}

func (s *Store) snapshot(ctx context.Context, free func()) (*Snapshot, error) {
	if err := s.Flush(ctx); err != nil {
		return nil, err
	}
	s.copying.RLock()
	defer s.copying.RUnlock()
	if err := s.needRoom(s.Size() + flushMarginBytes + s.flushReserve()); err != nil {
		return nil, err
	}
	f, err := unlinkedFile(s.cfg.Path)
	if err != nil {
		return nil, err
	}
	snap := &Snapshot{ReadCloser: snapshotFile{f, free}}
	err = s.read(func(tx *bolt.Tx) error {
		l := loader{path: s.cfg.Path}
		if err := l.readMeta(tx.Bucket([]byte(bucketMeta)).Get); err != nil {
			return err
		}
		snap.Applied, snap.StorageVersion = l.applied, l.version
		w := &snapshotWriter{s: s, ctx: ctx, w: f}
		if snap.SizeBytes, err = tx.WriteTo(w); w.failed != nil {
			return w.failed // of the first pages bbolt gives the error's text alone
		}
		return err
	})
	if err == nil {
		failpoint.Hit(failpoint.SnapshotCopied)
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		if isNoSpace(err) {
			err = errors.Join(backends.ErrNoSpace, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	return snap, nil
}

// unlinkedFile makes a file that vanishes with its last user.
func unlinkedFile(path string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+snapshotInfix+"*")
	if err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.SnapshotFile)
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// snapshotFile frees the snapshot's place when closed.
type snapshotFile struct {
	*os.File
	free func()
}

// Read reads on from where the last one ended.
func (f snapshotFile) Read(b []byte) (int, error) {
	failpoint.Hit(failpoint.SnapshotSend)
	return f.File.Read(b)
}

// Close closes the file, which was unlinked already.
func (f snapshotFile) Close() error {
	defer f.free()
	return f.File.Close()
}

// snapshotWriter stops a long copy when its context or the store ends, and when there is
// no more room than a flush needs: writes go on meanwhile, and the file keeps the pages
// that they free.
type snapshotWriter struct {
	s   *Store
	ctx context.Context
	w   io.Writer
	// unchecked bytes were written since the last look at the room.
	unchecked int
	failed    error // what Write ended with
}

func (w *snapshotWriter) Write(b []byte) (n int, err error) {
	defer func() { w.failed = err }()
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	if w.s.stopped.Err() != nil {
		return 0, w.s.ended()
	}
	if w.unchecked += len(b); w.unchecked >= snapshotCheckBytes {
		w.unchecked = 0
		if err := w.s.needRoom(snapshotCheckBytes + w.s.flushReserve()); err != nil {
			return 0, err
		}
	}
	failpoint.Hit(failpoint.SnapshotCopy)
	return w.w.Write(b)
}
