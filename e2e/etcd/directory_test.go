package etcd

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// refuseTimeout bounds how long a server may take to refuse a directory.
const refuseTimeout = 30 * time.Second

// fill writes keys, some of them twice, and deletes one.
func fill(t *testing.T, s *process.Server) {
	t.Helper()
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		kv := pb.NewKVClient(c)
		for i := range 60 {
			if _, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "key/%d", i%40), Value: fmt.Appendf(nil, "value %d", i)}); err != nil {
				return err
			}
		}
		_, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("key/7")})
		return err
	})
}

func call(t *testing.T, s *process.Server, do func(context.Context, *grpc.ClientConn) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	if err := (&side{server: s}).dial(ctx, do); err != nil {
		t.Fatal(err)
	}
}

// hashKV returns revision and hash of all keys and revisions.
func hashKV(t *testing.T, s *process.Server) (hash string) {
	t.Helper()
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		r, err := pb.NewMaintenanceClient(c).HashKV(ctx, &pb.HashKVRequest{})
		hash = fmt.Sprintf("%d at revision %d", r.GetHash(), r.GetHeader().GetRevision())
		return err
	})
	return hash
}

// picture is what lies in the directories: per path its mode, time of change and content.
func picture(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			seen[path] = fmt.Sprint(info.Mode(), info.ModTime().UnixNano())
			if e.IsDir() {
				return nil
			}
			content, err := os.ReadFile(path)
			seen[path] += fmt.Sprintf(" %x", sha256.Sum256(content))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return seen
}

// refused waits for the end of a server that must not serve, and checks what it says.
func refused(t *testing.T, s *process.Server, words ...string) {
	t.Helper()
	select {
	case <-s.Exited():
	case <-time.After(refuseTimeout):
		t.Fatalf("still running after %s:\n%s", refuseTimeout, s.Output())
	}
	if s.ExitCode() <= 0 {
		t.Errorf("exit code %d, want one above 0", s.ExitCode())
	}
	for _, w := range words {
		if !strings.Contains(s.Output(), w) {
			t.Errorf("output lacks %q:\n%s", w, s.Output())
		}
	}
}

// TestDirectoryOfEtcd ensures that shim, started on what etcd wrote, stops with
// the commands that take the data over, and leaves every file as it is: also
// where the log lies elsewhere, and where only the log or only the store is etcd's.
func TestDirectoryOfEtcd(t *testing.T) {
	wal := filepath.Join(t.TempDir(), "wal")
	plain, split := process.Etcd(t), process.Etcd(t, "--wal-dir", wal)
	fill(t, plain)
	fill(t, split)
	plain.Stop()
	split.Stop()
	for _, c := range []struct {
		name    string
		dataDir string
		flags   []string
	}{
		{"whole", plain.DataDir, nil},
		{"log elsewhere", split.DataDir, []string{"--wal-dir", wal}},
		{"store alone", split.DataDir, nil},
		{"log alone", t.TempDir(), []string{"--wal-dir", wal}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := picture(t, c.dataDir, wal)
			shim := process.Start(t, process.Binary(t, "shim"), process.Port(t), c.dataDir, c.flags...)
			refused(t, shim, "etcdctl --endpoints", "snapshot save", "shim snapshot restore", "Nothing was changed")
			if shim.ExitCode() != 1 {
				t.Errorf("exit code %d, want 1", shim.ExitCode())
			}
			if after := picture(t, c.dataDir, wal); !maps.Equal(before, after) {
				t.Errorf("the directory changed:\nbefore %v\nafter  %v", before, after)
			}
		})
	}
}

// TestDirectoryOfShim ensures that etcd, started on what shim wrote, stops with
// an error, before and after shim's clean stop, changes no file of the log and no record
// of the store, and that shim starts on it afterwards with the same keys and revisions.
func TestDirectoryOfShim(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*process.Server)
	}{
		{"after a clean stop", (*process.Server).Stop},
		{"after a kill", (*process.Server).Kill},
	} {
		t.Run(c.name, func(t *testing.T) {
			peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
			flags := []string{
				"--name", "default", "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
			}
			shim := process.Shim(t, flags...)
			fill(t, shim)
			want := hashKV(t, shim)
			c.end(shim)
			log := filepath.Join(shim.DataDir, "member", "wal")
			before := picture(t, log)
			// A hash over every record of every bucket, and how many revisions and keys there are.
			records := []string{"snapshot", "status", filepath.Join(shim.DataDir, "member", "snap", "db"), "-w", "json"}
			recordsBefore := ran(t, "shim", records...)
			if recordsBefore.exit != 0 {
				t.Fatalf("status: %+v", recordsBefore)
			}

			etcd := process.Start(t, process.Binary(t, "etcd"), process.Port(t), shim.DataDir, flags...)
			refused(t, etcd, "wal")
			if after := picture(t, log); !maps.Equal(before, after) {
				t.Errorf("etcd changed the log:\nbefore %v\nafter  %v", before, after)
			}
			if after := ran(t, "shim", records...); after != recordsBefore {
				t.Errorf("etcd changed the store: %+v, was %+v", after, recordsBefore)
			}
			sound(t, shim.DataDir)

			again := process.Start(t, process.Binary(t, "shim"), process.Port(t), shim.DataDir, flags...)
			again.WaitReady(t)
			if got := hashKV(t, again); got != want {
				t.Errorf("hash %s, want %s as before etcd looked at it", got, want)
			}
		})
	}
}

// TestDirectoryDefragmentedByEtcd ensures that shim, started on a store that etcd's tool
// defragmented while shim stood still, says so and what to do, and that doing it brings
// everything back.
func TestDirectoryDefragmentedByEtcd(t *testing.T) {
	shim := process.Shim(t)
	populate(t, shim)
	want := content(t, shim, 31)
	shim.Stop()
	tool(t, "etcdutl", "defrag", "--data-dir", shim.DataDir)
	before := picture(t, shim.DataDir)
	again := process.Start(t, process.Binary(t, "shim"), process.Port(t), shim.DataDir)
	store := filepath.Join(shim.DataDir, "member", "snap", "db")
	refused(t, again, "etcdutl defrag", "shim snapshot restore "+store+" --skip-hash-check --data-dir NEW-DIRECTORY")
	if after := picture(t, shim.DataDir); !maps.Equal(before, after) {
		t.Errorf("the directory changed:\nbefore %v\nafter  %v", before, after)
	}
	if o := ran(t, "shim", "check", shim.DataDir); o.exit == 0 || !strings.Contains(o.stdout, "etcdutl defrag") {
		t.Errorf("check: %+v", o)
	}
	restored := filepath.Join(t.TempDir(), "restored")
	tool(t, "shim", "snapshot", "restore", store, "--skip-hash-check", "--data-dir", restored)
	equalContent(t, "restored", content(t, startShim(t, restored), 31), want)
}

// TestDirectoryInUse ensures that a second shim stops at once, and that the
// first goes on.
func TestDirectoryInUse(t *testing.T) {
	first := process.Shim(t)
	fill(t, first)
	want := hashKV(t, first)
	second := process.Start(t, process.Binary(t, "shim"), process.Port(t), first.DataDir)
	refused(t, second, "another process holds", "shim.lock")
	if got := hashKV(t, first); got != want {
		t.Errorf("hash %s, want %s as before the second came", got, want)
	}
	fill(t, first)
}

// TestDirectoryAfterSignal ensures that SIGTERM and SIGINT end shim with exit
// code 0 while a client watches, and that all is there at the next start.
func TestDirectoryAfterSignal(t *testing.T) {
	dir, want := t.TempDir(), ""
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			s := process.Start(t, process.Binary(t, "shim"), process.Port(t), dir)
			s.WaitReady(t)
			if got := hashKV(t, s); want != "" && got != want {
				t.Errorf("hash %s, want %s as before the stop", got, want)
			}
			fill(t, s)
			want = hashKV(t, s)
			call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
				w, err := pb.NewWatchClient(c).Watch(ctx)
				if err != nil {
					return err
				}
				create := &pb.WatchCreateRequest{Key: []byte("key/1")}
				if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
					return err
				}
				if _, err := w.Recv(); err != nil {
					return err
				}
				if err := syscall.Kill(s.PID(), signal); err != nil {
					return err
				}
				if r, err := w.Recv(); err == nil {
					return fmt.Errorf("the watch goes on with %v", r)
				}
				return nil
			})
			select {
			case <-s.Exited():
			case <-time.After(refuseTimeout):
				t.Fatalf("still running %s after %s", refuseTimeout, signal)
			}
			if s.ExitCode() != 0 {
				t.Errorf("exit code %d, want 0:\n%s", s.ExitCode(), s.Output())
			}
		})
	}
}

// TestDirectoryAfterSecondSignal ensures that a second signal ends a stop that
// waits for a client, at once and with an exit code above 0, and that nothing
// acknowledged is lost by it.
func TestDirectoryAfterSecondSignal(t *testing.T) {
	dir := t.TempDir()
	s := process.Start(t, process.Binary(t, "shim"), process.Port(t), dir)
	s.WaitReady(t)
	fill(t, s)
	value := make([]byte, 1<<20)
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		kv := pb.NewKVClient(c)
		for i := range 8 {
			if _, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "big/%d", i), Value: value}); err != nil {
				return err
			}
		}
		return nil
	})
	want := hashKV(t, s)
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		// A client that takes one message of many holds the stop up.
		all, err := pb.NewKVClient(c).RangeStream(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err != nil {
			return err
		}
		if _, err := all.Recv(); err != nil {
			return err
		}
		if err := syscall.Kill(s.PID(), syscall.SIGTERM); err != nil {
			return err
		}
		awaitOutput(t, s, "received signal")
		if err := syscall.Kill(s.PID(), syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case <-s.Exited(): // while the client still holds the stream
		case <-ctx.Done():
		}
		return nil
	})
	refused(t, s, "second signal")
	again := process.Start(t, process.Binary(t, "shim"), process.Port(t), dir)
	again.WaitReady(t)
	if got := hashKV(t, again); got != want {
		t.Errorf("hash %s, want %s as before the stop", got, want)
	}
}

// awaitOutput returns when the server has written the words.
func awaitOutput(t *testing.T, s *process.Server, words string) {
	t.Helper()
	deadline := time.After(refuseTimeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(s.Output(), words) {
		select {
		case <-s.Exited():
			t.Fatalf("ended without %q:\n%s", words, s.Output())
		case <-deadline:
			t.Fatalf("%q did not come:\n%s", words, s.Output())
		case <-tick.C:
		}
	}
}

// TestDirectoryRestoredByEtcd ensures that etcd serves the same keys, revisions
// and leases from a snapshot of shim, and from the store of a stopped shim, once etcd's
// own tool has restored it.
func TestDirectoryRestoredByEtcd(t *testing.T) {
	shim := process.Shim(t)
	fill(t, shim)
	call(t, shim, func(ctx context.Context, c *grpc.ClientConn) error {
		if _, err := pb.NewLeaseClient(c).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 0x1234, TTL: 1000}); err != nil {
			return err
		}
		kv := pb.NewKVClient(c)
		if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("leased"), Value: []byte("x"), Lease: 0x1234}); err != nil {
			return err
		}
		_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 30, Physical: true})
		return err
	})
	want := hashKV(t, shim)
	dir := t.TempDir()
	saved := filepath.Join(dir, "saved.db")
	tool(t, "etcdctl", "--endpoints", shim.Address, "snapshot", "save", saved)
	shim.Stop()
	for _, c := range []struct {
		name string
		args []string
	}{
		{"snapshot", []string{saved}},
		{"store", []string{filepath.Join(shim.DataDir, "member", "snap", "db"), "--skip-hash-check"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
			founding := []string{"--name", "default", "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer}
			restored := filepath.Join(dir, c.name)
			tool(t, "etcdutl", append(append([]string{"snapshot", "restore", "--data-dir", restored}, founding...), c.args...)...)
			etcd := process.Start(t, process.Binary(t, "etcd"), process.Port(t), restored, append(founding, "--listen-peer-urls", peer)...)
			etcd.WaitReady(t)
			if got := hashKV(t, etcd); got != want {
				t.Errorf("hash %s, want %s as on shim", got, want)
			}
			call(t, etcd, func(ctx context.Context, c *grpc.ClientConn) error {
				r, err := pb.NewLeaseClient(c).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 0x1234, Keys: true})
				if err == nil && (r.GrantedTTL != 1000 || len(r.Keys) != 1 || string(r.Keys[0]) != "leased") {
					t.Errorf("the lease is %v", r)
				}
				return err
			})
		})
	}
}

// tool runs etcdctl or etcdutl, which must succeed.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(process.Binary(t, name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
