package replica

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// job is work for the applier. Exactly one field is set.
type job struct {
	apply   *raftpb.Message // MsgStorageApply
	install *batch          // its snapshot, which is staged and recorded
	save    bool            // make a snapshot for a lagging member
}

// nextJob answers what the applier has to do next, nil if nothing or if it is at work.
func (c *core) nextJob() *job {
	if c.applying || len(c.jobs) == 0 {
		return nil
	}
	c.applying = true
	return c.jobs[0]
}

// jobDone takes note that the job is done. saved is the snapshot of a save.
func (c *core) jobDone(j *job, saved *Snapshot) {
	c.applying = false
	c.jobs[0] = nil
	c.jobs = c.jobs[1:]
	switch {
	case j.apply != nil:
		entries := j.apply.GetEntries()
		last := entries[len(entries)-1]
		c.applied, c.appliedTerm = last.GetIndex(), last.GetTerm()
		c.deliver(j.apply.GetResponses())
		c.cut()
	case j.install != nil:
		c.applied, c.appliedTerm = j.install.Snapshot.Index, j.install.Snapshot.Term
		c.conf = j.install.Snapshot.ConfState
		c.durable = c.applied
		c.writing, c.writingBytes = false, 0
		c.deliver(j.install.responses)
		c.log.Cut(c.applied)
	default:
		c.snapshotWanted = false
		c.snapshot = saved.toRaft()
	}
	c.finishReads()
	c.startRead()
}

// run executes j on sm. changeConf is core.changeConf, under whatever lock the driver has.
func (j *job) run(sm StateMachine, changeConf func(*raftpb.ConfChange) *raftpb.ConfState) (*Snapshot, error) {
	switch {
	case j.install != nil:
		return nil, sm.InstallSnapshot(j.install.Snapshot.Index, j.install.Snapshot.Term)
	case j.save:
		s, err := sm.Snapshot()
		return &s, err
	}
	var waiting []Entry
	flush := func() error {
		if len(waiting) == 0 {
			return nil
		}
		defer func() { waiting = nil }()
		return sm.Apply(waiting)
	}
	for _, e := range j.apply.GetEntries() {
		entry := Entry{Index: e.GetIndex(), Term: e.GetTerm()}
		if e.GetType() == raftpb.EntryNormal {
			var err error
			if entry.Commands, err = commands(e.GetData()); err != nil {
				return nil, fmt.Errorf("entry %d: %w", entry.Index, err)
			}
			waiting = append(waiting, entry)
			continue
		}
		if err := flush(); err != nil {
			return nil, err
		}
		if err := applyConfChange(sm, e, entry, changeConf); err != nil {
			return nil, err
		}
	}
	return nil, flush()
}

// applyConfChange brings a configuration entry to raft and to sm.
func applyConfChange(sm StateMachine, e *raftpb.Entry, entry Entry, changeConf func(*raftpb.ConfChange) *raftpb.ConfState) error {
	if e.GetType() != raftpb.EntryConfChange {
		return fmt.Errorf("entry %d: joint configuration changes are not supported", entry.Index)
	}
	cc := &raftpb.ConfChange{}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return fmt.Errorf("entry %d: %w", entry.Index, err)
	}
	change := confChangeFromRaft(cc)
	refused := sm.CheckConfChange(change)
	if refused != nil {
		cc = &raftpb.ConfChange{Type: cc.Type} // member 0: raft changes nothing
	}
	return sm.ApplyConfChange(entry, change, confStateFromRaft(changeConf(cc)), refused)
}

// changeConf applies a committed change to raft.
func (c *core) changeConf(cc *raftpb.ConfChange) *raftpb.ConfState {
	c.conf = c.raft.ApplyConfChange(cc)
	c.drain()
	return c.conf
}
