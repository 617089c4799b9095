package replica

import (
	"encoding/binary"
	"io"

	"go.etcd.io/raft/v3"
)

// maxConfirmed bounds the rounds that wait for the state machine, one of which is added by every round trip: while it is stuck, new reads
// gather in the one waiting round.
const maxConfirmed = 64

// readRound is one confirmation that is shared by all reads that waited when it began.
type readRound struct {
	id    uint64 // unique over all lives of this member; a repeated round gets a new one
	index uint64
	done  chan struct{} // closed when the state machine's applied state is at or above index
}

// reads are the rounds on their way, oldest last to first: confirmed, flight, waiting.
type reads struct {
	nextID    uint64
	waiting   *readRound // not begun; new reads join
	flight    *readRound // asked, not answered
	ticks     int        // since flight was asked
	confirmed []*readRound
}

// init starts the ids at random: the answer to a request of an earlier life may still be on its way, and must not be taken for one of this.
func (r *reads) init(random io.Reader) error {
	var b [8]byte
	_, err := io.ReadFull(random, b[:])
	r.nextID = binary.BigEndian.Uint64(b[:])
	return err
}

// read joins the next round.
func (c *core) read() *readRound {
	if c.reads.waiting == nil {
		c.reads.waiting = &readRound{done: make(chan struct{})}
	}
	r := c.reads.waiting
	c.startRead()
	return r
}

// startRead begins the waiting round if none is in flight.
func (c *core) startRead() {
	r := c.reads.waiting
	if r == nil || c.reads.flight != nil || len(c.reads.confirmed) >= maxConfirmed {
		return
	}
	if c.role == Leader && c.aloneVoter() && !c.faults.readBeforeFirstCommit {
		// Nobody else can have acknowledged anything, and this member acknowledges what it has applied. raft would answer even before
		// it knows, from its first commit, what was committed in earlier terms.
		if c.termApplied() {
			c.reads.waiting = nil
			r.index = c.applied
			close(r.done)
		}
		return
	}
	if c.leader == raft.None {
		return // again when there is one
	}
	c.reads.waiting, c.reads.flight = nil, r
	c.ask()
}

// answersTooEarly tells whether raft would answer a learner's request with an index below
// what was acknowledged: as the only voter it does not wait for an entry of its term, and
// its commit index may be from before a crash.
func (c *core) answersTooEarly() bool {
	return c.role == Leader && c.aloneVoter() && !c.termApplied() && !c.faults.answerBeforeFirstCommit
}

// ask sends the round in flight, under a new id: an answer to an earlier request must not be taken for this one.
func (c *core) ask() {
	c.reads.nextID++
	c.reads.flight.id = c.reads.nextID
	c.reads.ticks = 0
	c.raft.ReadIndex(binary.BigEndian.AppendUint64(nil, c.reads.nextID))
	c.drain()
}

// restartRead asks again after a change of leader or term: the old leader may have forgotten the request.
func (c *core) restartRead() {
	if c.reads.flight != nil && c.leader != raft.None {
		c.ask()
	}
}

// tickReads asks again when a request or its answer seems lost.
func (c *core) tickReads() {
	if c.reads.flight == nil {
		return
	}
	if c.reads.ticks++; c.reads.ticks >= c.cfg.ElectionTicks && c.leader != raft.None {
		c.ask()
	}
}

// readAnswered takes raft's answer to request id.
func (c *core) readAnswered(id, index uint64) {
	r := c.reads.flight
	if r == nil || r.id != id {
		return
	}
	c.reads.flight = nil
	r.index = index
	c.reads.confirmed = append(c.reads.confirmed, r)
	c.finishReads()
}

// finishReads releases confirmed rounds whose index is applied. Indexes ascend, since each round begins after the one before was answered.
func (c *core) finishReads() {
	n := 0
	for n < len(c.reads.confirmed) && c.reads.confirmed[n].index <= c.applied {
		close(c.reads.confirmed[n].done)
		n++
	}
	c.reads.confirmed = c.reads.confirmed[n:]
}
