package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInitialCluster ensures that --initial-cluster must name this member with the
// URLs that it advertises, and says nothing of a member that exists, as in etcd.
func TestInitialCluster(t *testing.T) {
	empty, member := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(member, "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	const three = "default=http://localhost:2380,b=http://b:2380,c=http://c:2380"
	for _, c := range []struct {
		dir, cluster, peers, state string
		urls                       []string // nil: refused
	}{
		{empty, "", "http://10.0.0.1:2380", "new", []string{"http://10.0.0.1:2380"}},
		{empty, "default=http://10.0.0.1:2380", "http://10.0.0.1:2380", "new", []string{"http://10.0.0.1:2380"}},
		{empty, "default=http://localhost:2380", "http://127.0.0.1:2380", "new", nil}, // which is not looked up
		{empty, "default=http://10.0.0.2:1,default=http://10.0.0.1:1", "http://10.0.0.1:1,http://10.0.0.2:1", "new", []string{"http://10.0.0.1:1", "http://10.0.0.2:1"}},
		{empty, "default=http://10.0.0.2:1", "http://10.0.0.1:1,http://10.0.0.2:1", "new", nil},
		{empty, "default=http://10.0.0.1:2380", "http://10.0.0.1:2381", "new", nil},
		{empty, "default=10.0.0.1:2380", "http://10.0.0.1:2380", "new", nil},
		{empty, "default", "http://10.0.0.1:2380", "new", nil},
		{empty, "other=http://10.0.0.1:2380", "http://10.0.0.1:2380", "new", nil},
		{empty, three, "http://localhost:2380", "new", nil},
		{empty, "", "http://10.0.0.1:2380", "existing", nil},
		{member, three, "http://10.0.0.1:2380", "new", []string{"http://10.0.0.1:2380"}},
		{member, "nonsense", "http://10.0.0.1:2380", "existing", []string{"http://10.0.0.1:2380"}},
	} {
		o, _, err := parse(nil, "--data-dir="+c.dir, "--initial-cluster="+c.cluster, "--initial-advertise-peer-urls="+c.peers, "--initial-cluster-state="+c.state)
		if (err == nil) != (c.urls != nil) || err == nil && !slices.Equal(o.peerURLs, c.urls) {
			t.Errorf("%q with %q, %s, in %s: %v, %v", c.cluster, c.peers, c.state, filepath.Base(c.dir), o.peerURLs, err)
		}
	}
	other := options{backend: "memory://", joins: true, initialCluster: "nonsense"}
	if err := other.checkFounding(context.Background()); err != nil {
		t.Errorf("of another backend: %v", err)
	}
}

// TestResolved ensures that names of hosts are looked up, but localhost, and that what
// cannot be looked up stays as it is.
func TestResolved(t *testing.T) {
	lookup := func(_ context.Context, _, host string) ([]net.IP, error) {
		switch host {
		case "b.example", "localhost":
			return []net.IP{net.IPv4(10, 0, 0, 2)}, nil
		case "10.0.0.1":
			return []net.IP{net.IPv4(10, 0, 0, 1)}, nil
		}
		return nil, errors.New("no such host")
	}
	got := resolved(context.Background(), lookup, []string{"http://none.example:1", "http://b.example:1", "http://localhost:1", "http://10.0.0.1:1"})
	if want := []string{"http://10.0.0.1:1", "http://10.0.0.2:1", "http://localhost:1", "http://none.example:1"}; !slices.Equal(got, want) {
		t.Errorf("resolved %q, not %q", got, want)
	}
}

// TestRedacted ensures that no password of a backend's URL can be shown.
func TestRedacted(t *testing.T) {
	for url, want := range map[string]string{
		"raftbolt": "raftbolt", "memory://": "memory://", "postgres://u:secret@h/d": "postgres://u:xxxxx@h/d", "postgres://u:sec/ret@h:x/d": "", "postgres:u:secret@h": "",
	} {
		if got := redacted(url); got != want || strings.Contains(got, "sec") {
			t.Errorf("%q is shown as %q", url, got)
		}
	}
}
