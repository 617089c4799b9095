package mvcc

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// essential lists, for each kind of byte in a store's file that a check must not
// miss a flip of, the offsets: meta pages, heads of pages, elements, keys, and
// records without the names of keys and the values.
func essential(t *testing.T, data []byte) map[string][]int {
	t.Helper()
	m, ok, err := newestMetaPage(bytes.NewReader(data))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	kinds := map[string][]int{}
	add := func(kind string, from, n int) {
		for i := range n {
			kinds[kind] = append(kinds[kind], from+i)
		}
	}
	for i := range 2 {
		add("meta page", i*int(m.pageSize), metaHeaderBytes+metaBytes)
	}
	w := newTreeWalker(bytes.NewReader(data), m, func(format string, args ...any) { t.Fatalf(format, args...) }, func(uint64) {})
	if err := w.all(); err != nil {
		t.Fatal(err)
	}
	for id := uint64(2); id < m.highWater; id++ {
		page := data[id*m.pageSize:]
		h := decodePageHead(page)
		if w.reached[id/64]&(1<<(id%64)) == 0 || h.id != id {
			continue // free, or what follows a page
		}
		at := int(id * m.pageSize)
		add("head of a page", at, pageHeadBytes)
		add("element", at+pageHeadBytes, int(h.count)*elementBytes)
		for i := range int(h.count) {
			var e element
			decodeElement(page, h.kind, i, &e)
			key := bytes.Index(page[pageHeadBytes+i*elementBytes:], e.key) + pageHeadBytes + i*elementBytes
			if _, _, err := parseRevision(e.key); err != nil {
				continue // the root: names of buckets
			}
			add("revision", at+key, len(e.key))
			f, value, err := scanCanonical(e.value)
			if h.kind != kindLeaf || err != nil {
				continue
			}
			record := at + key + len(e.key)
			skip := func(part []byte) (from, to int) {
				if len(part) == 0 {
					return 0, 0
				}
				from = bytes.Index(e.value, part)
				return from, from + len(part)
			}
			nameFrom, nameTo := skip(f.key)
			valueFrom, valueTo := skip(value)
			for i := range e.value {
				if !(i >= nameFrom && i < nameTo) && !(i >= valueFrom && i < valueTo) {
					add("record", record+i, 1)
				}
			}
		}
	}
	return kinds
}

// TestCheckFindsFlippedBits: no flipped bit in what a file is made of, beside
// names and values, escapes a check; and opening such a file never panics.
func TestCheckFindsFlippedBits(t *testing.T) {
	b := newBench(t, nil)
	for i := range 500 {
		b.put(fmt.Sprintf("key-%03d", i%170), strings.Repeat("V", 40+i))
	}
	b.put("large", strings.Repeat("V", 30_000))
	if err := b.s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.close()
	data, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	kinds := essential(t, data)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	path := filepath.Join(t.TempDir(), "db")
	check := func(data []byte) *CheckReport {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Check(path, CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := check(data); r.Faults != 0 || r.Keys != 171 {
		t.Fatalf("%d keys; %v", r.Keys, r.Damage)
	}
	for _, kind := range []string{"meta page", "head of a page", "element", "revision", "record"} {
		offsets := kinds[kind]
		if len(offsets) < 100 {
			t.Fatalf("%d offsets of kind %s", len(offsets), kind)
		}
		missed, opened := 0, 0
		for i := range 120 {
			at, bit := offsets[rng.IntN(len(offsets))], byte(1)<<rng.IntN(8)
			data[at] ^= bit
			if check(data).Faults == 0 {
				missed++
				t.Errorf("%s: bit %#x at %d (page %d, %d) was missed", kind, bit, at, at/4096, at%4096)
			}
			if i%6 == 0 {
				c := b.cfg
				c.Path = path
				if s, err := Open(c); err == nil {
					opened++
					_ = s.Close(context.Background())
				}
			}
			data[at] ^= bit
		}
		t.Logf("%s: %d places, %d missed, %d of 20 opened", kind, len(offsets), missed, opened)
	}
}

// TestSealNoticesAWrongIndex: a start on a file that says that it holds less than it
// does would apply entries of the log twice.
func TestSealNoticesAWrongIndex(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Founding = 5 })
	b.put("a", "1")
	b.close()
	data, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	index := binary.BigEndian.AppendUint64([]byte(metaConsistentIndex), b.index)
	wrong := binary.BigEndian.AppendUint64([]byte(metaConsistentIndex), b.index-1)
	if !bytes.Contains(data, index) {
		t.Fatal("the index is not in the file")
	}
	for _, tc := range []struct {
		what     string
		data     []byte
		founding uint64
		sound    bool
	}{
		{"as it was", data, 5, true},
		{"a lower index", bytes.ReplaceAll(data, index, wrong), 5, false},
		{"another directory", data, 6, false},
	} {
		if err := os.WriteFile(b.path, tc.data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Check(b.path, CheckOptions{Founding: tc.founding})
		if err != nil || r.Sealed != tc.sound || (r.Faults == 0) != tc.sound {
			t.Errorf("%s: check: %+v, %v", tc.what, r, err)
		}
		c := b.cfg
		c.Founding = tc.founding
		s, err := Open(c)
		if (err == nil) != tc.sound {
			t.Errorf("%s: open: %v", tc.what, err)
		}
		if err == nil {
			_ = s.Close(context.Background())
		}
	}
}
