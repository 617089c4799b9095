// Package rig is what the fault rigs share: it builds the shim of this checkout,
// starts, kills and stops it, loads it with clients that note what was
// acknowledged, and compares what a restarted server says with that record.
//
// Its nouns:
//
//   - A Server is a running process, shim or another server of the same flags.
//   - A Record is what all clients know: every write that was acknowledged, and
//     every one that was sent and never answered.
//   - A Client issues one kind of mixed load and notes it in the Record; a Load is
//     many of them.
//   - A Storm is a Load with all else that keeps a server busy: a witness that
//     watches everything, thousands of watches, snapshots, defragments.
//   - A Verifier compares a server at rest with the Record: revision, compacted
//     revision, every event, the state of every key, leases, indexes. It knows every
//     revision since the empty store, which each rig begins with.
//
// A rig builds once, then goes round: Start, Load.Run or Storm.Run until something
// is broken on purpose, Check, Start, Verifier.Verify. Nothing here listens on other than
// loopback addresses.
package rig
