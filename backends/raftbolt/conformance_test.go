package raftbolt

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
	"github.com/etcdshim/shim/conformance"
)

// TestConformance ensures that the native store holds every case of profile etcd, which has
// those of profile kubernetes in it: none is left out, and no capability is absent.
func TestConformance(t *testing.T) {
	profile := conformance.Etcd()
	t.Run(profile.Name, func(t *testing.T) {
		s := conformance.Run(t, profile, openConformance)
		if len(s.NotGiven) != 0 || s.Absent() != 0 {
			t.Errorf("%d cases of absent capabilities, not run: %v", s.Absent(), s.NotGiven)
		}
	})
}

func openConformance(t *testing.T, condition conformance.Condition) *conformance.Endpoint {
	t.Helper()
	m := openIn(t, t.TempDir(), func(c *Config, e *backends.Env) {
		e.Logger = zap.NewNop() // cases ask for much that is warned of
		switch condition {
		case conformance.SmallQuota:
			c.QuotaBytes = conformance.QuotaBytes
		case conformance.Accounts:
			c.BcryptCost = conformance.AccountsBcryptCost
		case conformance.ShortTokens:
			c.BcryptCost, c.AuthTokenTTL = conformance.AccountsBcryptCost, conformance.TokenTTL
		case conformance.SignedTokens:
			c.BcryptCost, c.AuthToken = conformance.AccountsBcryptCost, signedTokens(t)
		case conformance.NoQuorum: // its cases wait for time-outs
			c.HeartbeatInterval, c.ElectionTimeout = 20*time.Millisecond, 200*time.Millisecond
		}
	})
	if condition == conformance.NoQuorum {
		m.loseQuorum()
	}
	return conformance.Serve(t, "raftbolt", m.Backend, condition)
}

// signedTokens is the option of tokens of a SignedTokens server.
func signedTokens(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(conformance.SignedTokenSecret), privateFile); err != nil {
		t.Fatal(err)
	}
	return "jwt,sign-method=HS256,ttl=1h,priv-key=" + file
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
