package replica

import "errors"

// Errors of Propose and ProposeConfChange, and of a proposal's Dropped callback. Each of them, ErrOutcomeUnknown excepted, says that
// the command is certainly not proposed and never will be.
var (
	// ErrNoLeader: this member knows no leader.
	ErrNoLeader = errors.New("replica: no leader")
	// ErrDropped: raft refused the proposal (leadership is being transferred, this member was removed, or the uncommitted tail of
	// the log is at its limit).
	ErrDropped = errors.New("replica: proposal dropped")
	// ErrTooManyPending: the queue of waiting proposals is full, or the state machine is too many entries behind.
	ErrTooManyPending = errors.New("replica: too many pending proposals")
	// ErrTooLarge: the command exceeds MaxCommandBytes.
	ErrTooLarge = errors.New("replica: command too large")
	// ErrOutcomeUnknown: the command was handed to raft, and whether it was or will be committed is not known.
	ErrOutcomeUnknown = errors.New("replica: outcome unknown")
)

// ErrStopped is returned by every method once the node stops. A command that was already handed to raft has an unknown outcome.
var ErrStopped = errors.New("replica: stopped")

// Errors of Open beside those of package wal. They wrap text that tells the operator what to do.
var (
	// ErrLogBehindStore: the log ends below the state machine's durable index, so synced entries are gone.
	ErrLogBehindStore = errors.New("replica: the log ends below the store")
	// ErrLogAheadOfStore: the log begins above the state machine's durable index + 1, so entries between them are gone.
	ErrLogAheadOfStore = errors.New("replica: the log begins above the store")
)
