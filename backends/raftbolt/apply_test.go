package raftbolt

import (
	"context"
	"testing"
)

// TestStatusAfterAnswer ensures that who was answered a write finds it in the indices of
// the status, and that these do not go back afterwards.
func TestStatusAfterAnswer(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	var applied, committed uint64
	for range 300 {
		m.put("k", "1")
		for range 2 { // the second is past the node's own account of it, mostly
			s, err := m.Status(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if s.AppliedIndex < applied || s.RaftIndex < committed || s.AppliedIndex > s.RaftIndex {
				t.Fatalf("applied %d, committed %d; before: %d, %d", s.AppliedIndex, s.RaftIndex, applied, committed)
			}
			applied, committed = s.AppliedIndex, s.RaftIndex
		}
		applied, committed = applied+1, committed+1 // by the next put
	}
}
