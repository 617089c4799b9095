package conformance

import (
	"testing"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

// TestMemory ensures that the executable specification holds every case.
func TestMemory(t *testing.T) {
	for _, profile := range []Profile{Etcd(), Kubernetes()} {
		t.Run(profile.Name, func(t *testing.T) { Run(t, profile, OpenMemory) })
	}
}

// OpenMemory opens a memory backend; it has no quota and no quorum to lose.
func OpenMemory(t *testing.T, condition Condition) *Endpoint {
	if condition == SmallQuota || condition == NoQuorum {
		return nil
	}
	return Serve(t, "memory", memory.New(backends.SystemClock{}), condition)
}
