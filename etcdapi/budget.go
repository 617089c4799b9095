package etcdapi

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
	"weak"

	"github.com/etcdshim/shim/backends"
)

const (
	// freeBytes is what one answer may hold without ever waiting.
	freeBytes = 64 << 10
	// patience is how long answers that wait let one that may exceed the budget,
	// and makes no use of it, stand in their way.
	patience = 2 * time.Second
	// overdraft is up to how many times the budget answers that nobody reads are
	// passed over for the next one. Beyond, who waits does so until memory is given
	// back, or the connection that holds it is closed.
	overdraft = 2
	// stallTimeout is how long an answer on its way may hold memory that others wait
	// for without a single chunk moving: its client does not read.
	stallTimeout = 10 * time.Second
	// pressedStallTimeout is the same once somebody waited for stallTimeout, for
	// connections that are not known to read, and shortStallTimeout once somebody
	// waited for twice as long: or many answers that nobody reads would each take the
	// whole time, one after the other.
	pressedStallTimeout = 3 * time.Second
	shortStallTimeout   = time.Second
	// nudgeEvery is how often who waits looks for memory that nobody uses.
	nudgeEvery = 500 * time.Millisecond
	// readBytes is how much of answers must have gone to a connection for it to be
	// known to read: more than buffers of sockets take that nobody reads from.
	readBytes = 16 << 20
)

// budget bounds the memory of answers between the backend and the socket. It is
// charged per chunk:
//
//   - An answer of up to freeBytes never waits, and one below chargeBytes, most
//     of all point reads, is not counted.
//   - Otherwise a chunk waits until it fits, in the order in which the requests
//     first asked.
//   - The oldest waiting answer may exceed the budget, so that answers which hold
//     memory while they wait cannot block each other. There is one such at a time:
//     the next is chosen once its memory is given back, or when it took nothing
//     for as long as patience lasts: its client does not read, or slowly. An
//     answer that is complete is passed over so only below twice the budget.
//   - A connection holds at most a quarter while answers of others wait.
//   - Connections that are known to read, by an answer to its end or by readBytes,
//     take turns at that with those that are not, so that who reads is not behind any
//     number of clients that do not.
//   - A connection with an answer of which nothing moves for stallTimeout while
//     others wait is closed, unless the answer itself waits; one that is not known to
//     read sooner, once somebody waited for as long. grpc has no other way to take an
//     answer back.
//
// So answers occupy at most twice the budget and one answer more, and each request
// that waits the chunk that it waits with, which the backend has read already.
//
// Memory is given back when grpc frees the piece (see held), when the connection
// ends, whose pieces are taken from grpc then, or when the garbage collector finds
// the piece: grpc drops the frames of reset streams without freeing them.
type budget struct {
	limit int64
	clock backends.Clock

	mu        sync.Mutex
	used      int64               // sum of held over live connections
	lastClaim uint64              // order of claims
	queue     []*waiter           // by ascending claim.order
	holders   map[*claim]struct{} // those that hold something
	exceeding *claim              // the claim that may exceed limit
	granted   time.Time           // when exceeding last took something
	readers   bool                // the next to exceed is one that is known to read
	reclaimed time.Time           // when the collector was last asked
}

// account is what one connection holds of a budget.
type account struct {
	budget *budget
	// hangUp closes the connection; nil when there is none.
	hangUp func()
	// The rest is guarded by budget.mu.
	held int64
	// pieces are those on their way. They are grpc's, and the collector's once it
	// dropped them.
	pieces map[*charge]weak.Pointer[held]
	ended  bool  // then nothing is counted any more
	sent   int64 // of answers that were counted
	reads  bool  // known to read
}

// claim is what one request holds. It is used by one goroutine.
type claim struct {
	account *account
	used    bool // something was taken
	// streams tells that pieces are sent as they are taken. It is set before the
	// first.
	streams bool
	// The rest is guarded by budget.mu.
	order   uint64    // 0 until the claim first asked for more than freeBytes
	asked   time.Time // when it did
	held    int64
	moved   time.Time // when it last took something or gave it back
	waiting bool      // in the queue
	done    bool      // no more will be asked for
}

// charge is one piece of memory that a claim holds.
type charge struct {
	claim *claim
	bytes int64 // guarded by budget.mu; 0 once given back
}

type waiter struct {
	claim   *claim
	bytes   int64
	granted chan struct{}
}

func newBudget(limit int64, clock backends.Clock) *budget {
	return &budget{limit: limit, clock: clock, holders: make(map[*claim]struct{})}
}

func (b *budget) account() *account { return &account{budget: b} }

// end gives back all that the connection holds. It must be closed.
func (a *account) end() {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.ended {
		return
	}
	a.ended = true
	b.used -= a.held
	a.held = 0
	for _, p := range a.pieces {
		if h := p.Value(); h != nil {
			h.drop()
		}
	}
	a.pieces = nil
	for c := range b.holders {
		if c.account == a {
			delete(b.holders, c)
		}
	}
	if b.exceeding != nil && b.exceeding.account == a {
		b.exceeding = nil
	}
	b.grant()
}

// take charges n bytes, waiting if need be. The charge must be released.
func (c *claim) take(ctx context.Context, n int64) (*charge, error) {
	b := c.account.budget
	c.used = true
	b.mu.Lock()
	if c.held+n > freeBytes && !c.account.ended {
		if c.order == 0 {
			b.lastClaim++
			c.order, c.asked = b.lastClaim, b.clock.Now()
		}
		if b.exceeding != c && (len(b.queue) > 0 || !b.fits(c, n)) {
			w := b.enqueue(c, n)
			b.grant()
			b.mu.Unlock()
			if err := b.wait(ctx, w); err != nil {
				return nil, err
			}
			return &charge{claim: c, bytes: n}, nil
		}
	}
	if b.exceeding == c {
		b.granted = b.clock.Now()
	}
	b.hold(c, n)
	b.mu.Unlock()
	return &charge{claim: c, bytes: n}, nil
}

// finish tells that nothing more will be taken.
func (c *claim) finish() {
	if !c.used {
		return
	}
	b := c.account.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	c.done = true
	b.passOn(c)
}

// attach tells what was charged for: its memory is free when the connection ends.
func (c *charge) attach(h *held) {
	a := c.claim.account
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	if a.ended {
		h.drop()
		return
	}
	if a.pieces == nil {
		a.pieces = make(map[*charge]weak.Pointer[held])
	}
	a.pieces[c] = weak.Make(h)
}

// release gives the piece back. A second call does nothing.
func (c *charge) release() { c.giveBack(false) }

// written gives the piece back since it went to the client.
func (c *charge) written() { c.giveBack(true) }

func (c *charge) giveBack(written bool) {
	b := c.claim.account.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	n := c.bytes
	c.bytes = 0
	if n == 0 {
		return
	}
	delete(c.claim.account.pieces, c)
	b.hold(c.claim, -n)
	if a := c.claim.account; written && c.claim.order > 0 {
		a.sent += n
		// What is larger than a window of flow control is written whole only if it is read.
		a.reads = a.reads || c.claim.done && c.claim.held <= 0 || a.sent >= readBytes
	}
	b.passOn(c.claim)
	b.grant()
}

// The methods below are called with mu held, except wait.

// hold counts n bytes more, or less when negative.
func (b *budget) hold(c *claim, n int64) {
	c.held += n
	a := c.account
	if a.ended {
		return
	}
	a.held += n
	b.used += n
	c.moved = b.clock.Now()
	if c.held > 0 {
		b.holders[c] = struct{}{}
	} else {
		delete(b.holders, c)
	}
}

// fits tells whether n more bytes may be held by c without exceeding anything.
func (b *budget) fits(c *claim, n int64) bool {
	if b.used+n > b.limit {
		return false
	}
	return c.account.held+n <= b.limit/4 || !b.othersWait(c.account)
}

func (b *budget) othersWait(a *account) bool {
	return slices.ContainsFunc(b.queue, func(w *waiter) bool { return w.claim.account != a })
}

func (b *budget) enqueue(c *claim, n int64) *waiter {
	w := &waiter{claim: c, bytes: n, granted: make(chan struct{})}
	at, _ := slices.BinarySearchFunc(b.queue, c.order, func(w *waiter, order uint64) int {
		return int(int64(w.claim.order) - int64(order))
	})
	b.queue = slices.Insert(b.queue, at, w)
	c.waiting = true
	return w
}

// passOn takes the right to exceed from a claim that has no more use for it.
func (b *budget) passOn(c *claim) {
	if b.exceeding == c && c.done && (c.held <= 0 || c.account.ended) {
		b.exceeding = nil
		b.grant()
	}
}

// grant lets every waiter go that fits, and one that may exceed the budget.
func (b *budget) grant() {
	for i := 0; i < len(b.queue); {
		if w := b.queue[i]; b.fits(w.claim, w.bytes) || b.exceeding == w.claim || w.claim.account.ended {
			b.admit(i)
			continue
		}
		i++
	}
	if b.exceeding != nil || len(b.queue) == 0 {
		return
	}
	next := b.next()
	b.exceeding, b.granted = b.queue[next].claim, b.clock.Now()
	b.admit(next)
}

// next chooses the waiter that may exceed the budget: the oldest of those whose
// turn it is, but a connection that has its quarter comes after the others.
func (b *budget) next() int {
	readers := b.readers
	b.readers = !readers
	belowQuarter := func(w *waiter) bool { return w.claim.account.held+w.bytes <= b.limit/4 }
	if i := slices.IndexFunc(b.queue, func(w *waiter) bool {
		return w.claim.account.reads == readers && belowQuarter(w)
	}); i >= 0 {
		return i
	}
	return max(slices.IndexFunc(b.queue, belowQuarter), 0)
}

func (b *budget) admit(i int) {
	w := b.queue[i]
	b.queue = slices.Delete(b.queue, i, i+1)
	w.claim.waiting = false
	b.hold(w.claim, w.bytes)
	close(w.granted)
}

// wait blocks until w is granted. On an error w holds nothing.
func (b *budget) wait(ctx context.Context, w *waiter) error {
	for {
		tick, stop := b.clock.After(nudgeEvery)
		select {
		case <-w.granted:
			stop()
			return nil
		case <-tick:
			b.nudge()
		case <-ctx.Done():
			stop()
			b.mu.Lock()
			defer b.mu.Unlock()
			if i := slices.Index(b.queue, w); i >= 0 {
				b.queue = slices.Delete(b.queue, i, i+1)
				w.claim.waiting = false
			} else { // granted at the same time
				b.hold(w.claim, -w.bytes)
			}
			b.grant()
			return ctx.Err()
		}
	}
}

// nudge is called by who waits: memory may lie in frames that
// grpc dropped, which only the collector finds, or with a client that does not read.
func (b *budget) nudge() {
	b.mu.Lock()
	collect := b.clock.Now().Sub(b.reclaimed) >= patience
	if collect {
		b.reclaimed = b.clock.Now()
	}
	b.mu.Unlock()
	if collect {
		runtime.GC()
	}
	for _, hangUp := range b.settle() {
		hangUp()
	}
}

// settle passes the right to exceed on from an answer that makes no use of it, and
// returns what closes the connections that stand in the way of those who wait.
func (b *budget) settle() (stalled []func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.Now()
	if c := b.exceeding; c != nil && now.Sub(b.granted) >= patience && (!c.done || b.used < overdraft*b.limit) {
		b.exceeding = nil
	}
	b.grant()
	if len(b.queue) == 0 {
		return nil
	}
	seen := make(map[*account]bool)
	unknown := stallTimeout // for connections not known to read
	for _, w := range b.queue {
		switch waited := now.Sub(w.claim.asked); {
		case waited >= 2*stallTimeout:
			unknown = shortStallTimeout
		case waited >= stallTimeout:
			unknown = min(unknown, pressedStallTimeout)
		}
	}
	for c := range b.holders {
		onItsWay := c.done || c.streams && !c.waiting
		timeout := unknown
		if c.account.reads {
			timeout = stallTimeout
		}
		if a := c.account; onItsWay && a.hangUp != nil && !seen[a] && now.Sub(c.moved) >= timeout {
			seen[a] = true
			stalled = append(stalled, a.hangUp)
		}
	}
	return stalled
}
