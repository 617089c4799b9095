package memory

import (
	"bytes"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

// lagBytes is how much of the log, in encoded bytes, outlives a compaction. It
// is there for open watches that are a moment behind: etcd, too, hands out
// what was already on its way to a watch when it is compacted.
const lagBytes = 16 << 20

// record is one revision of one key. It never changes.
type record struct {
	// kv is the key's state from kv.ModRevision on. Of a deletion, only Key and
	// ModRevision are set, as in etcd's events.
	kv      *mvccpb.KeyValue
	deleted bool
}

func (r *record) revision() int64  { return r.kv.ModRevision }
func (r *record) sizeBytes() int64 { return int64(proto.Size(r.kv)) }

// item is a key with its records by ascending revision. A transaction that deletes
// and puts a key leaves two of one revision, of which the last counts.
type item struct {
	key     []byte
	records []*record
}

func itemLess(a, b *item) bool { return bytes.Compare(a.key, b.key) < 0 }

// at is the key's record at a revision, nil when the key did not exist then.
func (it *item) at(revision int64) *record {
	n := sort.Search(len(it.records), func(i int) bool { return it.records[i].revision() > revision })
	if n == 0 || it.records[n-1].deleted {
		return nil
	}
	return it.records[n-1]
}

// event is one entry of the log: a record and the one of the revision before, if any.
type event struct {
	*record
	prev *record
}

// contains tells whether key is one of r.
func contains(r *backends.KeyRange, key []byte) bool {
	switch {
	case len(r.End) == 0:
		return bytes.Equal(key, r.Key)
	case bytes.Equal(r.End, []byte{0}):
		return bytes.Compare(key, r.Key) >= 0
	}
	return bytes.Compare(key, r.Key) >= 0 && bytes.Compare(key, r.End) < 0
}

// get is the record of one key at a revision, or nil.
func (b *Backend) get(key []byte, revision int64) *record {
	it, ok := b.items.Get(&item{key: key})
	if !ok {
		return nil
	}
	return it.at(revision)
}

// list is the records of a range at a revision, by ascending key.
func (b *Backend) list(r *backends.KeyRange, revision int64) []*record {
	var found []*record
	b.items.AscendGreaterOrEqual(&item{key: r.Key}, func(it *item) bool {
		if !contains(r, it.key) {
			return false
		}
		if rec := it.at(revision); rec != nil {
			found = append(found, rec)
		}
		return true
	})
	return found
}

// add puts a new record behind those of its key, and into the log.
func (b *Backend) add(rec, prev *record) {
	it, ok := b.items.Get(&item{key: rec.kv.Key})
	if !ok {
		it = &item{key: rec.kv.Key}
		b.items.ReplaceOrInsert(it)
	}
	it.records = append(it.records, rec)
	b.sizeBytes += rec.sizeBytes()
	b.log = append(b.log, event{rec, prev})
}

// logIndex is where in the log a revision begins, or would.
func (b *Backend) logIndex(revision int64) int {
	return sort.Search(len(b.log), func(i int) bool { return b.log[i].revision() >= revision })
}

// forget drops the records that no read at or above the compacted revision can
// see: of each key all but the newest at or below it, and that one as well if
// it is a deletion.
func (b *Backend) forget() {
	var empty []*item
	b.items.Ascend(func(it *item) bool {
		n := sort.Search(len(it.records), func(i int) bool { return it.records[i].revision() > b.compacted })
		if n > 0 && !it.records[n-1].deleted {
			n--
		}
		for _, rec := range it.records[:n] {
			b.sizeBytes -= rec.sizeBytes()
		}
		it.records = slices.Clone(it.records[n:])
		if len(it.records) == 0 {
			empty = append(empty, it)
		}
		return true
	})
	for _, it := range empty {
		b.items.Delete(it)
	}
}

// trimLog drops whole revisions below the compacted one from the log, the
// oldest first, until at most lagBytes of such are left.
func (b *Backend) trimLog() {
	end := b.logIndex(b.compacted)
	keep, size := end, int64(0)
	for keep > 0 {
		first := b.logIndex(b.log[keep-1].revision()) // where the revision begins
		for _, e := range b.log[first:keep] {
			size += e.sizeBytes()
		}
		if size > lagBytes {
			break
		}
		keep = first
	}
	if keep > 0 {
		b.logFirst = b.log[keep-1].revision() + 1
		b.log = slices.Clone(b.log[keep:])
	}
}
