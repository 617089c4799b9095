package backends

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Member is a member of a cluster.
type Member struct {
	ID uint64
	// Name and ClientURLs are what the member tells of itself; empty until it was
	// started.
	Name       string
	PeerURLs   []string
	ClientURLs []string
	Learner    bool
}

// MemberListResult lists members, by ascending id. Its header has no revision, as
// in etcd.
type MemberListResult struct {
	Header  Header
	Members []Member
}

// MemberAddResult is a new member, and all members with it.
type MemberAddResult struct {
	MemberListResult
	Member Member
}

// Members knows the members of the cluster, and changes them one at a time. Where
// it is absent etcdapi lists this server alone.
//
// A change is answered when it is part of the cluster's configuration, with the
// members as it left them. Besides the errors named below there are those of a write: ErrNoLeader,
// ErrTooManyRequests (certainly not proposed) and ErrOutcomeUnknown.
type Members interface {
	// MemberList lists the members; linearizable reflects every acknowledged
	// change.
	MemberList(ctx context.Context, caller Caller, linearizable bool) (MemberListResult, error)
	// MemberAdd adds a member that is going to be started, under an id that follows from
	// its peer URLs and the time. The URLs are as PeerURLs returns them.
	// ErrNotEnoughStarted and ErrUnhealthy when the cluster could not write any more if
	// that member never starts; ErrPeerURLExists, ErrTooManyLearners; ErrMemberExists, or
	// ErrMemberNotFound if it was removed, when the id was given in this very second.
	MemberAdd(ctx context.Context, caller Caller, peerURLs []string, learner bool) (MemberAddResult, error)
	// MemberRemove removes a member, whose id is never used again. ErrMemberNotFound;
	// ErrNotEnoughStarted and ErrUnhealthy when too few voters would be left.
	MemberRemove(ctx context.Context, caller Caller, id uint64) (MemberListResult, error)
	// MemberUpdate replaces a member's peer URLs, which nobody has looked at: as in
	// etcd a member may give itself any, also none. ErrMemberNotFound, ErrPeerURLExists;
	// ErrMemberBadURLs where etcd 3.7.3 ends with a panic: when another member would have to use them.
	MemberUpdate(ctx context.Context, caller Caller, id uint64, peerURLs []string) (MemberListResult, error)
	// MemberPromote makes a learner a voter. ErrMemberNotFound, ErrMemberNotLearner,
	// ErrLearnerNotReady while its log is far behind the leader's, ErrNotEnoughStarted,
	// ErrNotLeader.
	MemberPromote(ctx context.Context, caller Caller, id uint64) (MemberListResult, error)
}

// PeerURLs checks peer URLs and returns them in their normal form, sorted, as etcd
// does (client/pkg/types, NewURLs). There must be one at least. ErrMemberBadURLs.
func PeerURLs(given []string) ([]string, error) {
	if len(given) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrMemberBadURLs)
	}
	urls := make([]string, len(given))
	for i, text := range given {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMemberBadURLs, err)
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" {
				return nil, fmt.Errorf("%w: %q is not SCHEME://HOST:PORT", ErrMemberBadURLs, text)
			}
		case "unix", "unixs":
		default:
			return nil, fmt.Errorf("%w: %q is not of http, https, unix or unixs", ErrMemberBadURLs, text)
		}
		urls[i] = u.String()
	}
	slices.Sort(urls)
	return urls, nil
}

// LeaderMover hands leadership over.
type LeaderMover interface {
	// MoveLeader makes a voter the leader, and returns when it is. ErrNotLeader when
	// this member does not lead, ErrBadLeaderTransferee when the target is no voter,
	// ErrLeaderTransferTimeout when it did not take over in time.
	MoveLeader(ctx context.Context, caller Caller, target uint64) error
}

// DowngradeAction is what to do about a downgrade. The numbers are those of
// etcdserverpb.DowngradeRequest.DowngradeAction.
type DowngradeAction int32

// The actions of a downgrade.
const (
	DowngradeValidate DowngradeAction = iota
	DowngradeEnable
	DowngradeCancel
)

// DowngradeRequest asks whether the cluster can go back to an earlier version,
// begins that, or ends it.
type DowngradeRequest struct {
	Caller Caller
	Action DowngradeAction
	// TargetVersion is MAJOR.MINOR.0; not used by DowngradeCancel.
	TargetVersion string
}

// DowngradeResult tells the version that the cluster speaks, MAJOR.MINOR.
type DowngradeResult struct {
	Header         Header
	ClusterVersion string
}

// DowngradeInfo is a downgrade under way; the zero value is none.
type DowngradeInfo struct {
	Enabled bool
	// TargetVersion is MAJOR.MINOR.0.
	TargetVersion string
}

// Downgrader lets a cluster go back to the version before. While that is under way
// the cluster speaks the earlier version, and its store is written for it.
type Downgrader interface {
	// Downgrade does what the request says. Validate and enable:
	// ErrInvalidDowngradeTarget when the target is not the version before the
	// cluster's, ErrDowngradeInProcess when one is under way,
	// ErrClusterVersionUnavailable. To cancel when none is under way is no error.
	Downgrade(ctx context.Context, req *DowngradeRequest) (DowngradeResult, error)
}
