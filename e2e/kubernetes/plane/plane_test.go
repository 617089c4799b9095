package plane

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/etcdshim/shim/e2e/kubernetes/internal/proc"
)

const (
	binDir  = "../bin"
	workDir = "../work"

	// planeTimeout bounds the whole test, below the -timeout that `go test` is given: cleanup and the logs come still after it.
	planeTimeout = 9 * time.Minute
	stepTimeout  = 3 * time.Minute

	// eventTTL is short enough to await. etcd's smallest lease is about 2 s; kube-apiserver adds 5 % to share a lease between events.
	eventTTL = 20 * time.Second
	// compactEvery has several compactions fall into the test; each forgets what is older than the one before.
	compactEvery = 30 * time.Second

	writerNamespace = "writer"
	logTail         = 6000 // bytes of each component's log shown when the test fails
)

// step is one stage of the cluster's life.
type step struct {
	name string
	run  func(ctx context.Context, t *testing.T, r *run)
}

// run is what the steps share.
type run struct {
	*Plane
	writer   *Writer
	observer *Observer
	kills    int             // of the server, so far
	expiries []*expiry       // events whose end is awaited
	ctx      context.Context // of the whole test
}

// TestControlPlane takes a control plane on SERVER (shim, the default, or etcd) through a cluster's life.
func TestControlPlane(t *testing.T) {
	kind := os.Getenv("SERVER")
	if kind == "" {
		kind = proc.Kinds[0]
	}
	ctx, cancel := context.WithTimeout(context.Background(), planeTimeout)
	defer cancel()
	r := startRun(ctx, t, kind)
	steps := []step{
		{"version", testVersion},
		{"objects", testObjects},
		{"large object", testLargeObject},
		{"custom resources", testCustomResources},
		{"watch order", testWatchOrder},
		{"paged lists", testPagedLists},
		{"conflicts", testConflicts},
		{"server-side apply", testServerSideApply},
		{"finalizers", testFinalizers},
		{"events", testEvents},
		{"roll-out with kills", testRollOut},
		{"events expire", testEventsExpire},
		{"namespaces end", testNamespacesEnd},
		{"nothing is lost", testNothingLost},
	}
	for _, s := range steps {
		start := time.Now()
		t.Run(s.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(ctx, stepTimeout)
			defer cancel()
			s.run(ctx, t, r)
		})
		t.Logf("%-22s %5.1f s", s.name, time.Since(start).Seconds())
	}
	for _, p := range r.Processes() {
		if exit := p.Exit(); exit != "running" {
			t.Errorf("%s ended by itself: %s", p.Name(), exit)
		}
	}
}

// startRun starts the plane, the writer and the observer, and has them end with the test. The logs stay when the test fails.
func startRun(ctx context.Context, t *testing.T, kind string) *run {
	t.Helper()
	dir := filepath.Join(workDir, fmt.Sprintf("plane-%s-%d", kind, os.Getpid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	p, err := Start(ctx, Config{Kind: kind, BinDir: binDir, Dir: dir, EventTTL: eventTTL, CompactEvery: compactEvery})
	if err != nil {
		t.Fatalf("%v\n(files in %s)", err, dir)
	}
	r := &run{Plane: p, ctx: ctx}
	t.Cleanup(func() {
		if r.observer != nil {
			r.observer.Stop()
		}
		if r.writer != nil {
			r.writer.Stop()
		}
		failed := t.Failed() // before Stop adds the noise of the end to the logs
		if failed {
			for _, c := range p.Processes() {
				t.Logf("---- %s (%s), the log ends with:\n%s", c.Name(), c.Exit(), c.Tail(logTail))
			}
		}
		p.Stop()
		if failed {
			t.Logf("data and logs are kept in %s", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	r.createNamespace(ctx, t, writerNamespace)
	maps := p.Client.CoreV1().ConfigMaps(writerNamespace)
	r.observer = StartObserver(maps)
	r.writer = StartWriter(maps)
	t.Logf("%-22s %5.1f s", "start on "+kind, time.Since(start).Seconds())
	return r
}

func (r *run) createNamespace(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := r.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// kubectl runs kubectl and fails the test with it.
func (r *run) kubectl(ctx context.Context, t *testing.T, input string, args ...string) string {
	t.Helper()
	out, err := r.Kubectl(ctx, input, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// until calls condition every 100 ms until it says true. Its error ends the test at once.
func until(ctx context.Context, t *testing.T, what string, condition func() (bool, error)) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := condition()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, ctx.Err())
		case <-tick.C:
		}
	}
}
