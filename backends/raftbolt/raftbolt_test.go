package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	m := openIn(t, dir, nil)
	m.grant(7, 60)
	m.put("a", "1")
	m.put("b", "2")
	if _, err := m.txn(one(leased("l", 7), del("a", ""))); err != nil {
		t.Fatal(err)
	}
	last := m.put("c", "3")
	hash, err := m.HashKV(context.Background(), backends.Caller{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := m.all()
	m.close()

	m = openIn(t, dir, nil)
	if got := m.all(); !maps.Equal(got, want) || len(got) != 3 {
		t.Errorf("after the restart %v, want %v", got, want)
	}
	again, err := m.HashKV(context.Background(), backends.Caller{}, 0)
	if err != nil || again.Hash != hash.Hash {
		t.Errorf("hash %v, %v, want %v", again, err, hash)
	}
	if again.Header.Term <= hash.Header.Term {
		t.Errorf("term %d after %d", again.Header.Term, hash.Header.Term)
	}
	if r := m.put("d", "4"); r != last+1 {
		t.Errorf("revision %d after %d", r, last)
	}
	ttl, err := m.LeaseTimeToLive(context.Background(), backends.Caller{}, 7, true)
	if err != nil || len(ttl.Keys) != 1 || string(ttl.Keys[0]) != "l" {
		t.Errorf("lease %+v, %v", ttl, err)
	}
}

// A copy of the directory, taken without a stop while clients write, holds every
// write that was acknowledged before the copy began.
func TestKillLikeRestart(t *testing.T) {
	dir := t.TempDir()
	m := openIn(t, dir, nil)
	var mu sync.Mutex
	acknowledged := map[string]string{}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for c := range 8 {
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key, value := fmt.Sprintf("%d/%d", c, i%50), fmt.Sprint(i)
				if _, err := m.Txn(context.Background(), &backends.TxnRequest{TxnOp: one(put(key, value))}); err != nil {
					t.Errorf("put: %v", err)
					return
				}
				mu.Lock()
				acknowledged[key] = value
				mu.Unlock()
			}
		})
	}
	for range 3 {
		eventually(t, "100 keys acknowledged", func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) >= 100 })
		mu.Lock()
		before := maps.Clone(acknowledged)
		mu.Unlock()
		copied := openIn(t, copyDir(t, dir), nil)
		got := copied.all()
		for k, v := range before {
			var have, least int
			_, _ = fmt.Sscan(got[k], &have)
			_, _ = fmt.Sscan(v, &least)
			if _, ok := got[k]; !ok || have < least {
				t.Errorf("%s is %q in the copy, %s was acknowledged before", k, got[k], v)
			}
		}
		copied.close()
	}
	close(stop)
	clients.Wait()
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	m := openIn(t, dir, nil)
	_, err := Open(context.Background(), Config{DataDir: dir}, testEnv(t))
	if !errors.Is(err, ErrDirectoryInUse) {
		t.Fatalf("second open: %v", err)
	}
	m.close()
	openIn(t, dir, nil).put("a", "1")
}

// tree reads all files below dir.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			files[path] = "directory"
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestDirectoryOfEtcdIsRefusedUntouched(t *testing.T) {
	for _, file := range []string{
		"member/wal/0000000000000000-0000000000000000.wal", "member/snap/db", "member/snap/0000000000000002-0000000000000009.snap",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("etcd's"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := tree(t, dir)
		_, err := Open(context.Background(), Config{DataDir: dir}, testEnv(t))
		if !errors.Is(err, ErrForeignDirectory) || !strings.Contains(err.Error(), "snapshot save") || !strings.Contains(err.Error(), "shim snapshot restore") {
			t.Errorf("%s: %v", file, err)
		}
		if after := tree(t, dir); !maps.Equal(before, after) {
			t.Errorf("%s: the directory was changed: %v", file, after)
		}
	}
	wal := t.TempDir()
	if err := os.WriteFile(filepath.Join(wal, "0000000000000000-0000000000000000.wal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), Config{DataDir: t.TempDir(), WALDir: wal}, testEnv(t)); !errors.Is(err, ErrForeignDirectory) {
		t.Errorf("a log of etcd's in the WAL directory: %v", err)
	}
}

func TestOtherFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	openIn(t, dir, nil).close()
	path := filepath.Join(dir, memberDir, stateName)
	if err := os.WriteFile(path, []byte(`{"format": 3, "clusterID": [1]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	if _, err := Open(context.Background(), Config{DataDir: dir}, testEnv(t)); !errors.Is(err, ErrDirectoryVersion) {
		t.Errorf("open: %v", err)
	}
	if after := tree(t, dir); !maps.Equal(before, after) {
		t.Error("the directory was changed")
	}
}

// A crash at any step of the founding leaves a directory that starts.
func TestUnfinishedFoundingStartsAnew(t *testing.T) {
	whole := t.TempDir()
	m := openIn(t, whole, nil)
	id := m.machine.header
	m.close()
	for name, damage := range map[string]func(dir string) error{
		"only shim.json": func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "member/wal")), os.RemoveAll(filepath.Join(dir, "member/snap")))
		},
		"log, no store": func(dir string) error { return os.Remove(filepath.Join(dir, "member/snap/db")) },
		"log and store": func(string) error { return nil },
		"store, no log": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "member/wal")) },
		"temporary log": func(dir string) error { return os.WriteFile(filepath.Join(dir, "member/wal/x.tmp"), nil, 0o600) },
		"temporary state": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "member", stateName+temporary), []byte("{"), 0o600)
		},
	} {
		dir := copyDir(t, whole)
		path := filepath.Join(dir, memberDir, stateName)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		unfinished := strings.Replace(string(b), `"founded": true`, `"founded": false`, 1)
		if unfinished == string(b) {
			t.Fatalf("no founded in %s", b)
		}
		if err := errors.Join(os.WriteFile(path, []byte(unfinished), 0o600), damage(dir)); err != nil {
			t.Fatal(err)
		}
		m := openIn(t, dir, nil)
		if m.machine.header != id {
			t.Errorf("%s: ids %+v, want %+v", name, m.machine.header, id)
		}
		m.put("a", "1")
		m.close()
		if got := openIn(t, dir, nil).all(); len(got) != 1 {
			t.Errorf("%s: %v", name, got)
		}
	}
	// And before anything but directories and the lock was made.
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "member/snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "member", lockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	openIn(t, dir, nil).put("a", "1")
}

// A store or log that is gone, or older than the other, is refused.
func TestLostFilesAreRefused(t *testing.T) {
	whole := t.TempDir()
	m := openIn(t, whole, nil)
	m.put("a", "1")
	m.close()
	for name, damage := range map[string]func(dir string) error{
		"log gone":   func(dir string) error { return os.RemoveAll(filepath.Join(dir, "member/wal")) },
		"store gone": func(dir string) error { return os.Remove(filepath.Join(dir, "member/snap/db")) },
		"log of another member": func(dir string) error {
			other := t.TempDir()
			openIn(t, other, func(c *Config, _ *backends.Env) { c.ClusterToken = "other" }).close()
			return errors.Join(os.RemoveAll(filepath.Join(dir, "member/wal")),
				os.CopyFS(filepath.Join(dir, "member/wal"), os.DirFS(filepath.Join(other, "member/wal"))))
		},
	} {
		dir := copyDir(t, whole)
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		b, err := Open(context.Background(), Config{DataDir: dir}, testEnv(t))
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = b.Close(context.Background())
			continue
		}
		t.Logf("%s: %v", name, err)
	}
}

// The ids are those that etcd 3.7.3 gave a member with these URLs and token.
func TestIDsAreEtcds(t *testing.T) {
	cluster, self := founderIDs([]string{"http://localhost:2380"}, "etcd-cluster")
	if cluster != 14841639068965178418 || self != 10276657743932975437 {
		t.Errorf("cluster %d, member %d", cluster, self)
	}
}

func TestMembersFollowConfiguration(t *testing.T) {
	dir := t.TempDir()
	openIn(t, dir, nil).close()
	m := openIn(t, dir, func(c *Config, _ *backends.Env) {
		c.Name, c.AdvertiseClientURLs = "one", []string{"http://10.0.0.1:2379"}
	})
	var members []backends.Member
	eventually(t, "renamed", func() bool {
		r, err := m.MemberList(context.Background(), backends.Caller{}, true)
		if err != nil {
			t.Fatal(err)
		}
		members = r.Members
		return members[0].Name == "one"
	})
	if len(members) != 1 || members[0].ClientURLs[0] != "http://10.0.0.1:2379" || members[0].PeerURLs[0] != "http://localhost:2380" {
		t.Errorf("members %+v", members)
	}
}

func TestConcurrentWritesAreSequential(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	const clients, each = 16, 50
	var seen sync.Map
	var work sync.WaitGroup
	for c := range clients {
		work.Go(func() {
			for i := range each {
				op := backends.TxnOp{
					Compare: []backends.Compare{{KeyRange: backends.KeyRange{Key: fmt.Appendf(nil, "%d", c)}, Target: backends.CompareVersion, Number: int64(i)}},
					Success: []backends.Op{put(fmt.Sprint(c), fmt.Sprint(i)), put("shared", fmt.Sprint(c))},
				}
				r, err := m.Txn(context.Background(), &backends.TxnRequest{TxnOp: op})
				if err != nil || !r.Succeeded {
					t.Errorf("client %d, write %d: %+v, %v", c, i, r, err)
					return
				}
				if _, twice := seen.LoadOrStore(r.Header.Revision, true); twice {
					t.Errorf("revision %d twice", r.Header.Revision)
				}
				r.Close()
				cursor, err := m.Range(context.Background(), &backends.RangeRequest{
					RangeOptions: backends.RangeOptions{KeyRange: backends.KeyRange{Key: fmt.Appendf(nil, "%d", c)}}})
				if err != nil {
					t.Error(err)
					return
				}
				if kvs := drain(t, cursor); len(kvs) != 1 || string(kvs[0].Value) != fmt.Sprint(i) {
					t.Errorf("client %d reads %v after writing %d", c, kvs, i)
				}
			}
		})
	}
	work.Wait()
	s, err := m.Status(context.Background())
	if err != nil || s.Header.Revision != 1+clients*each {
		t.Errorf("status %+v, %v", s, err)
	}
	if s.Leader != s.Header.MemberID || s.AppliedIndex == 0 || s.SizeBytes == 0 || s.QuotaBytes != DefaultQuotaBytes {
		t.Errorf("status %+v", s)
	}
}

func TestConfigReportsEveryFault(t *testing.T) {
	_, err := Open(context.Background(), Config{
		HeartbeatInterval: 1, ElectionTimeout: 3, AutoCompactionMode: "hourly", CompactionBatchLimit: -1,
		AdvertiseClientURLs: []string{"localhost:2379"},
	}, testEnv(t))
	if err == nil {
		t.Fatal("opened")
	}
	for _, want := range []string{"data directory", "heartbeat interval 1ns", "election timeout 3ns", `"hourly"`, "batch limit -1", `"localhost:2379"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestRetention(t *testing.T) {
	for _, tc := range []struct{ mode, text, want string }{
		{"periodic", "1", "{1h0m0s 0}"}, {"periodic", "30m", "{30m0s 0}"}, {"periodic", "0", "{0s 0}"},
		{"periodic", "-1", "negative"}, {"periodic", "-5m", "negative"}, {"periodic", "x", "neither"}, {"periodic", "9223372036854775807", "above"},
		{"revision", "1000", "{0s 1000}"}, {"revision", "1h", "not a number"}, {"revision", "-3", "negative"},
	} {
		c := Config{AutoCompactionMode: tc.mode, AutoCompactionRetention: tc.text}
		r, err := c.retention()
		if got := fmt.Sprintf("{%v %d}", r.period, r.revisions); err == nil && got != tc.want || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s: %v, %v, want %s", tc.mode, tc.text, got, err, tc.want)
		}
	}
}

func TestOpenURL(t *testing.T) {
	dir := t.TempDir()
	b, err := backends.Open(context.Background(), "raftbolt://"+dir+"?name=one&quota-backend-bytes=123456789&heartbeat-interval=50", testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(context.Background())
	if c := b.(*Backend).config; c.Name != "one" || c.QuotaBytes != 123456789 || c.HeartbeatInterval.Milliseconds() != 50 || c.DataDir != dir {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"?nme=x", "?quota-backend-bytes=many", "?name=a&name=b"} {
		if _, err := backends.Open(context.Background(), "raftbolt://"+t.TempDir()+bad, testEnv(t)); err == nil {
			t.Errorf("%s opened", bad)
		}
	}
}

// A watch of the real store gets what is committed, from the past on.
func TestWatchOfStore(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	first := m.put("a", "1")
	ctx := context.Background()
	s, err := m.Watch(ctx, backends.Caller{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Add(ctx, &backends.WatchRequest{ID: 1, KeyRange: backends.KeyRange{Key: []byte("a")}, StartRevision: first}); err != nil {
		t.Fatal(err)
	}
	m.put("b", "1")
	last := m.put("a", "2")
	events := 0
	for {
		b, err := s.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		events += len(b.Events)
		if b.Kind == backends.WatchEvents && b.Header.Revision >= last {
			break
		}
	}
	if events != 2 {
		t.Errorf("%d events", events)
	}
}

// TestLateDropSparesOthers ensures that a proposal which the node drops after its
// request gave up does not end another request, whose command is on its way.
func TestLateDropSparesOthers(t *testing.T) {
	b := &Backend{waiters: newWaiters(1, 2)}
	for range 100 { // the pool gives a waiter back most of the time
		late, _ := b.waiters.register()
		b.waiters.advance(0)
		if _, err := b.await(context.Background(), late); !errors.Is(err, backends.ErrOutcomeUnknown) {
			t.Fatalf("a request that took too long ended with %v", err)
		}
		other, _ := b.waiters.register()
		late.dropped(replica.ErrDropped)
		select {
		case out := <-other.outcome:
			t.Fatalf("another request was told %v", out.err)
		default:
		}
	}
}
