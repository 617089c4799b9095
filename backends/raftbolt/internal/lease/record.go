package lease

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Record is what is persistent of a lease besides its keys.
type Record struct {
	// ID is not zero; it may be negative.
	ID int64
	// TTLSeconds is what a renewal sets the lease to, at least 1.
	TTLSeconds int64
	// RemainingTTLSeconds is the last checkpoint; 0 means none, so the full TTL.
	RemainingTTLSeconds int64
}

// The bucket's layout is etcd's (server/storage/schema/lease.go and
// server/lease/leasepb, 3.7.3), so that its tools read it.
//
// Key:
//
//	offset  size  field
//	0       8     ID, big-endian, two's complement
//
// Value, an encoded leasepb.Lease; a field that is zero is left out:
//
//	size   field
//	1      0x08, the tag of ID (field 1, varint)
//	1–10   ID, as a varint of its 64 bits
//	1      0x10, the tag of TTL (field 2, varint)
//	1–10   TTL in seconds
//	1      0x18, the tag of RemainingTTL (field 3, varint)
//	1–10   remaining TTL in seconds
const (
	recordKeySize = 8

	fieldID           = protowire.Number(1)
	fieldTTL          = protowire.Number(2)
	fieldRemainingTTL = protowire.Number(3)
)

// Key is the record's key in the lease bucket.
func Key(id int64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, recordKeySize), uint64(id))
}

// Value is the record's value in the lease bucket.
func (r Record) Value() []byte {
	var b []byte
	b = appendField(b, fieldID, r.ID)
	b = appendField(b, fieldTTL, r.TTLSeconds)
	return appendField(b, fieldRemainingTTL, r.RemainingTTLSeconds)
}

func appendField(b []byte, field protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

// DecodeRecord reads a record of the lease bucket. Fields it does not know are
// passed over, as protobuf asks; of a field that stands twice the last one
// counts. ErrMalformedRecord, also when key and value disagree.
func DecodeRecord(key, value []byte) (Record, error) {
	if len(key) != recordKeySize {
		return Record{}, fmt.Errorf("%w: key of %d bytes", ErrMalformedRecord, len(key))
	}
	id := int64(binary.BigEndian.Uint64(key))
	var r Record
	for b := value; len(b) > 0; {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return Record{}, fmt.Errorf("%w: lease %016x: %w", ErrMalformedRecord, uint64(id), protowire.ParseError(n))
		}
		if field > protowire.MaxValidNumber { // which protowire takes, and protobuf does not
			return Record{}, fmt.Errorf("%w: lease %016x: field %d", ErrMalformedRecord, uint64(id), field)
		}
		b = b[n:]
		var v uint64
		target := r.field(field)
		if target != nil && kind == protowire.VarintType {
			v, n = protowire.ConsumeVarint(b)
		} else {
			target, n = nil, protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return Record{}, fmt.Errorf("%w: lease %016x: %w", ErrMalformedRecord, uint64(id), protowire.ParseError(n))
		}
		b = b[n:]
		if target != nil {
			*target = int64(v)
		}
	}
	switch {
	case r.ID != id || id == 0:
		return Record{}, fmt.Errorf("%w: lease %016x under key %016x", ErrMalformedRecord, uint64(r.ID), uint64(id))
	case r.TTLSeconds > MaxTTLSeconds:
		return Record{}, fmt.Errorf("%w: lease %016x has a TTL of %d s", ErrMalformedRecord, uint64(id), r.TTLSeconds)
	}
	return r, nil
}

// field is where a field of the encoding goes; nil for one that is not known.
func (r *Record) field(n protowire.Number) *int64 {
	switch n {
	case fieldID:
		return &r.ID
	case fieldTTL:
		return &r.TTLSeconds
	case fieldRemainingTTL:
		return &r.RemainingTTLSeconds
	}
	return nil
}
