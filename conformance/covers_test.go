package conformance

import (
	"fmt"
	"strings"
	"testing"
)

// TestEveryRPCHasACase ensures that each RPC of each service is what a case is about, or its
// request.
func TestEveryRPCHasACase(t *testing.T) {
	about := map[string]bool{}
	for _, k := range Etcd().Cases {
		about[k.RPC] = true
		for _, f := range k.Covers {
			request, _, _ := strings.Cut(f, ".")
			about[request] = true
		}
	}
	for _, file := range descriptors() {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				if rpc := fmt.Sprintf("%s.%s", s.Name(), m.Name()); !about[rpc] && !about[string(m.Input().Name())] {
					t.Errorf("no case is about %s", rpc)
				}
			}
		}
	}
}

// TestEveryRequestFieldIsCovered ensures that each field of each request is named by a case,
// and that cases name only fields that exist.
func TestEveryRequestFieldIsCovered(t *testing.T) {
	by := map[string]string{}
	for _, k := range Etcd().Cases {
		for _, f := range k.Covers {
			by[f] = k.Name
		}
	}
	for _, f := range requestFields() {
		if by[f] == "" {
			t.Errorf("no case covers %s", f)
		}
		delete(by, f)
	}
	for f, name := range by {
		t.Errorf("case %s covers %s, which is no field of a request", name, f)
	}
}

// TestCasesAreNamedWell ensures unique names of the form area/what, RPCs that exist
// (or "HTTP", "wire"), and that every name in the Kubernetes profile is a case.
func TestCasesAreNamedWell(t *testing.T) {
	names := map[string]bool{}
	for _, k := range Etcd().Cases {
		if names[k.Name] {
			t.Errorf("two cases are named %s", k.Name)
		}
		names[k.Name] = true
		if a, what, ok := strings.Cut(k.Name, "/"); !ok || a == "" || what == "" {
			t.Errorf("%s: not area/what", k.Name)
		}
		if k.RPC != "HTTP" && k.RPC != "wire" && methodDescriptor(k.RPC) == nil {
			t.Errorf("%s: no such RPC: %q", k.Name, k.RPC)
		}
		if k.Run == nil {
			t.Errorf("%s: does nothing", k.Name)
		}
	}
	for _, name := range kubernetesRelies() {
		if !names[name] {
			t.Errorf("profile kubernetes: no case %s", name)
		}
	}
}
