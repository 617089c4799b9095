package conformance

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/etcdapi"
)

// shutdownTimeout bounds the end of a served backend. Cases have closed their
// streams by then.
const shutdownTimeout = 20 * time.Second

// Serve serves a backend through etcdapi on a free loopback port until t ends,
// and then closes it. Of the conditions it makes QuickProgress; the others are the backend's.
func Serve(t *testing.T, name string, backend backends.Backend, condition Condition) *Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := etcdapi.Config{Name: "default", ClientURLs: []string{"http://" + l.Addr().String()}}
	if condition == QuickProgress {
		config.WatchProgressNotifyInterval = ProgressInterval
	}
	server, err := etcdapi.New(backend, config)
	if err != nil {
		t.Fatalf("serve %s: %v", name, err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("shut %s down: %v", name, err)
		}
		if err := <-served; !errors.Is(err, etcdapi.ErrServerClosed) {
			t.Errorf("serve %s: %v", name, err)
		}
		if err := backend.Close(ctx); err != nil {
			t.Errorf("close %s: %v", name, err)
		}
	})
	select {
	case <-server.Ready():
	case <-time.After(shutdownTimeout):
		t.Fatalf("%s is not ready after %s", name, shutdownTimeout)
	}
	return Dial(t, name, l.Addr().String(), capabilitiesOf(backend))
}

// capabilitiesOf finds a backend's capabilities as etcdapi does.
func capabilitiesOf(b backends.Backend) map[Capability]bool {
	found := map[Capability]bool{}
	_, found[Leases] = b.(backends.Leases)
	_, found[Members] = b.(backends.Members)
	_, found[Alarms] = b.(backends.Alarms)
	_, found[Hasher] = b.(backends.Hasher)
	_, found[Snapshotter] = b.(backends.Snapshotter)
	_, found[Defragmenter] = b.(backends.Defragmenter)
	_, found[LeaderMover] = b.(backends.LeaderMover)
	_, found[Downgrader] = b.(backends.Downgrader)
	_, found[Auth] = b.(backends.Auth)
	return found
}
