package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/rig"
)

// fault is a case of an error that a system call gives.
type fault struct {
	name  string
	call  string
	errno string // EIO if empty
	// files are those that the call fails on.
	files func(*trial) []string
	// provoke, if not nil, does what brings the call about, beside the load. Its
	// error is that of the client.
	provoke func(*trial) error
	// survives: the client that provoked it gets an error, and the server goes on.
	survives bool
	// whole spares the first call of each thread: strace may have come between it
	// and the write before, and the case needs both.
	whole bool
}

func (f fault) injection(x *trial) injection {
	errno := f.errno
	if errno == "" {
		errno = "EIO"
	}
	what := "error=" + errno
	if f.whole {
		what += ":when=2+"
	}
	return injection{call: f.call, what: what, paths: f.files(x)}
}

// text is the errno's, as an error says it.
func (f fault) text() string {
	switch f.errno {
	case "EROFS":
		return "read-only file system"
	case "ENOSPC":
		return "database space exceeded"
	}
	return "input/output error"
}

func (x *trial) log() (paths []string) {
	for n := 1; n <= 40; n++ {
		paths = append(paths, x.path("wal", fmt.Sprintf("shim-%016x.wal", n)))
	}
	return paths
}

// newSegments are the names that a segment has while it is made.
func (x *trial) newSegments() (paths []string) {
	for n := 1; n <= 40; n++ {
		paths = append(paths, x.path("wal", fmt.Sprintf("shim-%016x.tmp", n)))
	}
	return paths
}

func (x *trial) logDirectory() []string   { return []string{x.path("wal")} }
func (x *trial) store() []string          { return []string{x.path("snap", "db")} }
func (x *trial) defragmented() []string   { return []string{x.path("snap", "db.defrag")} }
func (x *trial) storeDirectory() []string { return []string{x.path("snap")} }
func (x *trial) anyFile() []string        { return nil }

// running are the faults that come while the server runs under load.
var running = []fault{
	{name: "log, write", call: "pwrite64", files: (*trial).log},
	{name: "log, sync", call: "fdatasync", files: (*trial).log, whole: true},
	{name: "log, create a segment", call: "openat", files: (*trial).newSegments, provoke: (*trial).bulk},
	{name: "log, write a segment", call: "pwrite64", files: (*trial).newSegments, provoke: (*trial).bulk},
	{name: "log, sync a segment", call: "fdatasync", files: (*trial).newSegments, provoke: (*trial).bulk},
	{name: "log, rename a segment", call: "renameat", files: (*trial).newSegments, provoke: (*trial).bulk},
	{name: "log, sync the directory", call: "fsync", files: (*trial).logDirectory, provoke: (*trial).bulk},
	{name: "log, directory became read-only", call: "openat", errno: "EROFS", files: (*trial).newSegments, provoke: (*trial).bulk},
	{name: "store, write", call: "pwrite64", files: (*trial).store},
	{name: "store, sync", call: "fdatasync", files: (*trial).store},
	{name: "store, grow", call: "ftruncate", files: (*trial).store, provoke: (*trial).bulk},
	{name: "store, sync after growing", call: "fsync", files: (*trial).store, provoke: (*trial).bulk},
	{name: "defragment, create", call: "openat", files: (*trial).defragmented, provoke: (*trial).defragment, survives: true},
	{name: "defragment, write", call: "pwrite64", files: (*trial).defragmented, provoke: (*trial).defragment, survives: true},
	{name: "defragment, sync", call: "fdatasync", files: (*trial).defragmented, provoke: (*trial).defragment, survives: true},
	{name: "defragment, rename", call: "renameat", files: (*trial).defragmented, provoke: (*trial).defragment, survives: true},
	{name: "defragment, sync the directory", call: "fsync", files: (*trial).storeDirectory, provoke: (*trial).defragment},
	{name: "defragment, disk full half-way", call: "pwrite64", errno: "ENOSPC", files: (*trial).defragmented, provoke: (*trial).defragment, survives: true},
	{name: "snapshot, create", call: "openat", files: (*trial).anyFile, provoke: (*trial).snapshot, survives: true},
	{name: "snapshot, unlink", call: "unlinkat", files: (*trial).anyFile, provoke: (*trial).snapshot, survives: true},
	{name: "snapshot, read the store", call: "pread64", files: (*trial).store, provoke: (*trial).snapshot, survives: true},
}

// TestErrors ensures, for an error of each system call that changes a file: what
// the server cannot go on after ends it at once, with a code other than 0 and an
// error that names file and cause; no write or sync is tried again after it, nothing
// is acknowledged that was not synced, and a start after the fault has all that was
// acknowledged. An error in a copy (defragmentation, snapshot) is its client's, and the
// server goes on.
func TestErrors(t *testing.T) {
	bin := server(t)
	for _, f := range running {
		eachTime(t, bin, f.name, func(x *trial) { f.run(x) })
	}
}

func (f fault) run(x *trial) {
	x.start()
	x.startLoad()
	tracer := attach(x, x.srv.PID(), f.injection(x))
	provoked := make(chan error, 1)
	if f.provoke != nil {
		go func() { provoked <- f.provoke(x) }()
	}
	if f.survives {
		f.mustSurvive(x, tracer, provoked)
		return
	}
	seen := x.mustEnd(f.text())
	x.endLoad()
	if f.provoke != nil {
		<-provoked
	}
	tracer.detach()
	all := tracer.calls(x)
	at := f.checkTrace(x, all)
	lost := ""
	if f.call == "fdatasync" {
		lost = loseUnsynced(x, all, at)
	}
	x.Logf("seed %d: injected %s after %d writes; seen: %s%s", x.seed, tracer, x.load.Record.Writes(), seen, lost)
	x.mustHold()
}

// checkTrace makes sure that the fault came, and that nothing was written to the
// file or synced again after a write or a sync failed.
func (f fault) checkTrace(x *trial, all []call) (at int) {
	x.Helper()
	if at = firstInjected(all); at < 0 {
		x.Fatalf("the fault did not come: %d calls in the trace", len(all))
	}
	if f.call != "fdatasync" && f.call != "pwrite64" {
		return at
	}
	for _, c := range all[at+1:] {
		if c.path == all[at].path && (c.name == "fdatasync" || c.name == "pwrite64") {
			x.Fatalf("after %s of %s had failed, there was a %s of it", f.call, filepath.Base(c.path), c.name)
		}
	}
	return at
}

// loseUnsynced overwrites with zeros what was written to the file since its last
// sync that succeeded: what a disk may do whose sync failed.
func loseUnsynced(x *trial, all []call, at int) string {
	x.Helper()
	path, lost := all[at].path, int64(0)
	var unsynced []call
	for _, c := range all[:at] {
		switch {
		case c.path != path:
		case c.name == "fdatasync":
			unsynced = nil
		case c.name == "pwrite64":
			unsynced = append(unsynced, c)
		}
	}
	if !strings.HasSuffix(path, ".wal") {
		return "" // bbolt writes beside what is valid, and its last write is the meta page: below
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		x.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, c := range unsynced {
		if _, err := f.WriteAt(make([]byte, c.length), c.offset); err != nil {
			x.Fatal(err)
		}
		lost += c.length
	}
	if lost == 0 {
		x.Fatal("the trace shows no write before the sync that failed")
	}
	return fmt.Sprintf("; then %d bytes that were not synced were lost", lost)
}

// mustSurvive is the other way: the client gets an error, the server goes on.
func (f fault) mustSurvive(x *trial, tracer *tracer, provoked <-chan error) {
	var err error
	select {
	case err = <-provoked:
	case <-x.srv.Exited():
		x.Fatalf("the server ended: %v", x.srv.Err())
	}
	if err == nil {
		x.Fatalf("the client was told of no error")
	}
	if !strings.Contains(err.Error(), f.text()) {
		x.Errorf("the client was told %q, which does not say %q", err, f.text())
	}
	x.moreWrites(100)
	tracer.detach()
	f.checkTrace(x, tracer.calls(x))
	x.moreWrites(100)
	leftovers(x)
	if f.provoke != nil {
		if err := f.provoke(x); err != nil {
			x.Fatalf("without the fault: %v", err)
		}
	}
	x.endLoad()
	x.Logf("seed %d: injected %s; seen: the client got %q, the server went on", x.seed, tracer, err)
	x.verify()
	x.srv.Terminate(x)
	check(x, x.options)
}

// leftovers fails when a copy was left behind. One that could not be removed is
// removed by the next start.
func leftovers(x *trial) {
	x.Helper()
	entries, err := os.ReadDir(x.path("snap"))
	if err != nil {
		x.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "db" && !strings.Contains(x.Name(), "unlink") {
			x.Errorf("%s was left behind", e.Name())
		}
	}
}

const (
	bulkValue = 256 << 10
	// bulkBytes fill a log segment, and make the store's file grow.
	bulkBytes = 24 << 20
)

// bulk writes much, so that the log needs a new segment and the store a larger
// file.
func (x *trial) bulk() error {
	conn := x.srv.Dial(x)
	defer func() { _ = conn.Close() }()
	for n := range bulkBytes / bulkValue {
		if err := x.putBulk(conn, n); err != nil {
			return err
		}
	}
	return nil
}

// putBulk is one put of bulk, which is recorded. A refusal that says that nothing was
// done is returned and not recorded.
func (x *trial) putBulk(conn *grpc.ClientConn, n int) error {
	o := &rig.Op{Kind: rig.Put, Keys: []string{fmt.Sprintf("bulk/%06d", n)}, Value: fmt.Sprintf("%d %d %s", x.seed, n, strings.Repeat("b", bulkValue))}
	resp, err := pb.NewKVClient(conn).Put(x.ctx, &pb.PutRequest{Key: []byte(o.Keys[0]), Value: []byte(o.Value)})
	if err != nil {
		if status.Code(err) != codes.ResourceExhausted {
			x.load.Record.Lost(o)
		}
		return err
	}
	return x.load.Record.Ack(o, resp.Header.Revision)
}

func (x *trial) defragment() error {
	conn := x.srv.Dial(x)
	defer func() { _ = conn.Close() }()
	_, err := pb.NewMaintenanceClient(conn).Defragment(x.ctx, &pb.DefragmentRequest{})
	return err
}

func (x *trial) snapshot() error {
	conn := x.srv.Dial(x)
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(x.ctx, time.Minute)
	defer cancel()
	stream, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// starting are the faults that come while the server starts.
var starting = []fault{
	{name: "read the state file", call: "read", files: func(x *trial) []string { return []string{x.path("shim.json")} }},
	{name: "open the lock file", call: "openat", files: func(x *trial) []string { return []string{x.path("shim.lock")} }},
	{name: "open the lock file on a read-only disk", call: "openat", errno: "EROFS", files: func(x *trial) []string { return []string{x.path("shim.lock")} }},
	{name: "open the log", call: "openat", files: (*trial).log},
	{name: "read the log", call: "pread64", files: (*trial).log},
	{name: "sync the log", call: "fdatasync", files: (*trial).log},
	{name: "sync the log's directory", call: "fsync", files: (*trial).logDirectory},
	{name: "open the store", call: "openat", files: (*trial).store},
	{name: "read the store", call: "pread64", files: (*trial).store},
	{name: "lock the store", call: "flock", files: (*trial).store},
	{name: "list the directory", call: "getdents64", files: (*trial).storeDirectory},
}

// TestErrorsOfStart ensures that a start whose disk gives errors ends with a code
// other than 0 and a text that names file and cause, and that a start after it
// has everything.
func TestErrorsOfStart(t *testing.T) {
	bin := server(t)
	for _, f := range starting {
		eachTime(t, bin, f.name, func(x *trial) {
			x.start()
			x.startLoad()
			x.srv.Kill(x)
			x.endLoad()
			in, trace := f.injection(x), filepath.Join(x.TempDir(), "trace")
			x.options.Wrap = append([]string{"strace", "-D"}, in.flags(trace)...)
			var err error
			if x.srv, err = rig.Launch(x.options); err != nil {
				x.Fatal(err)
			}
			x.Cleanup(x.srv.End)
			seen := x.mustEnd(f.text())
			awaitTrace(x, trace)
			x.Logf("seed %d: injected %s; seen: %s", x.seed, in, seen)
			x.mustHold()
		})
	}
}

// awaitTrace waits until strace, which is not our child, has written that it
// injected.
func awaitTrace(x *trial, path string) {
	x.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if firstInjected(readTrace(x, path)) >= 0 {
			return
		}
		if time.Now().After(end) {
			x.Fatal("the fault did not come")
		}
	}
}

var _ testing.TB = (*trial)(nil)
