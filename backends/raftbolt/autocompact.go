package raftbolt

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

const (
	// revisionCompactEvery is etcd's interval of revision-based compaction
	// (server/etcdserver/api/v3compactor/revision.go).
	revisionCompactEvery = 5 * time.Minute
	// compactSamples is how many samples of the revision cover a compaction
	// interval, as in etcd (periodic.go).
	compactSamples = 10
	// maxCompactInterval is how long a period may be without more than one
	// compaction in it.
	maxCompactInterval = time.Hour
)

// compactAutomatically compacts as the configuration says, while this member
// leads, until Close. It does nothing when keep is zero.
func (b *Backend) compactAutomatically(keep retention) {
	switch {
	case keep.period > 0:
		b.compactPeriodically(keep.period)
	case keep.revisions > 0:
		b.compactByRevision(keep.revisions)
	}
}

// pause waits for d; false when the member closes.
func (b *Backend) pause(d time.Duration) bool {
	c, stop := b.env.Clock.After(d)
	select {
	case <-c:
		return true
	case <-b.running.Done():
		stop()
		return false
	}
}

// compactPeriodically keeps the history of a period: a compaction goes to the
// revision that was current a period ago. The first comes after one period, the
// next after a period each, or an hour if that is shorter.
func (b *Backend) compactPeriodically(period time.Duration) {
	interval := min(period, maxCompactInterval)
	tick := interval / compactSamples
	keep := int(period/tick) + 1
	var samples []int64 // one a tick; of a full window the oldest is a period and a tick old
	next, done := b.env.Clock.Now().Add(period), int64(0)
	for {
		if samples = append(samples, b.store.Committed()); len(samples) > keep {
			samples = append(samples[:0], samples[1:]...)
		}
		if !b.pause(tick) {
			return
		}
		revision := samples[0]
		if b.env.Clock.Now().Before(next) || revision == done || !b.leads() {
			continue
		}
		if b.autoCompact(CompactPeriodic, revision, zap.Duration("compact-period", period)) {
			next, done = b.env.Clock.Now().Add(interval), revision
		}
	}
}

// compactByRevision keeps a number of revisions.
func (b *Backend) compactByRevision(keep int64) {
	done := int64(0)
	for b.pause(revisionCompactEvery) {
		revision := b.store.Committed() - keep
		if revision > 0 && revision != done && b.leads() && b.autoCompact(CompactRevision, revision, zap.Int64("revision-compaction-retention", keep)) {
			done = revision
		}
	}
}

func (b *Backend) leads() bool { return b.node.Status().Role == replica.Leader }

// autoCompact tells whether history below revision is forgotten. kept is what the mode
// keeps, for the log, whose words are etcd's (v3compactor/periodic.go and revision.go).
func (b *Backend) autoCompact(mode string, revision int64, kept zap.Field) bool {
	log, began := b.env.Logger.With(zap.Int64("revision", revision), kept), b.env.Clock.Now()
	log.Info("starting auto " + mode + " compaction")
	_, err := b.Compact(b.running, &backends.CompactRequest{Revision: revision})
	if err != nil && !errors.Is(err, backends.ErrCompacted) {
		if b.running.Err() == nil {
			log.Warn("failed auto "+mode+" compaction", zap.Error(err))
		}
		return false
	}
	log.Info("completed auto "+mode+" compaction", zap.Duration("took", b.env.Clock.Now().Sub(began)))
	return true
}
