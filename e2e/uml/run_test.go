package uml

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/etcdshim/shim/e2e/rig"
	"github.com/etcdshim/shim/e2e/uml/wire"
)

const (
	clients = 10
	// startBound is how long shim may take to serve after a cut. It holds in the
	// machine, which is several times slower than its host.
	startBound = 10 * time.Second
	// cutTimeout bounds all that belongs to one cut, on a busy host.
	cutTimeout = 4 * time.Minute
	// endBound is how long shim may take to end of a write that failed.
	endBound = 30 * time.Second
)

// faultError is what shim did wrong after a cut, as against what the rig could not do.
type faultError struct{ error }

// faultServed begins a fault in what a recovered shim serves.
const faultServed = "what it serves"

// fault makes err, if it is one, shim's.
func fault(what string, err error) error {
	if err == nil {
		return nil
	}
	return faultError{fmt.Errorf("%s: %w", what, err)}
}

// run is a chain of cuts in one directory.
type run struct {
	machine  *Machine
	guest    string // its program
	bin      string // shim
	disk     string
	dir      string // of files of the machine
	addr     string
	flags    []string // of shim
	rng      *rand.Rand
	load     *rig.Load
	verifier *rig.Verifier

	defrags, snapshots int
	slowest            time.Duration // start after a cut
}

// newRun makes a fresh disk and directory, boots, and starts shim.
func newRun(t *testing.T, guest, bin string, seed uint64, options string, flags ...string) *run {
	t.Helper()
	dir := t.TempDir()
	r := &run{guest: guest, bin: bin, disk: filepath.Join(dir, "disk"), dir: dir, addr: rig.FreeAddr(t), flags: flags,
		rng: rand.New(rand.NewPCG(seed, 0)), load: rig.NewLoad(seed, clients)}
	r.verifier = rig.NewVerifier(r.load.Record)
	t.Cleanup(func() {
		if r.machine == nil {
			return
		}
		if t.Failed() {
			t.Log(r.machine.Console())
		}
		if err := r.machine.PowerOff(); err != nil {
			t.Error(err)
		}
	})
	if err := newDisk(r.disk); err != nil {
		t.Fatal(err)
	}
	if err := r.boot(); err != nil {
		t.Fatal(err)
	}
	if err := r.machine.mount(options); err != nil {
		t.Fatal(err)
	}
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *run) boot() (err error) {
	if r.machine, err = Boot(r.guest, r.disk, r.dir, r.addr); err != nil {
		return err
	}
	return r.machine.attach()
}

func (r *run) launch() error {
	return r.machine.Call("Start", wire.Launch{Bin: r.bin, Dir: dataDir, Flags: r.flags}, &struct{}{})
}

// start starts shim, which must serve in time.
func (r *run) start() error {
	begin := time.Now()
	if err := r.launch(); err != nil {
		return err
	}
	if err := r.machine.Call("AwaitReady", startBound, &struct{}{}); err != nil {
		return fault("start", err)
	}
	r.slowest = max(r.slowest, time.Since(begin))
	return nil
}

// comeBack mounts what the disk has and looks at it.
func (r *run) comeBack(ctx context.Context, options string) error {
	if err := r.machine.mount(options); err != nil {
		return err
	}
	if _, err := r.machine.Run(r.bin, "check", dataDir); err != nil {
		return fault("shim check", err)
	}
	if err := r.start(); err != nil {
		return err
	}
	conn, err := rig.Dial(r.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := r.verifier.Verify(ctx, conn); err != nil {
		var log string
		return fault(faultServed, errors.Join(err, r.machine.Call("Log", struct{}{}, &log), errors.New(log)))
	}
	return nil
}

// underLoad runs all clients, a witness and maintenance, calls cut once enough was
// acknowledged, and returns when all have ended. end ends the clients, for a cut
// after which the server would go on to answer.
func (r *run) underLoad(ctx context.Context, cut func(end func()) error) error {
	loading, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	var answers [3]error
	running.Go(func() { answers[0] = r.load.Run(loading, r.addr) })
	running.Go(func() { answers[1] = r.connected(loading, r.verifier.Witness) })
	var cutting atomic.Bool
	running.Go(func() {
		if err := r.connected(loading, r.maintain); !cutting.Load() {
			answers[2] = err
		}
	})
	end := func() {
		cancel()
		running.Wait()
	}
	defer end()
	if err := r.load.AwaitWrites(ctx, minWrites+r.rng.IntN(moreWrites)); err != nil {
		return err
	}
	cutting.Store(true)
	if err := cut(end); err != nil {
		return err
	}
	end()
	return fault("an answer before the cut", errors.Join(answers[:]...))
}

// connected runs do on a connection of its own. That the server is gone is no error.
func (r *run) connected(ctx context.Context, do func(context.Context, *grpc.ClientConn) error) error {
	conn, err := rig.Dial(r.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var gone rig.GoneError
	if err := do(ctx, conn); !errors.As(err, &gone) {
		return err
	}
	return nil
}

const (
	// minWrites is the least number of writes acknowledged between two cuts, and
	// moreWrites bounds how many more.
	minWrites, moreWrites = 300, 700
)

// maintain takes snapshots and defragments by turns until a call fails, whose error
// it returns. It draws from no random source: r.rng belongs to the cuts.
func (r *run) maintain(ctx context.Context, conn *grpc.ClientConn) error {
	for {
		if err := snapshot(ctx, conn); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		r.snapshots++
		if _, err := pb.NewMaintenanceClient(conn).Defragment(ctx, &pb.DefragmentRequest{}); err != nil {
			return fmt.Errorf("defragment: %w", err)
		}
		r.defrags++
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(maintenancePause): // the load wants its share of the machine
		}
	}
}

// maintenancePause lies between two rounds of maintain.
const maintenancePause = 250 * time.Millisecond

func snapshot(ctx context.Context, conn *grpc.ClientConn) error {
	s, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return err
	}
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
