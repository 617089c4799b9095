//go:build !failpoints

package failpoint

// Hit ends the process if p was chosen and this is its time.
func Hit(Point) {}

// Reached tells whether p was chosen and this is its time; the caller then does
// half of what it does, and calls Die.
func Reached(Point) bool { return false }

// Die ends the process after Reached.
func Die(Point) {}
