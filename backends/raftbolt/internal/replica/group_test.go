package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"path/filepath"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends/raftbolt/internal/peer"
)

// group is three members in this process, on real directories and real time.
type group struct {
	t       *testing.T
	network *peer.Network
	members []*groupMember
}

type groupMember struct {
	record *record
	cfg    Config
	port   *peer.Port
	node   *Node
}

func newGroup(t *testing.T) *group {
	g := &group{t: t, network: peer.NewNetwork(nil)}
	for id := uint64(1); id <= 3; id++ {
		m := &groupMember{record: newRecord(1, 2, 3)}
		m.cfg = Config{
			ClusterID: 1, MemberID: id, Dir: filepath.Join(t.TempDir(), "wal"), StateMachine: m.record,
			TickInterval: 10 * time.Millisecond, Random: rand.New(rand.NewSource(int64(id))), SegmentBytes: 32 << 10, CatchupEntries: 10,
			// raft's own random time-outs are taken away by TestMain.
			ElectionTicks: 10 + 7*int(id),
		}
		if err := CreateLog(m.cfg, 1, 1); err != nil {
			t.Fatal(err)
		}
		g.members = append(g.members, m)
		g.start(m)
	}
	t.Cleanup(func() {
		for _, m := range g.members {
			g.stop(m)
		}
	})
	return g
}

func (g *group) start(m *groupMember) {
	g.t.Helper()
	m.port = g.network.Port(m.cfg.MemberID)
	m.cfg.Transport = m.port
	n, err := Open(m.cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	m.node = n
	m.port.Attach(n)
}

func (g *group) stop(m *groupMember) {
	if m.node == nil {
		return
	}
	m.port.Close()
	m.node.Stop()
	m.node = nil
	m.record.crash()
}

// leader waits until some running member leads with an entry of its term applied.
func (g *group) leader() *groupMember {
	g.t.Helper()
	timeout := time.After(deadline)
	for {
		var changed []<-chan struct{}
		for _, m := range g.members {
			if m.node == nil {
				continue
			}
			c := m.node.Changed()
			if s := m.node.Status(); s.Role == Leader && s.TermApplied {
				return m
			}
			changed = append(changed, c)
		}
		for len(changed) < 3 {
			changed = append(changed, nil)
		}
		select {
		case <-changed[0]:
		case <-changed[1]:
		case <-changed[2]:
		case <-timeout:
			g.t.Fatalf("no leader in %v", deadline)
		}
	}
}

// put proposes on the leader, again if it is dropped, until the leader has applied it.
func (g *group) put(i int) {
	g.t.Helper()
	command := []byte(fmt.Sprintf("%d %s", i, make([]byte, 1000)))
	for range 100 {
		m := g.leader()
		have := m.record.count()
		dropped := make(chan error, 1)
		if err := m.node.Propose(command, func(err error) { dropped <- err }); err != nil {
			continue
		}
		if m.record.awaitOr(g.t, have+1, dropped) {
			return
		}
	}
	g.t.Fatal("dropped a hundred times")
}

// TestGroup: three members agree, go on without one, bring it back by snapshot, hand over leadership, and read what was written.
func TestGroup(t *testing.T) {
	g := newGroup(t)
	total := 0
	write := func(n int) {
		for range n {
			g.put(total)
			total++
		}
	}
	write(50)
	lead := g.leader()
	var away *groupMember
	for _, m := range g.members {
		if m != lead {
			away = m
		}
	}
	away.record.await(t, 50)
	g.stop(away)
	write(150)
	for _, m := range g.members {
		if m != away {
			m.record.await(t, total)
			m.node.Durable(m.record.flush())
		}
	}
	if first := g.leader().node.log.FirstIndex(); first <= 60 {
		t.Fatalf("the log still begins at %d", first)
	}
	g.start(away)
	away.record.await(t, total)
	if away.record.installs() == 0 {
		t.Error("caught up without a snapshot")
	}

	lead = g.leader()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if err := lead.node.TransferLeadership(ctx, away.cfg.MemberID); err != nil {
		t.Fatal(err)
	}
	write(20)
	for _, m := range g.members {
		if _, err := m.node.ReadIndex(ctx); err != nil {
			t.Fatal(err)
		}
		if have := m.record.count(); have < total {
			t.Errorf("member %d reads %d commands, %d were acknowledged", m.cfg.MemberID, have, total)
		}
	}
	want := g.members[0].record.all()
	for _, m := range g.members[1:] {
		if got := m.record.all(); got != want {
			t.Errorf("members 1 and %d hold different commands", m.cfg.MemberID)
		}
	}
}

// TestNoQuorum: without a majority nothing is applied, and a read waits instead of answering.
func TestNoQuorum(t *testing.T) {
	g := newGroup(t)
	g.put(0)
	lead := g.leader()
	for _, m := range g.members {
		if m != lead {
			g.stop(m)
		}
	}
	_ = lead.node.Propose([]byte("alone"), nil) // dropped or never committed, either is right
	for s := lead.node.Status(); s.Role == Leader; s = lead.node.Status() {
		changed := lead.node.Changed()
		if lead.node.Status().Role == Leader {
			await(t, changed, "stepped down")
		}
	}
	if err := lead.node.Propose([]byte("alone"), nil); !errors.Is(err, ErrNoLeader) {
		t.Errorf("Propose = %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := lead.node.ReadIndex(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ReadIndex = %v", err)
	}
	if n := lead.record.count(); n != 1 {
		t.Errorf("%d commands applied", n)
	}
}
