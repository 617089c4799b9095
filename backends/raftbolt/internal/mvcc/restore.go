package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"regexp"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// RestoreOptions say what becomes of a snapshot that is made a store.
type RestoreOptions struct {
	// Founding is Config.Founding of the store.
	Founding uint64
	// Applied is the position in the new log that the file stands for. What the file
	// says of another log is forgotten.
	Applied Applied
	// Entries are all that the small buckets named here hold from now on; the others
	// stay as they are.
	Entries map[Bucket]map[string][]byte
	// BumpRevision, when not 0, raises the revision by as much, and compacts at the
	// revision it then has: a client that saw newer ones than the snapshot has is told
	// that they are compacted, instead of finding others in their place.
	BumpRevision int64
	// MmapBytes is address space for the file; at least 10 GiB are taken anyway.
	MmapBytes int64
}

// restorableVersions are the storage versions that Restore takes: etcd 3.5 wrote
// none. Between them nothing changed but that entry (etcd: storage/schema/schema.go,
// schemaChanges).
func restorableVersions() []string { return []string{"", "3.6.0", StorageVersion} }

// Restore makes the file at path, a snapshot of etcd's or shim's without its
// checksum, a store that Open takes. Keys, revisions, leases, users, roles and alarms
// stay as they are; a compaction that was under way is taken up when the store is
// opened. The file is synced on return, its name is not; after an error it is in no
// known state and must be removed.
//
// The structure of all pages and every record is checked before the file is
// changed. *CorruptError, ErrVersion, ErrLocked, ErrRevision.
func Restore(path string, o RestoreOptions) error {
	if err := checkLength(path); err != nil {
		return err
	}
	s := &Store{cfg: Config{Path: path, Founding: o.Founding, QuotaBytes: o.MmapBytes / 2}.withDefaults()}
	l, err := s.loadBy((*loader).readForeign)
	if err != nil {
		return err
	}
	db, err := s.openBolt(path, false)
	if err != nil {
		return err
	}
	err = guard(path, func() error {
		if err := db.Update(func(tx *bolt.Tx) error { return o.rewrite(tx, l) }); err != nil {
			return err
		}
		// A second transaction, since a snapshot may have its meta pages exchanged:
		// each transaction writes one of them in its place.
		return db.Update(s.seal)
	})
	return errors.Join(err, guard(path, db.Close))
}

// readForeign reads a file that another server wrote, or another directory's.
func (l *loader) readForeign(tx *bolt.Tx) error {
	if err := l.needBuckets(tx); err != nil {
		return err
	}
	meta := tx.Bucket([]byte(bucketMeta))
	if v := meta.Get([]byte(metaStorageVersion)); !slices.Contains(restorableVersions(), string(v)) {
		return fmt.Errorf("%w: the file has %q, this program takes those of etcd 3.5 to 3.7", ErrVersion, v)
	}
	if err := l.readPositions(meta.Get); err != nil {
		return err
	}
	return l.readRecords(tx)
}

// rewrite replaces what belongs to a member.
func (o *RestoreOptions) rewrite(tx *bolt.Tx, l *loader) error {
	entries := maps.Clone(o.Entries)
	if entries == nil {
		entries = map[Bucket]map[string][]byte{}
	}
	scheduled := l.scheduled
	if o.BumpRevision != 0 {
		var err error
		if scheduled, err = raise(tx, max(l.last.main, l.scheduled, l.finished), o.BumpRevision); err != nil {
			return err
		}
	}
	meta := map[string][]byte{metaStorageVersion: []byte(StorageVersion)}
	if scheduled >= 0 {
		meta[metaScheduledCompact] = metaRevision(scheduled)
	}
	if l.finished >= 0 {
		meta[metaFinishedCompact] = metaRevision(l.finished)
	}
	entries[bucketMeta] = meta
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if err := replaceBucket(tx, []byte(name), entries[name]); err != nil {
			return err
		}
	}
	if err := createBuckets(tx); err != nil {
		return err
	}
	return putApplied(tx, o.Applied)
}

func replaceBucket(tx *bolt.Tx, name []byte, entries map[string][]byte) error {
	if tx.Bucket(name) != nil {
		if err := tx.DeleteBucket(name); err != nil {
			return err
		}
	}
	b, err := tx.CreateBucket(name)
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(entries)) {
		if err := b.Put([]byte(k), entries[k]); err != nil {
			return err
		}
	}
	return nil
}

// raise writes the record of a raised revision, and returns that revision.
func raise(tx *bolt.Tx, latest, by int64) (int64, error) {
	if by < 0 || by > math.MaxInt64-latest {
		return 0, fmt.Errorf("%w: %d above revision %d", ErrRevision, by, latest)
	}
	key := appendRevision(nil, revision{main: latest + by}, false)
	return latest + by, tx.Bucket([]byte(bucketKey)).Put(key, []byte{})
}

// FileStatus is what is told of a store's file or a snapshot.
type FileStatus struct {
	// Hash is the CRC-32C of the names of all buckets, with their keys and values, as
	// etcdutl snapshot status computes it. It is not that of HashKV.
	Hash uint32
	// Revision is the newest one of a change; 0 when there is none.
	Revision int64
	// Keys exist at it.
	Keys int
	// SizeBytes counts the pages that the file has allocated.
	SizeBytes int64
	// Version is the storage version, such as "3.7.0"; empty before etcd 3.6.
	Version string
}

// Status reads the file at path through and changes nothing. The file is shared
// with other readers; a server that has it open is ErrLocked. *CorruptError.
//
// Memory: about 50 bytes and its length for each key.
func Status(path string) (FileStatus, error) {
	var st FileStatus
	if err := checkLength(path); err != nil {
		return st, err
	}
	s := &Store{cfg: Config{Path: path}.withDefaults()}
	_, err := s.loadBy(func(l *loader, tx *bolt.Tx) (err error) {
		st, err = l.status(tx)
		return err
	})
	return st, err
}

// status goes over all buckets in order (etcdutl: snapshot/v3_snapshot.go, Status, 3.7.3).
func (l *loader) status(tx *bolt.Tx) (FileStatus, error) {
	st := FileStatus{SizeBytes: tx.Size()}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	keys := map[string]struct{}{}
	err := tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		sum.Write(name)
		isKey := bytes.Equal(name, []byte(bucketKey))
		return b.ForEach(func(k, v []byte) error {
			sum.Write(k)
			sum.Write(v)
			if !isKey {
				return nil
			}
			r, tombstone, err := parseRevision(k)
			if err != nil {
				return l.corrupt("%v", err)
			}
			f, err := scanRecord(v)
			if err != nil {
				return l.corrupt("the record at revision %d.%d cannot be read", r.main, r.sub)
			}
			if st.Revision = r.main; tombstone {
				delete(keys, string(f.key))
			} else {
				keys[string(f.key)] = struct{}{}
			}
			return nil
		})
	})
	if meta := tx.Bucket([]byte(bucketMeta)); meta != nil {
		// What is no version, etcd's tools leave out.
		if v := meta.Get([]byte(metaStorageVersion)); regexp.MustCompile(`^\d+\.\d+\.\d+$`).Match(v) {
			st.Version = string(v)
		}
	}
	st.Hash, st.Keys = sum.Sum32(), len(keys)
	return st, err
}
