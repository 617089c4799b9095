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
		st, err := s.state(ctx)
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

// memberAdd adds a member. As etcd (v3rpc/member.go, MemberAdd) it looks at the
// URLs before it asks who the caller is.
func (s *Server) memberAdd(ctx context.Context, r *pb.MemberAddRequest) (any, error) {
	if s.members == nil {
		return nil, s.unsupported("MemberAdd")
	}
	urls, err := backends.PeerURLs(r.PeerURLs)
	if err != nil {
		return nil, err
	}
	caller, err := s.authorize(ctx, backends.AccessAdmin)
	if err != nil {
		return nil, err
	}
	res, err := s.members.MemberAdd(ctx, caller, urls, r.IsLearner)
	if err != nil {
		return nil, err
	}
	res.Header.Revision = 0
	return &pb.MemberAddResponse{
		Header: wireHeader(res.Header), Member: wireMember(&res.Member), Members: wireMembers(res.Members),
	}, nil
}

func (s *Server) memberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (any, error) {
	if s.members == nil {
		return nil, s.unsupported("MemberRemove")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.members.MemberRemove(ctx, caller, r.ID)
	if err != nil {
		return nil, err
	}
	res.Header.Revision = 0
	return &pb.MemberRemoveResponse{Header: wireHeader(res.Header), Members: wireMembers(res.Members)}, nil
}

// memberUpdate does not look at the URLs, which are kept as they came, as in etcd
// (v3rpc/member.go, MemberUpdate).
func (s *Server) memberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (any, error) {
	if s.members == nil {
		return nil, s.unsupported("MemberUpdate")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.members.MemberUpdate(ctx, caller, r.ID, r.PeerURLs)
	if err != nil {
		return nil, err
	}
	res.Header.Revision = 0
	return &pb.MemberUpdateResponse{Header: wireHeader(res.Header), Members: wireMembers(res.Members)}, nil
}

func (s *Server) memberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (any, error) {
	if s.members == nil {
		return nil, s.unsupported("MemberPromote")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.members.MemberPromote(ctx, caller, r.ID)
	if err != nil {
		return nil, err
	}
	res.Header.Revision = 0
	return &pb.MemberPromoteResponse{Header: wireHeader(res.Header), Members: wireMembers(res.Members)}, nil
}

func wireMembers(members []backends.Member) []*pb.Member {
	out := make([]*pb.Member, len(members))
	for i := range members {
		out[i] = wireMember(&members[i])
	}
	return out
}

func wireMember(m *backends.Member) *pb.Member {
	return &pb.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.Learner}
}
