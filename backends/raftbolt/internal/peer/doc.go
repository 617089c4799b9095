// Package peer carries raft's messages between members.
//
// Only the in-process network exists so far: groups inside one process, on real time. (The simulator of package replica has a model network
// of its own, on virtual time.)
//
// # Nouns
//
//   - A Network joins the members of one process.
//   - A Port is one member's place in it: its transport, and where its messages arrive.
//
// # Duties of the caller
//
// Make a Port, give it to the member as its transport, Attach the member when it runs, Close the port before the member stops.
//
// Each attached port has one goroutine, which delivers; Close ends it. A port's queue is bounded: what does not fit is lost, as on any network.
package peer
