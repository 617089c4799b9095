package wal

import (
	"errors"
	"fmt"
	"syscall"
)

// IsFull tells whether err says that the file system, or what the owner of the files may use of it, is full.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// IsShortage tells whether err says that something of which there may be more later is used up: room on the disk, files that may be open, memory.
// Any other error of a file is a fault.
func IsShortage(err error) bool {
	return IsFull(err) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// freer is a FS that tells how many bytes dir's file system has free. With one, no spare is begun that there is no room for: the attempt would
// take the last room from others, again and again.
type freer interface {
	Free(dir string) (int64, error)
}

// needRoom answers an error that IsFull when the file system has no room for n bytes.
func (o *Options) needRoom(n int64) error {
	fs, ok := o.FS.(freer)
	if !ok {
		return nil
	}
	free, err := fs.Free(o.Dir)
	if err != nil || free >= n {
		return err
	}
	return fmt.Errorf("%s: %d bytes are free, a log segment needs %d: %w", o.Dir, free, n, syscall.ENOSPC)
}

// Room is how many bytes of batches the log takes for certain, however they are divided, without making a file; each batch counts with its size in the
// file (BatchSize), and none may exceed SegmentBytes.
func (l *Log) Room() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spare != nil {
		// What is left in the active segment may be too little for the next batch, and is then not used.
		return l.spare.size - firstBatch
	}
	return l.active.size - l.pos
}

// SegmentBytes is the size of a segment.
func (l *Log) SegmentBytes() int64 { return l.opt.SegmentBytes }

// Bounds of what an entry with n bytes of data takes in the file, when it is alone in its batch.
const batchOverhead = batchHead + entryHead + batchAlignment

// BatchSize is what a batch of one entry with n bytes of data takes in the file, bytes: an upper bound.
func BatchSize(n int) int64 { return int64(n) + batchOverhead }

// Shrink gives room back: it cuts at index, as Cut, and lets the next Housekeep remove every released segment that does not become the spare.
func (l *Log) Shrink(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut(index)
	l.lean = true
}
