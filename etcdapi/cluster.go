package etcdapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// memberList lists the members, or this server alone when the backend knows
// none. As etcd's, its header has no revision (v3rpc/member.go, header).
func (s *Server) memberList(ctx context.Context, r *pb.MemberListRequest) (any, error) {
	if s.members == nil {
		st, err := s.backend.Status(ctx)
		if err != nil {
			return nil, err
		}
		st.Header.Revision = 0
		return &pb.MemberListResponse{Header: wireHeader(st.Header), Members: []*pb.Member{{
			ID: st.Header.MemberID, Name: s.cfg.Name, ClientURLs: s.cfg.ClientURLs,
		}}}, nil
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.members.MemberList(ctx, caller, r.Linearizable)
	if err != nil {
		return nil, err
	}
	res.Header.Revision = 0
	return &pb.MemberListResponse{Header: wireHeader(res.Header), Members: wireMembers(res.Members)}, nil
}

func wireMembers(members []backends.Member) []*pb.Member {
	out := make([]*pb.Member, len(members))
	for i, m := range members {
		out[i] = &pb.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.Learner}
	}
	return out
}
