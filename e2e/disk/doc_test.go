// Package disk takes the disk away from under shim, in every way that a disk has,
// and looks at what it does: what was acknowledged stays, it says why it refuses
// or ends, and goes on once the fault is over.
//
// Room is taken with small file systems (tmpfs, which needs the right to mount).
// Errors and delays are injected into system calls on chosen files with strace,
// which attaches to the running server in the middle of a load, or starts it.
// Each case is a sub-test that prints what was injected and what was seen.
package disk

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/rig"
)

var (
	binary = flag.String("server", "", "path of the server to run, such as a real etcd; built from this checkout when empty")
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the clients' choices and of when the fault comes")
	repeat = flag.Int("repeat", 1, "how many times each case is run, with a seed of its own")
	full   = flag.Bool("full", false, "also the cases that take long: the longest delays, the largest disks")
)

// counted is what the whole run did, for the line in RESULTS.md.
var counted struct{ cases, writes, events, injected, failed atomic.Int64 }

func TestMain(m *testing.M) {
	flag.Parse()
	fmt.Printf("disk: seed %d, each case %d times, full %v\n", *seed, *repeat, *full)
	var err error
	if built.dir, err = os.MkdirTemp("", "shim-disk-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(built.dir)
	fmt.Printf("disk: seed %d, %s, %.1f min\n", *seed, counts(), time.Since(began).Minutes())
	os.Exit(code)
}

func counts() string {
	return fmt.Sprintf("%d cases, %d writes acknowledged, %d events compared, %d system calls failed or delayed",
		counted.cases.Load(), counted.writes.Load(), counted.events.Load(), counted.injected.Load())
}

var began = time.Now()

// built is where the program is, once it was built, until the tests are over.
var built struct {
	sync.Mutex
	dir, path string
}

// server is the program to run.
func server(t *testing.T) string {
	t.Helper()
	if *binary != "" {
		return *binary
	}
	built.Lock()
	defer built.Unlock()
	if built.path == "" {
		path := filepath.Join(built.dir, "shim")
		if err := os.Rename(rig.Build(t), path); err != nil {
			t.Fatal(err)
		}
		built.path = path
	}
	return built.path
}

const (
	// clients of a trial: enough to have several requests in every batch.
	clients = 6
	// writesBefore is the least number of writes acknowledged before the fault.
	writesBefore = 300
	// trialTimeout bounds one case on a busy machine.
	trialTimeout = 2 * time.Minute
)

// trial is one run of a case: a server, its load and what it acknowledged.
type trial struct {
	*testing.T
	seed     uint64
	rng      *rand.Rand
	options  rig.Options
	load     *rig.Load
	verifier *rig.Verifier
	srv      *rig.Server
	ctx      context.Context

	stopLoad context.CancelFunc
	ended    chan error // of the load
}

// eachTime runs a case with each of its seeds, as a sub-test.
func eachTime(t *testing.T, bin, name string, run func(*trial)) {
	for i := range *repeat {
		title := name
		if *repeat > 1 {
			title = fmt.Sprintf("%s/%d", name, i)
		}
		t.Run(title, func(t *testing.T) { run(newTrial(t, bin, *seed+uint64(i))) })
	}
}

func newTrial(t *testing.T, bin string, seed uint64) *trial {
	load := rig.NewLoad(seed, clients)
	x := &trial{
		T: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), load: load, verifier: rig.NewVerifier(load.Record),
		options: rig.Options{Bin: bin, Dir: filepath.Join(t.TempDir(), "data"), Addr: rig.FreeAddr(t)},
	}
	var cancel context.CancelFunc
	x.ctx, cancel = context.WithTimeout(context.Background(), trialTimeout)
	t.Cleanup(func() {
		cancel()
		counted.cases.Add(1)
		counted.writes.Add(int64(load.Record.Writes()))
		counted.events.Add(int64(x.verifier.Events))
		if t.Failed() {
			counted.failed.Add(1)
			t.Logf("seed %d; the server's log:\n%s", seed, x.srv.Log())
		}
	})
	return x
}

func (x *trial) path(elements ...string) string {
	return filepath.Join(append([]string{x.options.Dir, "member"}, elements...)...)
}

func (x *trial) start() {
	x.Helper()
	x.srv = rig.Start(x, x.options)
}

// startLoad begins to write and returns once enough was acknowledged.
func (x *trial) startLoad() {
	x.Helper()
	var ctx context.Context
	ctx, x.stopLoad = context.WithCancel(x.ctx)
	x.ended = make(chan error, 1)
	go func() { x.ended <- x.load.Run(ctx, x.options.Addr) }()
	x.moreWrites(writesBefore + x.rng.IntN(300))
}

func (x *trial) moreWrites(n int) {
	x.Helper()
	if err := x.load.AwaitWrites(x.ctx, n); err != nil {
		x.Fatalf("the load: %v", err)
	}
}

// endLoad ends the load, which must have seen nothing that a correct server cannot
// answer.
func (x *trial) endLoad() {
	x.Helper()
	x.stopLoad()
	if err := <-x.ended; err != nil {
		x.Fatalf("the load: %v", err)
	}
}

// exitTimeout is how soon a server must have ended of itself.
const exitTimeout = 15 * time.Second

// mustEnd waits until the server has ended by itself, which must not look like
// success, and returns its last error.
func (x *trial) mustEnd(says ...string) string {
	x.Helper()
	select {
	case <-x.srv.Exited():
	case <-time.After(exitTimeout):
		x.Fatalf("the server still runs %v after the fault", exitTimeout)
	}
	if x.srv.ExitCode() <= 0 {
		x.Fatalf("the server ended with code %d (%v)", x.srv.ExitCode(), x.srv.Err())
	}
	last := lastWord(x.srv.Log())
	for _, what := range append(says, x.path()) { // and where
		if !strings.Contains(last, what) {
			x.Fatalf("the server's last word, %q, does not say %q", last, what)
		}
	}
	return fmt.Sprintf("exit code %d, %s", x.srv.ExitCode(), last)
}

// lastWord is the error with which the server ended. A request that failed with it
// may log that it was slow at the same moment, so that it need not be the last line.
func lastWord(log string) string {
	last := ""
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "shim: ") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// mustHold starts the server again, without the fault, and compares it with what
// was acknowledged; it must take writes, end cleanly, and pass the check.
func (x *trial) mustHold() {
	x.Helper()
	x.options.Wrap = nil
	x.start()
	x.verify()
	x.startLoad()
	x.endLoad()
	x.verify()
	x.srv.Terminate(x)
	check(x, x.options)
}

func (x *trial) verify() {
	x.Helper()
	conn := x.srv.Dial(x)
	defer func() { _ = conn.Close() }()
	if err := x.verifier.Verify(x.ctx, conn); err != nil {
		x.Fatalf("seed %d: %v", x.seed, err)
	}
}

// check runs `shim check` on a directory, and on the log where it lies elsewhere.
func check(t testing.TB, o rig.Options) {
	t.Helper()
	words := []string{"check"}
	for i, f := range o.Flags {
		if f == "--wal-dir" {
			words = append(words, f, o.Flags[i+1])
		}
	}
	if out, err := exec.Command(o.Bin, append(words, o.Dir)...).CombinedOutput(); err != nil {
		t.Fatalf("shim check: %v\n%s", err, out)
	}
}
