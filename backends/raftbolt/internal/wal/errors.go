package wal

import "errors"

// Errors of Open. All but the file system's are about the directory's content and are never healed by trying again.
var (
	// ErrNoLog: the directory holds no log.
	ErrNoLog = errors.New("wal: no log")
	// ErrExists: Create found a log.
	ErrExists = errors.New("wal: a log exists already")
	// ErrForeign: the directory holds *.wal files that are not ours.
	ErrForeign = errors.New("wal: the directory holds another program's log")
	// ErrVersion: the log was written in a format that this version does not know.
	ErrVersion = errors.New("wal: unknown log format version")
	// ErrOwner: the log belongs to another cluster or member.
	ErrOwner = errors.New("wal: the log belongs to another member")
	// ErrBehindStore: the log ends below the state machine's durable index, so synced entries are gone.
	ErrBehindStore = errors.New("wal: the log ends below the store")
	// ErrAheadOfStore: the log begins above the state machine's durable index + 1, so entries between them are gone.
	ErrAheadOfStore = errors.New("wal: the log begins above the store")
	// ErrCorrupt: the log is damaged in a way that no crash explains.
	ErrCorrupt = errors.New("wal: corrupt log")
)

// Errors of a running log.
var (
	// ErrCut: the entry is below the first index.
	ErrCut = errors.New("wal: entry was cut")
	// ErrBeyond: the entry is above the last index.
	ErrBeyond = errors.New("wal: entry is beyond the end")
	// ErrClosed: the log is closed.
	ErrClosed = errors.New("wal: closed")
	// errUnsynced: a batch was written before the one before it was synced. A fault of the caller.
	errUnsynced = errors.New("wal: the batch before is not synced")
)

// advice ends every message about damage.
const advice = "entries that were acknowledged may be lost; do not delete or edit the log: " +
	"restore this member from a snapshot, or, in a group, remove it and add it again with an empty directory"
