package etcd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// secrets are in requests, and must be in no log, whatever its level.
var secrets = []string{"pass-of-root", "pass-of-user", "another-pass", "dmFsdWUtc2VjcmV0", "value-secret"}

// words are messages of etcd's log that operators' tools and tests look for, of what
// happens in logged. Each must be in the logs of both.
var words = []string{
	"ready to serve client requests",
	"serving client traffic insecurely; this is strongly discouraged!",
	"serving metrics",
	"pprof is enabled",
	"request stats",
	"finished scheduled compaction",
	"starting defragment",
	"finished defragment",
	"finished defragmenting directory",
	"sending database snapshot to client",
	"successfully sent database snapshot to client",
	"added member",
	"updated member",
	"removed member",
	"serving /health false due to an alarm",
	"/health error",
	"Health check error",
	"some health checks cannot be excluded",
	"rejecting HTTP request to prevent DNS rebinding attacks",
	"added a user",
	"created a role",
	"granted/updated a permission to a user",
	"granted a role to a user",
	"changed a password of a user",
	"enabled authentication",
	"invalid auth token",
	"revoked a permission on range",
	"revoked a role from a user",
	"deleted a role",
	"deleted a user",
	"disabled authentication",
	"received signal; shutting down",
}

// logged does to a server what leaves those messages.
func logged(t *testing.T, s *side, metrics int) {
	t.Helper()
	do := func(asks ...ask) {
		t.Helper()
		for _, a := range asks {
			if _, err := a.do(s); err != nil {
				t.Fatalf("%s: %s: %v", s.name, a.title(), err)
			}
		}
	}
	put := post("/v3/kv/put", `{"key":`+foo+`,"value":"dmFsdWUtc2VjcmV0"}`)
	do(put, put, post("/v3/kv/compaction", `{"revision":"3","physical":true}`), post("/v3/maintenance/defragment", `{}`), post("/v3/maintenance/snapshot", `{}`))
	added, err := post("/v3/cluster/member/add", `{"peerURLs":["http://127.0.0.1:9"],"isLearner":true}`).do(s)
	if err != nil {
		t.Fatal(err)
	}
	var member struct{ Member struct{ ID string } }
	if err := json.Unmarshal([]byte(added.body), &member); err != nil || member.Member.ID == "" {
		t.Fatalf("%s: %s, %v", s.name, added.body, err)
	}
	do(post("/v3/cluster/member/update", `{"ID":"`+member.Member.ID+`","peerURLs":["http://127.0.0.1:10"]}`),
		post("/v3/cluster/member/remove", `{"ID":"`+member.Member.ID+`"}`),
		post("/v3/maintenance/alarm", `{"action":"ACTIVATE","memberID":"5","alarm":"CORRUPT"}`), get("/health"), get("/readyz"), get("/readyz?exclude=nothing"),
		post("/v3/maintenance/alarm", `{"action":"DEACTIVATE","memberID":"5","alarm":"CORRUPT"}`), get("/health").at("evil.example"))
	answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/health", metrics))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()

	do(post("/v3/auth/user/add", `{"name":"root","password":"pass-of-root"}`), post("/v3/auth/role/add", `{"name":"root"}`), post("/v3/auth/user/grant", `{"user":"root","role":"root"}`),
		post("/v3/auth/user/add", `{"name":"u","password":"pass-of-user"}`), post("/v3/auth/role/add", `{"name":"r"}`),
		post("/v3/auth/role/grant", `{"name":"r","perm":{"permType":"READ","key":`+foo+`}}`), post("/v3/auth/user/grant", `{"user":"u","role":"r"}`),
		post("/v3/auth/enable", `{}`), post("/v3/kv/range", `{"key":`+foo+`}`).token("nonsense"),
		post("/v3/auth/authenticate", `{"name":"root","password":"pass-of-root"}`), post("/v3/auth/authenticate", `{"name":"u","password":"another-pass"}`))
	if s.token == "" {
		t.Fatalf("%s gave no token", s.name)
	}
	do(post("/v3/auth/user/changepw", `{"name":"u","password":"another-pass"}`).token("$TOKEN"),
		post("/v3/auth/role/revoke", `{"role":"r","key":`+foo+`}`).token("$TOKEN"), post("/v3/auth/user/revoke", `{"name":"u","role":"r"}`).token("$TOKEN"),
		post("/v3/auth/role/delete", `{"role":"r"}`).token("$TOKEN"), post("/v3/auth/user/delete", `{"name":"u"}`).token("$TOKEN"),
		post("/v3/kv/put", `{"key":`+foo+`,"value":"dmFsdWUtc2VjcmV0"}`).token("$TOKEN"), post("/v3/auth/disable", `{}`).token("$TOKEN"))
}

// TestLogWords ensures that the log has etcd's words and shape, at etcd's levels, and
// nothing in it that is secret.
func TestLogWords(t *testing.T) {
	for _, level := range []string{"info", "debug"} {
		levels := map[string]map[string]string{} // of each program's messages
		for _, program := range []string{"etcd", "shim"} {
			path, metrics := filepath.Join(t.TempDir(), "log"), process.Port(t)
			peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
			server := process.Start(t, process.Binary(t, program), process.Port(t), t.TempDir(), "--log-outputs", path, "--log-level", level, "--enable-pprof",
				"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--bcrypt-cost=4",
				"--warning-unary-request-duration=1ns", "--host-whitelist=127.0.0.1", "--listen-metrics-urls", fmt.Sprintf("http://127.0.0.1:%d", metrics))
			server.WaitReady(t)
			s := &side{name: program, server: server}
			logged(t, s, metrics)
			server.Stop()
			levels[program] = readLog(t, s, path)
		}
		for _, word := range words {
			etcd, shim := levels["etcd"][word], levels["shim"][word]
			if level == "debug" && word == "request stats" {
				etcd = shim // etcd does not warn of slow requests then
			}
			if etcd != shim || etcd == "" {
				t.Errorf("at %s: %q is logged at %q, by etcd at %q", level, word, shim, etcd)
			}
		}
		for message, at := range levels["shim"] {
			if (at == "error" || at == "fatal" || at == "panic") && message != "Health check error" {
				t.Errorf("at %s: %q is logged at %s", level, message, at)
			}
		}
	}
}

// readLog reads a log, checks its shape, and tells the level of each message. Of shim it
// looks for secrets.
func readLog(t *testing.T, s *side, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	levels := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("%s: %.300s: %v", s.name, line, err)
			continue
		}
		level, _ := fields["level"].(string)
		message, _ := fields["msg"].(string)
		if caller, _ := fields["caller"].(string); fields["ts"] == nil || level == "" || message == "" || !strings.Contains(caller, ".go:") {
			t.Errorf("%s: a line of another shape: %.300s", s.name, line)
		}
		levels[message] = level
		if s.name != "shim" {
			continue
		}
		for _, secret := range append([]string{s.token}, secrets...) {
			if strings.Contains(line, secret) {
				t.Errorf("%q is in the log: %.300s", secret, line)
			}
		}
	}
	return levels
}
