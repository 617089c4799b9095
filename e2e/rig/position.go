package rig

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// position is the highest that a server has said of itself. None of it may ever
// go back, over any number of restarts.
type position struct {
	mu                                sync.Mutex
	revision                          int64
	appliedIndex, raftIndex, raftTerm uint64
}

// Observe asks for the server's status and compares it with every earlier one.
func (v *Verifier) Observe(ctx context.Context, conn *grpc.ClientConn) error {
	s, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return GoneError{err}
	}
	p := &v.position
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s.Header.Revision < p.revision:
		return fmt.Errorf("the revision went back from %d to %d", p.revision, s.Header.Revision)
	case s.RaftAppliedIndex < p.appliedIndex:
		return fmt.Errorf("the applied index went back from %d to %d", p.appliedIndex, s.RaftAppliedIndex)
	case s.RaftIndex < p.raftIndex:
		return fmt.Errorf("the raft index went back from %d to %d", p.raftIndex, s.RaftIndex)
	case s.RaftTerm < p.raftTerm:
		return fmt.Errorf("the term went back from %d to %d", p.raftTerm, s.RaftTerm)
	}
	p.revision, p.appliedIndex, p.raftIndex, p.raftTerm = s.Header.Revision, s.RaftAppliedIndex, s.RaftIndex, s.RaftTerm
	return nil
}

// observePause is the time between two looks at the status.
const observePause = 20 * time.Millisecond

// watchStatus observes until the server is gone or up ends.
func (v *Verifier) watchStatus(up context.Context) func(context.Context, *grpc.ClientConn) error {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		for {
			if err := v.Observe(ctx, conn); err != nil {
				return err
			}
			if err := pause(up, observePause); err != nil {
				return err
			}
		}
	}
}

// restarted notes that a server was started: leases have their TTL anew.
func (v *Verifier) restarted() {
	v.rec.Lock()
	defer v.rec.Unlock()
	v.started = time.Now()
}

// pause waits for d, or until ctx ends, which it returns as a GoneError.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return GoneError{ctx.Err()}
	}
}
