package raftbolt

import (
	"context"
	"strconv"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

var _ backends.Members = (*Backend)(nil)

// learnerReady is the part of the leader's log that a learner must have to become
// a voter (etcdserver/server.go, readyPercentThreshold).
const learnerReady = 0.9

// MemberList implements backends.Members.
func (b *Backend) MemberList(ctx context.Context, _ backends.Caller, linearizable bool) (backends.MemberListResult, error) {
	wait := b.awaitReady
	if linearizable {
		wait = b.readIndex
	}
	if err := wait(ctx); err != nil {
		return backends.MemberListResult{}, err
	}
	return backends.MemberListResult{Header: b.header(0), Members: b.machine.members.Load().wire()}, nil
}

// MemberAdd implements backends.Members.
//
// A voter is refused where it would leave the cluster without a quorum until it is started. etcd makes an
// exception for the second voter (membership.IsReadyToAddVotingMember), which
// then must be started before anything can be written, this change undone included. Without a
// transport between members it never could be, so there is no exception.
func (b *Backend) MemberAdd(ctx context.Context, _ backends.Caller, peerURLs []string, learner bool) (backends.MemberAddResult, error) {
	if err := b.awaitReady(ctx); err != nil {
		return backends.MemberAddResult{}, err
	}
	voters, started := b.machine.members.Load().voters(0)
	kind := replica.AddLearner
	if !learner {
		kind = replica.AddVoter
		if started < quorum(voters+1) {
			return backends.MemberAddResult{}, backends.ErrNotEnoughStarted
		}
	}
	if !b.config.LaxReconfigCheck && voters > 1 && b.connectedVoters() < quorum(voters+1) {
		return backends.MemberAddResult{}, backends.ErrUnhealthy
	}
	id := memberIDOf(peerURLs, strconv.FormatInt(b.env.Clock.Now().Unix(), 10))
	list, err := b.configure(ctx, kind, id, &command{maxLearners: uint64(max(b.config.MaxLearners, 0)), urls: peerURLs})
	if err != nil {
		return backends.MemberAddResult{}, err
	}
	added := memberRecord{ID: id, PeerURLs: peerURLs, IsLearner: learner}
	return backends.MemberAddResult{MemberListResult: list, Member: added.wire()}, nil
}

// MemberRemove implements backends.Members.
func (b *Backend) MemberRemove(ctx context.Context, _ backends.Caller, id uint64) (backends.MemberListResult, error) {
	if err := b.awaitReady(ctx); err != nil {
		return backends.MemberListResult{}, err
	}
	set := b.machine.members.Load()
	if member, _ := set.find(id); !b.config.LaxReconfigCheck && !member.IsLearner {
		if voters, started := set.voters(id); started < quorum(voters) {
			return backends.MemberListResult{}, backends.ErrNotEnoughStarted
		}
		// One that is not connected can go: it is no part of the quorum that works.
		if voters, _ := set.voters(0); id == b.machine.header.MemberID && b.connectedVoters()-1 < quorum(voters-1) {
			return backends.MemberListResult{}, backends.ErrUnhealthy
		}
	}
	return b.configure(ctx, replica.RemoveMember, id, &command{})
}

// MemberUpdate implements backends.Members.
func (b *Backend) MemberUpdate(ctx context.Context, _ backends.Caller, id uint64, peerURLs []string) (backends.MemberListResult, error) {
	return b.configure(ctx, replica.UpdateMember, id, &command{urls: peerURLs})
}

// MemberPromote implements backends.Members. Only the leader knows how far a
// learner is.
func (b *Backend) MemberPromote(ctx context.Context, _ backends.Caller, id uint64) (backends.MemberListResult, error) {
	if err := b.readIndex(ctx); err != nil {
		return backends.MemberListResult{}, err
	}
	switch p := b.node.Progress(id); {
	case !p.Leads:
		return backends.MemberListResult{}, backends.ErrNotLeader
	case !p.Known:
		return backends.MemberListResult{}, backends.ErrMemberNotFound
	case float64(p.Match) < learnerReady*float64(p.LeaderMatch):
		return backends.MemberListResult{}, backends.ErrLearnerNotReady
	}
	// The learner counts as a voter that was started.
	if voters, started := b.machine.members.Load().voters(0); !b.config.LaxReconfigCheck && started+1 < quorum(voters+1) {
		return backends.MemberListResult{}, backends.ErrNotEnoughStarted
	}
	return b.configure(ctx, replica.AddVoter, id, &command{promote: true})
}

func quorum(voters int) int { return voters/2 + 1 }

// connectedVoters counts the voters that this member reaches, itself included. There
// is no transport yet that could tell of others.
func (b *Backend) connectedVoters() int { return 1 }

// configure sends a change of the configuration on its way, and waits for its
// outcome: the members after it. Once it is sent the end of ctx does not end the wait, only
// the request's time-out does: the next change must not be sent before raft is done with this one.
func (b *Backend) configure(ctx context.Context, kind replica.ConfChangeKind, member uint64, c *command) (backends.MemberListResult, error) {
	if err := b.awaitReady(ctx); err != nil {
		return backends.MemberListResult{}, err
	}
	select {
	case b.configuring <- struct{}{}:
		defer func() { <-b.configuring }()
	case <-ctx.Done():
		return backends.MemberListResult{}, ctx.Err()
	case <-b.running.Done():
		return backends.MemberListResult{}, backends.ErrStopped
	}
	if err := ctx.Err(); err != nil { // the place may have been free all the same
		return backends.MemberListResult{}, err
	}
	c.kind = kindMember
	w, err := b.sendBy(c, func(encoded []byte, dropped func(error)) error {
		return b.node.ProposeConfChange(replica.ConfChange{Kind: kind, Member: member, Context: encoded}, dropped)
	})
	if err != nil {
		return backends.MemberListResult{}, err
	}
	out, err := b.await(context.WithoutCancel(ctx), w)
	if out.applied {
		// raft takes the next change only when it knows that this one was applied. It
		// does at once, unless the member stops.
		_ = b.node.WaitApplied(b.running, out.index)
	}
	if err != nil {
		return backends.MemberListResult{}, err
	}
	header := b.headerOf(out)
	header.Revision = 0
	return backends.MemberListResult{Header: header, Members: out.members.wire()}, nil
}
