package replica

import (
	"context"
	"errors"

	"go.etcd.io/raft/v3/raftpb"
)

// Role of a member in its term.
type Role int32

// The roles.
const (
	Follower Role = iota
	Candidate
	Leader
)

// Status is a member's view of the group. Leader, Term, Role, Learner and TermApplied belong together; the indexes may be newer.
type Status struct {
	MemberID uint64
	Leader   uint64 // 0: none known
	Term     uint64
	Role     Role
	Learner  bool
	// TermApplied: an entry of Term is applied here. Before that a member cannot know which entries of earlier terms are committed.
	TermApplied bool
	Committed   uint64 // raft index
	Applied     uint64 // raft index
}

// Node is this member's part of the group. Its methods may be called by any goroutine.
type Node struct{}

// CreateLog creates the log of a member whose store begins with (index, term): the first entry will be index+1. A founding member uses
// (1, 1), a restored one what its store holds. The log is durable on return. It is an error if a log exists.
// Only ClusterID, MemberID, Dir, Random, Logger and NoSync of cfg are used.
func CreateLog(cfg Config, index, term uint64) error { return errors.New("replica: unfinished") }

// LogExists tells whether dir holds a log, of whatever version or maker.
func LogExists(dir string) (bool, error) { return false, errors.New("replica: unfinished") }

// Open recovers the log, joins it with the state machine's durable state, and starts the node. Errors: wal.ErrNoLog, wal.ErrCorrupt,
// wal.ErrVersion, wal.ErrOwner, ErrLogBehindStore, ErrLogAheadOfStore, or the file system's. After an error nothing runs.
func Open(cfg Config) (*Node, error) { return nil, errors.New("replica: unfinished") }

// Propose queues a command and returns at once. On an error the command is certainly not proposed: ErrNoLeader, ErrTooManyPending,
// ErrTooLarge, ErrStopped. On nil, either the command is handed to raft, or dropped is called once with ErrNoLeader,
// ErrDropped or ErrStopped, which say the same. dropped runs under the node's lock or the caller's stack: it must be quick and must not
// call the node. Once handed to raft, the outcome is known when StateMachine.Apply is given the command; it may be lost without a
// word when leadership changes, so the caller bounds its wait and answers "outcome unknown" then. command belongs to the node.
func (n *Node) Propose(command []byte, dropped func(error)) error { return ErrStopped }

// ReadIndex waits until the state machine's applied state reflects every command whose Apply returned, on any member, before the call
// began, and returns an index at or below the applied one: a read of the state machine made after it is linearizable. A group of one voter
// answers without a round once an entry of the current term is applied; otherwise all waiting calls share a round to a quorum, repeated
// until answered. Errors: ctx's, ErrStopped.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) { return 0, ErrStopped }

// Status never blocks.
func (n *Node) Status() Status { return Status{} }

// Changed returns a channel that is closed when Leader, Term, Role, Learner or TermApplied of Status changes after the call: take the
// channel, then look at Status, then wait.
func (n *Node) Changed() <-chan struct{} { return nil }

// Ready returns a channel that is closed once, when for the first time since Open an entry of the then current term is applied: from
// then on the state machine holds everything that was acknowledged before Open.
func (n *Node) Ready() <-chan struct{} { return nil }

// WaitApplied waits until the entry at index is applied. Errors: ctx's, ErrStopped.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error { return ErrStopped }

// Durable tells the node that the state machine holds everything up to index in synced storage: the log may be cut at or below it.
// A lower index than before is ignored. An index above the applied one panics: it would lose entries.
func (n *Node) Durable(index uint64) {}

// ProposeConfChange proposes a single-step change. nil says that it was handed to raft: the outcome comes by ApplyConfChange, or as
// an empty entry when another change was pending. Errors: ErrNoLeader, ErrDropped, ErrStopped.
func (n *Node) ProposeConfChange(change ConfChange) error { return ErrStopped }

// TransferLeadership asks the leader to hand over to member, and returns when that member (or any other) leads, or ctx ends. Errors: ErrNoLeader, ctx's,
// ErrStopped.
func (n *Node) TransferLeadership(ctx context.Context, member uint64) error { return ErrStopped }

// Receive takes a message from another member. It does not block on the log. Errors: ErrStopped, or raft's for a message it does not accept.
func (n *Node) Receive(m *raftpb.Message) error { return ErrStopped }

// ReportSnapshot tells the outcome of sending a MsgSnap to member.
func (n *Node) ReportSnapshot(member uint64, failed bool) {}

// ReportUnreachable tells that a message to member was lost.
func (n *Node) ReportUnreachable(member uint64) {}

// Done is closed when the node has stopped: after Stop, or by itself after a final error.
func (n *Node) Done() <-chan struct{} { return nil }

// Err is nil before Done is closed and after a plain Stop; otherwise the final error. It is reported once: a failed sync is never repeated.
func (n *Node) Err() error { return nil }

// Stop ends the node: waiting proposals are dropped with ErrStopped, the batch being synced and the run being applied are
// finished, files are closed. It returns when no goroutine of the node is left and no method of the state machine will be called again.
// Calling it again does nothing.
func (n *Node) Stop() {}
