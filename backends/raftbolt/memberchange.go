package raftbolt

import (
	"cmp"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// CheckConfChange implements replica.StateMachine. It decides as etcd does
// (membership.ValidateConfigurationChange), in its order, from the members alone.
func (m *machine) CheckConfChange(change replica.ConfChange) error {
	c, err := m.decodeMemberChange(change)
	if err != nil {
		return err // ApplyConfChange stops at it
	}
	set := m.members.Load()
	if _, gone := set.removed[change.Member]; gone {
		return backends.ErrMemberNotFound
	}
	member, there := set.find(change.Member)
	if !there && (c.promote || change.Kind == replica.RemoveMember || change.Kind == replica.UpdateMember) {
		return backends.ErrMemberNotFound
	}
	voters, _ := set.voters(0)
	switch change.Kind {
	case replica.AddVoter, replica.AddLearner:
		switch _, learners := set.ids(); {
		case c.promote && !member.IsLearner:
			return backends.ErrMemberNotLearner
		case c.promote:
			return nil
		case there:
			return backends.ErrMemberExists
		case set.uses(c.urls, 0):
			return backends.ErrPeerURLExists
		case change.Kind == replica.AddLearner && uint64(len(learners)) >= c.maxLearners:
			return backends.ErrTooManyLearners
		}
	case replica.RemoveMember:
		if !member.IsLearner && voters == 1 {
			return backends.ErrNotEnoughStarted // raft cannot be without a voter
		}
	case replica.UpdateMember:
		if set.uses(c.urls, change.Member) {
			return backends.ErrPeerURLExists
		}
		if _, err := backends.PeerURLs(c.urls); err != nil && (change.Member != c.id.member || voters > 1) {
			return err
		}
	default:
		return fmt.Errorf("configuration change of unknown kind %d", change.Kind)
	}
	return nil
}

// decodeMemberChange reads a change's Context. The command is valid until the next
// is decoded.
func (m *machine) decodeMemberChange(change replica.ConfChange) (*command, error) {
	c, err := m.decoder.decode(change.Context)
	if err == nil && c.kind != kindMember {
		err = fmt.Errorf("%w: %d in a configuration change", errCommandKind, c.kind)
	}
	return c, err
}

// ApplyConfChange implements replica.StateMachine. Members and configuration come
// into the store in one transaction.
func (m *machine) ApplyConfChange(e replica.Entry, change replica.ConfChange, state replica.ConfState, refused error) error {
	c, err := m.decodeMemberChange(change)
	if err != nil {
		return fmt.Errorf("apply entry %d: %w", e.Index, err)
	}
	w := m.waiters.take(c.id)
	out := outcome{err: refused}
	if refused == nil {
		err = m.changeMembers(change, c)
	}
	m.confState = state
	if err == nil {
		err = m.members.Load().agrees(state)
	}
	if err == nil {
		err = m.store.EndEntry(mvcc.Applied{Index: e.Index, Term: e.Term, ConfState: encodeConfState(state)})
	}
	if err != nil {
		out.err = backends.ErrOutcomeUnknown
	}
	if w != nil {
		out.term, out.index, out.applied, out.members = e.Term, e.Index, true, m.members.Load()
		m.answered.Store(e.Index)
		w.outcome <- out
	}
	if err != nil {
		return fmt.Errorf("apply entry %d: %w", e.Index, err)
	}
	return nil
}

// changeMembers does what CheckConfChange found right.
func (m *machine) changeMembers(change replica.ConfChange, c *command) error {
	set := m.members.Load()
	next := &memberSet{slices.Clone(set.list), set.removed}
	i := set.index(change.Member)
	t := m.store.Begin()
	var what string
	switch {
	case change.Kind == replica.RemoveMember:
		what = "removed member"
		key := set.list[i].key()
		t.Delete(mvcc.BucketMembers, key)
		t.Set(mvcc.BucketMembersRemoved, key, []byte(removedMark))
		next.list = slices.Delete(next.list, i, i+1)
		next.removed = make(map[uint64]struct{}, len(set.removed)+1)
		for id := range set.removed {
			next.removed[id] = struct{}{}
		}
		next.removed[change.Member] = struct{}{}
	case c.promote:
		what = "promote member"
		next.list[i].IsLearner = false
	case change.Kind == replica.UpdateMember:
		what = "updated member"
		next.list[i].PeerURLs = c.urls
	default:
		what = "added member"
		next.list = append(next.list, memberRecord{ID: change.Member, PeerURLs: c.urls, IsLearner: change.Kind == replica.AddLearner})
		slices.SortFunc(next.list, func(a, b memberRecord) int { return cmp.Compare(a.ID, b.ID) })
	}
	if r, ok := next.find(change.Member); ok {
		value, err := r.value()
		if err != nil {
			t.Discard()
			return err
		}
		t.Set(mvcc.BucketMembers, r.key(), value)
	}
	if _, err := t.Commit(); err != nil {
		return err
	}
	m.members.Store(next)
	m.logger.Info(what, zap.String("cluster-id", formatID(m.header.ClusterID)), zap.String("local-member-id", formatID(m.header.MemberID)),
		zap.String("member-id", formatID(change.Member)), zap.Strings("peer-urls", c.urls))
	return nil
}
