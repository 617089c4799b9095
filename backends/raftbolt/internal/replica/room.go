package replica

import (
	"encoding/binary"
	"fmt"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
	"go.etcd.io/raft/v3/raftpb"
)

// An entry that raft has appended cannot be taken back, so that the log must have room for it: a full disk is met before raft is, here.
//
// What the log takes for certain, without a new file, is wal.Log.Room: at most a segment. Of it, commands leave the last part to reserved ones,
// and those leave the last of it to what raft writes by itself. A command that does not fit waits until the keeper has made
// a spare segment; when there is no room on the disk for one it is dropped with ErrNoSpace. So a full disk stops no member, and commands that free
// room go through for as long as the reserve lasts.
const (
	// reserveParts: one part in so many of a segment is for reserved commands. With the default sizes 4 MiB, some 20,000 deletes one after another.
	reserveParts = 4
	// raftParts: one part in so many is for votes and the empty entry of a new term. With the default sizes 256 KiB, over a thousand restarts.
	raftParts = 64
	// minRaftBytes is the same for small segments, if it is no more than a sixteenth of them.
	minRaftBytes = 2 << 10
	// segmentHead is what no batch can use of a segment, bytes.
	segmentHead = 512
)

// margins are how much of the log's room is kept for raft itself, and how much more for reserved commands, bytes.
func (c *core) margins() (raft, reserved int64) {
	segment := c.log.SegmentBytes()
	raft = min(max(segment/raftParts, minRaftBytes), segment/16)
	return raft, segment/reserveParts - raft
}

// kept takes note of how the keeper's work on the log ended. An error IsShortage.
func (c *core) kept(err error) { c.shortage = err }

// shrinkLog gives room back that the log takes for members that are behind: they get a snapshot instead.
func (c *core) shrinkLog() {
	index := min(c.durable, c.applied)
	c.cutAt = max(c.cutAt, index)
	c.log.Shrink(index)
}

// unwritten is what raft appended and the log may not have written yet, bytes.
func (c *core) unwritten() int64 {
	n := c.writingBytes
	for _, m := range c.appends {
		n += entriesSize(m.GetEntries())
	}
	return n
}

// entriesSize bounds what entries take in the log, bytes.
func entriesSize(entries []*raftpb.Entry) (n int64) {
	for _, e := range entries {
		n += wal.BatchSize(len(e.GetData()))
	}
	return n
}

// proposalSize bounds what a command takes in an entry, bytes.
func proposalSize(p proposal) int64 { return int64(binary.MaxVarintLen32 + len(p.command)) }

// logged bounds what commands of that size together take in the log, bytes. Two entries in a row hold more than EntryBytes: else they were one; but
// one of them may be a configuration change, which is an entry for itself and parts those around it.
func logged(size int64) int64 { return size + (2*size/EntryBytes+3)*wal.BatchSize(1) }

// admit takes from the waiting proposals those that the log has room for, at most batchBytes or one, in order, and drops those that it will have none
// for. The others go on waiting.
func (c *core) admit() []proposal {
	raft, reserve := c.margins()
	room := c.log.Room() - c.unwritten() - raft
	most := c.log.SegmentBytes() - segmentHead - raft - reserve // what a command can take at most of a spare
	if all := logged(int64(c.pendingBytes) + int64(len(c.pending))*proposalSize(proposal{})); all <= min(batchBytes, room-reserve) {
		taken := c.pending
		c.pending, c.pendingBytes = nil, 0
		return taken
	}
	var taken, kept, refused []proposal
	size := int64(0)
	blocked := [2]bool{} // later ones of a kind do not overtake: a large one would wait for ever
	for i, p := range c.pending {
		n := proposalSize(p)
		if size > 0 && size+n > batchBytes {
			kept = append(kept, c.pending[i:]...)
			break
		}
		kind, left := 0, room-logged(size+n)
		if p.reserved {
			kind = 1
		} else {
			left -= reserve
		}
		// What no spare could hold gets a segment of its own; that is for tests with small segments.
		fits := left >= 0 || logged(n) > most && c.shortage == nil
		switch {
		case fits && !blocked[kind]:
			taken = append(taken, p)
			size += n
		case c.shortage != nil:
			refused = append(refused, p)
		default:
			blocked[kind] = true
			kept = append(kept, p)
		}
	}
	c.pending, c.pendingBytes = kept, 0
	for _, p := range kept {
		c.pendingBytes += len(p.command)
	}
	if len(refused) > 0 {
		c.drop(refused, c.shortageError())
	}
	return taken
}

// shortageError is what a command is refused with while the log has no room for it.
func (c *core) shortageError() error {
	if wal.IsFull(c.shortage) {
		return fmt.Errorf("%w: %w", ErrNoSpace, c.shortage)
	}
	return fmt.Errorf("%w: %w", ErrTooManyPending, c.shortage)
}

// lacksRoom tells whether the log has no room for the entries of a message from another member. It is then as if the network had lost it.
func (c *core) lacksRoom(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgProp:
	default:
		return false
	}
	n := entriesSize(m.GetEntries())
	raft, _ := c.margins()
	oversize := n > c.log.SegmentBytes()-segmentHead-raft
	return n > 0 && n > c.log.Room()-c.unwritten()-raft && (c.shortage != nil || !oversize)
}
