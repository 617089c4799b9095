package main

import (
	"context"
	"net/url"
	"os"
	"syscall"
	"testing"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
)

// TestSignalWhileStarting ensures that a stop is not held up by a store that
// takes long to open.
func TestSignalWhileStarting(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	backends.Register(backends.Driver{Scheme: "slow", Open: func(context.Context, *url.URL, backends.Env) (backends.Backend, error) {
		<-release
		return nil, context.Canceled
	}})
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	b, err := openOrSignal(context.Background(), options{backend: "slow://"}, backends.Env{Logger: zap.NewNop()}, signals)
	if b != nil || err != nil {
		t.Errorf("got %v, %v", b, err)
	}
}
