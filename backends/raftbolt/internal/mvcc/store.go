package mvcc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
)

// Store is an open store. Its reading methods may be called from any goroutine;
// Begin, Compact and EndEntry are the applier's.
type Store struct {
	cfg Config
	log *zap.Logger

	// state is what readers see. It is replaced under mu.
	state atomic.Pointer[state]

	// mu is the writer's lock: a Txn holds it from Begin to its end, and the
	// flusher and the compactor take it for moments. Readers do not.
	mu    sync.Mutex
	layer layer
	// full is closed, when not nil, once the layer has room again.
	full chan struct{}
	// flushed is closed and replaced after each flush, also one that found no
	// room; want is the highest sequence number somebody waits for.
	flushed chan struct{}
	want    uint64
	// noRoom is why the last flush found no room, nil once one succeeded; misses
	// counts those that found none.
	noRoom error
	misses uint64
	// starved tells that noRoom is not nil, without mu.
	starved atomic.Bool
	// applied is what the last flush wrote.
	applied Applied
	// version is the storage version.
	version atomic.Pointer[string]

	// db is the open file. File access holds fileMu shared, the swap of files by
	// Defragment exclusively. db is nil once closed.
	fileMu sync.RWMutex
	db     *bolt.DB
	// rewriting is held by Defragment from its beginning to its end, and by the
	// compactor for each batch that it removes: so a copy need only follow the end of
	// the key bucket. It is taken before copying, and that before writeFile.
	rewriting sync.Mutex
	// copying is held shared by snapshots being copied, exclusively by Defragment
	// towards its end.
	copying sync.RWMutex
	// writeFile is held by who changes the file: the flusher's commits, the
	// compactor's batches, the last round of Defragment.
	writeFile sync.Mutex
	// sizes are the file's, the layer's, and the room there is for flushes.
	sizes struct{ size, inUse, layer, room atomic.Int64 }

	ring    ring
	pins    pins
	roots   roots
	changed notifier
	compact compactor // see compact.go

	// buffers holds *[bufferBytes]byte for chunks.
	buffers   sync.Pool
	failure   atomic.Pointer[error]
	snapshots chan struct{}

	kick    chan struct{}
	stop    context.CancelFunc
	stopped context.Context
	done    sync.WaitGroup
}

// state is one moment of the store. It is immutable.
//
// Invariant: every change with flushedRevision < main <= revision is in frozen
// or active, and every other is in the file unless compacted.
type state struct {
	root            *node
	revision        int64
	compactRevision int64
	flushedRevision int64
	// frozen is being flushed; active follows it. Both are in order. active's
	// array grows beyond this slice.
	frozen []*HistoryEvent
	active []*HistoryEvent
}

// Committed is the current revision: 1 in an empty store.
func (s *Store) Committed() int64 { return s.state.Load().revision }

// CompactRevision is the revision of the last compaction, -1 before the first,
// as etcd reports it.
func (s *Store) CompactRevision() int64 { return s.state.Load().compactRevision }

// Changed returns a channel that is closed at the first commit of a new revision
// or compaction after the call. To wait without missing any: take the channel,
// then look at Committed, then wait.
func (s *Store) Changed() <-chan struct{} { return s.changed.wait() }

// Applied tells the durable position: at open, where to go on applying.
func (s *Store) Applied() Applied {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied
}

// StorageVersion is that of the file, with what waits to be flushed.
func (s *Store) StorageVersion() string { return *s.version.Load() }

// Keys is the number of live keys.
func (s *Store) Keys() int64 { return s.state.Load().root.count(everything()) }

// Size is how many bytes of the file bbolt has allocated, as of the last flush.
// It is lock-free, as are SizeInUse and LayerBytes.
func (s *Store) Size() int64 { return s.sizes.size.Load() }

// SizeInUse is what of Size holds data.
func (s *Store) SizeInUse() int64 { return s.sizes.inUse.Load() }

// OpenReads is how many read transactions are open on the file; 0 after Close.
func (s *Store) OpenReads() (n int) {
	_ = s.withFile(func(db *bolt.DB) error { // its error says that the store ended
		n = db.Stats().OpenTxN
		return nil
	})
	return n
}

// LayerBytes is the memory of writes that are not flushed.
func (s *Store) LayerBytes() int64 { return s.sizes.layer.Load() }

// Err is what the store failed of, or nil.
func (s *Store) Err() error {
	if p := s.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// fail ends the store's life: writes are refused from now on.
func (s *Store) fail(err error) {
	if s.failure.CompareAndSwap(nil, &err) {
		s.log.Error("the store has failed", zap.Error(err))
		s.stop()
		s.cfg.OnFatal(err)
	}
}

// failWriting is fail for an error of a write to the file, which is final: what
// reached the disk of it is not known.
func (s *Store) failWriting(err error) {
	if c := (*CorruptError)(nil); !errors.As(err, &c) {
		err = fmt.Errorf("write store %s: %w. Do not trust the disk: look at the kernel's log, then start again; "+
			"acknowledged writes are in the log", s.cfg.Path, err)
	}
	s.fail(err)
}

// ended is why a wait on stopped was over.
func (s *Store) ended() error {
	if err := s.Err(); err != nil {
		return err
	}
	return backends.ErrStopped
}

// Close flushes what was applied, up to the last EndEntry, stops and closes the
// file. It returns the flush's error. Views and Cursors may outlive it; they
// answer ErrStopped.
func (s *Store) Close(ctx context.Context) error {
	err := s.flushBoundary(ctx)
	s.stop()
	s.done.Wait()
	s.rewriting.Lock() // until a Defragment has given up
	defer s.rewriting.Unlock()
	s.fileMu.Lock()
	defer s.fileMu.Unlock()
	if s.db == nil {
		return err
	}
	if closeErr := guard(s.cfg.Path, s.db.Close); err == nil {
		err = closeErr
	}
	s.db = nil
	return err
}

// notifier lets any number wait for the next change.
type notifier struct {
	mu sync.Mutex
	ch chan struct{}
}

func (n *notifier) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

func (n *notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}
