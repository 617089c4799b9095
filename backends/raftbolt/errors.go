package raftbolt

import "errors"

// Errors of Open and Check. The text around them says what to do.
var (
	// ErrNoDirectory: there is no data directory to check.
	ErrNoDirectory = errors.New("there is no data directory")
	// ErrForeignDirectory: the data directory was written by etcd, or by nobody
	// known. Not a byte of it was touched.
	ErrForeignDirectory = errors.New("the data directory is not shim's")
	// ErrDirectoryVersion: the data directory has a format that this version of
	// shim does not know.
	ErrDirectoryVersion = errors.New("the data directory has another format version")
	// ErrDirectoryInUse: another process holds the data directory.
	ErrDirectoryInUse = errors.New("the data directory is in use")
	// ErrDirectoryCorrupt: the files of the data directory contradict each other.
	ErrDirectoryCorrupt = errors.New("the data directory is corrupt")
	// ErrRestoreInterrupted: a restore into the data directory did not come to its end.
	ErrRestoreInterrupted = errors.New("a restore into the data directory was interrupted")
)

// Errors of Restore and SnapshotStatus.
var (
	// ErrSnapshot: the file is no snapshot, or a damaged or incomplete one.
	ErrSnapshot = errors.New("not a sound snapshot")
	// ErrNotEmpty: what shall be restored into is not empty.
	ErrNotEmpty = errors.New("not empty")
)

// Errors of decoding a command. A log that holds such a command was written by
// another version, or is damaged beyond what its checksums show.
var (
	errCommandVersion   = errors.New("command of an unknown version")
	errCommandKind      = errors.New("command of an unknown kind")
	errCommandMalformed = errors.New("malformed command")
	errCommandDeep      = errors.New("command is nested too deeply")
)
