package raftbolt

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
	"github.com/etcdshim/shim/internal/failpoint"
)

// name is the backend's in messages.
const name = "raftbolt"

// Backend is an open member.
type Backend struct {
	config  Config
	env     backends.Env
	dir     *directory
	store   *mvcc.Store
	machine *machine
	waiters *waiters
	hasher  *auth.Hasher
	node    *replica.Node
	hub     *watchHub
	metrics *metrics

	// ready is closed once requests can be served.
	ready chan struct{}
	// full has a token when the store was found short of room.
	full chan struct{}

	// configuring is held by the change of the members that is under way here: raft
	// would drop a second one without a word.
	configuring chan struct{} // capacity 1

	// running ends when Close begins.
	running context.Context
	stop    context.CancelFunc
	work    sync.WaitGroup
	closed  atomic.Bool
	fatal   sync.Once

	// durable is what the store told before there was a node.
	durable durableIndex
}

var (
	_ backends.Backend   = (*Backend)(nil)
	_ backends.Readiness = (*Backend)(nil)
)

// Open opens the member whose data directory config names, and founds a cluster
// of one if there is none. It returns as soon as the log is recovered; requests
// wait until Ready is closed. Errors: every fault of config, ErrForeignDirectory,
// ErrDirectoryVersion, ErrDirectoryInUse, ErrDirectoryCorrupt, ErrRestoreInterrupted, mvcc.CorruptError,
// those of replica.Open, the file system's. After an error nothing runs, and the
// directory is not locked.
func Open(ctx context.Context, config Config, env backends.Env) (_ *Backend, err error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("raftbolt: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	tokens, err := auth.NewTokens(config.AuthToken, config.AuthTokenTTL)
	if err != nil {
		return nil, fmt.Errorf("raftbolt: auth token %q: %w", config.AuthToken, err)
	}
	for _, note := range tokens.Notes {
		env.Logger.Warn(note)
	}
	if c := config.BcryptCost; c < auth.MinCost || c > auth.MaxCost {
		env.Logger.Warn("use default bcrypt cost instead of the invalid given cost", zap.Int("min-cost", auth.MinCost),
			zap.Int("max-cost", auth.MaxCost), zap.Int("default-cost", auth.DefaultCost), zap.Int("given-cost", c))
		config.BcryptCost = auth.DefaultCost
	}
	b := &Backend{config: config, env: env, ready: make(chan struct{}), full: make(chan struct{}, 1), configuring: make(chan struct{}, 1), hasher: auth.NewHasher(config.BcryptCost)}
	if b.metrics, err = newMetrics(env.Metrics); err != nil {
		return nil, fmt.Errorf("raftbolt: %w", err)
	}
	b.running, b.stop = context.WithCancel(context.Background())
	if b.dir, err = openDirectory(config.DataDir, config.WALDir, env.Logger); err != nil {
		b.stop()
		return nil, fmt.Errorf("raftbolt: %w", err)
	}
	defer func() {
		if err != nil {
			b.stop()
			if b.store != nil {
				err = errors.Join(err, b.store.Close(context.Background()))
			}
			b.dir.release()
		}
	}()
	if err := b.openFiles(ctx, tokens); err != nil {
		return nil, fmt.Errorf("raftbolt: %w", err)
	}
	b.start()
	return b, nil
}

// openFiles founds the member if need be, and opens store and log.
func (b *Backend) openFiles(ctx context.Context, tokens *auth.Tokens) error {
	if err := b.dir.interrupted(); err != nil {
		return err
	}
	if b.dir.state == nil || !b.dir.state.Founded {
		if err := b.found(ctx); err != nil {
			return fmt.Errorf("found the member: %w", err)
		}
	} else if err := b.openStore(true); errors.Is(err, mvcc.ErrMissing) || errors.Is(err, mvcc.ErrSeal) {
		return fmt.Errorf("%w: %w. Put the file back that belongs here, or restore a snapshot into an empty directory", ErrDirectoryCorrupt, err)
	} else if errors.Is(err, mvcc.ErrUnsealed) {
		return fmt.Errorf("%w: %w. If that was `etcdutl defrag`, its records are whole, and the way on is\n"+
			"  shim snapshot restore %s --skip-hash-check --data-dir NEW-DIRECTORY\n"+
			"After an unclean stop the newest writes are in the log alone, and missing there. Shim defragments while it runs: etcdctl defrag",
			ErrDirectoryCorrupt, err, b.dir.store())
	} else if err != nil {
		return err
	}
	header := backends.Header{ClusterID: uint64(b.dir.state.ClusterID), MemberID: uint64(b.dir.state.MemberID)}
	if b.store.Applied().Index == 0 {
		return fmt.Errorf("%w: %s holds no applied index, though the member was founded: the file was replaced or removed. "+
			"Put it back, or restore a snapshot into an empty directory", ErrDirectoryCorrupt, b.dir.store())
	}
	var boot [8]byte
	if _, err := rand.Read(boot[:]); err != nil {
		return err
	}
	b.waiters = newWaiters(header.MemberID, binary.BigEndian.Uint64(boot[:]))
	var err error
	if b.machine, err = newMachine(b.store, header, b.waiters, tokens, b.env); err != nil {
		return err
	}
	b.machine.metrics = b.metrics
	if _, ok := b.machine.members.Load().find(header.MemberID); !ok {
		return fmt.Errorf("%w: the store has no member %s, which %s names", ErrDirectoryCorrupt, formatID(header.MemberID), stateName)
	}
	if b.node, err = replica.Open(b.replicaConfig()); err != nil {
		return err
	}
	b.durable.attach(b.node)
	return nil
}

// replicaConfig needs the directory's state.
func (b *Backend) replicaConfig() replica.Config {
	c := replica.Config{
		ClusterID: uint64(b.dir.state.ClusterID), MemberID: uint64(b.dir.state.MemberID), Founding: uint64(b.dir.state.FoundingID), Dir: b.dir.wal,
		TickInterval: b.config.HeartbeatInterval, ElectionTicks: b.config.electionTicks(),
		Logger: b.env.Logger, NoSync: b.config.UnsafeNoFsync, CatchupEntries: b.config.SnapshotCatchupEntries,
		SegmentBytes: b.config.segmentBytes, LogTimer: b.metrics.timer(b.env.Clock),
	}
	if b.machine != nil {
		c.StateMachine = b.machine
	}
	return c
}

// openStore opens the store, which exists if the member was founded.
func (b *Backend) openStore(existing bool) (err error) {
	b.store, err = mvcc.Open(mvcc.Config{
		Path: b.dir.store(), Existing: existing, Founding: uint64(b.dir.state.FoundingID),
		NoSync: b.config.UnsafeNoFsync, QuotaBytes: max(b.config.QuotaBytes, 0),
		Logger: b.env.Logger, Clock: b.env.Clock,
		CompactBatch: b.config.CompactionBatchLimit, CompactPause: b.config.CompactionSleepInterval,
		OnDurable: b.durable.set,
		OnNoSpace: func() {
			select {
			case b.full <- struct{}{}:
			default:
			}
		},
		OnFatal:        b.fail,
		OnCommit:       b.metrics.committed,
		OnCompactBatch: b.metrics.compactedBatch,
		OnCompacted:    func(took time.Duration) { b.metrics.compacted(took, b.env.Clock.Now()) },
	})
	return err
}

// found makes a new member; see datadir.go for the order.
func (b *Backend) found(ctx context.Context) error {
	if err := b.dir.syncPath(); err != nil {
		return err
	}
	var state directoryState
	if b.dir.state != nil {
		state = *b.dir.state
	} else {
		var err error
		if state, err = b.config.newState(); err != nil {
			return err
		}
		if err := b.dir.writeState(state); err != nil {
			return err
		}
	}
	if err := b.dir.clear(); err != nil {
		return err
	}
	failpoint.Hit(failpoint.FoundCleared)
	if err := replica.CreateLog(b.replicaConfig(), 1, 1); err != nil {
		return err
	}
	failpoint.Hit(failpoint.FoundLog)
	if err := b.openStore(false); err != nil {
		return err
	}
	failpoint.Hit(failpoint.FoundStore)
	self := memberRecord{
		ID: uint64(state.MemberID), PeerURLs: b.config.InitialAdvertisePeerURLs,
		Name: b.config.Name, ClientURLs: b.config.AdvertiseClientURLs,
	}
	value, err := self.value()
	if err != nil {
		return err
	}
	t := b.store.Begin()
	t.Set(mvcc.BucketMembers, self.key(), value)
	t.Set(mvcc.BucketCluster, []byte(clusterVersionKey), []byte(clusterVersion))
	w := auth.Founding()
	t.Set(mvcc.Bucket(w.Bucket), w.Key, w.Value)
	if _, err := t.Commit(); err != nil {
		return err
	}
	voter := encodeConfState(replica.ConfState{Voters: []uint64{self.ID}})
	if err := b.store.EndEntry(mvcc.Applied{Index: 1, Term: 1, ConfState: voter}); err != nil {
		return err
	}
	if err := b.store.Flush(ctx); err != nil {
		return err
	}
	failpoint.Hit(failpoint.FoundFlushed)
	state.Founded = true
	return b.dir.writeState(state)
}

// newState is the state of a new member, not founded.
func (c *Config) newState() (directoryState, error) {
	cluster, member := founderIDs(c.InitialAdvertisePeerURLs, c.ClusterToken)
	var founding [8]byte
	if _, err := rand.Read(founding[:]); err != nil {
		return directoryState{}, err
	}
	return directoryState{ClusterID: hexID(cluster), MemberID: hexID(member), FoundingID: hexID(binary.BigEndian.Uint64(founding[:]))}, nil
}

// start starts the goroutines of an open member.
func (b *Backend) start() {
	b.hub = newWatchHub(storeHistory{b.store}, b.header, func(err error) { b.fail(fmt.Errorf("read history for watches: %w", err)) })
	b.metrics.registration.register(b.present()...)
	keep, err := b.config.retention()
	if err != nil {
		b.env.Logger.Error("auto compaction is off", zap.Error(err)) // validate read it before
	}
	for _, run := range []func(){b.superviseNode, b.superviseDisk, b.tickWaiters, b.runLeases, b.followVersion, func() { b.compactAutomatically(keep) }} {
		b.work.Go(run)
	}
}

// superviseNode reports what the node failed of.
func (b *Backend) superviseNode() {
	select {
	case <-b.node.Done():
		if err := b.node.Err(); err != nil {
			b.fail(fmt.Errorf("the log or the state machine failed: %w. %s", err, b.afterFailure(err)))
		}
		b.waiters.abandon()
	case <-b.running.Done():
	}
}

// afterFailure says what to do after the node failed of err.
func (b *Backend) afterFailure(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Sprintf("The file system of %s is full, or the user's quota on it. Nothing acknowledged is lost. Make room there, "+
			"then start again; once started, deletes, compaction and defragmentation make room in the store", b.dir.wal)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "Too many files are open. Nothing acknowledged is lost. Raise the limit (ulimit -n), then start again"
	}
	return "Do not trust the disk: look at the kernel's log, then start again; acknowledged writes are in the log"
}

// superviseDisk raises the alarm for a full disk, outside of the flusher, which
// must not wait.
func (b *Backend) superviseDisk() {
	for {
		select {
		case <-b.full:
			// What the log keeps beyond its need is room for the store, if they share a disk.
			b.node.ShrinkLog()
			if !b.store.Short() {
				continue
			}
			if err := b.raiseNoSpace(b.running); err != nil && b.running.Err() == nil {
				b.env.Logger.Warn("the disk is full, and the alarm could not be raised", zap.Error(err))
			}
		case <-b.running.Done():
			return
		}
	}
}

// waiterTick is the grain of request time-outs.
const waiterTick = 250 * time.Millisecond

// tickWaiters ends the wait of requests whose time is over.
func (b *Backend) tickWaiters() {
	age := uint64(b.config.requestTimeout() / waiterTick)
	for {
		tick, stop := b.env.Clock.After(waiterTick)
		select {
		case <-tick:
			b.waiters.advance(age)
		case <-b.running.Done():
			stop()
			return
		}
	}
}

// fail reports the first final error.
func (b *Backend) fail(err error) {
	if b.closed.Load() {
		return
	}
	b.fatal.Do(func() { b.env.Fatal(fmt.Errorf("raftbolt: %w", err)) })
}

// Ready implements backends.Readiness.
func (b *Backend) Ready() <-chan struct{} { return b.ready }

// Info implements backends.Backend.
func (b *Backend) Info() backends.Info {
	return backends.Info{Name: name, Version: clusterVersion, KeyAlphabet: backends.AnyBytes, MultiKeyTxn: true, OldRevisions: true, Versions: true}
}

// Watch implements backends.Backend.
func (b *Backend) Watch(ctx context.Context, _ backends.Caller) (backends.WatchStream, error) {
	if err := b.awaitReady(ctx); err != nil {
		return nil, err
	}
	s, err := b.hub.open(ctx)
	if err != nil {
		return nil, err
	}
	s.permit = b.permitWatch
	return s, nil
}

// Close implements backends.Backend. After it the store's file holds everything,
// and etcd's tools read it.
func (b *Backend) Close(ctx context.Context) error {
	if !b.closed.CompareAndSwap(false, true) {
		return nil
	}
	b.stop()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b.node.Stop()
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		// The applier may be waiting for room in a layer that a full disk keeps
		// from being flushed; closing the store ends that wait.
	}
	b.waiters.abandon()
	b.work.Wait()
	b.hub.stop()
	err := b.store.Close(ctx)
	<-stopped
	if nodeErr := b.node.Err(); nodeErr != nil {
		err = errors.Join(nodeErr, err)
	}
	b.dir.release()
	if err != nil {
		return fmt.Errorf("raftbolt: %w", err)
	}
	return nil
}

// durableIndex hands the store's progress on to the node, which is opened later
// than the store.
type durableIndex struct {
	mu    sync.Mutex
	index uint64
	node  *replica.Node
}

func (d *durableIndex) set(index uint64) {
	d.mu.Lock()
	d.index = max(d.index, index)
	node := d.node
	d.mu.Unlock()
	if node != nil {
		node.Durable(index)
	}
}

func (d *durableIndex) attach(node *replica.Node) {
	d.mu.Lock()
	d.node = node
	index := d.index
	d.mu.Unlock()
	if index > 0 {
		node.Durable(index)
	}
}
