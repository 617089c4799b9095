package mvcc

import (
	"errors"
	"fmt"

	"github.com/etcdshim/shim/backends"
)

// Errors of requests are those of package backends: ErrCompacted,
// ErrFutureRevision, ErrTooManyRequests, ErrNoSpace, and ErrStopped after Close.

// Errors of Open.
var (
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("store is locked by another process")
	// ErrMissing: there is no file, though Config.Existing says that there is one.
	ErrMissing = errors.New("the store is missing")
	// ErrSeal: the file is another directory's, or its positions in the log are
	// damaged.
	ErrSeal = errors.New("the store belongs to another data directory, or is damaged")
	// ErrUnsealed: another program wrote the file anew, such as etcd's tools do when they
	// defragment one. It has its place in the log, and no seal.
	ErrUnsealed = errors.New("the store was written anew by another program")
	// ErrVersion: the file's storage version is not one this program writes.
	ErrVersion = errors.New("unsupported storage version")
)

// ErrRevision: Restore cannot raise the revision by so much.
var ErrRevision = errors.New("the revision cannot be raised so far")

// CorruptError tells that the file is damaged, or that the disk under it is.
// The process must stop.
type CorruptError struct {
	Path string
	// Cause says what was found.
	Cause string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt store %s: %s. Do not start on it again: keep a copy of the file, check the disk, "+
		"and restore this member from a snapshot or from the other members", e.Path, e.Cause)
}

// noRoomError is a backends.ErrNoSpace with numbers.
type noRoomError struct{ free, need int64 }

func (e *noRoomError) Error() string {
	return fmt.Sprintf("the file system has %d bytes free, %d are needed", e.free, e.need)
}

func (e *noRoomError) Unwrap() error { return backends.ErrNoSpace }
