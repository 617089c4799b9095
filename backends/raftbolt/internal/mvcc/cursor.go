package mvcc

import (
	"context"
	"encoding/binary"
	"io"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"github.com/etcdshim/shim/backends"
)

// Cursor reads a range in chunks. It is used by one goroutine.
type Cursor struct {
	s    *Store
	root *node
	// rest is what is left of the range, and left how many records of it.
	rest span
	left int64
	// main is the revision read at, exact when the root is of just that.
	main     int64
	exact    bool
	keysOnly bool
	// guess is how many records are thought to fill the next chunk.
	guess int

	revision int64
	count    int64
	more     bool
	pin      *pin
	closed   atomic.Bool
}

// Bounds of how many records a chunk gathers from the index before it looks at
// their sizes.
const (
	firstGuess = 64
	maxGuess   = 8192
)

// Range opens a cursor. ErrCompacted, ErrFutureRevision. The View may be closed
// while the cursor is open.
func (v *View) Range(o backends.RangeOptions) (*Cursor, error) {
	root, main, exact, err := v.at(o.Revision)
	if err != nil {
		return nil, err
	}
	c := &Cursor{
		s: v.s, root: root, rest: spanOf(o.KeyRange), main: main, exact: exact,
		keysOnly: o.KeysOnly, guess: firstGuess, revision: v.revision, pin: v.pin.again(),
	}
	c.count = countAt(root, c.rest, main, exact)
	if o.CountOnly {
		return c, nil
	}
	c.left = c.count
	if o.Limit > 0 && c.count > o.Limit {
		c.left, c.more = o.Limit, true
		// Who asks for one record looks whether there is any, or for the first, and
		// does not come back for the next: such pollers, at ever new revisions, would
		// push out the roots of those who page.
		if o.Limit > 1 && exact && !(v.partial && main == v.revision) {
			v.s.roots.add(main, root)
		}
	}
	return c, nil
}

// Count is the number of keys in the range, whatever the limit. It is known from
// the start.
func (c *Cursor) Count() int64 { return c.count }

// More tells that the limit cuts the range short. It is known from the start.
func (c *Cursor) More() bool { return c.more }

// Revision is the View's revision, for the header.
func (c *Cursor) Revision() int64 { return c.revision }

// Close may be called more than once.
func (c *Cursor) Close() {
	if c.closed.CompareAndSwap(false, true) && c.pin != nil {
		c.pin.release()
	}
}

// Next returns the next chunk, or io.EOF. ErrCompacted when the revision was
// compacted meanwhile (never for a View of a Txn). The caller releases the chunk.
func (c *Cursor) Next(ctx context.Context) (*backends.Chunk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.left == 0 {
		return nil, io.EOF
	}
	keys, versions := c.gather()
	if len(keys) == 0 {
		// The count came from the same root.
		return nil, c.s.corrupt("the index counts %d keys more than it holds", c.left)
	}
	chunk, n, err := c.fetch(keys, versions)
	if err != nil {
		return nil, c.s.readError(err, c.main)
	}
	c.left -= int64(n)
	c.rest = c.rest.after(keys[n-1])
	c.guess = min(max(firstGuess, n+n/4), maxGuess)
	if n == len(keys) {
		c.guess = min(4*n+firstGuess, maxGuess)
	}
	return chunk, nil
}

// gather collects the next keys and the versions to read.
func (c *Cursor) gather() (keys []string, versions []version) {
	n := int(min(int64(c.guess), c.left))
	keys, versions = make([]string, 0, n), make([]version, 0, n)
	c.root.ascend(c.rest, func(k *keyVersions) bool {
		v, ok := k.last, k.live()
		if !c.exact {
			v, ok = k.liveAt(c.main)
		}
		if ok {
			keys, versions = append(keys, k.key), append(versions, v)
		}
		return len(keys) < n
	})
	return keys, versions
}

// fetch makes a chunk of the first n of the records.
func (c *Cursor) fetch(keys []string, versions []version) (chunk *backends.Chunk, n int, err error) {
	if c.keysOnly {
		chunk, n = c.keysChunk(keys, versions)
		return chunk, n, nil
	}
	records := make([][]byte, 0, len(versions))
	err = c.s.records(versions, func(record []byte, size int) bool {
		if len(records) > 0 && size > backends.ChunkBytes {
			return false
		}
		records = append(records, record)
		return true
	}, func(size int) {
		frames, release := c.s.buffer(size)
		for _, r := range records {
			frames = backends.AppendRecord(frames, r)
		}
		chunk = backends.NewChunk(frames, len(records), release)
	})
	return chunk, len(records), err
}

// keysChunk makes records without value out of the index alone. As etcd's, they
// have no lease either (etcd: mvcc storeTxnCommon.rangeKeys, FastKeysOnly).
func (c *Cursor) keysChunk(keys []string, versions []version) (*backends.Chunk, int) {
	size, n := 0, 0
	for i, v := range versions {
		next := size + frameSize(keyRecordSize(keys[i], v))
		if n > 0 && next > backends.ChunkBytes {
			break
		}
		size, n = next, n+1
	}
	frames, release := c.s.buffer(size)
	for i, v := range versions[:n] {
		frames = append(frames, tagKVs)
		frames = binary.AppendUvarint(frames, uint64(keyRecordSize(keys[i], v)))
		frames = appendKeyRecord(frames, keys[i], v)
	}
	return backends.NewChunk(frames, n, release), n
}

// tagKVs frames a record as a field of RangeResponse.
const tagKVs = 0x12

func frameSize(n int) int { return 1 + varintSize(uint64(n)) + n }

// Buffers below pooledBytes are made to measure and left to the collector, so
// that a small answer does not hold a large buffer; larger ones are pooled, with
// room for a chunk.
const (
	pooledBytes = 32 << 10
	bufferBytes = backends.ChunkBytes
)

// buffer returns an empty buffer with room for size bytes, and how to give it back.
func (s *Store) buffer(size int) (b []byte, release func()) {
	if size < pooledBytes || size > bufferBytes {
		return make([]byte, 0, size), nil
	}
	p, ok := s.buffers.Get().(*[bufferBytes]byte)
	if !ok {
		p = new([bufferBytes]byte)
	}
	return p[:0], func() { s.buffers.Put(p) }
}

// records looks the records of versions up, in the layer or in the file, and
// calls take with each, and with the size that all so far have when framed, until
// it returns false; then done, with that size of those taken. Records are valid
// until done returns. errMissing when one is not there.
func (s *Store) records(versions []version, take func(record []byte, size int) bool, done func(size int)) error {
	// The state first: what it says is flushed, a later file transaction sees.
	st := s.state.Load()
	run := func(f *finder) error {
		size := 0
		for _, v := range versions {
			var record []byte
			if v.main > st.flushedRevision {
				if e := st.find(v.revision()); e != nil {
					record = e.record
				}
			} else {
				record = f.find(v.revision())
			}
			if record == nil {
				return errMissing
			}
			next := size + frameSize(len(record))
			if !take(record, next) {
				break
			}
			size = next
		}
		done(size)
		return nil
	}
	for _, v := range versions {
		if v.main <= st.flushedRevision {
			return s.read(func(tx *bolt.Tx) error {
				f := newFinder(tx)
				return run(&f)
			})
		}
	}
	return run(nil)
}

// record reads one record into memory of its own, or shared with the layer.
func (s *Store) record(v version) (record []byte, err error) {
	st := s.state.Load()
	if v.main > st.flushedRevision {
		if e := st.find(v.revision()); e != nil {
			return e.record, nil
		}
		return nil, errMissing
	}
	err = s.read(func(tx *bolt.Tx) error {
		f := newFinder(tx)
		r := f.find(v.revision())
		if r == nil {
			return errMissing
		}
		record = append(make([]byte, 0, len(r)), r...)
		return nil
	})
	return record, err
}
