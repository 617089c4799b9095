package raftbolt

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

// flatHistory holds one event at a time, so that the benchmarks measure the hub.
type flatHistory struct {
	mu       sync.Mutex
	revision int64
	changed  chan struct{}
	event    *fakeEvent
}

func (h *flatHistory) commit() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision++
	close(h.changed)
	h.changed = make(chan struct{})
	return h.revision
}

func (h *flatHistory) Committed() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.revision
}

func (*flatHistory) CompactRevision() int64 { return -1 }

func (h *flatHistory) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *flatHistory) Recent(from, _ int64) ([]watchEvent, int64, bool) {
	return []watchEvent{{Revision: from, Key: h.event.event.Kv.Key, eventEncoder: h.event}}, from + 1, true
}

func (h *flatHistory) History(_ context.Context, from, _ int64) ([]watchEvent, int64, error) {
	e, next, _ := h.Recent(from, 0)
	return e, next, nil
}

// BenchmarkFanOut is one event to 1,000 watches on as many streams, with 10,000
// more on other keys; an op is one event, delivered to all.
func BenchmarkFanOut(b *testing.B) {
	const watchers, others = 1000, 10_000
	h := &flatHistory{revision: 1, changed: make(chan struct{})}
	h.event = &fakeEvent{}
	h.event.event.Kv = &mvccpb.KeyValue{Key: []byte("/registry/pods/a"), Value: make([]byte, 1024)}
	hub := startHub(b, h)
	rest := openStream(b, hub)
	go func() {
		for {
			if _, err := rest.Next(context.Background()); err != nil {
				return
			}
		}
	}()
	for i := range int64(others) {
		add(b, rest, i, fmt.Sprintf("/registry/other/%d/", i), fmt.Sprintf("/registry/other/%d0", i), 0)
	}
	var got atomic.Int64
	all := make(chan struct{}, 1)
	for range watchers {
		s := openStream(b, hub)
		add(b, s, 1, "/registry/pods/", "/registry/pods0", 0)
		nextBatch(b, s)
		go func() {
			for {
				batch, err := s.Next(context.Background())
				if err != nil {
					return
				}
				if batch.Kind == backends.WatchEvents && got.Add(1)%watchers == 0 {
					all <- struct{}{}
				}
			}
		}()
	}
	b.ReportAllocs()
	for b.Loop() {
		h.commit()
		<-all
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/watchers, "ns/event")
}
