package etcd

import (
	"context"
	"fmt"
	neturl "net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	_ "github.com/etcdshim/shim/backends/etcd"
	_ "github.com/etcdshim/shim/backends/memory"
	_ "github.com/etcdshim/shim/backends/raftbolt"
	"github.com/etcdshim/shim/conformance"
	"github.com/etcdshim/shim/e2e/etcd/process"
)

// profiles are what every backend here is held to.
func profiles() []conformance.Profile {
	return []conformance.Profile{conformance.Etcd(), conformance.Kubernetes()}
}

// openURL opens a backend as cmd/shim would.
func openURL(t *testing.T, url string) backends.Backend {
	t.Helper()
	b, err := backends.Open(context.Background(), url, backends.Env{
		Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(), Clock: backends.SystemClock{},
		Fatal: func(err error) { t.Errorf("the backend cannot go on: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConformanceMemory ensures that the executable specification holds every case.
func TestConformanceMemory(t *testing.T) {
	for _, profile := range profiles() {
		t.Run(profile.Name, func(t *testing.T) {
			conformance.Run(t, profile, func(t *testing.T, condition conformance.Condition) *conformance.Endpoint {
				if condition == conformance.SmallQuota || condition == conformance.NoQuorum {
					return nil // memory has no quota and no quorum to lose
				}
				return conformance.Serve(t, "memory", openURL(t, "memory://"), condition)
			})
		})
	}
}

// TestConformancePassThrough ensures that shim in front of etcd answers as etcd.
func TestConformancePassThrough(t *testing.T) {
	for _, profile := range profiles() {
		t.Run(profile.Name, func(t *testing.T) {
			s := conformance.Run(t, profile, func(t *testing.T, condition conformance.Condition) *conformance.Endpoint {
				var upstream string
				if condition == conformance.NoQuorum {
					upstream = openEtcdWithoutQuorum(t).Address
				} else {
					upstream = process.Etcd(t, flagsFor(t, condition)...).Address
				}
				return conformance.Serve(t, "shim in front of etcd", openURL(t, "etcd://"+upstream), condition)
			})
			if len(s.NotGiven) != 0 {
				t.Errorf("not run: %v", s.NotGiven)
			}
		})
	}
}

// wholeButQuorum ensures that nothing was left out but what needs a lost quorum, which no
// cluster of one voter has: those cases hold in backends/raftbolt, TestConformanceWithoutQuorum.
func wholeButQuorum(t *testing.T, s *conformance.Summary) {
	t.Helper()
	if s.Absent() != 0 {
		t.Errorf("%d cases of absent capabilities: raftbolt has them all", s.Absent())
	}
	for _, name := range s.NotGiven {
		if !strings.HasSuffix(name, fmt.Sprintf("(%s)", conformance.NoQuorum)) {
			t.Errorf("not run: %s", name)
		}
	}
}

// TestConformanceRaftbolt ensures that the native store holds every case that a single
// voter can be asked.
func TestConformanceRaftbolt(t *testing.T) {
	for _, profile := range profiles() {
		t.Run(profile.Name, func(t *testing.T) {
			s := conformance.Run(t, profile, func(t *testing.T, condition conformance.Condition) *conformance.Endpoint {
				url := "raftbolt://" + t.TempDir()
				switch condition {
				case conformance.NoQuorum:
					return nil // a single voter is its own quorum
				case conformance.SmallQuota:
					url += "?quota-backend-bytes=" + strconv.Itoa(conformance.QuotaBytes)
				case conformance.Accounts:
					url += "?bcrypt-cost=" + strconv.Itoa(conformance.AccountsBcryptCost)
				case conformance.SignedTokens:
					url += fmt.Sprintf("?bcrypt-cost=%d&auth-token=%s", conformance.AccountsBcryptCost, neturl.QueryEscape(signedTokens(t)))
				case conformance.ShortTokens:
					url += fmt.Sprintf("?bcrypt-cost=%d&auth-token-ttl=%.0f", conformance.AccountsBcryptCost, conformance.TokenTTL.Seconds())
				}
				return conformance.Serve(t, "raftbolt", openURL(t, url), condition)
			})
			wholeButQuorum(t, s)
		})
	}
}

// TestConformanceShim ensures that the shim binary, as a process on its native store, holds
// every case.
func TestConformanceShim(t *testing.T) {
	for _, profile := range profiles() {
		t.Run(profile.Name, func(t *testing.T) {
			s := conformance.Run(t, profile, func(t *testing.T, condition conformance.Condition) *conformance.Endpoint {
				if condition == conformance.NoQuorum {
					return nil // a single voter is its own quorum
				}
				s := process.Shim(t, flagsFor(t, condition)...)
				return conformance.Dial(t, "shim", s.Address, conformance.AllCapabilities())
			})
			wholeButQuorum(t, s)
		})
	}
}
