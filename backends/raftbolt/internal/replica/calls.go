package replica

import (
	"context"
	"slices"

	"go.etcd.io/raft/v3"
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

// Propose queues a command and returns at once. On an error the command is certainly not proposed: ErrNoLeader, ErrTooManyPending,
// ErrTooLarge, ErrStopped. On nil, either the command is handed to raft, or dropped is called once with ErrNoLeader,
// ErrDropped, ErrNoSpace, ErrTooManyPending or ErrStopped, which say the same. dropped runs under the node's lock: it must be quick and must not call the node; nil is
// allowed. Once handed to raft, the outcome is known when StateMachine.Apply is given the command; it may be lost without a
// word when leadership changes, so the caller bounds its wait and answers "outcome unknown" then. command belongs to the node.
func (n *Node) Propose(command []byte, dropped func(error)) error {
	return n.propose(proposal{command: command, dropped: dropped})
}

// ProposeReserved is Propose for a command that frees room, or tells of the lack of it: it may use what room the log keeps back on a full disk, some
// megabytes. Only when that is used up, too, it is dropped with ErrNoSpace.
func (n *Node) ProposeReserved(command []byte, dropped func(error)) error {
	return n.propose(proposal{command: command, dropped: dropped, reserved: true})
}

func (n *Node) propose(p proposal) error {
	err := ErrStopped
	n.locked(func() {
		if !n.over {
			err = n.core.propose(p)
		}
	})
	return err
}

// ShrinkLog gives back what room the log takes beyond its need, because the disk is full: the entries that are kept for slow members, and the
// segments that wait to be used again. The files are removed soon after.
func (n *Node) ShrinkLog() {
	n.locked(n.core.shrinkLog)
	wake(n.wakeKeeper)
}

// ReadIndex waits until the state machine reflects every command whose Apply returned, on any member, before the call
// began, and returns an index at or below the applied one: a read of the state machine made after it is linearizable. A group of one voter
// answers without a round once an entry of the current term is applied; otherwise all waiting calls share a round to a quorum, repeated
// until answered. Errors: ctx's, ErrStopped.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	if n.view.Load().reads {
		return n.applied.Load(), nil
	}
	var r *readRound
	n.locked(func() {
		if !n.over {
			r = n.core.read()
		}
	})
	if r == nil {
		return 0, ErrStopped
	}
	if err := n.wait(ctx, r.done); err != nil {
		return 0, err
	}
	return r.index, nil
}

// wait waits for done. A node that stops does not answer any more.
func (n *Node) wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stop:
		return ErrStopped
	}
}

// Status never blocks.
func (n *Node) Status() Status {
	v := n.view.Load()
	s := Status{MemberID: n.cfg.MemberID, Leader: v.leader, Term: v.term, Role: v.role, Learner: v.learner, TermApplied: v.termApplied}
	// In this order, so that Applied ≤ Committed.
	s.Applied = n.applied.Load()
	s.Committed = n.commit.Load()
	return s
}

// Changed returns a channel that is closed when Leader, Term, Role, Learner or TermApplied of Status changes after the call: take the
// channel, then look at Status, then wait.
func (n *Node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// Ready returns a channel that is closed once, when for the first time since Open an entry of the then current term is applied: from
// then on the state machine holds everything that was acknowledged before Open.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// WaitApplied waits until the entry at index is applied. Errors: ctx's, ErrStopped.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	if n.applied.Load() >= index {
		return nil
	}
	w := appliedWaiter{index: index, done: make(chan struct{})}
	n.locked(func() {
		if n.core.applied >= index {
			close(w.done)
			return
		}
		n.waiters = append(n.waiters, w)
	})
	err := n.wait(ctx, w.done)
	if err != nil {
		n.forgetWaiter(w)
	}
	return err
}

// forgetWaiter takes a call that has given up off the list.
func (n *Node) forgetWaiter(w appliedWaiter) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiters = slices.DeleteFunc(n.waiters, func(o appliedWaiter) bool { return o.done == w.done })
}

// releaseWaiters ends the calls of WaitApplied whose index is applied. Caller holds mu.
func (n *Node) releaseWaiters() {
	kept := n.waiters[:0]
	for _, w := range n.waiters {
		if w.index <= n.core.applied {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	clear(n.waiters[len(kept):])
	n.waiters = kept
}

// Durable tells the node that the state machine holds everything up to index in synced storage: the log may be cut at or below it.
// A lower index than before is ignored. An index above what Apply was given panics: it would lose entries.
func (n *Node) Durable(index uint64) {
	n.locked(func() { n.core.flushed(index) })
	if n.log.NeedsHousekeeping() {
		wake(n.wakeKeeper)
	}
}

// ProposeConfChange proposes a single-step change. Errors and dropped are those of ProposeReserved. Handed to raft, the outcome comes by
// ApplyConfChange; or, without a word, the change becomes an empty entry, if another one was handed to raft and the leader has not yet
// applied it: propose the next one only after WaitApplied of the one before.
func (n *Node) ProposeConfChange(change ConfChange, dropped func(error)) error {
	err := ErrStopped
	n.locked(func() {
		if !n.over {
			err = n.core.proposeConfChange(change, dropped)
		}
	})
	return err
}

// Progress is what the leader knows of how much of its log a member has.
type Progress struct {
	// Leads: this member leads. All else is zero if it does not.
	Leads bool
	// Known: the member asked about is in the configuration.
	Known bool
	// Match is the highest index up to which the member's log is known to be the leader's, LeaderMatch what the leader itself has synced.
	Match, LeaderMatch uint64
}

// Progress tells how far a member is, on the leader.
func (n *Node) Progress(member uint64) (p Progress) {
	n.locked(func() {
		if !n.over {
			p = n.core.progress(member)
		}
	})
	return p
}

// TransferLeadership asks the leader to hand over to member, and returns nil when that member or another than before leads. Errors:
// ErrNoLeader, ctx's, ErrStopped.
func (n *Node) TransferLeadership(ctx context.Context, member uint64) error {
	before := uint64(0)
	n.locked(func() {
		if before = n.core.leader; before != raft.None && !n.over {
			n.core.transfer(member)
		}
	})
	if before == raft.None {
		return ErrNoLeader
	}
	for {
		changed := n.Changed()
		if lead := n.view.Load().leader; lead == member || lead != raft.None && lead != before {
			return nil
		}
		if err := n.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// Receive takes a message from another member. It does not block on the log. Errors: ErrStopped, or raft's for a message it does not accept.
func (n *Node) Receive(m *raftpb.Message) error {
	err := ErrStopped
	n.locked(func() {
		if !n.over {
			err = n.core.receive(m)
		}
	})
	return err
}

// ReportSnapshot tells the outcome of sending a MsgSnap to member.
func (n *Node) ReportSnapshot(member uint64, failed bool) {
	n.locked(func() { n.core.reportSnapshot(member, failed) })
}

// ReportUnreachable tells that a message to member was lost.
func (n *Node) ReportUnreachable(member uint64) {
	n.locked(func() { n.core.reportUnreachable(member) })
}

// Done is closed when the node has stopped: after Stop, or by itself after a final error.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err is nil before Done is closed and after a plain Stop; otherwise the final error: a failed sync is never repeated.
func (n *Node) Err() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// Stop ends the node: waiting proposals are dropped with ErrStopped, the batch being synced and the run being applied are
// finished, files are closed. It returns when no goroutine of the node is left and no method of the state machine will be called again.
// Calling it again does nothing.
func (n *Node) Stop() {
	n.fail(nil)
	<-n.done
}
