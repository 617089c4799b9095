package raftbolt

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
)

// BenchmarkPut is one put of 1 KiB at a time, and many at once that share syncs.
func BenchmarkPut(b *testing.B) {
	env := backends.Env{Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(), Clock: backends.SystemClock{}, Fatal: func(err error) { b.Error(err) }}
	m, err := Open(context.Background(), Config{DataDir: b.TempDir()}, env)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close(context.Background())
	<-m.Ready()
	value := []byte(strings.Repeat("v", 1024))
	write := func() {
		// As etcdapi: the request is the backend's to keep.
		ops := []backends.Op{{Put: &backends.PutOp{Key: []byte("key"), Value: value}}}
		r, err := m.Txn(context.Background(), &backends.TxnRequest{TxnOp: backends.TxnOp{Success: ops}})
		if err != nil {
			b.Error(err)
			return
		}
		r.Close()
	}
	b.Run("single", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			write()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(64)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				write()
			}
		})
	})
}
