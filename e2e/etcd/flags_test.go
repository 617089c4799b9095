package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// helpLine is a flag in the help of either program, with its default.
var helpLine = regexp.MustCompile(`^  --([a-z0-9-]+)(?: '(.*)'| (\S+))?$`)

// gateLine is a feature gate in etcd's help: name, stage, default.
var gateLine = regexp.MustCompile(`^ +(\w+)=true\|false \((ALPHA|BETA) - default=(true|false)\)$`)

// help is what a program's --help lists: each flag's default, nil where none is
// shown, and the headings in their order.
type help struct {
	defaults map[string]*string
	headings map[string]string // of each flag
	order    []string
	gates    [][]string // of etcd: name, stage, default
}

func readHelp(t *testing.T, binary string) help {
	t.Helper()
	out, err := exec.Command(binary, "--help").Output() // both write it to stdout and exit 0
	if err != nil {
		t.Fatalf("%s --help: %v", binary, err)
	}
	h := help{defaults: map[string]*string{}, headings: map[string]string{}}
	for _, line := range strings.Split(string(out), "\n") {
		if m := helpLine.FindStringSubmatch(line); m != nil && len(h.order) > 0 {
			h.defaults[m[1]], h.headings[m[1]] = nil, h.order[len(h.order)-1]
			if strings.Contains(line, "'") {
				h.defaults[m[1]] = &m[2]
			} else if m[3] != "" {
				h.defaults[m[1]] = &m[3]
			}
		} else if m := gateLine.FindStringSubmatch(line); m != nil {
			h.gates = append(h.gates, m[1:])
		} else if strings.HasSuffix(line, ":") && !strings.HasPrefix(line, " ") && line != "Usage:" {
			h.order = append(h.order, strings.TrimSuffix(line, ":"))
		}
	}
	if len(h.defaults) < 100 {
		t.Fatalf("%s --help lists %d flags: the pattern is wrong", binary, len(h.defaults))
	}
	return h
}

// TestFlagList ensures that shim has etcd's flags, with etcd's defaults, under
// etcd's headings, and etcd's feature gates.
func TestFlagList(t *testing.T) {
	etcd, shim := readHelp(t, process.Binary(t, "etcd")), readHelp(t, process.Binary(t, "shim"))
	// What etcd's help says otherwise than etcd does.
	written := map[string]string{"max-concurrent-streams": "4294967295", "backend-batch-interval": "0s"}
	for name, value := range etcd.defaults {
		ours, found := shim.defaults[name]
		switch {
		case !found:
			t.Errorf("shim has no flag --%s", name)
			continue
		case shim.headings[name] != etcd.headings[name]:
			t.Errorf("--%s stands below %q, in etcd below %q", name, shim.headings[name], etcd.headings[name])
		case value == nil:
			continue
		}
		want := *value
		if w, otherwise := written[name]; otherwise {
			want = w
		}
		if ours == nil || *ours != want && !sameDuration(*ours, want) {
			t.Errorf("--%s is %q by default, in etcd %q", name, *ours, want)
		}
	}
	for name := range shim.defaults {
		// etcd's help has --config-file above the list.
		if _, found := etcd.defaults[name]; !found && shim.headings[name] != "shim" && name != "config-file" {
			t.Errorf("etcd has no flag --%s", name)
		}
	}
	if got := strings.Join(shim.order, ","); !strings.HasSuffix(got, strings.Join(etcd.order, ",")) {
		t.Errorf("headings are %v, in etcd %v", shim.order, etcd.order)
	}

	table, err := exec.Command(process.Binary(t, "shim"), "flag-table").Output()
	if err != nil || len(etcd.gates) < 9 {
		t.Fatalf("%v, %d gates of etcd", err, len(etcd.gates))
	}
	for _, g := range etcd.gates {
		if g[0] == "AllAlpha" || g[0] == "AllBeta" {
			continue
		}
		if row := "| `" + g[0] + "` (" + strings.ToLower(g[1]) + ") | " + g[2] + " |"; !strings.Contains(string(table), row) {
			t.Errorf("no feature gate %v", g)
		}
	}
	if rows := strings.Count(string(table), " (alpha) |") + strings.Count(string(table), " (beta) |"); rows != len(etcd.gates)-2 {
		t.Errorf("%d feature gates, in etcd %d", rows, len(etcd.gates)-2)
	}
}

func sameDuration(a, b string) bool {
	x, errX := time.ParseDuration(a)
	y, errY := time.ParseDuration(b)
	return errX == nil && errY == nil && x == y
}

// TestRefusedAlike ensures that a command line, an environment or a configuration
// file that etcd refuses is refused by shim with the same exit code, and that what
// ends well in etcd does so in shim.
func TestRefusedAlike(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "--config-file=" + path
	}
	none := "--listen-client-urls=http://127.0.0.1:1" // a port that cannot be had, if a start went so far
	for _, c := range []struct {
		name    string
		environ []string
		args    []string
	}{
		{"help", nil, []string{"--help"}},
		{"help, one letter", nil, []string{"-h"}},
		{"version", nil, []string{"--version"}},
		{"version beside others", nil, []string{"-name", "x", "-version"}},
		{"unknown flag", nil, []string{"--no-such-flag"}},
		{"removed flag", nil, []string{"--experimental-initial-corrupt-check=true"}},
		{"no number", nil, []string{"--quota-backend-bytes=many"}},
		{"negative number", nil, []string{"--max-txn-ops=-1"}},
		{"large number", nil, []string{"--max-concurrent-streams=4294967296"}},
		{"no duration", nil, []string{"--grpc-keepalive-timeout=5"}},
		{"no truth value", nil, []string{"--pre-vote=maybe"}},
		{"truth value apart", nil, []string{"--pre-vote", "false"}},
		{"missing value", nil, []string{"--name"}},
		{"argument", nil, []string{"serve"}},
		{"URL without scheme", nil, []string{"--listen-client-urls=127.0.0.1:2379"}},
		{"URL without port", nil, []string{"--listen-client-urls=http://127.0.0.1"}},
		{"URL with path", nil, []string{"--advertise-client-urls=http://127.0.0.1:1/"}},
		{"listen on a name", nil, []string{"--listen-client-urls=http://example.com:1", "--advertise-client-urls=http://a:1"}},
		{"listen on no host", nil, []string{"--listen-client-urls=http://:1", "--advertise-client-urls=http://a:1"}},
		{"advertise no host", nil, []string{none, "--advertise-client-urls=http://:1"}},
		{"origin", nil, []string{"--cors=example.com"}},
		{"no origin", nil, []string{"--cors="}},
		{"unknown gate", nil, []string{"--feature-gates=NoSuchGate=true"}},
		{"gate without value", nil, []string{"--feature-gates=CompactHashCheck"}},
		{"gate that needs another", nil, []string{"--feature-gates=LeaseCheckpointPersist=true"}},
		{"cluster state", nil, []string{"--initial-cluster-state=old"}},
		{"v2 deprecation", nil, []string{"--v2-deprecation=never"}},
		{"discovery fallback", nil, []string{"--discovery-fallback=never"}},
		{"v2 proxy", nil, []string{"--discovery-fallback=proxy"}},
		{"discovery by URL", nil, []string{"--discovery=http://a"}},
		{"TLS version", nil, []string{"--tls-min-version=TLS1.1"}},
		{"TLS versions", nil, []string{"--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"}},
		{"suites of TLS 1.3", nil, []string{"--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"}},
		{"heartbeat", nil, []string{"--heartbeat-interval=0"}},
		{"election", nil, []string{"--election-timeout=400"}},
		{"long election", nil, []string{"--election-timeout=50001"}},
		{"compaction mode", nil, []string{"--auto-compaction-mode=sometimes"}},
		{"log format", nil, []string{"--log-format=xml"}},
		{"logger", nil, []string{"--logger=capnslog"}},
		{"log outputs", nil, []string{"--log-outputs=default,stdout"}},
		{"rotation without file", nil, []string{"--enable-log-rotation"}},
		{"hash check", nil, []string{"--compact-hash-check-time=0s"}},
		{"variable", []string{"ETCD_QUOTA_BACKEND_BYTES=many"}, nil},
		{"variable of a list", []string{"ETCD_LISTEN_CLIENT_URLS=x"}, nil},
		{"variable and flag", []string{"ETCD_NAME=a"}, []string{"--name=b"}},
		{"empty variable and flag", []string{"ETCD_NAME="}, []string{"--name=b"}},
		{"absent file", nil, []string{"--config-file=" + filepath.Join(dir, "absent")}},
		{"absent file of a variable", []string{"ETCD_CONFIG_FILE=" + filepath.Join(dir, "absent")}, nil},
		{"file that is none", nil, []string{file("list", "- a\n")}},
		{"file with a wrong type", nil, []string{file("type", "heartbeat-interval: often\n")}},
		{"file with a wrong section", nil, []string{file("section", "peer-transport-security: 1\n")}},
		{"file with a wrong URL", nil, []string{file("url", "listen-client-urls: x\n")}},
		{"file with a wrong gate", nil, []string{file("gate", "feature-gates: NoSuchGate=true\n")}},
		{"file that says election", nil, []string{file("election", "election-timeout: 1\n")}},
		{"flag beside a file", nil, []string{file("beside", "election-timeout: 1\n"), "--election-timeout=1000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			codes := map[string]int{}
			outputs := map[string]string{}
			for _, program := range []string{"etcd", "shim"} {
				codes[program], outputs[program] = exitOf(t, process.Binary(t, program), c.environ, c.args)
			}
			if codes["etcd"] != codes["shim"] || codes["etcd"] < 0 {
				t.Errorf("exit code %d, in etcd %d\nshim:\n%s\netcd:\n%s", codes["shim"], codes["etcd"], outputs["shim"], outputs["etcd"])
			}
		})
	}
}

// exitOf runs a program that ends by itself, in a directory of its own.
func exitOf(t *testing.T, binary string, environ, args []string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), refuseTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, binary, args...)
	command.Dir = t.TempDir()
	command.Env = append(os.Environ(), environ...)
	out, err := command.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), string(out) // -1 when it was killed
	}
	if err != nil {
		t.Fatalf("%s %q: %v", binary, args, err)
	}
	return 0, string(out)
}

// TestConfigFileAlike ensures that one configuration file, of all kinds of keys,
// starts etcd and shim to the same effect: where they listen, how they are named,
// and the self-signed certificate at its place.
func TestConfigFileAlike(t *testing.T) {
	for _, program := range []string{"etcd", "shim"} {
		t.Run(program, func(t *testing.T) {
			dir := t.TempDir()
			client, peer, metrics := process.Port(t), process.Port(t), process.Port(t)
			content := fmt.Sprintf(`
name: "42"
data-dir: %[1]s/data
listen-client-urls: https://127.0.0.1:%[2]d
advertise-client-urls: https://127.0.0.1:%[2]d
listen-peer-urls: http://127.0.0.1:%[3]d
initial-advertise-peer-urls: http://127.0.0.1:%[3]d
initial-cluster: 42=http://127.0.0.1:%[3]d
initial-cluster-token: of-a-file
listen-metrics-urls: http://127.0.0.1:%[4]d
heartbeat-interval: 50
election-timeout: 500
watch-progress-notify-interval: 5000000000
auto-compaction-retention: "1"
feature-gates: InitialCorruptCheck=true,AllBeta=true
log-outputs: [stderr, %[1]s/log]
log-level: warn
cors: "*"
host-whitelist: a,b
socket-options: {reuse-address: true}
client-transport-security: {auto-tls: true}
peer-transport-security: {client-cert-auth: false}
no-such-key: 1
`, dir, client, peer, metrics)
			path := filepath.Join(dir, "config")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			// Both ignore the flag beside the file.
			command := exec.CommandContext(t.Context(), process.Binary(t, program), "--config-file="+path, "--name=flag")
			var output strings.Builder
			command.Dir, command.Stderr = dir, &output
			command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			exited := make(chan error, 1)
			go func() { exited <- command.Wait() }()
			trusting := &http.Client{Timeout: refuseTimeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
			ask := func(url, body string) (string, error) {
				method := http.MethodPost
				if body == "" {
					method = http.MethodGet
				}
				request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
				if err != nil {
					return "", err
				}
				answer, err := trusting.Do(request)
				if err != nil {
					return "", err
				}
				defer func() { _ = answer.Body.Close() }()
				text, err := io.ReadAll(answer.Body)
				if answer.StatusCode != http.StatusOK {
					err = errors.Join(err, errors.New(answer.Status))
				}
				return string(text), err
			}
			deadline := time.Now().Add(refuseTimeout)
			for {
				if _, err := ask(fmt.Sprintf("http://127.0.0.1:%d/readyz", metrics), ""); err == nil {
					break
				} else if time.Now().After(deadline) {
					_ = command.Process.Kill() // so that its output stands
					<-exited
					t.Fatalf("not ready: %v\n%s", err, output.String())
				}
				select {
				case err := <-exited:
					t.Fatalf("it ended: %v\n%s", err, output.String())
				case <-time.After(20 * time.Millisecond):
				}
			}
			members, err := ask(fmt.Sprintf("https://127.0.0.1:%d/v3/cluster/member/list", client), "{}")
			for _, want := range []string{`"name":"42"`, fmt.Sprintf(`"clientURLs":["https://127.0.0.1:%d"]`, client), fmt.Sprintf(`"peerURLs":["http://127.0.0.1:%d"]`, peer)} {
				if err != nil || !strings.Contains(members, want) {
					t.Errorf("the member list has no %s: %s, %v", want, members, err)
				}
			}
			if err := command.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			<-exited
			for _, file := range []string{"data/fixtures/client/cert.pem", "data/fixtures/client/key.pem", "data/member/snap/db", "log"} {
				if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
					t.Error(err)
				}
			}
			for _, line := range strings.Split(output.String(), "\n") {
				if strings.Contains(line, `"level":"info"`) && !strings.Contains(line, "feature gates:") {
					t.Errorf("logged in spite of log-level: %s", line)
				}
			}
		})
	}
}
