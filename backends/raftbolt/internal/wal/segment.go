package wal

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/etcdshim/shim/internal/failpoint"
)

const (
	segmentPrefix = "shim-"
	segmentSuffix = ".wal"
	tempSuffix    = ".tmp"
)

// zeroChunk bounds the buffer that writes out a segment, bytes.
const zeroChunk = 256 << 10

// segment is a file of batches.
type segment struct {
	segmentHeader
	name string // path
	file File
}

func segmentName(dir string, sequence uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%s%016x%s", segmentPrefix, sequence, segmentSuffix))
}

// parseSegmentName tells the sequence number of a segment's file name.
func parseSegmentName(base string) (uint64, bool) {
	digits, ok := strings.CutPrefix(base, segmentPrefix)
	if !ok {
		return 0, false
	}
	if digits, ok = strings.CutSuffix(digits, segmentSuffix); !ok || len(digits) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	return n, err == nil
}

// newSegment makes a segment with a new life that begins with the given batches; head says the rest. It is durable under its name on return.
// After an error that IsShortage nothing of it is left.
func (o *Options) newSegment(head segmentHeader, batches func(lifeID) ([]byte, error)) (_ *segment, err error) {
	if err := o.needRoom(head.size); err != nil {
		return nil, err
	}
	if head.life, err = o.newLife(); err != nil {
		return nil, err
	}
	head.owner = o.Owner
	s := &segment{segmentHeader: head, name: segmentName(o.Dir, head.sequence)}
	temp := strings.TrimSuffix(s.name, segmentSuffix) + tempSuffix
	if s.file, err = o.FS.Create(temp); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.LogSegmentCreate)
	made := temp
	defer func() {
		if err != nil {
			// Left behind, it would take what room the disk has, and each new attempt more.
			if undo := errors.Join(s.file.Close(), o.FS.Remove(made)); undo != nil {
				err = fmt.Errorf("%w (after: %s)", undo, err.Error()) // not to be taken for a mere shortage
			}
		}
	}()
	b := s.encode()
	if batches != nil {
		tail, err := batches(head.life)
		if err != nil {
			return nil, err
		}
		b = append(b, tail...)
	}
	if _, err = s.file.WriteAt(b, 0); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.LogSegmentHead)
	if err = writeZeros(s.file, int64(len(b)), head.size); err != nil {
		return nil, err
	}
	if err = o.sync(s.file); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.LogSegmentSynced)
	if err = o.FS.Rename(temp, s.name); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.LogSegmentRename)
	made = s.name
	return s, o.syncDir()
}

// recycle gives s a new life and the place at the end of the log that head says: durable on return. After an error s is as before, and may be given again.
func (o *Options) recycle(s *segment, head segmentHeader) (err error) {
	if head.life, err = o.newLife(); err != nil {
		return err
	}
	head.owner = o.Owner
	if _, err := s.file.WriteAt(head.encode(), 0); err != nil {
		return err
	}
	failpoint.Hit(failpoint.LogRecycleHead)
	// Synced under the old name: under the new one the old life's header would stand at the end of the log.
	if err := o.sync(s.file); err != nil {
		return err
	}
	failpoint.Hit(failpoint.LogRecycleSynced)
	name := segmentName(o.Dir, head.sequence)
	if err := o.FS.Rename(s.name, name); err != nil {
		return err
	}
	failpoint.Hit(failpoint.LogRecycleRename)
	s.name, s.segmentHeader = name, head
	return o.syncDir()
}

func (o *Options) newLife() (lifeID, error) {
	var life lifeID
	_, err := io.ReadFull(o.Random, life[:])
	return life, err
}

func (o *Options) sync(f File) error {
	if o.NoSync {
		return nil
	}
	return f.Sync()
}

func (o *Options) syncDir() error {
	if o.NoSync {
		return nil
	}
	return o.FS.SyncDir(o.Dir)
}

// writeZeros overwrites [from, to).
func writeZeros(f File, from, to int64) error {
	zeros := make([]byte, min(zeroChunk, max(0, to-from)))
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// readAll reads a whole segment file.
func readAll(f File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); err != nil && (!errors.Is(err, io.EOF) || int64(n) != size) {
		return nil, err
	}
	return b, nil
}
