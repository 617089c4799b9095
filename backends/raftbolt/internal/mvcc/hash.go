package mvcc

import (
	"context"
	"hash"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"

	"github.com/etcdshim/shim/backends"
)

// Hash is the answer of HashKV.
type Hash struct {
	Hash uint32
	// Revision is what was hashed up to; CompactRevision the compaction it is
	// relative to, -1 for none; CurrentRevision the store's at the call.
	Revision        int64
	CompactRevision int64
	CurrentRevision int64
}

// hashChunkRecords and hashChunkBytes bound what is hashed under one read transaction.
const (
	hashChunkRecords = 4096
	hashChunkBytes   = 4 << 20
)

// HashKV hashes the key space up to revision (0: the current one) as etcd does
// (server/storage/mvcc/hash.go, 3.7.3). It flushes first. ErrCompacted,
// ErrFutureRevision.
//
// It goes by short read transactions, and holds the next compaction of the file
// up meanwhile. A compaction that is under way does not change the result: what
// it will remove is left out.
//
// One difference: etcd keeps the hash it took while it compacted and, until it
// restarts, answers that for the revision of the compaction; here that revision
// is hashed as it is now.
func (s *Store) HashKV(ctx context.Context, revision int64) (Hash, error) {
	s.mu.Lock()
	st := s.state.Load()
	pin := s.pins.add(st.compactRevision)
	s.mu.Unlock()
	defer pin.release()
	h := Hash{Revision: revision, CompactRevision: st.compactRevision, CurrentRevision: st.revision}
	switch {
	case revision > 0 && revision < st.compactRevision:
		return h, backends.ErrCompacted
	case revision > st.revision:
		return h, backends.ErrFutureRevision
	case revision <= 0:
		h.Revision = st.revision
	}
	if err := s.Flush(ctx); err != nil {
		return h, err
	}
	k := newHasher(st, h.Revision)
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return h, err
		}
		err := s.read(func(tx *bolt.Tx) (err error) {
			done, err = k.chunk(s, tx)
			return err
		})
		if err != nil {
			return h, err
		}
	}
	h.Hash = k.sum.Sum32()
	return h, nil
}

// hasher hashes the key bucket. What counts:
//
//   - changes above the compaction, up to the revision: all;
//   - changes at or below it: those that are the newest of their key at the
//     revision hashed, and not a deletion. If no key is live at that revision,
//     etcd looks at no key and hashes every change that the compaction left,
//     but for deletions at the compaction.
type hasher struct {
	root     *node
	revision int64
	compact  int64
	empty    bool
	sum      hash.Hash32
	next     []byte
}

func newHasher(st *state, main int64) *hasher {
	k := &hasher{
		root: st.root, revision: main, compact: st.compactRevision,
		sum: crc32.New(crc32.MakeTable(crc32.Castagnoli)), next: appendRevision(nil, revision{}, false),
	}
	k.sum.Write([]byte(bucketKey))
	k.empty = st.root.ascend(everything(), func(key *keyVersions) bool {
		_, live := key.liveAt(main)
		return !live
	})
	return k
}

// chunk hashes on from k.next.
func (k *hasher) chunk(s *Store, tx *bolt.Tx) (done bool, err error) {
	records, bytes := 0, 0
	c := tx.Bucket([]byte(bucketKey)).Cursor()
	for key, v := c.Seek(k.next); key != nil; key, v = c.Next() {
		r, tombstone, err := parseRevision(key)
		if err != nil {
			return false, s.corrupt("%v", err)
		}
		if r.main > k.revision {
			return true, nil
		}
		if records == hashChunkRecords || bytes >= hashChunkBytes {
			k.next = append(k.next[:0], key...)
			return false, nil
		}
		records, bytes = records+1, bytes+len(v)
		if r.main <= k.compact {
			counts, err := k.counts(s, r, tombstone, v)
			if err != nil {
				return false, err
			}
			if !counts {
				continue
			}
		}
		k.sum.Write(key)
		k.sum.Write(v)
	}
	return true, nil
}

// counts tells whether a change at or below the compaction is hashed.
func (k *hasher) counts(s *Store, r revision, tombstone bool, record []byte) (bool, error) {
	if tombstone {
		return false, nil
	}
	f, err := scanRecord(record)
	if err != nil {
		return false, s.corrupt("the record at revision %d.%d cannot be read", r.main, r.sub)
	}
	versions := k.root.get(string(f.key))
	if versions == nil {
		return false, nil
	}
	at := k.revision
	if k.empty {
		at = k.compact
	}
	v, ok := versions.liveAt(at)
	return ok && v.revision() == r, nil
}
