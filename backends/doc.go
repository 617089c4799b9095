// Package backends is the waist of shim: what etcd's v3 services need from a
// store, as one small interface in plain Go types. The wire above it (package
// etcdapi) knows no backend; a backend below it knows no gRPC.
//
// # Nouns
//
//   - A [Backend] is an ordered, revisioned key space: KV and Watch. Optional
//     services (leases, alarms, snapshots, …) are separate small interfaces
//     that a backend may implement beside it; see capabilities.go.
//   - A record is one mvccpb.KeyValue or mvccpb.Event in etcd's own protobuf
//     encoding. Records cross the waist encoded, so that lists and watches
//     reach the socket without being decoded and encoded again.
//   - A [Chunk] is a bounded run of key-value records of one range.
//   - A [Cursor] yields the chunks of one range at one pinned revision.
//   - A [WatchStream] carries any number of watches and yields batches of
//     shared, encoded events.
//
// # Adding a backend
//
// Implement [Backend], and those capabilities that the store can keep without
// lying. Register an opener under a URL scheme from an init function:
//
//	func init() { backends.Register(backends.Driver{Scheme: "mystore", Open: open}) }
//
// and import the package from the command. Then run package conformance over
// it: the profile it passes says what it can do. The duties, in order:
//
//  1. A write is acknowledged only once it is as durable as the backend
//     promises. When its fate is not known the answer is [ErrOutcomeUnknown],
//     never success and never a definite failure.
//  2. A Txn takes effect wholly or not at all and makes at most one new
//     revision. Every request of it is validated before its first write.
//  3. A Range that does not say Serializable reflects every write acknowledged
//     before it began. A Cursor reads one revision from its first chunk to its
//     last; an error at any point voids the whole range.
//  4. A watch yields each event of its range once, in order, whole revisions
//     only. Progress at revision R means that every event at or below R was
//     yielded before it. A watch that cannot go on is cancelled with a reason;
//     it never skips.
//  5. Records are immutable from the moment they are returned until released.
//  6. Whatever the backend cannot do it refuses with an [Unsupported] error;
//     it is never silently wrong.
//
// # Rules
//
// Nobody wraps a Backend: a wrapper loses capabilities, which are found by type
// assertion in exactly one place, etcdapi.New. Work that cuts across requests
// is an interceptor of etcdapi. Key ranges are half-open and follow etcd's wire
// convention everywhere: see [KeyRange]. Byte slices in requests belong to the
// caller and must not be kept after the call returns, unless a field says
// otherwise; every method is safe for concurrent use unless it says otherwise.
package backends
