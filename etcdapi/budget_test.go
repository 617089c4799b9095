package etcdapi

import (
	"runtime"
	"testing"
	"time"
)

// awaitBudget waits until so many bytes are charged. grpc frees what it wrote
// shortly after the client has it, which no event tells.
func awaitBudget(t *testing.T, s *Server, want int64) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		s.budget.mu.Lock()
		used := s.budget.used
		s.budget.mu.Unlock()
		if used == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes stay charged, want %d", used, want)
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
}
