package etcd

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// splitSides are both servers with gRPC, HTTP and metrics on ports of their own, whose
// schemes are given.
func splitSides(t *testing.T, scheme string, flags ...string) (sides [2]*side, addresses [2]map[string]string) {
	t.Helper()
	for i, name := range []string{"etcd", "shim"} {
		client, peer := process.Port(t), fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
		at := map[string]string{
			"grpc": fmt.Sprintf("127.0.0.1:%d", client), "http": fmt.Sprintf("127.0.0.1:%d", process.Port(t)), "metrics": fmt.Sprintf("127.0.0.1:%d", process.Port(t)),
		}
		probed := fmt.Sprintf("127.0.0.1:%d", process.Port(t))
		s := process.Start(t, process.Binary(t, name), client, t.TempDir(), append([]string{
			"--listen-client-urls", scheme + "://" + at["grpc"], "--advertise-client-urls", scheme + "://" + at["grpc"], "--listen-client-http-urls", scheme + "://" + at["http"],
			"--listen-metrics-urls", scheme + "://" + at["metrics"] + ",http://" + probed,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
		}, flags...)...)
		s.Address = probed
		s.WaitReady(t)
		sides[i], addresses[i] = &side{name: name, server: s, dir: t.TempDir()}, at
	}
	return sides, addresses
}

// TestSplitPorts compares what is served where HTTP and metrics have ports of their
// own, plain and with TLS.
func TestSplitPorts(t *testing.T) {
	p := newPKI(t)
	p.issue("server")
	alice := p.issue("alice")
	for scheme, flags := range map[string][]string{
		"http":  nil,
		"https": {"--cert-file", p.path("server.crt"), "--key-file", p.path("server.key"), "--trusted-ca-file", p.path("ca.crt"), "--client-cert-auth"},
	} {
		t.Run(scheme, func(t *testing.T) {
			sides, addresses := splitSides(t, scheme, flags...)
			clients := map[string]*tls.Config{"plain": nil}
			if scheme == "https" {
				clients["alice"], clients["nobody"] = p.client(alice), p.client()
			}
			for name, c := range clients {
				for _, port := range []string{"grpc", "http", "metrics"} {
					at := func(tell func(*side) string) func(*side) string {
						return func(s *side) string {
							i := 0
							if s == sides[1] {
								i = 1
							}
							s.server.Address = addresses[i][port]
							return tell(s)
						}
					}
					title := name + " at the port of " + port + ": "
					compareSides(t, sides, title+"gRPC", at(func(s *side) string { return ranges(s, c) }))
					for _, path := range []string{"/version", "/health", "/readyz/non_learner", "/metrics", "/v3/kv/range", "/debug/vars?", "/debug/pprof/", "/none"} {
						for _, http2 := range []bool{false, true} {
							method := http.MethodGet
							if path == "/v3/kv/range" {
								method = http.MethodPost
							}
							compareSides(t, sides, fmt.Sprint(title, method, " ", path, ", HTTP/2 ", http2), at(func(s *side) string {
								told := page(s, c, http2, method, path, `{"key":"YQ=="}`)
								if path == "/debug/vars?" {
									told = told[:min(len(told), 3)] // the status
								}
								return told
							}))
						}
					}
				}
			}
		})
	}
}

// TestUnixPorts compares gRPC and HTTP over unix sockets, plain and with TLS.
func TestUnixPorts(t *testing.T) {
	p := newPKI(t)
	p.issue("server")
	for i, name := range []string{"etcd", "shim"} {
		// etcd makes its sockets in the working directory, by the host of the URL.
		dir := t.TempDir()
		probed, peer := fmt.Sprintf("127.0.0.1:%d", process.Port(t)), fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
		plain, secure := filepath.Join(dir, "plain:0"), filepath.Join(dir, "secure:0")
		both := "unix://" + plain + ",unixs://" + secure
		s := process.Start(t, process.Binary(t, name), process.Port(t), t.TempDir(), "--listen-client-urls", both, "--advertise-client-urls", both,
			"--listen-metrics-urls", "http://"+probed, "--cert-file", p.path("server.crt"), "--key-file", p.path("server.key"),
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
		s.Address = probed
		s.WaitReady(t)
		for socket, c := range map[string]*tls.Config{plain: nil, secure: p.client()} {
			if c != nil {
				c.ServerName = "localhost"
			}
			if got := rangesAt("unix:"+socket, c); got != "<nil>" {
				t.Errorf("%d %s, %s: %s", i, name, filepath.Base(socket), got)
			}
		}
	}
}
