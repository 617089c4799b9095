package storage

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/grpclog"

	"k8s.io/apiserver/pkg/features"
	apistorage "k8s.io/apiserver/pkg/storage"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"github.com/etcdshim/shim/e2e/kubernetes/internal/proc"
)

const (
	binDir      = "../bin"
	resultsPath = "../work/storage.txt"
	caseTimeout = 60 * time.Second // for one case; upstream's functions wait 30 s at most for one thing
)

func TestMain(m *testing.M) {
	// gRPC would print each connection that a stopped server leaves behind.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, os.Stderr))
	os.Exit(m.Run())
}

// servers are the kinds to run: SERVERS, comma-separated, or all.
func servers() []string {
	if names := os.Getenv("SERVERS"); names != "" {
		return strings.Split(names, ",")
	}
	return proc.Kinds
}

// TestStorage runs every case on every server, with lists read by Range and by RangeStream.
func TestStorage(t *testing.T) {
	columns := columns()
	results := newResults(columns)
	defer results.write(t)
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			for _, col := range columns {
				start, ran := time.Now(), false
				ok := t.Run(col.String(), func(t *testing.T) {
					ran = true
					runCase(t, c, col)
				})
				if ran { // t.Run says ok too of what -run leaves out
					results.add(c.name, col, ok, time.Since(start))
				}
			}
		})
	}
}

// column is one way to run a case.
type column struct {
	server      string
	rangeStream bool
}

func (c column) String() string {
	if c.rangeStream {
		return c.server + "+RangeStream"
	}
	return c.server
}

func columns() []column {
	var all []column
	for _, rangeStream := range []bool{false, true} {
		for _, server := range servers() {
			all = append(all, column{server, rangeStream})
		}
	}
	return all
}

func runCase(t *testing.T, c suiteCase, col column) {
	for gate, on := range c.gates {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, gate, on)
	}
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.EtcdRangeStream, col.rangeStream)
	// What the client has learned of the server before must not count for this one.
	before := etcdfeature.DefaultFeatureSupportChecker
	etcdfeature.DefaultFeatureSupportChecker = etcdfeature.NewDefaultFeatureSupportChecker()
	t.Cleanup(func() { etcdfeature.DefaultFeatureSupportChecker = before })

	server := startServer(t, col.server, c.flags)
	f := newFixture(t, server)
	// All that ends the case is a cleanup: upstream's parallel sub-tests run after their function has returned.
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if col.rangeStream && !etcdfeature.DefaultFeatureSupportChecker.Supports(apistorage.RangeStream) {
			t.Error("the server answered RangeStream with Unimplemented, the case ran on Range")
		}
		if exit := server.Exit(); exit != "running" {
			t.Errorf("the server ended: %s", exit)
		}
	})
	c.run(ctx, t, f)
}

// startServer starts a fresh server that ends with the test, and shows the end of its log when the test failed.
func startServer(t *testing.T, kind string, flags []string) *proc.Server {
	t.Helper()
	if kind == "etcd" {
		// etcd is here to show that the cases are right, not how fast its disk is: a case of upstream's gives a hundred
		// writes 3 s in all, which etcd misses where a sync takes 20 ms. shim runs as shipped.
		flags = append(slices.Clone(flags), "--unsafe-no-fsync")
	}
	server, err := proc.NewServer(kind, binDir, t.TempDir(), flags...)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Kill()
		if t.Failed() {
			t.Logf("the log of %s ends with:\n%s", kind, server.Tail(4096))
		}
	})
	return server
}

// results are the outcomes by case and column, in the order in which they came.
type results struct {
	columns []column
	names   []string
	cells   map[string]map[column]string
	passed  map[column]int
	spent   map[column]time.Duration
}

func newResults(columns []column) *results {
	return &results{
		columns: columns,
		cells:   map[string]map[column]string{},
		passed:  map[column]int{},
		spent:   map[column]time.Duration{},
	}
}

// add records one outcome.
func (r *results) add(name string, col column, ok bool, took time.Duration) {
	if r.cells[name] == nil {
		r.cells[name] = map[column]string{}
		r.names = append(r.names, name)
	}
	verdict := "FAIL"
	if ok {
		verdict = "ok"
		r.passed[col]++
	}
	r.cells[name][col] = fmt.Sprintf("%s %.1fs", verdict, took.Seconds())
	r.spent[col] += took
}

// write leaves the table in resultsPath, since `go test` shows what a test prints only when it fails or is asked to show all.
func (r *results) write(t *testing.T) {
	var table strings.Builder
	r.print(&table)
	t.Log(table.String())
	err := os.MkdirAll(filepath.Dir(resultsPath), 0o755)
	if err == nil {
		err = os.WriteFile(resultsPath, []byte(table.String()), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

func (r *results) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "k8s.io/apiserver/pkg/storage/testing")
	for _, col := range r.columns {
		fmt.Fprintf(w, "\t%s", col)
	}
	fmt.Fprintln(w)
	for _, name := range r.names {
		fmt.Fprint(w, name)
		for _, col := range r.columns {
			cell, ran := r.cells[name][col]
			if !ran {
				cell = "-"
			}
			fmt.Fprintf(w, "\t%s", cell)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "passed")
	for _, col := range r.columns {
		fmt.Fprintf(w, "\t%d/%d %.0fs", r.passed[col], len(r.names), r.spent[col].Seconds())
	}
	fmt.Fprintln(w)
}
