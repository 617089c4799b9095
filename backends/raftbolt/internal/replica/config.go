package replica

import (
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Limits that are constants because nobody needs to change them.
const (
	// MaxCommandBytes bounds one command: the largest request class the API admits (10 MiB) with room for its envelope.
	MaxCommandBytes = 16 << 20
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
	Dir       string // of the log: created 0700 by CreateLog, its files 0600

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
}

// Transport carries raft's messages to other members. Messages are immutable: they are shared with raft.
type Transport interface {
	// Send queues messages for the members they name (To) and returns at once; it is called under the node's lock and must not call
	// the node. A message may be lost, delayed, reordered; a proposal (MsgProp) is delivered at most once. The outcome of a MsgSnap must
	// be told with Node.ReportSnapshot.
	Send(messages []*raftpb.Message)
}
