package raftbolt

import (
	"slices"
	"testing"
)

// TestAncestors: founding syncs every directory on the way to the data, up to the
// root. It had been the data directory and its parent alone: where the grandparent
// was new, too, the whole directory was lost with the power (e2e/power finds it).
func TestAncestors(t *testing.T) {
	for path, want := range map[string][]string{
		"/var/lib/shim/member": {"/var/lib/shim", "/var/lib", "/var", "/"},
		"/data":                {"/"},
		"/":                    nil,
	} {
		if got := ancestors(path); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
