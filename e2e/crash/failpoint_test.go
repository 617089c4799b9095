package crash

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/rig"
	"github.com/etcdshim/shim/internal/failpoint"
)

var (
	hits   = flag.Int("hits", 1, "how many times to crash at each failpoint")
	points = flag.String("points", "", "failpoints to crash at, with commas between; all when empty")
)

// bigPercent is the part of large values in a load that fills segments.
const bigPercent = 60

// reachTimeout bounds how long it may take until a failpoint is reached.
const reachTimeout = 90 * time.Second

// plan says how a failpoint is reached.
type plan struct {
	point failpoint.Point
	// upTo is the highest count at which to crash: what the load below reaches in
	// some seconds.
	upTo int64
	// fresh: in the first life of a new directory, each time.
	fresh bool
	// big: with large values, so that the log goes from segment to segment.
	big bool
	// calm: once more of them are written than the log keeps, small ones alone.
	calm bool
}

// What the log keeps, entries: few make it let go of its segments soon; some let
// it keep several while values are large, and few once they are small.
const fewKept, someKept = "50", "300"

// plans has every failpoint, in the order of failpoint.All.
func plans() []plan {
	return []plan{
		{point: failpoint.LogBatchWrite, upTo: 200},
		{point: failpoint.LogBatchTorn, upTo: 200},
		{point: failpoint.LogBatchWritten, upTo: 200},
		{point: failpoint.LogSync, upTo: 200},
		{point: failpoint.LogSynced, upTo: 200},
		{point: failpoint.LogSwitch, upTo: 2, big: true},
		{point: failpoint.LogSegmentCreate, upTo: 3, fresh: true, big: true},
		{point: failpoint.LogSegmentHead, upTo: 3, fresh: true, big: true},
		{point: failpoint.LogSegmentSynced, upTo: 3, fresh: true, big: true},
		{point: failpoint.LogSegmentRename, upTo: 3, fresh: true, big: true},
		{point: failpoint.LogRecycleHead, upTo: 2, big: true},
		{point: failpoint.LogRecycleSynced, upTo: 2, big: true},
		{point: failpoint.LogRecycleRename, upTo: 2, big: true},
		{point: failpoint.LogRemove, upTo: 1, big: true, calm: true},
		{point: failpoint.LogRepair, upTo: 1},
		{point: failpoint.LogRepaired, upTo: 1},
		{point: failpoint.StoreCreate, upTo: 1, fresh: true},
		{point: failpoint.StoreRename, upTo: 1, fresh: true},
		{point: failpoint.FlushBegin, upTo: 20},
		{point: failpoint.FlushFilled, upTo: 20},
		{point: failpoint.FlushCommitted, upTo: 20},
		{point: failpoint.CompactBatch, upTo: 30},
		{point: failpoint.CompactRemoved, upTo: 30},
		{point: failpoint.CompactFinish, upTo: 2},
		{point: failpoint.CompactFinished, upTo: 2},
		{point: failpoint.SnapshotFile, upTo: 4},
		{point: failpoint.SnapshotCopy, upTo: 30},
		{point: failpoint.SnapshotCopied, upTo: 4},
		{point: failpoint.SnapshotSend, upTo: 30},
		{point: failpoint.DefragmentCopy, upTo: 3},
		{point: failpoint.DefragmentChunk, upTo: 20},
		{point: failpoint.DefragmentCopied, upTo: 3},
		{point: failpoint.DefragmentSynced, upTo: 3},
		{point: failpoint.DefragmentRename, upTo: 3},
		{point: failpoint.DefragmentSwap, upTo: 3},
		{point: failpoint.DefragmentOpened, upTo: 3},
		{point: failpoint.StateWrite, upTo: 2, fresh: true},
		{point: failpoint.StateRename, upTo: 2, fresh: true},
		{point: failpoint.StateWritten, upTo: 2, fresh: true},
		{point: failpoint.FoundCleared, upTo: 1, fresh: true},
		{point: failpoint.FoundLog, upTo: 1, fresh: true},
		{point: failpoint.FoundStore, upTo: 1, fresh: true},
		{point: failpoint.FoundFlushed, upTo: 1, fresh: true},
	}
}

// TestFailpoints ensures what TestKill ensures, for crashes at every step of the
// durable path.
func TestFailpoints(t *testing.T) {
	if *binary != "" {
		t.Skip("another server has no failpoints")
	}
	plain, armed := rig.Build(t), rig.Build(t, "-tags", "failpoints")
	if text, err := os.ReadFile(plain); err != nil || bytes.Contains(text, []byte(failpoint.LogBatchTorn)) {
		t.Fatalf("a build without the tag holds the name of a failpoint (%v)", err)
	}
	all := plans()
	if !slices.EqualFunc(all, failpoint.All(), func(p plan, point failpoint.Point) bool { return p.point == point }) {
		t.Fatal("the plans do not list the points as failpoint.All does")
	}
	rng := rand.New(rand.NewPCG(*seed, 1))
	start := time.Now()
	long := newFragile(t, plain, *seed)
	crashes := 0
	for n, p := range all {
		if *points != "" && !slices.Contains(strings.Split(*points, ","), string(p.point)) {
			continue
		}
		reached := time.Now()
		for hit := range *hits {
			c := long
			if p.fresh {
				c = newFragile(t, plain, *seed+uint64(1+n**hits+hit))
			}
			nth := 1 + rng.Int64N(p.upTo)
			if err := c.crashAt(t, armed, p, nth); err != nil {
				t.Fatalf("crash at %s, count %d (seed %d): %v", p.point, nth, *seed, err)
			}
			crashes++
		}
		fmt.Printf("crash: %-20s %d times, %4.1f s each\n", p.point, *hits, time.Since(reached).Seconds()/float64(*hits))
	}
	long.finish(t)
	counts := fmt.Sprintf("%d crashes at %d points; of those on one directory: %v", crashes, len(all), long)
	fmt.Printf("crash: seed %d, %.1f min, %s\n", *seed, time.Since(start).Minutes(), counts)
	if !t.Failed() && *points == "" {
		rig.AppendResult(t, "crash, failpoints", *seed, start, counts)
	}
}

// newFragile is a trial whose server ends by itself.
func newFragile(t *testing.T, bin string, seed uint64) *trial {
	t.Helper()
	c := newTrial(t, bin, seed)
	c.Mortal, c.WatchStreams = true, 1
	c.SnapshotPause, c.DefragmentPause = 200*time.Millisecond, 500*time.Millisecond
	c.options.Flags = []string{"--compaction-batch-limit", "60"} // some batches each, and an end soon
	return c
}

// crashAt runs the armed server until it is at the nth p, and verifies what the
// plain one makes of it.
func (c *trial) crashAt(t *testing.T, armed string, p plan, nth int64) error {
	o := c.options
	o.Bin = armed
	o.Env = []string{fmt.Sprintf("%s=%s:%d", failpoint.Variable, p.point, nth)}
	switch {
	case p.calm:
		o.Flags = append(slices.Clone(o.Flags), "--snapshot-catchup-entries", someKept)
	case p.big:
		o.Flags = append(slices.Clone(o.Flags), "--snapshot-catchup-entries", fewKept)
	}
	srv, err := rig.Launch(o)
	if err != nil {
		return err
	}
	defer srv.End()
	if err := c.runToEnd(srv, p); err != nil {
		return fmt.Errorf("%w\n%s", err, srv.Log())
	}
	if code := srv.ExitCode(); code != failpoint.ExitCode {
		return fmt.Errorf("the server ended with code %d\n%s", code, srv.Log())
	}
	c.kills++
	unfounded := 0
	if p.fresh {
		unfounded = 2 // a directory that is not founded is none that a check can judge
	} else if err := c.lookAtCompaction(); err != nil {
		return err
	}
	if err := c.check(t, unfounded); err != nil {
		return err
	}
	srv = rig.Start(t, c.options)
	if err := c.verify(srv); err != nil {
		return fmt.Errorf("%w\n%s", err, srv.Log())
	}
	if c.rng.IntN(2) == 0 {
		srv.Terminate(t)
	} else {
		srv.Kill(t)
	}
	return nil
}

// runToEnd loads the server until it ends.
func (c *trial) runToEnd(srv *rig.Server, p plan) error {
	ctx, cancel := context.WithTimeout(context.Background(), reachTimeout)
	defer cancel()
	if err := srv.AwaitReady(rig.StartTimeout); err != nil {
		select {
		case <-srv.Exited(): // as it may
			return nil
		default:
			return err
		}
	}
	if p.big {
		c.Load.SetBig(bigPercent)
	}
	defer c.Load.SetBig(0)
	running, over := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(ctx, srv.Addr)
		over()
	}()
	if p.calm {
		// 64 MiB, which is what the log keeps at most, and a segment. It may have come
		// to its end before, of what an earlier life left.
		_ = c.Load.AwaitWrites(running, 80<<20/(128<<10)*100/bigPercent)
		c.Load.SetBig(0)
	}
	if err := <-ended; err != nil {
		return err
	}
	select {
	case <-srv.Exited():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("it was not reached within %v", reachTimeout)
	}
}
