package etcd

import (
	"context"
	"io"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/etcdshim/shim/backends"
)

// The fields of etcd's answers that are cut out undecoded, by message, as they are
// tagged on the wire (api/etcdserverpb/rpc.proto). Any other is skipped, one of
// another wire type too, as protobuf does.
const (
	varint = uint64(protowire.VarintType)
	length = uint64(protowire.BytesType)

	headerClusterID = 1<<3 | varint
	headerMemberID  = 2<<3 | varint
	headerRevision  = 3<<3 | varint
	headerTerm      = 4<<3 | varint

	anyHeader = 1<<3 | length // of every message below that has one

	rangeKVs   = 2<<3 | length
	rangeMore  = 3<<3 | varint
	rangeCount = 4<<3 | varint

	rangeStreamResponse = 1<<3 | length // of RangeStreamResponse, without a header

	recordKey = 1<<3 | length // of KeyValue, without a header

	putPrevKV = 2<<3 | length

	deleteDeleted = 2<<3 | varint
	deletePrevKVs = 3<<3 | length

	txnSucceeded = 2<<3 | varint
	txnResponses = 3<<3 | length

	opRange  = 1<<3 | length // of ResponseOp, without a header
	opPut    = 2<<3 | length
	opDelete = 3<<3 | length
	opTxn    = 4<<3 | length

	watchID              = 2<<3 | varint
	watchCreated         = 3<<3 | varint
	watchCanceled        = 4<<3 | varint
	watchCompactRevision = 5<<3 | varint
	watchCancelReason    = 6<<3 | length
	watchEvents          = 11<<3 | length
)

// field is one field of an encoded message. It shares the message's bytes.
type field struct {
	tag uint64
	// frame is the whole field, tag and length included.
	frame []byte
	// bytes is the content of a length-delimited field, varint the value of a varint.
	bytes  []byte
	varint uint64
}

func (f *field) bool() bool   { return f.varint != 0 }
func (f *field) int64() int64 { return int64(f.varint) }

// framed tells whether frame begins as other packages expect it: with its tag in
// the shortest form, one byte for all that are handed on.
func (f *field) framed() bool { return uint64(f.frame[0]) == f.tag }

// eachField calls visit for each field of a message, in order.
func eachField(what string, message []byte, visit func(f field) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return malformed(what)
		}
		size := protowire.ConsumeFieldValue(number, kind, message[n:])
		if size < 0 {
			return malformed(what)
		}
		f := field{tag: protowire.EncodeTag(number, kind), frame: message[:n+size]}
		switch kind {
		case protowire.BytesType:
			f.bytes, _ = protowire.ConsumeBytes(message[n:])
		case protowire.VarintType:
			f.varint, _ = protowire.ConsumeVarint(message[n:])
		}
		if err := visit(f); err != nil {
			return err
		}
		message = message[n+size:]
	}
	return nil
}

func decodeHeader(message []byte) (h backends.Header, err error) {
	err = eachField("header", message, func(f field) error {
		switch f.tag {
		case headerClusterID:
			h.ClusterID = f.varint
		case headerMemberID:
			h.MemberID = f.varint
		case headerRevision:
			h.Revision = f.int64()
		case headerTerm:
			h.Term = f.varint
		}
		return nil
	})
	return h, err
}

// list is an encoded RangeResponse, cut up.
type list struct {
	result backends.RangeResult
	// frames are n records as a Chunk has them.
	frames []byte
	n      int
	// last is the last record.
	last []byte
}

func decodeList(message []byte) (l list, err error) {
	begin, end := 0, 0 // of the records, which etcd writes one behind the other
	at := 0
	err = eachField("range response", message, func(f field) (err error) {
		from := at
		at += len(f.frame)
		switch f.tag {
		case anyHeader:
			l.result.Header, err = decodeHeader(f.bytes)
		case rangeKVs:
			if (l.n > 0 && from != end) || !f.framed() {
				return malformed("range response")
			}
			if l.n == 0 {
				begin = from
			}
			end = at
			l.n++
			l.last = f.bytes
		case rangeMore:
			l.result.More = f.bool()
		case rangeCount:
			l.result.Count = f.int64()
		}
		return err
	})
	l.frames = message[begin:end]
	return l, err
}

// chunk takes about backends.ChunkBytes of records off the list, nil at its end.
func (l *list) chunk() *backends.Chunk {
	if l.n == 0 {
		return nil
	}
	if len(l.frames) <= backends.ChunkBytes {
		c := backends.NewChunk(l.frames, l.n, nil)
		l.n = 0
		return c
	}
	size, n := 0, 0
	for n < l.n && size < backends.ChunkBytes {
		_, _, tag := protowire.ConsumeTag(l.frames[size:])
		_, content := protowire.ConsumeBytes(l.frames[size+tag:]) // both were checked by eachField
		size += tag + content
		n++
	}
	c := backends.NewChunk(l.frames[:size:size], n, nil)
	l.frames = l.frames[size:]
	l.n -= n
	return c
}

// listCursor is a cursor over one answer.
type listCursor struct{ list }

// Next implements backends.Cursor.
func (c *listCursor) Next(context.Context) (*backends.Chunk, error) {
	if chunk := c.chunk(); chunk != nil {
		return chunk, nil
	}
	return nil, io.EOF
}

// Result implements backends.Cursor.
func (c *listCursor) Result() backends.RangeResult { return c.result }

// Close implements backends.Cursor.
func (c *listCursor) Close() { c.n = 0 }
