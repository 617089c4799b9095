//go:build live

package conformance

import (
	"flag"
	"strings"
	"testing"
)

var (
	endpoint = flag.String("endpoint", "", "host:port of the live server")
	profile  = flag.String("profile", "etcd", "the profile to run: etcd or kubernetes")
	upstream = flag.Bool("upstream", true, "the server may be etcd: do not send what stops an etcd 3.7.3")
	absent   = flag.String("absent", "", "capabilities that the server lacks, separated by commas")
)

// TestLive runs a profile on a live server:
//
//	go test -tags live -count=1 ./conformance -run '^TestLive$' -endpoint 127.0.0.1:2379 -profile etcd
func TestLive(t *testing.T) {
	if *endpoint == "" {
		t.Fatal("no -endpoint given: there is no server to run on")
	}
	p, err := ProfileNamed(*profile)
	if err != nil {
		t.Fatal(err)
	}
	capabilities := AllCapabilities()
	for _, name := range strings.FieldsFunc(*absent, func(r rune) bool { return r == ',' }) {
		if !capabilities[Capability(name)] {
			t.Fatalf("-absent: no capability %q", name)
		}
		capabilities[Capability(name)] = false
	}
	e := Dial(t, *endpoint, *endpoint, capabilities)
	e.Upstream = *upstream
	RunConn(t, p, e)
}
