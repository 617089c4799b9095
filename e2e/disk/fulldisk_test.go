package disk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/rig"
)

const (
	// smallDisk holds the log's segments and a store of some 30 MiB.
	smallDisk = "80m"
	largeDisk = "600m"
	// fillTimeout bounds how long it may take until a disk is full, or until space
	// that was freed is noticed.
	fillTimeout = 90 * time.Second
	// stepTimeout bounds one request, and is longer than the server's own time-out.
	stepTimeout = 20 * time.Second
)

// smallDiskAt mounts a small file system and returns how to make it large. The
// test needs the right to mount.
func smallDiskAt(t testing.TB, dir, size string) (enlarge func()) {
	t.Helper()
	mount := func(flags uintptr, size string) {
		if err := syscall.Mount("shim-full-disk", dir, "tmpfs", flags, "size="+size); err != nil {
			t.Fatalf("mount a tmpfs of %s on %s: %v (this test must run as root, in a mount namespace that may mount)", size, dir, err)
		}
	}
	mount(0, size)
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return func() { mount(syscall.MS_REMOUNT, largeDisk) }
}

// filler fills a disk and knows what must be there.
type filler struct {
	t       *testing.T
	value   int // bytes of a value
	writers int

	mu    sync.Mutex
	acked map[string]byte
	// unknown are keys whose put ended without an answer.
	unknown map[string]byte
	count   int // acknowledged puts
}

func (f *filler) content(b byte) []byte { return bytes.Repeat([]byte{b}, f.value) }

// fill puts until every writer is told that there is no space.
func (f *filler) fill(conn *grpc.ClientConn, round int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fillTimeout)
	defer cancel()
	var writers sync.WaitGroup
	for w := range f.writers {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key, b := fmt.Sprintf("full/%d/%02d/%06d", round, w, n), byte('a'+n%26)
				_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: f.content(b)})
				f.mu.Lock()
				switch {
				case err == nil:
					f.acked[key] = b
					f.count++
				case status.Code(err) == codes.Unavailable:
					f.unknown[key] = b
				}
				f.mu.Unlock()
				switch {
				case err == nil, status.Code(err) == codes.Unavailable:
				case strings.Contains(err.Error(), "too many requests"): // certainly not done
				case isNoSpace(err):
					return
				default:
					f.t.Errorf("put on a disk that fills up: %v", err)
					return
				}
			}
		})
	}
	writers.Wait()
	if ctx.Err() != nil {
		f.t.Fatalf("the disk was not reported full within %v, after %d writes", fillTimeout, len(f.acked))
	}
}

func isNoSpace(err error) bool {
	return status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "database space exceeded")
}

// verify compares every key with what was acknowledged.
func (f *filler) verify(conn *grpc.ClientConn, when string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fillTimeout)
	defer cancel()
	found := map[string]byte{}
	for from := "full/"; ; {
		resp, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(from), RangeEnd: []byte("full0"), Limit: 16})
		if err != nil {
			f.t.Fatalf("%s: read: %v", when, err)
		}
		for _, kv := range resp.Kvs {
			if len(kv.Value) != f.value || !bytes.Equal(kv.Value, f.content(kv.Value[0])) {
				f.t.Fatalf("%s: %s has a value of %d bytes that nobody wrote", when, kv.Key, len(kv.Value))
			}
			found[string(kv.Key)] = kv.Value[0]
			from = string(kv.Key) + "\x00"
		}
		if !resp.More {
			break
		}
	}
	lost, extra := 0, 0
	for k, b := range f.acked {
		if found[k] != b {
			lost++
		}
	}
	for k, b := range found {
		if f.acked[k] != b && f.unknown[k] != b {
			extra++
		}
	}
	if lost > 0 || extra > 0 {
		f.t.Fatalf("%s: %d of %d acknowledged writes are lost, %d keys are there that must not be", when, lost, len(f.acked), extra)
	}
}

// remove deletes some keys and compacts, which a full disk must not prevent.
func (f *filler) remove(conn *grpc.ClientConn, n int, when string) {
	f.t.Helper()
	kv := pb.NewKVClient(conn)
	revision := int64(0)
	for key := range f.acked {
		if n--; n < 0 {
			break
		}
		ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
		resp, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
		cancel()
		if err != nil || resp.Deleted != 1 {
			f.t.Fatalf("%s: delete %s: %v, %v", when, key, resp, err)
		}
		delete(f.acked, key)
		revision = resp.Header.Revision
	}
	if revision == 0 {
		return // little was written, and all of that removed before
	}
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	if _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: revision}); err != nil {
		f.t.Fatalf("%s: compact: %v", when, err)
	}
}

func raised(t *testing.T, conn *grpc.ClientConn) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	resp, err := pb.NewMaintenanceClient(conn).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	if err != nil {
		t.Fatalf("list alarms: %v", err)
	}
	for _, a := range resp.Alarms {
		if a.Alarm == pb.AlarmType_NOSPACE {
			return true
		}
	}
	return false
}

func disarm(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	if _, err := pb.NewMaintenanceClient(conn).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: memberID(t, conn)}); err != nil {
		t.Fatalf("disarm: %v", err)
	}
}

func memberID(t *testing.T, conn *grpc.ClientConn) uint64 {
	t.Helper()
	resp, err := pb.NewMaintenanceClient(conn).Status(context.Background(), &pb.StatusRequest{})
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	return resp.Header.MemberId
}

// fullDisks are the cases of a disk without room. With room for little, the log of
// one or two segments is what fills first; with much under way at once, the log's
// spare segment and the memory for writes that wait are taken by it.
var fullDisks = []struct {
	name           string
	value, writers int
	disk           string
	logHere        bool // the log is on the small disk
	storeHere      bool
	long           bool // only in the full run
}{
	{"log and store", 4 << 10, 8, smallDisk, true, true, false},
	{"log and store, much in flight", 1 << 20, 120, smallDisk, true, true, false},
	{"store, much in flight", 1 << 20, 120, smallDisk, false, true, true},
	{"log, room for one segment", 16 << 10, 8, "20m", true, false, false},
	{"log, much in flight", 1 << 20, 120, "20m", true, false, true},
}

// TestFullDisk ensures that a disk without room raises the alarm, costs no
// acknowledged write, stops no server, leaves reads, deletes, compaction, a kill, a
// restart and a stop possible, and is got over once there is room.
func TestFullDisk(t *testing.T) {
	bin := server(t)
	for _, c := range fullDisks {
		if c.long && !*full {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			mounted, elsewhere := t.TempDir(), t.TempDir()
			enlarge := smallDiskAt(t, mounted, c.disk)
			o := rig.Options{Bin: bin, Dir: filepath.Join(elsewhere, "data"), Addr: rig.FreeAddr(t)}
			if c.storeHere {
				o.Dir = filepath.Join(mounted, "data")
			}
			switch {
			case c.logHere && !c.storeHere:
				o.Flags = []string{"--wal-dir", filepath.Join(mounted, "wal")}
			case !c.logHere:
				o.Flags = []string{"--wal-dir", filepath.Join(elsewhere, "wal")}
			}
			f := &filler{t: t, value: c.value, writers: c.writers, acked: map[string]byte{}, unknown: map[string]byte{}}
			testFullDisk(t, f, o, c.storeHere && c.writers < 100, enlarge)
			counted.cases.Add(1)
			counted.writes.Add(int64(f.count))
			t.Logf("injected a disk of %s; seen: NOSPACE after %d acknowledged puts of %d bytes, %d without an answer; nothing lost", c.disk, f.count, c.value, len(f.unknown))
		})
	}
}

func testFullDisk(t *testing.T, f *filler, o rig.Options, deletes bool, enlarge func()) {
	srv := rig.Start(t, o)
	defer func() {
		if t.Failed() {
			counted.failed.Add(1)
			t.Logf("shim's log:\n%s", srv.Log())
		}
	}()
	conn := srv.Dial(t)
	defer func() { _ = conn.Close() }()
	f.fill(conn, 0)
	if !raised(t, conn) {
		t.Error("writes are refused, but the alarm is not raised")
	}
	f.verify(conn, "on the full disk")
	f.remove(conn, 8, "on the full disk")
	f.verify(conn, "on the full disk, after deletes")

	// The operator clears the alarm although nothing was done about the disk.
	disarm(t, conn)
	f.fill(conn, 1)
	f.verify(conn, "after a hasty disarm")
	f.remove(conn, 8, "after a hasty disarm")

	srv.Kill(t)
	srv = rig.Start(t, o)
	f.verify(conn, "after a kill on the full disk")
	f.remove(conn, 8, "after a kill on the full disk")

	endFull(t, srv)
	srv = rig.Start(t, o)
	f.verify(conn, "after a stop on the full disk")
	if deletes {
		// Without any help from outside: deletes and a compaction make room in the file,
		// once that has taken what was under way.
		f.remove(conn, len(f.acked)*3/4, "to make room")
		await(t, "room by deletes", func() bool {
			disarm(t, conn)
			return f.putLate(conn)
		})
		f.fill(conn, 2)
		f.verify(conn, "full again")
	}

	enlarge()
	await(t, "room is noticed", func() bool {
		disarm(t, conn)
		return f.putLate(conn)
	})
	f.verify(conn, "on the enlarged disk")
	srv.Terminate(t)
	srv = rig.Start(t, o)
	f.verify(conn, "after all")
	if raised(t, conn) {
		t.Error("the alarm is raised again though there is room")
	}
	srv.Terminate(t)
	check(t, o)
}

// endFull sends SIGTERM on a full disk. Where there is no room for what is to be
// written the stop cannot be clean, and must say why; nor must it take long.
func endFull(t *testing.T, srv *rig.Server) {
	t.Helper()
	err := srv.Stop(stepTimeout)
	log := srv.Log()
	if err == nil {
		return
	}
	if srv.ExitCode() <= 0 || !strings.Contains(log, "bytes free") && !strings.Contains(log, "no space left") {
		t.Fatalf("on a full disk shim ended with %v\n%s", err, log)
	}
}

// putLate tries a put that must succeed once there is room again.
func (f *filler) putLate(conn *grpc.ClientConn) bool {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("full/late"), Value: f.content('z')})
	if err != nil && !isNoSpace(err) {
		f.t.Fatalf("put on the enlarged disk: %v", err)
	}
	if err == nil {
		f.acked["full/late"] = 'z'
	}
	return err == nil
}

// await waits for what the server does by itself.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(fillTimeout); !holds(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v: not %s", fillTimeout, what)
		}
	}
}

// TestLogOnNearlyFullDisk ensures that a log whose disk has no room for another
// segment goes on for ever in those it has, as the store takes its entries over.
func TestLogOnNearlyFullDisk(t *testing.T) {
	bin := server(t)
	eachTime(t, bin, "room for two segments", func(x *trial) {
		mounted := t.TempDir()
		smallDiskAt(x, mounted, "40m")
		x.options.Flags = []string{"--wal-dir", filepath.Join(mounted, "wal")}
		x.start()
		x.startLoad()
		for range 4 {
			if err := x.bulk(); err != nil {
				x.Fatalf("put: %v", err)
			}
		}
		x.moreWrites(100)
		x.endLoad()
		conn := x.srv.Dial(x)
		defer func() { _ = conn.Close() }()
		if raised(t, conn) {
			x.Error("the alarm is raised")
		}
		x.Logf("seed %d: injected a disk of 40m for the log; seen: %d MiB written through it", x.seed, 4*bulkBytes>>20)
		x.verify()
		x.srv.Kill(x)
		x.mustHold()
	})
}

// copies are what needs room for a copy of the store.
var copies = []struct {
	name string
	run  func(*trial) error
}{
	{"snapshot", (*trial).snapshot},
	{"defragment", (*trial).defragment},
}

// TestCopyOnFullDisk ensures that a copy of the store for which there is no room is
// refused as etcd refuses for want of space, leaves nothing behind, and that the server
// goes on, writes included.
func TestCopyOnFullDisk(t *testing.T) {
	bin := server(t)
	for _, c := range copies {
		eachTime(t, bin, c.name, func(x *trial) {
			mounted := filepath.Dir(x.options.Dir)
			smallDiskAt(x, mounted, "400m")
			x.start()
			x.startLoad()
			for range 3 {
				if err := x.bulk(); err != nil {
					x.Fatal(err)
				}
			}
			ballast := filepath.Join(mounted, "ballast")
			leave(x, mounted, ballast, 50<<20)
			err := c.run(x)
			if !isNoSpace(err) {
				x.Errorf("refused with %v", err)
			}
			leftovers(x)
			x.moreWrites(200)
			if err := os.Remove(ballast); err != nil {
				x.Fatal(err)
			}
			if err := c.run(x); err != nil {
				x.Errorf("with room: %v", err)
			}
			x.endLoad()
			x.Logf("seed %d: injected a disk with 50 MiB left; seen: %v", x.seed, err)
			x.verify()
			x.srv.Kill(x)
			x.mustHold()
		})
	}
}

// leave fills a file until its file system has only so many bytes left.
func leave(x *trial, mounted, path string, bytes int64) {
	x.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(mounted, &st); err != nil {
		x.Fatal(err)
	}
	n := int64(st.Bavail)*st.Bsize - bytes
	if n < 0 {
		x.Fatalf("only %d bytes are left", int64(st.Bavail)*st.Bsize)
	}
	if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
		x.Fatal(err)
	}
}
