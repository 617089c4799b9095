package etcdapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// record is what sorting and filtering look at of an encoded mvccpb.KeyValue.
// The slices are parts of raw.
type record struct {
	raw              []byte
	key, value       []byte
	create, mod      int64
	version          int64
	valueAt, valueTo int // the value field with its tag, in raw; equal when there is none
}

// parseRecord reads a record. It fails only on bytes that are no KeyValue.
func parseRecord(raw []byte) (record, error) {
	r := record{raw: raw}
	for at := 0; at < len(raw); {
		start := at
		tag, n := binary.Uvarint(raw[at:])
		if n <= 0 {
			return r, errMalformedRecord(raw)
		}
		at += n
		v, n := binary.Uvarint(raw[at:])
		if n <= 0 {
			return r, errMalformedRecord(raw)
		}
		at += n
		switch tag & 7 {
		case 0:
			switch tag >> 3 {
			case 2:
				r.create = int64(v)
			case 3:
				r.mod = int64(v)
			case 4:
				r.version = int64(v)
			}
		case 2:
			if v > uint64(len(raw)-at) {
				return r, errMalformedRecord(raw)
			}
			field := raw[at : at+int(v)]
			at += int(v)
			switch tag >> 3 {
			case 1:
				r.key = field
			case 5:
				r.value, r.valueAt, r.valueTo = field, start, at
			}
		default:
			return r, errMalformedRecord(raw)
		}
	}
	return r, nil
}

func errMalformedRecord(raw []byte) error {
	return fmt.Errorf("etcdapi: malformed record of %d bytes from the backend", len(raw))
}

// arrange filters, sorts and cuts what was drained for r, in etcd's way, and
// replaces the pieces. The result's More tells whether the limit cut; Count stays
// that of the range.
func (d *drained) arrange(ctx context.Context, r *pb.RangeRequest, c *claim) error {
	records := make([]record, 0, d.n)
	for _, p := range d.pieces {
		for raw := range p.chunk.Records() {
			rec, err := parseRecord(raw)
			if err != nil {
				d.release()
				return err
			}
			if passes(&rec, r) {
				records = append(records, rec)
			}
		}
	}
	sortRecords(records, r)
	d.result.More = r.Limit > 0 && int64(len(records)) > r.Limit
	if d.result.More {
		records = records[:r.Limit]
	}

	size := 0
	for i := range records {
		size += sizeBytes(len(records[i].raw))
	}
	var paid *charge
	if size >= chargeBytes {
		var err error
		if paid, err = c.take(ctx, int64(size)); err != nil {
			d.release()
			return err
		}
	}
	frames := make([]byte, 0, size)
	for i := range records {
		rec := &records[i]
		if r.KeysOnly && rec.valueAt < rec.valueTo {
			frames = append(frames, recordTag)
			frames = binary.AppendUvarint(frames, uint64(len(rec.raw)-(rec.valueTo-rec.valueAt)))
			frames = append(append(frames, rec.raw[:rec.valueAt]...), rec.raw[rec.valueTo:]...)
			continue
		}
		frames = backends.AppendRecord(frames, rec.raw)
	}
	d.release()
	d.bytes, d.n = len(frames), len(records)
	if len(frames) > 0 {
		d.pieces = append(d.first[:0], piece{backends.NewChunk(frames, len(records), nil), paid})
	} else if paid != nil {
		paid.release()
	}
	return nil
}

// recordTag is the tag of RangeResponse.kvs; see backends.Chunk.
const recordTag = 2<<3 | 2

func passes(rec *record, r *pb.RangeRequest) bool {
	switch {
	case r.MaxModRevision != 0 && rec.mod > r.MaxModRevision,
		r.MinModRevision != 0 && rec.mod < r.MinModRevision,
		r.MaxCreateRevision != 0 && rec.create > r.MaxCreateRevision,
		r.MinCreateRevision != 0 && rec.create < r.MinCreateRevision:
		return false
	}
	return true
}

// sortRecords sorts as etcd does, with sort.Sort on the same comparisons: which
// of two equal records comes first is what that algorithm makes of it.
func sortRecords(records []record, r *pb.RangeRequest) {
	order := r.SortOrder
	if r.SortTarget != pb.RangeRequest_KEY && order == pb.RangeRequest_NONE {
		order = pb.RangeRequest_ASCEND
	}
	if order == pb.RangeRequest_NONE || r.SortTarget == pb.RangeRequest_KEY && order == pb.RangeRequest_ASCEND {
		return
	}
	var by sort.Interface
	switch r.SortTarget {
	case pb.RangeRequest_KEY:
		by = sorter{records, func(a, b *record) bool { return bytes.Compare(a.key, b.key) < 0 }}
	case pb.RangeRequest_VERSION:
		by = sorter{records, func(a, b *record) bool { return a.version < b.version }}
	case pb.RangeRequest_CREATE:
		by = sorter{records, func(a, b *record) bool { return a.create < b.create }}
	case pb.RangeRequest_MOD:
		by = sorter{records, func(a, b *record) bool { return a.mod < b.mod }}
	case pb.RangeRequest_VALUE:
		by = sorter{records, func(a, b *record) bool { return bytes.Compare(a.value, b.value) < 0 }}
	}
	if order == pb.RangeRequest_DESCEND {
		by = sort.Reverse(by)
	}
	sort.Sort(by)
}

// sorter is a sort.Interface over records.
type sorter struct {
	records []record
	less    func(a, b *record) bool
}

// Len is the number of records.
func (s sorter) Len() int { return len(s.records) }

// Less compares two records.
func (s sorter) Less(i, j int) bool { return s.less(&s.records[i], &s.records[j]) }

// Swap swaps two records.
func (s sorter) Swap(i, j int) { s.records[i], s.records[j] = s.records[j], s.records[i] }
