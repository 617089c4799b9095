package mvcc

import (
	"errors"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Bucket yields the entries of a small bucket in key order, those not yet flushed
// included. k and v are f's to keep. It is meant for start-up: it copies the bucket.
func (s *Store) Bucket(b Bucket, f func(k, v []byte)) error {
	entries := make(map[string][]byte)
	// Neither a flush nor a Txn may end between reading file and layer.
	s.mu.Lock()
	err := s.read(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(b)).ForEach(func(k, v []byte) error {
			entries[string(k)] = append([]byte{}, v...)
			return nil
		})
	})
	for _, o := range slices.Concat(s.layer.frozenOps, s.layer.ops) {
		switch {
		case o.bucket != b:
		case o.value == nil:
			delete(entries, string(o.key))
		default:
			entries[string(o.key)] = o.value
		}
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(entries)) {
		f([]byte(k), entries[k])
	}
	return nil
}

// leasedBatch is how many leased keys are read at a time.
const leasedBatch = 1024

// LeasedKeys yields every live key that has a lease, in key order: what a lease
// table is rebuilt from at start. It reads every such record. key is f's to keep.
func (s *Store) LeasedKeys(f func(key []byte, lease int64)) error {
	root := s.state.Load().root
	var keys [][]byte
	var versions []version
	flush := func() error {
		i := 0
		var bad error
		err := s.records(versions, func(record []byte, _ int) bool {
			fields, err := scanRecord(record)
			if err != nil {
				bad = s.corrupt("the record at revision %d.%d cannot be read", versions[i].main, versions[i].sub)
				return false
			}
			f(keys[i], fields.lease)
			i++
			return true
		}, func(int) {})
		keys, versions = keys[:0], versions[:0]
		return errors.Join(err, bad)
	}
	var err error
	root.ascend(everything(), func(k *keyVersions) bool {
		if k.live() && k.last.leased {
			keys, versions = append(keys, []byte(k.key)), append(versions, k.last)
			if len(keys) == leasedBatch {
				err = flush()
			}
		}
		return err == nil
	})
	if err == nil {
		err = flush()
	}
	return s.readError(err, s.Committed())
}
