// Package peer carries raft's messages between members.
//
// Only the in-process network exists so far: it serves groups inside one process.
package peer
