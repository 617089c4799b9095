package replica

// Entry is one committed position of the log.
type Entry struct {
	Index uint64
	Term  uint64
	// Commands are the proposals coalesced in this entry, in order; empty for raft's own entry at the beginning of a term.
	// They are immutable and may be kept; each keeps its whole entry (at most 1 MiB, or one command) alive.
	Commands [][]byte
}

// ConfState is the membership of the group as of some index, by member id. Slices are immutable.
type ConfState struct {
	Voters         []uint64
	Learners       []uint64
	VotersOutgoing []uint64
	LearnersNext   []uint64
	AutoLeave      bool
}

// ConfChangeKind says what a ConfChange does.
type ConfChangeKind int32

// The kinds of configuration change; the values are raft's and are part of the log's format.
const (
	AddVoter     ConfChangeKind = 0 // adds a voter, or promotes a learner
	RemoveMember ConfChangeKind = 1
	UpdateMember ConfChangeKind = 2 // changes nothing but the state machine's own record (Context)
	AddLearner   ConfChangeKind = 3
)

// ConfChange is a single-step change of membership.
type ConfChange struct {
	Kind    ConfChangeKind
	Member  uint64
	Context []byte // the state machine's own, opaque here
}

// Durable is what the state machine holds in synced storage.
type Durable struct {
	Index     uint64 // of the last entry contained
	Term      uint64 // of that entry
	ConfState ConfState
}

// Snapshot is a whole state of the state machine. Data is opaque and immutable.
type Snapshot struct {
	Durable
	Data []byte
}

// StateMachine is what the group replicates. All methods but Durable are called from one goroutine, the applier, never two at
// once. An error from any of them is final: the node stops and reports it.
type StateMachine interface {
	// Durable tells what is in synced storage. Called by Open, before any other method and before Open returns.
	Durable() Durable

	// Apply applies a run of committed entries with ascending indexes without gaps. It need not be durable on return. It may block
	// (writers then wait). Equal runs must give equal states on every member. The slice is the caller's after return; commands may be kept.
	Apply(entries []Entry) error

	// CheckConfChange decides, from replicated state alone, whether a committed configuration change takes effect. A refusal is
	// given to ApplyConfChange.
	CheckConfChange(change ConfChange) error

	// ApplyConfChange applies the configuration change at e (Commands is empty). state is the membership after it; the state machine
	// keeps it with the index, in the same transaction. refused is CheckConfChange's error, in which case membership is unchanged.
	ApplyConfChange(e Entry, change ConfChange, state ConfState, refused error) error

	// Snapshot makes everything applied so far durable and returns it. Called when a member lags behind the log.
	Snapshot() (Snapshot, error)

	// StageSnapshot stores a received snapshot beside the state, durable on return, without making it the state. It is called from
	// the writer's goroutine and may run beside Apply.
	StageSnapshot(Snapshot) error

	// InstallSnapshot makes the staged snapshot of that index and term the state, durable on return; a snapshot at or below the
	// state's own durable index is discarded. Also called by Open, when a crash came between staging and installing.
	InstallSnapshot(index, term uint64) error
}
