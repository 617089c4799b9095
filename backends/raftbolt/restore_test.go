package raftbolt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
)

// saved writes a snapshot of the member to a file, with its checksum.
func (m *member) saved() string {
	m.t.Helper()
	s, err := m.Snapshot(context.Background(), backends.Caller{})
	if err != nil {
		m.t.Fatal(err)
	}
	data, err := io.ReadAll(s)
	sum := sha256.Sum256(data)
	path := filepath.Join(m.t.TempDir(), "saved.db")
	if err := errors.Join(err, s.Close(), os.WriteFile(path, append(data, sum[:]...), 0o600)); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// filled is a member with keys, a lease and a compaction.
func filled(t *testing.T) *member {
	t.Helper()
	m := openIn(t, t.TempDir(), nil)
	for i := range 100 {
		m.put(fmt.Sprint("key/", i%30), fmt.Sprint(i))
	}
	m.grant(7, 1000)
	if _, err := m.txn(one(leased("leased", 7))); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Compact(context.Background(), &backends.CompactRequest{Revision: 50, Physical: true}); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRestoreCrash ensures that a crash at any step of a restore leaves what a start
// refuses, and that the directory is whole only at the end, when it has all.
func TestRestoreCrash(t *testing.T) {
	m := filled(t)
	path, want := m.saved(), m.all()
	hash, err := m.HashKV(context.Background(), backends.Caller{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	var left []string
	report, err := Restore(context.Background(), Config{DataDir: dir, Name: "other", InitialAdvertisePeerURLs: []string{"http://127.0.0.1:9"}},
		RestoreOptions{Snapshot: path, step: func() { left = append(left, copyDir(t, dir)) }}, testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	if report.Revision != hash.Header.Revision || report.CompactRevision != 50 || report.Keys != int64(len(want)) {
		t.Errorf("report %+v", report)
	}
	if len(left) != 6 {
		t.Fatalf("%d steps", len(left))
	}
	for i, copied := range left[:len(left)-1] {
		if err := os.Chmod(copied, privateDir); err != nil {
			t.Fatal(err)
		}
		b, err := Open(context.Background(), Config{DataDir: copied}, testEnv(t))
		if !errors.Is(err, ErrRestoreInterrupted) || !strings.Contains(err.Error(), "Remove the directory") {
			t.Errorf("step %d: %v, %v", i, b, err)
		}
		r, err := Check(CheckConfig{DataDir: copied})
		if err != nil || len(r.Findings) != 1 || !strings.Contains(r.Findings[0].What, "interrupted") {
			t.Errorf("step %d: check says %+v, %v", i, r, err)
		}
		if _, err := Restore(context.Background(), Config{DataDir: copied}, RestoreOptions{Snapshot: path}, testEnv(t)); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("step %d: restored over it: %v", i, err)
		}
	}
	for _, whole := range []string{left[len(left)-1], dir} {
		r := openIn(t, whole, nil)
		if got := r.all(); !maps.Equal(got, want) {
			t.Errorf("keys %v, want %v", got, want)
		}
		again, err := r.HashKV(context.Background(), backends.Caller{}, 0)
		if err != nil || again.Hash != hash.Hash || again.Header.Revision != hash.Header.Revision || again.Header.MemberID != report.MemberID ||
			again.Header.ClusterID != report.ClusterID || again.Header.MemberID == hash.Header.MemberID {
			t.Errorf("hash %+v, %v, want %+v; report %+v", again, err, hash, report)
		}
		l, err := r.LeaseTimeToLive(context.Background(), backends.Caller{}, 7, true)
		if err != nil || l.GrantedTTLSeconds != 1000 || fmt.Sprintf("%s", l.Keys) != "[leased]" {
			t.Errorf("lease %+v, %v", l, err)
		}
		r.close()
		if c, err := Check(CheckConfig{DataDir: whole}); err != nil || len(c.Findings) != 0 {
			t.Errorf("check says %+v, %v", c, err)
		}
	}
}

// TestRestoreFails ensures that a restore that fails in the middle leaves nothing:
// neither files nor directories that were not there, nor a lock.
func TestRestoreFails(t *testing.T) {
	path := filled(t).saved()
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(data[3*4096 : len(data)-sha256.Size])
	sum := sha256.Sum256(data[:len(data)-sha256.Size])
	if err := os.WriteFile(damaged, append(data[:len(data)-sha256.Size], sum[:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	empty := t.TempDir()
	for _, c := range []struct {
		name string
		ctx  context.Context
		file string
		dir  string
		want error
	}{
		{"damaged with the right checksum", context.Background(), damaged, filepath.Join(t.TempDir(), "new"), ErrSnapshot},
		{"damaged, into an empty directory", context.Background(), damaged, empty, ErrSnapshot},
		{"canceled", canceled, path, filepath.Join(t.TempDir(), "new"), context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := Config{DataDir: c.dir, WALDir: filepath.Join(t.TempDir(), "wal")}
			if _, err := Restore(c.ctx, config, RestoreOptions{Snapshot: c.file}, testEnv(t)); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			} else if strings.Contains(err.Error(), c.dir) {
				t.Errorf("%q names the copy", err)
			}
			if files, err := os.ReadDir(c.dir); c.dir == empty && (err != nil || len(files) != 0) || c.dir != empty && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left behind %v, %v", files, err)
			}
			if _, err := os.Stat(config.WALDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the log's directory: %v", err)
			}
			// And nothing holds the place.
			if _, err := Restore(context.Background(), config, RestoreOptions{Snapshot: path}, testEnv(t)); err != nil {
				t.Errorf("then: %v", err)
			}
		})
	}
}

// TestRestoredStoreCompacts ensures that the store that a restore opens to look at it, which has
// no metrics, goes on with a compaction: it took their absence for damage of the disk.
func TestRestoredStoreCompacts(t *testing.T) {
	path, dir := filled(t).saved(), filepath.Join(t.TempDir(), "restored")
	report, err := Restore(context.Background(), Config{DataDir: dir}, RestoreOptions{Snapshot: path, BumpRevision: 1000}, testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	r := &restore{b: &Backend{config: Config{DataDir: dir}.withDefaults(), env: testEnv(t), full: make(chan struct{}, 1)}}
	if r.b.dir, err = openDirectory(dir, "", r.b.env.Logger); err != nil {
		t.Fatal(err)
	}
	defer r.b.dir.release()
	if err := r.b.openStore(true); err != nil {
		t.Fatal(err)
	}
	if err := r.b.store.CompactDone(t.Context(), report.CompactRevision); err != nil {
		t.Errorf("compaction at %d: %v", report.CompactRevision, err)
	}
	if err := r.b.store.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestRestoreMeetsFounding ensures that a restore which finds the directory founded once
// it has the lock, though it was empty before, leaves it as it is: it once removed the
// other process's member with what it took for its own.
func TestRestoreMeetsFounding(t *testing.T) {
	m := filled(t)
	want := m.all()
	m.close()
	dir := m.config.DataDir
	if d, err := openUnfounded(Config{DataDir: dir}, zap.NewNop()); !errors.Is(err, ErrNotEmpty) {
		t.Fatalf("%+v, %v", d, err)
	}
	if got := openIn(t, dir, nil).all(); !maps.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
}
