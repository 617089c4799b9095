package clients

import (
	"context"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// flowTimeout bounds a flow: far above what it needs on a busy machine, so that it ends only
// one whose awaited event never comes.
const flowTimeout = 90 * time.Second

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(work(role))
	}
	os.Exit(m.Run())
}

// flow is a flow on one server.
type flow struct {
	*testing.T
	ctx    context.Context
	start  func(t testing.TB, flags ...string) *process.Server
	server *process.Server
	client *clientv3.Client
}

// each runs a flow on a fresh etcd and on a fresh shim.
func each(t *testing.T, run func(f *flow)) {
	t.Helper()
	for _, target := range []struct {
		name  string
		start func(t testing.TB, flags ...string) *process.Server
	}{{"etcd", process.Etcd}, {"shim", process.Shim}} {
		t.Run(target.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), flowTimeout)
			defer cancel()
			f := &flow{T: t, ctx: ctx, start: target.start, server: target.start(t)}
			f.client = f.dial(f.server)
			run(f)
		})
	}
}

// dial makes a client of a server; it ends with the flow.
func (f *flow) dial(servers ...*process.Server) *clientv3.Client {
	f.Helper()
	var endpoints []string
	for _, s := range servers {
		endpoints = append(endpoints, s.Address)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	f.must(err)
	f.Cleanup(func() { _ = c.Close() }) // it may be closed already, or its server killed
	return c
}

// must ends the flow on an error.
func (f *flow) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// put writes and returns the revision.
func (f *flow) put(kv clientv3.KV, key, value string, opts ...clientv3.OpOption) int64 {
	f.Helper()
	r, err := kv.Put(f.ctx, key, value, opts...)
	f.must(err)
	return r.Header.Revision
}

// get reads the keys of a range as "key=value key=value".
func (f *flow) get(kv clientv3.KV, key string, opts ...clientv3.OpOption) string {
	f.Helper()
	r, err := kv.Get(f.ctx, key, opts...)
	f.must(err)
	return story(r)
}

// story writes an answer as "key=value key=value".
func story(r *clientv3.GetResponse) string {
	s := ""
	for i, kv := range r.Kvs {
		if i > 0 {
			s += " "
		}
		s += string(kv.Key) + "=" + string(kv.Value)
	}
	return s
}

// equal reports a difference.
func equal[V comparable](f *flow, what string, got, want V) {
	f.Helper()
	if got != want {
		f.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// receive takes one thing from a channel, which must come and not be closed before.
func receive[V any](f *flow, what string, from <-chan V) V {
	f.Helper()
	select {
	case v, ok := <-from:
		if !ok {
			f.Fatalf("%s: the channel is closed", what)
		}
		return v
	case <-f.ctx.Done():
		f.Fatalf("%s: nothing came", what)
	}
	panic("unreachable")
}

// closed requires that a channel gets closed.
func closed[V any](f *flow, what string, c <-chan V) {
	f.Helper()
	for {
		select {
		case _, ok := <-c:
			if !ok {
				return
			}
		case <-f.ctx.Done():
			f.Fatalf("%s: not closed", what)
		}
	}
}
