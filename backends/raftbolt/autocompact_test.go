package raftbolt

import (
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

func TestAutoCompaction(t *testing.T) {
	t.Run("periodic", func(t *testing.T) {
		clock := newTestClock()
		m := openIn(t, t.TempDir(), func(c *Config, e *backends.Env) { e.Clock, c.AutoCompactionRetention = clock, "10m" })
		revisions := []int64{m.store.Committed()}
		for range 10 {
			clock.awaitTimer(t, time.Minute)
			revisions = append(revisions, m.put("a", "1"))
			if got := m.store.CompactRevision(); got > 0 {
				t.Fatalf("compacted to %d within the first period", got)
			}
			clock.advance(time.Minute)
		}
		eventually(t, "compacted", func() bool { return m.store.CompactRevision() == revisions[0] })
		for range 10 {
			clock.awaitTimer(t, time.Minute)
			m.put("a", "1")
			clock.advance(time.Minute)
		}
		// As in etcd, to the sample before the one of just ten minutes ago.
		eventually(t, "compacted again", func() bool { return m.store.CompactRevision() == revisions[9] })
	})
	t.Run("revision", func(t *testing.T) {
		clock := newTestClock()
		m := openIn(t, t.TempDir(), func(c *Config, e *backends.Env) {
			e.Clock, c.AutoCompactionMode, c.AutoCompactionRetention = clock, CompactRevision, "3"
		})
		for range 10 {
			m.put("a", "1")
		}
		clock.awaitTimer(t, revisionCompactEvery)
		clock.advance(revisionCompactEvery)
		eventually(t, "compacted", func() bool { return m.store.CompactRevision() == 11-3 })
	})
}
