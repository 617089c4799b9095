// Package replica is consensus over an opaque, deterministic state machine: it turns commands proposed on any member into one
// sequence of entries that every member applies in the same order. It knows no keys.
//
// # Nouns
//
//   - A command is a byte slice that only the state machine understands.
//   - An entry is one position of the replicated log: index, term, and the commands that were coalesced in it.
//   - The log is the durable part of that sequence on this member (package wal).
//   - The state machine applies entries, and tells what it holds durably.
//   - A Node is this member's part of the group.
//
// # Duties of the caller, in order
//
//  1. A founding member calls CreateLog once, then writes its store: members and ConfState at index 1, term 1 (the durable index
//     is 1 and the log begins at 2). The log comes first, so that a store without a log always means a lost log.
//  2. Open, with a state machine that answers Durable. Open recovers the log and starts the goroutines; entries above the durable
//     index are applied again. Nothing is served before Ready is closed.
//  3. Propose commands; results come by StateMachine.Apply, matched by ids that the caller puts into its commands.
//  4. Call Durable after each synced flush of the state machine: only entries up to that index are ever cut from the log.
//  5. Watch Done; when it closes, Err tells why. After a failed write or sync of the log the node has stopped, and the process must end.
//  6. Stop.
//
// # Order of a write
//
// Propose queues. As soon as the log writer is free it takes everything that waits, coalesces it into entries of at most 1 MiB (or
// one command), hands them to raft, sends them to the other members, writes them in one batch with one sync, counts the quorum, and
// gives the committed entries to the applier. Whatever arrives during a sync is in the next batch.
//
// # Goroutines
//
// One writer (raft steps, log batches), one applier (all calls of StateMachine but Durable), one ticker, one that prepares spare log
// segments. Open starts them, Stop ends them. RawNode is stepped under one lock that is never held across a sync or a call of
// the state machine.
package replica
