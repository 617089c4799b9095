package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

// A transaction that is refused leaves nothing behind, whatever came before the
// operation that is at fault.
func TestTxnIsRefusedWhole(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	m.put("a", "1")
	m.put("a", "2")
	revision := m.put("b", "1")
	if _, err := m.Compact(context.Background(), &backends.CompactRequest{Revision: 3}); err != nil {
		t.Fatal(err)
	}
	nested := func(ops ...backends.Op) backends.Op { return backends.Op{Txn: &backends.TxnOp{Success: ops}} }
	ignore := func(key string, value, lease bool) backends.Op {
		return backends.Op{Put: &backends.PutOp{Key: []byte(key), IgnoreValue: value, IgnoreLease: lease}}
	}
	before := m.all()
	for name, tc := range map[string]struct {
		bad  backends.Op
		want error
	}{
		"unknown lease":                  {leased("x", 99), backends.ErrLeaseNotFound},
		"unknown lease, nested":          {nested(nested(leased("x", 99))), backends.ErrLeaseNotFound},
		"ignore value of an absent key":  {ignore("x", true, false), backends.ErrKeyNotFound},
		"ignore lease of an absent key":  {ignore("x", false, true), backends.ErrKeyNotFound},
		"ignore value of an earlier put": {ignore("p", true, false), backends.ErrKeyNotFound},
		"ignore value of a deleted key":  {ignore("b", true, false), backends.ErrKeyNotFound},
		"compacted range":                {get("a", 2), backends.ErrCompacted},
		"compacted range, nested":        {nested(get("a", 2)), backends.ErrCompacted},
		"negative range":                 {get("a", -1), backends.ErrCompacted},
		"future range":                   {get("a", revision+1), backends.ErrFutureRevision},
		"empty operation":                {backends.Op{}, backends.ErrKeyNotFound},
	} {
		_, err := m.txn(one(put("p", "1"), del("b", ""), tc.bad))
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if after := m.all(); !maps.Equal(before, after) {
			t.Fatalf("%s: %v became %v", name, before, after)
		}
		// On the path that is not taken nothing is wrong with it.
		if name == "empty operation" {
			continue
		}
		r, err := m.txn(backends.TxnOp{Success: []backends.Op{del("absent", "")}, Failure: []backends.Op{tc.bad}})
		if err != nil || !r.Succeeded || r.Header.Revision != revision {
			t.Errorf("%s on the other path: %+v, %v", name, r, err)
		}
	}
	// At the compacted revision itself it can be read.
	r, err := m.txn(one(put("a", "3"), get("a", 3)))
	if err != nil {
		t.Fatal(err)
	}
	if kvs := drain(t, r.Responses[1].Range); len(kvs) != 1 || string(kvs[0].Value) != "2" {
		t.Errorf("read %v", kvs)
	}
}

// Revisions of nested headers, and what each operation sees, as etcd 3.7.3
// answered the same requests.
func TestTxnSeesItsOwnWrites(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	m.put("a", "1")
	lateCompare := backends.Op{Txn: &backends.TxnOp{
		Compare: []backends.Compare{{KeyRange: backends.KeyRange{Key: []byte("b")}, Target: backends.CompareCreateRevision, Result: backends.CompareGreater}},
		Success: []backends.Op{put("c", "1")},
		Failure: []backends.Op{get("b", 0)},
	}}
	r, err := m.txn(one(get("a", 0), put("b", "1"), get("b", 0), lateCompare, del("zz", "")))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(r.Header.Revision)
	for _, o := range r.Responses {
		got += fmt.Sprint(" ", o.Revision)
	}
	if got != "3 2 3 3 0 3" {
		t.Errorf("revisions %s", got)
	}
	if kvs := drain(t, r.Responses[2].Range); len(kvs) != 1 || kvs[0].ModRevision != 3 {
		t.Errorf("the range after the put: %v", kvs)
	}
	n := r.Responses[3].Txn
	if n.Succeeded || len(drain(t, n.Responses[0].Range)) != 1 {
		t.Errorf("a nested comparison saw the put before it, or a nested range did not: %+v", n)
	}

	// What was deleted can be read although it is gone, and later compacted.
	r, err = m.txn(one(get("a", 0), del("a", "c"), get("a", 0), put("a", "2")))
	if err != nil {
		t.Fatal(err)
	}
	m.put("z", "1")
	if _, err := m.Compact(context.Background(), &backends.CompactRequest{Revision: 5}); err != nil {
		t.Fatal(err)
	}
	if kvs := drain(t, r.Responses[1].Delete.PrevKVs); r.Responses[1].Delete.Deleted != 2 || len(kvs) != 2 || string(kvs[0].Value) != "1" {
		t.Errorf("deleted %v", kvs)
	}
	if kvs := drain(t, r.Responses[0].Range); len(kvs) != 1 || string(kvs[0].Value) != "1" {
		t.Errorf("before the deletion %v", kvs)
	}
	if kvs := drain(t, r.Responses[2].Range); len(kvs) != 0 {
		t.Errorf("after the deletion %v", kvs)
	}
}

// Comparisons give the same on the two ways they are evaluated: at apply, and on
// the View of a transaction that only reads.
func TestComparisons(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	m.grant(7, 100)
	m.put("a", "1")
	m.put("a", "2")
	if _, err := m.txn(one(leased("b", 7))); err != nil {
		t.Fatal(err)
	}
	within := func(k, e string) backends.KeyRange { return backends.KeyRange{Key: []byte(k), End: []byte(e)} }
	for i, tc := range []struct {
		c    backends.Compare
		want bool
	}{
		{backends.Compare{KeyRange: within("a", ""), Target: backends.CompareVersion, Number: 2}, true},
		{backends.Compare{KeyRange: within("a", ""), Target: backends.CompareCreateRevision, Number: 2}, true},
		{backends.Compare{KeyRange: within("a", ""), Target: backends.CompareModRevision, Number: 2}, false},
		{backends.Compare{KeyRange: within("a", ""), Target: backends.CompareValue, Value: []byte("2")}, true},
		{backends.Compare{KeyRange: within("a", ""), Target: backends.CompareValue, Value: []byte("1"), Result: backends.CompareGreater}, true},
		{backends.Compare{KeyRange: within("b", ""), Target: backends.CompareLease, Number: 7}, true},
		{backends.Compare{KeyRange: within("a", "c"), Target: backends.CompareLease, Number: 7}, false},
		{backends.Compare{KeyRange: within("a", "c"), Target: backends.CompareVersion, Result: backends.CompareGreater}, true},
		{backends.Compare{KeyRange: within("x", ""), Target: backends.CompareValue, Result: backends.CompareNotEqual}, false},
		{backends.Compare{KeyRange: within("x", "y"), Target: backends.CompareVersion}, true},
		{backends.Compare{KeyRange: within("b", "a"), Target: backends.CompareVersion, Number: 1}, false},
		{backends.Compare{KeyRange: within("a", ""), Target: 77, Result: backends.CompareNotEqual}, false},
		{backends.Compare{KeyRange: within("a", ""), Result: 77}, true},
	} {
		write := backends.TxnOp{Compare: []backends.Compare{tc.c}, Success: []backends.Op{del("none", "")}}
		read := backends.TxnOp{Compare: []backends.Compare{tc.c}, Success: []backends.Op{get("none", 0)}}
		for name, op := range map[string]backends.TxnOp{"write": write, "read": read} {
			if r, err := m.txn(op); err != nil || r.Succeeded != tc.want {
				t.Errorf("%d, %s: %+v, %v, want %v", i, name, r, err, tc.want)
			}
		}
	}
}

func TestIgnoreKeepsValueAndLease(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	m.grant(7, 100)
	m.grant(8, 100)
	for _, op := range []backends.PutOp{
		{Key: []byte("k"), Value: []byte("v"), Lease: 7},
		{Key: []byte("k"), Value: []byte("w"), IgnoreLease: true},
		{Key: []byte("k"), IgnoreValue: true, Lease: 8},
	} {
		r, err := m.txn(one(backends.Op{Put: &op}, get("k", 0)))
		if err != nil {
			t.Fatal(err)
		}
		kv := drain(t, r.Responses[1].Range)[0]
		want := map[int64]string{1: "v 7", 2: "w 7", 3: "w 8"}[kv.Version]
		if got := fmt.Sprintf("%s %d", kv.Value, kv.Lease); got != want {
			t.Errorf("version %d: %s, want %s", kv.Version, got, want)
		}
	}
	for id, want := range map[int64]int{7: 0, 8: 1} {
		r, err := m.LeaseTimeToLive(context.Background(), backends.Caller{}, id, true)
		if err != nil || len(r.Keys) != want {
			t.Errorf("lease %d: %+v, %v", id, r, err)
		}
	}
}

func TestCompact(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	for i := range 10 {
		m.put("a", fmt.Sprint(i))
	}
	compact := func(revision int64) error {
		_, err := m.Compact(context.Background(), &backends.CompactRequest{Revision: revision, Physical: true})
		return err
	}
	if err := compact(12); !errors.Is(err, backends.ErrFutureRevision) {
		t.Errorf("future: %v", err)
	}
	if err := compact(5); err != nil {
		t.Fatal(err)
	}
	for _, r := range []int64{5, 4, 0, -1} {
		if err := compact(r); !errors.Is(err, backends.ErrCompacted) {
			t.Errorf("compact at %d: %v", r, err)
		}
	}
	s, err := m.Status(context.Background())
	if err != nil || s.CompactRevision != 5 || s.Header.Revision != 11 {
		t.Errorf("status %+v, %v", s, err)
	}
	_, err = m.Range(context.Background(), &backends.RangeRequest{RangeOptions: *get("a", 4).Range})
	if !errors.Is(err, backends.ErrCompacted) {
		t.Errorf("range below: %v", err)
	}
}

// TestDeletedRecordsOutliveCompaction ensures that the deleted records of a Txn,
// which are read after it, are all there though a compaction overtook the reader,
// and that the compaction goes on once they were read.
func TestDeletedRecordsOutliveCompaction(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	const n = 100 // of 10 KiB: several chunks
	value := strings.Repeat("v", 10<<10)
	for i := range n {
		m.put(fmt.Sprintf("key/%03d", i), value)
	}
	r, err := m.txn(one(del("key/", "key0")))
	if err != nil {
		t.Fatal(err)
	}
	last := m.put("later", "x")
	if _, err := m.Compact(context.Background(), &backends.CompactRequest{Revision: last}); err != nil {
		t.Fatal(err)
	}
	kvs := drain(t, r.Responses[0].Delete.PrevKVs)
	if len(kvs) != n {
		t.Fatalf("%d deleted records, want %d", len(kvs), n)
	}
	for _, kv := range kvs {
		if string(kv.Value) != value {
			t.Fatalf("%s has a value of %d bytes", kv.Key, len(kv.Value))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.store.CompactDone(ctx, last); err != nil {
		t.Errorf("the compaction does not end: %v", err)
	}
}
