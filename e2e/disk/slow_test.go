package disk

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// slow is a case of syncs that take long.
type slow struct {
	name    string
	files   func(*trial) []string
	seconds int
	long    bool // only in the full run
}

var slowSyncs = []slow{
	{name: "log, 1 s", files: (*trial).log, seconds: 1, long: true},
	{name: "log, 3 s", files: (*trial).log, seconds: 3},
	{name: "log, 10 s", files: (*trial).log, seconds: 10, long: true},
	{name: "store, 1 s", files: (*trial).store, seconds: 1, long: true},
	{name: "store, 3 s", files: (*trial).store, seconds: 3},
	{name: "store, 10 s", files: (*trial).store, seconds: 10, long: true},
}

const (
	// requestTimeout is shim's own, with the default election time-out: a write that
	// takes longer is answered with an unknown outcome.
	requestTimeout = 7 * time.Second
	// renewedTTL is of a lease that is kept alive throughout, abandonedTTL of one that
	// never is.
	renewedTTL, abandonedTTL = 4 * time.Second, 3 * time.Second
	// expiryBound is how late after its TTL a lease may be gone, syncs being quick.
	expiryBound = 15 * time.Second
)

// TestSlowSync ensures that a sync that takes long only delays: reads, renewals of
// leases and health checks are answered meanwhile, a put in flight after it, no
// lease ends early, and what was acknowledged outlives a kill.
func TestSlowSync(t *testing.T) {
	bin := server(t)
	for _, c := range slowSyncs {
		if c.long && !*full {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			for i := range *repeat {
				placing.Lock()
				x := newTrial(t, bin, *seed+uint64(i))
				x.start()
				placing.Unlock()
				c.run(x)
			}
		})
	}
}

// placing is held between the choice of an address and its use, by cases that run
// at the same time.
var placing sync.Mutex

// stall is what the clients of a case share.
type stall struct {
	*trial
	conn   *grpc.ClientConn
	longer bool // a put may outlast the server's own time-out
	quick  time.Duration

	mu      sync.Mutex
	acked   map[string]bool
	unknown map[string]bool
	// slowest of each kind of request.
	slowest map[string]time.Duration

	renewed   atomic.Int64 // when the last acknowledged renewal was sent, Unix nanoseconds
	abandoned time.Time    // when the grant of the abandoned lease was sent
}

// quick bounds the answers that must not wait for a sync: less than one takes, where
// a busy machine leaves the two apart.
func (c slow) quick() time.Duration {
	if c.seconds < 3 {
		return requestTimeout
	}
	return time.Duration(c.seconds) * time.Second * 3 / 4
}

func (c slow) run(x *trial) {
	s := &stall{
		trial: x, conn: x.srv.Dial(x), quick: c.quick(), longer: 2*time.Duration(c.seconds)*time.Second > requestTimeout,
		acked: map[string]bool{}, unknown: map[string]bool{}, slowest: map[string]time.Duration{},
	}
	defer func() { _ = s.conn.Close() }()
	for n := range 50 {
		s.put(x.ctx, fmt.Sprintf("slow/before/%03d", n))
	}
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	renewed := s.grant("slow/renewed", renewedTTL)
	renewing, stopRenewing := context.WithCancel(ctx)
	defer stopRenewing()
	var clients, renewals sync.WaitGroup
	renewals.Go(func() { s.renew(renewing, renewed) })

	if s.longer {
		// The server would give up waiting for the grant's sync, as etcd does.
		s.grant("slow/abandoned", abandonedTTL)
	}
	tracer := attach(x, x.srv.PID(), injection{call: "fdatasync", what: fmt.Sprintf("delay_enter=%d", c.seconds*1_000_000), paths: c.files(x)})
	if !s.longer {
		s.grant("slow/abandoned", abandonedTTL)
	}
	over, end := context.WithTimeout(ctx, time.Duration(2*c.seconds+2)*time.Second)
	defer end()
	for w := range 4 {
		clients.Go(func() {
			for n := 0; over.Err() == nil; n++ {
				s.put(ctx, fmt.Sprintf("slow/%d/%06d", w, n))
			}
		})
	}
	clients.Go(func() { s.read(over, "linearizable read", false) })
	clients.Go(func() { s.read(over, "serializable read", true) })
	clients.Go(func() { s.health(over) })
	clients.Wait()
	tracer.detach()
	hits := 0
	for _, call := range tracer.calls(x) {
		if call.injected {
			hits++
		}
	}
	if hits == 0 {
		x.Fatal("no sync was slow")
	}
	s.put(ctx, "slow/after")
	s.awaitGone("slow/abandoned", s.abandoned.Add(abandonedTTL))
	stopRenewing()
	renewals.Wait()
	s.awaitGone("slow/renewed", time.Unix(0, s.renewed.Load()).Add(renewedTTL))
	x.Logf("seed %d: injected %s; seen: %d slow syncs, %d puts acknowledged, %d timed out, slowest: %v",
		x.seed, tracer, hits, len(s.acked), len(s.unknown), s.slowest)

	placing.Lock()
	x.srv.Kill(x)
	x.start()
	placing.Unlock()
	s.all()
	x.srv.Terminate(x)
	check(x, x.options)
}

func (s *stall) took(what string, since time.Time) time.Duration {
	d := time.Since(since).Round(time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowest[what] = max(s.slowest[what], d)
	return d
}

// put writes; only where a sync is longer than the server's patience may the
// outcome be unknown.
func (s *stall) put(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(ctx, 3*requestTimeout)
	defer cancel()
	start := time.Now()
	_, err := pb.NewKVClient(s.conn).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(key)})
	d := s.took("put", start)
	s.mu.Lock()
	defer s.mu.Unlock()
	timedOut := status.Code(err) == codes.Unavailable || status.Code(err) == codes.DeadlineExceeded
	switch {
	case err == nil:
		s.acked[key] = true
	case s.longer && timedOut && d >= requestTimeout-time.Second:
		s.unknown[key] = true
	default:
		s.Errorf("put %s after %v: %v", key, d, err)
	}
}

// grant makes a lease with a key of its own.
func (s *stall) grant(key string, ttl time.Duration) int64 {
	s.Helper()
	for {
		sent := time.Now()
		resp, err := pb.NewLeaseClient(s.conn).LeaseGrant(s.ctx, &pb.LeaseGrantRequest{TTL: int64(ttl / time.Second)})
		if err != nil {
			s.Fatalf("grant: %v", err)
		}
		_, err = pb.NewKVClient(s.conn).Put(s.ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(key), Lease: resp.ID})
		if status.Code(err) == codes.NotFound && time.Since(sent) > ttl {
			continue // the grant's own sync took its time, and the lease was over
		}
		if err != nil {
			s.Fatalf("put with a lease: %v", err)
		}
		s.mu.Lock()
		s.abandoned = sent // of the last one granted
		s.mu.Unlock()
		s.renewed.Store(sent.UnixNano())
		return resp.ID
	}
}

// renew keeps a lease alive; every renewal must be acknowledged at once.
func (s *stall) renew(ctx context.Context, id int64) {
	stream, err := pb.NewLeaseClient(s.conn).LeaseKeepAlive(ctx)
	if err != nil {
		s.Errorf("keep alive: %v", err)
		return
	}
	for ctx.Err() == nil {
		sent := time.Now()
		err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id})
		var resp *pb.LeaseKeepAliveResponse
		if err == nil {
			resp, err = stream.Recv()
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil || resp.TTL != int64(renewedTTL/time.Second) {
			s.Errorf("keep alive: %v, %v", resp, err)
			return
		}
		if d := s.took("renewal", sent); d > s.quick {
			s.Errorf("a renewal took %v", d)
		}
		s.renewed.Store(sent.UnixNano())
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// read reads a written key and those of the leases over and over.
func (s *stall) read(ctx context.Context, what string, serializable bool) {
	for ctx.Err() == nil {
		start := time.Now()
		resp, err := pb.NewKVClient(s.conn).Range(s.ctx, &pb.RangeRequest{Key: []byte("slow/"), RangeEnd: []byte("slow0"), Serializable: serializable})
		if err != nil {
			s.Errorf("%s: %v", what, err)
			return
		}
		if d := s.took(what, start); d > s.quick {
			s.Errorf("a %s took %v", what, d)
		}
		found := map[string]bool{}
		for _, kv := range resp.Kvs {
			found[string(kv.Key)] = true
		}
		if !found["slow/before/000"] || !found["slow/renewed"] {
			s.Errorf("%s: %d keys, renewed lease's key there: %v", what, len(resp.Kvs), found["slow/renewed"])
			return
		}
		s.mu.Lock()
		deadline := s.abandoned.Add(abandonedTTL)
		s.mu.Unlock()
		if !found["slow/abandoned"] && time.Now().Before(deadline) {
			s.Errorf("%s: a lease ended %v early", what, time.Until(deadline))
			return
		}
		time.Sleep(10 * time.Millisecond) // a pace, not a wait
	}
}

// health asks the health endpoints over and over.
func (s *stall) health(ctx context.Context) {
	client := http.Client{Timeout: requestTimeout}
	for ctx.Err() == nil {
		for _, path := range []string{"/health", "/livez", "/readyz", "/version"} {
			start := time.Now()
			resp, err := client.Get("http://" + s.options.Addr + path)
			if err != nil {
				s.Errorf("%s: %v", path, err)
				return
			}
			_ = resp.Body.Close()
			if d := s.took(path, start); d > s.quick || resp.StatusCode != http.StatusOK {
				s.Errorf("%s answered %d after %v", path, resp.StatusCode, d)
			}
		}
		time.Sleep(50 * time.Millisecond) // a pace, not a wait
	}
}

// awaitGone waits until a lease's key is gone, which must not be before due.
func (s *stall) awaitGone(key string, due time.Time) {
	s.Helper()
	for {
		resp, err := pb.NewKVClient(s.conn).Range(s.ctx, &pb.RangeRequest{Key: []byte(key)})
		switch now := time.Now(); {
		case err != nil:
			s.Fatalf("read %s: %v", key, err)
		case len(resp.Kvs) == 0 && now.Before(due):
			s.Fatalf("%s was gone %v before its time", key, due.Sub(now))
		case len(resp.Kvs) == 0:
			return
		case now.After(due.Add(expiryBound)):
			s.Fatalf("%s is still there %v after its time", key, now.Sub(due))
		}
		time.Sleep(20 * time.Millisecond) // between polls
	}
}

// all compares the keys with what was acknowledged.
func (s *stall) all() {
	s.Helper()
	conn := s.srv.Dial(s)
	defer func() { _ = conn.Close() }()
	resp, err := pb.NewKVClient(conn).Range(s.ctx, &pb.RangeRequest{Key: []byte("slow/"), RangeEnd: []byte("slow0")})
	if err != nil {
		s.Fatal(err)
	}
	found := map[string]bool{}
	for _, kv := range resp.Kvs {
		k := string(kv.Key)
		if found[k] = true; string(kv.Value) != k || !s.acked[k] && !s.unknown[k] {
			s.Errorf("%s = %q after the restart, which nobody wrote", kv.Key, kv.Value)
		}
	}
	for k := range s.acked {
		if !found[k] {
			s.Errorf("%s was acknowledged and is lost", k)
		}
	}
	counted.writes.Add(int64(len(s.acked)))
}
