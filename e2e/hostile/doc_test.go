// Package hostile treats shim badly: clients that never read, never speak, speak
// garbage, ask for too much, come and go by the thousand. What must hold each time:
//
//   - The server's memory stays below the bound that the case names, counted from
//     where it stood before. A bound is made of the server's own limits:
//     responseBudget, watchQueues, layerAndLog, and garbageFactor for what Go's
//     collector has not yet taken back.
//   - A well-behaved client, on a connection of its own, has every one of its
//     requests answered within requestDeadline, and the median stays within
//     latencyFactor of what it was before, or below latencyFloor.
//   - Once the hostile clients are gone, so are their connections, goroutines and
//     files.
//   - The server stops cleanly when told to, and `shim check` finds nothing.
//
// Whether a case did what it says is asserted as well: an attack that was turned
// away at the door proves nothing.
package hostile
