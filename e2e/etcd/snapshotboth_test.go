package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// restoredSides restores a snapshot by etcd's tool for etcd and by shim for shim, with the same
// flags, and starts both.
func restoredSides(t *testing.T, snapshot string, founding, serving []string) [2]*side {
	t.Helper()
	var sides [2]*side
	for i, name := range []string{"etcd", "shim"} {
		dir := filepath.Join(t.TempDir(), name)
		tool(t, []string{"etcdutl", "shim"}[i], slices.Concat([]string{"snapshot", "restore", snapshot, "--data-dir", dir}, founding)...)
		peers := fmt.Sprintf("http://127.0.0.1:%d,http://127.0.0.1:%d", process.Port(t), process.Port(t))
		s := process.Start(t, process.Binary(t, name), process.Port(t), dir, slices.Concat(founding, serving, []string{"--listen-peer-urls", peers})...)
		sides[i] = &side{name: name, server: s, dir: t.TempDir()}
	}
	for _, d := range sides {
		d.server.WaitReady(t)
	}
	return sides
}

// TestSnapshotCarries ensures that what a snapshot has beside keys is the same on etcd
// and on shim, of a snapshot of the one and of the other: that authentication is on, with
// passwords that still hold and permissions, alarms that still refuse, also of a member
// that is gone, leases, and the ids of cluster and member that come of name, token and
// several peer URLs.
func TestSnapshotCarries(t *testing.T) {
	serving := []string{"--bcrypt-cost", "4"}
	source := process.Etcd(t, serving...)
	populate(t, source)
	addUsers(t, source)
	call(t, source, raise(pb.AlarmType_NOSPACE).call)
	for _, words := range []string{"user add bob:pw", "role add writer", "role grant-permission writer readwrite w/ --prefix", "user grant-role bob writer", "user grant-role root root", "auth enable"} {
		tool(t, "etcdctl", append([]string{"--endpoints", source.Address}, strings.Fields(words)...)...)
	}
	dir := t.TempDir()
	first := filepath.Join(dir, "first.db")
	root := []string{"--user", "root:secret"}
	tool(t, "etcdctl", slices.Concat([]string{"--endpoints", source.Address, "snapshot", "save", first}, root)...)

	// Two URLs, not in etcd's order.
	founding := func(token string) []string {
		a, b := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t)), fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
		return []string{"--name", "other", "--initial-cluster-token", token, "--initial-advertise-peer-urls", b + "," + a, "--initial-cluster", "other=" + a + ",other=" + b}
	}
	script := func() []turn {
		return inOrder(
			run("member list"), run("member list -w json --user=root:secret"), run("member list -w table --user=root:secret"), run("auth status --user=root:secret").formats(everyFormat...),
			run("get key/ --prefix"), run("get key/ --prefix --user=bob:pw"), run("get w/ --prefix --user=bob:pw"), run("get key/ --prefix --user=bob:wrong"), run("get key/1 --user=alice:x"),
			run("get --prefix -w json --user=root:secret").with(""), run("get --prefix --rev=40 --user=root:secret -w fields").with(""), run("endpoint hashkv --user=root:secret"),
			run("user list --user=root:secret"), run("user get alice --user=root:secret"), run("role get reader --user=root:secret"), run("role get writer --user=root:secret"),
			run("lease list --user=root:secret"), run("lease timetolive 1234 --keys --user=root:secret", remaining).anyOrder(), run("lease timetolive 5678 --user=root:secret", remaining),
			run("alarm list --user=root:secret"), run("put w/1 x --user=bob:pw"), run("lease grant 100 --user=root:secret"), run("del key/2 --user=root:secret"),
			run("snapshot save refused.db"), run("snapshot save refused.db --user=bob:pw"),
			run("snapshot save own.db").by("shim"), run("snapshot save own.db --user=bob:pw").by("shim"), run("snapshot save own.db --user=root:wrong").by("shim"),
			run("snapshot save own.db --user=root:secret").by("shim"), run("snapshot save own.db --user=root --password=secret").by("shim"),
		)
	}
	after := inOrder(
		run("alarm disarm --user=root:secret"), run("put w/1 x --user=bob:pw"), run("put key/1 x --user=bob:pw"), run("put leased/c z --lease=1234 --user=root:secret"), run("lease revoke 1234 --user=root:secret"),
		run("user passwd bob --interactive=false --user=root:secret").in("new\n"), run("put w/1 y --user=bob:pw"), run("put w/1 y --user=bob:new"), run("compaction 60 --physical --user=root:secret"),
		run("get --prefix -w json --user=root:secret").with(""), run("endpoint hashkv --user=root:secret"),
	)
	sides := restoredSides(t, first, founding("one"), serving)
	follow(t, sides, script())
	// On both sides something is refused for want of space, or the alarm did not come along.
	if o, err := sides[1].run(t, run("put w/1 x --user=bob:pw")); err != nil || !strings.Contains(o.stderr, "space exceeded") {
		t.Errorf("put: %+v, %v", o, err)
	}
	second := filepath.Join(dir, "second.db")
	tool(t, "etcdctl", slices.Concat([]string{"--endpoints", sides[1].server.Address, "snapshot", "save", second}, root)...)
	follow(t, sides, after)

	sides = restoredSides(t, second, founding("two"), serving)
	follow(t, sides, script())
	follow(t, sides, after)
}

// TestSnapshotWhileWriting ensures that a snapshot which is saved while keys are written
// and the store is defragmented is one revision of it, which etcd's tool takes for sound:
// each write makes a revision and a key.
func TestSnapshotWhileWriting(t *testing.T) {
	s := process.Shim(t)
	ctx, stop := context.WithCancel(t.Context())
	side := &side{server: s}
	written := make(chan error, 2)
	go func() {
		written <- side.dial(ctx, func(ctx context.Context, c *grpc.ClientConn) error {
			for i := 0; ; i++ {
				if _, err := pb.NewKVClient(c).Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "key-%06d", i), Value: make([]byte, 2000)}); err != nil {
					return err
				}
			}
		})
	}()
	go func() {
		written <- side.dial(ctx, func(ctx context.Context, c *grpc.ClientConn) error {
			for {
				if _, err := pb.NewMaintenanceClient(c).Defragment(ctx, &pb.DefragmentRequest{}); err != nil {
					return err
				}
			}
		})
	}()
	for current(t, s) < 20 { // it is writing
	}
	last := int64(0)
	for i := range 6 {
		before := current(t, s)
		path := filepath.Join(t.TempDir(), "saved.db")
		tool(t, []string{"etcdctl", "shim"}[i%2], "snapshot", "save", "--endpoints", s.Address, path)
		for _, name := range []string{"etcdutl", "shim"} {
			o := ran(t, name, "snapshot", "status", path, "-w", "json")
			var saved struct{ Revision, TotalKey int64 }
			if err := json.Unmarshal([]byte(o.stdout), &saved); err != nil {
				t.Fatalf("%s: %v: %+v", name, err, o)
			}
			if saved.TotalKey != saved.Revision-1 || saved.Revision < before || saved.Revision < last {
				t.Errorf("%s: snapshot %d has revision %d with %d keys; before it the revision was %d", name, i, saved.Revision, saved.TotalKey, before)
			}
			last = saved.Revision
		}
	}
	after := current(t, s)
	stop()
	for range 2 {
		if err := <-written; status.Code(err) != codes.Canceled {
			t.Errorf("ended early: %v", err)
		}
	}
	if last < 100 || after <= last {
		t.Errorf("the last snapshot has revision %d, then it was %d: too little was written meanwhile", last, after)
	}
	t.Logf("last snapshot at revision %d, %d at the end", last, after)
}

// TestSnapshotFlags ensures that shim's snapshot commands have the flags of etcdutl's.
func TestSnapshotFlags(t *testing.T) {
	needless := map[string][]string{
		// How long to wait for a file that another process has locked: shim gives up after a second.
		"status": {"--timeout"},
		// Of a restore etcdutl prints nothing, in any form.
		"restore": {"--timeout", "--write-out"},
	}
	for _, command := range []string{"status", "restore"} {
		flags := toolFlags(t, "etcdutl", "snapshot "+command)
		help := ran(t, "shim", "snapshot", command, "--help").stdout
		for _, f := range flags {
			if !strings.Contains(help, f+" ") && !slices.Contains(needless[command], f) {
				t.Errorf("shim snapshot %s has no %s:\n%s", command, f, help)
			}
		}
		if want := map[string]int{"status": 1, "restore": 10}[command]; len(flags) < want {
			t.Errorf("etcdutl snapshot %s: flags %v", command, flags)
		}
	}
}
