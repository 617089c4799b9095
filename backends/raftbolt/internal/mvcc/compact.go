package mvcc

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/internal/failpoint"
)

// Bounds of physical compaction.
const (
	// compactIndexKeys are examined under the writer's lock at a time: well below
	// a millisecond.
	compactIndexKeys = 256
	// maxDoomed records are collected before they are removed, in the file's
	// order: 24 MiB of memory.
	maxDoomed = 1 << 20
)

// compactor is the state of physical compaction: the removal, from index and
// file, of what a compaction made unreadable.
type compactor struct {
	kick chan struct{}
	done notifier
	mu   sync.Mutex
	// finished is the revision of the last compaction that is done and durable.
	finished int64
	// hashed is the compaction to be done next, when a hash is to be taken of it;
	// hashes are those that were taken, by ascending revision.
	hashed *compaction
	hashes []Hash
}

// maxKeptHashes is how many hashes of compactions are kept, as in etcd
// (server/storage/mvcc/hash.go, hashStorageMaxSize): members that compare theirs are
// not further apart.
const maxKeptHashes = 10

// compaction is one to be done in the file.
type compaction struct {
	// target is its revision, and previous that of the one before it, -1 for none.
	target, previous int64
	hashed           bool
}

// expect notes that a compaction is asked for. As etcd, a hash is taken only if the
// one before it is done by now: else what lies between was not all there
// (server/storage/mvcc/kvstore.go, checkPrevCompactionCompleted). Unlike there, none is
// kept of a compaction at revision 0: it would be the answer for the current revision.
func (c *compactor) expect(target, previous int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished == previous && target > 0 {
		c.hashed = &compaction{target: target, previous: previous, hashed: true}
	}
}

// next is what to do when everything up to target is asked for: that with the hash
// first, the others as one.
func (c *compactor) next(target int64) compaction {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.hashed; h != nil {
		c.hashed = nil
		return *h
	}
	return compaction{target: target}
}

// finish notes that a compaction is done, with the hash of it if one was taken.
func (c *compactor) finish(target int64, hash *Hash) {
	c.mu.Lock()
	c.finished = target
	if hash != nil {
		c.hashes = append(c.hashes, *hash)
		c.hashes = c.hashes[max(0, len(c.hashes)-maxKeptHashes):]
	}
	c.mu.Unlock()
	c.done.notify()
}

// hashAt is the hash that was taken at a revision.
func (c *compactor) hashAt(revision int64) (Hash, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hashes {
		if h.Revision == revision {
			return h, true
		}
	}
	return Hash{}, false
}

func (c *compactor) init() { c.kick, c.finished = make(chan struct{}, 1), -1 }

func (c *compactor) finishedRevision() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.finished
}

// Compact forgets history below revision: at once for readers, and in the
// background in the file. It takes effect with the current entry, and is called
// between transactions. It returns ErrCompacted when revision is at or below the
// last compaction and ErrFutureRevision when it is above the current revision.
func (s *Store) Compact(revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	st := s.state.Load()
	switch {
	case revision <= st.compactRevision:
		return backends.ErrCompacted
	case revision > st.revision:
		return backends.ErrFutureRevision
	}
	s.compact.expect(revision, st.compactRevision)
	s.commitLocked(state{root: st.root, revision: st.revision, compactRevision: revision}, nil,
		[]bucketOp{{bucketMeta, []byte(metaScheduledCompact), metaRevision(revision)}})
	s.roots.prune(revision)
	select {
	case s.compact.kick <- struct{}{}:
	default:
	}
	return nil
}

func metaRevision(main int64) []byte { return appendRevision(nil, revision{main: main}, false) }

// CompactDone waits until the file holds nothing that the compaction at revision
// forgets, and until that is durable.
func (s *Store) CompactDone(ctx context.Context, revision int64) error {
	for {
		done := s.compact.done.wait()
		if s.compact.finishedRevision() >= revision {
			return nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopped.Done():
			return s.ended()
		}
	}
}

// compactor is the goroutine that does compactions in the file. Compactions that
// come while one is under way are done as one after it.
func (s *Store) compactor() {
	defer s.done.Done()
	for {
		target := s.CompactRevision()
		if target > s.compact.finishedRevision() {
			if err := s.compactTo(s.compact.next(target)); err != nil {
				if s.stopped.Err() == nil {
					s.failWriting(err)
				}
				return
			}
			continue
		}
		select {
		case <-s.compact.kick:
		case <-s.stopped.Done():
			return
		}
	}
}

// compactTo does one compaction. It may be interrupted anywhere and begun anew.
func (s *Store) compactTo(c compaction) error {
	target := c.target
	// The file must know of the compaction before it lacks anything: else a
	// restart could go back to a revision that was removed.
	err := s.Flush(s.stopped)
	for errors.Is(err, backends.ErrNoSpace) {
		if err = s.pause(noSpaceRetry); err == nil {
			err = s.Flush(s.stopped)
		}
	}
	if err != nil {
		return err
	}
	for wait := s.pins.below(target); wait != nil; wait = s.pins.below(target) {
		select {
		case <-wait:
		case <-s.stopped.Done():
			return s.ended()
		}
	}
	start := s.cfg.Clock.Now()
	var hash *Hash
	if c.hashed {
		h, err := s.hashCompaction(c)
		if err != nil {
			return err
		}
		hash = &h
	}
	removed := 0
	for from, more := "", true; more; {
		var doomed []doomedChange
		doomed, from, more = s.compactIndex(target, from)
		slices.SortFunc(doomed, func(a, b doomedChange) int {
			if a.revision.less(b.revision) {
				return -1
			}
			return 1
		})
		for batch := range slices.Chunk(doomed, s.cfg.CompactBatch) {
			began := s.cfg.Clock.Now()
			if err := s.remove(batch); err != nil {
				return err
			}
			s.cfg.OnCompactBatch(len(batch), s.cfg.Clock.Now().Sub(began))
			failpoint.Hit(failpoint.CompactRemoved)
			if err := s.pause(s.cfg.CompactPause); err != nil {
				return err
			}
		}
		removed += len(doomed)
	}
	failpoint.Hit(failpoint.CompactFinish)
	err = s.writeRetrying(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(metaFinishedCompact), metaRevision(target))
	})
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.CompactFinished)
	took := s.cfg.Clock.Now().Sub(start)
	s.cfg.OnCompacted(took) // before those who wait for it go on
	s.compact.finish(target, hash)
	s.log.Info("finished scheduled compaction", zap.Int64("compact-revision", target), zap.Duration("took", took), zap.Int("number-of-keys-compacted", removed))
	return nil
}

// doomedChange is a change to be removed from the file.
type doomedChange struct {
	revision
	tombstone bool
}

// compactIndex removes what a compaction forgets from the index, from a key on,
// and returns it; more tells that there was too much at once, and next where to
// go on. A Txn may run between any two keys.
func (s *Store) compactIndex(target int64, from string) (doomed []doomedChange, next string, more bool) {
	// Runs are kept as they are while the writer waits: one key may have a million.
	var runs [][]version
	dropped := 0
	drop := func(run []version) { runs, dropped = append(runs, run), dropped+len(run) }
	for more = true; more && dropped < maxDoomed; from = next {
		next, more = s.compactKeys(target, from, drop)
	}
	doomed = make([]doomedChange, 0, dropped)
	for _, run := range runs {
		for _, v := range run {
			doomed = append(doomed, doomedChange{v.revision(), v.tombstone()})
		}
	}
	return doomed, next, more
}

// compactKeys is one step of compactIndex.
func (s *Store) compactKeys(target int64, from string, drop func([]version)) (next string, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := *s.state.Load()
	x := indexOf(st.root)
	seen := 0
	st.root.ascendStale(from, func(k *keyVersions) bool {
		if seen++; seen > compactIndexKeys {
			next, more = k.key, true
			return false
		}
		switch kept := k.compact(target, drop); {
		case kept == nil:
			x.remove(k.key)
		case kept != k:
			x.put(kept)
		}
		return true
	})
	st.root = x.freeze()
	s.state.Store(&st)
	return next, more
}

// remove deletes changes from the file. A removal writes anew what shares pages with what
// it removes, before those pages are free: where there is no room for that, fewer at a
// time are removed, and what they leave is room for the next.
func (s *Store) remove(batch []doomedChange) error {
	for n := len(batch); len(batch) > 0; {
		n = min(n, len(batch))
		err := s.writeAside(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucketKey))
			b.FillPercent = sequentialFill
			var key []byte
			for _, d := range batch[:n] {
				key = appendRevision(key[:0], d.revision, d.tombstone)
				if err := b.Delete(key); err != nil {
					return err
				}
			}
			failpoint.Hit(failpoint.CompactBatch)
			return nil
		})
		switch {
		case err == nil:
			batch = batch[n:]
			n *= 2
		case !isNoSpace(err):
			return err
		case n > 1:
			n /= 2
		default:
			if err := s.awaitRoom(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeRetrying is a write transaction that waits for room on the disk, and for the
// end of a Defragment.
func (s *Store) writeRetrying(f func(tx *bolt.Tx) error) error {
	for {
		err := s.writeAside(f)
		if err == nil || !isNoSpace(err) {
			return err
		}
		if err := s.awaitRoom(err); err != nil {
			return err
		}
	}
}

// writeAside is a write transaction that waits for the end of a Defragment.
func (s *Store) writeAside(f func(tx *bolt.Tx) error) error {
	s.rewriting.Lock()
	defer s.rewriting.Unlock()
	if s.stopped.Err() != nil {
		return s.ended()
	}
	s.writeFile.Lock()
	defer s.writeFile.Unlock()
	return s.write(f)
}

// awaitRoom waits before a write that failed of err is tried again.
func (s *Store) awaitRoom(err error) error {
	s.log.Warn("no room for compaction", zap.Error(err))
	return s.pause(noSpaceRetry)
}

// pause waits, unless the store stops.
func (s *Store) pause(d time.Duration) error {
	c, stop := s.cfg.Clock.After(d)
	defer stop()
	select {
	case <-c:
		return nil
	case <-s.stopped.Done():
		return s.ended()
	}
}
