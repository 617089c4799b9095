package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Format version 2 of segments, 1 of batches. All numbers are little endian; CRC is CRC-32C.
//
// Segment header, at offset 0 of the file, followed by zeros up to 512:
//
//	offset size field
//	0      4    magic "SHML"
//	4      4    format version, 2
//	8      16   life id
//	24     8    sequence number, also in the file's name; when they differ, a recycling was interrupted before the rename
//	32     8    cluster id
//	40     8    member id
//	48     8    founding id
//	56     8    size of the file in bytes: it never changes, so a shorter file was damaged
//	64     8    sequence number of the segment that took batches when this one was made: while this one is empty, that one must be there.
//	            0: there was none
//	72     4    CRC of bytes 0..71
//
// Batch header, at offset 512 and then at each multiple of 8 where the batch before ends:
//
//	0      1    format version, 1
//	1      1    flags: bit 0, the payload begins with a snapshot record
//	2      2    zero
//	4      4    CRC of the payload
//	8      16   life id of the segment
//	24     8    batch number: one more than the batch before, over all segments
//	32     4    payload length in bytes
//	36     4    zero
//	40     8    index of the first entry; without entries, one more than the last index of the log
//	48     8    index of the last entry, and of the log after this batch
//	56     8    term of the entry before the first
//	64     8    hard state: term
//	72     8    hard state: vote
//	80     8    hard state: commit
//	88     4    zero
//	92     4    CRC of bytes 0..91
//
// Payload, then zeros up to a multiple of 8: the snapshot record if there is one, then last-first+1 entries.
//
// Snapshot record: the log's entries before it are void, and the next entry follows this index.
//
//	0      8    index
//	8      8    term
//	16     4    n
//	20     n    raftpb.ConfState
//
// Entry; its index follows from its place:
//
//	0      8    term
//	8      4    n
//	12     1    type, raftpb.EntryType
//	13     n    data
const (
	segmentVersion = 2
	batchVersion   = 1
	segmentMagic   = "SHML"
	segmentSummed  = 72 // bytes under the CRC of a segment header
	segmentHead    = segmentSummed + 4
	firstBatch     = 512 // one sector, so that a batch never shares it with the segment header
	batchHead      = 96
	entryHead      = 13
	snapshotHead   = 20
	flagSnapshot   = 1
	batchAlignment = 8

	// maxPayload bounds one batch; far above what a writer produces (one command, or a few MiB), far below what 4 bytes hold.
	maxPayload = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type lifeID [16]byte

// HardState is raft's durable state beside entries.
type HardState struct {
	Term   uint64
	Vote   uint64
	Commit uint64 // a lower bound of what was committed: a change of it alone is not synced
}

// SnapshotRecord says that the state machine's staged snapshot of (Index, Term) replaces all entries before it.
type SnapshotRecord struct {
	Index, Term uint64
	ConfState   *raftpb.ConfState // immutable
}

// Batch is what one write makes durable.
type Batch struct {
	HardState HardState
	// Snapshot excludes Entries.
	Snapshot *SnapshotRecord
	// Entries have ascending indexes without gaps. The first is at most one above the log's last index; entries of the log at and above it
	// are replaced. They are immutable and kept in the cache.
	Entries []*raftpb.Entry
}

// segmentHeader is the decoded head of a segment file.
type segmentHeader struct {
	life     lifeID
	sequence uint64
	owner    Owner
	size     int64  // bytes
	follows  uint64 // sequence number
}

func (h segmentHeader) encode() []byte {
	b := make([]byte, firstBatch)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[4:], segmentVersion)
	copy(b[8:24], h.life[:])
	binary.LittleEndian.PutUint64(b[24:], h.sequence)
	binary.LittleEndian.PutUint64(b[32:], h.owner.Cluster)
	binary.LittleEndian.PutUint64(b[40:], h.owner.Member)
	binary.LittleEndian.PutUint64(b[48:], h.owner.Founding)
	binary.LittleEndian.PutUint64(b[56:], uint64(h.size))
	binary.LittleEndian.PutUint64(b[64:], h.follows)
	binary.LittleEndian.PutUint32(b[segmentSummed:], checksum(b[:segmentSummed]))
	return b
}

// decodeSegmentHeader answers ErrVersion for another version's segment, ErrCorrupt for anything else that is not a segment.
func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	var h segmentHeader
	if len(b) < segmentHead || string(b[:4]) != segmentMagic {
		return h, fmt.Errorf("%w: no segment header", ErrCorrupt)
	}
	// The version comes before the checksum, whose place is the version's own affair.
	if v := binary.LittleEndian.Uint32(b[4:]); v != segmentVersion {
		return h, fmt.Errorf("%w %d, this program knows %d", ErrVersion, v, segmentVersion)
	}
	if checksum(b[:segmentSummed]) != binary.LittleEndian.Uint32(b[segmentSummed:]) {
		return h, fmt.Errorf("%w: checksum of the segment header", ErrCorrupt)
	}
	copy(h.life[:], b[8:24])
	h.sequence = binary.LittleEndian.Uint64(b[24:])
	h.owner.Cluster = binary.LittleEndian.Uint64(b[32:])
	h.owner.Member = binary.LittleEndian.Uint64(b[40:])
	h.owner.Founding = binary.LittleEndian.Uint64(b[48:])
	h.size = int64(binary.LittleEndian.Uint64(b[56:]))
	h.follows = binary.LittleEndian.Uint64(b[64:])
	return h, nil
}

// batchHeader is the decoded head of a batch.
type batchHeader struct {
	flags       byte
	payloadCRC  uint32
	life        lifeID
	number      uint64
	length      uint32 // of the payload, bytes
	first, last uint64
	prevTerm    uint64
	hard        HardState
}

// size is what the batch takes in the file, bytes.
func (h *batchHeader) size() int64 { return align(batchHead + int64(h.length)) }

func align(n int64) int64 { return (n + batchAlignment - 1) &^ (batchAlignment - 1) }

func (h *batchHeader) encode(b []byte) {
	clear(b[:batchHead])
	b[0], b[1] = batchVersion, h.flags
	binary.LittleEndian.PutUint32(b[4:], h.payloadCRC)
	copy(b[8:24], h.life[:])
	binary.LittleEndian.PutUint64(b[24:], h.number)
	binary.LittleEndian.PutUint32(b[32:], h.length)
	binary.LittleEndian.PutUint64(b[40:], h.first)
	binary.LittleEndian.PutUint64(b[48:], h.last)
	binary.LittleEndian.PutUint64(b[56:], h.prevTerm)
	binary.LittleEndian.PutUint64(b[64:], h.hard.Term)
	binary.LittleEndian.PutUint64(b[72:], h.hard.Vote)
	binary.LittleEndian.PutUint64(b[80:], h.hard.Commit)
	binary.LittleEndian.PutUint32(b[92:], crc32.Checksum(b[:92], castagnoli))
}

// decodeBatchHeader tells whether b begins with a sound batch header of this format.
func decodeBatchHeader(b []byte) (h batchHeader, ok bool) {
	if len(b) < batchHead || b[0] != batchVersion ||
		crc32.Checksum(b[:92], castagnoli) != binary.LittleEndian.Uint32(b[92:]) {
		return h, false
	}
	h.flags = b[1]
	h.payloadCRC = binary.LittleEndian.Uint32(b[4:])
	copy(h.life[:], b[8:24])
	h.number = binary.LittleEndian.Uint64(b[24:])
	h.length = binary.LittleEndian.Uint32(b[32:])
	h.first = binary.LittleEndian.Uint64(b[40:])
	h.last = binary.LittleEndian.Uint64(b[48:])
	h.prevTerm = binary.LittleEndian.Uint64(b[56:])
	h.hard.Term = binary.LittleEndian.Uint64(b[64:])
	h.hard.Vote = binary.LittleEndian.Uint64(b[72:])
	h.hard.Commit = binary.LittleEndian.Uint64(b[80:])
	return h, h.length <= maxPayload && h.first > 0 && h.first <= h.last+1 && h.last+1 != 0
}

// payloadSize is the encoded length of b's payload, bytes.
func payloadSize(b *Batch) int {
	n := 0
	if b.Snapshot != nil {
		n += snapshotHead + proto.Size(b.Snapshot.ConfState)
	}
	for _, e := range b.Entries {
		n += entryHead + len(e.GetData())
	}
	return n
}

// appendPayload appends b's payload to buf.
func appendPayload(buf []byte, b *Batch) ([]byte, error) {
	if s := b.Snapshot; s != nil {
		buf = binary.LittleEndian.AppendUint64(buf, s.Index)
		buf = binary.LittleEndian.AppendUint64(buf, s.Term)
		buf = binary.LittleEndian.AppendUint32(buf, uint32(proto.Size(s.ConfState)))
		var err error
		if buf, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(buf, s.ConfState); err != nil {
			return nil, err
		}
	}
	for _, e := range b.Entries {
		buf = binary.LittleEndian.AppendUint64(buf, e.GetTerm())
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(e.GetData())))
		buf = append(buf, byte(e.GetType()))
		buf = append(buf, e.GetData()...)
	}
	return buf, nil
}

// decodeBatch decodes the batch at the beginning of b. Entries' data are slices of b. ok is false if it is not whole and sound; the header
// is meaningful if it alone is (headOK).
func decodeBatch(b []byte) (h batchHeader, out Batch, headOK, ok bool) {
	if h, headOK = decodeBatchHeader(b); !headOK || h.size() > int64(len(b)) {
		return h, out, headOK, false
	}
	payload := b[batchHead : batchHead+int(h.length)]
	if crc32.Checksum(payload, castagnoli) != h.payloadCRC {
		return h, out, true, false
	}
	out.HardState = h.hard
	if h.flags&flagSnapshot != 0 {
		if out.Snapshot, payload, ok = decodeSnapshot(payload); !ok {
			return h, out, true, false
		}
	}
	count := h.last + 1 - h.first
	if count > uint64(len(payload)/entryHead) {
		return h, out, true, false
	}
	entries := make([]*raftpb.Entry, 0, count)
	for index := h.first; index <= h.last; index++ {
		if len(payload) < entryHead {
			return h, out, true, false
		}
		n := int64(binary.LittleEndian.Uint32(payload[8:]))
		if int64(len(payload)) < entryHead+n {
			return h, out, true, false
		}
		e := &raftpb.Entry{
			Term:  new(binary.LittleEndian.Uint64(payload)),
			Index: new(index),
			Type:  raftpb.EntryType(payload[12]).Enum(),
		}
		if n > 0 {
			e.Data = payload[entryHead : entryHead+n : entryHead+n]
		}
		entries = append(entries, e)
		payload = payload[entryHead+n:]
	}
	out.Entries = entries
	return h, out, true, len(payload) == 0
}

func decodeSnapshot(b []byte) (*SnapshotRecord, []byte, bool) {
	if len(b) < snapshotHead {
		return nil, nil, false
	}
	n := int64(binary.LittleEndian.Uint32(b[16:]))
	if int64(len(b)) < snapshotHead+n {
		return nil, nil, false
	}
	s := &SnapshotRecord{
		Index:     binary.LittleEndian.Uint64(b),
		Term:      binary.LittleEndian.Uint64(b[8:]),
		ConfState: &raftpb.ConfState{},
	}
	if proto.Unmarshal(b[snapshotHead:snapshotHead+n], s.ConfState) != nil {
		return nil, nil, false
	}
	return s, b[snapshotHead+n:], true
}
