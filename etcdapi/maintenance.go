package etcdapi

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

func (s *Server) status(ctx context.Context, _ *pb.StatusRequest) (any, error) {
	st, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	resp := &pb.StatusResponse{
		Header:           wireHeader(st.Header),
		Version:          s.cfg.ServerVersion,
		Leader:           st.Leader,
		RaftIndex:        st.RaftIndex,
		RaftAppliedIndex: st.AppliedIndex,
		RaftTerm:         st.Header.Term,
		DbSize:           st.SizeBytes,
		DbSizeInUse:      st.SizeInUseBytes,
		DbSizeQuota:      st.QuotaBytes,
		IsLearner:        st.Learner,
		StorageVersion:   st.StorageVersion,
		DowngradeInfo:    &pb.DowngradeInfo{Enabled: st.Downgrade.Enabled, TargetVersion: st.Downgrade.TargetVersion},
		Errors:           st.Errors,
	}
	switch {
	case st.Leader == 0 && st.Header.Term == 0:
		resp.Leader = st.Header.MemberID // a store without consensus leads itself
	case st.Leader == 0:
		resp.Errors = append(resp.Errors, "etcdserver: no leader")
	}
	for _, a := range st.Alarms {
		resp.Errors = append(resp.Errors, alarmText(a))
	}
	return resp, nil
}

// alarmText is an alarm in protobuf's text form, which leaves out what is zero; it has
// one space or two, by the build of the binary.
func alarmText(a backends.Alarm) string {
	if a.MemberID == 0 {
		return "alarm:" + pb.AlarmType(a.Kind).String()
	}
	return fmt.Sprintf("memberID:%d alarm:%s", a.MemberID, pb.AlarmType(a.Kind))
}

// alarm asks for or, with the role root, changes alarms. A backend without alarms has none.
func (s *Server) alarm(ctx context.Context, r *pb.AlarmRequest) (any, error) {
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if r.Action != pb.AlarmRequest_GET {
		if caller, err = s.authorize(ctx, backends.AccessAdmin); err != nil {
			return nil, err
		}
	}
	if r.Action < pb.AlarmRequest_GET || r.Action > pb.AlarmRequest_DEACTIVATE {
		// etcd 3.7.3 ends with a panic here.
		return nil, status.Error(codes.InvalidArgument, "etcdserver: unknown alarm action")
	}
	if s.alarms == nil {
		if r.Action != pb.AlarmRequest_GET {
			return nil, s.unsupported("changing alarms")
		}
		st, err := s.state(ctx)
		if err != nil {
			return nil, err
		}
		return &pb.AlarmResponse{Header: wireHeader(st.Header)}, nil
	}
	res, err := s.alarms.Alarm(ctx, &backends.AlarmRequest{
		Caller: caller, Action: backends.AlarmAction(r.Action), MemberID: r.MemberID, Kind: backends.AlarmKind(r.Alarm),
	})
	if err != nil {
		return nil, err
	}
	return &pb.AlarmResponse{Header: wireHeader(res.Header), Alarms: wireAlarms(res.Alarms)}, nil
}

func wireAlarms(alarms []backends.Alarm) []*pb.AlarmMember {
	out := make([]*pb.AlarmMember, len(alarms))
	for i, a := range alarms {
		out[i] = &pb.AlarmMember{MemberID: a.MemberID, Alarm: pb.AlarmType(a.Kind)}
	}
	return out
}

func (s *Server) hashKV(ctx context.Context, r *pb.HashKVRequest) (any, error) {
	if s.hasher == nil {
		return nil, s.unsupported("HashKV")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.hasher.HashKV(ctx, caller, r.Revision)
	if err != nil {
		return nil, err
	}
	return &pb.HashKVResponse{
		Header: wireHeader(res.Header), Hash: res.Hash, CompactRevision: res.CompactRevision, HashRevision: res.HashRevision,
	}, nil
}

// hash hashes the store as a whole.
func (s *Server) hash(ctx context.Context, _ *pb.HashRequest) (any, error) {
	if s.hasher == nil {
		return nil, s.unsupported("Hash")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.hasher.Hash(ctx, caller)
	if err != nil {
		return nil, err
	}
	return &pb.HashResponse{Header: wireHeader(res.Header), Hash: res.Hash}, nil
}

// moveLeader answers without a header, as etcd.
func (s *Server) moveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (any, error) {
	if s.leaderMover == nil {
		return nil, s.unsupported("MoveLeader")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.leaderMover.MoveLeader(ctx, caller, r.TargetID); err != nil {
		return nil, err
	}
	return &pb.MoveLeaderResponse{}, nil
}

// errUnknownDowngrade is etcd's answer to an unknown action (etcdserver/errors,
// ErrUnknownMethod, which its map of codes lacks).
var errUnknownDowngrade = status.Error(codes.Unknown, "etcdserver: unknown method")

func (s *Server) downgrade(ctx context.Context, r *pb.DowngradeRequest) (any, error) {
	if s.downgrader == nil {
		return nil, s.unsupported("Downgrade")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	req := &backends.DowngradeRequest{Caller: caller, Action: backends.DowngradeAction(r.Action)}
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE:
		var ok bool
		if req.TargetVersion, ok = clusterVersionOf(r.Version); !ok {
			return nil, rpctypes.ErrGRPCWrongDowngradeVersionFormat
		}
	case pb.DowngradeRequest_CANCEL:
	default:
		return nil, errUnknownDowngrade
	}
	res, err := s.downgrader.Downgrade(ctx, req)
	if err != nil {
		return nil, err
	}
	return &pb.DowngradeResponse{Header: wireHeader(res.Header), Version: res.ClusterVersion}, nil
}

// clusterVersionOf reads MAJOR.MINOR, or a semantic version of which these two
// count, as etcd does (etcdserver/cluster_util.go, convertToClusterVersion, with
// coreos/go-semver).
func clusterVersionOf(text string) (version string, ok bool) {
	for _, t := range []string{text, text + ".0"} {
		rest, build, _ := strings.Cut(t, "+")
		rest, pre, _ := strings.Cut(rest, "-")
		parts := strings.SplitN(rest, ".", 3)
		if len(parts) != 3 || !semverIdentifier(pre) || !semverIdentifier(build) {
			continue
		}
		var numbers [3]int64
		good := true
		for i, p := range parts {
			n, err := strconv.ParseInt(p, 10, 64)
			numbers[i], good = n, good && err == nil
		}
		if good {
			return fmt.Sprintf("%d.%d.0", numbers[0], numbers[1]), true
		}
	}
	return "", false
}

// semverIdentifier tells whether a pre-release or build is empty, or of words of
// letters, digits and hyphens between dots.
func semverIdentifier(s string) bool {
	if s == "" {
		return true
	}
	for word := range strings.SplitSeq(s, ".") {
		if word == "" || strings.Trim(word, "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
			return false
		}
	}
	return true
}

// defragment answers without a header, as etcd.
func (s *Server) defragment(ctx context.Context, _ *pb.DefragmentRequest) (any, error) {
	if s.defragmenter == nil {
		return nil, s.unsupported("Defragment")
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	s.log.Info("starting defragment")
	if _, err := s.defragmenter.Defragment(ctx, caller); err != nil {
		return nil, err
	}
	s.log.Info("finished defragment")
	return &pb.DefragmentResponse{}, nil
}
