package etcdapi

import (
	"encoding/binary"
	"math/bits"

	"google.golang.org/grpc/mem"

	"github.com/etcdshim/shim/backends"
)

// Wire tags (field number << 3 | wire type) of the messages that are built by
// hand, by etcdserverpb/rpc.proto. Fields are written in ascending order, as
// protobuf's own encoder does.
const (
	tagHeader = 1<<3 | 2 // every response

	tagClusterID = 1 << 3 // ResponseHeader
	tagMemberID  = 2 << 3
	tagRevision  = 3 << 3
	tagRaftTerm  = 4 << 3

	tagRangeMore  = 3 << 3 // RangeResponse; its kvs carry their tag in the chunks
	tagRangeCount = 4 << 3

	tagStreamRange = 1<<3 | 2 // RangeStreamResponse.range_response

	tagPutPrevKV = 2<<3 | 2 // PutResponse

	tagDeleted       = 2 << 3 // DeleteRangeResponse
	tagDeletePrevKVs = 3<<3 | 2

	tagSucceeded = 2 << 3 // TxnResponse
	tagResponses = 3<<3 | 2

	tagOpRange  = 1<<3 | 2 // ResponseOp
	tagOpPut    = 2<<3 | 2
	tagOpDelete = 3<<3 | 2
	tagOpTxn    = 4<<3 | 2

	tagWatchID      = 2 << 3 // WatchResponse; its events carry their tag
	tagCreated      = 3 << 3
	tagCanceled     = 4 << 3
	tagCompactRev   = 5 << 3
	tagCancelReason = 6<<3 | 2
	tagFragment     = 7 << 3

	tagLeaseID  = 2 << 3 // LeaseKeepAliveResponse
	tagLeaseTTL = 3 << 3
)

// maxHeaderBytes is the largest encoded header with its tag and length: four
// varints of ten bytes with their tags.
const maxHeaderBytes = 2 + 4*11

// maxVarintBytes is the largest varint field with a tag of one byte.
const maxVarintBytes = 11

// appendVarint appends a numeric field, which protobuf leaves out when zero.
func appendVarint(b []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, tag), v)
}

func appendBool(b []byte, tag byte, v bool) []byte {
	if !v {
		return b
	}
	return append(b, tag, 1)
}

// appendBytes appends a length-delimited field, present even when empty.
func appendBytes[T string | []byte](b []byte, tag byte, v T) []byte {
	b = binary.AppendUvarint(append(b, tag), uint64(len(v)))
	return append(b, v...)
}

// appendHeader appends the header field of a response.
func appendHeader(b []byte, h backends.Header) []byte {
	b = append(b, tagHeader, 0)
	start := len(b)
	b = appendVarint(b, tagClusterID, h.ClusterID)
	b = appendVarint(b, tagMemberID, h.MemberID)
	b = appendVarint(b, tagRevision, uint64(h.Revision))
	b = appendVarint(b, tagRaftTerm, h.Term)
	b[start-1] = byte(len(b) - start) // at most 44
	return b
}

func sizeVarint(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// sizeField is the size of a numeric field that is left out when zero.
func sizeField(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + sizeVarint(v)
}

// sizeBytes is the size of a length-delimited field with n bytes in it.
func sizeBytes(n int) int { return 1 + sizeVarint(uint64(n)) + n }

func sizeHeader(h backends.Header) int {
	return 2 + sizeField(h.ClusterID) + sizeField(h.MemberID) + sizeField(uint64(h.Revision)) + sizeField(h.Term)
}

func encodeKeepAlive(h backends.Header, id, ttlSeconds int64) *reply {
	b := make([]byte, 0, sizeHeader(h)+sizeField(uint64(id))+sizeField(uint64(ttlSeconds)))
	b = appendHeader(b, h)
	b = appendVarint(b, tagLeaseID, uint64(id))
	return whole(appendVarint(b, tagLeaseTTL, uint64(ttlSeconds)))
}

// reply is an answer in wire form. It is encoded once, by codec, which hands its
// pieces over to grpc.
type reply struct {
	pieces mem.BufferSlice
	size   int
	// count is what the log of slow requests tells of the answer; see logStats.
	count int64
	one   [1]mem.Buffer // room for the usual case
}

// whole is a reply of one piece.
func whole(b []byte) *reply {
	r := &reply{size: len(b)}
	r.one[0] = mem.SliceBuffer(b)
	r.pieces = r.one[:]
	return r
}

// take hands the pieces over; the reply is empty afterwards.
func (r *reply) take() mem.BufferSlice {
	p := r.pieces
	r.pieces = nil
	return p
}

// assembler builds a reply of bytes of its own and pieces of others.
type assembler struct {
	pieces mem.BufferSlice
	small  []byte // written since the last foreign piece
	size   int    // of pieces
}

// foreign appends a piece of records, which the assembler now owns. A piece that
// was not charged is copied, since it belongs to a small answer.
func (a *assembler) foreign(p piece) {
	data := p.chunk.Bytes()
	if p.charge == nil || cap(data) < copiedBytes {
		a.small = append(a.small, data...)
		p.release()
		return
	}
	a.flush()
	a.pieces = append(a.pieces, newHeld(p.chunk, p.charge))
	a.size += len(data)
}

// flush closes the bytes written so far.
func (a *assembler) flush() {
	if len(a.small) > 0 {
		a.pieces = append(a.pieces, mem.SliceBuffer(a.small))
		a.size += len(a.small)
		a.small = nil
	}
}

func (a *assembler) reply(count int64) *reply {
	if len(a.pieces) == 0 {
		r := whole(a.small)
		r.count = count
		return r
	}
	a.flush()
	return &reply{pieces: a.pieces, size: a.size, count: count}
}
