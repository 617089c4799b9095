package peer

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// queueMessages bounds what waits for one member, in messages: a few rounds of everything that raft keeps in flight.
const queueMessages = 1024

// Member is who messages are for. Its methods may be called by any goroutine.
type Member interface {
	// Receive takes a message; an error is a refusal and ends there.
	Receive(m *raftpb.Message) error
	// ReportSnapshot tells how the sending of a snapshot to another member ended.
	ReportSnapshot(member uint64, failed bool)
	// ReportUnreachable tells that a message to another member was lost.
	ReportUnreachable(member uint64)
}

// Network joins members in one process. The zero value is not usable.
type Network struct {
	pass func(*raftpb.Message) bool

	mu    sync.Mutex
	ports map[uint64]*Port
}

// NewNetwork makes a network. pass decides, before delivery and in the receiver's goroutine, whether a message arrives; nil lets all.
func NewNetwork(pass func(*raftpb.Message) bool) *Network {
	if pass == nil {
		pass = func(*raftpb.Message) bool { return true }
	}
	return &Network{pass: pass, ports: map[uint64]*Port{}}
}

// Port makes id's place in the network, instead of one it had before. It loses all messages for it until Attach.
func (n *Network) Port(id uint64) *Port {
	p := &Port{network: n, id: id, queue: make(chan *raftpb.Message, queueMessages), stop: make(chan struct{}), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[id] = p
	return p
}

// at answers id's attached port, nil if there is none.
func (n *Network) at(id uint64) *Port {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.ports[id]; p != nil && p.member != nil {
		return p
	}
	return nil
}

// Port is one member's place in a network.
type Port struct {
	network *Network
	id      uint64
	member  Member // guarded by network.mu
	queue   chan *raftpb.Message
	stop    chan struct{}
	done    chan struct{} // closed when deliver has ended
}

// Attach begins to deliver messages to m. Once per port.
func (p *Port) Attach(m Member) {
	p.network.mu.Lock()
	p.member = m
	p.network.mu.Unlock()
	go p.deliver(m)
}

// Close ends delivery, when what is being delivered is done. Only for an attached port, once.
func (p *Port) Close() {
	p.network.mu.Lock()
	p.member = nil
	p.network.mu.Unlock()
	close(p.stop)
	<-p.done
}

// Send queues messages for the members they name, or loses them. It never waits and never calls the sender, as it is called under the
// sender's lock.
func (p *Port) Send(messages []*raftpb.Message) {
	for _, m := range messages {
		to := p.network.at(m.GetTo())
		if to != nil {
			select {
			case to.queue <- m:
				continue
			default:
			}
		}
		p.lost(m)
	}
}

// lost reports a lost message to its sender, later and from another goroutine.
func (p *Port) lost(m *raftpb.Message) {
	to, snapshot := m.GetTo(), m.GetType() == raftpb.MsgSnap
	go func() {
		sender := p.network.memberAt(p.id)
		switch {
		case sender == nil:
		case snapshot:
			sender.ReportSnapshot(to, true)
		default:
			sender.ReportUnreachable(to)
		}
	}()
}

func (n *Network) memberAt(id uint64) Member {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.ports[id]; p != nil {
		return p.member
	}
	return nil
}

// deliver is the port's goroutine.
func (p *Port) deliver(to Member) {
	defer close(p.done)
	for {
		select {
		case m := <-p.queue:
			from, snapshot := m.GetFrom(), m.GetType() == raftpb.MsgSnap
			arrived := p.network.pass(m)
			if arrived {
				_ = to.Receive(m) // a refusal is the receiver's affair
			}
			if sender := p.network.memberAt(from); snapshot && sender != nil {
				sender.ReportSnapshot(p.id, !arrived)
			}
		case <-p.stop:
			return
		}
	}
}
