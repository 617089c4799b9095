package etcd

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	_ "github.com/etcdshim/shim/backends/etcd"
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

// TestConformanceShim ensures that the shim binary, as a process on its native store, holds
// every case but those that need a lost quorum, which a single voter cannot lose: they hold in
// package raftbolt, TestConformance.
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
			if s.Absent() != 0 {
				t.Errorf("%d cases of absent capabilities: shim has them all", s.Absent())
			}
			for _, name := range s.NotGiven {
				if !strings.HasSuffix(name, fmt.Sprintf("(%s)", conformance.NoQuorum)) {
					t.Errorf("not run: %s", name)
				}
			}
		})
	}
}
