package raftbolt

import (
	"context"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
	"github.com/etcdshim/shim/conformance"
)

// A member that served and lost its quorum answers as etcd does: the suite's cases that need
// such a server, which a cluster of one voter cannot become by itself.
func TestConformanceWithoutQuorum(t *testing.T) {
	profile := conformance.Profile{Name: "without quorum"}
	for _, k := range conformance.Etcd().Cases {
		if k.Condition == conformance.NoQuorum {
			profile.Cases = append(profile.Cases, k)
		}
	}
	s := conformance.Run(t, profile, func(t *testing.T, condition conformance.Condition) *conformance.Endpoint {
		m := openIn(t, t.TempDir(), func(c *Config, _ *backends.Env) {
			c.HeartbeatInterval, c.ElectionTimeout = 20*time.Millisecond, 200*time.Millisecond
		})
		if condition == conformance.NoQuorum {
			m.loseQuorum()
		}
		return conformance.Serve(t, "raftbolt", m.Backend, condition)
	})
	if len(profile.Cases) == 0 || s.Passed() != len(profile.Cases) {
		t.Errorf("%d of %d cases held", s.Passed(), len(profile.Cases))
	}
}

// loseQuorum makes a member that does not run a voter, as if it had run. MemberAdd refuses
// that, since nothing brings it the log yet.
func (m *member) loseQuorum() {
	m.t.Helper()
	added, err := m.add("http://127.0.0.1:9")
	if err != nil {
		m.t.Fatal(err)
	}
	id := added.Member.ID
	// Who told its name was started.
	if _, err := m.propose(context.Background(), &command{kind: kindAttributes, member: id, name: "other"}); err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.configure(context.Background(), replica.AddVoter, id, &command{promote: true}); err != nil {
		m.t.Fatal(err)
	}
	eventually(m.t, "without a leader", func() bool { return m.node.Status().Leader == 0 })
}
