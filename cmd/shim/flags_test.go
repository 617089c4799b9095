package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// parse runs the flags of args through the app without serving.
func parse(t *testing.T, args ...string) (options, []flagSpec, error) {
	t.Helper()
	var (
		o     options
		inert []flagSpec
	)
	app := newApp()
	app.Writer, app.ErrWriter = &strings.Builder{}, &strings.Builder{}
	app.Action = func(c *cli.Context) (err error) {
		inert = inertFlags(c)
		o, err = parseOptions(c)
		return err
	}
	return o, inert, app.Run(append([]string{"shim"}, args...))
}

// clearEnvironment hides ETCD_ variables of whoever runs the tests.
func clearEnvironment(t testing.TB) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "ETCD_") {
			t.Setenv(name, "")
			_ = os.Unsetenv(name)
		}
	}
}

// TestDefaults ensures that no flag at all gives a sane single member.
func TestDefaults(t *testing.T) {
	clearEnvironment(t)
	o, inert, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	if o.dataDir != "default.etcd" || !slices.Equal(o.clientAddrs, []string{"127.0.0.1:2379"}) || o.backend != "raftbolt" ||
		!slices.Equal(o.advertiseClientURLs, []string{"http://127.0.0.1:2379"}) || o.election != time.Second || o.maxRequestBytes != 1572864 {
		t.Errorf("defaults are %+v", o)
	}
	if len(inert) > 0 {
		t.Errorf("defaults warn of %v", inert)
	}
}

// TestFlags ensures that each value reaches its option, with one dash, with two,
// and from the environment, and that the command line wins.
func TestFlags(t *testing.T) {
	clearEnvironment(t)
	t.Setenv("ETCD_DATA_DIR", "/env")
	t.Setenv("ETCD_NAME", "env")
	o, _, err := parse(t, "-data-dir=/flag", "--listen-client-urls", "http://127.0.0.1:1,http://[::1]:2", "--advertise-client-urls=http://example.com:2379",
		"--quota-backend-bytes=77", "-unsafe-no-fsync", "--watch-progress-notify-interval=1s")
	if err != nil {
		t.Fatal(err)
	}
	if o.dataDir != "/flag" || o.name != "env" || !slices.Equal(o.clientAddrs, []string{"127.0.0.1:1", "[::1]:2"}) ||
		!slices.Equal(o.advertiseClientURLs, []string{"http://example.com:2379"}) || o.quotaBytes != 77 || !o.unsafeNoFsync || o.progressNotify != time.Second {
		t.Errorf("options are %+v", o)
	}
	if got := shadowedEnvironment([]string{"-data-dir=/flag"}); !slices.Equal(got, []string{"ETCD_DATA_DIR"}) {
		t.Errorf("shadowed: %v", got)
	}
	if got := unknownEnvironment([]string{"ETCD_NAME=x", "ETCD_VERIFY=all", "ETCD_PORT_2379_TCP=tcp://1", "HOME=/"}); !slices.Equal(got, []string{"ETCD_PORT_2379_TCP", "ETCD_VERIFY"}) {
		t.Errorf("unknown: %v", got)
	}
}

// TestInertFlags ensures that what has no effect is accepted, and warned of only
// when it asks for something.
func TestInertFlags(t *testing.T) {
	clearEnvironment(t)
	_, inert, err := parse(t, "--listen-peer-urls=http://127.0.0.1:2380", "--initial-cluster-state=new", "--pre-vote=false",
		"--initial-cluster=default=http://localhost:2380")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range inert {
		names = append(names, s.name)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"listen-peer-urls", "pre-vote"}) {
		t.Errorf("warned of %v", names)
	}
}

// TestRefusals ensures that what cannot be meant, or would be unsafe to ignore,
// is an error that names the flag.
func TestRefusals(t *testing.T) {
	clearEnvironment(t)
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"certificate", "--cert-file", []string{"--cert-file=a.pem"}},
		{"client certificates", "--client-cert-auth", []string{"--client-cert-auth"}},
		{"https", "--listen-client-urls", []string{"--listen-client-urls=https://127.0.0.1:2379"}},
		{"domain name", "domain name", []string{"--listen-client-urls=http://example.com:2379"}},
		{"no port", "http://host:port", []string{"--listen-client-urls=http://127.0.0.1"}},
		{"unknown flag", "not defined", []string{"--no-such-flag"}},
		{"argument", "not a flag or a command", []string{"serve"}},
		{"three members", "3 members", []string{"--initial-cluster=default=http://localhost:2380,b=http://b:2380,c=http://c:2380"}},
		{"other member", "does not name this member", []string{"--name=a", "--initial-cluster=b=http://localhost:2380"}},
		{"election", "--election-timeout", []string{"--heartbeat-interval=100", "--election-timeout=200"}},
		{"discovery", "--discovery", []string{"--discovery=https://discovery.etcd.io/x"}},
		{"bad number", "quota-backend-bytes", []string{"--quota-backend-bytes=many"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := parse(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestAllFaults ensures that every fault is reported, not only the first.
func TestAllFaults(t *testing.T) {
	clearEnvironment(t)
	_, _, err := parse(t, "--cert-file=a.pem", "--name=", "--heartbeat-interval=0")
	for _, want := range []string{"--cert-file", "--name", "--heartbeat-interval"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error does not name %s: %v", want, err)
		}
	}
}

// TestVersion ensures that the first line is etcd's, which scripts look at.
func TestVersion(t *testing.T) {
	var b strings.Builder
	printVersion(&b)
	if !strings.HasPrefix(b.String(), "etcd Version: 3.7.3\nGit SHA: ") || !strings.Contains(b.String(), "shim Version: ") {
		t.Errorf("version is %q", b.String())
	}
}

// TestFlagNames ensures that the table names each flag once and says something
// of each.
func TestFlagNames(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range flagSpecs {
		if seen[s.name] || s.usage == "" {
			t.Errorf("flag %s stands twice or has no usage", s.name)
		}
		seen[s.name] = true
	}
	if len(cliFlags()) != len(flagSpecs) {
		t.Errorf("%d flags of %d specs", len(cliFlags()), len(flagSpecs))
	}
}
