package etcdapi

import (
	"runtime"

	"google.golang.org/grpc/mem"

	"github.com/etcdshim/shim/backends"
)

// pooledBytes is the least capacity that grpc counts references of: a smaller
// piece has no moment at which it is known to be written
// (mem.IsBelowBufferPoolingThreshold).
const pooledBytes = 1<<10 + 1

// held is a piece of an answer that the budget was charged for, between the
// backend and the socket. grpc knows it as the pool that a buffer goes back to.
type held struct {
	data    []byte
	chunk   *backends.Chunk // nil when data is a copy
	charge  *charge
	cleanup runtime.Cleanup
}

// newHeld makes a buffer for grpc that releases chunk and charge when it is
// freed. The capacity of data must be at least pooledBytes.
func newHeld(data []byte, chunk *backends.Chunk, c *charge) mem.Buffer {
	h := &held{data: data, chunk: chunk, charge: c}
	if c != nil {
		// For frames that grpc drops. It gives back the charge only: the bytes are
		// the collector's, which is always right, while a pool is right only if
		// nobody reads them any more.
		h.cleanup = runtime.AddCleanup(h, (*charge).release, c)
	}
	return mem.NewBuffer(&h.data, h)
}

// Get is never called: the pool is only given back to.
func (h *held) Get(int) *[]byte { panic("etcdapi: a held piece is not a source of memory") }

// Put ends the piece's life.
func (h *held) Put(*[]byte) {
	if h.charge != nil {
		h.cleanup.Stop()
		h.charge.written()
	}
	if h.chunk != nil {
		h.chunk.Release()
	}
}
