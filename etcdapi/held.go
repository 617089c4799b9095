package etcdapi

import (
	"runtime"
	"sync/atomic"

	"google.golang.org/grpc/mem"

	"github.com/etcdshim/shim/backends"
)

// copiedBytes is the capacity below which a piece is copied into what stands beside
// it: that costs less than to keep account of it until it is written.
const copiedBytes = 1 << 10

// held is a piece of an answer that the budget was charged for, between the backend
// and the socket, as grpc's buffer. It is not grpc's own kind of buffer since that
// keeps its bytes for as long as anything refers to it, and grpc refers to a
// connection that ended for long: for one, the timers of its requests' deadlines do,
// which the runtime keeps for some time after they were stopped. So the bytes are
// taken away when the connection ends (see drop).
type held struct {
	// Buffer is nil. It stands for the methods that grpc calls on parts of messages that
	// it receives alone: Slice, and those that it keeps to itself.
	mem.Buffer
	refs    atomic.Int32
	size    int
	chunk   atomic.Pointer[backends.Chunk] // nil once freed or dropped
	charge  *charge
	cleanup runtime.Cleanup
}

// newHeld makes a buffer for grpc that releases chunk and charge when it is freed.
func newHeld(chunk *backends.Chunk, c *charge) mem.Buffer {
	h := &held{size: len(chunk.Bytes()), charge: c}
	h.refs.Store(1)
	h.chunk.Store(chunk)
	// For frames that grpc drops. It gives back the charge only: the bytes are
	// the collector's, which is always right, while a pool is right only if
	// nobody reads them any more.
	h.cleanup = runtime.AddCleanup(h, (*charge).release, c)
	c.attach(h)
	return h
}

// drop leaves the bytes to the collector, since nobody can get them any more. Who
// reads them at this moment may go on.
func (h *held) drop() { h.chunk.Store(nil) }

// ReadOnlyData returns the piece, or zeros in its place once it was dropped.
func (h *held) ReadOnlyData() []byte {
	if c := h.chunk.Load(); c != nil {
		return c.Bytes()
	}
	if h.refs.Load() <= 0 {
		panic("etcdapi: a piece of an answer is read after it was freed")
	}
	return make([]byte, h.size) // for the frame or two until grpc learns that it cannot be written
}

// Len is the size of the piece.
func (h *held) Len() int { return h.size }

// Ref makes one more call of Free necessary.
func (h *held) Ref() { h.refs.Add(1) }

// Free ends the piece's life when all who refer to it have called it.
func (h *held) Free() {
	if h.refs.Add(-1) != 0 {
		return
	}
	h.cleanup.Stop()
	if c := h.chunk.Swap(nil); c != nil {
		c.Release()
	}
	h.charge.written()
}
