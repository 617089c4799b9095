package main

import (
	"errors"
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
	slow := func() (backends.Backend, error) {
		<-release
		return nil, nil
	}
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	b, err := openOrSignal(slow, signals, zap.NewNop())
	if b != nil || err != nil {
		t.Errorf("got %v, %v", b, err)
	}
}

// TestSecondSignal ensures that a second signal ends a stop that takes long.
func TestSecondSignal(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	stuck := func() error { <-release; return nil }
	if err := afterSignal(signals, stuck); !errors.Is(err, errSecondSignal) {
		t.Errorf("a second signal gave %v", err)
	}
}
