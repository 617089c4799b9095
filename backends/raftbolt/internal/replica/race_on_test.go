//go:build race

package replica

// raceEnabled: the simulator has one goroutine per world and nothing to find for the race detector, which makes it ten times slower.
const raceEnabled = true
