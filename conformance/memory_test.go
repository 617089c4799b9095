package conformance

import (
	"slices"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

// TestMemory ensures that the executable specification holds every case, those of KV, Watch,
// Lease, Lock and Election without exception: it lacks nothing of them but a quorum to lose.
func TestMemory(t *testing.T) {
	for _, profile := range []Profile{Etcd(), Kubernetes()} {
		t.Run(profile.Name, func(t *testing.T) {
			s := Run(t, profile, OpenMemory)
			for _, k := range profile.Cases {
				service, _, _ := strings.Cut(k.RPC, ".")
				if row := s.byRPC[k.RPC]; row != nil && row[absentOK] > 0 &&
					slices.Contains([]string{"KV", "Watch", "Lease", "Lock", "Election"}, service) {
					t.Errorf("memory lacks something of %s", k.RPC)
				}
			}
			for _, name := range s.NotGiven {
				if !strings.Contains(name, string(NoQuorum)) && !strings.Contains(name, string(SmallQuota)) {
					t.Errorf("not run: %s", name)
				}
			}
		})
	}
}

// OpenMemory opens a memory backend; it has no quota and no quorum to lose.
func OpenMemory(t *testing.T, condition Condition) *Endpoint {
	if condition == SmallQuota || condition == NoQuorum {
		return nil
	}
	return Serve(t, "memory", memory.New(backends.SystemClock{}), condition)
}
