package etcdapi

import (
	"context"
	"errors"
	"io"

	"github.com/etcdshim/shim/backends"
)

// chargeBytes is the size from which on an answer is charged to the budget. A
// smaller one is copied into a piece of its own and its chunk released at once.
const chargeBytes = 8 << 10

// piece is a chunk that an answer holds, and the charge for it, which is nil for
// a small answer.
type piece struct {
	chunk  *backends.Chunk
	charge *charge
}

func (p piece) release() {
	p.chunk.Release()
	if p.charge != nil {
		p.charge.release()
	}
}

// drained is a cursor's whole yield.
type drained struct {
	pieces []piece
	bytes  int // of all pieces
	n      int // records
	result backends.RangeResult
	first  [1]piece // room for the usual case
}

// release gives up what was drained.
func (d *drained) release() {
	for _, p := range d.pieces {
		p.release()
	}
	d.forget()
}

// forget lets go of the pieces, which others own or nobody: a handler's memory may be
// found for longer than its answer is needed.
func (d *drained) forget() { d.pieces, d.first = nil, [1]piece{} }

// drain reads a cursor to its end under the claim and closes it. On an error
// everything read is released.
func drain(ctx context.Context, cur backends.Cursor, c *claim, d *drained) error {
	defer cur.Close()
	d.pieces = d.first[:0]
	for {
		chunk, err := cur.Next(ctx)
		if errors.Is(err, io.EOF) {
			d.result = cur.Result()
			return nil
		}
		if err != nil {
			d.release()
			return err
		}
		d.pieces = append(d.pieces, piece{chunk: chunk})
		d.bytes += len(chunk.Bytes())
		d.n += chunk.Len()
		if err := d.pay(ctx, c); err != nil {
			d.release()
			return err
		}
	}
}

// pay charges what was not charged yet, once the answer is not small any more.
func (d *drained) pay(ctx context.Context, c *claim) error {
	if d.bytes < chargeBytes {
		return nil
	}
	for i := len(d.pieces) - 1; i >= 0 && d.pieces[i].charge == nil; i-- {
		p := &d.pieces[i]
		paid, err := c.take(ctx, int64(cap(p.chunk.Bytes())))
		if err != nil {
			return err
		}
		p.charge = paid
	}
	return nil
}
