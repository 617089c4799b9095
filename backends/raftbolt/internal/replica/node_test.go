package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
)

// deadline bounds every wait for an event; none is expected to take long.
const deadline = 30 * time.Second

// countingFS counts syncs, and fails those of files on demand.
type countingFS struct {
	wal.OS
	syncs atomic.Int64
	fail  atomic.Bool
	gate  atomic.Pointer[chan struct{}] // a file's sync waits for it to close
	// entered gets a token, if there is room, when a sync comes to the gate.
	entered chan struct{}
}

func (f *countingFS) Create(name string) (wal.File, error) { return f.wrap(f.OS.Create(name)) }
func (f *countingFS) Open(name string) (wal.File, error)   { return f.wrap(f.OS.Open(name)) }

func (f *countingFS) wrap(file wal.File, err error) (wal.File, error) {
	return &countingFile{File: file, fs: f}, err
}

type countingFile struct {
	wal.File
	fs *countingFS
}

var errDisk = errors.New("input/output error")

func (f *countingFile) Sync() error {
	f.fs.syncs.Add(1)
	if gate := f.fs.gate.Load(); gate != nil {
		select {
		case f.fs.entered <- struct{}{}:
		default:
		}
		<-*gate
	}
	if f.fs.fail.Load() {
		return errDisk
	}
	return f.File.Sync()
}

func testConfig(t *testing.T, sm StateMachine) Config {
	return Config{
		ClusterID: 1, MemberID: 1, Dir: filepath.Join(t.TempDir(), "wal"), StateMachine: sm,
		TickInterval: 10 * time.Millisecond, Random: rand.New(rand.NewSource(1)), SegmentBytes: 64 << 10,
	}
}

// start opens a node and waits until it is ready.
func start(t *testing.T, cfg Config) *Node {
	t.Helper()
	n, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	await(t, n.Ready(), "ready")
	return n
}

func found(t *testing.T, cfg Config) *Node {
	t.Helper()
	if err := CreateLog(cfg, 1, 1); err != nil {
		t.Fatal(err)
	}
	return start(t, cfg)
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(deadline):
		t.Fatalf("not %s in %v", what, deadline)
	}
}

func mustPropose(t *testing.T, n *Node, command []byte) {
	t.Helper()
	if err := n.Propose(command, func(err error) { t.Errorf("dropped: %v", err) }); err != nil {
		t.Fatal(err)
	}
}

// TestRestart: what was applied is applied again in the same order after a restart, from any durable index, and the log is cut below it only.
func TestRestart(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	cfg.CatchupEntries = 10
	n := found(t, cfg)
	var want [][]byte
	for round := range 8 {
		for i := range 100 {
			c := []byte(fmt.Sprintf("command %d of round %d %s", i, round, bytes.Repeat([]byte{'x'}, 500)))
			want = append(want, c)
			mustPropose(t, n, c)
			if i%10 == 9 { // otherwise all would be one entry
				r.await(t, len(want))
			}
		}
		if round%2 == 0 {
			n.Durable(r.flush())
		}
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		if index, err := n.ReadIndex(ctx); err != nil || index > r.index {
			t.Fatalf("ReadIndex = %d, %v", index, err)
		}
		cancel()
		n.Stop()
		if err := n.Err(); err != nil {
			t.Fatal(err)
		}
		first := n.log.FirstIndex()
		if first > r.durable.Index+1 {
			t.Fatalf("the log begins at %d, the store holds %d", first, r.durable.Index)
		}
		if round > 0 && first+2*cfg.CatchupEntries < r.durable.Index {
			t.Fatalf("the log begins at %d though %d is durable", first, r.durable.Index)
		}
		r.crash()
		n = start(t, cfg)
		r.await(t, len(want))
		for i := range want {
			if !bytes.Equal(r.commands[i], want[i]) {
				t.Fatalf("command %d is %q", i, r.commands[i])
			}
		}
	}
}

// TestGroupCommit: proposals that arrive during a sync share the next one, and keep their order.
func TestGroupCommit(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	fs := &countingFS{}
	cfg.FS = fs
	n := found(t, cfg)
	mustPropose(t, n, []byte("first"))
	r.await(t, 1)
	// The keeper's syncs of a spare segment are not what is counted.
	for n.log.NeedsHousekeeping() {
		time.Sleep(time.Millisecond)
	}

	gate := make(chan struct{})
	fs.gate.Store(&gate)
	before := fs.syncs.Load()
	mustPropose(t, n, []byte("held in its sync"))
	const many = 1000
	for i := range many {
		mustPropose(t, n, []byte(fmt.Sprint(i)))
	}
	fs.gate.Store(nil)
	close(gate)
	r.await(t, many+2)
	// The held one, what was queued behind it, and what came between the two.
	if syncs := fs.syncs.Load() - before; syncs > 3 {
		t.Errorf("%d syncs for %d proposals that waited for one", syncs, many)
	}
	for i := range many {
		if got := string(r.commands[i+2]); got != fmt.Sprint(i) {
			t.Fatalf("command %d is %s", i, got)
		}
	}
}

// TestFailedSync: it is final, reported once, and not repeated.
func TestFailedSync(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	fs := &countingFS{}
	cfg.FS = fs
	n := found(t, cfg)
	fs.fail.Store(true)
	before := fs.syncs.Load()
	mustPropose(t, n, []byte("lost"))
	await(t, n.Done(), "done")
	if err := n.Err(); !errors.Is(err, errDisk) {
		t.Errorf("Err = %v", err)
	}
	if syncs := fs.syncs.Load() - before; syncs != 1 {
		t.Errorf("%d syncs after the failure", syncs)
	}
	if len(r.commands) != 0 {
		t.Error("applied without a sync")
	}
	if err := n.Propose([]byte("late"), nil); !errors.Is(err, ErrStopped) {
		t.Errorf("Propose = %v", err)
	}
	if _, err := n.ReadIndex(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("ReadIndex = %v", err)
	}
	if err := n.log.Sync(); err == nil {
		t.Error("the log forgot its failure")
	}
}

// TestLargeCommands: commands above a segment, and many of them in one batch.
func TestLargeCommands(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	n := found(t, cfg)
	var want [][]byte
	for _, size := range []int{100, 70 << 10, 3 << 20, 1, MaxCommandBytes, 600 << 10, 600 << 10, 5} {
		c := bytes.Repeat([]byte{byte(size), 1, 2}, size/3+1)[:size]
		want = append(want, c)
		mustPropose(t, n, c)
	}
	r.await(t, len(want))
	if err := n.Propose(make([]byte, MaxCommandBytes+1), nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Propose = %v", err)
	}
	n.Stop()
	r.crash()
	start(t, cfg)
	r.await(t, len(want))
	for i := range want {
		if !bytes.Equal(r.commands[i], want[i]) {
			t.Errorf("command %d differs after the restart", i)
		}
	}
}

// TestStop: proposals that wait are told that they were not proposed; those written before are kept; nothing is applied afterwards.
func TestStop(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	fs := &countingFS{entered: make(chan struct{}, 1)}
	cfg.FS = fs
	n := found(t, cfg)
	gate := make(chan struct{})
	fs.gate.Store(&gate)
	mustPropose(t, n, []byte("in its sync"))
	await(t, fs.entered, "in the sync")
	dropped := make(chan error, 1)
	if err := n.Propose([]byte("waiting"), func(err error) { dropped <- err }); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { n.Stop(); close(stopped) }()
	if err := <-dropped; !errors.Is(err, ErrStopped) {
		t.Errorf("dropped with %v", err)
	}
	select {
	case <-stopped:
		t.Error("stopped within a sync")
	default:
	}
	fs.gate.Store(nil)
	close(gate)
	await(t, stopped, "stopped")
	n.Stop()
	r.crash()
	start(t, cfg)
	r.await(t, 1)
	if got := string(r.commands[0]); len(r.commands) != 1 || got != "in its sync" {
		t.Errorf("after the restart: %q", r.commands)
	}
}

// TestQueueIsBounded: the queue refuses what exceeds its bound, with an error that says so.
func TestQueueIsBounded(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	fs := &countingFS{}
	cfg.FS = fs
	n := found(t, cfg)
	gate := make(chan struct{})
	fs.gate.Store(&gate)
	accepted := 0
	for accepted <= 3*MaxPendingProposals {
		err := n.Propose([]byte("x"), nil)
		if errors.Is(err, ErrTooManyPending) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		accepted++
	}
	if accepted < MaxPendingProposals || accepted > 3*MaxPendingProposals {
		t.Errorf("%d accepted while the log stood still, bound %d", accepted, MaxPendingProposals)
	}
	fs.gate.Store(nil)
	close(gate)
	r.await(t, accepted)
}

// TestConfChange: a change reaches the state machine with its result, a refused one changes nothing, a learner is added for good, and a group of one
// goes on with one that never runs, also after a start.
func TestConfChange(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	n := found(t, cfg)
	change := func(kind ConfChangeKind, member uint64) {
		t.Helper()
		if err := n.ProposeConfChange(ConfChange{Kind: kind, Member: member}, func(err error) { t.Error(err) }); err != nil {
			t.Fatal(err)
		}
	}
	// applied returns when raft knows that what was proposed before is applied.
	applied := func(commands int) {
		t.Helper()
		mustPropose(t, n, []byte("a"))
		r.await(t, commands)
		if err := n.WaitApplied(t.Context(), n.Status().Committed); err != nil {
			t.Fatal(err)
		}
	}
	change(AddLearner, 13)
	applied(1)
	if len(r.conf.Learners) != 0 {
		t.Errorf("learners %v after a refused change", r.conf.Learners)
	}
	change(AddLearner, 2)
	applied(2)
	if len(r.conf.Learners) != 1 || r.conf.Learners[0] != 2 {
		t.Errorf("learners %v", r.conf.Learners)
	}
	if p := n.Progress(2); p != (Progress{Leads: true, Known: true, LeaderMatch: p.LeaderMatch}) || p.LeaderMatch == 0 {
		t.Errorf("progress of a learner that never ran: %+v", p)
	}
	if p := n.Progress(1); !p.Known || p.Match == 0 || p.Match != p.LeaderMatch {
		t.Errorf("progress of the leader: %+v", p)
	}
	if p := n.Progress(13); p.Known {
		t.Errorf("progress of nobody: %+v", p)
	}
	// It is behind what the log still has, and there is nobody to send a snapshot to.
	for i := range 50 {
		mustPropose(t, n, make([]byte, 10_000))
		r.await(t, 3+i)
	}
	n.Durable(r.flush())
	n.Stop()
	n = start(t, cfg)
	mustPropose(t, n, []byte("b"))
	r.await(t, 53)
	change(RemoveMember, 2)
	applied(54)
	if len(r.conf.Learners) != 0 {
		t.Errorf("learners %v after the removal", r.conf.Learners)
	}
	n.Durable(r.flush())
	n.Stop()
	n = start(t, cfg)
	mustPropose(t, n, []byte("c"))
	r.await(t, 55)
	if s := n.Status(); s.Role != Leader || s.Leader != 1 || !s.TermApplied || s.Applied > s.Committed {
		t.Errorf("status %+v", s)
	}
}

// TestOpenRefuses: a log and a store that do not belong together are refused, and nothing is changed.
func TestOpenRefuses(t *testing.T) {
	setup := func(t *testing.T) (Config, *record) {
		r := newRecord(1)
		cfg := testConfig(t, r)
		cfg.CatchupEntries = 1
		n := found(t, cfg)
		for i := range 100 { // more than the segments that wait to be recycled
			mustPropose(t, n, make([]byte, 8<<10))
			r.await(t, i+1)
			n.Durable(r.flush())
		}
		n.Stop()
		return cfg, r
	}
	tests := map[string]struct {
		spoil func(t *testing.T, cfg *Config, r *record)
		want  error
	}{
		"log removed":     {func(t *testing.T, cfg *Config, _ *record) { must(t, os.RemoveAll(cfg.Dir)) }, wal.ErrNoLog},
		"store ahead":     {func(_ *testing.T, _ *Config, r *record) { r.durable.Index += 100 }, wal.ErrBehindStore},
		"store behind":    {func(_ *testing.T, _ *Config, r *record) { r.durable.Index, r.durable.Term = 1, 1 }, wal.ErrAheadOfStore},
		"term differs":    {func(_ *testing.T, _ *Config, r *record) { r.durable.Term += 5 }, wal.ErrCorrupt},
		"another member":  {func(_ *testing.T, cfg *Config, _ *record) { cfg.MemberID++ }, wal.ErrOwner},
		"another cluster": {func(_ *testing.T, cfg *Config, _ *record) { cfg.ClusterID++ }, wal.ErrOwner},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cfg, r := setup(t)
			test.spoil(t, &cfg, r)
			before := contents(t, cfg.Dir)
			n, err := Open(cfg)
			if err == nil {
				n.Stop()
			}
			if !errors.Is(err, test.want) {
				t.Errorf("Open = %v, want %v", err, test.want)
			}
			if !errors.Is(test.want, wal.ErrCorrupt) && !bytes.Equal(before, contents(t, cfg.Dir)) {
				t.Error("the directory has changed")
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// contents is all of a directory.
func contents(t *testing.T, dir string) []byte {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	var all []byte
	for _, name := range names {
		b, err := os.ReadFile(name)
		must(t, err)
		all = append(append(all, name...), b...)
	}
	return all
}

// TestConfigReportsEveryFault: one run tells all that is wrong.
func TestConfigReportsEveryFault(t *testing.T) {
	_, err := Open(Config{ElectionTicks: 1})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"MemberID", "Dir", "StateMachine", "ElectionTicks 1"} {
		if !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}
