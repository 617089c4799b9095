package main

import (
	"errors"
	"hash/crc32"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// errWire is an answer that is not well-formed protobuf.
var errWire = errors.New("answer is not well-formed protobuf")

// castagnoli has hardware support, so that hashing 10 MB takes about a
// millisecond. A damaged answer goes unseen with a chance of one in 2^32.
var castagnoli = crc32.MakeTable(crc32.Castagnoli) //nolint:gochecknoglobals // a constant table

// cursor walks protobuf wire format in the pieces that arrived, without joining
// them. After a fault every method returns zeros and err is set.
type cursor struct {
	pieces mem.BufferSlice
	piece  []byte
	// left is what remains of the message being read, in bytes.
	left int
	err  error
}

func newCursor(pieces mem.BufferSlice) *cursor {
	return &cursor{pieces: pieces, left: pieces.Len()}
}

// next returns up to n bytes of one piece, at least one, and consumes them.
func (c *cursor) next(n int) []byte {
	if n > c.left {
		c.err, c.left = errWire, 0
		return nil
	}
	for len(c.piece) == 0 {
		if len(c.pieces) == 0 {
			c.err, c.left = errWire, 0
			return nil
		}
		c.piece, c.pieces = c.pieces[0].ReadOnlyData(), c.pieces[1:]
	}
	n = min(n, len(c.piece))
	b := c.piece[:n]
	c.piece = c.piece[n:]
	c.left -= n
	return b
}

// uvarint reads a base-128 integer.
func (c *cursor) uvarint() uint64 {
	var v uint64
	for shift := uint(0); shift < 64; shift += 7 {
		b := c.next(1)
		if b == nil {
			return 0
		}
		v |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return v
		}
	}
	c.err, c.left = errWire, 0
	return 0
}

// skip passes over n bytes.
func (c *cursor) skip(n int) {
	for n > 0 && c.err == nil {
		n -= len(c.next(n))
	}
}

// sum passes over n bytes and adds them to a checksum.
func (c *cursor) sum(n int, crc uint32) uint32 {
	for n > 0 && c.err == nil {
		b := c.next(n)
		crc = crc32.Update(crc, castagnoli, b)
		n -= len(b)
	}
	return crc
}

// appendTo passes over n bytes and appends them to dst.
func (c *cursor) appendTo(dst []byte, n int) []byte {
	for n > 0 && c.err == nil {
		b := c.next(n)
		dst = append(dst, b...)
		n -= len(b)
	}
	return dst
}

// fields calls f for each field of the next n bytes, with the value of a varint
// or the length of a string of bytes, which f must consume.
func (c *cursor) fields(n int, f func(number protowire.Number, v uint64)) {
	if n > c.left {
		c.err, c.left = errWire, 0
		return
	}
	after := c.left - n
	for c.left > after && c.err == nil {
		tag := c.uvarint()
		switch kind := protowire.Type(tag & 7); kind {
		case protowire.VarintType:
			f(protowire.Number(tag>>3), c.uvarint())
		case protowire.BytesType:
			length := c.uvarint()
			if length > uint64(c.left-after) {
				c.err, c.left = errWire, 0
				return
			}
			end := c.left - int(length)
			f(protowire.Number(tag>>3), length)
			if c.err == nil && c.left > end {
				c.skip(c.left - end)
			}
		default:
			c.err, c.left = errWire, 0
		}
	}
	if c.err == nil && c.left != after {
		c.err = errWire
	}
}
