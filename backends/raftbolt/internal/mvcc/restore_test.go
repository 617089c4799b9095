package mvcc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/etcdshim/shim/backends"
)

// foreign is a copy of a store's file as another server would have written it,
// changed by f.
func foreign(t *testing.T, b *bench, f func(tx *bolt.Tx) error) string {
	t.Helper()
	data, err := os.ReadFile(b.path)
	path := filepath.Join(t.TempDir(), "foreign")
	if err := errors.Join(err, os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		return errors.Join(meta.SetSequence(0), meta.Put([]byte(metaConsistentIndex), []byte{0, 0, 0, 0, 0, 0, 9, 9}),
			meta.Put([]byte("of another"), []byte("version")), tx.Bucket([]byte(BucketMembers)).Put([]byte("1"), []byte("{}")),
			tx.Bucket([]byte(BucketAuth)).Put([]byte("authRevision"), []byte("12345678")), f(tx))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func compactedBench(t *testing.T) *bench {
	b := newBench(t, nil)
	for i := range 200 {
		b.put(fmt.Sprint("key-", i%50), fmt.Sprint(i))
	}
	b.compactPhysically(100)
	b.flush()
	return b
}

// TestRestore ensures that a file of each storage version becomes a store of the new
// directory, with its keys and compaction, and nothing of its old place.
func TestRestore(t *testing.T) {
	b := compactedBench(t)
	want := b.hash(0)
	for _, version := range restorableVersions() {
		t.Run("version "+version, func(t *testing.T) {
			path := foreign(t, b, func(tx *bolt.Tx) error {
				if version == "" {
					return tx.Bucket([]byte(bucketMeta)).Delete([]byte(metaStorageVersion))
				}
				return tx.Bucket([]byte(bucketMeta)).Put([]byte(metaStorageVersion), []byte(version))
			})
			err := Restore(path, RestoreOptions{
				Founding: 42, Applied: Applied{Index: 1, Term: 1, ConfState: []byte("{}")},
				Entries: map[Bucket]map[string][]byte{BucketMembers: {"7": []byte("seven")}},
			})
			if err != nil {
				t.Fatal(err)
			}
			r, err := Check(path, CheckOptions{Founding: 42})
			if err != nil || r.Faults != 0 || !r.Sealed {
				t.Errorf("check: %+v, %v", r, err)
			}
			if _, err := Open(Config{Path: path, NoSync: true}); !errors.Is(err, ErrSeal) {
				t.Errorf("without its founding: %v", err)
			}
			s, err := Open(Config{Path: path, NoSync: true, Founding: 42})
			if err != nil {
				t.Fatal(err)
			}
			if a := s.Applied(); a.Index != 1 || a.Term != 1 || string(a.ConfState) != "{}" {
				t.Errorf("applied %+v", a)
			}
			if h, err := s.HashKV(context.Background(), 0); err != nil || h != want {
				t.Errorf("hash %+v, %v, want %+v", h, err, want)
			}
			for name, want := range map[Bucket]string{BucketMembers: "7=seven ", BucketAuth: "authRevision=12345678 "} {
				got := ""
				if err := s.Bucket(name, func(k, v []byte) { got += fmt.Sprintf("%s=%s ", k, v) }); err != nil || got != want {
					t.Errorf("bucket %s: %q, %v, want %q", name, got, err, want)
				}
			}
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRestoreRefuses ensures that what cannot be a store of etcd 3.5 to 3.7 is
// refused before it is changed.
func TestRestoreRefuses(t *testing.T) {
	b := compactedBench(t)
	corrupt := func(err error) bool { c := (*CorruptError)(nil); return errors.As(err, &c) }
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	nothing := func(*bolt.Tx) error { return nil }
	for _, c := range []struct {
		name   string
		change func(*bolt.Tx) error
		bump   int64
		is     func(error) bool
	}{
		{"a later version", func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketMeta)).Put([]byte(metaStorageVersion), []byte("3.8.0"))
		}, 0, is(ErrVersion)},
		{"an unknown bucket", func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("new")); return err }, 0, is(ErrVersion)},
		{"no keys", func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(bucketKey)) }, 0, corrupt},
		{"no meta", func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(bucketMeta)) }, 0, corrupt},
		{"no record", func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketKey)).Put(appendRevision(nil, revision{main: 900}, false), []byte{0x0a, 0x7f})
		}, 0, corrupt},
		{"beyond all revisions", nothing, math.MaxInt64, is(ErrRevision)},
		{"back", nothing, -1, is(ErrRevision)},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := foreign(t, b, c.change)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := Restore(path, RestoreOptions{BumpRevision: c.bump}); !c.is(err) {
				t.Errorf("got %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

// TestRaisedRevision ensures that a raised revision is served: the next write comes
// after it, what is below is compacted, watchers do not see it, and compactions and
// restarts live with it.
func TestRaisedRevision(t *testing.T) {
	b := compactedBench(t)
	path := foreign(t, b, func(*bolt.Tx) error { return nil })
	if err := Restore(path, RestoreOptions{BumpRevision: 1000, Applied: Applied{Index: 1, Term: 1}}); err != nil {
		t.Fatal(err)
	}
	r := newBench(t, func(c *Config) { c.Path = path })
	r.path = path
	if r.s.Committed() != 1201 || r.s.CompactRevision() != 1201 {
		t.Fatalf("at %d, compacted at %d", r.s.Committed(), r.s.CompactRevision())
	}
	for round := range 2 {
		at := r.put("next", "1")
		if want := int64(1202 + 3*round); at != want {
			t.Errorf("next revision %d, want %d", at, want)
		}
		if _, _, err := r.s.History(context.Background(), 1200, 1<<20); !errors.Is(err, backends.ErrCompacted) {
			t.Errorf("history from below: %v", err)
		}
		from := r.s.CompactRevision()
		var events []*HistoryEvent
		for len(events) == 0 && from <= r.s.Committed() {
			var err error
			if events, from, err = r.s.History(context.Background(), from, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		if len(events) == 0 || len(events[0].Key) == 0 {
			t.Errorf("%d events", len(events))
		}
		kvs, count, _, err := list(t, r.s.View(), backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte{0}, End: []byte{0}}})
		if err != nil || len(kvs) != 51+round || count != int64(51+round) {
			t.Errorf("%d keys, count %d, %v", len(kvs), count, err)
		}
		r.put("more", "1")
		r.put("more", "2")
		hash := r.hash(0)
		r.close()
		report, err := Check(path, CheckOptions{})
		if err != nil || report.Faults != 0 {
			t.Errorf("check: %+v, %v", report.Damage, err)
		}
		r.open()
		if h := r.hash(0); h != hash {
			t.Errorf("hash %+v, was %+v", h, hash)
		}
		r.compactPhysically(r.s.Committed() - 1)
	}
}

// TestStatus ensures that what is told of a file is right, and that no damage ends
// the process.
func TestStatus(t *testing.T) {
	b := compactedBench(t)
	b.del("key-7")
	b.close()
	st, err := Status(b.path)
	if err != nil || st.Revision != 202 || st.Keys != 49 || st.Version != StorageVersion || st.Hash == 0 || st.SizeBytes == 0 {
		t.Errorf("%+v, %v", st, err)
	}
	data, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	for page := 0; page < len(data)/4096; page++ {
		damaged := append([]byte(nil), data...)
		copy(damaged[page*4096:], strings.Repeat("x", 64))
		path := filepath.Join(t.TempDir(), "damaged")
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Status(path); err == nil && got != st && page > 1 {
			t.Errorf("page %d: %+v, want %+v or an error", page, got, st)
		}
	}
	b.open()
	if _, err := Status(b.path); !errors.Is(err, ErrLocked) {
		t.Errorf("of an open store: %v", err)
	}
}

// TestUnsealed ensures that a file which another program wrote anew, so that its seal is
// gone, is told from one of another directory and from one that has lost its place in
// the log as well, and that none of them is opened.
func TestUnsealed(t *testing.T) {
	b := newBench(t, nil)
	b.put("a", "1")
	b.close()
	for _, c := range []struct {
		name   string
		change func(meta *bolt.Bucket) error
		want   error
	}{
		{"no seal", func(meta *bolt.Bucket) error { return meta.SetSequence(0) }, ErrUnsealed},
		{"another", func(meta *bolt.Bucket) error { return meta.SetSequence(7) }, ErrSeal},
		{"neither seal nor place", func(meta *bolt.Bucket) error {
			return errors.Join(meta.SetSequence(0), meta.Delete([]byte(metaConsistentIndex)))
		}, ErrSeal},
	} {
		data, err := os.ReadFile(b.path)
		path := filepath.Join(t.TempDir(), "db")
		if err := errors.Join(err, os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error { return c.change(tx.Bucket([]byte(bucketMeta))) })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(Config{Path: path, NoSync: true}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v, want %v", c.name, s, err, c.want)
		}
		if r, err := Check(path, CheckOptions{}); err != nil || r.Sealed || r.Faults == 0 {
			t.Errorf("%s: check: %+v, %v", c.name, r, err)
		}
	}
	b.open()
}
