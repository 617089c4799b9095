package main

import (
	"bytes"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/encoding/protowire"
)

// add adds one encoded record.
func (c *content) add(record []byte) {
	c.records++
	c.crc = crc32.Update(c.crc, castagnoli, record)
}

// revisionField is the number of the revision in a header, and of the header in
// every response.
const (
	headerField   protowire.Number = 1
	revisionField protowire.Number = 3
)

// readHeader reads the revision of a header of n bytes.
func readHeader(c *cursor, n int, revision *int64) {
	c.fields(n, func(number protowire.Number, v uint64) {
		if number == revisionField {
			*revision = int64(v)
		}
	})
}

// written is the answer to a put, a txn or a lease grant: etcdserverpb.PutResponse,
// TxnResponse, LeaseGrantResponse.
type written struct {
	revision  int64
	second    int64 // succeeded, or the lease's id
	third     int64 // the lease's TTL
	responses int
}

func (w *written) read(c *cursor) error {
	*w = written{}
	c.fields(c.left, func(number protowire.Number, v uint64) {
		switch number {
		case headerField:
			readHeader(c, int(v), &w.revision)
		case 2:
			w.second = int64(v)
		case 3:
			w.third = int64(v)
			w.responses++
		}
	})
	return nil
}

// ranged is the answer to a Range, or the sum of a RangeStream's:
// etcdserverpb.RangeResponse. The records are added up, not kept.
type ranged struct {
	revision int64
	count    int64
	more     bool
	content
	// stream tells that the response is wrapped in a RangeStreamResponse.
	stream bool
}

func (r *ranged) reset() { *r = ranged{stream: r.stream} }

func (r *ranged) read(c *cursor) error {
	if !r.stream {
		r.reset()
		r.readRange(c, c.left)
		return nil
	}
	c.fields(c.left, func(number protowire.Number, v uint64) {
		if number == 1 {
			r.readRange(c, int(v))
		}
	})
	return nil
}

func (r *ranged) readRange(c *cursor, n int) {
	c.fields(n, func(number protowire.Number, v uint64) {
		switch number {
		case headerField:
			readHeader(c, int(v), &r.revision)
		case 2:
			r.records++
			r.crc = c.sum(int(v), r.crc)
		case 3:
			r.more = v != 0
		case 4:
			r.count = int64(v)
		}
	})
}

// verify compares an answer with what it must be.
func (r *ranged) verify(want content, count int64, more bool) error {
	if r.content != want || r.count != count || r.more != more {
		return fmt.Errorf("range returned %d records (checksum %08x), count %d, more %t; it must be %d (%08x), %d, %t",
			r.records, r.crc, r.count, r.more, want.records, want.crc, count, more)
	}
	return nil
}

// single is the answer to a Range of one key; the record is kept, in a buffer that
// is used again.
type single struct {
	revision, count int64
	record          []byte
	records         int
}

func (s *single) read(c *cursor) error {
	*s = single{record: s.record[:0]}
	c.fields(c.left, func(number protowire.Number, v uint64) {
		switch number {
		case headerField:
			readHeader(c, int(v), &s.revision)
		case 2:
			s.records++
			s.record = c.appendTo(s.record, int(v))
		case 4:
			s.count = int64(v)
		}
	})
	return nil
}

// verify compares the answer with the one record there must be.
func (s *single) verify(want []byte) error {
	if s.records != 1 || s.count != 1 || !bytes.Equal(s.record, want) {
		return fmt.Errorf("range of one key returned %d records, count %d: %q; it must be one: %q", s.records, s.count, s.record, want)
	}
	return nil
}

// watched is one etcdserverpb.WatchResponse with at most a few small events.
type watched struct {
	revision, id      int64
	created, canceled bool
	// events are the records of the events, in order, in buffers used again.
	events [][]byte
	// deletes counts events that are not puts.
	deletes int
}

func (w *watched) read(c *cursor) error {
	*w = watched{events: w.events[:0]}
	c.fields(c.left, func(number protowire.Number, v uint64) {
		switch number {
		case headerField:
			readHeader(c, int(v), &w.revision)
		case 2:
			w.id = int64(v)
		case 3:
			w.created = v != 0
		case 4:
			w.canceled = v != 0
		case 11:
			w.readEvent(c, int(v))
		}
	})
	return nil
}

func (w *watched) readEvent(c *cursor, n int) {
	if len(w.events) < cap(w.events) {
		w.events = w.events[:len(w.events)+1]
	} else {
		w.events = append(w.events, nil)
	}
	event := &w.events[len(w.events)-1]
	*event = (*event)[:0]
	c.fields(n, func(number protowire.Number, v uint64) {
		switch number {
		case 1:
			w.deletes += int(v)
		case 2:
			*event = c.appendTo(*event, int(v))
		}
	})
}

// kept is one etcdserverpb.LeaseKeepAliveResponse.
type kept struct{ revision, id, ttl int64 }

func (k *kept) read(c *cursor) error {
	*k = kept{}
	c.fields(c.left, func(number protowire.Number, v uint64) {
		switch number {
		case headerField:
			readHeader(c, int(v), &k.revision)
		case 2:
			k.id = int64(v)
		case 3:
			k.ttl = int64(v)
		}
	})
	return nil
}
