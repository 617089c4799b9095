package etcdapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

const (
	// snapshotPartBytes is the size of a snapshot's messages (v3rpc/maintenance.go,
	// snapshotSendBufferSize): eight pages.
	snapshotPartBytes = 32 << 10
	// snapshotStall is how long a client may leave a message of its snapshot unread
	// while another client waits for its place: the backend makes few at a time.
	snapshotStall = 10 * time.Second
	// pressedSnapshots is by how much shorter that is once somebody waited for as
	// long, or many that are not read would each take it, one after the other.
	pressedSnapshots = 4
)

// errSnapshotUnread ends a snapshot whose client does not read it.
var errSnapshotUnread = status.Error(codes.Unavailable, "shim: the snapshot was not read, and another client waits for its place")

// snapshots are those on their way to clients.
type snapshots struct {
	clock backends.Clock
	stall time.Duration

	mu      sync.Mutex
	sending map[*sendingSnapshot]struct{}
	// ended is closed, and made anew, when one ends.
	ended chan struct{}
}

type sendingSnapshot struct {
	cancel context.CancelCauseFunc
	moved  time.Time // when a message was taken off last; guarded by snapshots.mu
}

func newSnapshots(clock backends.Clock, stall time.Duration) *snapshots {
	return &snapshots{clock: clock, stall: stall, sending: make(map[*sendingSnapshot]struct{}), ended: make(chan struct{})}
}

func (s *snapshots) begin(cancel context.CancelCauseFunc) *sendingSnapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := &sendingSnapshot{cancel: cancel, moved: s.clock.Now()}
	s.sending[one] = struct{}{}
	return one
}

func (s *snapshots) move(one *sendingSnapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one.moved = s.clock.Now()
}

func (s *snapshots) end(one *sendingSnapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sending, one)
	close(s.ended)
	s.ended = make(chan struct{})
}

// makeWay ends those that are not read, for somebody who waits since asked, and
// returns a channel that is closed when the next one has ended.
func (s *snapshots) makeWay(asked time.Time) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, stall := s.clock.Now(), s.stall
	if now.Sub(asked) >= s.stall {
		stall /= pressedSnapshots
	}
	for one := range s.sending {
		if now.Sub(one.moved) >= stall {
			one.cancel(errSnapshotUnread)
		}
	}
	return s.ended
}

// takeSnapshot takes a snapshot, waiting for as long as the client does when the
// backend makes no more at a time.
func (s *Server) takeSnapshot(ctx context.Context) (*backends.Snapshot, error) {
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	for asked := s.cfg.Clock.Now(); ; {
		ended := s.snapshots.makeWay(asked) // before asking, so that no end is missed
		snap, err := s.snapshotter.Snapshot(ctx, caller)
		if !errors.Is(err, backends.ErrTooManyRequests) {
			return snap, err
		}
		tick, stop := s.cfg.Clock.After(s.cfg.snapshotStall / 20)
		select {
		case <-ended:
		case <-tick:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		stop()
		if ctx.Err() != nil {
			return nil, err
		}
	}
}

// snapshot sends a copy of the store and then its SHA-256, each message telling
// how many bytes of the copy remain. Its messages have no header, as etcd's.
func (s *Server) snapshot(ctx context.Context, _ *pb.SnapshotRequest, stream grpc.ServerStream) error {
	if s.snapshotter == nil {
		return s.unsupported("Snapshot")
	}
	snap, err := s.takeSnapshot(ctx)
	if err != nil {
		return err
	}
	s.log.Info("sending database snapshot to client",
		zap.Int64("total-bytes", snap.SizeBytes), zap.String("storage-version", snap.StorageVersion))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	one := s.snapshots.begin(cancel)
	// In a goroutine of its own, since a message that is not read blocks its sender
	// until this function has returned.
	sent := make(chan error, 1)
	go func() {
		err := s.sendSnapshot(ctx, snap, one, stream)
		if closed := snap.Close(); err == nil {
			err = closed
		}
		s.snapshots.end(one)
		sent <- err
	}()
	select {
	case err := <-sent:
		if err == nil {
			s.log.Info("successfully sent database snapshot to client", zap.Int64("total-bytes", snap.SizeBytes))
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Server) sendSnapshot(ctx context.Context, snap *backends.Snapshot, one *sendingSnapshot, stream grpc.ServerStream) (err error) {
	defer s.recover(pb.Maintenance_Snapshot_FullMethodName, &err)
	hash := sha256.New()
	buffer := make([]byte, min(snap.SizeBytes, snapshotPartBytes)) // SendMsg encodes before it returns
	for left := snap.SizeBytes; left > 0; {
		part := buffer[:min(left, snapshotPartBytes)]
		if _, err := io.ReadFull(snap, part); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return status.Error(codes.DataLoss, "etcdserver: the snapshot ended before its size")
			}
			return err
		}
		left -= int64(len(part))
		hash.Write(part)
		if err := stream.SendMsg(&pb.SnapshotResponse{RemainingBytes: uint64(left), Blob: part, Version: snap.StorageVersion}); err != nil {
			return s.streamEnd(ctx, "send", "snapshot", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.snapshots.move(one)
	}
	if err := stream.SendMsg(&pb.SnapshotResponse{Blob: hash.Sum(nil), Version: snap.StorageVersion}); err != nil {
		return s.streamEnd(ctx, "send", "snapshot", err)
	}
	return nil
}
