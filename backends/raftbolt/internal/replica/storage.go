package replica

import (
	"errors"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// storage is the log as raft reads it.
type storage struct{ c *core }

// storageError is what storage panics with when the log cannot be read: raft has no way to report it. The driver recovers it.
type storageError struct{ err error }

// InitialState implements raft.Storage.
func (s storage) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	h := s.c.hard
	return &raftpb.HardState{Term: new(h.Term), Vote: new(h.Vote), Commit: new(h.Commit)}, s.c.conf, nil
}

// Entries implements raft.Storage.
func (s storage) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	entries, err := s.c.log.Entries(lo, hi, maxSize)
	return entries, storageResult(err)
}

// Term implements raft.Storage.
func (s storage) Term(index uint64) (uint64, error) {
	term, err := s.c.log.Term(index)
	return term, storageResult(err)
}

// LastIndex implements raft.Storage.
func (s storage) LastIndex() (uint64, error) { return s.c.log.LastIndex(), nil }

// FirstIndex implements raft.Storage.
func (s storage) FirstIndex() (uint64, error) { return s.c.log.FirstIndex(), nil }

// Snapshot implements raft.Storage. raft asks again until the state machine has made one. Without a transport there is nobody to send one to.
func (s storage) Snapshot() (*raftpb.Snapshot, error) {
	c := s.c
	if c.transport == nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	if snap := c.snapshot; snap != nil {
		// One that the log does not adjoin any more helps nobody.
		if c.snapshot = nil; snap.GetMetadata().GetIndex()+1 >= c.log.FirstIndex() {
			return snap, nil
		}
	}
	if !c.snapshotWanted {
		c.snapshotWanted = true
		c.jobs = append(c.jobs, &job{save: true})
	}
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}

// storageResult translates the log's answers; others are final.
func storageResult(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, wal.ErrCut):
		return raft.ErrCompacted
	case errors.Is(err, wal.ErrBeyond):
		return raft.ErrUnavailable
	}
	panic(storageError{err})
}
