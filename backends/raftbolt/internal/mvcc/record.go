package mvcc

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// A record is an encoded mvccpb.KeyValue, as etcd stores it. Fields in order,
// zero ones left out:
//
//	tag   field            type
//	0x0a  key              bytes
//	0x10  create_revision  varint
//	0x18  mod_revision     varint
//	0x20  version          varint
//	0x2a  value            bytes
//	0x30  lease            varint
//
// A deletion's record has only the key.
const (
	tagKey     = 0x0a
	tagCreate  = 0x10
	tagMod     = 0x18
	tagVersion = 0x20
	tagValue   = 0x2a
	tagLease   = 0x30
)

// An event is an encoded mvccpb.Event, framed as a field of WatchResponse.
const (
	tagEvents    = 0x5a
	tagEventType = 0x08
	tagEventKV   = 0x12
	tagEventPrev = 0x1a
	eventDelete  = 1
)

// isRaise tells whether a change is none of a key, but raises the revision: a
// record without a byte, as "snapshot restore --bump-revision" leaves one (etcdutl:
// snapshot/v3_snapshot.go, 3.7.3). It stands at or below a compaction. Like etcd, the
// index has it under the empty key, which no request can name: so it counts in
// hashes, and the next one makes it garbage.
func isRaise(tombstone bool, record []byte) bool { return !tombstone && len(record) == 0 }

// fields are a record's but for the value. key shares the record's memory.
type fields struct {
	key     []byte
	create  int64
	mod     int64
	version int64
	lease   int64
}

var errRecord = errors.New("malformed record")

// scanRecord reads a record's fields without decoding the value. Unknown fields
// are skipped, as protobuf does; the last of a repeated field counts.
func scanRecord(b []byte) (f fields, err error) {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag > 1<<32-1 { // field numbers have 29 bits
			return f, errRecord
		}
		b = b[n:]
		switch tag & 7 {
		case 0:
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return f, errRecord
			}
			b = b[n:]
			switch tag {
			case tagCreate:
				f.create = int64(v)
			case tagMod:
				f.mod = int64(v)
			case tagVersion:
				f.version = int64(v)
			case tagLease:
				f.lease = int64(v)
			}
		case 1, 5:
			size := 8
			if tag&7 == 5 {
				size = 4
			}
			if len(b) < size {
				return f, errRecord
			}
			b = b[size:]
		case 2:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return f, errRecord
			}
			if tag == tagKey {
				f.key = b[n : n+int(size)]
			}
			b = b[n+int(size):]
		default:
			return f, errRecord
		}
	}
	return f, nil
}

// varintSize is the length of v as a varint.
func varintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func fieldSize(v int64) int {
	if v == 0 {
		return 0
	}
	return 1 + varintSize(uint64(v))
}

func bytesSize(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + varintSize(uint64(n)) + n
}

// recordSize is the length that appendRecord appends.
func recordSize(f *fields, value []byte) int {
	return bytesSize(len(f.key)) + fieldSize(f.create) + fieldSize(f.mod) + fieldSize(f.version) +
		bytesSize(len(value)) + fieldSize(f.lease)
}

func appendField(b []byte, tag byte, v int64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, tag), uint64(v))
}

func appendBytes[B ~[]byte | ~string](b []byte, tag byte, v B) []byte {
	if len(v) == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, tag), uint64(len(v)))
	return append(b, v...)
}

// appendRecord appends a record.
func appendRecord(b []byte, f *fields, value []byte) []byte {
	b = appendBytes(b, tagKey, f.key)
	b = appendField(b, tagCreate, f.create)
	b = appendField(b, tagMod, f.mod)
	b = appendField(b, tagVersion, f.version)
	b = appendBytes(b, tagValue, value)
	return appendField(b, tagLease, f.lease)
}

// keyRecordSize is the length that appendKeyRecord appends.
func keyRecordSize(key string, v version) int {
	return bytesSize(len(key)) + fieldSize(v.create) + fieldSize(v.main) + fieldSize(v.number)
}

// appendKeyRecord appends a record with what the index knows: no value, no lease.
func appendKeyRecord(b []byte, key string, v version) []byte {
	b = appendBytes(b, tagKey, key)
	b = appendField(b, tagCreate, v.create)
	b = appendField(b, tagMod, v.main)
	return appendField(b, tagVersion, v.number)
}

// putEvent makes the event of a put, without the record before it, in one piece
// of memory; record is the part of it that the file stores.
func putEvent(f *fields, value []byte) (event, record []byte) {
	size := recordSize(f, value)
	body := 1 + varintSize(uint64(size)) + size
	event = make([]byte, 0, 1+varintSize(uint64(body))+body)
	event = binary.AppendUvarint(append(event, tagEvents), uint64(body))
	event = binary.AppendUvarint(append(event, tagEventKV), uint64(size))
	start := len(event)
	event = appendRecord(event, f, value)
	return event, event[start:len(event):len(event)]
}

// frameEvent makes an event of encoded records. prev may be nil.
func frameEvent(deleted bool, record, prev []byte) []byte {
	body := 1 + varintSize(uint64(len(record))) + len(record)
	if deleted {
		body += 2
	}
	if prev != nil {
		body += 1 + varintSize(uint64(len(prev))) + len(prev)
	}
	e := make([]byte, 0, 1+varintSize(uint64(body))+body)
	e = binary.AppendUvarint(append(e, tagEvents), uint64(body))
	if deleted {
		e = append(e, tagEventType, eventDelete)
	}
	e = binary.AppendUvarint(append(e, tagEventKV), uint64(len(record)))
	e = append(e, record...)
	if prev != nil {
		e = binary.AppendUvarint(append(e, tagEventPrev), uint64(len(prev)))
		e = append(e, prev...)
	}
	return e
}

// scanCanonical reads a record, and refuses one that is not encoded as
// appendRecord and etcd do it: fields in ascending order, each at most once, none
// of them zero, numbers in their shortest form.
func scanCanonical(b []byte) (f fields, value []byte, err error) {
	number := func(tag byte) (v int64) {
		if err != nil || len(b) == 0 || b[0] != tag {
			return 0
		}
		n, size := binary.Uvarint(b[1:])
		if size <= 0 || n == 0 || size != varintSize(n) {
			err = errRecord
			return 0
		}
		b = b[1+size:]
		return int64(n)
	}
	text := func(tag byte) (v []byte) {
		n := number(tag)
		if n < 0 || n > int64(len(b)) {
			err = errRecord
			return nil
		}
		v, b = b[:n:n], b[n:]
		return v
	}
	f.key, f.create, f.mod, f.version = text(tagKey), number(tagCreate), number(tagMod), number(tagVersion)
	value, f.lease = text(tagValue), number(tagLease)
	if len(b) > 0 {
		err = errRecord
	}
	return f, value, err
}
