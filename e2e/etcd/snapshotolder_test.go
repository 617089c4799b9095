package etcd

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

var (
	olderEtcd    = flag.String("older", "", "binary of an older etcd: TestSnapshotOfOlder writes its snapshot and answers to testdata")
	olderVersion = flag.String("older-version", "", "its version, such as 3.5")
)

// olderVersions are those of which a snapshot lies in testdata, with what that server
// answered. testdata/README.md says how they were made.
func olderVersions() []string { return []string{"3.5", "3.6"} }

// TestSnapshotOfOlder ensures that shim tells of snapshots of etcd 3.5 and 3.6 what
// etcdutl tells, and serves of them what those servers served, also with a raised
// revision, and that etcd takes it back from shim.
func TestSnapshotOfOlder(t *testing.T) {
	if *olderEtcd != "" {
		writeOlder(t, *olderEtcd, filepath.Join("testdata", "etcd-"+*olderVersion))
		return
	}
	for _, version := range olderVersions() {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			saved, want := readOlder(t, dir, version)
			for _, format := range []string{"simple", "json", "fields", "table"} {
				args := []string{"snapshot", "status", saved, "-w", format}
				got, want := ran(t, "shim", args...), ran(t, "etcdutl", args...)
				if got.stdout != want.stdout || got.exit != 0 || want.exit != 0 {
					t.Errorf("status: got\n%s%s\nwant\n%s", got.stdout, got.stderr, want.stdout)
				}
			}
			restored := filepath.Join(dir, "restored")
			tool(t, "shim", "snapshot", "restore", saved, "--data-dir", restored)
			sound(t, restored)
			shim := startShim(t, restored)
			equalContent(t, "shim", content(t, shim, 31)+users(t, shim), want)
			back := filepath.Join(dir, "back.db")
			tool(t, "etcdctl", "--endpoints", shim.Address, "snapshot", "save", back)
			again := startRestoredEtcd(t, back)
			equalContent(t, "etcd on shim's", content(t, again, 31)+users(t, again), want)

			bump := []string{"--bump-revision", "1000", "--mark-compacted"}
			raised := filepath.Join(dir, "raised")
			tool(t, "shim", slices.Concat([]string{"snapshot", "restore", saved, "--data-dir", raised}, bump)...)
			sound(t, raised)
			shim, etcd := startShim(t, raised), startRestoredEtcd(t, saved, bump...)
			fill(t, shim)
			fill(t, etcd)
			at := current(t, etcd) - 10
			equalContent(t, "raised", content(t, shim, at)+users(t, shim), content(t, etcd, at)+users(t, etcd))
			equalContent(t, "raised, from before", content(t, shim, 31), content(t, etcd, 31))
		})
	}
}

// readOlder unpacks a snapshot to a file in dir, and reads what its server answered.
func readOlder(t *testing.T, dir, version string) (path, answers string) {
	t.Helper()
	file := filepath.Join("testdata", "etcd-"+version)
	packed, err := os.Open(file + ".snapshot.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packed.Close() }()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	path = filepath.Join(dir, "saved.db")
	if err := errors.Join(err, z.Close(), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file + ".txt")
	if err != nil || !strings.Contains(string(text), "alice") {
		t.Fatalf("%v, answers\n%s", err, text)
	}
	return path, string(text)
}

// writeOlder writes what readOlder reads.
func writeOlder(t *testing.T, binary, file string) {
	t.Helper()
	peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
	s := process.Start(t, binary, process.Port(t), t.TempDir(), "--name", "default",
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	s.WaitReady(t)
	populate(t, s)
	addUsers(t, s)
	saved := filepath.Join(t.TempDir(), "saved.db")
	tool(t, "etcdctl", "--endpoints", s.Address, "snapshot", "save", saved)
	data, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(data)
	if err := errors.Join(err, z.Close(), os.MkdirAll("testdata", 0o755), os.WriteFile(file+".snapshot.gz", packed.Bytes(), 0o644),
		os.WriteFile(file+".txt", []byte(content(t, s, 31)+users(t, s)), 0o644)); err != nil {
		t.Fatal(err)
	}
}
