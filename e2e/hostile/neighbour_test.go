package hostile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/e2e/rig"
)

const (
	// requestDeadline is what a well-behaved client gives a request.
	requestDeadline = 5 * time.Second
	// latencyFactor and latencyFloor bound the median of a well-behaved client's
	// requests: the attack's clients share the two cores of the machine with it and
	// with the server, so that some slowdown is theirs.
	latencyFactor = 20
	latencyFloor  = 100 * time.Millisecond
)

// neighbour is a well-behaved client: it puts a key of its own, sees the event on
// its watch, reads the key, and lists a few others, round after round.
type neighbour struct {
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu        sync.Mutex
	latencies map[string][]time.Duration
	err       error
}

// startNeighbour begins its rounds, pause apart, until stop.
func startNeighbour(t *testing.T, s *rig.Server, pause time.Duration) *neighbour {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &neighbour{conn: s.Dial(t), cancel: cancel, latencies: map[string][]time.Duration{}}
	w, err := pb.NewWatchClient(n.conn).Watch(ctx)
	if err == nil {
		err = w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("neighbour/key")}}})
	}
	if err == nil {
		_, err = w.Recv()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	n.done.Go(func() {
		defer func() { _ = n.conn.Close() }()
		for round := 0; ctx.Err() == nil; round++ {
			if err := n.round(ctx, w, round); err != nil && ctx.Err() == nil {
				n.mu.Lock()
				n.err = fmt.Errorf("round %d: %w", round, err)
				n.mu.Unlock()
				return
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	})
	return n
}

func (n *neighbour) round(parent context.Context, w pb.Watch_WatchClient, round int) error {
	kv := pb.NewKVClient(n.conn)
	value := fmt.Sprint("round ", round)
	// The watch has no deadline of its own: this one ends the round and with it the neighbour.
	overdue := time.AfterFunc(requestDeadline, n.cancelAs(fmt.Errorf("round %d: no event within %v", round, requestDeadline)))
	defer overdue.Stop()
	began := time.Now()
	put, err := call(parent, func(ctx context.Context) (*pb.PutResponse, error) {
		return kv.Put(ctx, &pb.PutRequest{Key: []byte("neighbour/key"), Value: []byte(value)})
	})
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	n.note("put", began)
	for seen := false; !seen; {
		got, err := w.Recv()
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if got.Canceled {
			return fmt.Errorf("the watch was cancelled: %s", got.CancelReason)
		}
		for _, e := range got.Events {
			seen = seen || e.Kv.ModRevision == put.Header.Revision
		}
	}
	n.note("event", began)
	overdue.Stop()

	began = time.Now()
	got, err := call(parent, func(ctx context.Context) (*pb.RangeResponse, error) {
		return kv.Range(ctx, &pb.RangeRequest{Key: []byte("neighbour/key")})
	})
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		return fmt.Errorf("get: %v, not %q", got.Kvs, value)
	}
	n.note("get", began)

	began = time.Now()
	list, err := call(parent, func(ctx context.Context) (*pb.RangeResponse, error) {
		return kv.Range(ctx, &pb.RangeRequest{Key: []byte("small/"), RangeEnd: []byte("small0"), Limit: 100})
	})
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if len(list.Kvs) != 100 || list.Count != smallKeys {
		return fmt.Errorf("list: %d of %d records, not 100 of %d", len(list.Kvs), list.Count, smallKeys)
	}
	n.note("list", began)
	return nil
}

func (n *neighbour) cancelAs(err error) func() {
	return func() {
		n.mu.Lock()
		if n.err == nil {
			n.err = err
		}
		n.mu.Unlock()
		n.cancel()
	}
}

func call[T any](parent context.Context, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(parent, requestDeadline)
	defer cancel()
	return f(ctx)
}

func (n *neighbour) note(what string, began time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latencies[what] = append(n.latencies[what], time.Since(began))
}

// stop ends the rounds and gives the sorted latencies of each request, or what
// went wrong.
func (n *neighbour) stop() (map[string][]time.Duration, error) {
	n.cancel()
	n.done.Wait()
	for _, l := range n.latencies {
		slices.Sort(l)
	}
	if n.err == nil && len(n.latencies["list"]) == 0 {
		n.err = errors.New("no round was finished")
	}
	return n.latencies, n.err
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))]
}
