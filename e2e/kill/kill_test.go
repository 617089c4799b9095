// Package kill kills shim at random moments under load and compares what the
// restarted server says with what its clients know: the state of every key, the
// whole history since the last compaction, leases and revisions.
package kill

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var (
	rounds = flag.Int("rounds", 50, "how many times to kill")
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
	t.Logf("seed %d, %d rounds, %d clients, at least %d writes a round", *seed, *rounds, clients, writesPerRound)
	bin, dir, addr := *binary, filepath.Join(t.TempDir(), "data"), freeAddr(t)
	if bin == "" {
		bin = buildShim(t)
	}
	rec := newRecord()
	check := &verifier{rec: rec, last: map[string]*op{}}
	rng := rand.New(rand.NewPCG(*seed, 0))
	var pool []*client
	for i := range clients {
		pool = append(pool, newClient(i, *seed, rec))
	}
	var srv *server
	for round := range *rounds {
		srv = startServer(t, bin, dir, addr)
		if round > 0 {
			verifyNow(t, srv, check, round)
		}
		load(t, srv, rec, pool, rng, round)
	}
	srv = startServer(t, bin, dir, addr)
	verifyNow(t, srv, check, *rounds)
	awaitExpiry(t, srv, rec)
	srv.terminate(t)

	srv = startServer(t, bin, dir, addr)
	awaitExpiry(t, srv, rec)
	srv.terminate(t)
	fmt.Printf("kill: seed %d, %d kills, %d writes acknowledged, %d events compared, %d unanswered writes found done, compacted at %d of %d\n",
		*seed, *rounds, rec.writes, check.events, check.resolved, check.compacted, check.seen)
	if check.compacted == 0 || check.events < *rounds*writesPerRound/4 {
		t.Errorf("the run did not compare enough: compacted at %d, %d events", check.compacted, check.events)
	}
}

// verifyNow compares a fresh server with the record and tells the clients what
// became of their last operation, as a real client would find out by reading.
func verifyNow(t *testing.T, srv *server, check *verifier, round int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	conn := srv.dial(t)
	defer func() { _ = conn.Close() }()
	if err := check.verify(ctx, conn); err != nil {
		t.Fatalf("after kill %d (seed %d): %v\n%s", round, *seed, err, srv.log)
	}
}

// load runs all clients until enough writes were acknowledged, kills the server
// at a random moment after that, and waits for the clients to notice.
func load(t *testing.T, srv *server, rec *record, pool []*client, rng *rand.Rand, round int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	rec.Lock()
	target := rec.writes + writesPerRound + rng.IntN(500)
	rec.Unlock()
	reached := make(chan struct{})
	var wg sync.WaitGroup
	failures := make(chan error, len(pool))
	for _, c := range pool {
		wg.Add(1)
		go func() {
			defer wg.Done()
			conn := srv.dial(t)
			defer func() { _ = conn.Close() }()
			if err := c.refresh(ctx, pb.NewKVClient(conn)); err != nil {
				failures <- err
				return
			}
			if err := c.run(ctx, conn); err != nil {
				failures <- fmt.Errorf("client %d: %w", c.id, err)
			}
		}()
	}
	go func() {
		defer close(reached)
		for ctx.Err() == nil {
			rec.Lock()
			done := rec.writes >= target
			rec.Unlock()
			if done {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	}()
	<-reached
	if ctx.Err() != nil {
		t.Fatalf("round %d (seed %d): too few writes within %v\n%s", round, *seed, roundTimeout, srv.log)
	}
	srv.kill(t)
	wg.Wait()
	close(failures)
	for err := range failures {
		var gone errGone
		if !errors.As(err, &gone) {
			t.Fatalf("round %d (seed %d): %v", round, *seed, err)
		}
	}
}

// refresh reads what exists of the client's own keys: an operation that was not
// answered before the kill may or may not have taken effect.
func (c *client) refresh(ctx context.Context, kv pb.KVClient) error {
	prefix := fmt.Sprintf("own/%02d/", c.id)
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(prefix[:len(prefix)-1] + "0"), KeysOnly: true})
	if err != nil {
		return err
	}
	clear(c.live)
	for _, r := range resp.Kvs {
		c.live[string(r.Key)] = true
	}
	clear(c.guards)
	return nil
}

// awaitExpiry waits until every key on a short lease is gone.
func awaitExpiry(t *testing.T, srv *server, rec *record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	conn := srv.dial(t)
	defer func() { _ = conn.Close() }()
	kv := pb.NewKVClient(conn)
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("leased/"), RangeEnd: []byte("leased0")})
	if err != nil {
		t.Fatal(err)
	}
	waiting := map[string]bool{}
	for _, r := range resp.Kvs {
		if rec.shortLived[string(r.Key)] {
			waiting[string(r.Key)] = true
		}
	}
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(watchFrom(resp.Header.Revision + 1)); err != nil {
		t.Fatal(err)
	}
	for len(waiting) > 0 {
		events, err := w.Recv()
		if err != nil {
			t.Fatalf("%d keys of expired leases are still there: %v", len(waiting), err)
		}
		for _, e := range events.Events {
			delete(waiting, string(e.Kv.Key))
		}
	}
}
