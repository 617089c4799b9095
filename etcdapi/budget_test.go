package etcdapi

import (
	"context"
	"errors"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// awaitBudget waits until so many bytes are charged. grpc frees what it wrote
// shortly after the client has it, and what it dropped is found by the collector:
// no event tells of either.
func awaitBudget(t *testing.T, s *Server, want int64) {
	t.Helper()
	await(t, func() bool {
		runtime.GC()
		s.budget.mu.Lock()
		defer s.budget.mu.Unlock()
		return s.budget.used == want
	})
}

func await(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what was waited for did not happen within 20 s")
		}
	}
}

// manualClock goes on and ticks when told to.
type manualClock struct {
	ticks chan time.Time
	now   atomic.Int64 // nanoseconds since the epoch
}

func newManualClock() *manualClock { return &manualClock{ticks: make(chan time.Time)} }

func (c *manualClock) Now() time.Time { return time.Unix(0, c.now.Load()) }
func (c *manualClock) After(time.Duration) (<-chan time.Time, func()) {
	return c.ticks, func() {}
}

// taking takes in the background. The outcome comes out of the channel.
func taking(ctx context.Context, c *claim, n int64) <-chan *charge {
	out := make(chan *charge, 1)
	go func() {
		paid, err := c.take(ctx, n)
		if err != nil {
			paid = nil
		}
		out <- paid
	}()
	return out
}

func mustTake(t *testing.T, c *claim, n int64) *charge {
	t.Helper()
	paid, err := c.take(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return paid
}

func (b *budget) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

const mib = 1 << 20

// TestBudgetWaits: with the budget used up, the oldest answer exceeds it, the
// next waits until memory is given back, and a small one does not wait.
func TestBudgetWaits(t *testing.T) {
	b := newBudget(64*mib, newManualClock())
	first := &claim{account: b.account()}
	held := mustTake(t, first, 64*mib)
	oldest := &claim{account: b.account()}
	exceeding := mustTake(t, oldest, 10*mib)
	next := taking(t.Context(), &claim{account: b.account()}, 12*mib)
	await(t, func() bool { return b.waiting() == 1 })
	mustTake(t, &claim{account: b.account()}, freeBytes).release()
	mustTake(t, oldest, 10*mib).release() // the oldest goes on
	if b.waiting() != 1 {
		t.Error("the third did not wait")
	}
	held.release()
	(<-next).release()
	exceeding.release()
	if b.used != 0 {
		t.Errorf("%d bytes stay", b.used)
	}
}

// TestBudgetPassesOn: the right to exceed goes to the next in line once the
// memory of the one that had it is given back.
func TestBudgetPassesOn(t *testing.T) {
	b := newBudget(64*mib, newManualClock())
	mustTake(t, &claim{account: b.account()}, 64*mib)
	one := &claim{account: b.account()}
	paid := mustTake(t, one, 5*mib)
	two := &claim{account: b.account()}
	next := taking(t.Context(), two, 5*mib)
	await(t, func() bool { return b.waiting() == 1 })
	one.finish()
	if b.waiting() != 1 {
		t.Fatal("passed on while the memory was held")
	}
	paid.release()
	if <-next == nil || b.exceeding != two {
		t.Error("not passed on to the next")
	}
}

// TestBudgetPatience: an answer that its client does not read stands in the way
// of the others only until patience is over, whether it is complete or not.
func TestBudgetPatience(t *testing.T) {
	for _, complete := range []bool{true, false} {
		clock := newManualClock()
		b := newBudget(64*mib, clock)
		mustTake(t, &claim{account: b.account()}, 64*mib)
		stuck := &claim{account: b.account()}
		mustTake(t, stuck, 5*mib)
		if complete {
			stuck.finish()
		}
		next := taking(t.Context(), &claim{account: b.account()}, 5*mib)
		await(t, func() bool { return b.waiting() == 1 })
		clock.now.Add(int64(patience) - 1)
		for range 2 { // the second is taken once the first did nothing
			select {
			case <-next:
				t.Fatal("granted too early")
			case clock.ticks <- time.Time{}:
			}
		}
		clock.now.Add(1)
		var paid *charge
		select {
		case paid = <-next: // by the second tick
		case clock.ticks <- time.Time{}:
			paid = <-next
		}
		if paid == nil {
			t.Error("not granted")
		}
	}
}

// TestBudgetStalled: answers that nobody reads do not pile up beyond twice the
// budget; the connections that hold them are closed when others wait, and only
// those of which nothing moved.
func TestBudgetStalled(t *testing.T) {
	clock := newManualClock()
	b := newBudget(64*mib, clock)
	var closed atomic.Int64
	hold := func(n int64) *account {
		a := b.account()
		a.hangUp = func() { closed.Add(1); a.end() }
		c := &claim{account: a}
		mustTake(t, c, n)
		c.finish()
		return a
	}
	hold(64 * mib)
	stuck := hold(100 * mib)
	next := taking(t.Context(), &claim{account: b.account()}, 5*mib)
	await(t, func() bool { return b.waiting() == 1 })
	clock.now.Add(int64(stallTimeout) - 1)
	for range 2 { // the second is taken once the first did nothing
		select {
		case <-next:
			t.Fatal("granted although twice the budget is used")
		case clock.ticks <- time.Time{}:
		}
	}
	alive := func(what string, c *claim) { // others are spared
		c.account = b.account()
		c.account.hangUp = func() { t.Errorf("the connection of an answer that %s was closed", what) }
		b.mu.Lock()
		defer b.mu.Unlock()
		b.hold(c, 1)
		if what != "moves" {
			c.moved = time.Unix(0, 0).Add(-stallTimeout)
		}
	}
	alive("moves", &claim{done: true})
	alive("is being read from the backend", &claim{})
	alive("waits itself", &claim{streams: true, waiting: true})
	clock.now.Add(1)
	var paid *charge
	select {
	case paid = <-next: // by the second tick
	case clock.ticks <- time.Time{}:
		paid = <-next
	}
	if paid == nil || closed.Load() != 2 || !stuck.ended {
		t.Errorf("granted: %v, %d connections closed", paid != nil, closed.Load())
	}
}

// TestBudgetPressed: once somebody waited for stallTimeout, each further answer that
// nobody reads gives way sooner, or who reads waits for all of them one by one.
func TestBudgetPressed(t *testing.T) {
	clock := newManualClock()
	b := newBudget(64*mib, clock)
	var closed atomic.Int64
	const unread = 20
	for i := range unread {
		a := b.account()
		a.hangUp = func() { closed.Add(1); a.end() }
		c := &claim{account: a}
		go func() {
			if _, err := c.take(t.Context(), 130*mib); err == nil {
				c.finish()
			}
		}()
		await(t, func() bool { return b.waiting() == i })
	}
	next := taking(t.Context(), &claim{account: b.account()}, 5*mib)
	await(t, func() bool { return b.waiting() == unread })
	began := clock.Now()
	step := func(d time.Duration, want int64) {
		t.Helper()
		clock.now.Add(int64(d))
		b.nudge()
		if closed.Load() != want {
			t.Fatalf("%d connections closed, not %d", closed.Load(), want)
		}
		await(t, func() bool { // what was let go is complete
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.exceeding == nil || b.exceeding.done
		})
	}
	step(stallTimeout-1, 0)
	step(1, 1)
	reader := &claim{account: b.account()} // slow, which its client is not closed for
	reader.account.reads, reader.account.hangUp = true, func() { t.Error("a connection that reads was closed") }
	mustTake(t, reader, 64<<10)
	reader.finish()
	for i := range int64(unread - 2) {
		b.mu.Lock()
		reader.moved = clock.Now()
		b.mu.Unlock()
		timeout := shortStallTimeout
		if clock.Now().Sub(began)+pressedStallTimeout < 2*stallTimeout {
			timeout = pressedStallTimeout
		}
		step(timeout-1, i+1)
		step(1, i+2)
	}
	if <-next == nil { // it fits beside the last
		t.Error("who reads was not granted after all that do not")
	}
}

// TestBudgetReaders: a connection that read an answer to its end is not behind all
// that did not, nor do those wait for ever beside connections that read.
func TestBudgetReaders(t *testing.T) {
	b := newBudget(64*mib, newManualClock())
	reading := b.account()
	c := &claim{account: reading}
	paid := mustTake(t, c, 5*mib)
	c.finish()
	if paid.written(); !reading.reads {
		t.Fatal("an answer was read and it is not known")
	}
	halfway := &claim{account: b.account()}
	rest := mustTake(t, halfway, readBytes)
	if mustTake(t, halfway, readBytes-1).written(); halfway.account.reads {
		t.Fatal("what buffers of sockets may hold counts as read")
	}
	if mustTake(t, halfway, 1).written(); !halfway.account.reads {
		t.Fatal("half of a long answer was read and it is not known")
	}
	rest.release()
	for _, unread := range []func(*charge, *claim){
		func(p *charge, c *claim) { c.finish(); p.release() },
		func(p *charge, c *claim) { p.written(); c.finish() }, // the first window of an answer
	} {
		c := &claim{account: b.account()}
		if unread(mustTake(t, c, 5*mib), c); c.account.reads {
			t.Fatal("an answer that was not read to its end counts as read")
		}
	}
	mustTake(t, &claim{account: b.account()}, 64*mib)
	mustTake(t, &claim{account: b.account()}, 5*mib) // exceeds
	var order []string
	var orders sync.Mutex
	queue := func(name string, a *account) {
		before := b.waiting()
		go func() {
			c := &claim{account: a}
			if _, err := c.take(t.Context(), 5*mib); err == nil {
				orders.Lock()
				defer orders.Unlock()
				order = append(order, name)
			}
		}()
		await(t, func() bool { return b.waiting() == before+1 })
	}
	queue("unknown", b.account())
	queue("unknown", b.account())
	queue("unknown", b.account())
	queue("reader", reading)
	queue("reader", reading)
	for granted := 1; granted <= 5; granted++ {
		b.mu.Lock()
		b.exceeding = nil // as if patience were over
		b.grant()
		b.mu.Unlock()
		await(t, func() bool { orders.Lock(); defer orders.Unlock(); return len(order) == granted })
	}
	// Either kind may begin.
	if got := order[:4]; !slices.Equal(got, []string{"reader", "unknown", "reader", "unknown"}) &&
		!slices.Equal(got, []string{"unknown", "reader", "unknown", "reader"}) {
		t.Errorf("in the order %v", order)
	}
}

// TestBudgetQuarter: while others wait, a connection that has its quarter waits
// behind them.
func TestBudgetQuarter(t *testing.T) {
	b := newBudget(64*mib, newManualClock())
	greedy := b.account()
	held := mustTake(t, &claim{account: greedy}, 60*mib) // nobody waits: more than a quarter is fine
	holder := &claim{account: b.account()}
	mustTake(t, holder, 5*mib) // exceeds
	again := taking(t.Context(), &claim{account: greedy}, 4*mib)
	await(t, func() bool { return b.waiting() == 1 })
	other := taking(t.Context(), &claim{account: b.account()}, 15*mib)
	await(t, func() bool { return b.waiting() == 2 })
	b.mu.Lock()
	b.exceeding = nil // as if patience were over
	b.grant()
	b.mu.Unlock()
	if <-other == nil {
		t.Fatal("the other connection was not granted")
	}
	select {
	case <-again:
		t.Error("the connection with more than its quarter went first")
	default:
	}
	held.release()
	if <-again == nil {
		t.Error("not granted after all")
	}
}

// TestBudgetGivesUp: a waiter whose context ends holds nothing and blocks nobody.
func TestBudgetGivesUp(t *testing.T) {
	b := newBudget(64*mib, newManualClock())
	mustTake(t, &claim{account: b.account()}, 64*mib)
	mustTake(t, &claim{account: b.account()}, mib)
	ctx, cancel := context.WithCancel(t.Context())
	gone := taking(ctx, &claim{account: b.account()}, mib)
	await(t, func() bool { return b.waiting() == 1 })
	cancel()
	if <-gone != nil || b.waiting() != 0 || b.used != 65*mib {
		t.Errorf("%d wait, %d bytes used", b.waiting(), b.used)
	}
}

// TestBudgetConnectionEnd: what a connection held is given back once, whatever
// is released later.
func TestBudgetConnectionEnd(t *testing.T) {
	b := newBudget(64*mib, newManualClock())
	a := b.account()
	c := &claim{account: a}
	paid := mustTake(t, c, 10*mib)
	a.end()
	a.end()
	paid.release()
	mustTake(t, c, 10*mib).release()
	if b.used != 0 || a.held != 0 {
		t.Errorf("used %d, held %d", b.used, a.held)
	}
}

// TestHeldDropped: the charge of a buffer that is dropped without being freed is
// given back when the collector finds it.
func TestHeldDropped(t *testing.T) {
	b := newBudget(64*mib, newManualClock())
	newHeld(backends.NewChunk(make([]byte, mib), 0, nil), mustTake(t, &claim{account: b.account()}, mib))
	await(t, func() bool {
		runtime.GC()
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.used == 0
	})
}

// TestBudgetUnread: answers that a client does not read are charged, and are
// given back when its connection is cut, without the collector.
func TestBudgetUnread(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var released atomic.Int64
	f := &fake{ranges: rangeOf(t, keyValues(200, 20_000), 12, &released)} // 4 MB in chunks of 240 kB
	s, _ := serve(t, f, Config{})
	conn, cut := dialDeaf(t, s)
	for range 3 {
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{}, "/etcdserverpb.KV/Range")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stream.SendMsg(&pb.RangeRequest{Key: []byte("k")}), stream.CloseSend()); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool {
		s.budget.mu.Lock()
		defer s.budget.mu.Unlock()
		return s.budget.used > 11_000_000
	})
	cut()
	await(t, func() bool {
		s.budget.mu.Lock()
		defer s.budget.mu.Unlock()
		return s.budget.used == 0
	})
}

// TestBudgetReset: answers of streams that the client gave up are given back
// while the connection lives.
func TestBudgetReset(t *testing.T) {
	var released atomic.Int64
	f := &fake{ranges: rangeOf(t, keyValues(200, 20_000), 12, &released)}
	s, conn := serve(t, f, Config{})
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/etcdserverpb.KV/RangeStream")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stream.SendMsg(&pb.RangeRequest{Key: []byte("k")}), stream.CloseSend()); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(&pb.RangeStreamResponse{}); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	awaitBudget(t, s, 0)
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if s.budget.exceeding != nil || len(s.budget.queue) != 0 {
		t.Error("somebody still waits or exceeds")
	}
}

// TestBudgetBoundsRange: a budget smaller than one answer lets one pass at a time,
// and all of them in the end.
func TestBudgetBoundsRange(t *testing.T) {
	var released atomic.Int64
	kvs := keyValues(200, 20_000)
	s, conn := serve(t, &fake{ranges: rangeOf(t, kvs, 12, &released)}, Config{ResponseMemoryBytes: mib})
	results := make(chan error, 16)
	for range cap(results) {
		go func() {
			resp, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
			if err == nil && len(resp.Kvs) != len(kvs) {
				err = errors.New("short answer")
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	awaitBudget(t, s, 0)
	if released.Load() == 0 {
		t.Error("no chunk was released")
	}
}

// dialDeaf opens a connection that is cut without ceremony and whose reading
// stops after the handshake, so that nothing of an answer is taken off the wire.
func dialDeaf(t *testing.T, s *Server) (conn *grpc.ClientConn, cut func()) {
	t.Helper()
	addr := address(t, s)
	raw := make(chan net.Conn, 1)
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(handshaken{}),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", a)
			if err == nil {
				c = &deaf{Conn: c, left: 200, closed: make(chan struct{})}
				raw <- c
			}
			return c, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, func() { _ = (<-raw).Close() }
}

// address is where s listens.
func address(t *testing.T, s *Server) (addr string) {
	t.Helper()
	await(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for l := range s.listeners {
			addr = l.Addr().String()
		}
		return addr != ""
	})
	return addr
}

// deaf reads only so many bytes and then nothing until it is closed.
type deaf struct {
	net.Conn
	left   int
	closed chan struct{}
	once   sync.Once
}

func (d *deaf) Read(b []byte) (int, error) {
	if d.left == 0 {
		<-d.closed
		return 0, net.ErrClosed
	}
	n, err := d.Conn.Read(b[:min(len(b), d.left)])
	d.left -= n
	return n, err
}

func (d *deaf) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Conn.Close()
}
