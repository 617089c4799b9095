package replica

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
	"go.etcd.io/raft/v3/raftpb"
)

// Node is this member's part of the group. Its methods may be called by any goroutine.
type Node struct {
	cfg Config
	sm  StateMachine
	log *wal.Log

	mu   sync.Mutex // of core and the fields below it
	core *core
	err  error // final
	over bool  // stopping
	// changed is closed and replaced when view changes.
	changed chan struct{}
	waiters []appliedWaiter

	view    atomic.Pointer[view]
	applied atomic.Uint64
	commit  atomic.Uint64

	wakeWriter  chan struct{} // capacity 1: there may be something to write
	wakeApplier chan struct{} // capacity 1: there may be a job
	wakeKeeper  chan struct{} // capacity 1: the log may need housekeeping
	ready       chan struct{}
	stop        chan struct{}
	done        chan struct{}
	group       sync.WaitGroup
}

// view is the part of Status that changes together.
type view struct {
	leader, term         uint64
	role                 Role
	learner, termApplied bool
	// reads: this member may answer linearizable reads without a round.
	reads bool
}

// appliedWaiter is a call of WaitApplied.
type appliedWaiter struct {
	index uint64
	done  chan struct{}
}

// CreateLog creates the log of a member whose store begins with (index, term): the first entry will be index+1. A founding member uses
// (1, 1), a restored one what its store holds. The log is durable on return, and exists whole or not at all. Errors: wal.ErrExists, the
// file system's. Only ClusterID, MemberID, Founding, Dir, Random, NoSync and the log's sizes in cfg are used.
func CreateLog(cfg Config, index, term uint64) error {
	return wal.Create(cfg.walOptions(), index, term)
}

// LogExists tells whether dir holds a log, of whatever version or maker. A missing directory holds none.
func LogExists(dir string) (bool, error) { return wal.Exists(nil, dir) }

// OwnLog tells whether dir holds a segment of a log in our format, of whatever version. A missing directory holds none.
func OwnLog(dir string) (bool, error) { return wal.Own(nil, dir) }

// Open recovers the log, joins it with the state machine's durable state, and starts the node. Errors: wal.ErrNoLog, wal.ErrForeign,
// wal.ErrVersion, wal.ErrOwner, wal.ErrCorrupt, wal.ErrBehindStore, wal.ErrAheadOfStore, the state machine's or the file system's. After an
// error nothing runs.
func Open(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c, err := openCore(cfg)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, sm: cfg.StateMachine, log: c.log, core: c,
		changed:    make(chan struct{}),
		wakeWriter: make(chan struct{}, 1), wakeApplier: make(chan struct{}, 1), wakeKeeper: make(chan struct{}, 1),
		ready: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{}),
	}
	n.view.Store(&view{})
	n.locked(c.campaignAlone)
	wake(n.wakeKeeper) // on a full disk the log has no spare
	for _, run := range []func(){n.write, n.apply, n.keep, n.tick} {
		n.group.Go(run)
	}
	go n.finish()
	return n, nil
}

// openCore opens the log, completes a snapshot's installation that a crash interrupted, and makes a core.
func openCore(cfg Config) (*core, error) {
	d := cfg.StateMachine.Durable()
	log, err := wal.Open(cfg.walOptions(), d.Index)
	if err != nil {
		return nil, err
	}
	c, err := joinCore(cfg, log, d)
	if err != nil {
		_ = log.Close() // the error to report is the first
		return nil, err
	}
	return c, nil
}

func joinCore(cfg Config, log *wal.Log, d Durable) (*core, error) {
	if rec := log.Snapshot(); rec != nil && rec.Index > d.Index {
		if err := cfg.StateMachine.InstallSnapshot(rec.Index, rec.Term); err != nil {
			return nil, fmt.Errorf("complete the installation of snapshot %d: %w", rec.Index, err)
		}
		if d = cfg.StateMachine.Durable(); d.Index != rec.Index {
			return nil, fmt.Errorf("%w: snapshot %d is recorded in the log, the store holds %d after its installation",
				wal.ErrAheadOfStore, rec.Index, d.Index)
		}
	}
	return newCore(cfg, log, d)
}

// locked runs f with the core, then wakes whoever has something to do. A log that cannot be read is final.
func (n *Node) locked(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer func() {
		if r := recover(); r != nil {
			failed, ok := r.(storageError)
			if !ok {
				panic(r)
			}
			n.failLocked(failed.err)
		}
	}()
	f()
	n.publish()
}

// publish shows what changed. Caller holds mu.
func (n *Node) publish() {
	if n.over {
		return
	}
	c := n.core
	if !c.writing && (len(c.appends) > 0 || len(c.pending) > 0) {
		wake(n.wakeWriter)
	}
	if !c.applying && len(c.jobs) > 0 {
		wake(n.wakeApplier)
	}
	if c.starved && len(c.pending) > 0 && n.log.NeedsHousekeeping() {
		wake(n.wakeKeeper)
	}
	n.commit.Store(c.committed)
	if n.applied.Swap(c.applied) != c.applied {
		n.releaseWaiters()
	}
	now := view{leader: c.leader, term: c.term, role: c.role, learner: c.isLearner(), termApplied: c.termApplied()}
	now.reads = c.role == Leader && c.aloneVoter() && now.termApplied
	if now == *n.view.Load() {
		return
	}
	shown := now // so that only a changed view is allocated
	n.view.Store(&shown)
	close(n.changed)
	n.changed = make(chan struct{})
	if now.termApplied {
		select {
		case <-n.ready:
		default:
			close(n.ready)
		}
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fail ends the node with err. The first one is reported.
func (n *Node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failLocked(err)
}

func (n *Node) failLocked(err error) {
	if n.over {
		return
	}
	n.over, n.err = true, err
	n.core.dropPending(ErrStopped)
	n.view.Store(&view{}) // nobody reads without a round any more
	close(n.stop)
}

// finish closes the log when every goroutine has ended.
func (n *Node) finish() {
	n.group.Wait()
	if err := n.log.Close(); err != nil {
		n.cfg.Logger.Sugar().Warnf("close the log: %v", err)
	}
	close(n.done)
}

// write is the writer's goroutine: it coalesces, steps, writes and syncs, one batch after the other.
func (n *Node) write() {
	for {
		var b *batch
		n.locked(func() {
			if !n.over {
				b = n.core.nextBatch()
			}
		})
		for b != nil {
			if err := n.store(b); err != nil {
				n.fail(err)
				return
			}
			done := b
			b = nil
			// The applier is woken before the next batch is put together.
			n.locked(func() { n.core.batchDone(done) })
			n.locked(func() {
				if !n.over {
					b = n.core.nextBatch()
				}
			})
		}
		select {
		case <-n.wakeWriter:
		case <-n.stop:
			return
		}
	}
}

// store makes b durable.
func (n *Node) store(b *batch) error {
	if b.snapshot != nil {
		if err := n.sm.StageSnapshot(*b.snapshot); err != nil {
			return err
		}
	}
	if err := n.log.Write(&b.Batch); err != nil {
		return err
	}
	if err := n.log.Sync(); err != nil {
		return err
	}
	// Not before: until then the segment before a new one cannot be used again.
	if n.log.NeedsHousekeeping() {
		wake(n.wakeKeeper)
	}
	return nil
}

// apply is the applier's goroutine.
func (n *Node) apply() {
	for {
		var j *job
		n.locked(func() {
			if !n.over {
				j = n.core.nextJob()
			}
		})
		if j != nil {
			saved, err := j.run(n.sm, n.changeConf)
			if err != nil {
				n.fail(err)
				return
			}
			n.locked(func() { n.core.jobDone(j, saved) })
			continue
		}
		select {
		case <-n.wakeApplier:
		case <-n.stop:
			return
		}
	}
}

func (n *Node) changeConf(cc *raftpb.ConfChange) (state *raftpb.ConfState) {
	n.locked(func() { state = n.core.changeConf(cc) })
	return state
}

const (
	// keepPause is how long no spare segment is tried for after one could not be made, and keepSoon the same at first: the state machine's next flush
	// may release a segment.
	keepPause = time.Second
	keepSoon  = 50 * time.Millisecond
)

// keepPatience is how long commands wait for a spare segment before they are refused: some flushes of the state machine, and far below the time-out of
// a request.
func (n *Node) keepPatience() time.Duration {
	return 2 * time.Duration(n.cfg.ElectionTicks) * n.cfg.TickInterval
}

// keep is the goroutine that prepares spare segments: making one takes longer than a sync.
func (n *Node) keep() {
	for {
		select {
		case <-n.wakeKeeper:
		case <-n.stop:
			return
		}
		if !n.keepTrying() {
			return
		}
	}
}

// keepTrying does the log's housekeeping, and again while something is used up that it needs. Any other error is final; it answers false then, and
// when the node stops.
func (n *Node) keepTrying() bool {
	began, refusing := time.Now(), false
	for {
		err := n.housekeep()
		if err != nil && !wal.IsShortage(err) {
			n.fail(err)
			return false
		}
		if err == nil {
			n.locked(func() { n.core.kept(nil) })
			if refusing {
				n.cfg.Logger.Info("the log has a spare segment again")
			}
			return true
		}
		pause := keepSoon
		if time.Since(began) >= n.keepPatience() {
			pause = keepPause
			if !refusing {
				n.cfg.Logger.Sugar().Warnf("cannot prepare a spare log segment; it is tried again each %v: %v", keepPause, err)
			}
			refusing = true
			n.locked(func() { n.core.kept(err) })
		}
		select {
		case <-time.After(pause):
		case <-n.stop:
			return false
		}
	}
}

// housekeep is the log's; on a full disk the log gives way first.
func (n *Node) housekeep() error {
	err := n.log.Housekeep()
	if !wal.IsFull(err) {
		return err
	}
	n.locked(n.core.shrinkLog)
	return n.log.Housekeep()
}

// tick is the goroutine of raft's clock.
func (n *Node) tick() {
	ticker := time.NewTicker(n.cfg.TickInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			n.locked(func() {
				if !n.over {
					n.core.tick()
				}
			})
		case <-n.stop:
			return
		}
	}
}
