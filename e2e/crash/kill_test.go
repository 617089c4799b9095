// Package crash kills shim at random moments, and at every step of its durable
// path, under a storm of load, and compares what the restarted server says with
// what its clients know: the state of every key, the whole history since the last
// compaction, what thousands of watches got, leases, revisions and indexes.
package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/rig"
)

var (
	rounds = flag.Int("rounds", 50, "how many times to kill")
	binary = flag.String("server", "", "path of the server to kill, such as a real etcd; built from this checkout when empty")
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the clients' choices")
)

const (
	// clients of the load.
	clients = 10
	// leastWrites and moreWrites make the number of writes acknowledged between two
	// kills.
	leastWrites, moreWrites = 1000, 1000
	// roundTimeout bounds one round on a busy machine.
	roundTimeout = 3 * time.Minute
	// progressRounds is after how many rounds a line is printed.
	progressRounds = 10
)

// slowCompaction makes physical compaction take about a second, so that kills land
// within it. The flags are etcd's.
var slowCompaction = []string{"--compaction-batch-limit", "20", "--compaction-sleep-interval", "20ms"}

// trial is a storm on one data directory, and what was done to it.
type trial struct {
	*rig.Storm
	options rig.Options
	rng     *rand.Rand
	kills   int
	// compacting counts the kills within a physical compaction.
	compacting int
	start      time.Time
}

func newTrial(t testing.TB, bin string, seed uint64) *trial {
	t.Helper()
	return &trial{
		Storm:   rig.NewStorm(seed, clients, t.TempDir()),
		options: rig.Options{Bin: bin, Dir: filepath.Join(t.TempDir(), "data"), Addr: rig.FreeAddr(t), Flags: slowCompaction},
		rng:     rand.New(rand.NewPCG(seed, 0)), start: time.Now(),
	}
}

func (c *trial) String() string {
	v := c.Verifier
	return fmt.Sprintf("%d kills (%d within a compaction), %d writes acknowledged, %d events compared and %d of watches, %d unanswered writes found done, %d leases expired, "+
		"%d snapshots whole and %d broken off, %d defragments, compacted at %d of %d",
		c.kills, c.compacting, c.Load.Record.Writes(), v.Events, c.WatchEvents, v.Resolved, v.Expired,
		c.Snapshots.Load(), c.BrokenSnapshots.Load(), c.Defragments.Load(), v.Compacted(), v.Seen())
}

// TestKill ensures that nothing acknowledged is lost, nothing unacknowledged is
// half there, nothing happens late, and nothing goes back, over SIGKILLs under a
// storm.
func TestKill(t *testing.T) {
	bin := *binary
	if bin == "" {
		bin = rig.Build(t)
	}
	c := newTrial(t, bin, *seed)
	t.Logf("seed %d, %d rounds", *seed, *rounds)
	for range *rounds {
		if err := c.round(t); err != nil {
			t.Fatalf("after %d kills (seed %d): %v", c.kills, *seed, err)
		}
		if c.kills%progressRounds == 0 {
			fmt.Printf("crash: %.1f min, %v\n", time.Since(c.start).Minutes(), c)
		}
	}
	c.finish(t)
	fmt.Printf("crash: seed %d, %.1f min, %v\n", *seed, time.Since(c.start).Minutes(), c)
	c.enough(t)
	if !t.Failed() && *binary == "" {
		rig.AppendResult(t, "crash, SIGKILL", *seed, c.start, c.String())
	}
}

// round starts the server, verifies what it makes of the last kill, kills it under
// the storm and checks the directory.
func (c *trial) round(t testing.TB) error {
	srv, err := rig.Launch(c.options)
	if err != nil {
		return err
	}
	defer srv.End()
	if err := srv.AwaitReady(rig.StartTimeout); err != nil {
		return err
	}
	if err := c.verify(srv); err != nil {
		return fmt.Errorf("%w\n%s", err, srv.Log())
	}
	if err := c.kill(srv); err != nil {
		return fmt.Errorf("%w\n%s", err, srv.Log())
	}
	return c.check(t, 0)
}

// check runs shim check, which may end with code 0, or with the one given.
func (c *trial) check(t testing.TB, or int) error {
	if *binary != "" {
		return nil
	}
	if out, code := rig.RunCheck(t, c.options.Bin, c.options.Dir); code != 0 && code != or {
		return fmt.Errorf("shim check: exit code %d\n%s", code, out)
	}
	return nil
}

// verify compares a fresh server with the record.
func (c *trial) verify(srv *rig.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	conn, err := rig.Dial(srv.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := c.Verifier.Verify(ctx, conn); err != nil {
		return err
	}
	return c.Compare()
}

// kill runs the storm until enough writes were acknowledged, kills the server at
// a random moment after that, and waits for all to notice.
func (c *trial) kill(srv *rig.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(ctx, srv.Addr)
		cancel() // if it is over before the kill, something is wrong
	}()
	if err := c.Load.AwaitWrites(ctx, leastWrites+c.rng.IntN(moreWrites)); err != nil {
		cancel()
		return errors.Join(<-ended, err)
	}
	c.Ending()
	killed := srv.TryKill()
	c.kills++
	if err := <-ended; err != nil || killed != nil {
		return errors.Join(killed, err)
	}
	return c.lookAtCompaction()
}

// lookAtCompaction counts kills within a physical compaction.
func (c *trial) lookAtCompaction() error {
	underWay, err := rig.CompactionUnderWay(c.options.Dir)
	if underWay {
		c.compacting++
	}
	return err
}

// finish verifies the last kill, waits for the short leases to end, and stops the
// server twice, cleanly.
func (c *trial) finish(t testing.TB) {
	t.Helper()
	for range 2 {
		srv := rig.Start(t, c.options)
		if err := c.verify(srv); err != nil {
			t.Fatalf("at the end (seed %d): %v\n%s", *seed, err, srv.Log())
		}
		ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
		conn := srv.Dial(t)
		if err := c.Verifier.AwaitExpiry(ctx, conn); err != nil {
			t.Fatalf("at the end (seed %d): %v\n%s", *seed, err, srv.Log())
		}
		cancel()
		_ = conn.Close()
		srv.Terminate(t)
		if err := c.check(t, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// enough makes sure that the run met what it is about.
func (c *trial) enough(t testing.TB) {
	t.Helper()
	v := c.Verifier
	for what, n := range map[string]int{
		"compactions": int(v.Compacted()), "whole snapshots": int(c.Snapshots.Load()), "defragments": int(c.Defragments.Load()),
		"leases that expired": v.Expired, "events of watches": c.WatchEvents, "unanswered writes found done": v.Resolved,
	} {
		if n == 0 {
			t.Errorf("the run saw no %s", what)
		}
	}
	if least := c.kills * leastWrites; v.Events < least {
		t.Errorf("%d events compared, want at least %d", v.Events, least)
	}
	if c.kills >= 20 && c.compacting == 0 {
		t.Error("no kill landed within a physical compaction")
	}
}
