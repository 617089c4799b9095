package mvcc

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
)

// StorageVersion is the version of etcd's schema that a new file has. etcd 3.7
// writes it to the meta bucket and its tools look for it there.
const StorageVersion = "3.7.0"

// storageVersions are those that a file may have. From 3.6 to 3.7 nothing changed
// but the version, which is written for the earlier etcd when a cluster is to go
// back to it (server/storage/schema, schemaChanges).
func storageVersions() []string { return []string{"3.6.0", StorageVersion} }

// Bucket names a small bucket of etcd's schema.
type Bucket string

// The small buckets. The bucket "key" is written by Txn.Put and DeleteRange and
// "meta" by EndEntry and Compact alone.
const (
	BucketLease          Bucket = "lease"
	BucketAlarm          Bucket = "alarm"
	BucketCluster        Bucket = "cluster"
	BucketMembers        Bucket = "members"
	BucketMembersRemoved Bucket = "members_removed"
	BucketAuth           Bucket = "auth"
	BucketAuthUsers      Bucket = "authUsers"
	BucketAuthRoles      Bucket = "authRoles"

	bucketKey  Bucket = "key"
	bucketMeta Bucket = "meta"
)

// buckets is every bucket of the schema: all are in the file, and no other.
func buckets() []Bucket {
	return []Bucket{bucketKey, bucketMeta, BucketLease, BucketAlarm, BucketCluster, BucketMembers,
		BucketMembersRemoved, BucketAuth, BucketAuthUsers, BucketAuthRoles}
}

// The sequence number of the meta bucket, which etcd does not use, is its seal.
// The bucket's keys:
//
//	consistent_index     8 bytes, big endian: the raft index that the file reflects
//	term                 8 bytes, big endian: that entry's term
//	confState            JSON of raftpb.ConfState
//	storageVersion       text, one of storageVersions
//	scheduledCompactRev  a revision (sub 0): the last compaction asked for
//	finishedCompactRev   a revision (sub 0): the last compaction done in the file
const (
	metaConsistentIndex  = "consistent_index"
	metaTerm             = "term"
	metaConfState        = "confState"
	metaStorageVersion   = "storageVersion"
	metaScheduledCompact = "scheduledCompactRev"
	metaFinishedCompact  = "finishedCompactRev"
)

// metaSeal is a checksum of the meta bucket's entries and Config.Founding: a wrong
// index in it would apply entries of the log twice, and the file of another
// directory would be taken for this one's. each yields the entries in key order.
//
//	FNV-1a of founding (8 bytes, big endian), then of each key and value: length (8), bytes
func metaSeal(founding uint64, each func(func(k, v []byte) error) error) (uint64, error) {
	h := fnv.New64a()
	number := func(n uint64) { h.Write(binary.BigEndian.AppendUint64(nil, n)) }
	number(founding)
	err := each(func(k, v []byte) error {
		for _, b := range [2][]byte{k, v} {
			number(uint64(len(b)))
			h.Write(b)
		}
		return nil
	})
	return h.Sum64(), err
}

// revision is a place in history: main counts transactions, sub the changes
// within one, from 0.
type revision struct {
	main int64
	sub  int64
}

// less orders revisions as the key bucket does.
func (r revision) less(o revision) bool {
	return r.main < o.main || r.main == o.main && r.sub < o.sub
}

// Keys of the key bucket:
//
//	offset  size  field
//	0       8     main, big endian, not negative
//	8       1     '_'
//	9       8     sub, big endian, not negative
//	17      0–1   't' when the change is a deletion
const (
	revisionBytes  = 17
	tombstoneBytes = 18
	tombstoneMark  = 't'
)

// appendRevision appends the key bucket's key of a change.
func appendRevision(b []byte, r revision, tombstone bool) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.main))
	b = append(b, '_')
	b = binary.BigEndian.AppendUint64(b, uint64(r.sub))
	if tombstone {
		b = append(b, tombstoneMark)
	}
	return b
}

// parseRevision reads what appendRevision wrote.
func parseRevision(b []byte) (r revision, tombstone bool, err error) {
	switch {
	case len(b) == tombstoneBytes && b[revisionBytes] == tombstoneMark:
		tombstone = true
	case len(b) != revisionBytes:
		return r, false, fmt.Errorf("revision key %x has %d bytes", b, len(b))
	}
	if b[8] != '_' {
		return r, false, fmt.Errorf("revision key %x lacks its separator", b)
	}
	r.main = int64(binary.BigEndian.Uint64(b))
	r.sub = int64(binary.BigEndian.Uint64(b[9:]))
	if r.main < 0 || r.sub < 0 {
		return r, false, fmt.Errorf("revision key %x is negative", b)
	}
	return r, tombstone, nil
}
