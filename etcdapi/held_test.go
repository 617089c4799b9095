package etcdapi

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// live counts the chunks of ranges whose memory is not free.
func live(ranges func(context.Context, *backends.RangeRequest) (backends.Cursor, error), n *atomic.Int64) func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
	return func(ctx context.Context, r *backends.RangeRequest) (backends.Cursor, error) {
		cur, err := ranges(ctx, r)
		for _, c := range cur.(*cursor).chunks {
			n.Add(1)
			runtime.AddCleanup(&c.Bytes()[0], func(n *atomic.Int64) { n.Add(-1) }, n)
		}
		return cur, err
	}
}

// TestHeldClosed: when a connection ends, the memory of its answers is free, whoever
// still refers to the buffers; who reads them finds as much as before. A chunk that
// may still be read does not go back to its backend.
func TestHeldClosed(t *testing.T) {
	b := newBudget(64*mib, newManualClock())
	a := b.account()
	c := &claim{account: a}
	var freed atomic.Bool
	var released atomic.Int64
	chunk := func() *backends.Chunk {
		data := make([]byte, mib)
		runtime.AddCleanup(&data[0], func(f *atomic.Bool) { f.Store(true) }, &freed)
		return backends.NewChunk(data, 1, func() { released.Add(1) })
	}
	before := newHeld(chunk(), mustTake(t, c, mib))
	runtime.GC()
	if freed.Load() {
		t.Fatal("the memory is free although the connection is open")
	}
	a.end()
	await(t, func() bool {
		runtime.GC()
		return freed.Load()
	})
	freed.Store(false)
	after := newHeld(chunk(), mustTake(t, c, mib))
	await(t, func() bool {
		runtime.GC()
		return freed.Load()
	})
	for _, h := range []interface {
		Len() int
		ReadOnlyData() []byte
		Free()
	}{before, after} {
		if h.Len() != mib || len(h.ReadOnlyData()) != mib {
			t.Errorf("%d bytes, of which %d can be read", h.Len(), len(h.ReadOnlyData()))
		}
		h.Free()
	}
	if n := released.Load(); n != 0 {
		t.Errorf("%d chunks went back to the backend", n)
	}
}

// TestHeldClosedDeadlines: memory that the budget gives to others once a connection
// was closed is free, also when requests have deadlines: of their timers, which refer
// to the connection, some stay with the runtime after they were stopped.
func TestHeldClosedDeadlines(t *testing.T) {
	const clients, hangUps, chunks = 40, 10, 9
	var held, released atomic.Int64
	f := &fake{ranges: live(rangeOf(t, keyValues(12*chunks, 20_000), 12, &released), &held)} // 2 MB
	s, _ := serve(t, f, Config{ResponseMemoryBytes: mib, Clock: newManualClock()})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for range clients {
		conn, _ := dialDeaf(t, s)
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{}, "/etcdserverpb.KV/Range")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stream.SendMsg(&pb.RangeRequest{Key: []byte("k")}), stream.CloseSend()); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool { return held.Load() == clients*chunks })
	for n := range hangUps {
		var unread *account // an answer that is complete
		await(t, func() bool {
			s.budget.mu.Lock()
			defer s.budget.mu.Unlock()
			if c := s.budget.exceeding; c != nil && c.done {
				unread = c.account
			}
			return unread != nil
		})
		unread.hangUp()
		await(t, func() bool {
			runtime.GC()
			return held.Load() <= int64(clients-1-n)*chunks
		})
	}
}
