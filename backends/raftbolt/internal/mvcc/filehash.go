package mvcc

import (
	"context"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

// filehashStep is how many entries are hashed between two looks at the context.
const filehashStep = 4096

// FileHash hashes the whole file as etcd's Hash does (server/storage/backend,
// Hash, with storage/schema, DefaultIgnores): a CRC-32C of every bucket's name,
// keys and values, in order, but for the meta bucket's place in the log and the
// storage version. Equal content gives etcd's own value. It flushes first, and returns the
// revision that is at least hashed.
//
// It holds one read transaction, as a snapshot does, so that what it hashes is one
// state: the file's pages that are freed meanwhile are used again only afterwards.
func (s *Store) FileHash(ctx context.Context) (sum uint32, revision int64, err error) {
	revision = s.Committed()
	if err := s.Flush(ctx); err != nil {
		return 0, 0, err
	}
	s.copying.RLock()
	defer s.copying.RUnlock()
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	entries := 0
	err = s.read(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			h.Write(name)
			return b.ForEach(func(k, v []byte) error {
				if entries++; entries%filehashStep == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				if string(name) == string(bucketMeta) {
					switch string(k) {
					case metaConsistentIndex, metaTerm, metaStorageVersion:
						return nil
					}
				}
				h.Write(k)
				h.Write(v)
				return nil
			})
		})
	})
	return h.Sum32(), revision, err
}
