package mvcc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
)

// FuzzIndexAndCodecs does arbitrary changes to an index, as transactions and
// compactions do, and compares with plain lists of versions: lookups, walks and
// counts at the present and at past revisions, on the present root and on roots
// frozen on the way, which must stay as they were. The same bytes are given to the
// decoders of keys and records.
func FuzzIndexAndCodecs(f *testing.F) {
	seedCodecs(f)
	f.Add([]byte{0, 1, 0, 2, 0, 3, 3, 1, 5, 1, 4, 9, 6, 2, 7, 0, 8, 0})
	for seed := range 6 {
		var b []byte
		for n := range 100 {
			b = append(b, byte(n*n*(seed+3)>>seed), byte(n*(2*seed+1)))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		checkCodecs(t, in)
		x := &indexRun{x: newIndex(), m: map[string][]version{}, main: 1, compacted: -1}
		for ; len(in) >= 2; in = in[2:] {
			x.step(t, in[0], in[1])
		}
		x.roots = append(x.roots, frozenIndex{x.x.freeze(), maps.Clone(x.m), x.main})
		for _, r := range x.roots {
			r.check(t)
		}
	})
}

// indexRun is an index with its model: each key's versions, in order.
type indexRun struct {
	x         *index
	m         map[string][]version
	main      int64
	compacted int64
	roots     []frozenIndex
}

type frozenIndex struct {
	root *node
	m    map[string][]version
	main int64
}

// manyKeys is more than two levels of nodes hold.
const manyKeys = 2048

func (x *indexRun) step(t *testing.T, what, arg byte) {
	key := func(n int) string { return fmt.Sprintf("%04x", n%manyKeys) }
	switch what % 8 {
	case 0, 1, 2: // one change
		x.main++
		x.set(key(int(arg)*int(what>>3+1)), what%8 == 2 && arg%2 == 0)
	case 3: // many puts, ascending: a bulk load
		x.main++
		for n := range int(arg) {
			x.set(key(int(what)<<3+n), false)
		}
	case 4: // many deletions
		x.main++
		for n := range int(arg) {
			x.set(key(int(what)<<3+n), true)
		}
	case 5:
		x.compact(x.compacted + int64(arg)%8)
	case 6:
		if len(x.roots) < 3 {
			x.roots = append(x.roots, frozenIndex{x.x.freeze(), maps.Clone(x.m), x.main})
		}
	case 7: // a transaction that is discarded
		y := indexOf(x.x.freeze())
		y.put(&keyVersions{key: key(int(arg)), last: version{main: x.main + 1, number: 1}})
		checkCounts(t, x.x.root, x.m, span{start: key(int(arg)), unbounded: true}, x.main)
	}
}

// set puts or, if it lives, deletes a key at the present revision.
func (x *indexRun) set(key string, deleted bool) {
	old := x.m[key]
	v := version{main: x.main, sub: uint32(len(old)), create: x.main, number: 1}
	if n := len(old); n > 0 && !old[n-1].tombstone() {
		v.create, v.number = old[n-1].create, old[n-1].number+1
	} else if deleted {
		return
	}
	if n := len(old); n > 0 && old[n-1].main == x.main {
		return // a key changes once in a revision
	}
	if deleted {
		v.create, v.number = 0, 0
	}
	x.m[key] = append(slices.Clone(old), v)
	x.x.update(key, func(k *keyVersions) *keyVersions {
		if k == nil {
			return &keyVersions{key: key, last: v}
		}
		return k.with(v)
	})
}

// compact forgets as Store.compactKeys does.
func (x *indexRun) compact(main int64) {
	if main > x.main || main <= x.compacted {
		return
	}
	x.compacted = main
	root := x.x.freeze()
	root.ascendStale("", func(k *keyVersions) bool {
		switch kept := k.compact(main, func([]version) {}); {
		case kept == nil:
			x.x.remove(k.key)
		case kept != k:
			x.x.put(kept)
		}
		return true
	})
	next := map[string][]version{}
	for key, versions := range x.m {
		var kept []version
		for i, v := range versions {
			newest := i+1 == len(versions) || versions[i+1].main > main
			if v.main > main || newest && (!v.tombstone() || v.main == main) {
				kept = append(kept, v)
			}
		}
		if kept != nil {
			next[key] = kept
		}
	}
	x.m = next
}

func (r frozenIndex) check(t *testing.T) {
	checkTree(t, r.root, "", "", true)
	keys := slices.Sorted(maps.Keys(r.m))
	var got []string
	r.root.ascend(everything(), func(k *keyVersions) bool {
		got = append(got, k.key)
		if !slices.Equal(append(slices.Clone(k.older), k.last), r.m[k.key]) {
			t.Errorf("%s: %v %v, want %v", k.key, k.older, k.last, r.m[k.key])
		}
		return true
	})
	if !slices.Equal(got, keys) {
		t.Fatalf("the index holds %d keys, want %d", len(got), len(keys))
	}
	for _, key := range keys[:min(len(keys), 5)] {
		if k := r.root.get(key); k == nil || k.last != r.m[key][len(r.m[key])-1] {
			t.Errorf("get %s: %+v", key, k)
		}
	}
	for n := range 3 {
		start := fmt.Sprintf("%04x", n*(manyKeys/3))
		checkCounts(t, r.root, r.m, span{start: start, unbounded: true}, r.main/2)
		checkCounts(t, r.root, r.m, span{start: start, end: fmt.Sprintf("%04x", n*(manyKeys/2))}, r.main-int64(n))
	}
}

// checkCounts compares the count of a span at a revision, and at the present the
// quick one.
func checkCounts(t *testing.T, root *node, m map[string][]version, s span, main int64) {
	t.Helper()
	var past, now int64
	for key, versions := range m {
		if key < s.start || s.ends(key) {
			continue
		}
		now += int64(one(!versions[len(versions)-1].tombstone()))
		for i := len(versions) - 1; i >= 0; i-- {
			if versions[i].main <= main {
				past += int64(one(!versions[i].tombstone()))
				break
			}
		}
	}
	if got := countAt(root, s, main, false); got != past {
		t.Errorf("%+v has %d keys at %d, want %d", s, got, main, past)
	}
	if got := root.count(s); got != now {
		t.Errorf("%+v has %d keys, want %d", s, got, now)
	}
}

// FuzzOpen does harm to a store's file and opens it, as after a fault of the disk,
// or as a snapshot that was edited. It must not panic: Open, or what is read then,
// gives a CorruptError or another error that Open names, or is right as far as it
// can be told: a flip inside a value cannot.
func FuzzOpen(f *testing.F) {
	b := newBench(f, nil)
	for i := range 300 {
		b.put(fmt.Sprintf("key-%04d", i%150), strings.Repeat("x", 40))
		if i%50 == 49 {
			b.del(fmt.Sprintf("key-%04d", i%150))
			b.flush()
		}
	}
	if err := b.s.Compact(100); err != nil {
		f.Fatal(err)
	}
	b.end()
	b.close()
	whole, err := os.ReadFile(b.path)
	if err != nil {
		f.Fatal(err)
	}
	page := os.Getpagesize()
	f.Add([]byte{})
	for at := 0; at < len(whole)/page; at++ {
		for what := range byte(5) {
			f.Add([]byte{what, byte(at), 8, 0, 0xa5, 8})
			f.Add([]byte{what, byte(at), 32, 0, 1, 1})
		}
	}
	f.Fuzz(func(t *testing.T, harm []byte) {
		data := spoilPages(whole, page, harm)
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Config{Path: path, NoSync: true})
		if err != nil {
			clean(t, err)
			return
		}
		useDamaged(t, s)
		if err := s.Close(context.Background()); err != nil {
			clean(t, err)
		}
	})
}

// clean refuses errors that tell an operator nothing.
func clean(t *testing.T, err error) {
	t.Helper()
	c := (*CorruptError)(nil)
	for _, is := range []error{ErrVersion, ErrSeal, ErrUnsealed, ErrLocked, backends.ErrStopped, backends.ErrCompacted, backends.ErrFutureRevision} {
		if errors.Is(err, is) {
			return
		}
	}
	if !errors.As(err, &c) {
		t.Errorf("%T: %v", err, err)
	}
}

// useDamaged reads, writes and compacts; any of it may fail cleanly.
func useDamaged(t *testing.T, s *Store) {
	ctx := context.Background()
	v := s.View()
	defer v.Close()
	for _, at := range []int64{0, s.CompactRevision()} {
		c, err := v.Range(backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte{0}, End: []byte{0}}, Revision: at})
		if err != nil {
			clean(t, err)
			continue
		}
		for {
			chunk, err := c.Next(ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				clean(t, err)
				break
			}
			for range chunk.Records() { // it must only end
			}
			chunk.Release()
		}
		c.Close()
	}
	if _, _, err := s.History(ctx, max(s.CompactRevision(), 0), 1<<20); err != nil {
		clean(t, err)
	}
	if _, err := s.HashKV(ctx, 0); err != nil {
		clean(t, err)
	}
	if err := s.LeasedKeys(func([]byte, int64) {}); err != nil {
		clean(t, err)
	}
	txn := s.Begin()
	txn.Put([]byte("key-0001"), []byte("new"), 0)
	if _, err := txn.Commit(); err != nil {
		clean(t, err)
		return
	}
	if err := s.EndEntry(Applied{Index: s.Applied().Index + 1, Term: 1}); err != nil {
		clean(t, err)
	}
	if err := s.Flush(ctx); err != nil {
		clean(t, err)
	}
}

// spoilPages does what harm says: runs of (what, page, offset in two bytes, value, count).
func spoilPages(whole []byte, page int, harm []byte) []byte {
	data := bytes.Clone(whole)
	for ; len(harm) >= 6 && len(data) > 0; harm = harm[6:] {
		at := (int(harm[1])*page + int(binary.LittleEndian.Uint16(harm[2:]))%page) % len(data)
		end := min(at+int(harm[5]), len(data))
		switch harm[0] % 5 {
		case 0:
			data[at] ^= 1 << (harm[4] % 8)
		case 1:
			for i := at; i < end; i++ {
				data[i] = harm[4]
			}
		case 2:
			data = data[:at]
		case 3: // a page takes another's place
			from := int(harm[4]) * page % len(data) / page * page
			copy(data[at/page*page:][:min(page, len(data)-at/page*page)], data[from:])
		case 4:
			clear(data[at : at/page*page+min(page, len(data)-at/page*page)])
		}
	}
	return data
}
