package etcdapi

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

// Errors of New.
var (
	// ErrNoBackend: New was given a nil backend.
	ErrNoBackend = errors.New("etcdapi: no backend")
	// ErrServerClosed is what Serve returns after Shutdown.
	ErrServerClosed = errors.New("etcdapi: server closed")
)

// errMessageTooLarge: what a client of the gateway sends as one message is beyond what
// any request needs.
var errMessageTooLarge = errors.New("message is too large")

// Errors of Lock and Election, with the texts of etcd, which gives them no code:
// client/v3/concurrency, mutex.go and election.go; v3election/election.go.
var (
	// ErrSessionExpired: the lease of a caller that waits for a lock has ended.
	ErrSessionExpired = errors.New("mutex: session is expired")
	// ErrElectionNotLeader: the leader's key is gone, or another's.
	ErrElectionNotLeader = errors.New("election: not leader")
	// ErrElectionNoLeader: nobody stands in the election.
	ErrElectionNoLeader = errors.New("election: no leader")
	// ErrMissingLeaderKey: the request does not tell the leader.
	ErrMissingLeaderKey = errors.New(`"leader" field must be provided`)
)

// The texts of two cancelled watches are those of etcd's storage layer, without
// the prefix of its other errors (storage/mvcc, ErrWatcherDuplicateID and
// ErrEmptyWatcherRange).
const (
	reasonDuplicateWatch = "mvcc: duplicate watch ID provided on the WatchStream"
	reasonEmptyRange     = "mvcc: watcher range is empty"
	// reasonTooManyWatches is ours: etcd has no bound.
	reasonTooManyWatches = "etcdserver: too many watches on one stream"
)

// wireErrors maps the waist's sentinels to what etcd answers (v3rpc/util.go,
// toGRPCErrorMap; the wire differs from rpctypes' nominal codes where said).
func wireErrors() []struct{ is, wire error } {
	return []struct{ is, wire error }{
		{backends.ErrCompacted, rpctypes.ErrGRPCCompacted},
		{backends.ErrFutureRevision, rpctypes.ErrGRPCFutureRev},
		{backends.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},
		{backends.ErrRequestTooLarge, rpctypes.ErrGRPCRequestTooLarge},
		{backends.ErrLeaseNotFound, rpctypes.ErrGRPCLeaseNotFound},
		{backends.ErrLeaseExists, rpctypes.ErrGRPCLeaseExist},
		{backends.ErrLeaseTTLTooLarge, rpctypes.ErrGRPCLeaseTTLTooLarge},
		{backends.ErrPermissionDenied, rpctypes.ErrGRPCPermissionDenied},
		{backends.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
		{backends.ErrCorrupt, rpctypes.ErrGRPCCorrupt},
		// etcd's map holds the client's form of this error, which grpc sends as Unknown.
		{backends.ErrTooManyRequests, status.Error(codes.Unknown, "etcdserver: too many requests")},
		{backends.ErrNoLeader, rpctypes.ErrGRPCNoLeader},
		{backends.ErrNotLeader, rpctypes.ErrGRPCNotLeader},
		{backends.ErrLearner, rpctypes.ErrGRPCNotSupportedForLearner},
		{backends.ErrTimeout, rpctypes.ErrGRPCTimeout},
		{backends.ErrStopped, rpctypes.ErrGRPCStopped},
		{backends.ErrUserEmpty, rpctypes.ErrGRPCUserEmpty},
		{backends.ErrUserAlreadyExist, rpctypes.ErrGRPCUserAlreadyExist},
		{backends.ErrUserNotFound, rpctypes.ErrGRPCUserNotFound},
		{backends.ErrRoleEmpty, rpctypes.ErrGRPCRoleEmpty},
		{backends.ErrRoleAlreadyExist, rpctypes.ErrGRPCRoleAlreadyExist},
		{backends.ErrRoleNotFound, rpctypes.ErrGRPCRoleNotFound},
		{backends.ErrRoleNotGranted, rpctypes.ErrGRPCRoleNotGranted},
		{backends.ErrPermissionNotGiven, rpctypes.ErrGRPCPermissionNotGiven},
		{backends.ErrPermissionNotGranted, rpctypes.ErrGRPCPermissionNotGranted},
		{backends.ErrRootUserNotExist, rpctypes.ErrGRPCRootUserNotExist},
		{backends.ErrRootRoleNotExist, rpctypes.ErrGRPCRootRoleNotExist},
		{backends.ErrAuthNotEnabled, rpctypes.ErrGRPCAuthNotEnabled},
		{backends.ErrAuthFailed, rpctypes.ErrGRPCAuthFailed},
		// etcd's map lacks this error of its store, whose text is sent as it is.
		{backends.ErrNoPasswordUser, status.Error(codes.Unknown, "auth: authentication failed, password was given for no password user")},
		{backends.ErrPasswordTooLong, status.Error(codes.Unknown, backends.ErrPasswordTooLong.Error())},
		{backends.ErrInvalidAuthToken, rpctypes.ErrGRPCInvalidAuthToken},
		{backends.ErrInvalidAuthMgmt, rpctypes.ErrGRPCInvalidAuthMgmt},
		{backends.ErrAuthOldRevision, rpctypes.ErrGRPCAuthOldRevision},
		{backends.ErrMemberNotFound, rpctypes.ErrGRPCMemberNotFound},
		{backends.ErrMemberExists, rpctypes.ErrGRPCMemberExist},
		{backends.ErrPeerURLExists, rpctypes.ErrGRPCPeerURLExist},
		{backends.ErrMemberBadURLs, rpctypes.ErrGRPCMemberBadURLs},
		{backends.ErrMemberNotLearner, rpctypes.ErrGRPCMemberNotLearner},
		{backends.ErrLearnerNotReady, rpctypes.ErrGRPCLearnerNotReady},
		{backends.ErrTooManyLearners, rpctypes.ErrGRPCTooManyLearners},
		// Again the client's form.
		{backends.ErrNotEnoughStarted, status.Error(codes.Unknown, "etcdserver: re-configuration failed due to not enough started members")},
		{backends.ErrUnhealthy, rpctypes.ErrGRPCUnhealthy},
		{backends.ErrBadLeaderTransferee, rpctypes.ErrGRPCBadLeaderTransferee},
		// Not in etcd's map at all.
		{backends.ErrLeaderTransferTimeout, status.Error(codes.Unknown, "etcdserver: request timed out, leader transfer took too long")},
		{backends.ErrInvalidDowngradeTarget, rpctypes.ErrGRPCInvalidDowngradeTargetVersion},
		{backends.ErrDowngradeInProcess, rpctypes.ErrGRPCDowngradeInProcess},
		{backends.ErrClusterVersionUnavailable, rpctypes.ErrGRPCClusterVersionUnavailable},
		// A client that sees Unavailable knows that the write may have been done.
		{backends.ErrOutcomeUnknown, rpctypes.ErrGRPCTimeout},
	}
}

// isOfAuth tells whether err says that the caller may not do what it asked for, or
// that nobody knows who it is.
func isOfAuth(err error) bool {
	return errors.Is(err, backends.ErrPermissionDenied) || errors.Is(err, backends.ErrUserEmpty) ||
		errors.Is(err, backends.ErrAuthOldRevision) || errors.Is(err, backends.ErrInvalidAuthToken)
}

// wireError turns any error into the status that is sent. An error of a context
// comes first: it is what etcd answers when a write's time was over.
func (s *Server) wireError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	}
	if e, ok := errors.AsType[*backends.Unsupported](err); ok {
		return status.Error(codes.Unimplemented, "etcdserver: "+e.Error())
	}
	if e, ok := errors.AsType[*backends.Remote](err); ok {
		return status.Error(codes.Code(e.Code), e.Message)
	}
	for _, e := range s.wireErrors {
		if errors.Is(err, e.is) {
			return e.wire
		}
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}

// unsupported is the answer of a service whose capability the backend lacks.
func (s *Server) unsupported(what string) error {
	return s.wireError(&backends.Unsupported{Backend: s.info.Name, What: what})
}
