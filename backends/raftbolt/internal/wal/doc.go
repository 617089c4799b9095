// Package wal is the durable log of one member: batches of raft entries and hard state in preallocated, recycled segment files. It
// knows no raft rules beyond entry, hard state and snapshot record.
//
// # Nouns
//
//   - A batch is what one write and one sync make durable: entries, the newest hard state, sometimes a snapshot record.
//   - A segment is a file of batches, written out in full when it is made, so that a sync later changes no metadata of the file system.
//   - A life id is a random number that a segment gets each time it is made or recycled; every batch carries its segment's. Bytes of an
//     earlier life can so never be taken for a batch.
//   - The spare is a segment that holds no batch yet. There is always one, so that a full disk does not stop the log at once.
//
// # Duties of the caller, in order
//
//  1. Create, once; the log is then durable and holds no entry.
//  2. Open. A torn last batch is cut; everything that Open reports is synced.
//  3. Write, then Sync, one batch after the other: a batch is synced before the next is written. Only then may anybody be told.
//  4. Housekeep after a Sync or Cut that asks for it (NeedsHousekeeping). It may run beside Write and Sync; what it cannot do before a batch is
//     synced it leaves for after it.
//  5. Cut below what the state machine holds durably.
//  6. Close.
//
// An error of Write or Sync is final: the log answers it from then on, and no sync is ever repeated, since the kernel forgets the
// pages of a failed one. An error of Housekeep is as final, unless something was only used up (IsShortage): then the log goes on while its active
// segment has room (Room), and the caller tries again. A Write that needs a segment when none can be made fails for good, so that the caller
// must not begin what Room does not cover.
//
// # Recovery
//
// Batches are numbered without gaps over all segments. Since each is synced before the next is written, a crash can damage only the last.
// A bad batch with a valid one of a higher number behind it is therefore corruption: Open refuses. Anything else is a torn tail: it is cut, the
// stale area is overwritten and synced before the log is used.
//
// Known limit: a bit that flips in the very last batch looks like a torn tail. The caller compares the end of the log with the state
// machine's durable index, which catches it once the batch is flushed there.
//
// # Files
//
// shim-<sequence number, 16 hex digits>.wal in one directory (0700, files 0600), and *.tmp while one is made. The names end
// in .wal, so that etcd sees a log there, and do not parse as etcd's, so that etcd stops instead of repairing it.
package wal
