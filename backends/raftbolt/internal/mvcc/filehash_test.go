package mvcc

import (
	"context"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func (b *bench) fileHash() uint32 {
	b.t.Helper()
	sum, revision, err := b.s.FileHash(context.Background())
	if err != nil || revision != b.s.Committed() {
		b.t.Fatalf("revision %d, %v", revision, err)
	}
	return sum
}

// TestFileHash: the hash is that of every bucket's name, keys and values but for
// three entries, so that the place in the log does not count, and all else does.
func TestFileHash(t *testing.T) {
	b := newBench(t, nil)
	seen := []uint32{b.fileHash()}
	changes := func(what string, f func(t *Txn)) {
		t.Helper()
		b.entry(f)
		if sum := b.fileHash(); slices.Contains(seen, sum) {
			t.Errorf("%s: the hash %d was there before", what, sum)
		} else {
			seen = append(seen, sum)
		}
	}
	changes("a put", func(t *Txn) { t.Put([]byte("a"), []byte("1"), 0) })
	changes("a deletion", func(t *Txn) { t.DeleteRange(keyOf("a"), nil) })
	changes("an entry of a small bucket", func(t *Txn) { t.Set(BucketAuth, []byte("k"), []byte("v")) })
	changes("an empty value", func(t *Txn) { t.Set(BucketAlarm, []byte("k"), nil) })
	same := b.fileHash()
	b.entry(func(*Txn) {}) // an index more
	b.entry(func(tx *Txn) {
		if !tx.SetStorageVersion("3.6.0") {
			t.Error("3.6.0 is not known")
		}
		if tx.SetStorageVersion("3.8.0") {
			t.Error("3.8.0 is known")
		}
	})
	if got := b.fileHash(); got != same {
		t.Errorf("%d after an entry and another storage version, %d before", got, same)
	}
	if got := b.s.StorageVersion(); got != "3.6.0" {
		t.Errorf("storage version %s", got)
	}
	b.crash()
	if got := b.fileHash(); got != same || b.s.StorageVersion() != "3.6.0" {
		t.Errorf("%d, version %s after a crash, %d before", got, b.s.StorageVersion(), same)
	}
	b.close()
	db, err := bolt.Open(b.path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	err = db.View(func(tx *bolt.Tx) error {
		for _, name := range []string{"alarm", "auth", "authRoles", "authUsers", "cluster", "key", "lease", "members", "members_removed", "meta"} {
			text = append(text, name...)
			c := tx.Bucket([]byte(name)).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				if name != "meta" || !slices.Contains([]string{"consistent_index", "term", "storageVersion"}, string(k)) {
					text = append(append(text, k...), v...)
				}
			}
		}
		return nil
	})
	err = errors.Join(err, db.Close())
	if want := crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)); err != nil || want != same {
		t.Errorf("hash %d, the file's content makes %d, %v", same, want, err)
	}
	b.open()
	if got := b.fileHash(); got != same {
		t.Errorf("%d after opening it again, %d before", got, same)
	}
}

// TestFileHashHeedsItsContext ensures that a long hash ends with its client.
func TestFileHashHeedsItsContext(t *testing.T) {
	b := newBench(t, nil)
	b.entry(func(t *Txn) {
		for i := range 2 * filehashStep {
			t.Put([]byte{byte(i >> 8), byte(i)}, nil, 0)
		}
	})
	b.fileHash()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := b.s.FileHash(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
