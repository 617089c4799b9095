package mvcc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/etcdshim/shim/backends"
)

// filled is a store of n keys with values of size bytes, flushed.
func filled(b *testing.B, n, size int) *bench {
	s := newBench(b, nil)
	value := make([]byte, size)
	for i := 0; i < n; i += 100 {
		s.entry(func(t *Txn) {
			for k := i; k < min(i+100, n); k++ {
				t.Put(benchKey(k), value, 0)
			}
		})
	}
	s.flush()
	return s
}

func benchKey(i int) []byte {
	return fmt.Appendf(nil, "/registry/pods/namespace-%03d/pod-%07d", i*7919%1000, i)
}

// BenchmarkPut applies entries of one put of 1 KiB to 100,000 keys.
func BenchmarkPut(b *testing.B) {
	s := filled(b, 100_000, 100)
	value := make([]byte, 1024)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		t := s.s.Begin()
		t.Put(benchKey(i*31%100_000), value, 0)
		if _, err := t.Commit(); err != nil {
			b.Fatal(err)
		}
		s.end()
	}
}

// BenchmarkRange10k drains a range of 10,000 keys of 1 KiB.
func BenchmarkRange10k(b *testing.B) {
	s := filled(b, 10_000, 1024)
	for _, keysOnly := range []bool{false, true} {
		b.Run(fmt.Sprint("keysOnly=", keysOnly), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				v := s.s.View()
				c, err := v.Range(backends.RangeOptions{KeyRange: allKeys(), KeysOnly: keysOnly})
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for {
					chunk, err := c.Next(context.Background())
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
					n += chunk.Len()
					chunk.Release()
				}
				c.Close()
				v.Close()
				if n != 10_000 {
					b.Fatal(n)
				}
			}
		})
	}
}

// BenchmarkCount100k counts, and lists a page of 500, in 100,000 keys.
func BenchmarkCount100k(b *testing.B) {
	s := filled(b, 100_000, 100)
	b.Run("count", func(b *testing.B) {
		v := s.s.View()
		for range b.N {
			if n, err := v.Count(allKeys(), 0); n != 100_000 || err != nil {
				b.Fatal(n, err)
			}
		}
	})
	b.Run("one", func(b *testing.B) {
		v := s.s.View()
		b.ReportAllocs()
		for i := range b.N {
			if _, ok, err := v.Get(benchKey(i%100_000), 0); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("page", func(b *testing.B) {
		v := s.s.View()
		b.ReportAllocs()
		for range b.N {
			c, err := v.Range(backends.RangeOptions{KeyRange: allKeys(), Limit: 500})
			if err != nil || c.Count() != 100_000 {
				b.Fatal(err)
			}
			for n := 0; n < 500; {
				chunk, err := c.Next(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				n += chunk.Len()
				chunk.Release()
			}
			c.Close()
		}
	})
}

// BenchmarkOpen1M opens a store of a million keys, and reports the index's memory.
func BenchmarkOpen1M(b *testing.B) {
	s := filled(b, 1_000_000, 100)
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		s.close()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		b.StartTimer()
		s.open()
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "B/key")
	}
}
