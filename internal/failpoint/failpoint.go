// Package failpoint names the steps of the durable path at which a crash is
// planted by the fault rigs. Without the build tag failpoints it is empty, and
// compiles to nothing. With the tag, the variable SHIM_FAILPOINT=name:n ends the
// process when step name is reached for the nth time, as a panic that nobody
// recovers would: no deferred function runs, nothing more is written.
//
// A point lies directly before or after the system call that it names.
package failpoint

// Point is a step.
type Point string

// Variable names the environment variable that chooses the point.
const Variable = "SHIM_FAILPOINT"

// ExitCode is what a process ended by a point exits with.
const ExitCode = 86
