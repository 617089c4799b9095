package etcd

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// TestSettingsAlike ensures that settings which etcd starts with start shim, and
// compares what they change.
func TestSettingsAlike(t *testing.T) {
	learner := func(n int) ask {
		return post("/v3/cluster/member/add", fmt.Sprintf(`{"peerURLs":["http://127.0.0.1:%d"],"isLearner":true}`, n)).hide("ID", "clientURLs")
	}
	for _, c := range []struct {
		name  string
		flags []string
		asks  []ask
	}{
		{"odd values", []string{"--max-concurrent-streams=0", "--watch-progress-notify-interval=-1s", "--warning-unary-request-duration=0s", "--max-request-bytes=3000000000",
			"--grpc-keepalive-min-time=-1s", "--self-signed-cert-validity=0", "--auth-token-ttl=0", "--compaction-batch-limit=-1", "--compaction-sleep-interval=-1s",
			"--snapshot-count=0", "--max-wals=0", "--quota-backend-bytes=-1", "--bcrypt-cost=99", "--pre-vote=false", "--v2-deprecation=gone"},
			[]ask{post("/v3/kv/put", `{"key":`+foo+`}`), post("/v3/kv/compaction", `{"revision":"2"}`)}},
		{"origins", []string{"--cors=http://a.example:80, http://b.example:80"}, []ask{
			get("/health").from("http://a.example:80"), get("/health").from("http://b.example:80"), get("/health").from("http://c.example:80"), get("/health"),
			get("/v3/kv/range").by(http.MethodOptions).from("http://b.example:80"), get("/health").from("*")}},
		{"hosts", []string{"--host-whitelist=127.0.0.1,good.example"}, []ask{
			get("/health").at("good.example"), get("/health").at("good.example:99"), get("/health").at("GOOD.example"), get("/health").at("evil.example"), get("/health").at("[::1]:5"),
			post("/v3/kv/range", `{"key":`+foo+`}`).at("evil.example"), get("/none").at("evil.example").by(http.MethodOptions), get("/metrics").at("evil.example:1"), get("/health")}},
		{"every host", []string{"--host-whitelist=*,a"}, []ask{get("/health").at("evil.example")}},
		{"no gateway", []string{"--enable-grpc-gateway=false"}, []ask{
			post("/v3/kv/range", `{"key":`+foo+`}`), post("/v3beta/kv/range", `{}`), get("/v3/"), get("/v3"), get("/health")}},
		{"small requests", []string{"--max-request-bytes=100", "--max-txn-ops=1"}, []ask{
			post("/v3/kv/put", `{"key":"`+fmt.Sprintf("%0200d", 0)+`"}`), post("/v3/kv/put", `{"key":`+foo+`}`),
			post("/v3/kv/txn", `{"success":[{"request_range":{"key":`+foo+`}},{"request_range":{"key":`+bar+`}}]}`),
			post("/v3/kv/txn", `{"success":[{"request_range":{"key":`+foo+`}}]}`)}},
		{"no learners", []string{"--max-learners=0"}, []ask{learner(1)}},
		{"one learner", nil, []ask{learner(1), learner(2)}},
		{"two learners", []string{"--max-learners=2"}, []ask{learner(1), learner(2), learner(3)}},
		{"an old cluster of several URLs", []string{"--initial-advertise-peer-urls=http://127.0.0.1:19999,http://127.0.0.1:19998",
			"--initial-cluster=default=http://127.0.0.1:19999,default=http://127.0.0.1:19998", "--initial-cluster-token=t"}, []ask{
			post("/v3/cluster/member/list", `{}`).hide("clientURLs")}},
	} {
		t.Run(c.name, func(t *testing.T) { converse(t, newSides(t, c.flags...), c.asks) })
	}
}

// TestFoundingFlagsOfMember ensures that what flags say of a cluster's founding is
// void for a member that exists, in both.
func TestFoundingFlagsOfMember(t *testing.T) {
	for _, program := range []string{"etcd", "shim"} {
		t.Run(program, func(t *testing.T) {
			peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
			dir, port := t.TempDir(), process.Port(t)
			start := func(flags ...string) {
				t.Helper()
				s := process.Start(t, process.Binary(t, program), port, dir, append([]string{"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer}, flags...)...)
				s.WaitReady(t)
				s.Stop()
			}
			start("--initial-cluster", "default="+peer)
			start("--initial-cluster", "a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380")
			start("--initial-cluster", "default="+peer, "--initial-cluster-state=existing")
		})
	}
}

// TestUnalikeFounding ensures that what etcd refuses of a cluster's founding is
// refused.
func TestUnalikeFounding(t *testing.T) {
	const self = "--initial-advertise-peer-urls=http://127.0.0.1:19999"
	for _, flags := range [][]string{
		{self, "--initial-cluster=default=http://127.0.0.1:19998"},
		{self, "--initial-cluster=other=http://127.0.0.1:19999"},
		{self, "--initial-cluster=default=http://localhost:19999"}, // the one name that is not looked up
		{self, "--initial-cluster=default=http://127.0.0.1:19999,default=http://127.0.0.1:19998"},
		{self + ",http://127.0.0.1:19998", "--initial-cluster=default=http://127.0.0.1:19999"},
		{"--listen-peer-urls=http://example.com:1"},
	} {
		listen := []string{fmt.Sprintf("--listen-client-urls=http://127.0.0.1:%d", process.Port(t)), "--advertise-client-urls=http://127.0.0.1:1",
			fmt.Sprintf("--listen-peer-urls=http://127.0.0.1:%d", process.Port(t))}
		for _, program := range []string{"etcd", "shim"} {
			if code, output := exitOf(t, process.Binary(t, program), nil, append(listen, flags...)); code != 1 {
				t.Errorf("%s %q: exit code %d\n%s", program, flags, code, output)
			}
		}
	}
}
