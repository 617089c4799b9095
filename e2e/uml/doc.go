// Package uml cuts the power of a machine that runs shim. The machine is a guest of
// User-Mode Linux, a process of the host: its disk is a file of the host, which it
// reaches through the device mapper, and what its page cache holds is gone when it
// is killed. Clients and their record are on the host, so what was acknowledged is
// outside of the machine at the moment it is received.
//
// The ways to cut:
//
//   - off: SIGKILL for the whole machine. Every answer that came out of it is owed.
//   - drop: the disk is suspended, the clients are ended, and the disk goes on but
//     drops every write while it says that they are done; then shim is killed and
//     the file system unmounted, and mounted again from what the disk has. Owed is
//     what was acknowledged before the disk began to lie.
//   - drop, off: the same, but the machine is killed instead of unmounting.
//   - error: from some moment on every write fails, which shim must end of by
//     itself. Owed is every answer, since this disk does not lie.
//   - off twice: the machine is killed, and again while shim recovers.
//
// After each cut the file system must mount, `shim check` must find nothing, shim
// must serve within StartBound and say what was acknowledged, and the load goes on
// in the same directory.
//
// Limits: writes that the guest's disk completed are in the host's page cache, so a
// disk that loses what it completed but was not told to flush is not shown here; package
// power replays that. Needed on Linux: Debian's user-mode-linux, dmsetup and
// e2fsprogs; no right of root.
package uml
