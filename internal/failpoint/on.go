//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// chosen is what Variable says, read once. It is a global because a step cannot
// be handed anything; it exists in builds with the tag alone.
var chosen = sync.OnceValues(func() (Point, int64) {
	text := os.Getenv(Variable)
	if text == "" {
		return "", 0
	}
	name, count, _ := strings.Cut(text, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 || !slices.Contains(All(), Point(name)) {
		fmt.Fprintf(os.Stderr, "%s=%q is not a point and its count, as in %s:1\n", Variable, text, All()[0])
		os.Exit(2)
	}
	return Point(name), n
})

var reached atomic.Int64

// Hit ends the process if p was chosen and this is its time.
func Hit(p Point) {
	if Reached(p) {
		Die(p)
	}
}

// Reached tells whether p was chosen and this is its time; the caller then does
// half of what it does, and calls Die.
func Reached(p Point) bool {
	point, n := chosen()
	return p == point && reached.Add(1) == n
}

// Die ends the process after Reached.
func Die(p Point) {
	fmt.Fprintf(os.Stderr, "failpoint %s\n", p)
	os.Exit(ExitCode)
}
