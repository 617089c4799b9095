package hostile

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/e2e/rig"
)

var (
	full = flag.Bool("full", false, "the full sizes instead of the short ones")
	seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of what is chosen at random")
)

const mib = 1 << 20

// What the server's memory may grow by, bytes. The limits are the server's own.
const (
	// responseBudget is etcdapi's budget of answers, and overdraft how far answers that
	// are not read may exceed it.
	responseBudget = 64 * mib
	overdraft      = 2
	// waitingChunk is what an answer holds that waits for the budget.
	waitingChunk = 256 << 10
	// watchQueues is what all streams of watches may have waiting.
	watchQueues = 128 * mib
	// eventRing is what recent events occupy before an attack begins. The collector lets
	// as much lie, which may be there at the beginning, too, or not yet.
	eventRing = 32 * mib
	// layerAndLog is what writes occupy: the layer that waits for bbolt (64 MiB), the
	// ring of events (32 MiB), and the log's entries in memory (16 MiB).
	layerAndLog = 112 * mib
	// perConnection is what a connection costs: buffers for reading and writing, and
	// what HTTP/2 lets one stream's sender queue.
	perConnection = 192 << 10
	// perStream is what a stream costs, queued answers apart: goroutines' stacks and
	// what HTTP/2 lets its sender queue.
	perStream = 112 << 10
	// garbageFactor is how much memory Go's collector lets lie: it runs when the heap
	// has doubled.
	garbageFactor = 2
	// mappedBytes is what the kernel counts as the server's once the range of 100 MB was
	// read: the pages of bbolt's file that hold it, which is mapped. They are the
	// kernel's own, which takes them when it needs them.
	mappedBytes = 100 * mib
	// baseline is for what is none of these: page tables, bbolt's pages in use, the
	// collector's own.
	baseline = 48 * mib
)

// sizes of the data that every case finds.
const (
	smallKeys  = 1000
	smallBytes = 256
	bigKeys    = 1000
	bigBytes   = 100 << 10 // 1,000 make the range of 100 MB
)

// attack is one way to treat a server.
type attack struct {
	name string
	// bound is what the server's memory may grow by.
	bound int64
	// run attacks until it is done and returns what it did, for the report. The
	// hostile clients are gone when it returns.
	run func(t *testing.T, v *victim) string
	// idle attacks mostly wait: they run beside each other, after the busy ones.
	idle bool
}

// victim is a server under attack.
type victim struct {
	*rig.Server
	rng *rand.Rand
}

// size is n in the full form, and short in the short one.
func size(n, short int) int {
	if *full {
		return n
	}
	return short
}

// TestHostile runs each attack against a server of its own.
func TestHostile(t *testing.T) {
	t.Logf("seed %d", *seed)
	start := time.Now()
	bin := rig.Build(t)
	var mu sync.Mutex
	var report []string
	t.Run("attack", func(t *testing.T) {
		for _, a := range attacks() {
			t.Run(a.name, func(t *testing.T) {
				if a.idle {
					t.Parallel()
				}
				did := withstand(t, bin, a)
				mu.Lock()
				defer mu.Unlock()
				report = append(report, did)
			})
		}
	})
	if !t.Failed() && *full {
		rig.AppendResult(t, "hostile", *seed, start, strings.Join(report, "; "))
	}
}

// withstand runs one attack and checks what the package promises.
func withstand(t *testing.T, bin string, a attack) string {
	s := rig.Start(t, rig.Options{Bin: bin, Dir: filepath.Join(t.TempDir(), "data"), Addr: rig.FreeAddr(t)})
	fill(t, s)
	calm := func() map[string][]time.Duration {
		n := startNeighbour(t, s, 5*time.Millisecond)
		time.Sleep(2 * time.Second) // the measurement, not a wait for something
		latencies, err := n.stop()
		if err != nil {
			t.Fatalf("before the attack: %v\n%s", err, s.Log())
		}
		return latencies
	}()
	occupied := resourcesOf(t, s)
	resetPeak(t, s.PID())
	stood := memory(t, s.PID(), "VmRSS")

	n := startNeighbour(t, s, 20*time.Millisecond)
	began := time.Now()
	did := a.run(t, &victim{s, rand.New(rand.NewPCG(*seed, 0))})
	took := time.Since(began)
	under, err := n.stop()
	if err != nil {
		t.Errorf("the well-behaved client: %v", err)
	}
	grown := memory(t, s.PID(), "VmHWM") - stood
	t.Logf("%s in %.1f s; memory %d MiB + %d MiB at the most, bound %d MiB", did, took.Seconds(), stood/mib, grown/mib, a.bound/mib)
	if grown > a.bound {
		t.Errorf("memory grew by %d MiB, the bound is %d MiB", grown/mib, a.bound/mib)
	}
	for _, what := range []string{"put", "event", "get", "list"} {
		if len(under[what]) == 0 {
			continue // told above
		}
		before, during := quantile(calm[what], 0.5), quantile(under[what], 0.5)
		t.Logf("%-5s median %7.2f ms before, %7.2f ms during; p99 %7.2f ms and %7.2f ms; n = %d", what, ms(before), ms(during),
			ms(quantile(calm[what], 0.99)), ms(quantile(under[what], 0.99)), len(under[what]))
		if during > max(latencyFactor*before, latencyFloor) {
			t.Errorf("%s: the median went from %v to %v", what, before, during)
		}
	}
	awaitRelease(t, s, occupied)
	s.Terminate(t)
	rig.Check(t, bin, s.Dir)
	return fmt.Sprintf("%s: %s, +%d MiB", a.name, did, grown/mib)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// fill writes what the attacks and the well-behaved client read.
func fill(t *testing.T, s *rig.Server) {
	t.Helper()
	conn := s.Dial(t)
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	kv := pb.NewKVClient(conn)
	put := func(prefix string, n, size, perTxn int) {
		for i := 0; i < n; i += perTxn {
			var ops []*pb.RequestOp
			for k := i; k < min(n, i+perTxn); k++ {
				ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
					Key: fmt.Appendf(nil, "%s%06d", prefix, k), Value: value(k, size),
				}}})
			}
			if _, err := kv.Txn(ctx, &pb.TxnRequest{Success: ops}); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("small/", smallKeys, smallBytes, 100)
	put("big/", bigKeys, bigBytes, 10)
}

// value is what key n holds.
func value(n, size int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%08d", n), size/8)
}

// clientWindow is how far a stream of an attack's connection lets the server send
// ahead of its reading. It is set, or grpc would let it grow to 16 MiB for each stream
// and this process hold what the server should: gigabytes, with thousands of streams.
const clientWindow = 64 << 10

// conns dials n connections, which are closed by the function returned.
func (v *victim) conns(t *testing.T, n int) ([]*grpc.ClientConn, func()) {
	t.Helper()
	all := make([]*grpc.ClientConn, n)
	for i := range all {
		all[i] = v.Dial(t, grpc.WithInitialWindowSize(clientWindow), grpc.WithInitialConnWindowSize(16*clientWindow))
	}
	return all, func() {
		for _, c := range all {
			_ = c.Close()
		}
	}
}
