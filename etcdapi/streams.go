package etcdapi

import (
	"context"
	"sync"

	"github.com/etcdshim/shim/backends"
)

// streams are the streaming RPCs under way, so that they can be ended with an
// error that tells the client why.
type streams struct {
	mu     sync.Mutex
	last   uint64
	open   map[uint64]openStream
	reason error // not nil once all streams were ended
}

type openStream struct {
	cancel         context.CancelCauseFunc
	requiresLeader bool
}

func newStreams() *streams { return &streams{open: make(map[uint64]openStream)} }

func (s *streams) add(cancel context.CancelCauseFunc, requiresLeader bool) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.open[s.last] = openStream{cancel, requiresLeader}
	if s.reason != nil {
		cancel(s.reason)
	}
	return s.last
}

func (s *streams) remove(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, id)
}

// cancelAll ends all streams, also those that are opened later.
func (s *streams) cancelAll(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason = reason
	for _, o := range s.open {
		o.cancel(reason)
	}
}

func (s *streams) cancelLeaderless() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.open {
		if o.requiresLeader {
			o.cancel(backends.ErrNoLeader)
		}
	}
}

func (s *streams) anyRequiresLeader() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.open {
		if o.requiresLeader {
			return true
		}
	}
	return false
}

// leaderPolls is how often within LeaderLossTimeout the leader is looked for, as
// etcd does (v3rpc/interceptor.go, maxNoLeaderCnt).
const leaderPolls = 3

// watchLeader ends the streams that require a leader once there was none at three
// looks in a row. It runs until the server stops.
func (s *Server) watchLeader() {
	misses := 0
	for {
		tick, stop := s.cfg.Clock.After(s.cfg.LeaderLossTimeout / leaderPolls)
		select {
		case <-s.stopped.Done():
			stop()
			return
		case <-tick:
		}
		if !s.streams.anyRequiresLeader() || s.hasLeader(s.stopped) {
			misses = 0
			continue
		}
		if misses++; misses >= leaderPolls {
			s.streams.cancelLeaderless()
		}
	}
}
