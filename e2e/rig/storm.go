package rig

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Storm is a Load with everything beside it that a server may be busy with: a
// witness, thousands of watches, snapshots being streamed, defragments, looks at
// the status. It lives over all rounds.
type Storm struct {
	Load     *Load
	Verifier *Verifier
	// SnapshotPause and DefragmentPause bound the random pauses between two.
	SnapshotPause, DefragmentPause time.Duration
	// WatchStreams is how many streams of 256 watches there are.
	WatchStreams int
	// Mortal tells that the server may end by itself at any time, which is then no
	// failure of Run.
	Mortal bool

	// Snapshots came whole and were opened; BrokenSnapshots did not; Defragments
	// were answered; WatchEvents were compared.
	Snapshots, BrokenSnapshots, Defragments atomic.Int64
	WatchEvents                             int

	rng     *rand.Rand
	dir     string
	clients int
	watches *watches
	ending  atomic.Bool
}

// NewStorm makes a storm of n clients whose choices follow from seed. Snapshots
// are kept in dir, one at a time.
func NewStorm(seed uint64, n int, dir string) *Storm {
	load := NewLoad(seed, n)
	return &Storm{
		Load: load, Verifier: NewVerifier(load.Record), SnapshotPause: 500 * time.Millisecond, DefragmentPause: 2 * time.Second,
		WatchStreams: watchStreams,
		rng:          rand.New(rand.NewPCG(seed, 1<<32)), dir: dir, clients: n, watches: &watches{},
	}
}

// Ending tells the storm that the server is about to be killed. A call that fails
// before is a failure of Run.
func (s *Storm) Ending() { s.ending.Store(true) }

// Run does it all to the server at addr until the server is gone or ctx ends. It
// returns the first thing that a correct server does not do.
func (s *Storm) Run(ctx context.Context, addr string) error {
	s.ending.Store(s.Mortal)
	s.watches = &watches{}
	s.Verifier.restarted()
	// Who pauses between calls need not do so once the server is known to be gone.
	up, gone := context.WithCancel(ctx)
	defer gone()
	// Once something is wrong there is nothing to wait for.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type part func(context.Context, *grpc.ClientConn) error
	parts := []part{
		s.Verifier.Witness, s.Verifier.watchStatus(up), s.snapshots(up, s.rng.Uint64()), s.defragments(up, s.rng.Uint64()),
	}
	oldest, newest := s.Verifier.Compacted()+1, s.Verifier.Seen()
	for range s.WatchStreams {
		stream := newWatchStream(s.rng, s.clients, max(oldest, 2), newest)
		s.watches.add(stream)
		parts = append(parts, stream.run)
	}
	for _, c := range s.Load.clients {
		parts = append(parts, c.session)
	}
	errs := make([]error, len(parts))
	var running sync.WaitGroup
	for i, run := range parts {
		running.Go(func() {
			if errs[i] = s.guard(ctx, addr, run, gone); firstWrong(errs[i:i+1]) != nil {
				cancel()
			}
		})
	}
	running.Wait()
	return firstWrong(errs)
}

// guard runs a part on a connection of its own, and makes losing the server
// before its time a failure.
func (s *Storm) guard(ctx context.Context, addr string, run func(context.Context, *grpc.ClientConn) error, lost func()) error {
	conn, err := Dial(addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	err = run(ctx, conn)
	var gone GoneError
	if errors.As(err, &gone) {
		lost()
	}
	if errors.As(err, &gone) && !s.ending.Load() && ctx.Err() == nil {
		return fmt.Errorf("a call failed while the server was alive: %w", gone.error)
	}
	return err
}

// Compare compares what the watches of the last Run got with the history, once. It
// comes after the next Verify.
func (s *Storm) Compare() error {
	n, err := s.watches.compare(s.Verifier)
	s.WatchEvents += n
	s.watches = &watches{}
	return err
}

// snapshots saves one after the other.
func (s *Storm) snapshots(up context.Context, seed uint64) func(context.Context, *grpc.ClientConn) error {
	rng := rand.New(rand.NewPCG(seed, 0))
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		path := filepath.Join(s.dir, "snapshot.db")
		for {
			if err := pause(up, time.Duration(rng.Int64N(int64(s.SnapshotPause)))); err != nil {
				return err
			}
			acknowledged := s.Load.Record.Revision()
			if err := SaveSnapshot(ctx, conn, path); err != nil {
				s.BrokenSnapshots.Add(1)
				return err
			}
			newest, err := OpenSnapshot(path)
			if err != nil {
				return err
			}
			if newest < acknowledged {
				return fmt.Errorf("a snapshot ends at revision %d, but %d was acknowledged before it was asked for", newest, acknowledged)
			}
			s.Snapshots.Add(1)
		}
	}
}

// defragments defragments again and again.
func (s *Storm) defragments(up context.Context, seed uint64) func(context.Context, *grpc.ClientConn) error {
	rng := rand.New(rand.NewPCG(seed, 0))
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		for {
			if err := pause(up, time.Duration(rng.Int64N(int64(s.DefragmentPause)))); err != nil {
				return err
			}
			if _, err := pb.NewMaintenanceClient(conn).Defragment(ctx, &pb.DefragmentRequest{}); err != nil {
				return GoneError{err}
			}
			s.Defragments.Add(1)
		}
	}
}
