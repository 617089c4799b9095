package replica

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Limits that are constants because nobody needs to change them.
const (
	// MaxCommandBytes bounds one command: the largest request class the API admits (10 MiB) with room for its envelope, and what a log segment
	// holds beside the reserve that is kept in it (room.go).
	MaxCommandBytes = 11 << 20
	// EntryBytes bounds a coalesced entry, unless it is a single command: larger ones delay others without saving syncs.
	EntryBytes = 1 << 20
	// MaxPendingProposals bounds the queue of proposals that wait for the writer, in commands.
	MaxPendingProposals = 16384
	// MaxPendingBytes bounds the same queue in bytes.
	MaxPendingBytes = 64 << 20
	// MaxUnapplied bounds how many entries the state machine may be behind before proposals are refused.
	MaxUnapplied = 5000
)

// Config describes a node. Zero values of optional fields mean the default named there.
type Config struct {
	ClusterID uint64 // written into the log; another log is refused. Any value
	MemberID  uint64 // not 0
	// Founding is the random number of the member's directory, written into the log with the ids; a log of another one is refused.
	Founding uint64
	Dir      string // of the log: created 0700 by CreateLog, its files 0600

	StateMachine StateMachine
	Transport    Transport // nil for a group of one

	TickInterval   time.Duration // default 100 ms
	ElectionTicks  int           // default 10; a follower campaigns after that many ticks without a leader, and up to twice as many
	HeartbeatTicks int           // default 1

	Random io.Reader   // source of segment life ids; default crypto/rand
	Logger *zap.Logger // default: silent

	// NoSync leaves out every sync of the log. A power loss then loses acknowledged writes (--unsafe-no-fsync).
	NoSync bool

	// CatchupEntries is how many entries below the durable index the log keeps for slow members, at most 64 MiB of them; default 5000.
	CatchupEntries uint64

	// LogTimer is told what the log's writes and syncs take; nil is nobody.
	LogTimer *wal.Timer

	// FS and the sizes of the log are for tests; zero means wal's defaults.
	FS           wal.FS
	SegmentBytes int64
	CacheBytes   int64

	skipRepair bool   // a planted fault, see wal.Options
	faults     faults // planted
}

func (c Config) withDefaults() Config {
	if c.TickInterval == 0 {
		c.TickInterval = 100 * time.Millisecond
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.HeartbeatTicks == 0 {
		c.HeartbeatTicks = 1
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.CatchupEntries == 0 {
		c.CatchupEntries = 5000
	}
	return c
}

// validate reports every fault at once.
func (c Config) validate() error {
	var faults []error
	refuse := func(bad bool, format string, v ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("replica: "+format, v...))
		}
	}
	refuse(c.MemberID == 0, "MemberID is 0")
	refuse(c.Dir == "", "Dir is empty")
	refuse(c.StateMachine == nil, "StateMachine is nil")
	refuse(c.TickInterval < 0, "TickInterval %v is below 0", c.TickInterval)
	refuse(c.HeartbeatTicks < 1, "HeartbeatTicks %d is below 1", c.HeartbeatTicks)
	refuse(c.ElectionTicks <= c.HeartbeatTicks, "ElectionTicks %d is not above HeartbeatTicks %d", c.ElectionTicks, c.HeartbeatTicks)
	return errors.Join(faults...)
}

func (c Config) walOptions() wal.Options {
	return wal.Options{
		Dir: c.Dir, Owner: wal.Owner{Cluster: c.ClusterID, Member: c.MemberID, Founding: c.Founding}, FS: c.FS, Random: c.Random,
		SegmentBytes: c.SegmentBytes, CacheBytes: c.CacheBytes, NoSync: c.NoSync, SkipRepair: c.skipRepair, Timer: c.LogTimer,
	}
}

// Transport carries raft's messages to other members. Messages are immutable: they are shared with raft.
type Transport interface {
	// Send queues messages for the members they name (To) and returns at once; it is called under the node's lock and must not call
	// the node. A message may be lost, delayed, reordered; a proposal (MsgProp) is delivered at most once. The outcome of a MsgSnap must
	// be told with Node.ReportSnapshot.
	Send(messages []*raftpb.Message)
}
