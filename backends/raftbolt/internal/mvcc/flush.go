package mvcc

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/internal/failpoint"
)

const (
	// noSpaceRetry is the pause before a flush that found no room is tried again, and
	// before somebody looks whether there is room again.
	noSpaceRetry = time.Second
	// flushMarginBytes is room for the pages above the records: branch pages and
	// small buckets.
	flushMarginBytes = 256 << 10
	// reserveBytes is room beyond the layer's that writes which grow the store must
	// leave, see [Store.Short]. With it the layer reaches the file, and so do the
	// deletes and compactions that make room there.
	// A commit writes up to four records anew, of a leaf that it touches, and twice as
	// many where it merges two: some 12 MiB of the largest that the default limit admits.
	reserveBytes = 16 << 20
)

// flusher is the goroutine that commits the layer. It sleeps until it is kicked,
// waits for the layer to be worth a commit, and commits it.
func (s *Store) flusher() {
	defer s.done.Done()
	var due, retry, look <-chan time.Time
	cancels := map[*<-chan time.Time]func(){}
	defer func() {
		for _, cancel := range cancels {
			cancel()
		}
	}()
	start := func(timer *<-chan time.Time, d time.Duration) {
		if cancel, ok := cancels[timer]; ok {
			cancel()
		}
		*timer, cancels[timer] = s.cfg.Clock.After(d)
	}
	missed, short := false, false // told already
	for {
		was := short
		if short = s.Short(); short && !was {
			s.log.Warn("the disk of the store is nearly full", zap.Int64("room-bytes", s.sizes.room.Load()), zap.Int64("layer-bytes", s.LayerBytes()))
			s.cfg.OnNoSpace()
		}
		if short && look == nil {
			start(&look, noSpaceRetry)
		}
		var ripe bool
		select {
		case <-s.stopped.Done():
			return
		case <-s.kick:
			ripe = s.urgent()
		case <-due:
			due, ripe = nil, true
		case <-retry:
			retry, ripe = nil, true
		case <-look:
			look = nil
		}
		switch {
		case retry != nil: // Disk full: only the timer tries again.
		case ripe:
			due = nil
			err := s.flush()
			if errors.Is(err, backends.ErrNoSpace) {
				s.missed(err)
				if !missed {
					s.log.Error("no room to flush; writes stay in memory and the log", zap.Error(err))
					s.cfg.OnNoSpace()
				}
				missed, short = true, true
				start(&retry, noSpaceRetry)
				continue
			}
			if err != nil {
				s.failWriting(err)
				return
			}
			missed = false
			if s.dirty() {
				start(&due, s.cfg.FlushInterval)
			}
		case due == nil && s.dirty():
			start(&due, s.cfg.FlushInterval)
		}
	}
}

// Short tells whether the disk lacks room for the layer and the reserve: writes that grow
// the store are to be refused then. It is lock-free while there is room; else it looks
// again, which waits for a commit of the file that is under way.
func (s *Store) Short() bool {
	if s.starved.Load() {
		return true
	}
	if s.roomy() {
		return false
	}
	// In the middle of a flush its bytes would count on the disk and in the layer.
	s.writeFile.Lock()
	defer s.writeFile.Unlock()
	return s.starved.Load() || s.measureRoom() != nil || !s.roomy()
}

func (s *Store) roomy() bool {
	return s.sizes.room.Load() >= flushedBytes(s.LayerBytes())+reserveBytes
}

// flushedBytes is what so much of the layer takes in the file at the most, pages that are
// written anew aside: bbolt fills leaves of large records by little more than half.
func flushedBytes(layer int64) int64 { return 2 * layer }

// measureRoom takes the room for flushes: what the file system has free, and the file.
// The caller holds writeFile.
func (s *Store) measureRoom() error {
	free, err := s.cfg.room(filepath.Dir(s.cfg.Path))
	if err == nil {
		s.sizes.room.Store(free + s.fileRoom())
	}
	return err
}

// fileRoom is how many bytes of the file hold nothing: its free pages, and what a commit
// that failed has left behind them.
func (s *Store) fileRoom() int64 {
	return max(s.Size(), allocatedBytes(s.cfg.Path)) - s.SizeInUse()
}

// missed notes that a flush found no room. Who waits for the flush is told, and
// who waits for the layer looks at its bound again, which is another now.
func (s *Store) missed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noRoom = err
	s.misses++
	s.starved.Store(true)
	if s.full != nil {
		close(s.full)
		s.full = nil
	}
	close(s.flushed)
	s.flushed = make(chan struct{})
}

// dirty tells whether a boundary is not flushed.
func (s *Store) dirty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.layer.boundary.seq != s.layer.durable
}

// urgent tells whether to flush before the interval is over: somebody waits for
// it, or for room in the layer, or there is enough.
func (s *Store) urgent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.layer
	return l.boundary.seq != l.durable && (s.want > l.durable || s.full != nil || l.bytes >= s.cfg.FlushBytes)
}

// flush commits the layer up to its last boundary, if there is anything. It
// wraps ErrNoSpace when it may be tried again; any other error is final.
func (s *Store) flush() error {
	if !s.freeze() {
		return nil
	}
	if err := s.commitAndThaw(); err != nil {
		return err
	}
	// A pinned root costs memory only as writes part from it, which brings us here.
	s.roots.prune(s.CompactRevision())
	return nil
}

// commitAndThaw holds writeFile until the layer is rid of what the file has now.
func (s *Store) commitAndThaw() error {
	s.writeFile.Lock()
	defer s.writeFile.Unlock()
	if err := s.commitFrozen(); err != nil {
		return err
	}
	if err := s.measureRoom(); err != nil {
		return err
	}
	// Told before those who wait for the flush, so that they find it known.
	s.cfg.OnDurable(s.layer.frozen.applied.Index)
	s.thaw()
	return nil
}

func (s *Store) commitFrozen() error {
	if need := s.flushNeeds(s.layer.frozenBytes); need > 0 {
		if err := s.needRoom(need); err != nil {
			return err
		}
	}
	failpoint.Hit(failpoint.FlushBegin)
	changes := s.state.Load().frozen
	err := s.write(func(tx *bolt.Tx) error {
		if err := putChanges(tx, changes); err != nil {
			return err
		}
		if err := putOps(tx, s.layer.frozenOps); err != nil {
			return err
		}
		if err := putApplied(tx, s.layer.frozen.applied); err != nil {
			return err
		}
		failpoint.Hit(failpoint.FlushFilled)
		return nil
	})
	if err == nil {
		failpoint.Hit(failpoint.FlushCommitted)
	}
	if isNoSpace(err) {
		return errors.Join(backends.ErrNoSpace, err)
	}
	return err
}

// needRoom checks that the file system can take n more bytes.
func (s *Store) needRoom(n int64) error {
	free, err := s.cfg.room(filepath.Dir(s.cfg.Path))
	if err != nil {
		return err
	}
	if free < n {
		return &noRoomError{free: free, need: n}
	}
	return nil
}

// flushReserve is the room that copies of the file must leave on the disk: more than what
// makes the store Short, so that a copy ends before writes are refused. The file's free
// pages do not count, since Defragment leaves them.
func (s *Store) flushReserve() int64 { return flushedBytes(s.LayerBytes()) + 2*reserveBytes }

// flushNeeds is how many bytes a flush of so much of the layer needs on the disk. The file's
// free pages are room, too: else deletions and a compaction could not make any on a full
// disk. Should they be in pieces too small, the write fails, and is tried again.
func (s *Store) flushNeeds(layer int64) int64 {
	return flushedBytes(layer) + flushMarginBytes - s.fileRoom()
}

// sequentialFill is how full pages are left that only ever grow at their end.
const sequentialFill = 0.9

func putChanges(tx *bolt.Tx, changes []*HistoryEvent) error {
	b := tx.Bucket([]byte(bucketKey))
	b.FillPercent = sequentialFill
	keys := make([]byte, 0, len(changes)*tombstoneBytes)
	for _, e := range changes {
		start := len(keys)
		keys = appendRevision(keys, e.revision(), e.Delete)
		if err := b.Put(keys[start:len(keys):len(keys)], e.record); err != nil {
			return err
		}
	}
	return nil
}

func putOps(tx *bolt.Tx, ops []bucketOp) error {
	for _, o := range ops {
		b := tx.Bucket([]byte(o.bucket))
		var err error
		if o.value == nil {
			err = b.Delete(o.key)
		} else {
			err = b.Put(o.key, o.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func putApplied(tx *bolt.Tx, a Applied) error {
	meta := tx.Bucket([]byte(bucketMeta))
	if a.Index != 0 {
		if err := meta.Put([]byte(metaConsistentIndex), binary.BigEndian.AppendUint64(nil, a.Index)); err != nil {
			return err
		}
	}
	if a.Term != 0 {
		if err := meta.Put([]byte(metaTerm), binary.BigEndian.AppendUint64(nil, a.Term)); err != nil {
			return err
		}
	}
	if a.ConfState != nil {
		return meta.Put([]byte(metaConfState), a.ConfState)
	}
	return nil
}
