package mvcc

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
)

// Config configures a Store. Zero sizes and intervals mean the defaults.
type Config struct {
	// Path of the bbolt file. Its directory must exist.
	Path string
	// Existing tells Open to refuse to make a store where there is none: ErrMissing.
	Existing bool
	// Founding is a random number of the data directory. A store that was made with
	// another one is refused.
	Founding uint64
	// NoSync leaves out every fsync: a power cut may then lose or corrupt the store.
	NoSync bool
	// QuotaBytes sizes the memory map, which is at least twice the quota and at
	// least 10 GiB of address space, since growing it waits for every reader.
	QuotaBytes int64
	Logger     *zap.Logger
	// Clock times flushes and the age of pinned index roots; nil is the system's.
	Clock backends.Clock

	// OnDurable is called after each flush with the raft index that is now
	// durable. OnNoSpace is called when the store is found [Store.Short] of room, and
	// when a flush finds none: at most once each until there is some again. OnFatal is called once, when the store cannot go
	// on, by whoever finds out. None may block or call the store. Any may be nil.
	OnDurable func(index uint64)
	OnNoSpace func()
	OnFatal   func(error)

	// OnCommit is told what each commit of the file took, OnCompactBatch what each
	// batch of a compaction removed and took, OnCompacted what a whole one
	// took. They count; the same holds for them.
	OnCommit       func(CommitTimes)
	OnCompactBatch func(removed int, took time.Duration)
	OnCompacted    func(took time.Duration)

	// FlushBytes and FlushInterval: the layer is flushed when it holds as many
	// bytes (default 16 MiB), or when its oldest write is as old (default 100 ms).
	FlushBytes    int64
	FlushInterval time.Duration
	// LayerBytes bounds the memory of writes not yet in bbolt (default 64 MiB).
	// EndEntry blocks while there is more; on a full disk, while there is four
	// times as much.
	LayerBytes int64
	// RingBytes bounds the memory of recent events kept for watchers (default 32 MiB).
	RingBytes int64
	// CompactBatch records are removed in one transaction of a compaction, so that
	// writers wait for milliseconds (default 1000), and CompactPause lies between
	// two, so that it does not take the disk for itself (default 10 ms).
	CompactBatch int
	CompactPause time.Duration

	// room tells the free bytes of dir's file system; a test may say otherwise.
	room func(dir string) (int64, error)
}

// Defaults and bounds.
const (
	defaultFlushBytes    = 16 << 20
	defaultFlushInterval = 100 * time.Millisecond
	defaultLayerBytes    = 64 << 20
	defaultRingBytes     = 32 << 20
	defaultCompactBatch  = 1000
	defaultCompactPause  = 10 * time.Millisecond
	// minMmapBytes is address space, not memory.
	minMmapBytes = 10 << 30
	// lockTimeout is how long Open waits for another process to let go: long
	// enough for one that is just exiting.
	lockTimeout = time.Second
)

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Clock == nil {
		c.Clock = backends.SystemClock{}
	}
	if c.OnDurable == nil {
		c.OnDurable = func(uint64) {}
	}
	if c.OnNoSpace == nil {
		c.OnNoSpace = func() {}
	}
	if c.OnFatal == nil {
		c.OnFatal = func(error) {}
	}
	if c.OnCommit == nil {
		c.OnCommit = func(CommitTimes) {}
	}
	if c.OnCompactBatch == nil {
		c.OnCompactBatch = func(int, time.Duration) {}
	}
	if c.OnCompacted == nil {
		c.OnCompacted = func(time.Duration) {}
	}
	if c.FlushBytes == 0 {
		c.FlushBytes = defaultFlushBytes
	}
	if c.FlushInterval == 0 {
		c.FlushInterval = defaultFlushInterval
	}
	if c.LayerBytes == 0 {
		c.LayerBytes = defaultLayerBytes
	}
	if c.RingBytes == 0 {
		c.RingBytes = defaultRingBytes
	}
	if c.CompactBatch == 0 {
		c.CompactBatch = defaultCompactBatch
	}
	if c.CompactPause == 0 {
		c.CompactPause = defaultCompactPause
	}
	if c.room == nil {
		c.room = freeBytes
	}
	return c
}

// validate reports every fault.
func (c Config) validate() error {
	var errs []error
	if c.Path == "" {
		errs = append(errs, errors.New("mvcc: Path is empty"))
	}
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"QuotaBytes", c.QuotaBytes},
		{"FlushBytes", c.FlushBytes},
		{"FlushInterval", int64(c.FlushInterval)},
		{"LayerBytes", c.LayerBytes},
		{"RingBytes", c.RingBytes},
		{"CompactBatch", int64(c.CompactBatch)},
		{"CompactPause", int64(c.CompactPause)},
	} {
		if n.value < 0 {
			errs = append(errs, fmt.Errorf("mvcc: %s is %d, must be at least 0", n.name, n.value))
		}
	}
	return errors.Join(errs...)
}

// CommitTimes is how long a commit of the file took, and its three longest steps:
// pages merged, pages split, and pages written with their syncs.
type CommitTimes struct {
	Total, Rebalance, Spill, Write time.Duration
}

// Applied is a position in the raft log and what belongs to it.
type Applied struct {
	Index uint64
	Term  uint64
	// ConfState is the JSON encoding of raftpb.ConfState, as etcd stores it; nil
	// in EndEntry leaves it as it was.
	ConfState []byte
}
