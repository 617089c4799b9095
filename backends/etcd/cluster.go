package etcd

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// MemberList implements backends.Members.
func (b *Backend) MemberList(ctx context.Context, caller backends.Caller, linearizable bool) (backends.MemberListResult, error) {
	r := &pb.MemberListResponse{}
	err := b.call(ctx, reading, pb.Cluster_MemberList_FullMethodName, caller, &pb.MemberListRequest{Linearizable: linearizable}, r)
	return memberList(r.Header, r.Members), err
}

// MemberAdd implements backends.Members.
func (b *Backend) MemberAdd(ctx context.Context, caller backends.Caller, peerURLs []string, learner bool) (backends.MemberAddResult, error) {
	r := &pb.MemberAddResponse{}
	err := b.call(ctx, writing, pb.Cluster_MemberAdd_FullMethodName, caller, &pb.MemberAddRequest{PeerURLs: peerURLs, IsLearner: learner}, r)
	return backends.MemberAddResult{MemberListResult: memberList(r.Header, r.Members), Member: member(r.Member)}, err
}

// MemberRemove implements backends.Members.
func (b *Backend) MemberRemove(ctx context.Context, caller backends.Caller, id uint64) (backends.MemberListResult, error) {
	r := &pb.MemberRemoveResponse{}
	err := b.call(ctx, writing, pb.Cluster_MemberRemove_FullMethodName, caller, &pb.MemberRemoveRequest{ID: id}, r)
	return memberList(r.Header, r.Members), err
}

// MemberUpdate implements backends.Members. URLs that end etcd 3.7.3 with a panic
// are not sent on: those of one member that another would have to use.
func (b *Backend) MemberUpdate(ctx context.Context, caller backends.Caller, id uint64, peerURLs []string) (backends.MemberListResult, error) {
	if _, bad := backends.PeerURLs(peerURLs); bad != nil {
		known, err := b.MemberList(ctx, caller, false)
		if err != nil {
			return backends.MemberListResult{}, err
		}
		exists := slices.ContainsFunc(known.Members, func(m backends.Member) bool { return m.ID == id })
		alone := id == known.Header.MemberID && !slices.ContainsFunc(known.Members, func(m backends.Member) bool { return m.ID != id && !m.Learner })
		if exists && !alone {
			return backends.MemberListResult{}, bad
		}
	}
	r := &pb.MemberUpdateResponse{}
	err := b.call(ctx, writing, pb.Cluster_MemberUpdate_FullMethodName, caller, &pb.MemberUpdateRequest{ID: id, PeerURLs: peerURLs}, r)
	return memberList(r.Header, r.Members), err
}

// MemberPromote implements backends.Members.
func (b *Backend) MemberPromote(ctx context.Context, caller backends.Caller, id uint64) (backends.MemberListResult, error) {
	r := &pb.MemberPromoteResponse{}
	err := b.call(ctx, writing, pb.Cluster_MemberPromote_FullMethodName, caller, &pb.MemberPromoteRequest{ID: id}, r)
	return memberList(r.Header, r.Members), err
}

func memberList(h *pb.ResponseHeader, members []*pb.Member) backends.MemberListResult {
	result := backends.MemberListResult{Header: header(h)}
	for _, m := range members {
		result.Members = append(result.Members, member(m))
	}
	return result
}

// member is nil-safe.
func member(m *pb.Member) backends.Member {
	return backends.Member{
		ID: m.GetID(), Name: m.GetName(), PeerURLs: m.GetPeerURLs(), ClientURLs: m.GetClientURLs(), Learner: m.GetIsLearner(),
	}
}

// MoveLeader implements backends.LeaderMover.
func (b *Backend) MoveLeader(ctx context.Context, caller backends.Caller, target uint64) error {
	return b.call(ctx, writing, pb.Maintenance_MoveLeader_FullMethodName, caller, &pb.MoveLeaderRequest{TargetID: target}, &pb.MoveLeaderResponse{})
}

// Downgrade implements backends.Downgrader.
func (b *Backend) Downgrade(ctx context.Context, req *backends.DowngradeRequest) (backends.DowngradeResult, error) {
	p := writing
	if req.Action == backends.DowngradeValidate {
		p = reading
	}
	r := &pb.DowngradeResponse{}
	err := b.call(ctx, p, pb.Maintenance_Downgrade_FullMethodName, req.Caller, &pb.DowngradeRequest{
		Action: pb.DowngradeRequest_DowngradeAction(req.Action), Version: req.TargetVersion,
	}, r)
	return backends.DowngradeResult{Header: header(r.Header), ClusterVersion: r.Version}, err
}
