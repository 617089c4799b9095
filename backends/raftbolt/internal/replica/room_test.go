package replica

import (
	"errors"
	"fmt"
	"math/rand"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// growFS is a disk on which, while cause is set, no file can grow; what is written out already can be overwritten.
type growFS struct {
	wal.OS
	cause atomic.Pointer[syscall.Errno]
}

func (f *growFS) Create(name string) (wal.File, error) { return f.wrap(f.OS.Create(name)) }
func (f *growFS) Open(name string) (wal.File, error)   { return f.wrap(f.OS.Open(name)) }

func (f *growFS) wrap(file wal.File, err error) (wal.File, error) { return &growFile{file, f}, err }

type growFile struct {
	wal.File
	fs *growFS
}

func (f *growFile) WriteAt(b []byte, at int64) (int, error) {
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	if cause := f.fs.cause.Load(); cause != nil && at+int64(len(b)) > size {
		return 0, *cause
	}
	return f.File.WriteAt(b, at)
}

func (f *growFS) set(cause syscall.Errno) {
	if cause == 0 {
		f.cause.Store(nil)
		return
	}
	f.cause.Store(&cause)
}

// try proposes a command and answers how it ended: nil when it was applied.
func try(t *testing.T, n *Node, r *record, command []byte, reserved bool) error {
	t.Helper()
	propose := n.Propose
	if reserved {
		propose = n.ProposeReserved
	}
	dropped, have := make(chan error, 1), r.count()
	if err := propose(command, func(err error) { dropped <- err }); err != nil {
		return err
	}
	for {
		r.mu.Lock()
		changed, count := r.changed, len(r.commands)
		r.mu.Unlock()
		if count > have {
			return nil
		}
		select {
		case err := <-dropped:
			return err
		case <-changed:
		case <-n.Done():
			t.Fatalf("the node stopped: %v", n.Err())
		}
	}
}

// TestFullDiskStopsNoNode names the fault that a node died of a full disk once its log's spare segment was used up: now what does not fit is
// refused, reserved commands go through, also after a restart without room, nothing is lost, and with room all goes on.
func TestFullDiskStopsNoNode(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	fs := &growFS{}
	cfg.FS = fs
	n := found(t, cfg)
	fs.set(syscall.ENOSPC)
	fill := func() {
		t.Helper()
		const most = 1000 // far more than what the log has room for
		for i := range most {
			if err := try(t, n, r, make([]byte, 1000+i%5000), false); err != nil {
				if !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("refused with %v", err)
				}
				return
			}
		}
		t.Fatalf("%d commands went into a full log", most)
	}
	fill()
	for range 3 {
		for range 5 {
			if err := try(t, n, r, []byte("delete"), true); err != nil {
				t.Fatalf("a reserved command: %v", err)
			}
		}
		have := r.all()
		n.Stop()
		r.crash()
		n = start(t, cfg)
		if err := n.WaitApplied(t.Context(), n.Status().Committed); err != nil {
			t.Fatal(err)
		}
		if r.all() != have {
			t.Fatal("the restart on a full disk lost or invented commands")
		}
		fill()
	}
	// Many at once: what is in flight together must not exceed the reserve, either.
	ends := make(chan error, 500)
	for range cap(ends) {
		if err := n.ProposeReserved(make([]byte, 1000), func(err error) { ends <- err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ends; !errors.Is(err, ErrNoSpace) {
		t.Fatalf("dropped with %v", err)
	}
	fs.set(0)
	for err := ErrNoSpace; errors.Is(err, ErrNoSpace); {
		err = try(t, n, r, []byte("put"), false)
		if err != nil && !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
	}
	n.Stop()
	have := r.all()
	r.crash()
	n = start(t, cfg)
	// Of the many, some may have been in the log and not yet applied.
	if err := n.WaitApplied(t.Context(), n.Status().Committed); err != nil || !strings.HasPrefix(r.all(), have) {
		t.Errorf("the restart lost commands; %v", err)
	}
}

// TestFullDiskFreesTheLog: segments that are only kept for slow members are used again before a command is refused.
func TestFullDiskFreesTheLog(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	fs := &growFS{}
	cfg.FS = fs
	n := found(t, cfg)
	for range 100 {
		if err := try(t, n, r, make([]byte, 3000), false); err != nil {
			t.Fatal(err)
		}
	}
	fs.set(syscall.EDQUOT)
	for i := range 200 {
		r.flush()
		n.Durable(r.Durable().Index)
		if err := try(t, n, r, make([]byte, 3000), false); err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
}

// TestNoFilesLeft: a node that may open no more files refuses commands before it needs one, and goes on when it may again.
func TestNoFilesLeft(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	fs := &growFS{}
	cfg.FS = fs
	n := found(t, cfg)
	fs.set(syscall.EMFILE)
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		err = try(t, n, r, make([]byte, 3000), false)
	}
	if !errors.Is(err, ErrTooManyPending) {
		t.Fatalf("refused with %v", err)
	}
	fs.set(0)
	for errors.Is(err, ErrTooManyPending) {
		err = try(t, n, r, []byte("put"), false)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestFaultOfTheSpareIsFinal names the fault that an I/O error was taken for a full disk while a spare segment was made, and tried again for ever.
func TestFaultOfTheSpareIsFinal(t *testing.T) {
	r := newRecord(1)
	cfg := testConfig(t, r)
	fs := &growFS{}
	cfg.FS = fs
	n := found(t, cfg)
	fs.set(syscall.EIO)
	for i := range 100 {
		err := n.Propose(make([]byte, 3000), nil)
		if errors.Is(err, ErrStopped) {
			break
		}
		if err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	await(t, n.Done(), "done")
	if err := n.Err(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Err = %v", err)
	}
}

// capture is a Transport that keeps what is sent.
type capture struct{ sent []*raftpb.Message }

func (c *capture) Send(messages []*raftpb.Message) { c.sent = append(c.sent, messages...) }

// TestReadAnswerOfAnEarlierLife names a stale read: a leader's answer to a follower's read request arrived after the follower had started again, whose
// first request had the same id.
func TestReadAnswerOfAnEarlierLife(t *testing.T) {
	random, dir := rand.New(rand.NewSource(1)), filepath.Join(t.TempDir(), "wal")
	live := func() (*core, *capture) {
		out := &capture{}
		cfg := Config{
			ClusterID: 1, MemberID: 1, Dir: dir, StateMachine: newRecord(1, 2, 3), Transport: out,
			TickInterval: 1, ElectionTicks: 10, HeartbeatTicks: 1, Random: random, Logger: zap.NewNop(), CatchupEntries: 1,
		}
		if found, err := LogExists(dir); err != nil || !found {
			if err := CreateLog(cfg, 1, 1); err != nil {
				t.Fatal(err)
			}
		}
		c, err := openCore(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.log.Close() })
		if err := c.receive(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(3)), To: new(uint64(1)), Term: new(uint64(2))}); err != nil {
			t.Fatal(err)
		}
		return c, out
	}
	request := func(c *capture) []byte {
		for _, m := range c.sent {
			if m.GetType() == raftpb.MsgReadIndex {
				return m.GetEntries()[0].GetData()
			}
		}
		t.Fatal(fmt.Sprint("no read request in ", c.sent))
		return nil
	}
	first, sent := live()
	first.read()
	late := &raftpb.Message{
		Type: raftpb.MsgReadIndexResp.Enum(), From: new(uint64(3)), To: new(uint64(1)), Term: new(uint64(2)), Index: new(uint64(1)),
		Entries: []*raftpb.Entry{{Data: request(sent)}},
	}
	second, sent := live()
	round := second.read()
	_ = request(sent)
	if err := second.receive(late); err != nil {
		t.Fatal(err)
	}
	select {
	case <-round.done:
		t.Error("the answer to a request of an earlier life was taken for this one's")
	default:
	}
}
