package replica

import "errors"

// Errors of Propose and ProposeConfChange, and of a proposal's dropped callback. Each of them, ErrOutcomeUnknown excepted, says that
// the command is certainly not proposed and never will be.
var (
	// ErrNoLeader: this member knows no leader.
	ErrNoLeader = errors.New("replica: no leader")
	// ErrDropped: raft refused the proposal (leadership is being transferred, this member was removed, or the uncommitted tail of
	// the log is at its limit).
	ErrDropped = errors.New("replica: proposal dropped")
	// ErrTooManyPending: the queue of waiting proposals is full, or the state machine is too many entries behind.
	ErrTooManyPending = errors.New("replica: too many pending proposals")
	// ErrNoSpace: the disk under the log is full, and what room the log still has is kept for other commands.
	ErrNoSpace = errors.New("replica: no space for the log")
	// ErrTooLarge: the command exceeds MaxCommandBytes.
	ErrTooLarge = errors.New("replica: command too large")
	// ErrOutcomeUnknown: the command was handed to raft, and whether it was or will be committed is not known. The node never returns
	// it: it is what a caller answers who gave up waiting.
	ErrOutcomeUnknown = errors.New("replica: outcome unknown")
)

// ErrStopped is returned by every method once the node stops. A command that was already handed to raft has an unknown outcome.
var ErrStopped = errors.New("replica: stopped")
