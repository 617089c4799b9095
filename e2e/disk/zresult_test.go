package disk

import (
	"testing"

	"github.com/etcdshim/shim/e2e/rig"
)

// TestResult notes a full run. It is the package's last test: they run in the order
// of their files.
func TestResult(t *testing.T) {
	if *full && counted.cases.Load() > 0 && counted.failed.Load() == 0 {
		rig.AppendResult(t, "disk", *seed, began, counts())
	}
}
