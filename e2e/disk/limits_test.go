package disk

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/rig"
)

// openFiles is the limit that the server gets, and strangers how many connections are
// opened to it that say nothing: more than it can have.
const openFiles, strangers = 64, 200

// largePuts are more than the log's segment and its spare take.
const largePuts = 40 << 20 / bulkValue

// TestOpenFiles ensures that a server that may open no more files serves the clients
// it has, refuses rather than dies when its log needs another file, loses nothing, and
// goes on once it may open files again.
func TestOpenFiles(t *testing.T) {
	bin := server(t)
	eachTime(t, bin, "limit of 64", func(x *trial) {
		x.options.Wrap = []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, openFiles)}
		x.start()
		x.startLoad()
		conn := x.srv.Dial(x) // before it has no file left for it
		defer func() { _ = conn.Close() }()
		if _, err := pb.NewMaintenanceClient(conn).Status(x.ctx, &pb.StatusRequest{}); err != nil {
			x.Fatal(err)
		}
		var open []net.Conn
		for range strangers {
			c, err := net.DialTimeout("tcp", x.options.Addr, time.Second)
			if err != nil {
				break // the queue of the listening socket is full, too
			}
			open = append(open, c)
		}
		awaitFiles(x)
		written, refused := 0, error(nil)
		for n := 0; n < largePuts && refused == nil; n++ {
			if refused = x.putBulk(conn, n); refused == nil {
				written++
			}
		}
		// etcd's code for it is Unknown (asked on the wire).
		if refused != nil && !strings.Contains(refused.Error(), "too many requests") && status.Code(refused) != codes.Unavailable {
			x.Errorf("refused with %v", refused)
		}
		if _, err := pb.NewKVClient(conn).Range(x.ctx, &pb.RangeRequest{Key: []byte("bulk/"), RangeEnd: []byte("bulk0"), CountOnly: true}); err != nil {
			x.Errorf("read: %v", err)
		}
		for _, c := range open {
			_ = c.Close()
		}
		var err error
		for end := time.Now().Add(fillTimeout); ; time.Sleep(100 * time.Millisecond) {
			if err = x.putBulk(conn, 1000); err == nil || time.Now().After(end) {
				break
			}
		}
		if err != nil {
			x.Fatalf("with files again: %v", err)
		}
		x.endLoad()
		x.Logf("seed %d: injected a limit of %d open files, %d connections; seen: %d of %d large puts went through, then %v; with files again all went on",
			x.seed, openFiles, len(open), written, largePuts, refused)
		x.verify()
		x.srv.Kill(x)
		x.mustHold()
	})
}

// awaitFiles waits until the server has as many files open as it may.
func awaitFiles(x *trial) {
	x.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", x.srv.PID()))
		if err != nil {
			x.Fatal(err)
		}
		if len(files) >= openFiles {
			return
		}
		if time.Now().After(end) {
			x.Fatalf("the server has %d files open", len(files))
		}
	}
}

// nobody is the user and group that have no rights.
const nobody = 65534

// TestReadOnlyDirectory ensures that a server whose directories lose their write
// permission ends with an error that names the file when it needs a new one, loses
// nothing, does not start on them, and starts again once they are as they were.
func TestReadOnlyDirectory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root, who can start a server as nobody")
	}
	bin := server(t)
	eachTime(t, bin, "while it runs and when it starts", func(x *trial) {
		parent := filepath.Dir(x.options.Dir)
		for _, dir := range []string{filepath.Dir(bin), filepath.Dir(parent)} {
			if err := os.Chmod(dir, 0o755); err != nil {
				x.Fatal(err)
			}
		}
		if err := os.Chown(parent, nobody, nobody); err != nil {
			x.Fatal(err)
		}
		wrap := []string{"setpriv", fmt.Sprint("--reuid=", nobody), fmt.Sprint("--regid=", nobody), "--clear-groups"}
		x.options.Wrap = wrap
		x.start()
		x.startLoad()
		x.chmod(0o500)
		provoked := make(chan error, 1)
		go func() { provoked <- x.bulk() }()
		running := x.mustEnd("permission denied")
		x.endLoad()
		<-provoked

		var err error
		if x.srv, err = rig.Launch(x.options); err != nil {
			x.Fatal(err)
		}
		x.Cleanup(x.srv.End)
		select {
		case <-x.srv.Exited():
			x.Logf("a start without the permission: exit code %d", x.srv.ExitCode())
			if x.srv.ExitCode() <= 0 {
				x.Errorf("exit code %d", x.srv.ExitCode())
			}
		case <-time.After(exitTimeout):
			// It needs no new file to start, and may go on as it is.
			x.srv.Kill(x)
		}
		x.chmod(0o700)
		x.Logf("seed %d: injected directories without write permission; seen: %s", x.seed, running)
		x.start()
		x.verify()
		x.srv.Terminate(x)
		check(x, x.options)
	})
	eachTime(t, bin, "disk mounted read-only, at start", func(x *trial) {
		mounted := filepath.Dir(x.options.Dir)
		smallDiskAt(x, mounted, largeDisk)
		x.start()
		x.startLoad()
		x.srv.Kill(x)
		x.endLoad()
		remount := func(flags uintptr) {
			if err := syscall.Mount("shim-full-disk", mounted, "tmpfs", syscall.MS_REMOUNT|flags, ""); err != nil {
				x.Fatal(err)
			}
		}
		remount(syscall.MS_RDONLY)
		var err error
		if x.srv, err = rig.Launch(x.options); err != nil {
			x.Fatal(err)
		}
		x.Cleanup(x.srv.End)
		seen := x.mustEnd("read-only file system")
		remount(0)
		x.Logf("seed %d: injected a read-only mount; seen: %s", x.seed, seen)
		x.mustHold()
	})
}

// chmod changes the permissions of every directory below member.
func (x *trial) chmod(mode os.FileMode) {
	x.Helper()
	err := errors.Join(os.Chmod(x.path("wal"), mode), os.Chmod(x.path("snap"), mode), os.Chmod(x.path(), mode))
	if err != nil {
		x.Fatal(err)
	}
}
