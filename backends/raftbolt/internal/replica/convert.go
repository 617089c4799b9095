package replica

import "go.etcd.io/raft/v3/raftpb"

func (s ConfState) toRaft() *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters: s.Voters, Learners: s.Learners, VotersOutgoing: s.VotersOutgoing, LearnersNext: s.LearnersNext,
		AutoLeave: new(s.AutoLeave),
	}
}

func confStateFromRaft(s *raftpb.ConfState) ConfState {
	return ConfState{
		Voters: s.GetVoters(), Learners: s.GetLearners(), VotersOutgoing: s.GetVotersOutgoing(), LearnersNext: s.GetLearnersNext(),
		AutoLeave: s.GetAutoLeave(),
	}
}

func (c ConfChange) toRaft() *raftpb.ConfChange {
	return &raftpb.ConfChange{Type: raftpb.ConfChangeType(c.Kind).Enum(), NodeId: new(c.Member), Context: c.Context}
}

func confChangeFromRaft(c *raftpb.ConfChange) ConfChange {
	return ConfChange{Kind: ConfChangeKind(c.GetType()), Member: c.GetNodeId(), Context: c.GetContext()}
}

func (s *Snapshot) toRaft() *raftpb.Snapshot {
	return &raftpb.Snapshot{Data: s.Data, Metadata: &raftpb.SnapshotMetadata{
		Index: new(s.Index), Term: new(s.Term), ConfState: s.ConfState.toRaft(),
	}}
}

func snapshotFromRaft(s *raftpb.Snapshot) *Snapshot {
	meta := s.GetMetadata()
	return &Snapshot{
		Durable: Durable{Index: meta.GetIndex(), Term: meta.GetTerm(), ConfState: confStateFromRaft(meta.GetConfState())},
		Data:    s.GetData(),
	}
}
