// Package crash kills shim at random moments under load and compares what the
// restarted server says with what its clients know: the state of every key, the
// whole history since the last compaction, leases and revisions.
package crash

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/rig"
)

var (
	rounds = flag.Int("rounds", 20, "how many times to kill")
	binary = flag.String("server", "", "path of the server to kill, such as a real etcd; built from this checkout when empty")
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the clients' choices")
)

const (
	clients = 10
	// writesPerRound is the least number of writes acknowledged between two kills.
	writesPerRound = 1000
	// roundTimeout bounds one round on a busy machine.
	roundTimeout = 3 * time.Minute
)

// TestKill ensures that nothing acknowledged is lost, nothing unacknowledged is
// half there, and nothing happens late, over SIGKILLs under load.
func TestKill(t *testing.T) {
	start := time.Now()
	t.Logf("seed %d, %d rounds, %d clients, at least %d writes a round", *seed, *rounds, clients, writesPerRound)
	o := rig.Options{Bin: *binary, Dir: filepath.Join(t.TempDir(), "data"), Addr: rig.FreeAddr(t)}
	if o.Bin == "" {
		o.Bin = rig.Build(t)
	}
	load := rig.NewLoad(*seed, clients)
	verifier := rig.NewVerifier(load.Record)
	rng := rand.New(rand.NewPCG(*seed, 0))
	var srv *rig.Server
	for round := range *rounds {
		srv = rig.Start(t, o)
		if round > 0 {
			verify(t, srv, verifier, round)
		}
		killUnder(t, srv, load, rng, round)
		if rig.HasCheck(o.Bin) {
			rig.Check(t, o.Bin, o.Dir)
		}
	}
	srv = rig.Start(t, o)
	verify(t, srv, verifier, *rounds)
	awaitExpiry(t, srv, verifier)
	srv.Terminate(t)

	srv = rig.Start(t, o)
	awaitExpiry(t, srv, verifier)
	srv.Terminate(t)
	counts := fmt.Sprintf("%d kills, %d writes acknowledged, %d events compared, %d unanswered writes found done, compacted at %d of %d",
		*rounds, load.Record.Writes(), verifier.Events, verifier.Resolved, verifier.Compacted(), verifier.Seen())
	fmt.Printf("crash: seed %d, %s\n", *seed, counts)
	if verifier.Compacted() == 0 || verifier.Events < *rounds*writesPerRound/4 {
		t.Errorf("the run did not compare enough: compacted at %d, %d events", verifier.Compacted(), verifier.Events)
	}
	if !t.Failed() {
		rig.AppendResult(t, "crash", *seed, start, counts)
	}
}

// verify compares a fresh server with the record.
func verify(t *testing.T, srv *rig.Server, verifier *rig.Verifier, round int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	conn := srv.Dial(t)
	defer func() { _ = conn.Close() }()
	if err := verifier.Verify(ctx, conn); err != nil {
		t.Fatalf("after kill %d (seed %d): %v\n%s", round, *seed, err, srv.Log())
	}
}

func awaitExpiry(t *testing.T, srv *rig.Server, verifier *rig.Verifier) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	conn := srv.Dial(t)
	defer func() { _ = conn.Close() }()
	if err := verifier.AwaitExpiry(ctx, conn); err != nil {
		t.Fatalf("seed %d: %v\n%s", *seed, err, srv.Log())
	}
}

// killUnder runs all clients until enough writes were acknowledged, kills the
// server at a random moment after that, and waits for the clients to notice.
func killUnder(t *testing.T, srv *rig.Server, load *rig.Load, rng *rand.Rand, round int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- load.Run(ctx, srv.Addr) }()
	if err := load.AwaitWrites(ctx, writesPerRound+rng.IntN(500)); err != nil {
		t.Fatalf("round %d (seed %d): %v\n%s", round, *seed, err, srv.Log())
	}
	srv.Kill(t)
	if err := <-ended; err != nil {
		t.Fatalf("round %d (seed %d): %v\n%s", round, *seed, err, srv.Log())
	}
}
