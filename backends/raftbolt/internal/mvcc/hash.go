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
// ErrFutureRevision. Below revision 0 there is nothing to hash, and that is the answer.
//
// It goes by short read transactions, and holds the next compaction of the file
// up meanwhile. A compaction that is under way does not change the result: what
// it will remove is left out.
//
// At the revision of one of the last maxKeptHashes compactions that were done since
// the start, the answer is the hash that the compaction took, above the one before
// it; also when that revision is compacted by now.
func (s *Store) HashKV(ctx context.Context, revision int64) (Hash, error) {
	if h, ok := s.compact.hashAt(revision); ok {
		h.CurrentRevision = s.Committed()
		return h, nil
	}
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
	case revision == 0:
		h.Revision = st.revision
	}
	if err := s.Flush(ctx); err != nil {
		return h, err
	}
	k := newHasher(st.root, h.Revision, st.compactRevision)
	k.empty = k.noneLive(false)
	err := k.all(ctx, s, func() error { return nil })
	h.Hash = k.sum.Sum32()
	return h, err
}

// hashCompaction is the hash that etcd's compaction takes of what it goes over,
// before it removes anything: all changes up to target above the compaction before
// it, and those below that stay.
func (s *Store) hashCompaction(c compaction) (Hash, error) {
	k := newHasher(s.state.Load().root, c.target, c.previous)
	// etcd's compaction keeps a deletion at its own revision, so that there is
	// something to keep.
	k.empty = k.noneLive(true)
	err := k.all(s.stopped, s, func() error { return s.pause(s.cfg.CompactPause) })
	return Hash{Hash: k.sum.Sum32(), Revision: c.target, CompactRevision: c.previous}, err
}

// hasher hashes the key bucket. What counts:
//
//   - changes above the compaction, up to the revision: all;
//   - changes at or below it: those that are the newest of their key at the
//     revision hashed, and not a deletion. If no key is live at that revision,
//     etcd looks at no key and hashes every change that the compaction left,
//     but for deletions at the compaction.
type hasher struct {
	// root has every version between the compaction and the revision.
	root     *node
	revision int64
	compact  int64
	// empty: no key is live at the revision.
	empty bool
	sum   hash.Hash32
	next  []byte
}

func newHasher(root *node, main, compact int64) *hasher {
	k := &hasher{
		root: root, revision: main, compact: compact,
		sum: crc32.New(crc32.MakeTable(crc32.Castagnoli)), next: appendRevision(nil, revision{}, false),
	}
	k.sum.Write([]byte(bucketKey))
	return k
}

// noneLive tells whether no key is live at the revision; with deletions, also none
// that is deleted at just that revision.
func (k *hasher) noneLive(deletions bool) bool {
	return k.root.ascend(everything(), func(key *keyVersions) bool {
		v, ok := key.at(k.revision)
		return !ok || v.tombstone() && (!deletions || v.main != k.revision)
	})
}

// all hashes everything that counts, and calls between between two chunks.
func (k *hasher) all(ctx context.Context, s *Store, between func() error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		done := false
		err := s.read(func(tx *bolt.Tx) (err error) {
			done, err = k.chunk(s, tx)
			return err
		})
		if err != nil || done {
			return err
		}
		if err := between(); err != nil {
			return err
		}
	}
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
