package etcd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/etcdshim/shim/conformance"
	"github.com/etcdshim/shim/e2e/etcd/process"
)

// TestConformanceEtcd is the test of the suite: real etcd holds every case, none left out.
func TestConformanceEtcd(t *testing.T) {
	for _, profile := range profiles() {
		t.Run(profile.Name, func(t *testing.T) {
			s := conformance.Run(t, profile, openEtcd)
			if t.Failed() {
				return
			}
			if len(s.NotGiven) != 0 || s.Absent() != 0 || s.Passed() == 0 {
				t.Errorf("%d cases held, %d absent, not run: %v", s.Passed(), s.Absent(), s.NotGiven)
			}
		})
	}
}

// openEtcd starts an etcd in the condition.
func openEtcd(t *testing.T, condition conformance.Condition) *conformance.Endpoint {
	t.Helper()
	if condition == conformance.NoQuorum {
		return openEtcdWithoutQuorum(t)
	}
	s := process.Etcd(t, flagsFor(t, condition)...)
	e := conformance.Dial(t, "etcd 3.7.3", s.Address, conformance.AllCapabilities())
	e.Upstream = true
	return e
}

// flagsFor returns etcd's flags for a condition.
func flagsFor(t *testing.T, condition conformance.Condition) []string {
	t.Helper()
	switch condition {
	case conformance.Live:
		return nil
	case conformance.SmallQuota:
		return []string{"--quota-backend-bytes", fmt.Sprint(conformance.QuotaBytes)}
	case conformance.QuickProgress:
		return []string{"--watch-progress-notify-interval", conformance.ProgressInterval.String()}
	case conformance.Accounts:
		return []string{"--bcrypt-cost", fmt.Sprint(conformance.AccountsBcryptCost)}
	case conformance.ShortTokens:
		return []string{
			"--bcrypt-cost", fmt.Sprint(conformance.AccountsBcryptCost),
			"--auth-token-ttl", fmt.Sprint(int(conformance.TokenTTL.Seconds())),
		}
	case conformance.SignedTokens:
		return []string{"--bcrypt-cost", fmt.Sprint(conformance.AccountsBcryptCost), "--auth-token", signedTokens(t)}
	default:
		t.Fatalf("no such condition: %q", condition)
		return nil
	}
}

// signedTokens is the option of tokens of a SignedTokens server.
func signedTokens(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(conformance.SignedTokenSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	return "jwt,sign-method=HS256,ttl=1h,priv-key=" + file
}

// openEtcdWithoutQuorum starts two members and kills one.
func openEtcdWithoutQuorum(t *testing.T) *conformance.Endpoint {
	t.Helper()
	peers := []int{process.Port(t), process.Port(t)}
	cluster := fmt.Sprintf("a=http://127.0.0.1:%d,b=http://127.0.0.1:%d", peers[0], peers[1])
	var members []*process.Server
	for i, name := range []string{"a", "b"} {
		url := fmt.Sprintf("http://127.0.0.1:%d", peers[i])
		members = append(members, process.Start(t, process.Binary(t, "etcd"), process.Port(t), t.TempDir(),
			"--name", name, "--listen-peer-urls", url, "--initial-advertise-peer-urls", url, "--initial-cluster", cluster))
	}
	for _, m := range members {
		m.WaitReady(t)
	}
	members[1].Kill()
	return conformance.Dial(t, "etcd 3.7.3 without quorum", members[0].Address, conformance.AllCapabilities())
}
