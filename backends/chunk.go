package backends

import (
	"encoding/binary"
	"fmt"
	"iter"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// recordTag is the protobuf tag of RangeResponse.kvs (field 2, length-delimited).
const recordTag = 0x12

// ChunkBytes is how large a cursor's chunk should be: large enough that the
// cost per chunk vanishes, small enough that a thousand cursors are no burden.
// One record larger than this is a chunk of its own.
const ChunkBytes = 256 << 10

// Chunk is a run of key-value records of a range, laid out as they stand in an
// encoded etcdserverpb.RangeResponse, so that it goes to the socket as it is:
//
//	offset  size  field
//	0       1     0x12, the tag of RangeResponse.kvs
//	1       1–5   length L of the record, as a varint
//	…       L     the record: an encoded mvccpb.KeyValue
//
// repeated Len times. A chunk is immutable until released.
type Chunk struct {
	frames  []byte
	n       int
	release func()
}

// NewChunk makes a chunk of n framed records. release, which may be nil, is
// called once, by Release.
func NewChunk(frames []byte, n int, release func()) *Chunk {
	return &Chunk{frames: frames, n: n, release: release}
}

// Len is the number of records.
func (c *Chunk) Len() int { return c.n }

// Bytes are the framed records. They must not be changed, nor read after Release.
func (c *Chunk) Bytes() []byte { return c.frames }

// Records yields each record without its frame, in order.
func (c *Chunk) Records() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for b := c.frames; len(b) > 0; {
			size, n := binary.Uvarint(b[1:])
			if b[0] != recordTag || n <= 0 || size > uint64(len(b)-1-n) {
				panic(fmt.Sprintf("backends: malformed chunk of %d bytes", len(c.frames)))
			}
			end := 1 + n + int(size)
			if !yield(b[1+n : end]) {
				return
			}
			b = b[end:]
		}
	}
}

// Release gives the chunk's memory back. The chunk must not be used afterwards.
// A second call does nothing.
func (c *Chunk) Release() {
	if r := c.release; r != nil {
		c.release = nil
		r()
	}
}

// AppendRecord appends an encoded record with its frame to frames.
func AppendRecord(frames, record []byte) []byte {
	frames = append(frames, recordTag)
	frames = binary.AppendUvarint(frames, uint64(len(record)))
	return append(frames, record...)
}

// AppendKeyValue encodes kv and appends it with its frame to frames.
func AppendKeyValue(frames []byte, kv *mvccpb.KeyValue) ([]byte, error) {
	frames = append(frames, recordTag)
	frames = binary.AppendUvarint(frames, uint64(proto.Size(kv)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(frames, kv)
}
