package replica

import (
	"hash/fnv"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// ledger knows what happened in the whole world, and so what must not happen any more.
type ledger struct {
	history      []simState            // by index: what the state is after it, from the first member that applied it
	leaders      map[uint64]uint64     // by term
	votes        map[memberTerm]uint64 // who got a member's vote in a term
	contents     map[indexTerm]uint64  // digest of the entry's data
	proposals    map[uint64]*simProposal
	acknowledged uint64 // index of the newest acknowledged proposal
	lastOrder    [2]int // of the last one applied, in a group of one
}

type memberTerm struct{ member, term uint64 }

type indexTerm struct{ index, term uint64 }

// simProposal is a command on its way.
type simProposal struct {
	member   *simMember
	life     int
	order    int
	reserved bool
	index    uint64 // where it was applied
	dropped  bool
}

func newLedger(first simState) ledger {
	return ledger{
		history: []simState{{}, first}, leaders: map[uint64]uint64{}, votes: map[memberTerm]uint64{},
		contents: map[indexTerm]uint64{}, proposals: map[uint64]*simProposal{}, lastOrder: [2]int{-1, -1},
	}
}

// equal compares what simple changes change.
func (s ConfState) equal(o ConfState) bool {
	return slices.Equal(s.Voters, o.Voters) && slices.Equal(s.Learners, o.Learners)
}

// dropped: the node said that the command is certainly not proposed.
func (w *world) dropped(id uint64) {
	p := w.ledger.proposals[id]
	w.totals.dropped++
	if p.index > 0 {
		w.fail("command %d was reported as dropped and is applied at %d", id, p.index)
	}
	p.dropped = true
}

// applied: state machine safety; every command at most once, in order; applied ≤ synced log, ≤ committed.
func (w *world) applied(m *simMember, e Entry, state simState) {
	l := &w.ledger
	switch {
	case w.direct && e.Index > m.synced:
		w.fail("member %d applies %d, its log is synced to %d", m.id, e.Index, m.synced)
	case e.Index > m.core.committed:
		w.fail("member %d applies %d, %d is committed", m.id, e.Index, m.core.committed)
	case e.Index < uint64(len(l.history)):
		known := l.history[e.Index]
		if known.digest != state.digest || known.term != state.term {
			w.fail("member %d applies another entry at %d (term %d) than the first member did (term %d)", m.id, e.Index, e.Term, known.term)
		}
		if !known.conf.equal(state.conf) {
			w.fail("member %d has the configuration %+v at %d, the first member had %+v", m.id, state.conf, e.Index, known.conf)
		}
	case e.Index > uint64(len(l.history)):
		w.fail("member %d applies %d, nobody applied %d", m.id, e.Index, len(l.history))
	default:
		l.history = append(l.history, state)
		for _, c := range e.Commands {
			w.firstApplied(commandID(c), e.Index)
		}
	}
	if m.id > uint64(w.voters) {
		w.totals.learned++
	}
	for _, c := range e.Commands {
		if p := l.proposals[commandID(c)]; p.member == m && p.life == m.life {
			w.totals.acknowledged++
			l.acknowledged = max(l.acknowledged, e.Index)
		}
	}
}

// firstApplied notes where a command is applied.
func (w *world) firstApplied(id, index uint64) {
	p := w.ledger.proposals[id]
	if p.dropped {
		w.fail("command %d was reported as dropped and is applied at %d", id, index)
	}
	if p.index > 0 {
		w.fail("command %d is applied at %d and at %d", id, p.index, index)
	}
	p.index = index
	if w.voters == 1 && p.member.id == 1 {
		// On a full disk reserved commands overtake the others.
		kind := 0
		if p.reserved {
			kind = 1
		}
		if p.order <= w.ledger.lastOrder[kind] {
			w.fail("command %d is applied after a later one", id)
		}
		w.ledger.lastOrder[kind] = p.order
	}
}

// installed: a snapshot is a state that the group went through.
func (w *world) installed(m *simMember, s simState) {
	w.totals.snapshots++
	w.logf("member %d installs snapshot %d", m.id, s.index)
	if s.index >= uint64(len(w.ledger.history)) || w.ledger.history[s.index].digest != s.digest {
		w.fail("member %d installs a snapshot of %d that is not the state there", m.id, s.index)
	}
}

// checkMember: one leader per term, leader completeness, monotone term and commit, the indexes' order.
func (l *ledger) checkMember(m *simMember) {
	w, c := m.w, m.core
	if c.term < m.lastTerm || c.committed < m.lastCommit {
		w.fail("member %d went from term %d, commit %d to %d, %d", m.id, m.lastTerm, m.lastCommit, c.term, c.committed)
	}
	m.lastTerm, m.lastCommit = c.term, c.committed
	if m.store.durable.index > m.store.state.index || c.applied > m.store.state.index {
		w.fail("member %d: durable %d, raft's applied %d, applied %d", m.id, m.store.durable.index, c.applied, m.store.state.index)
	}
	rec := c.log.Snapshot()
	installing := rec != nil && rec.Index > m.store.durable.index
	if first := c.log.FirstIndex(); w.direct && first > m.store.durable.index+1 && !installing {
		w.fail("member %d: the log begins at %d, durable is %d", m.id, first, m.store.durable.index)
	}
	if c.role != Leader {
		m.wasLeader = false
		return
	}
	if known, ok := l.leaders[c.term]; ok && known != m.id {
		w.fail("members %d and %d lead in term %d", known, m.id, c.term)
	}
	l.leaders[c.term] = m.id
	l.vote(w, m.id, c.term, m.id)
	if !m.wasLeader {
		m.wasLeader = true
		w.totals.elections++
		w.logf("member %d leads in term %d", m.id, c.term)
		l.checkComplete(m)
	}
}

// checkComplete: a new leader has every entry that anybody applied.
func (l *ledger) checkComplete(m *simMember) {
	for index := uint64(len(l.history)) - 1; index >= max(2, m.core.log.FirstIndex()); index-- {
		if term, ok := m.logTerm(index); !ok || term != l.history[index].term {
			m.w.fail("member %d leads in term %d without entry %d of term %d, which was applied", m.id, m.core.term, index, l.history[index].term)
		}
	}
}

// logTerm is the term of index in the member's log, with what still waits for the writer.
func (m *simMember) logTerm(index uint64) (uint64, bool) {
	for i := len(m.core.appends) - 1; i >= 0; i-- {
		if es := m.core.appends[i].GetEntries(); len(es) > 0 && index >= es[0].GetIndex() {
			if at := index - es[0].GetIndex(); at < uint64(len(es)) {
				return es[at].GetTerm(), true
			}
			return 0, false
		}
	}
	term, err := m.core.log.Term(index)
	return term, err == nil
}

// vote: nobody votes for two in a term.
func (l *ledger) vote(w *world, voter, term, candidate uint64) {
	key := memberTerm{voter, term}
	if known, ok := l.votes[key]; ok && known != candidate {
		w.fail("member %d voted in term %d for %d and for %d", voter, term, known, candidate)
	}
	l.votes[key] = candidate
}

// checkSend looks at a message that leaves m.
func (l *ledger) checkSend(m *simMember, msg *raftpb.Message) {
	w := m.w
	if msg.GetReject() {
		return
	}
	switch msg.GetType() {
	case raftpb.MsgVoteResp:
		l.vote(w, m.id, msg.GetTerm(), msg.GetTo())
		// A synced later term does as well: it forbids every other vote in this one.
		if hard := m.syncedHard; w.direct && (hard.Term < msg.GetTerm() || hard.Term == msg.GetTerm() && hard.Vote != msg.GetTo()) {
			w.fail("member %d sends its vote for %d in term %d, synced is %+v", m.id, msg.GetTo(), msg.GetTerm(), hard)
		}
	case raftpb.MsgAppResp:
		synced := m.synced
		if msg.GetTerm() < m.syncedHard.Term {
			// Late, but true: the leader of that term counts what was there before a later one
			// cut it off.
			synced = m.mostSynced
		}
		if w.direct && msg.GetIndex() > synced {
			w.fail("member %d acknowledges entry %d of term %d, its log was synced to %d", m.id, msg.GetIndex(), msg.GetTerm(), synced)
		}
	}
}

// checkBatch: entries of equal index and term are equal everywhere.
func (l *ledger) checkBatch(m *simMember, b *batch) {
	for _, e := range b.Entries {
		h := fnv.New64a()
		_, _ = h.Write(e.GetData())
		key, digest := indexTerm{e.GetIndex(), e.GetTerm()}, h.Sum64()
		if known, ok := l.contents[key]; ok && known != digest {
			m.w.fail("member %d writes another entry %d of term %d than was written before", m.id, e.GetIndex(), e.GetTerm())
		}
		l.contents[key] = digest
	}
}

// checkLogs: log matching. If two logs agree on an index and term, they agree on all before it.
func (l *ledger) checkLogs(w *world) {
	for i, a := range w.members {
		for _, b := range w.members[:i] {
			agree := false
			low := max(a.core.log.FirstIndex(), b.core.log.FirstIndex())
			for index := min(a.core.log.LastIndex(), b.core.log.LastIndex()); index >= low; index-- {
				ta, _ := a.core.log.Term(index)
				tb, _ := b.core.log.Term(index)
				if agree && ta != tb {
					w.fail("the logs of %d and %d differ at %d and agree behind it", a.id, b.id, index)
				}
				agree = agree || ta == tb
			}
		}
	}
}

// checkEnd: everything acknowledged is there, on every member.
func (l *ledger) checkEnd(w *world) {
	for _, m := range w.members {
		if !w.belongs(m) {
			continue
		}
		state := m.store.state
		if state.index < l.acknowledged {
			w.fail("member %d ends at %d, %d was acknowledged", m.id, state.index, l.acknowledged)
		}
		if l.history[state.index].digest != state.digest {
			w.fail("member %d ends with another state at %d", m.id, state.index)
		}
		if m.core.leader == raft.None {
			w.fail("member %d ends without a leader", m.id)
		}
	}
}
