package etcdapi

import (
	"encoding/binary"

	"github.com/etcdshim/shim/backends"
)

// sizeRange is the size of a RangeResponse.
func sizeRange(h backends.Header, d *drained) int {
	n := sizeHeader(h) + d.bytes + sizeField(uint64(d.result.Count))
	if d.result.More {
		n += 2
	}
	return n
}

// rangeResponse appends a RangeResponse and takes over what was drained.
func (a *assembler) rangeResponse(h backends.Header, d *drained) {
	a.small = appendHeader(a.small, h)
	for _, p := range d.pieces {
		a.foreign(p)
	}
	d.forget()
	a.small = appendBool(a.small, tagRangeMore, d.result.More)
	a.small = appendVarint(a.small, tagRangeCount, uint64(d.result.Count))
}

// encodeRange makes the reply of a Range.
func encodeRange(d *drained) *reply {
	var a assembler
	room := maxHeaderBytes
	if d.bytes < chargeBytes {
		room = sizeRange(d.result.Header, d)
	}
	a.small = make([]byte, 0, room)
	count := d.result.Count
	a.rangeResponse(d.result.Header, d)
	return a.reply(count)
}

// encodeRangePart makes one message of a range stream that is not the last: it
// has records only.
func encodeRangePart(p piece) *reply {
	var a assembler
	n := len(p.chunk.Bytes())
	a.small = make([]byte, 0, 1+maxVarintBytes)
	a.small = append(a.small, tagStreamRange)
	a.small = binary.AppendUvarint(a.small, uint64(n))
	count := int64(p.chunk.Len())
	a.foreign(p)
	return a.reply(count)
}

// encodeRangeEnd makes the last message of a range stream: header, count and
// more, and the last records if d has any.
func encodeRangeEnd(d *drained) *reply {
	var a assembler
	a.small = make([]byte, 0, 1+maxVarintBytes+maxHeaderBytes)
	a.small = append(a.small, tagStreamRange)
	a.small = binary.AppendUvarint(a.small, uint64(sizeRange(d.result.Header, d)))
	count := d.result.Count
	a.rangeResponse(d.result.Header, d)
	return a.reply(count)
}

func sizePut(h backends.Header, prevKV []byte) int {
	n := sizeHeader(h)
	if prevKV != nil {
		n += sizeBytes(len(prevKV))
	}
	return n
}

func appendPut(b []byte, h backends.Header, prevKV []byte) []byte {
	b = appendHeader(b, h)
	if prevKV != nil {
		b = appendBytes(b, tagPutPrevKV, prevKV)
	}
	return b
}

func encodePut(h backends.Header, prevKV []byte) *reply {
	return whole(appendPut(make([]byte, 0, sizePut(h, prevKV)), h, prevKV))
}

// sizeDelete is the size of a DeleteRangeResponse. The records' frames differ
// from a range's in the tag only, which is one byte in both.
func sizeDelete(h backends.Header, deleted int64, prev *drained) int {
	n := sizeHeader(h) + sizeField(uint64(deleted))
	if prev != nil {
		n += prev.bytes
	}
	return n
}

// deleteResponse appends a DeleteRangeResponse and takes over what was drained.
func (a *assembler) deleteResponse(h backends.Header, deleted int64, prev *drained) {
	a.small = appendHeader(a.small, h)
	a.small = appendVarint(a.small, tagDeleted, uint64(deleted))
	if prev == nil {
		return
	}
	for _, p := range prev.pieces {
		a.retagged(p)
	}
	prev.forget()
}

// retagged appends a chunk's records as DeleteRangeResponse.prev_kvs. The chunk is
// copied, since it is not ours to change; the charge stands for the copy.
func (a *assembler) retagged(p piece) {
	size := len(p.chunk.Bytes())
	out := make([]byte, 0, size)
	for raw := range p.chunk.Records() {
		out = appendBytes(out, tagDeletePrevKVs, raw)
	}
	n := p.chunk.Len()
	p.chunk.Release()
	a.foreign(piece{backends.NewChunk(out, n, nil), p.charge})
}

func encodeDelete(h backends.Header, deleted int64, prev *drained) *reply {
	var a assembler
	a.small = make([]byte, 0, maxHeaderBytes+maxVarintBytes)
	a.deleteResponse(h, deleted, prev)
	return a.reply(deleted)
}

// txnBody is the outcome of a transaction body, drained.
type txnBody struct {
	succeeded bool
	ops       []opBody
}

// opBody is the outcome of one operation, drained: the fields of its tag are set.
type opBody struct {
	tag     byte
	header  backends.Header // only its revision is set
	ranged  *drained        // of a range, or the deleted records
	prevKV  []byte
	deleted int64
	txn     *txnBody
	size    int // of the response inside the ResponseOp
}

func (t *txnBody) release() {
	for i := range t.ops {
		o := &t.ops[i]
		if o.ranged != nil {
			o.ranged.release()
		}
		if o.txn != nil {
			o.txn.release()
		}
	}
}

// measure computes the size of a TxnResponse with header h, and of all inside.
func (t *txnBody) measure(h backends.Header) int {
	n := sizeHeader(h)
	if t.succeeded {
		n += 2
	}
	for i := range t.ops {
		o := &t.ops[i]
		switch o.tag {
		case tagOpRange:
			o.size = sizeRange(o.header, o.ranged)
		case tagOpPut:
			o.size = sizePut(o.header, o.prevKV)
		case tagOpDelete:
			o.size = sizeDelete(o.header, o.deleted, o.ranged)
		case tagOpTxn:
			o.size = o.txn.measure(o.header)
		}
		n += sizeBytes(sizeBytes(o.size))
	}
	return n
}

// txnResponse appends a measured TxnResponse.
func (a *assembler) txnResponse(h backends.Header, t *txnBody) {
	a.small = appendHeader(a.small, h)
	a.small = appendBool(a.small, tagSucceeded, t.succeeded)
	for i := range t.ops {
		o := &t.ops[i]
		a.small = append(a.small, tagResponses)
		a.small = binary.AppendUvarint(a.small, uint64(sizeBytes(o.size)))
		a.small = append(a.small, o.tag)
		a.small = binary.AppendUvarint(a.small, uint64(o.size))
		switch o.tag {
		case tagOpRange:
			a.rangeResponse(o.header, o.ranged)
		case tagOpPut:
			a.small = appendPut(a.small, o.header, o.prevKV)
		case tagOpDelete:
			a.deleteResponse(o.header, o.deleted, o.ranged)
		case tagOpTxn:
			a.txnResponse(o.header, o.txn)
		}
	}
}

func encodeTxn(h backends.Header, t *txnBody) *reply {
	var a assembler
	size := t.measure(h)
	a.small = make([]byte, 0, min(size, chargeBytes))
	a.txnResponse(h, t)
	return a.reply(int64(len(t.ops)))
}
