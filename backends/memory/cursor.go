package memory

import (
	"context"
	"io"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

// cursor yields records that were collected when it was made.
type cursor struct {
	records  []*record
	keysOnly bool
	result   backends.RangeResult
}

// newCursor reads a range at a revision of the store, which current is.
func (b *Backend) newCursor(o *backends.RangeOptions, current int64) *cursor {
	revision := o.Revision
	if revision <= 0 {
		revision = current
	}
	records := b.list(&o.KeyRange, revision)
	c := &cursor{keysOnly: o.KeysOnly}
	c.result = backends.RangeResult{Header: headerAt(current), Count: int64(len(records))}
	if o.CountOnly {
		return c
	}
	if o.Limit > 0 && o.Limit < int64(len(records)) {
		records = records[:o.Limit]
		c.result.More = true
	}
	c.records = records
	return c
}

// Next implements backends.Cursor.
func (c *cursor) Next(ctx context.Context) (*backends.Chunk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(c.records) == 0 {
		return nil, io.EOF
	}
	var frames []byte
	n := 0
	for n < len(c.records) && len(frames) < backends.ChunkBytes {
		kv := c.records[n].kv
		if c.keysOnly {
			kv = &mvccpb.KeyValue{
				Key:            kv.Key,
				CreateRevision: kv.CreateRevision,
				ModRevision:    kv.ModRevision,
				Version:        kv.Version,
			}
		}
		var err error
		if frames, err = backends.AppendKeyValue(frames, kv); err != nil {
			return nil, err
		}
		n++
	}
	c.records = c.records[n:]
	return backends.NewChunk(frames, n, nil), nil
}

// Result implements backends.Cursor.
func (c *cursor) Result() backends.RangeResult { return c.result }

// Close implements backends.Cursor.
func (c *cursor) Close() { c.records = nil }
