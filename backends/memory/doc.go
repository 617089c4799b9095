// Package memory keeps everything in memory. It is the executable specification
// of KV, Watch and Lease: written to be read beside etcd's documentation and
// believed, not to be fast. Nothing survives Close.
//
// # Nouns
//
//   - A record is one revision of one key, a deletion included. It never changes.
//   - An item is a key with its records in order; the items form a sorted tree.
//   - The log is every record once more, in the order written, each with the one
//     before it. Watches read it by position; nothing is queued for a watch.
//   - A lease knows its deadline and the keys attached to it.
//
// # Duties
//
// One mutex guards all of it, and every method holds it from beginning to end,
// so each request is atomic by construction. Deadlines that have passed are acted upon
// before anything else a method does: a lease is gone from the very moment its TTL
// has run out. One goroutine, ended by Close, does the same when no request comes.
//
// # Limits
//
// History is kept until it is compacted; there is no quota. Below the compacted
// revision at most lagBytes of the log stay, for watches that were open at the
// compaction and have yet to read it. A stream holds at most maxControls answers
// to Add and one for each Cancel of a watch that exists.
package memory
