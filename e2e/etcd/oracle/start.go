package oracle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

const (
	// startTimeout bounds a start, until the server has agreed with itself on its version.
	startTimeout = 60 * time.Second
	// freshTime is how long servers may be up when a script begins: each 4 s from their start on
	// they look at versions, and what is asked of downgrades must not meet that. Those that took
	// longer are started again, maxStarts times.
	freshTime = 2 * time.Second
	maxStarts = 5
)

// newPair founds etcd and shim on empty directories below dir, with one name
// and one peer URL, from which both derive their ids. close must be called.
func newPair(t testing.TB, dir string, methods map[string]*method, flags []string) (etcd, shim *Side) {
	t.Helper()
	peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
	common := append([]string{
		"--name", "default", "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
		"--unsafe-no-fsync", "--log-level", "error", "--bcrypt-cost", "4", "--backend-batch-interval", "10ms",
		"--advertise-client-urls", "http://127.0.0.1:4", // one address for both, which nobody calls
	}, flags...)
	side := func(name, listen string) *Side {
		s := &Side{
			name: name, binary: process.Binary(t, name), port: process.Port(t), dir: filepath.Join(dir, name),
			flags: append(append([]string{}, common...), "--listen-peer-urls", listen), methods: methods,
			known: newKnown(), tokens: map[string]string{}, streams: map[int]*stream{}, pending: map[int]chan Answer{},
			patience: callTimeout,
		}
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s.server = process.Start(t, s.binary, s.port, s.dir, s.flags...)
		return s
	}
	begun := time.Now()
	etcd = side("etcd", peer)
	shim = side("shim", fmt.Sprintf("http://127.0.0.1:%d", process.Port(t)))
	for _, s := range []*Side{etcd, shim} {
		s.server.WaitReady(t)
		s.dial(t)
	}
	for range maxStarts {
		if time.Since(begun) < freshTime {
			break
		}
		begun = time.Now()
		for _, s := range []*Side{etcd, shim} {
			s.restart(t)
		}
	}
	return etcd, shim
}

// restart kills the server, starts it on the same directory, and awaits its first answer: /readyz
// says no while there is a corrupt alarm. Tokens of before are not used again: those are
// given out anew whose entry of the log is applied again, which depends on when either
// server last committed its file, in etcd within 100 ms.
func (s *Side) restart(t testing.TB) {
	s.hangUp()
	clear(s.tokens)
	s.server.Kill()
	s.server = process.Start(t, s.binary, s.port, s.dir, s.flags...)
	s.dial(t)
}

// storageVersion is what both come to call their file's version.
const storageVersion = "3.7.0"

// reconnect is how soon a connection is tried again, while the server starts.
func reconnect() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, Jitter: 0.2, MaxDelay: 100 * time.Millisecond},
		MinConnectTimeout: callTimeout,
	}
}

// dial connects as soon as the server serves, asks it for its id, and waits until it has
// agreed with itself on its version, which etcd does some milliseconds after it serves, or 4 s.
func (s *Side) dial(t testing.TB) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.server.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)), grpc.WithDisableServiceConfig(), grpc.WithConnectParams(reconnect()))
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		served, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
		switch code := status.Code(err); {
		case code == codes.OK && served.StorageVersion == storageVersion:
			s.known.self = max(s.known.self, served.GetHeader().GetMemberId())
			s.seen(served.GetHeader())
			return
		case code == codes.OK, code == codes.Unavailable: // not yet
		case s.known.self != 0 && code == codes.InvalidArgument:
			return // authentication is on; the store has had its version since before
		default:
			t.Fatalf("%s: %v\n%s", s.name, err, s.server.Output())
		}
		select {
		case <-tick.C:
		case <-s.server.Exited():
			t.Fatalf("%s has ended:\n%s", s.name, s.server.Output())
		case <-ctx.Done():
			t.Fatalf("%s: its store is not of its version after %v", s.name, startTimeout)
		}
	}
}

// close kills the server.
func (s *Side) close() {
	s.hangUp()
	s.server.Kill()
}

// hangUp ends the streams and the connection.
func (s *Side) hangUp() {
	for n, w := range s.streams {
		w.cancel()
		delete(s.streams, n)
	}
	for slot, answer := range s.pending {
		go func() { <-answer }() // it ends with the connection
		delete(s.pending, slot)
	}
	_ = s.conn.Close() // nothing is in flight that is waited for
}
