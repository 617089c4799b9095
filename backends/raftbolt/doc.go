// Package raftbolt is the native backend: revisions of keys in a bbolt file with
// etcd's schema (internal/mvcc), replicated by raft over a log of its own
// (internal/replica, internal/wal). This version runs clusters of one member;
// every request goes through raft and the log as in a larger one.
//
// # Nouns
//
//   - A [Backend] is an open member. It implements backends.Backend and the
//     optional interfaces.
//   - A command is what one proposal asks of every member; see command.go for
//     its encoding.
//   - The machine applies committed commands to store, leases, alarms, members,
//     users and roles, equally on every member.
//   - A waiter is a request that waits for the outcome of its command, found by
//     the request id in it: member id, boot id, counter. A command that is
//     applied again after a restart finds none.
//   - The directory is the data directory; see datadir.go for its files.
//
// # Flows
//
// A write: kv.go checks and encodes, proposes and waits; replica coalesces,
// writes, syncs; apply.go decodes, passes the gates and changes the store in one
// mvcc.Txn; the waiter reads what it asked for from a View pinned there.
//
// A read: one ReadIndex (or, serializable, only that an entry of the current term
// was applied since the start), then a View of the store.
//
// Who may do it: access.go. With authentication on, a write carries its caller and is
// checked where it is applied; a read is checked on the View it reads.
//
// A watch: watch*.go; the hub reads the store's history, and the applier never
// waits for it.
//
// # Errors
//
// Before a command is handed to raft every error says that it certainly was not
// done. After it a wait that ends without an outcome is backends.ErrOutcomeUnknown,
// or the context's error.
//
// # Goroutines
//
// Open starts, beside those of store, node and hub, and Close ends: leases
// (leadership, expiry, checkpoints; also publishes this member's attributes),
// ticks (time-outs of waiters), supervise (final errors, the NOSPACE alarm of a
// full disk), versions (what the cluster should speak) and, if configured,
// compaction.
//
// # Members
//
// One member runs. Learners can be added, changed and removed, as in etcd, so that the
// store, the configuration and their order in the log are those of a cluster; there
// is no transport yet that would bring them the log. A second voter is refused:
// it could never be started, and two voters without one write nothing.
//
// # Damage
//
// A start and, further, Check find what is damaged on the disk. What neither can
// see on one member: a flipped bit inside a value, or in the name of a key that
// was written once; one in the very last batch of the log, which looks like a
// write that was cut off.
//
// # Limits
//
// A command is at most replica.MaxCommandBytes; transactions nest at most
// maxTxnDepth deep; at most expiryBatch revocations are in flight. The number of
// waiters is that of requests in flight, which the API bounds.
package raftbolt
