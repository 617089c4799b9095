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
//   - A Verifier compares a server at rest with the Record: revision, compacted
//     revision, every event since the compaction, the state of every key, leases.
//
// A rig builds once, then goes round: Start, Load.Run until something is broken
// on purpose, Check, Start, Verifier.Verify. Nothing here listens on other than
// loopback addresses.
package rig
