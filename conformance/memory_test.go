package conformance

import (
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

// TestMemory ensures that the executable specification holds every case, and lacks nothing that
// KV, Watch, Lease, Lock and Election need but a quorum to lose.
func TestMemory(t *testing.T) {
	for _, profile := range []Profile{Etcd(), Kubernetes()} {
		t.Run(profile.Name, func(t *testing.T) {
			s := Run(t, profile, OpenMemory)
			for _, area := range []string{"kv", "range", "rangestream", "txn", "compact", "watch", "lease", "lock", "election", "kube", "concurrency", "model"} {
				if row := s.byArea[area]; row != nil && row[absentOK] > 0 {
					t.Errorf("memory lacks what %d cases of area %s need", row[absentOK], area)
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
