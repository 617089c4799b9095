package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

const (
	// messageBytes bounds the entries of one raft message: a follower catches up in steps that a batch can hold.
	messageBytes = 1 << 20
	// batchBytes is how much a batch takes, if more than one append message or command: far below a segment, which has to hold it, and so that a
	// reader of the log reads no more than that at once.
	batchBytes = 4 << 20
	// applyingBytes bounds the entries handed to the applier and not yet applied.
	applyingBytes = 16 << 20
	// uncommittedBytes bounds the uncommitted tail of a leader's log.
	uncommittedBytes = 128 << 20
	// inflightMessages and inflightBytes bound what is on the way to one follower.
	inflightMessages = 256
	inflightBytes    = 32 << 20
	// keepLogBytes bounds the log below the durable index that is kept for slow members.
	keepLogBytes = 64 << 20
)

// faults are planted by tests to prove that the simulator finds them. All false in production.
type faults struct {
	voteNotSynced         bool
	cutAboveFlush         bool
	readBeforeFirstCommit bool
	// answerBeforeFirstCommit: the same for the reads of others.
	answerBeforeFirstCommit bool
}

// proposal waits for the writer.
type proposal struct {
	command  []byte
	conf     *raftpb.ConfChange // what command encodes, if it is a configuration change, which travels alone
	dropped  func(error)
	reserved bool // may use the room that the log keeps back, see room.go
}

// core is the deterministic part of a node: RawNode, the log, and the messages on the way between them and the state machine. It starts
// no goroutine, reads no clock, and is not safe for concurrent use: Node drives it under a lock, the simulator from one goroutine.
//
// Its cycle: nextBatch, then the driver writes and syncs the batch, then batchDone; beside it nextJob, the driver runs the job, jobDone.
type core struct {
	id        uint64
	raft      *raft.RawNode
	log       *wal.Log
	transport Transport
	faults    faults
	cfg       Config

	pending      []proposal
	pendingBytes int
	starved      bool  // what is pending waits for room in the log
	shortage     error // why the log could get no spare segment, nil if it could

	appends []*raftpb.Message // MsgStorageAppend that wait for the writer, in raft's order
	writing bool              // a batch is with the writer
	// writingBytes bounds that batch's size in the log; 0 when there is none.
	writingBytes int64
	hard         wal.HardState // the newest that was taken from appends
	written      wal.HardState // what the newest batch holds

	jobs     []*job // for the applier, in order; the first is being run if applying
	applying bool

	conf        *raftpb.ConfState
	leader      uint64
	role        Role
	term        uint64
	committed   uint64
	applied     uint64
	appliedTerm uint64
	durable     uint64
	cutAt       uint64 // durable index at the last cut

	snapshot       *raftpb.Snapshot // made by the state machine and not yet sent
	snapshotWanted bool             // a job to make one is queued

	reads    reads
	outgoing []*raftpb.Message
}

// batch is what the writer writes at once.
type batch struct {
	wal.Batch
	snapshot  *Snapshot         // to be staged before the write
	responses []*raftpb.Message // delivered when the batch is synced
}

// newCore joins an open log with what the state machine holds.
func newCore(cfg Config, log *wal.Log, d Durable) (*core, error) {
	c := &core{
		id: cfg.MemberID, log: log, transport: cfg.Transport, cfg: cfg, faults: cfg.faults,
		conf: d.ConfState.toRaft(), applied: d.Index, appliedTerm: d.Term, durable: d.Index,
	}
	if err := c.reads.init(cfg.Random); err != nil {
		return nil, err
	}
	c.hard = log.HardState()
	c.written = c.hard
	// A commit index is not synced by itself; what the state machine holds was committed.
	c.hard.Commit = max(c.hard.Commit, d.Index)
	if last := log.LastIndex(); c.hard.Commit > last {
		return nil, fmt.Errorf("%w: the log ends at %d, but says that %d is committed", wal.ErrCorrupt, last, c.hard.Commit)
	}
	if term, err := log.Term(d.Index); err == nil && term != d.Term {
		return nil, fmt.Errorf("%w: entry %d has term %d in the log and %d in the store", wal.ErrCorrupt, d.Index, term, d.Term)
	}
	if log.FirstIndex() > d.Index+1 {
		return nil, fmt.Errorf("%w: the first entry is %d, the store holds %d", wal.ErrAheadOfStore, log.FirstIndex(), d.Index)
	}
	var err error
	c.raft, err = raft.NewRawNode(&raft.Config{
		ID:                        cfg.MemberID,
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             cfg.HeartbeatTicks,
		Storage:                   storage{c},
		Applied:                   d.Index,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             messageBytes,
		MaxCommittedSizePerReady:  applyingBytes,
		MaxUncommittedEntriesSize: uncommittedBytes,
		MaxInflightMsgs:           inflightMessages,
		MaxInflightBytes:          inflightBytes,
		CheckQuorum:               true,
		PreVote:                   true,
		StepDownOnRemoval:         true,
		ReadOnlyOption:            raft.ReadOnlySafe,
		Logger:                    raftLogger{cfg.Logger},
	})
	if err != nil {
		return nil, err
	}
	c.term, c.committed = c.hard.Term, c.hard.Commit
	return c, nil
}

// tick advances raft's clock.
func (c *core) tick() {
	c.raft.Tick()
	c.drain()
	c.tickReads()
}

// campaignAlone elects the only voter at once: nobody else could lead.
func (c *core) campaignAlone() {
	if c.aloneVoter() && c.role == Follower {
		_ = c.raft.Campaign() // its errors are those of a later term; ticks try again
		c.drain()
	}
}

// receive steps a message from another member.
func (c *core) receive(m *raftpb.Message) error {
	if c.lacksRoom(m) {
		return ErrNoSpace
	}
	if m.GetType() == raftpb.MsgReadIndex && c.answersTooEarly() {
		return nil // a lost request, which is made again
	}
	err := c.raft.Step(m)
	c.drain()
	return err
}

// propose queues a command for the next batch.
func (c *core) propose(p proposal) error {
	switch {
	case len(p.command) > MaxCommandBytes:
		return ErrTooLarge
	case c.leader == raft.None:
		return ErrNoLeader
	case len(c.pending) >= MaxPendingProposals || len(c.pending) > 0 && c.pendingBytes+len(p.command) > MaxPendingBytes,
		c.committed > c.applied+MaxUnapplied:
		return ErrTooManyPending
	}
	c.pending = append(c.pending, p)
	c.pendingBytes += len(p.command)
	return nil
}

// stepProposals hands what waits and fits into the log to raft, coalesced.
func (c *core) stepProposals() {
	waiting := c.admit()
	for len(waiting) > 0 {
		var err error
		n := 1
		if conf := waiting[0].conf; conf != nil {
			err = c.raft.ProposeConfChange(conf)
		} else {
			var data []byte
			data, n = coalesce(waiting)
			err = c.raft.Propose(data)
		}
		if err != nil {
			c.drop(waiting[:n], c.dropError(err))
		}
		waiting = waiting[n:]
	}
}

// dropError translates raft's refusal.
func (c *core) dropError(err error) error {
	if errors.Is(err, raft.ErrProposalDropped) && c.raft.BasicStatus().Lead == raft.None {
		return ErrNoLeader
	}
	return fmt.Errorf("%w: %w", ErrDropped, err)
}

func (c *core) drop(ps []proposal, err error) {
	for _, p := range ps {
		if p.dropped != nil {
			p.dropped(err)
		}
	}
}

// dropPending drops all that waits.
func (c *core) dropPending(err error) {
	c.drop(c.pending, err)
	c.pending, c.pendingBytes = nil, 0
}

// proposeConfChange queues a configuration change for the next batch, one at a time. It may use the room that the log keeps back: changes are small
// and rare.
func (c *core) proposeConfChange(change ConfChange, dropped func(error)) error {
	if slices.ContainsFunc(c.pending, func(p proposal) bool { return p.conf != nil }) {
		return ErrTooManyPending
	}
	conf := change.toRaft()
	_, data, err := raftpb.MarshalConfChange(conf)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDropped, err)
	}
	return c.propose(proposal{command: data, conf: conf, dropped: dropped, reserved: true})
}

// nextBatch answers what the writer has to write next, nil if nothing. The batch before must be done.
func (c *core) nextBatch() *batch {
	if c.writing {
		return nil
	}
	for {
		if waiting := len(c.pending); waiting > 0 {
			c.stepProposals()
			c.drain()
			if c.starved = len(c.pending) == waiting; c.starved && len(c.appends) == 0 {
				return nil
			}
		}
		for len(c.appends) > 0 {
			b, needsWrite := c.takeAppends()
			if needsWrite {
				c.writing, c.writingBytes = true, entriesSize(b.Entries)
				c.written = b.HardState
				return b
			}
			// Only a commit index: it rides in the next batch. All before is synced, so the answers may go.
			c.deliver(b.responses)
		}
		if len(c.pending) == 0 {
			return nil
		}
	}
}

// takeAppends merges waiting append messages. A snapshot is a batch of its own.
func (c *core) takeAppends() (b *batch, needsWrite bool) {
	b = &batch{}
	taken, size := 0, 0
	for _, m := range c.appends {
		snap := m.GetSnapshot()
		if taken > 0 && (snap != nil || size+dataSize(m) > batchBytes) {
			break
		}
		taken++
		size += dataSize(m)
		if hard := (wal.HardState{Term: m.GetTerm(), Vote: m.GetVote(), Commit: m.GetCommit()}); hard != (wal.HardState{}) {
			c.hard = hard
		}
		b.responses = append(b.responses, m.GetResponses()...)
		if snap != nil {
			b.setSnapshot(snap)
		}
		b.Entries = mergeEntries(b.Entries, m.GetEntries())
		if snap != nil {
			break
		}
	}
	c.appends = c.appends[taken:]
	b.HardState = c.hard
	voted := c.hard.Term != c.written.Term || c.hard.Vote != c.written.Vote
	if c.faults.voteNotSynced {
		voted = false
	}
	return b, voted || len(b.Entries) > 0 || b.Snapshot != nil
}

// dataSize is what m's entries count against batchBytes.
func dataSize(m *raftpb.Message) (n int) {
	for _, e := range m.GetEntries() {
		n += len(e.GetData())
	}
	return n
}

func (b *batch) setSnapshot(snap *raftpb.Snapshot) {
	meta := snap.GetMetadata()
	b.Snapshot = &wal.SnapshotRecord{Index: meta.GetIndex(), Term: meta.GetTerm(), ConfState: meta.GetConfState()}
	b.snapshot = snapshotFromRaft(snap)
}

// mergeEntries puts later behind earlier, in place of what later replaces. Neither slice is changed.
func mergeEntries(earlier, later []*raftpb.Entry) []*raftpb.Entry {
	if len(earlier) == 0 || len(later) == 0 || later[0].GetIndex() <= earlier[0].GetIndex() {
		if len(later) == 0 {
			return earlier
		}
		return later
	}
	keep := later[0].GetIndex() - earlier[0].GetIndex()
	return append(earlier[:keep:keep], later...)
}

// batchDone takes note that the batch is synced. One with a snapshot is done when the snapshot is installed, too.
func (c *core) batchDone(b *batch) {
	if b.snapshot != nil {
		c.jobs = append(c.jobs, &job{install: b})
		return
	}
	c.writing, c.writingBytes = false, 0
	c.deliver(b.responses)
}

// deliver brings responses of local storage to their targets, in order.
func (c *core) deliver(ms []*raftpb.Message) {
	for _, m := range ms {
		if m.GetTo() == c.id {
			_ = c.raft.Step(m) // local responses are not refused
		} else {
			c.outgoing = append(c.outgoing, m)
		}
	}
	c.drain()
}

// drain takes everything from raft that is ready.
func (c *core) drain() {
	for c.raft.HasReady() {
		rd := c.raft.Ready()
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				c.appends = append(c.appends, m)
			case raft.LocalApplyThread:
				c.jobs = append(c.jobs, &job{apply: m})
			default:
				c.outgoing = append(c.outgoing, m)
			}
		}
		for _, rs := range rd.ReadStates {
			c.readAnswered(binary.BigEndian.Uint64(rs.RequestCtx), rs.Index)
		}
	}
	if len(c.outgoing) > 0 {
		if c.transport != nil {
			c.transport.Send(c.outgoing)
		}
		c.outgoing = nil
	}
	c.look()
}

// look takes over raft's view of the group.
func (c *core) look() {
	s := c.raft.BasicStatus()
	changed := s.Lead != c.leader || s.GetTerm() != c.term
	c.leader, c.term, c.committed = s.Lead, s.GetTerm(), s.GetCommit()
	switch s.RaftState {
	case raft.StateLeader:
		c.role = Leader
	case raft.StateFollower:
		c.role = Follower
	default:
		c.role = Candidate
	}
	if changed {
		c.restartRead()
	}
	c.startRead()
}

// transfer asks the leader to hand over to member.
func (c *core) transfer(member uint64) {
	c.raft.TransferLeader(member)
	c.drain()
}

// progress is what the leader knows of a member's log.
func (c *core) progress(member uint64) Progress {
	if c.role != Leader {
		return Progress{}
	}
	p := Progress{Leads: true}
	c.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id == c.id {
			p.LeaderMatch = pr.Match
		}
		if id == member {
			p.Known, p.Match = true, pr.Match
		}
	})
	return p
}

// reportSnapshot tells raft how the sending of a snapshot ended.
func (c *core) reportSnapshot(member uint64, failed bool) {
	status := raft.SnapshotFinish
	if failed {
		status = raft.SnapshotFailure
	}
	c.raft.ReportSnapshot(member, status)
	c.drain()
}

// reportUnreachable tells raft that a message to member was lost.
func (c *core) reportUnreachable(member uint64) {
	c.raft.ReportUnreachable(member)
	c.drain()
}

// aloneVoter tells whether this member is the only voter.
func (c *core) aloneVoter() bool {
	return len(c.conf.GetVoters()) == 1 && c.conf.GetVoters()[0] == c.id && len(c.conf.GetVotersOutgoing()) == 0
}

// termApplied tells whether an entry of the current term is applied: only then is everything known that was acknowledged in earlier terms.
func (c *core) termApplied() bool { return c.appliedTerm == c.term && c.leader != raft.None }

func (c *core) isLearner() bool {
	for _, id := range c.conf.GetLearners() {
		if id == c.id {
			return true
		}
	}
	return false
}

// flushed takes note of what the state machine holds durably, and cuts the log. The state machine may be ahead of jobDone.
func (c *core) flushed(index uint64) {
	if index > c.committed {
		panic(fmt.Sprintf("replica: durable index %d is above the committed one, %d", index, c.committed))
	}
	if index > c.durable {
		c.durable = index
		c.cut()
	}
}

// cut cuts the log below what is durable, but not above what raft knows to be applied: it may read from there on.
func (c *core) cut() {
	if c.faults.cutAboveFlush {
		c.log.Cut(c.applied)
		return
	}
	if index := min(c.durable, c.applied); index > c.cutAt {
		c.cutAt = index
		c.log.CutKeeping(index, c.cfg.CatchupEntries, keepLogBytes)
	}
}
