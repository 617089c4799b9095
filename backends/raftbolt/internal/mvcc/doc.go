// Package mvcc keeps revisions of keys in one bbolt file with etcd's schema.
//
// # Nouns
//
//   - A [Store] is the open file with everything in memory around it. One
//     goroutine, the applier, writes; any number read.
//   - A [Txn] is one change of the key space: it makes at most one new revision,
//     sees its own writes, and is committed or leaves nothing.
//   - The layer holds applied writes in memory until the flusher commits them to
//     bbolt together with the raft index, term and ConfState they belong to, in
//     one synced transaction that ends on a raft-entry boundary.
//   - The index is an ordered, counted, copy-on-write tree from keys to their
//     versions. Values are not in it.
//   - A [View] is a revision that can be read: an index root and its revision.
//     It holds no lock and no bbolt transaction.
//   - A [Cursor] reads the records of one range of a View in bounded chunks, each
//     under a short bbolt transaction of its own.
//   - A [HistoryEvent] is one change as watchers see it.
//
// # The applier's duties
//
// In order, for each raft entry, from one goroutine:
//
//  1. For each command of the entry: Begin, then Get, Put, DeleteRange, Set, … on
//     the [Txn], then Commit or Discard. Views of what the command read or will
//     answer are taken with [Txn.View] at that point of the transaction.
//  2. [Store.Compact], when the entry says so.
//  3. [Store.EndEntry] with the entry's index and term, also for an entry that
//     wrote nothing. It blocks while the layer is full.
//
// A commit is visible to readers at once, and durable after [Config.OnDurable]
// was called with an index at or above its entry's. What was not durable at a
// crash is gone, and the log above Store.Applied must be applied again.
//
// # Durability
//
// bbolt commits are synced (unless Config.NoSync). A flush happens when the
// layer holds FlushBytes, when its oldest write is FlushInterval old, and when
// Flush, Snapshot, HashKV, Defragment or a compaction asks. Before it, the file
// system must have room for it beyond the file's own free pages, which count so
// that deletes can free a full disk; if it has not, the layer is kept, reads go on,
// and the flush is tried again; who waits for it gets ErrNoSpace. Store.Short says
// so while there still is room, and the caller is to refuse what grows the store
// then: what is left is for deletes and compactions. Any other failed commit is final: OnFatal is called, and every write
// fails from then on.
//
// # Files
//
// The store owns the file at Config.Path and, in its directory, files whose
// names begin with the same name and a dot: Path.new (a store being created),
// Path.defrag (a compacted copy being written) and Path.snapshot-* (unlinked
// copies being streamed). Leftovers are removed at open. The file is locked
// against other processes.
//
// Every page's structure is checked at open, and the meta bucket's seal: see
// metaSeal. [Check] reads all of a file. Neither can see a flipped bit inside a
// value, or in the name of a key with a single change.
//
// # Goroutines
//
// A Store owns two, both ended by Close: the flusher and the compactor.
//
// # Limits
//
// All in Config, each with its unit and reason. Beside them: two snapshots at a
// time; one Defragment, with some 4 MiB of memory; 64 pinned index roots for 5 minutes; a read transaction lives for
// one chunk of backends.ChunkBytes or one record.
package mvcc
