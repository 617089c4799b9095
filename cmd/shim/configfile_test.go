package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func configFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConfigFile ensures that etcd's keys and value types are read, from YAML and
// from JSON, and that keys that mean nothing are told and no error.
func TestConfigFile(t *testing.T) {
	yaml := `
# a comment
name: 007
Data-Dir: /data
quota-backend-bytes: 4294967296
heartbeat-interval: 50
listen-client-urls: https://127.0.0.1:1,unix:///a
listen-client-http-urls: ""
initial-cluster-state: ""
auto-compaction-retention: 5
watch-progress-notify-interval: 5000000000
grpc-keepalive-timeout: 7s
enable-pprof: true
pre-vote: null
cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]
log-outputs: [stdout, /a/b]
feature-gates: CompactHashCheck=true
self-signed-cert-validity: 0
client-transport-security:
  cert-file: c
  key-file: k
  client-cert-auth: true
  trusted-ca-file: ca
  allowed-cn: [alice, bob]
  crl-file: crl
  no-such-key: 1
peer-transport-security: {client-cert-auth: true, allowed-hostname: [a, b]}
socket-options: {reuse-port: true}
cert-file: ignored by etcd
no-such-key: x
`
	json := `{"name": 7, "data-dir": "/data", "quota-backend-bytes": 4294967296, "heartbeat-interval": 50, "listen-client-urls": "https://127.0.0.1:1,unix:///a",
"auto-compaction-retention": "5", "watch-progress-notify-interval": 5000000000, "grpc-keepalive-timeout": "7s", "enable-pprof": true,
"cipher-suites": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "log-outputs": "/a/b,stdout",
"feature-gates": "CompactHashCheck=true", "client-transport-security": {"cert-file": "c", "key-file": "k", "client-cert-auth": true, "trusted-ca-file": "ca",
"allowed-cn": ["alice", "bob"], "crl-file": "crl"}, "peer-transport-security": {"client-cert-auth": true, "allowed-hostname": ["a", "b"]},
"socket-options": {"reuse-port": true}}`
	for form, content := range map[string]string{"YAML": yaml, "JSON": json} {
		t.Run(form, func(t *testing.T) {
			o, s, err := parse([]string{"ETCD_LOG_LEVEL=debug"}, "--config-file", configFile(t, content), "--max-txn-ops=5")
			if err != nil {
				t.Fatal(err)
			}
			if o.name != "7" && o.name != "007" || o.dataDir != "/data" || o.quotaBytes != 1<<32 || o.heartbeat != 50*time.Millisecond || len(o.endpoints) != 2 ||
				o.autoCompactionArg != "5" || o.progressNotify != 5*time.Second || o.keepaliveTimeout != 7*time.Second || !o.pprof || o.joins ||
				len(o.tls.CipherSuites) != 2 || !o.gates.enabled("CompactHashCheck") || o.validityYears != 1 || !o.reusePort || o.maxTxnOps != 128 {
				t.Errorf("options are %+v", o)
			}
			if o.tls.CertFile != "c" || o.tls.KeyFile != "k" || !o.tls.ClientCertAuth || o.tls.TrustedCAFile != "ca" || o.tls.CRLFile != "crl" ||
				!slices.Equal(o.tls.AllowedCNs, []string{"alice", "bob"}) {
				t.Errorf("TLS is %+v", o.tls)
			}
			if l := s.logOptions(); !slices.Equal(l.outputs, []string{"/a/b", "stdout"}) || l.level != "info" {
				t.Errorf("logging is %+v", l)
			}
			if s.text("peer-cert-allowed-hostname") != "a,b" || !s.truth("peer-client-cert-auth") {
				t.Error("the peers' TLS was not read")
			}
			if !slices.Equal(s.ignored, []string{"--max-txn-ops"}) {
				t.Errorf("ignored: %v", s.ignored)
			}
			want := []string{"cert-file", "client-transport-security.no-such-key", "no-such-key"}
			if form == "YAML" && !slices.Equal(s.unknown, want) {
				t.Errorf("keys that mean nothing: %v", s.unknown)
			}
		})
	}
}

// TestConfigFileFaults ensures that an error names the file and every key.
func TestConfigFileFaults(t *testing.T) {
	for _, c := range []struct {
		name, content string
		want          []string
	}{
		{"no YAML", "a: [", []string{"yaml"}},
		{"a list", "- a\n", []string{"keys and values"}},
		{"types", "name: {}\nheartbeat-interval: x\nenable-pprof: 1\nquota-backend-bytes: true\nwatch-progress-notify-interval: soon\nmax-txn-ops: [1]\n",
			[]string{"name: ", "heartbeat-interval: ", "enable-pprof: ", "quota-backend-bytes: ", "watch-progress-notify-interval: ", "max-txn-ops: "}},
		{"section", "client-transport-security: 1\n", []string{"invalid client-transport-security"}},
		{"inner type", "peer-transport-security: {client-cert-auth: a}\n", []string{"peer-transport-security.client-cert-auth"}},
		{"syntax", "feature-gates: NoSuchGate=true\nlisten-client-urls: http://a\n", []string{"unrecognized feature gate", "listen-client-urls: invalid value"}},
		{"negative", "max-txn-ops: -1\n", []string{"max-txn-ops"}},
		{"discovery", "discovery-config: {endpoints: [a], token: b}\n", []string{"--discovery-endpoints", "--discovery-token"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := configFile(t, c.content)
			_, _, err := parse(nil, "--config-file="+path)
			want := c.want
			if c.name != "discovery" { // which is told as of a flag
				want = append(want, path)
			}
			for _, w := range want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("error has no %q: %v", w, err)
				}
			}
		})
	}
}
