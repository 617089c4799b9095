package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
	"github.com/etcdshim/shim/etcdapi"
)

// FuzzFlags gives the program arbitrary flags, one a line, without their dashes.
// Whatever they are, there is no panic, and either an error with a text, or
// options within their bounds, of which the store and the server make something
// or say why not. Nothing is opened: the store's context has ended.
func FuzzFlags(f *testing.F) {
	for _, s := range flagSpecs {
		if s.effect == works {
			f.Add(s.name + "=-1")
		}
	}
	for _, lines := range []string{
		"auto-compaction-mode=revision\nauto-compaction-retention=1h", "auto-compaction-retention=-5", "auto-compaction-retention=9223372036854775807",
		"auto-compaction-retention=1ns", "heartbeat-interval=18446744073709551615\nelection-timeout=18446744073709551615", "quota-backend-bytes=9223372036854775807",
		"listen-client-urls=http://[::1]:0,http://:1", "listen-client-urls=https://a:1", "listen-metrics-urls=http://x", "listen-client-urls=http://%zz:1",
		"initial-cluster=a=b,c=d", "name=x\ninitial-cluster=x=http://localhost:2380", "backend=memory://", "backend=raftbolt://./a?b=c&b=d", "backend=://",
		"max-concurrent-streams=4294967296", "max-request-bytes=18446744073709551615", "grpc-keepalive-min-time=-1s", "log-rotation-config-json={", "initial-cluster=,",
		"feature-gates=AllAlpha=true,CompactHashCheck=false", "feature-gates==,=", "listen-client-urls=unix://,unixs:a", "auto-tls=true\nlisten-client-urls=https://0.0.0.0:1",
		"listen-client-http-urls=http://[::1]:1\nlisten-client-urls=http://[::1]:1", "cors=*,http://a:1", "tls-min-version=TLS1.3\ncipher-suites=a,,b",
		"self-signed-cert-validity=18446744073709551615\nauto-tls=1", "config-file=/dev/null", "v=", "bcrypt-cost=99", "auth-token=jwt,pub-key=",
	} {
		f.Add(lines)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	b := memory.New(backends.SystemClock{})
	f.Cleanup(func() { _ = b.Close(context.Background()) })
	f.Fuzz(func(t *testing.T, lines string) {
		var args []string
		for _, line := range strings.Split(lines, "\n") {
			if strings.Contains(line, "=") { // else it may be a command, or ask for help
				args = append(args, "--"+line)
			}
		}
		var o options
		ran := false
		app, s := newApp()
		app.Writer, app.ErrWriter = &strings.Builder{}, &strings.Builder{}
		app.Action = func(*cli.Context) (err error) {
			ran = true
			if err = s.complete(nil); err == nil {
				o, err = s.options()
				s.tell(o, zap.NewNop())
			}
			return err
		}
		if err := app.Run(append([]string{"shim"}, args...)); err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Fatalf("%q: an error without a text: %T", args, err)
			}
			return
		}
		if !ran {
			return // help or version
		}
		checkOptions(t, o)
		env := backends.Env{Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(), Clock: backends.SystemClock{}, Fatal: func(err error) { t.Error(err) }}
		if !strings.HasPrefix(o.backend, "etcd:") && !strings.HasPrefix(o.backend, "memory:") { // these would open
			if _, err := openBackend(canceled, o, env); err == nil || !errors.Is(err, context.Canceled) && strings.TrimSpace(err.Error()) == "" {
				t.Fatalf("%q: open: %v", args, err)
			}
		}
		server, err := etcdapi.New(b, o.api(zap.NewNop(), prometheus.NewRegistry()))
		if err != nil {
			return
		}
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// checkOptions holds what was accepted against its bounds.
func checkOptions(t *testing.T, o options) {
	t.Helper()
	if o.name == "" || o.dataDir == "" || o.heartbeat <= 0 || o.election < 5*o.heartbeat || o.election > 50*time.Second ||
		o.maxStreams > 1<<32-1 || o.progressNotify <= 0 || o.slowRequest <= 0 || len(o.endpoints) == 0 || len(o.advertiseClientURLs) == 0 || len(o.peerURLs) == 0 {
		t.Errorf("accepted %+v", o)
	}
	for _, e := range o.endpoints {
		if _, _, err := net.SplitHostPort(e.address); err != nil && e.network == "tcp" || e.address == "" || !e.secure && !e.insecure {
			t.Errorf("accepted the endpoint %+v: %v", e, err)
		}
	}
}
