// Package power replays power losses. It records every system call with which a
// running shim changes its disk, log and store in one ordered trace, and starts
// shim from what a disk may hold at any moment of it.
//
// # Nouns
//
//   - A Trace is a recording: the calls of server and load generator by
//     `strace -f -xx` with their data, in order, and the load generator's marks
//     among them.
//   - A mark is a line that the load generator writes to a file of its own,
//     under the same strace: "i N" before it sends operation N, "a N REVISION"
//     after that was acknowledged. Since every call stops at the tracer, what the
//     trace has before a mark was done before it.
//   - The Disk is a model of a file system behind a page cache, driven by the
//     calls of a trace.
//   - A cut is a position in the trace at which the power fails, and a state is
//     what the disk may then hold.
//   - The History is what the store went through by a watch of the load
//     generator: every revision with its events.
//
// # What a disk may hold
//
// At a cut, what is durable is on the disk. A write, a change of a file's size, a
// creation, a rename and a removal are durable once they returned before a sync of
// that file, or of that directory, was entered, and that sync returned before the
// cut. Of everything else issued before the cut the disk may hold any part, as
// follows; that is what Linux promises (fsync(2), rename(2)) on ext4 and xfs, and
// not more:
//
//   - A page of a file (4 KiB) is as after any of the writes to it, since it is
//     written back whole and at any time; pages are independent of each other. A
//     page may be torn: each of its sectors (512 B) is then as after any of the
//     writes. A sector is whole.
//   - A file's size is as after any of the changes to it; what lies behind it is
//     lost, and what it covers and was never written back reads as zeros.
//   - Entries of directories are independent of each other, and of the contents of
//     files, in whatever order they were changed; what happens to one name happens in order. A
//     rename happens whole: the new name, and the old one gone. The sync of a
//     file does not make its name durable.
//
// # Verification
//
// A state is written out to a directory and shim's backend opened on it. It must
// start, at a revision not below the last acknowledged one and not above the last
// that was asked for; every key, every event since the compaction and every lease
// must be as the history has them at that revision, so that what was acknowledged
// is there and what was not is there whole or not at all. The compacted revision
// lies between the acknowledged and the requested one. Then it takes another
// write, is closed, and, for a part of the states, opened again, by `shim check`
// and by the server itself too.
//
// # Acknowledged before synced
//
// Every answer of the server on its sockets is read from the trace as well: none may
// carry the revision of a write whose entry lies in a log write that no sync,
// entered after it returned, has covered by then. And with strace delaying each
// fdatasync, no write is answered in less than the delay.
//
// # Running
//
// Tests build the program in play, which records and replays; with an overlay that
// makes segments small, so that the log rolls and recycles often, or so small that it
// is cut right at what the store holds, or that plants a fault, which the replay must
// find. See the flags in power_test.go.
package power
