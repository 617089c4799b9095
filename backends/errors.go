package backends

import (
	"errors"
	"fmt"
)

// Errors of a request as such: the same request would fail again.
var (
	// ErrCompacted: the revision was compacted away.
	ErrCompacted = errors.New("required revision has been compacted")
	// ErrFutureRevision: the revision was not reached yet.
	ErrFutureRevision = errors.New("required revision is a future revision")
	// ErrKeyNotFound: IgnoreValue or IgnoreLease on a key that does not exist.
	ErrKeyNotFound = errors.New("key not found")
	// ErrRequestTooLarge: the request does not fit into one proposal.
	ErrRequestTooLarge = errors.New("request is too large")
	// ErrLeaseNotFound: there is no such lease.
	ErrLeaseNotFound = errors.New("requested lease not found")
	// ErrLeaseExists: a lease with the chosen id exists.
	ErrLeaseExists = errors.New("lease already exists")
	// ErrLeaseTTLTooLarge: the TTL is above 9,000,000,000 seconds.
	ErrLeaseTTLTooLarge = errors.New("too large lease TTL")
	// ErrPermissionDenied: the caller may not do this.
	ErrPermissionDenied = errors.New("permission denied")
)

// Errors of the store's state: a write was certainly not done.
var (
	// ErrNoSpace: the quota is used up, or the disk is full.
	ErrNoSpace = errors.New("database space exceeded")
	// ErrCorrupt: the corruption alarm is raised.
	ErrCorrupt = errors.New("corrupt cluster")
	// ErrTooManyRequests: a bounded queue is full.
	ErrTooManyRequests = errors.New("too many requests")
	// ErrNoLeader: there is no leader to ask.
	ErrNoLeader = errors.New("no leader")
	// ErrNotLeader: only the leader can do this, and this member is not it.
	ErrNotLeader = errors.New("not leader")
	// ErrLearner: a learner does not serve this.
	ErrLearner = errors.New("rpc not supported for learner")
	// ErrTimeout: a read could not be confirmed in time.
	ErrTimeout = errors.New("request timed out")
	// ErrStopped: the backend was closed.
	ErrStopped = errors.New("server stopped")
)

// Errors of changing the members of a cluster, its leader or its version. Nothing
// was changed, but for ErrLeaderTransferTimeout.
var (
	// ErrMemberNotFound: there is no such member, or not any more.
	ErrMemberNotFound = errors.New("member not found")
	// ErrMemberExists: there is a member with this id.
	ErrMemberExists = errors.New("member ID already exists")
	// ErrPeerURLExists: another member has one of the peer URLs.
	ErrPeerURLExists = errors.New("peer URLs already exist")
	// ErrMemberBadURLs: a peer URL cannot be used.
	ErrMemberBadURLs = errors.New("given member URLs are invalid")
	// ErrMemberNotLearner: only a learner can be promoted.
	ErrMemberNotLearner = errors.New("can only promote a learner member")
	// ErrLearnerNotReady: the learner's log is too far behind.
	ErrLearnerNotReady = errors.New("can only promote a learner member which is in sync with leader")
	// ErrTooManyLearners: there are as many learners as are allowed.
	ErrTooManyLearners = errors.New("too many learner members in cluster")
	// ErrNotEnoughStarted: of the voters after the change, those that were ever
	// started would be no quorum.
	ErrNotEnoughStarted = errors.New("re-configuration failed due to not enough started members")
	// ErrUnhealthy: of the voters after the change, those that are connected would be
	// no quorum.
	ErrUnhealthy = errors.New("unhealthy cluster")
	// ErrBadLeaderTransferee: only a voter can lead.
	ErrBadLeaderTransferee = errors.New("bad leader transferee")
	// ErrLeaderTransferTimeout: the new leader did not take over; it may still do so.
	ErrLeaderTransferTimeout = errors.New("request timed out, leader transfer took too long")
	// ErrInvalidDowngradeTarget: only the minor version before can be gone back to.
	ErrInvalidDowngradeTarget = errors.New("invalid downgrade target version")
	// ErrDowngradeInProcess: one downgrade at a time.
	ErrDowngradeInProcess = errors.New("cluster has a downgrade job in progress")
	// ErrClusterVersionUnavailable: the members have not yet agreed on a version.
	ErrClusterVersionUnavailable = errors.New("cluster version not found during downgrade")
)

// Errors of authentication and of its management.
var (
	// ErrUserEmpty: the user's name is empty, or the caller did not authenticate.
	ErrUserEmpty = errors.New("user name is empty")
	// ErrUserAlreadyExist, ErrUserNotFound: there is such a user; there is none.
	ErrUserAlreadyExist = errors.New("user name already exists")
	ErrUserNotFound     = errors.New("user name not found")
	// ErrRoleEmpty: the role's name is empty.
	ErrRoleEmpty = errors.New("role name is empty")
	// ErrRoleAlreadyExist, ErrRoleNotFound: there is such a role; there is none.
	ErrRoleAlreadyExist = errors.New("role name already exists")
	ErrRoleNotFound     = errors.New("role name not found")
	// ErrRoleNotGranted: the user does not have the role.
	ErrRoleNotGranted = errors.New("role is not granted to the user")
	// ErrPermissionNotGiven: a permission is missing from the request.
	ErrPermissionNotGiven = errors.New("permission not given")
	// ErrPermissionNotGranted: the role has no permission on exactly this range.
	ErrPermissionNotGranted = errors.New("permission is not granted to the role")
	// ErrRootUserNotExist, ErrRootRoleNotExist: authentication cannot be turned on
	// without the user root, or without its role root.
	ErrRootUserNotExist = errors.New("root user does not exist")
	ErrRootRoleNotExist = errors.New("root user does not have root role")
	// ErrAuthNotEnabled: there are no tokens while authentication is off.
	ErrAuthNotEnabled = errors.New("authentication is not enabled")
	// ErrAuthFailed: there is no such user, or this is not its password.
	ErrAuthFailed = errors.New("authentication failed, invalid user ID or password")
	// ErrNoPasswordUser: a password for a user without one.
	ErrNoPasswordUser = errors.New("authentication failed, password was given for no password user")
	// ErrPasswordTooLong: bcrypt takes 72 bytes. Its text is bcrypt's, which etcd sends.
	ErrPasswordTooLong = errors.New("bcrypt: password length exceeds 72 bytes")
	// ErrInvalidAuthToken: the token is unknown, ended, or not of this server.
	ErrInvalidAuthToken = errors.New("invalid auth token")
	// ErrInvalidAuthMgmt: root cannot be taken away while authentication is on.
	ErrInvalidAuthMgmt = errors.New("invalid auth management")
	// ErrAuthOldRevision: users or roles changed since the caller was identified.
	ErrAuthOldRevision = errors.New("revision of auth store is old")
)

// ErrOutcomeUnknown is of a write that was sent on its way and whose fate is not known. It
// may have taken effect, may still do so, or never.
var ErrOutcomeUnknown = errors.New("outcome of the request is unknown")

// Unsupported is the error for what a backend cannot do.
type Unsupported struct {
	// Backend is the backend's name, and What the thing asked for, in words.
	Backend string
	What    string
}

func (e *Unsupported) Error() string {
	return fmt.Sprintf("%s is not supported by the %s backend", e.What, e.Backend)
}

// Remote is an error that another server answered and that is sent on unchanged.
type Remote struct {
	// Code is a gRPC status code.
	Code    uint32
	Message string
}

func (e *Remote) Error() string { return e.Message }
