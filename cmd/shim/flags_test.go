package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
	"github.com/etcdshim/shim/etcdapi"
)

// parse reads args, an environment and its configuration file without serving.
func parse(environ []string, args ...string) (options, *settings, error) {
	app, s := newApp()
	app.Writer, app.ErrWriter = &strings.Builder{}, &strings.Builder{}
	serve := app.Action
	var o options
	app.Action = func(c *cli.Context) error {
		if c.Args().Present() {
			return serve(c)
		}
		err := s.complete(environ)
		if err == nil {
			o, err = s.options()
		}
		if err == nil {
			err = o.checkFounding(c.Context)
		}
		return err
	}
	err := app.Run(append([]string{"shim"}, args...))
	return o, s, err
}

// TestDefaults ensures that no flag at all gives a sane single member.
func TestDefaults(t *testing.T) {
	o, s, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if o.dataDir != "default.etcd" || len(o.endpoints) != 1 || o.endpoints[0].address != "localhost:2379" || o.backend != "raftbolt" || o.isSecure() ||
		!slices.Equal(o.advertiseClientURLs, []string{"http://localhost:2379"}) || o.election != time.Second || o.maxRequestBytes != 1572864 || !o.gateway {
		t.Errorf("defaults are %+v", o)
	}
	if changed := s.changed(works, inert, clusters, refused, dropped); len(changed) > 0 {
		t.Errorf("defaults are changed: %v", changed)
	}
}

// TestPrecedence ensures that a value comes from the configuration file alone when
// there is one, else from the command line or the environment, and that both at
// once are an error, as in etcd.
func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etcd.yaml")
	if err := os.WriteFile(file, []byte("name: file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		title         string
		environ, args []string
		name, dataDir string
		quota         int64
		wrong         string
	}{
		{title: "default", name: "default", dataDir: "default.etcd"},
		{title: "flag, two dashes", args: []string{"--name=flag", "--quota-backend-bytes", "7"}, name: "flag", dataDir: "flag.etcd", quota: 7},
		{title: "flag, one dash", args: []string{"-name", "flag", "-quota-backend-bytes=7"}, name: "flag", dataDir: "flag.etcd", quota: 7},
		{title: "last flag", args: []string{"--name=a", "--name=b"}, name: "b", dataDir: "b.etcd"},
		{title: "environment", environ: []string{"ETCD_NAME=env", "ETCD_QUOTA_BACKEND_BYTES=0x10"}, name: "env", dataDir: "env.etcd", quota: 16},
		{title: "empty variable", environ: []string{"ETCD_NAME="}, name: "default", dataDir: "default.etcd"},
		{title: "flag and other variable", environ: []string{"ETCD_DATA_DIR=/env"}, args: []string{"--name=flag"}, name: "flag", dataDir: "/env"},
		{title: "flag and its variable", environ: []string{"ETCD_NAME=env"}, args: []string{"--name=flag"}, wrong: "ETCD_NAME is shadowed"},
		{title: "flag and its empty variable", environ: []string{"ETCD_NAME="}, args: []string{"--name=flag"}, wrong: "ETCD_NAME is shadowed"},
		{title: "bad variable", environ: []string{"ETCD_QUOTA_BACKEND_BYTES=many"}, wrong: `invalid value "many" for ETCD_QUOTA_BACKEND_BYTES`},
		{title: "file", args: []string{"--config-file=" + file}, name: "file", dataDir: "file.etcd"},
		{title: "file over flag and variable", environ: []string{"ETCD_QUOTA_BACKEND_BYTES=9"}, args: []string{"--config-file", file, "--name=flag", "--data-dir=/flag"},
			name: "file", dataDir: "file.etcd"},
		{title: "file of a variable", environ: []string{"ETCD_CONFIG_FILE=" + file, "ETCD_NAME=env"}, name: "file", dataDir: "file.etcd"},
		{title: "absent file", args: []string{"--config-file=" + file + ".absent"}, wrong: file + ".absent"},
	} {
		t.Run(c.title, func(t *testing.T) {
			o, _, err := parse(c.environ, c.args...)
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("error is %v, want one with %q", err, c.wrong)
				}
				return
			}
			if err != nil || o.name != c.name || o.dataDir != c.dataDir || o.quotaBytes != c.quota {
				t.Errorf("name %q, data-dir %q, quota %d, %v", o.name, o.dataDir, o.quotaBytes, err)
			}
		})
	}
}

// TestEveryFlag ensures that every flag and variable is read, by a value that is
// not its default.
func TestEveryFlag(t *testing.T) {
	other := func(s flagSpec) string {
		switch s.value.(type) {
		case bool:
			return map[bool]string{true: "false", false: "true"}[s.value.(bool)]
		case time.Duration:
			return "77s"
		case int64, uint64:
			return "77"
		}
		switch {
		case s.name == "config-file", s.name == "discovery", s.name == "discovery-proxy":
			return "" // read by TestPrecedence, and refused
		case flagSyntax[s.name] == nil:
			return "x"
		case s.name == "feature-gates":
			return "AllAlpha=true"
		case s.name == "initial-cluster-state":
			return "existing"
		case s.name == "discovery-fallback":
			return "proxy"
		case s.name == "v2-deprecation":
			return "gone"
		}
		return "http://127.0.0.1:77"
	}
	for _, spec := range flagSpecs {
		text := other(spec)
		if text == "" || spec.effect == dropped {
			continue
		}
		for from, read := range map[string]func() *settings{
			"flag":        func() *settings { _, s, _ := parse(nil, "--"+spec.name+"="+text); return s },
			"environment": func() *settings { _, s, _ := parse([]string{spec.envName() + "=" + text}); return s },
		} {
			want, err := parseAs(spec.value, text)
			if err != nil {
				t.Fatal(err)
			}
			if v := read().byName[spec.name]; v.value != want || v.from == byDefault {
				t.Errorf("--%s: %v from the %s, want %v", spec.name, v.value, from, want)
			}
		}
	}
}

// TestUnusedEnvironment ensures that unknown variables are told of, and no error:
// service links and ETCD_VERIFY look like that.
func TestUnusedEnvironment(t *testing.T) {
	_, s, err := parse([]string{"ETCD_NAME=x", "ETCD_VERIFY=all", "ETCD_PORT_2379_TCP=tcp://1", "HOME=/"})
	if err != nil || !slices.Equal(s.strange, []string{"ETCD_PORT_2379_TCP", "ETCD_VERIFY"}) || !slices.Equal(s.used, []string{"ETCD_NAME"}) {
		t.Errorf("%v: unknown %v, used %v", err, s.strange, s.used)
	}
}

// TestInertFlags ensures that what has no effect is accepted, and warned of only
// when it asks for something.
func TestInertFlags(t *testing.T) {
	_, s, err := parse(nil, "--listen-peer-urls=http://127.0.0.1:2380", "--initial-cluster-state=new", "--pre-vote=false", "--max-wals=5", "-vv",
		"--initial-cluster=default=http://localhost:2380", "--v2-deprecation=not-yet")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range s.changed(inert, clusters, dropped) {
		if v.spec.why() == "" {
			t.Errorf("--%s has no reason", v.spec.name)
		}
		names = append(names, v.spec.name)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"listen-peer-urls", "pre-vote", "v2-deprecation", "vv"}) {
		t.Errorf("warned of %v", names)
	}
}

// TestRefusals ensures that what cannot be meant, or would be unsafe to ignore,
// is an error that names the flag; usage tells whether it ends the program as a
// wrong command line does, in etcd and here.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, want string
		usage      bool
		args       []string
	}{
		{"unknown flag", "unknown flag --no-such-flag", true, []string{"--no-such-flag"}},
		{"near flag", "did you mean --data-dir?", true, []string{"--datadir=x"}},
		{"far flag", "unknown flag --zzzzzzzzzzzz (shim", true, []string{"--zzzzzzzzzzzz"}},
		{"experimental flag", "did you mean --watch-progress-notify-interval?", true, []string{"--experimental-watch-progress-notify-interval=5s"}},
		{"flag that became a gate", "--feature-gates=InitialCorruptCheck=true", true, []string{"--experimental-initial-corrupt-check=true"}},
		{"v2", "the v2 store is not offered", true, []string{"--enable-v2"}},
		{"bad number", "quota-backend-bytes", true, []string{"--quota-backend-bytes=many"}},
		{"negative number", "max-txn-ops", true, []string{"--max-txn-ops=-1"}},
		{"bad duration", "grpc-keepalive-timeout", true, []string{"--grpc-keepalive-timeout=5"}},
		{"too many streams", "max-concurrent-streams", true, []string{"--max-concurrent-streams=4294967296"}},
		{"no port", "http://host:port", true, []string{"--listen-client-urls=http://127.0.0.1"}},
		{"path", "must not contain a path", true, []string{"--advertise-client-urls=http://127.0.0.1:1/"}},
		{"scheme", "must begin with", true, []string{"--listen-client-urls=ftp://127.0.0.1:1"}},
		{"empty socket", "unix://path", true, []string{"--listen-client-urls=unix://"}},
		{"origin", "cors", true, []string{"--cors=http://example.com"}},
		{"unknown gate", "unrecognized feature gate: NoSuchGate", true, []string{"--feature-gates=NoSuchGate=true"}},
		{"near gate", "did you mean PriorityRequest?", true, []string{"--feature-gates=PriorityRequests=true"}},
		{"gate without value", "missing bool value", true, []string{"--feature-gates=CompactHashCheck"}},
		{"cluster state", "initial-cluster-state", true, []string{"--initial-cluster-state=old"}},
		{"v2 deprecation", "v2-deprecation", true, []string{"--v2-deprecation=never"}},

		{"argument", `"serve" is not a flag or a command`, false, []string{"serve"}},
		{"near command", "did you mean check?", false, []string{"chek"}},
		{"truth value apart", `"false" is not a flag`, false, []string{"--pre-vote", "false"}},
		{"https without certificate", "--cert-file", false, []string{"--listen-client-urls=https://127.0.0.1:2379"}},
		{"certificate without key", "--key-file", false, []string{"--cert-file=a.pem"}},
		{"client's certificate without key", "--client-key-file", false, []string{"--listen-client-urls=https://127.0.0.1:1", "--auto-tls", "--client-cert-file=a.pem"}},
		{"domain name", "domain name", false, []string{"--listen-client-urls=http://example.com:2379"}},
		{"no host", "domain name", false, []string{"--listen-client-urls=http://:2379"}},
		{"members on a domain name", "--listen-peer-urls", false, []string{"--listen-peer-urls=http://example.com:2380"}},
		{"advertised without host", "names no host", false, []string{"--advertise-client-urls=http://:2379"}},
		{"gRPC and HTTP on one port", "is listened on for another flag", false, []string{"--listen-client-urls=http://127.0.0.1:1", "--listen-client-http-urls=http://127.0.0.1:1"}},
		{"three members", "3 members", false, []string{"--initial-cluster=default=http://localhost:2380,b=http://b:2380,c=http://c:2380"}},
		{"other member", "does not name this member", false, []string{"--name=a", "--initial-cluster=b=http://localhost:2380"}},
		{"election", "--election-timeout", false, []string{"--heartbeat-interval=100", "--election-timeout=200"}},
		{"long election", "at most 50s", false, []string{"--election-timeout=50001"}},
		{"discovery", "not offered", true, []string{"--discovery=https://discovery.etcd.io/x"}},
		{"discovery endpoints", "not offered", false, []string{"--discovery-endpoints=http://a:1"}},
		{"discovery by DNS", "not offered", false, []string{"--discovery-srv=example.com"}},
		{"v2 proxy", "--discovery-fallback", false, []string{"--discovery-fallback=proxy"}},
		{"cipher suite", "unexpected TLS cipher suite", false, []string{"--cipher-suites=NONSENSE"}},
		{"TLS version", "--tls-min-version", false, []string{"--tls-min-version=TLS1.1"}},
		{"logger", "--logger", false, []string{"--logger=capnslog"}},
		{"no transaction", "--max-txn-ops", false, []string{"--max-txn-ops=0"}},
		{"gateway", "gateway is not offered", false, []string{"gateway", "start", "--endpoints=a"}},
		{"grpc-proxy", "grpc-proxy is not offered", false, []string{"grpc-proxy", "start"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := parse(nil, c.args...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want one with %q", err, c.want)
			}
			if _, usage := errors.AsType[usageError](err); usage != c.usage {
				t.Errorf("%v is a usage error: %v", err, usage)
			}
		})
	}
}

// TestAllFaults ensures that every fault is reported, not only the first.
func TestAllFaults(t *testing.T) {
	_, _, err := parse(nil, "--cert-file=a.pem", "--name=", "--heartbeat-interval=0", "--discovery-srv=x", "--tls-max-version=x")
	for _, want := range []string{"--cert-file", "--name", "--heartbeat-interval", "--discovery-srv", "--tls-max-version"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error does not name %s: %v", want, err)
		}
	}
}

// TestGates ensures that gates stand as in etcd: named ones win over AllAlpha and
// AllBeta, and those without effect are told.
func TestGates(t *testing.T) {
	g, err := parseGates("AllAlpha=true,PriorityRequest=false,AllBeta=false")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"InitialCorruptCheck": true, "PriorityRequest": false, "FastLeaseKeepAlive": false, "LeaseCheckpoint": true} {
		if g.enabled(name) != want {
			t.Errorf("%s is %v", name, !want)
		}
	}
	if g, err = parseGates(" InitialCorruptCheck = true ,FastLeaseKeepAlive=1"); err != nil || len(g.void()) != 1 || g.void()[0].name != "InitialCorruptCheck" {
		t.Errorf("%v, %v", g.void(), err)
	}
	if _, _, err := parse(nil, "--feature-gates=LeaseCheckpointPersist=true"); err == nil {
		t.Error("LeaseCheckpointPersist goes without LeaseCheckpoint")
	}
	if g, err = parseGates(""); err != nil || !g.enabled("FastLeaseKeepAlive") || g.enabled("CompactHashCheck") {
		t.Errorf("%v, %v", g, err)
	}
}

// TestAdjusted ensures that values which etcd takes for its defaults, or for its
// bounds, are taken so: none is an error, least of all once the store is open.
func TestAdjusted(t *testing.T) {
	o, s, err := parse(nil, "--watch-progress-notify-interval=-1s", "--warning-unary-request-duration=0s", "--max-request-bytes=18446744073709551615",
		"--max-txn-ops=18446744073709551615", "--max-concurrent-streams=0", "--grpc-keepalive-min-time=-1s",
		"--cors=http://b.example:80, http://a.example:80,http://b.example:80")
	if err != nil {
		t.Fatal(err)
	}
	if o.progressNotify != 10*time.Minute || o.slowRequest != 300*time.Millisecond || o.keepaliveMin != 5*time.Minute ||
		!slices.Equal(o.cors, []string{"http://a.example:80", "http://b.example:80"}) {
		t.Errorf("options are %+v", o)
	}
	b := memory.New(backends.SystemClock{})
	defer func() { _ = b.Close(t.Context()) }()
	core, logs := observer.New(zapcore.WarnLevel)
	log := zap.New(core)
	server, err := etcdapi.New(b, o.api(log, prometheus.NewRegistry()))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if s.tell(o, log); logs.FilterMessage("exceeded recommended request limit").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}
	if o, _, err = parse(nil, "--warning-unary-request-duration=-1s", "--cors=*"); err != nil || o.slowRequest != 1 || !slices.Equal(o.cors, []string{"*"}) {
		t.Errorf("%v, %v, %v", o.slowRequest, o.cors, err)
	}
}

// TestEndpoints ensures that URLs of clients, HTTP and metrics become ports, and
// those that differ by their scheme alone one.
func TestEndpoints(t *testing.T) {
	o, _, err := parse(nil, "--auto-tls", "--listen-client-urls=https://127.0.0.1:1,http://127.0.0.1:1,unix:///run/a.sock,unixs://b.sock:0",
		"--listen-client-http-urls=http://[::1]:2", "--listen-metrics-urls=https://0.0.0.0:3")
	if err != nil {
		t.Fatal(err)
	}
	type port struct {
		network, address string
		secure, insecure bool
		traffic          traffic
	}
	var got []port
	for _, e := range o.endpoints {
		got = append(got, port{e.network, e.address, e.secure, e.insecure, e.traffic})
	}
	want := []port{
		{"tcp", "127.0.0.1:1", true, true, trafficGRPC},
		{"unix", "/run/a.sock", false, true, trafficGRPC},
		{"unix", "b.sock:0", true, false, trafficGRPC},
		{"tcp", "[::1]:2", false, true, trafficHTTP},
		{"tcp", "0.0.0.0:3", true, false, trafficMetrics},
	}
	if !slices.Equal(got, want) {
		t.Errorf("endpoints are\n%v, want\n%v", got, want)
	}
	if len(o.advertiseClientURLs) != 4 {
		t.Errorf("advertised: %v", o.advertiseClientURLs)
	}
}

// TestHelp ensures that help shows each flag under its heading, and each command.
func TestHelp(t *testing.T) {
	app, _ := newApp()
	var out strings.Builder
	app.Writer = &out
	if err := app.Run([]string{"shim", "-h"}); err != nil {
		t.Fatal(err)
	}
	help := out.String()
	for _, s := range flagSpecs {
		if shown := strings.Contains(help, "\n  --"+s.name+" '"); shown != (s.effect != dropped) {
			t.Errorf("--%s is in the help: %v", s.name, shown)
		}
	}
	at := 0
	for _, heading := range slices.Concat([]string{"shim check", "shim completion"}, groups) {
		i := strings.Index(help[at:], "\n"+heading+":")
		if strings.HasPrefix(heading, "shim ") {
			i = strings.Index(help[at:], "\n  "+heading)
		}
		if i < 0 {
			t.Fatalf("%q is not in the help, in its order", heading)
		}
		at += i
	}
}

// TestFlagTable ensures that docs/FLAGS.md is what make docs would write.
func TestFlagTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/FLAGS.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != flagTable() {
		t.Error("docs/FLAGS.md is stale: run make docs")
	}
}

// TestVersion ensures that the first line is etcd's, which scripts look at.
func TestVersion(t *testing.T) {
	app, _ := newApp()
	var b strings.Builder
	app.Writer = &b
	if err := app.Run([]string{"shim", "-version"}); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), "etcd Version: 3.7.3\nGit SHA: ") || !strings.Contains(b.String(), "shim Version: ") {
		t.Errorf("version is %q", b.String())
	}
}

// TestFlagNames ensures that the table names each flag once, in a known group, and
// says something of each.
func TestFlagNames(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range flagSpecs {
		if seen[s.name] || s.usage == "" || s.effect != dropped && !slices.Contains(groups, s.group) {
			t.Errorf("flag %s stands twice, or has no usage or group", s.name)
		}
		seen[s.name] = true
	}
	for _, name := range flagsOnly {
		if !seen[name] {
			t.Errorf("flagsOnly names %s, which is no flag", name)
		}
	}
	for section, keys := range fileSections {
		for key, name := range keys {
			if !seen[name] && name != fileAllowedCN {
				t.Errorf("%s.%s stands for %s, which is no flag", section, key, name)
			}
		}
	}
}
