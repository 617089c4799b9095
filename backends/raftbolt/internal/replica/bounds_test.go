package replica

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestWaitersAreForgotten: a call of WaitApplied that gave up leaves nothing behind, though its index is never applied.
func TestWaitersAreForgotten(t *testing.T) {
	n := found(t, testConfig(t, newRecord(1)))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 10 {
		if err := n.WaitApplied(ctx, 1<<40); !errors.Is(err, context.Canceled) {
			t.Fatalf("WaitApplied = %v", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiters) != 0 {
		t.Errorf("%d calls are still on the list", len(n.waiters))
	}
}

// TestReadsOfStuckStateMachine: while the state machine of a member is stuck, reads that come and give up do not pile up rounds; when it goes
// on, the reads that still wait are answered.
func TestReadsOfStuckStateMachine(t *testing.T) {
	g := newGroup(t)
	g.put(1)
	leader := g.leader()
	f := g.members[0]
	if f == leader {
		f = g.members[1]
	}
	if err := f.node.WaitApplied(t.Context(), leader.node.Status().Applied); err != nil {
		t.Fatal(err)
	}
	f.record.mu.Lock()
	g.put(2)
	held := func() int {
		f.node.mu.Lock()
		defer f.node.mu.Unlock()
		return len(f.node.core.reads.confirmed)
	}
	late := make(chan error, 1)
	for i := range 3 * maxConfirmed {
		before := held()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := f.node.ReadIndex(ctx); err == nil {
				t.Error("read a state that is not applied")
			}
		}()
		// Give up when the round is confirmed, or when there is none any more.
		for end := time.Now().Add(deadline); before < maxConfirmed && held() == before; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatalf("round %d is not confirmed", i)
			}
		}
		cancel()
		<-done
	}
	go func() {
		_, err := f.node.ReadIndex(t.Context())
		late <- err
	}()
	if n := held(); n > maxConfirmed {
		t.Errorf("%d rounds wait for the state machine", n)
	}
	f.record.mu.Unlock()
	if err := <-late; err != nil {
		t.Error(err)
	}
}
