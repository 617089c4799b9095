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
// the copy.
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
	if err := s.needRoom(s.Size() + flushMarginBytes); err != nil {
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
		snap.SizeBytes, err = tx.WriteTo(contextWriter{ctx, f})
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

// contextWriter stops a long copy when its context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	failpoint.Hit(failpoint.SnapshotCopy)
	return w.w.Write(b)
}
