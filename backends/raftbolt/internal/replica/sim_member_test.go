package replica

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// simMember is a machine: a disk, a store, and, while it runs, the same core that Node drives.
type simMember struct {
	w     *world
	id    uint64
	disk  *simDisk
	store *simStore

	alive bool
	life  int // counts starts; events of an earlier life do nothing
	core  *core
	reads []simRead

	synced     uint64        // last log index that is synced in this life
	syncedHard wal.HardState // over all lives
	// mostSynced is the highest synced of this life: a later term may cut the log.
	mostSynced uint64
	lastTerm   uint64 // of this life
	lastCommit uint64 // of this life
	wasLeader  bool
	flushing   bool
	keeping    bool
}

// simRead is a linearizable read on its way.
type simRead struct {
	round   *readRound
	mustSee uint64 // index of the newest write acknowledged before it began
}

// lifeIDs is a source of random bytes.
type lifeIDs struct{ rng *rand.Rand }

func (l lifeIDs) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(l.rng.Uint32())
	}
	return len(b), nil
}

func (m *simMember) config() Config {
	return Config{
		ClusterID: 1, MemberID: m.id, Dir: "wal", FS: m.disk, StateMachine: m.store, Transport: simTransport{m},
		TickInterval: 1, ElectionTicks: 10, HeartbeatTicks: 1, Random: lifeIDs{m.w.rng}, Logger: zap.NewNop(),
		SegmentBytes: m.w.segmentBytes, CacheBytes: 2048, CatchupEntries: 5 + m.w.seed%40,
		faults: m.w.faults, skipRepair: m.w.skipRepair,
	}
}

// create makes the log and starts the first life.
func (m *simMember) create() {
	if err := CreateLog(m.config(), m.store.state.index, m.store.state.term); err != nil {
		m.w.fail("member %d: create the log: %v", m.id, err)
	}
	m.start()
}

// start begins a life.
func (m *simMember) start() {
	w := m.w
	m.life++
	m.store.state = m.store.durable
	m.reads, m.wasLeader, m.flushing, m.keeping = nil, false, false, false
	c, err := openCore(m.config())
	if errors.Is(err, errCrash) {
		m.alive = true
		m.crash("crash while starting")
		return
	}
	if err != nil {
		w.fail("member %d does not start: %v", m.id, err)
	}
	m.core, m.alive = c, true
	if c.log.CutTornBatch() {
		w.totals.torn++
	}
	m.synced, m.lastTerm, m.lastCommit = c.log.LastIndex(), c.term, c.committed
	w.logf("member %d starts: term %d, commit %d, log [%d, %d], durable %d, torn %v",
		m.id, c.term, c.committed, c.log.FirstIndex(), c.log.LastIndex(), c.durable, c.log.CutTornBatch())
	if hard := c.hard; hard.Term < m.syncedHard.Term || hard.Term == m.syncedHard.Term && m.syncedHard.Vote != 0 && hard.Vote != m.syncedHard.Vote {
		w.fail("member %d starts with %+v, it had synced %+v", m.id, hard, m.syncedHard)
	}
	m.syncedHard = c.log.HardState() // Open has synced what it found
	m.mostSynced = m.synced
	c.campaignAlone()
	m.housekeep()
	m.pump()
	m.later(w.between(0, simTick), m.tick)
	m.later(w.between(0, 300_000), m.flush)
}

// later runs f unless this life has ended by then.
func (m *simMember) later(micros int64, f func()) {
	life := m.life
	m.w.after(micros, func() {
		if m.alive && m.life == life {
			f()
		}
	})
}

// crash ends the life: the process is killed, or the machine loses power.
func (m *simMember) crash(why string) {
	if !m.alive {
		return
	}
	w := m.w
	m.alive = false
	w.totals.crashes++
	power := !w.chance(3)
	if power {
		w.totals.powerLosses++
	}
	w.logf("member %d: %s, power loss %v", m.id, why, power)
	if m.flushing && m.store.inFlush.index > m.store.durable.index && w.chance(2) {
		// The commit had reached the disk, and nobody was told.
		m.store.durable = m.store.inFlush
	}
	m.disk.restart(power)
	down := w.between(1000, 500_000)
	if w.chance(4) {
		down = w.between(500_000, 8_000_000)
	}
	life := m.life
	w.after(down, func() {
		if !m.alive && m.life == life {
			if w.chance(6) && !w.quiet {
				m.disk.fuse = w.rng.IntN(30) // again, while it starts
			}
			m.start()
		}
	})
}

func (m *simMember) tick() {
	m.core.tick()
	m.pump()
	m.later(m.w.between(simTick*6/10, simTick*14/10), m.tick)
}

// flush commits the state machine's state to its storage, which takes a while.
func (m *simMember) flush() {
	w := m.w
	m.later(w.between(10_000, 1_500_000), m.flush)
	if m.flushing {
		return
	}
	m.flushing = true
	m.store.inFlush = m.store.state
	m.later(w.between(500, 60_000), func() {
		m.flushing = false
		w.totals.flushes++
		if m.store.inFlush.index < m.store.durable.index {
			return // a snapshot came between
		}
		m.store.durable = m.store.inFlush
		m.core.flushed(m.store.durable.index)
		m.housekeep()
		m.pump()
	})
}

// housekeep is what the keeper of a Node does.
func (m *simMember) housekeep() {
	if m.keeping || !m.core.log.NeedsHousekeeping() {
		return
	}
	m.keeping = true
	m.later(m.w.between(10, 5000), func() {
		m.keeping = false
		err := m.core.log.Housekeep()
		if wal.IsFull(err) {
			m.core.shrinkLog()
			err = m.core.log.Housekeep()
		}
		switch {
		case wal.IsFull(err):
			m.w.totals.full++
			m.w.logf("member %d has no spare: %v", m.id, err)
			m.keeping = true
			m.later(1_000_000, func() {
				m.keeping = false
				m.housekeep()
			})
		case err != nil:
			m.stopped(err)
			return
		}
		m.core.kept(err)
		m.pump()
	})
}

// stopped is a failed operation: only the end of the machine may be the cause.
func (m *simMember) stopped(err error) {
	if !errors.Is(err, errCrash) {
		m.w.fail("member %d: %v", m.id, err)
	}
	m.crash("crash within an operation")
}

// read begins a linearizable read.
func (m *simMember) read() {
	m.w.totals.reads++
	mustSee := m.w.ledger.acknowledged
	m.reads = append(m.reads, simRead{m.core.read(), mustSee})
}

// pump gives the core's work to writer and applier, and checks everything.
func (m *simMember) pump() {
	if !m.alive {
		return
	}
	m.startBatch()
	if !m.alive {
		return
	}
	m.startJob()
	m.checkReads()
	m.w.ledger.checkMember(m)
}

func (m *simMember) startBatch() {
	b := m.core.nextBatch()
	if m.core.starved {
		m.housekeep()
	}
	if b == nil {
		return
	}
	if b.snapshot != nil {
		if err := m.store.StageSnapshot(*b.snapshot); err != nil {
			m.w.fail("member %d: %v", m.id, err)
		}
	}
	m.w.ledger.checkBatch(m, b)
	if err := m.core.log.Write(&b.Batch); err != nil {
		m.stopped(err)
		return
	}
	m.w.logf("member %d writes %d entries to %d, %+v", m.id, len(b.Entries), m.core.log.LastIndex(), b.HardState)
	m.housekeep()
	if m.w.answerEarly {
		early := b.responses
		b.responses = nil
		m.core.deliver(early)
		m.startJob()
	}
	micros := m.w.between(50, 2000)
	if m.w.chance(50) {
		micros = m.w.between(50_000, 400_000)
	}
	m.later(micros, func() {
		if err := m.core.log.Sync(); err != nil {
			m.stopped(err)
			return
		}
		m.synced, m.syncedHard = m.core.log.LastIndex(), b.HardState
		m.mostSynced = max(m.mostSynced, m.synced)
		m.core.batchDone(b)
		m.pump()
	})
}

func (m *simMember) startJob() {
	j := m.core.nextJob()
	if j == nil {
		return
	}
	m.later(m.w.between(5, 500), func() {
		saved, err := j.run(m.store, func(cc *raftpb.ConfChange) *raftpb.ConfState { return m.core.changeConf(cc) })
		if err != nil {
			m.w.fail("member %d: %v", m.id, err)
		}
		m.later(m.w.between(0, 100), func() {
			m.core.jobDone(j, saved)
			m.pump()
		})
	})
}

// checkReads: a read that was answered sees all that had been acknowledged before it began.
func (m *simMember) checkReads() {
	kept := m.reads[:0]
	for _, r := range m.reads {
		select {
		case <-r.round.done:
			m.w.totals.confirmed++
			if m.store.state.index < r.mustSee || r.round.index > m.store.state.index {
				m.w.fail("stale read on member %d: it holds %d, answered index %d, %d was acknowledged before",
					m.id, m.store.state.index, r.round.index, r.mustSee)
			}
		default:
			kept = append(kept, r)
		}
	}
	m.reads = kept
}

// simTransport is the model network: it delays, loses, repeats, reorders. Only a proposal is never repeated.
type simTransport struct{ m *simMember }

// Send implements Transport.
func (t simTransport) Send(messages []*raftpb.Message) {
	m, w := t.m, t.m.w
	for _, msg := range messages {
		to := w.members[msg.GetTo()-1]
		w.ledger.checkSend(m, msg)
		copies := 1
		if msg.GetType() != raftpb.MsgProp && w.chance(40) {
			copies = 2
		}
		for range copies {
			t.carry(to, msg)
		}
	}
}

func (t simTransport) carry(to *simMember, msg *raftpb.Message) {
	m, w := t.m, t.m.w
	micros := w.between(100, 3000)
	if w.chance(30) {
		micros = w.between(10_000, 600_000)
	}
	lost := w.lossy > 0 && w.rng.IntN(100) < w.lossy
	life := m.life
	w.after(micros, func() {
		arrived := !lost && to.alive && w.cut[to.id-1] == w.cut[m.id-1]
		if arrived {
			w.logf("member %d receives %v from %d: term %d, index %d, %d entries, commit %d, reject %v", to.id, msg.GetType(), m.id,
				msg.GetTerm(), msg.GetIndex(), len(msg.GetEntries()), msg.GetCommit(), msg.GetReject())
			_ = to.core.receive(msg) // refusals are raft's affair
			to.pump()
		}
		if msg.GetType() == raftpb.MsgSnap && m.alive && m.life == life {
			m.later(w.between(100, 3000), func() {
				m.core.reportSnapshot(to.id, !arrived)
				m.pump()
			})
		}
	})
}

func commandID(c []byte) uint64 { return binary.LittleEndian.Uint64(c) }
