package replica

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Shape of a world, virtual time in microseconds.
const (
	simTick         = 100_000
	simProposals    = 500 // accepted ones, at least
	simCrashes      = 3   // at least
	simSegmentBytes = 6 << 10
	// simFillSegmentBytes: where disks fill up, a segment holds every entry, and a reserve with room for some elections.
	simFillSegmentBytes = 32 << 10
	simEventLimit       = 400_000     // a world that takes more has stopped making progress
	simConvergeMicros   = 120_000_000 // after healing
	simLearners         = 3           // machines, at most, that join as learners
)

// totals count what happened in worlds, so that nobody takes an idle simulator for a green one.
type totals struct {
	seeds, proposals, acknowledged, reads        int
	crashes, powerLosses, torn, elections        int
	snapshotsMade, snapshots, flushes, confirmed int
	dropped, events                              int
	full, refused                                int // tries to make a spare on a full disk; proposals refused for it
	learners, removals, learned                  int // learners added, removed; entries that learners applied
}

func (t *totals) add(o totals) {
	t.seeds += o.seeds
	t.proposals += o.proposals
	t.acknowledged += o.acknowledged
	t.reads += o.reads
	t.crashes += o.crashes
	t.powerLosses += o.powerLosses
	t.torn += o.torn
	t.elections += o.elections
	t.snapshotsMade += o.snapshotsMade
	t.snapshots += o.snapshots
	t.flushes += o.flushes
	t.confirmed += o.confirmed
	t.dropped += o.dropped
	t.events += o.events
	t.full += o.full
	t.refused += o.refused
	t.learners += o.learners
	t.removals += o.removals
	t.learned += o.learned
}

// world is a group of members on virtual time, in one goroutine, wholly determined by its seed.
type world struct {
	seed   uint64
	rng    *rand.Rand
	now    int64
	events eventHeap
	serial int

	members []*simMember // the voters first, then those that may learn
	voters  int
	faults  faults
	direct  bool // check the order of sync, answer, flush and cut itself, beside the consequences

	answerEarly bool // planted: responses go out between write and sync
	skipRepair  bool // planted: a torn tail stays

	fills        bool // disks fill up
	segmentBytes int64

	quiet  bool   // the storm is over: no more crashes, losses, partitions
	cut    []bool // by member: partitioned from the rest
	lossy  int    // messages lost, per cent
	nextID uint64

	ledger  ledger
	totals  totals
	verbose bool
	log     strings.Builder
}

// simFailure is what a violated property panics with.
type simFailure struct{ text string }

func newWorld(seed uint64) *world {
	w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 0x5eed))}
	w.totals.seeds = 1
	size := 1
	if seed%2 == 0 {
		size = 3
	}
	w.segmentBytes = simSegmentBytes
	if w.fills = seed%5 == 0; w.fills {
		w.segmentBytes = simFillSegmentBytes
	}
	w.voters = size
	w.lossy = w.rng.IntN(12)
	var voters []uint64
	for i := range size {
		voters = append(voters, uint64(i+1))
	}
	first := simState{index: 1, term: 1, conf: ConfState{Voters: voters}}
	w.ledger = newLedger(first)
	for range voters {
		w.addMachine(first)
	}
	return w
}

// addMachine makes a machine with the next id, whose store holds state.
func (w *world) addMachine(state simState) *simMember {
	m := &simMember{w: w, id: uint64(len(w.members) + 1), disk: newSimDisk(w.rng)}
	m.store = &simStore{w: w, m: m, state: state, durable: state}
	w.members, w.cut = append(w.members, m), append(w.cut, false)
	return m
}

// belongs tells whether m is in the configuration of a leader.
func (w *world) belongs(m *simMember) bool {
	l := w.leader()
	return m.id <= uint64(w.voters) || l != nil && slices.Contains(l.store.state.conf.Learners, m.id)
}

// event is a step at a time. Equal times keep the order of their making.
type event struct {
	at     int64
	serial int
	run    func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].serial < h[j].serial
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = event{}
	*h = (*h)[:last]
	return e
}

func (w *world) after(micros int64, run func()) {
	w.serial++
	heap.Push(&w.events, event{w.now + micros, w.serial, run})
}

// between is uniform in [lo, hi].
func (w *world) between(lo, hi int64) int64 { return lo + w.rng.Int64N(hi-lo+1) }

// chance is true in one of n cases.
func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 }

func (w *world) logf(format string, v ...any) {
	if w.verbose {
		fmt.Fprintf(&w.log, "%10d  ", w.now)
		fmt.Fprintf(&w.log, format, v...)
		w.log.WriteByte('\n')
	}
}

func (w *world) fail(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	w.logf("FAILED: %s", text)
	panic(simFailure{text})
}

// run runs the world to its end and answers the first violated property.
func (w *world) run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			if f, ok := r.(simFailure); ok {
				err = fmt.Errorf("seed %d, at %d µs: %s", w.seed, w.now, f.text)
				return
			}
			w.logf("PANIC: %v", r)
			err = fmt.Errorf("seed %d, at %d µs: panic: %v", w.seed, w.now, r)
		}
	}()
	for _, m := range w.members {
		m.create()
	}
	w.after(w.between(0, 1000), w.client)
	w.after(w.between(0, 1000), w.reader)
	w.after(w.between(100_000, 1_000_000), w.storm)
	for w.totals.proposals < simProposals || w.totals.crashes < simCrashes {
		w.step()
	}
	w.settle()
	return nil
}

func (w *world) step() {
	e := heap.Pop(&w.events).(event)
	w.now = e.at
	if w.totals.events++; w.totals.events > simEventLimit {
		w.fail("no end after %d events", w.totals.events)
	}
	e.run()
}

// settle heals everything and waits until all members hold the same, which must contain all that was acknowledged.
func (w *world) settle() {
	w.logf("settle")
	w.quiet, w.lossy = true, 0
	clear(w.cut)
	for _, m := range w.members {
		m.disk.fuse, m.disk.limit = -1, 0
		if !m.alive {
			m.start()
		}
	}
	limit := w.now + simConvergeMicros
	var last uint64
	var proposed int64
	for w.now < limit {
		w.step()
		if last == 0 {
			if m := w.leader(); m != nil && m.core.termApplied() {
				last, proposed = w.propose(m), w.now
			}
			continue
		}
		// One that was handed to raft is lost without a word when its leader steps down.
		if p := w.ledger.proposals[last]; p.dropped || p.index == 0 && w.now > proposed+simConvergeMicros/10 {
			last = 0
		} else if p.index > 0 && w.agreed(max(p.index, w.ledger.acknowledged)) {
			w.ledger.checkLogs(w)
			w.ledger.checkEnd(w)
			return
		}
	}
	w.fail("no agreement %d µs after healing", simConvergeMicros)
}

// agreed tells whether every member has applied index.
func (w *world) agreed(index uint64) bool {
	for _, m := range w.members {
		if w.belongs(m) && m.store.state.index < index {
			return false
		}
	}
	return true
}

// leader is some member that believes to lead.
func (w *world) leader() *simMember {
	for _, m := range w.members {
		if m.alive && m.core.role == Leader {
			return m
		}
	}
	return nil
}

// client proposes in bursts, mostly to a leader.
func (w *world) client() {
	if w.quiet {
		return
	}
	m := w.members[w.rng.IntN(len(w.members))]
	if l := w.leader(); l != nil && !w.chance(5) {
		m = l
	}
	if m.alive {
		for range 1 + w.rng.IntN(3) {
			w.propose(m)
		}
		if w.chance(60) {
			w.proposeConf(m)
		}
		m.pump()
	}
	w.after(w.between(200, 30_000), w.client)
}

// propose gives m a new command and answers its id, 0 if it was refused.
func (w *world) propose(m *simMember) uint64 {
	w.nextID++
	id := w.nextID
	size := 8 + w.rng.IntN(80)
	if w.fills {
		size = 8 + w.rng.IntN(1000)
	} else if w.chance(100) {
		size = 3000 + w.rng.IntN(6000) // up to more than a segment
	}
	command := make([]byte, size)
	binary.LittleEndian.PutUint64(command, id)
	w.ledger.proposals[id] = &simProposal{member: m, life: m.life, order: len(w.ledger.proposals), reserved: w.fills && w.chance(4)}
	err := m.core.propose(proposal{command: command, reserved: w.ledger.proposals[id].reserved, dropped: func(err error) {
		if errors.Is(err, ErrNoSpace) {
			w.totals.refused++
		}
		w.dropped(id)
	}})
	if err != nil {
		w.dropped(id)
		return 0
	}
	w.totals.proposals++
	return id
}

// proposeConf proposes a change: of nothing, or that a machine becomes a learner or is none any more. The state machines refuse one in two.
func (w *world) proposeConf(m *simMember) {
	w.nextID++
	change := ConfChange{Kind: UpdateMember, Member: m.id, Context: []byte{byte(w.nextID)}}
	switch machines := w.members[w.voters:]; {
	case w.chance(3):
	case len(machines) < simLearners && w.chance(2):
		learner := w.addMachine(simState{})
		learner.create()
		change.Kind, change.Member = AddLearner, learner.id
	case len(machines) > 0:
		change.Kind, change.Member = AddLearner, machines[w.rng.IntN(len(machines))].id
		if slices.Contains(m.store.state.conf.Learners, change.Member) {
			change.Kind = RemoveMember
		}
	}
	_ = m.core.proposeConfChange(change, nil) // refused without a leader, dropped while another is under way
}

// reader asks for linearizable reads.
func (w *world) reader() {
	if w.quiet {
		return
	}
	for _, m := range w.members {
		if m.alive && w.chance(2) {
			m.read()
			m.pump()
		}
	}
	w.after(w.between(1000, 80_000), w.reader)
}

// fill lets a member's disk be full for a while: no file can grow, or by little.
func (w *world) fill(m *simMember) {
	m.disk.limit = m.disk.used() + w.rng.IntN(simFillSegmentBytes)
	w.logf("disk of member %d is full", m.id)
	w.after(w.between(500_000, 6_000_000), func() { m.disk.limit = 0 })
}

// storm crashes machines, cuts the network, moves leadership.
func (w *world) storm() {
	if w.fills && w.chance(2) {
		w.fill(w.members[w.rng.IntN(len(w.members))])
	}
	if w.quiet {
		return
	}
	m := w.members[w.rng.IntN(len(w.members))]
	if l := w.leader(); l != nil && w.chance(2) {
		m = l
	}
	switch n := w.rng.IntN(10); {
	case n < 3:
		m.crash("crash")
	case n < 6:
		if m.alive {
			m.disk.fuse = w.rng.IntN(25) // at one of its next operations on files
		}
	case n < 7:
		for _, m := range w.members {
			if w.chance(2) {
				m.crash("crash of several")
			}
		}
	case n < 9:
		for i := range w.cut {
			w.cut[i] = w.chance(2)
		}
		w.lossy = w.rng.IntN(20)
		w.logf("partition %v, loss %d %%", w.cut, w.lossy)
		w.after(w.between(100_000, 4_000_000), func() { clear(w.cut) })
	default:
		if m.alive {
			m.core.transfer(w.members[w.rng.IntN(len(w.members))].id)
			m.pump()
		}
	}
	w.after(w.between(50_000, 1_500_000), w.storm)
}
