package etcdapi

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// TestOneIsWoken: of many that wait for a lock one release wakes one, which looks at the queue once
// and at its own key once; the others do nothing.
func TestOneIsWoken(t *testing.T) {
	const waiters = 30
	u := newTurns(t)
	holder := u.take("a")
	keys := make(chan []byte, waiters)
	for i := range waiters {
		lease := u.grant()
		go func() {
			r, err := u.lock.Lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("a"), Lease: lease})
			if err != nil {
				t.Errorf("lease %x: %v", lease, err)
			}
			keys <- r.GetKey()
		}()
		u.backend.awaitOpen(t, i+1)
	}
	u.backend.mu.Lock()
	before := u.backend.ranges
	u.backend.mu.Unlock()
	for i := range waiters {
		u.delete(holder)
		select {
		case holder = <-keys:
		case <-time.After(answerTimeout):
			t.Fatalf("after release %d nobody got the lock", i)
		}
		u.backend.awaitOpen(t, waiters-1-i)
	}
	u.backend.mu.Lock()
	defer u.backend.mu.Unlock()
	if got := u.backend.ranges - before; got > 2*waiters {
		t.Errorf("%d ranges for %d turns", got, waiters)
	}
}

// TestSlowObserver: an observer that does not read holds nobody up. What was proclaimed meanwhile is
// left out once it is compacted; what is told is in order, and the last is told.
func TestSlowObserver(t *testing.T) {
	const values = 24 // of a mebibyte: more than what the store keeps of what is compacted
	value := func(i int) []byte { return append(bytes.Repeat([]byte("v"), 1<<20), byte(i)) }
	u := newTurns(t)
	r, err := u.election.Campaign(t.Context(), &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: u.grant(), Value: value(0)})
	u.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan *v3electionpb.LeaderResponse) // the client takes one at a time
	sending := make(chan struct{}, values+1)        // has a token for each value before it is told
	ended := make(chan error, 1)
	go func() {
		ended <- u.server.observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("e")}, toldStream{send: func(r *v3electionpb.LeaderResponse) {
			sending <- struct{}{}
			select {
			case told <- r:
			case <-ctx.Done():
			}
		}})
	}()
	next := func() *v3electionpb.LeaderResponse {
		t.Helper()
		select {
		case r := <-told:
			return r
		case <-time.After(answerTimeout):
			t.Fatal("nothing was told")
			return nil
		}
	}
	observed := []*v3electionpb.LeaderResponse{next()}
	<-sending
	for i := range values {
		_, err := u.election.Proclaim(t.Context(), &v3electionpb.ProclaimRequest{Leader: r.Leader, Value: value(i + 1)})
		u.must(err)
		if i == 0 {
			<-sending // and there it stays
		}
	}
	u.compact()
	for !bytes.Equal(observed[len(observed)-1].Kv.Value, value(values)) {
		observed = append(observed, next())
	}
	for _, what := range []func(*v3electionpb.LeaderResponse) int64{
		func(r *v3electionpb.LeaderResponse) int64 { return r.Kv.ModRevision },
		func(r *v3electionpb.LeaderResponse) int64 { return r.Header.Revision },
	} {
		var all []int64
		for _, r := range observed {
			all = append(all, what(r))
		}
		if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
			t.Errorf("revisions %v", all)
		}
	}
	if len(observed) != 3 { // the first, the one that was on its way, the last
		t.Errorf("%d values were told", len(observed))
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	u.backend.awaitOpen(t, 0)
}
