package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// ran runs a tool to its end.
func ran(t *testing.T, name string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	o, err := runToEnd(exec.CommandContext(ctx, process.Binary(t, name), args...), "")
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return o
}

// populate writes what a snapshot must carry: keys with history, deletions, a
// compaction, leases with and without keys, users and roles.
func populate(t *testing.T, s *process.Server) {
	t.Helper()
	fill(t, s)
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		kv, leases := pb.NewKVClient(c), pb.NewLeaseClient(c)
		for id, ttl := range map[int64]int64{0x1234: 1000, 0x5678: 5000} {
			if _, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl}); err != nil {
				return err
			}
		}
		for _, r := range []*pb.PutRequest{
			{Key: []byte("leased/a"), Value: []byte("x"), Lease: 0x1234}, {Key: []byte("leased/b"), Lease: 0x1234},
			{Key: []byte{0}, Value: []byte{0, 255}}, {Key: []byte{255}}, {Key: []byte("big"), Value: bytes.Repeat([]byte("b"), 100_000)},
		} {
			if _, err := kv.Put(ctx, r); err != nil {
				return err
			}
		}
		if _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 30, Physical: true}); err != nil {
			return err
		}
		_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("key/1"), RangeEnd: []byte("key/2")}}},
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("other"), Value: []byte("1")}}},
		}})
		return err
	})
}

// content is all that clients can ask for: every key with its revisions, leases
// with their keys, the hash of the history, and every event from a revision on.
func content(t *testing.T, s *process.Server, from int64) (text string) {
	t.Helper()
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		all, err := pb.NewKVClient(c).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err != nil {
			return err
		}
		text = fmt.Sprintf("revision %d, %d keys\n", all.Header.Revision, all.Count)
		for _, kv := range all.Kvs {
			text += record(kv) + "\n"
		}
		hash, err := pb.NewMaintenanceClient(c).HashKV(ctx, &pb.HashKVRequest{})
		if err != nil {
			return err
		}
		at := hash.HashRevision
		if at == 0 {
			at = hash.Header.Revision // etcd 3.5 does not tell it
		}
		text += fmt.Sprintf("hash %d at %d, compacted at %d\n", hash.Hash, at, hash.CompactRevision)
		leases, err := pb.NewLeaseClient(c).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
		if err != nil {
			return err
		}
		var ids []int64
		for _, l := range leases.Leases {
			ids = append(ids, l.ID)
		}
		slices.Sort(ids)
		for _, id := range ids {
			l, err := pb.NewLeaseClient(c).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
			if err != nil {
				return err
			}
			slices.SortFunc(l.Keys, bytes.Compare)
			text += fmt.Sprintf("lease %x of %d s: %q\n", l.ID, l.GrantedTTL, l.Keys)
		}
		events, err := watched(ctx, c, from, all.Header.Revision)
		text += events
		return err
	})
	return text
}

// record is all of a key-value, on a line; of a large value its length.
func record(kv *mvccpb.KeyValue) string {
	value := fmt.Sprintf("%q", kv.GetValue())
	if len(kv.GetValue()) > 100 {
		value = fmt.Sprint(len(kv.Value), " bytes")
	}
	return fmt.Sprintf("%q %d %d %d %x %s", kv.GetKey(), kv.GetCreateRevision(), kv.GetModRevision(), kv.GetVersion(), kv.GetLease(), value)
}

// watched is what a watch of everything from a revision on tells, up to another one.
func watched(ctx context.Context, c *grpc.ClientConn, from, to int64) (text string, err error) {
	w, err := pb.NewWatchClient(c).Watch(ctx)
	if err != nil {
		return "", err
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from, PrevKv: true}
	if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return "", err
	}
	for last := int64(0); last < to; {
		r, err := w.Recv()
		if err != nil {
			return text, err
		}
		if r.Canceled {
			return text + fmt.Sprintf("canceled, compacted at %d\n", r.CompactRevision), nil
		}
		for _, e := range r.Events {
			last = e.Kv.ModRevision
			text += fmt.Sprintf("%s %s before %s\n", e.Type, record(e.Kv), record(e.PrevKv))
		}
	}
	return text, nil
}

// equalContent compares two servers.
func equalContent(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				t.Errorf("%s: line %d:\ngot  %.300s\nwant %.300s", what, i, g[i], w[i])
				return
			}
		}
		t.Errorf("%s: %d lines, want %d", what, len(g), len(w))
	}
}

// startShim starts shim on a restored directory.
func startShim(t *testing.T, dir string, flags ...string) *process.Server {
	t.Helper()
	s := process.Start(t, process.Binary(t, "shim"), process.Port(t), dir, flags...)
	s.WaitReady(t)
	return s
}

// startRestoredEtcd restores a snapshot with etcd's tool, and starts etcd on it.
func startRestoredEtcd(t *testing.T, snapshot string, flags ...string) *process.Server {
	t.Helper()
	peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
	founding := []string{"--name", "default", "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer}
	dir := filepath.Join(t.TempDir(), "etcd")
	tool(t, "etcdutl", slices.Concat([]string{"snapshot", "restore", snapshot, "--data-dir", dir}, founding, flags)...)
	s := process.Start(t, process.Binary(t, "etcd"), process.Port(t), dir, append(founding, "--listen-peer-urls", peer)...)
	s.WaitReady(t)
	return s
}

// TestSnapshotStatus ensures that shim tells of a snapshot, of etcd's and of its own,
// what etcd's tool tells, in every format.
func TestSnapshotStatus(t *testing.T) {
	dir := t.TempDir()
	for name, s := range map[string]*process.Server{"etcd": process.Etcd(t), "shim": process.Shim(t)} {
		for _, step := range []struct {
			name string
			do   func()
		}{{"empty", func() {}}, {"populated", func() { populate(t, s) }}} {
			step.do()
			path := filepath.Join(dir, name+"-"+step.name)
			tool(t, "etcdctl", "--endpoints", s.Address, "snapshot", "save", path)
			for _, args := range [][]string{nil, {"-w", "simple"}, {"-w", "json"}, {"-w", "fields"}, {"-w", "table"}, {"--write-out=json"}} {
				args = append([]string{"snapshot", "status", path}, args...)
				want, got := ran(t, "etcdutl", args...), ran(t, "shim", args...)
				if got.stdout != want.stdout || got.exit != 0 || want.exit != 0 {
					t.Errorf("%s %q:\netcdutl: exit %d\n%s%s\nshim: exit %d\n%s%s", name, args,
						want.exit, want.stdout, want.stderr, got.exit, got.stdout, got.stderr)
				}
			}
		}
	}
}

// TestSnapshotSizes ensures that sizes are told as by etcd's tool, below and above the
// places where their form changes.
func TestSnapshotSizes(t *testing.T) {
	s := process.Shim(t)
	dir := t.TempDir()
	for i, size := range []int{20_000, 300_000, 500_000, 400_000, 1_000_000, 1_300_000} {
		call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, size)})
			return err
		})
		path := filepath.Join(dir, fmt.Sprint(i))
		tool(t, "shim", "snapshot", "save", "--endpoints", s.Address, path)
		for _, format := range []string{"simple", "table"} {
			args := []string{"snapshot", "status", path, "-w", format}
			if got, want := ran(t, "shim", args...), ran(t, "etcdutl", args...); got.stdout != want.stdout || got.stdout == "" {
				t.Errorf("got\n%s\nwant\n%s", got.stdout, want.stdout)
			}
		}
	}
}

// TestSnapshotSave ensures that shim saves a snapshot of etcd's and of its own, that
// etcd's tool takes it, that nothing else is left behind, and what is refused.
func TestSnapshotSave(t *testing.T) {
	for name, s := range map[string]*process.Server{"etcd": process.Etcd(t), "shim": process.Shim(t)} {
		t.Run(name, func(t *testing.T) {
			populate(t, s)
			want := content(t, s, 31)
			dir := t.TempDir()
			path := filepath.Join(dir, "saved.db")
			o := ran(t, "shim", "snapshot", "save", path, "--endpoints", s.Address)
			if o.exit != 0 || !strings.HasPrefix(o.stdout, "Snapshot saved at "+path+"\nServer version 3.7.0\n") || o.stderr != "" {
				t.Fatalf("exit %d\n%s%s", o.exit, o.stdout, o.stderr)
			}
			if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
				t.Errorf("files %v, %v", files, err)
			}
			equalContent(t, "etcd on it", content(t, startRestoredEtcd(t, path), 31), want)
		})
	}
	dir := t.TempDir()
	nobody := fmt.Sprintf("127.0.0.1:%d", process.Port(t))
	for _, c := range []struct {
		name, path, endpoints, want string
	}{
		{"nobody there", filepath.Join(dir, "x"), nobody, "no answer from"},
		{"several", filepath.Join(dir, "x"), nobody + "," + nobody, "one selected node"},
		{"no directory", filepath.Join(dir, "none", "x"), nobody, "could not open"},
	} {
		o := ran(t, "shim", "snapshot", "save", c.path, "--endpoints", c.endpoints)
		if o.exit == 0 || !strings.Contains(o.stderr, c.want) {
			t.Errorf("%s: exit %d, %q", c.name, o.exit, o.stderr)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
			t.Errorf("%s: files %v, %v", c.name, files, err)
		}
	}
}

// addUsers makes users and roles.
func addUsers(t *testing.T, s *process.Server) {
	t.Helper()
	for _, args := range [][]string{
		{"user", "add", "root:secret"}, {"user", "add", "alice", "--no-password"}, {"role", "add", "reader"},
		{"role", "grant-permission", "reader", "read", "key/", "key0"}, {"user", "grant-role", "alice", "reader"},
	} {
		tool(t, "etcdctl", append([]string{"--endpoints", s.Address}, args...)...)
	}
}

// users are the answers about users and roles.
func users(t *testing.T, s *process.Server) string {
	t.Helper()
	text := ""
	for _, args := range [][]string{{"user", "list"}, {"user", "get", "alice"}, {"role", "list"}, {"role", "get", "reader"}} {
		o := ran(t, "etcdctl", append([]string{"--endpoints", s.Address}, args...)...)
		text += fmt.Sprintf("%q: exit %d\n%s%s", args, o.exit, o.stdout, o.stderr)
	}
	return text
}

// TestSnapshotRestore ensures that shim serves what etcd served, from its snapshot
// and from the store of a stopped etcd: the same keys, revisions, leases, hash and
// events, goes on from there, and that users and roles come through to etcd again.
func TestSnapshotRestore(t *testing.T) {
	etcd := process.Etcd(t)
	populate(t, etcd)
	addUsers(t, etcd)
	want, wantUsers := content(t, etcd, 31), users(t, etcd)
	if !strings.Contains(wantUsers, "alice") {
		t.Fatalf("users:\n%s", wantUsers)
	}
	dir := t.TempDir()
	saved := filepath.Join(dir, "saved.db")
	tool(t, "etcdctl", "--endpoints", etcd.Address, "snapshot", "save", saved)
	etcd.Stop()
	for _, c := range []struct {
		name string
		args []string
	}{
		{"snapshot", []string{saved}},
		{"store", []string{"--skip-hash-check", filepath.Join(etcd.DataDir, "member", "snap", "db")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			restored := filepath.Join(dir, c.name)
			o := ran(t, "shim", append([]string{"snapshot", "restore", "--data-dir", restored}, c.args...)...)
			if o.exit != 0 || !strings.HasPrefix(o.stdout, "Restored ") || strings.Contains(o.stderr, "%") {
				t.Fatalf("exit %d\n%s%s", o.exit, o.stdout, o.stderr)
			}
			sound(t, restored)
			shim := startShim(t, restored)
			equalContent(t, "shim", content(t, shim, 31), want)
			if got := users(t, shim); got != wantUsers {
				t.Errorf("users of shim\n%s\nwant\n%s", got, wantUsers)
			}
			back := filepath.Join(dir, c.name+"-back.db")
			tool(t, "etcdctl", "--endpoints", shim.Address, "snapshot", "save", back)
			again := startRestoredEtcd(t, back)
			equalContent(t, "etcd again", content(t, again, 31), want)
			if got := users(t, again); got != wantUsers {
				t.Errorf("users\n%s\nwant\n%s", got, wantUsers)
			}
			// Both go on alike, and a restart of shim changes nothing.
			fill(t, shim)
			fill(t, again)
			after := content(t, again, 31)
			equalContent(t, "shim, later", content(t, shim, 31), after)
			shim.Stop()
			sound(t, restored)
			equalContent(t, "shim, restarted", content(t, startShim(t, restored), 31), after)
		})
	}
}

// sound makes sure that shim check finds nothing.
func sound(t *testing.T, dir string) {
	t.Helper()
	if o := ran(t, "shim", "check", dir); o.exit != 0 {
		t.Errorf("shim check: exit %d\n%s%s", o.exit, o.stdout, o.stderr)
	}
}

// TestSnapshotBump ensures that a raised revision answers as on etcd: everything
// below is compacted, to reads, watches and hashes, and the next write comes after it;
// also in the snapshot of the one, restored by the other.
func TestSnapshotBump(t *testing.T) {
	etcd := process.Etcd(t)
	populate(t, etcd)
	dir := t.TempDir()
	saved := filepath.Join(dir, "saved.db")
	tool(t, "etcdctl", "--endpoints", etcd.Address, "snapshot", "save", saved)
	bump := []string{"--bump-revision", "1000", "--mark-compacted"}
	want := startRestoredEtcd(t, saved, bump...)
	first := filepath.Join(dir, "first")
	tool(t, "shim", slices.Concat([]string{"snapshot", "restore", saved, "--data-dir", first}, bump)...)
	sound(t, first)
	got := startShim(t, first)
	same := func(what string, a, b *process.Server, more ...int64) {
		t.Helper()
		for _, from := range append([]int64{1, 31, 60, 1000}, more...) {
			equalContent(t, fmt.Sprintf("%s, from %d", what, from), content(t, a, from), content(t, b, from))
		}
		for _, revision := range []int64{1, 50, 1000} {
			if x, y := rangeAt(t, a, revision), rangeAt(t, b, revision); x != y || x == "" {
				t.Errorf("%s, at %d: %q, want %q", what, revision, x, y)
			}
		}
	}
	same("restored", got, want)
	raised := current(t, got)
	fill(t, got)
	fill(t, want)
	same("written to", got, want, raised, raised+1)

	// A second raise, of each other's snapshots, and a compaction above it.
	ofShim, ofEtcd := filepath.Join(dir, "of-shim.db"), filepath.Join(dir, "of-etcd.db")
	tool(t, "etcdctl", "--endpoints", got.Address, "snapshot", "save", ofShim)
	tool(t, "etcdctl", "--endpoints", want.Address, "snapshot", "save", ofEtcd)
	want = startRestoredEtcd(t, ofShim, bump...)
	second := filepath.Join(dir, "second")
	tool(t, "shim", slices.Concat([]string{"snapshot", "restore", ofEtcd, "--data-dir", second}, bump)...)
	got = startShim(t, second)
	above := current(t, got) + 20
	for _, s := range []*process.Server{got, want} {
		fill(t, s)
		call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Compact(ctx, &pb.CompactionRequest{Revision: above, Physical: true})
			return err
		})
	}
	same("raised twice", got, want, above)
	got.Stop()
	sound(t, second)
	same("restarted", startShim(t, second), want, above)
}

// current is the revision that the server is at.
func current(t *testing.T, s *process.Server) (revision int64) {
	t.Helper()
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		r, err := pb.NewKVClient(c).Range(ctx, &pb.RangeRequest{Key: []byte("none")})
		revision = r.GetHeader().GetRevision()
		return err
	})
	return revision
}

// rangeAt is the answer of a read at a revision, or its error.
func rangeAt(t *testing.T, s *process.Server, revision int64) (text string) {
	t.Helper()
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		r, err := pb.NewKVClient(c).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision})
		if err != nil {
			text = status.Convert(err).String()
			return nil
		}
		text = fmt.Sprint(r.Count, " keys")
		return nil
	})
	return text
}

// TestSnapshotRefused ensures that what is no sound snapshot, and what would write
// over something, is refused with a reason, by shim where etcd's tool refuses it, and
// that nothing is left behind.
func TestSnapshotRefused(t *testing.T) {
	s := process.Etcd(t)
	populate(t, s)
	dir := t.TempDir()
	saved := filepath.Join(dir, "saved.db")
	tool(t, "etcdctl", "--endpoints", s.Address, "snapshot", "save", saved)
	whole, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	variant := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	zeroed := bytes.Clone(whole[:len(whole)-32])
	clear(zeroed[8192 : len(zeroed)/2])
	used := filepath.Join(dir, "used")
	if err := os.MkdirAll(filepath.Join(used, "something"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("not a database\n"), 2000)
	free := filepath.Join(dir, "free")
	for _, c := range []struct {
		name, file string
		flags      []string
		want       string
		// lenient: etcd's tool takes it, or ends with a panic.
		lenient bool
	}{
		{name: "missing", file: filepath.Join(dir, "none"), want: "no such file"},
		{name: "empty", file: variant("empty", nil), want: "is empty"},
		{name: "cut off", file: variant("cut", whole[:len(whole)/2]), want: "snapshot missing hash"},
		{name: "cut off between pages, with something like a hash", file: variant("cut-hash", whole[:8192*4+32]), want: "expected sha256"},
		{name: "a flipped bit", file: variant("flipped", flipped), want: "expected sha256"},
		{name: "no checksum", file: variant("bare", whole[:len(whole)-32]), want: "--skip-hash-check=false"},
		{name: "text", file: variant("text", text), want: "snapshot missing hash"},
		{name: "text, not checked", file: variant("text", text), flags: []string{"--skip-hash-check"}, want: "not a bbolt file", lenient: true},
		{name: "empty, not checked", file: variant("empty", nil), flags: []string{"--skip-hash-check"}, want: "is empty"},
		{name: "cut off, not checked", file: variant("cut", whole[:len(whole)/2]), flags: []string{"--skip-hash-check"}, want: "cut off", lenient: true},
		{name: "pages zeroed, not checked", file: variant("zeroed", zeroed), flags: []string{"--skip-hash-check"}, want: "not a sound snapshot", lenient: true},
		{name: "a directory", file: used, want: "is not a file"},
		{name: "directory in use", file: saved, flags: []string{"--data-dir", used}, want: "not empty"},
		{name: "log directory in use", file: saved, flags: []string{"--wal-dir", used}, want: "exists"},
		{name: "several members", file: saved, flags: []string{"--initial-cluster", "default=http://localhost:2380,b=http://localhost:2381"}, want: "this build restores one", lenient: true},
		{name: "another name", file: saved, flags: []string{"--name", "other"}, want: `couldn't find local name "other"`},
		{name: "other peer URLs", file: saved, flags: []string{"--initial-advertise-peer-urls", "http://localhost:2390"}, want: "--initial-cluster has"},
		{name: "bump without mark", file: saved, flags: []string{"--bump-revision", "5"}, want: "--mark-compacted"},
		{name: "mark without bump", file: saved, flags: []string{"--mark-compacted"}, want: "--bump-revision"},
		{name: "bump beyond all", file: saved, flags: []string{"--bump-revision", "9223372036854775807", "--mark-compacted"}, want: "cannot be raised so far", lenient: true},
		{name: "unknown flag", file: saved, flags: []string{"--no-such"}, want: "no-such"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := slices.Concat([]string{"snapshot", "restore", c.file, "--data-dir", free}, c.flags)
			before := picture(t, used)
			o := ran(t, "shim", args...)
			if o.exit == 0 || !strings.Contains(o.stderr, c.want) || strings.Contains(o.stderr, "panic") {
				t.Errorf("exit %d, stderr %s", o.exit, o.stderr)
			}
			if _, err := os.Stat(free); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left behind: %v", err)
			}
			if after := picture(t, used); fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("%v became %v", before, after)
			}
			if c.lenient {
				return
			}
			if o := ran(t, "etcdutl", args...); o.exit == 0 {
				t.Error("etcdutl takes it")
			}
			if err := os.RemoveAll(free); err != nil {
				t.Fatal(err)
			}
		})
	}
	for name, file := range map[string]string{"text": variant("text", text), "cut": variant("cut", whole[:len(whole)/2]), "empty": variant("empty", nil), "zeroed": variant("zeroed", zeroed)} {
		if o := ran(t, "shim", "snapshot", "status", file); o.exit == 0 || o.stdout != "" || strings.Contains(o.stderr, "panic") {
			t.Errorf("status of %s: exit %d, %s%s", name, o.exit, o.stdout, o.stderr)
		}
	}
	if o := ran(t, "shim", "snapshot", "status", filepath.Join(s.DataDir, "member", "snap", "db")); o.exit == 0 || !strings.Contains(o.stderr, "locked") {
		t.Errorf("status of a store in use: exit %d, %s", o.exit, o.stderr)
	}
}
