package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
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

// TestMaxLearners ensures that --max-learners reaches the store, as none, too.
func TestMaxLearners(t *testing.T) {
	for most, flag := range []string{"--max-learners=0", "--name=of-the-default", "--max-learners=2"} {
		o, _, err := parse(nil, flag, "--unsafe-no-fsync", "--data-dir="+filepath.Join(t.TempDir(), "data"))
		if err != nil {
			t.Fatal(err)
		}
		env := backends.Env{
			Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(), Clock: backends.SystemClock{}, Fatal: func(err error) { t.Error(err) },
		}
		b, err := openBackend(t.Context(), o, env)
		if err != nil {
			t.Fatal(err)
		}
		for n := range most + 1 {
			_, err := b.(backends.Members).MemberAdd(t.Context(), backends.Caller{}, []string{fmt.Sprintf("http://127.0.0.1:%d", 9+n)}, true)
			if want := n < most; (err == nil) != want || !want && !errors.Is(err, backends.ErrTooManyLearners) {
				t.Errorf("%s: learner %d: %v", flag, n+1, err)
			}
		}
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}
