package main

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// prefixEnd is the end of the range of all keys that begin with prefix, whose last
// byte is not 0xff.
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

// rangeRequest are the fields of etcdserverpb.RangeRequest that are used.
type rangeRequest struct {
	key, end        []byte
	limit, revision int64
	countOnly       bool
}

func (r rangeRequest) encode() encoded {
	var b []byte
	b = appendBytes(b, 1, r.key)
	b = appendBytes(b, 2, r.end)
	b = appendInt(b, 3, r.limit)
	b = appendInt(b, 4, r.revision)
	if r.countOnly {
		b = appendInt(b, 9, 1)
	}
	return b
}

func appendBytes(b []byte, number protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), v)
}

func appendInt(b []byte, number protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), uint64(v))
}

// requestBuilder encodes the requests of one client, in buffers used again.
type requestBuilder struct {
	data              *dataset
	value, inner, out []byte
}

// put encodes the put of a key at a version, as a PutRequest.
func (b *requestBuilder) put(index int, version int64) encoded {
	b.out = b.appendPut(b.out[:0], index, version)
	return b.out
}

func (b *requestBuilder) appendPut(dst []byte, index int, version int64) []byte {
	b.value = b.data.appendValue(b.value[:0], index, version)
	return appendBytes(appendBytes(dst, 1, b.data.keys[index]), 2, b.value)
}

// Numbers of fields in TxnRequest and RequestOp.
const (
	txnCompare, txnSuccess, txnFailure protowire.Number = 1, 2, 3
	opRange, opPut, opDelete           protowire.Number = 1, 2, 3
)

// appendOp wraps an encoded request in a RequestOp and appends it to a TxnRequest.
func appendOp(dst []byte, list, kind protowire.Number, request []byte) []byte {
	n := protowire.SizeTag(kind) + protowire.SizeBytes(len(request))
	dst = protowire.AppendVarint(protowire.AppendTag(dst, list, protowire.BytesType), uint64(n))
	return appendBytes(dst, kind, request)
}

// guarded encodes Kubernetes' write: if the key is at mod revision mod, put its
// next version, else return the key.
func (b *requestBuilder) guarded(index int, mod, version int64) encoded {
	key := b.data.keys[index]
	b.inner = appendInt(b.inner[:0], 2, 2) // target: mod revision; the result, equal, is 0
	b.inner = appendBytes(b.inner, 3, key)
	b.inner = appendInt(b.inner, 6, mod)
	b.out = appendBytes(b.out[:0], txnCompare, b.inner)
	b.inner = b.appendPut(b.inner[:0], index, version)
	b.out = appendOp(b.out, txnSuccess, opPut, b.inner)
	b.inner = appendBytes(b.inner[:0], 1, key)
	b.out = appendOp(b.out, txnFailure, opRange, b.inner)
	return b.out
}

// get encodes a Range of one key.
func (b *requestBuilder) get(index int) encoded {
	b.out = appendBytes(b.out[:0], 1, b.data.keys[index])
	return b.out
}
