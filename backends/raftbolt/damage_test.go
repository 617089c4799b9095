package raftbolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
)

// image is a data directory in memory: contents by path below it.
type image map[string][]byte

func imageOf(t *testing.T, dir string) image {
	t.Helper()
	files := image{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files[rel] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// names are the files' in order.
func (m image) names() []string { return slices.Sorted(maps.Keys(m)) }

// with returns the image with one file changed; nil removes it.
func (m image) with(name string, content []byte) image {
	changed := maps.Clone(m)
	if changed[name] = content; content == nil {
		delete(changed, name)
	}
	return changed
}

func (m image) write(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	for _, sub := range []string{"", "member", "member/snap", "member/wal"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), privateDir); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range m {
		if err := os.WriteFile(filepath.Join(dir, name), b, privateFile); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// smallLog makes segments of 32 KiB.
func smallLog(c *Config, _ *backends.Env) { c.segmentBytes = 32 << 10 }

// contents is what a member answers: every key, and the hash of the history.
type contents struct {
	keys     map[string]string
	revision int64
	hash     uint32
}

func (m *member) contents() contents {
	m.t.Helper()
	hash, err := m.HashKV(context.Background(), backends.Caller{}, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	return contents{m.all(), hash.Header.Revision, hash.Hash}
}

func (c contents) equal(o contents) bool {
	return c.revision == o.revision && c.hash == o.hash && maps.Equal(c.keys, o.keys)
}

// start opens dir. The error is that of Open or, if the member failed while it
// started, that of Fatal; a start that neither fails nor gets ready is an error of
// the test.
func start(t *testing.T, dir string) (*member, error) {
	t.Helper()
	failed := make(chan error, 1)
	env := testEnv(t)
	env.Logger = zap.NewNop()
	env.Fatal = func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	config := Config{DataDir: dir}
	smallLog(&config, nil)
	b, err := Open(context.Background(), config, env)
	if err != nil {
		return nil, err
	}
	select {
	case <-b.Ready():
		return &member{b, t}, nil
	case err := <-failed:
		_ = b.Close(context.Background()) // the error to tell is the first
		return nil, err
	case <-time.After(20 * time.Second):
		t.Fatal("neither ready nor failed after 20 s")
		return nil, nil
	}
}

// twoDirectories makes two members with equal names, and so equal ids, and
// different data: as a clean stop and as a kill left them. The kill comes while
// writes are in the log that the store has not.
func twoDirectories(t *testing.T) (stopped, killed [2]image, want [2]contents) {
	t.Helper()
	for i := range 2 {
		dir := t.TempDir()
		m := openIn(t, dir, smallLog)
		for range i {
			m.put("only", "here")
		}
		busy(t, m)
		alarm := backends.AlarmRequest{Action: backends.AlarmDeactivate, MemberID: 5, Kind: backends.AlarmNoSpace}
		if _, err := m.Alarm(context.Background(), &alarm); err != nil {
			t.Fatal(err)
		}
		if err := m.store.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		db, err := os.ReadFile(filepath.Join(dir, "member/snap/db"))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 45 {
			m.put(fmt.Sprintf("after the flush %d", n%20), strings.Repeat("y", 900))
		}
		want[i] = m.contents()
		killed[i] = imageOf(t, dir).with("member/snap/db", db)
		m.close()
		stopped[i] = imageOf(t, dir)
	}
	return stopped, killed, want
}

// judge checks and starts a directory. It returns what the check found, and the
// error of the start or what the member answers.
func judge(t *testing.T, m image) (findings []Finding, got contents, err error) {
	t.Helper()
	dir := m.write(t)
	r, checkErr := Check(CheckConfig{DataDir: dir})
	if checkErr != nil {
		t.Errorf("the check failed: %v", checkErr)
	} else {
		findings = r.Findings
	}
	if now := imageOf(t, dir); !maps.EqualFunc(now, m, func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Errorf("the check changed the directory")
	}
	running, err := start(t, dir)
	if err != nil {
		if now := imageOf(t, dir).with("member/shim.lock", nil); len(now) > len(m) {
			t.Errorf("the refused start left new files: %v", now.names())
		}
		return findings, got, err
	}
	got = running.contents()
	running.close()
	return findings, got, nil
}

// refusedOrWhole fails unless the start was refused and the check says why, or
// nothing is lost.
func refusedOrWhole(t *testing.T, what string, m image, want contents) (refused bool) {
	t.Helper()
	findings, got, err := judge(t, m)
	switch {
	case err != nil && len(findings) == 0:
		t.Errorf("%s: the start says %v, the check finds nothing", what, err)
	case err == nil && !got.equal(want):
		t.Errorf("%s: the start takes it, and serves %d keys of revision %d, hash %x; want %d, %d, %x. The check finds %v", what,
			len(got.keys), got.revision, got.hash, len(want.keys), want.revision, want.hash, findings)
	}
	return err != nil
}

// TestMissingFiles: without any one of its files a member is refused with a reason
// and nothing is written, or it has lost nothing.
func TestMissingFiles(t *testing.T) {
	stopped, killed, want := twoDirectories(t)
	for how, m := range map[string]image{"stopped": stopped[0], "killed": killed[0]} {
		kept := 0
		for _, name := range m.names() {
			if !refusedOrWhole(t, how+" without "+name, m.with(name, nil), want[0]) {
				kept++
				t.Logf("%s: %s is not needed", how, name)
			}
		}
		// The lock, the spare segment, and the oldest, which was kept for slow members.
		if kept > 3 {
			t.Errorf("%s: %d files are not needed", how, kept)
		}
	}
}

// TestTruncatedFiles: a file that was cut off is refused, or nothing of it is lost.
func TestTruncatedFiles(t *testing.T) {
	_, killed, want := twoDirectories(t)
	m := killed[0]
	refused := 0
	for _, name := range m.names() {
		size := len(m[name])
		if name == "member/shim.lock" {
			continue
		}
		lengths := []int{0, 1, size / 2, size - 1}
		if filepath.Ext(name) != ".wal" {
			lengths = append(lengths, 100, 4096, 8192, size/8, size/3, size-4096)
		}
		for _, length := range lengths {
			if length >= 0 && length < size && refusedOrWhole(t, fmt.Sprintf("%s cut off at %d of %d", name, length, size), m.with(name, m[name][:length]), want[0]) {
				refused++
			}
		}
	}
	if refused < 20 {
		t.Errorf("only %d cuts were refused", refused)
	}
}

// TestSwappedFiles: files of two directories whose ids are equal are not mixed up.
func TestSwappedFiles(t *testing.T) {
	stopped, killed, want := twoDirectories(t)
	for how, of := range map[string][2]image{"stopped": stopped, "killed": killed} {
		a, b := of[0], of[1]
		var log []string
		for _, name := range a.names() {
			if strings.HasSuffix(name, ".wal") {
				log = append(log, name)
			}
			if name != "member/shim.lock" && b[name] != nil && !refusedOrWhole(t, how+": "+name+" of the other", a.with(name, b[name]), want[0]) {
				t.Errorf("%s: %s of the other directory is taken", how, name)
			}
		}
		whole := a
		for _, name := range log {
			whole = whole.with(name, nil)
		}
		for _, name := range b.names() {
			if strings.HasSuffix(name, ".wal") {
				whole = whole.with(name, b[name])
			}
		}
		if !refusedOrWhole(t, how+": the log of the other", whole, want[0]) {
			t.Errorf("%s: the log of the other directory is taken", how)
		}
		// Two segments of the same log exchanged: the last is the spare.
		for _, pair := range [][2]int{{0, 1}, {0, len(log) - 2}, {len(log) - 3, len(log) - 2}, {len(log) - 2, len(log) - 1}} {
			x, y := log[pair[0]], log[pair[1]]
			if !refusedOrWhole(t, how+": "+x+" and "+y+" exchanged", a.with(x, a[y]).with(y, a[x]), want[0]) && pair[1] != 1 {
				t.Errorf("%s: %s and %s, exchanged, are taken", how, x, y)
			}
		}
	}
}

// TestBitFlipsInTheLog: a flipped bit is found by the check, or is without effect,
// or lies in the very last batch: then that batch is missing, whole.
func TestBitFlipsInTheLog(t *testing.T) {
	_, killed, want := twoDirectories(t)
	m := killed[0]
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	dir := m.write(t)
	outcomes := map[string]int{}
	starts := 0
	for _, name := range m.names() {
		if !strings.HasSuffix(name, ".wal") {
			continue
		}
		whole := m[name]
		offsets := []int{0, 5, 9, 30, 50, 60, 66, 73, 100, 511, 512, 520, 536, 550, 600, len(whole) - 1}
		for range 12 {
			offsets = append(offsets, rng.IntN(len(whole)))
		}
		for _, at := range offsets {
			flipped := slices.Clone(whole)
			flipped[at] ^= 1 << rng.IntN(8)
			if err := os.WriteFile(filepath.Join(dir, name), flipped, privateFile); err != nil {
				t.Fatal(err)
			}
			r, err := Check(CheckConfig{DataDir: dir})
			if err != nil {
				// A version that a later shim writes: nobody can say more.
				if at > 7 || !strings.Contains(err.Error(), "version") {
					t.Errorf("%s at %d: %v", name, at, err)
				}
				outcomes["another version"]++
				continue
			}
			if len(r.Findings) > 0 {
				outcomes["found"]++
				continue
			}
			// Most of these lie where nothing was written yet.
			if starts++; starts > 15 && at > 600 && rng.IntN(8) > 0 && len(r.Notes) == 0 {
				continue
			}
			running, err := start(t, m.with(name, flipped).write(t))
			if err != nil {
				t.Errorf("%s at %d: the check finds nothing, the start says %v", name, at, err)
				continue
			}
			switch got := running.contents(); {
			case got.equal(want[0]):
				outcomes["without effect"]++
			case got.revision == want[0].revision-1 && strings.Contains(fmt.Sprint(r.Notes), "last batch was cut off"):
				outcomes["the last batch is missing"]++
			default:
				t.Errorf("%s at %d: served at revision %d instead of %d; notes %v", name, at, got.revision, want[0].revision, r.Notes)
			}
			running.close()
		}
		if err := os.WriteFile(filepath.Join(dir, name), whole, privateFile); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(outcomes)
	if outcomes["found"] < 20 || outcomes["without effect"] == 0 {
		t.Error("the test does not reach what it is for")
	}
}

// TestBitFlipsInTheStore: a member starts on a file with a flipped bit, or refuses
// it; it never panics nor hangs. What the check does not find changes nothing but
// values and names.
func TestBitFlipsInTheStore(t *testing.T) {
	stopped, _, want := twoDirectories(t)
	m := stopped[0]
	const name = "member/snap/db"
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	outcomes := map[string]int{}
	const page = 4096
	var written []int // most of the file was never used
	for at := 0; at < len(m[name]); at += page {
		if strings.Trim(string(m[name][at:at+page]), "\x00") != "" {
			written = append(written, at)
		}
	}
	// At least 60, and until enough were refused: that is a matter of chance.
	for i := 0; i < 60 || i < 600 && outcomes["refused"] < 10; i++ {
		flipped := slices.Clone(m[name])
		at := written[rng.IntN(len(written))] + rng.IntN(page)
		if i%2 == 0 { // the beginning of a page: its head and elements
			at = at&^(page-1) + rng.IntN(200)
		}
		flipped[at] ^= 1 << rng.IntN(8)
		findings, got, err := judge(t, m.with(name, flipped))
		switch {
		case err != nil && len(findings) == 0:
			t.Errorf("offset %d: the start says %v, the check finds nothing", at, err)
		case err != nil:
			outcomes["refused"]++
		case len(findings) > 0:
			outcomes["served, and found by the check"]++
		case got.equal(want[0]):
			outcomes["without effect"]++
		case got.revision != want[0].revision || len(got.keys) != len(want[0].keys):
			t.Errorf("offset %d: the check finds nothing, and %d keys of revision %d are served instead of %d of %d", at,
				len(got.keys), got.revision, len(want[0].keys), want[0].revision)
		default:
			outcomes["a value or a name"]++
		}
	}
	t.Log(outcomes)
	if outcomes["refused"] < 10 {
		t.Error("the test does not reach what it is for")
	}
}

// TestStartWithoutStoreLeavesNothing: it once left a new, empty file, on which the
// next start said something else.
func TestStartWithoutStoreLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	openIn(t, dir, nil).close()
	if err := os.Remove(filepath.Join(dir, "member/snap/db")); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	for range 2 {
		if _, err := Open(context.Background(), Config{DataDir: dir}, testEnv(t)); !errors.Is(err, ErrDirectoryCorrupt) || !strings.Contains(err.Error(), "is missing") {
			t.Errorf("open: %v", err)
		}
	}
	if after := tree(t, dir); !maps.Equal(before, after) {
		t.Error("the directory was changed")
	}
}

// TestMissingStateFile: a directory with our log and no shim.json is damaged, and
// not etcd's.
func TestMissingStateFile(t *testing.T) {
	dir := t.TempDir()
	openIn(t, dir, nil).close()
	path := filepath.Join(dir, "member/shim.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), Config{DataDir: dir}, testEnv(t)); !errors.Is(err, ErrDirectoryCorrupt) || !strings.Contains(err.Error(), "shim.json is missing") {
		t.Errorf("open: %v", err)
	}
	// One of another directory: other ids in it.
	var s directoryState
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	s.FoundingID++
	if b, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, privateFile); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), Config{DataDir: dir}, testEnv(t)); !errors.Is(err, ErrDirectoryCorrupt) || !strings.Contains(err.Error(), "another data directory") {
		t.Errorf("open: %v", err)
	}
}
