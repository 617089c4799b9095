package raftbolt

import (
	"sync"

	"github.com/etcdshim/shim/backends"
)

// outcome is what became of a proposal.
type outcome struct {
	err error
	// txn is the result of a Txn, alarms of an Alarm, and members of a change of them.
	txn     *backends.TxnResult
	alarms  []backends.Alarm
	members *memberSet
	// revision is the store's after it, term that of its entry, and index the entry's own,
	// of an authentication and a change of the members alone.
	revision int64
	term     uint64
	index    uint64
	// applied: the command was applied, and nothing more will be heard of it.
	applied bool
}

// discard lets go of what an outcome that nobody reads holds.
func (o *outcome) discard() {
	if o.txn != nil {
		o.txn.Close()
	}
}

// waiter waits for the outcome of one proposal. It gets exactly one, from
// whoever takes it out of its registry.
type waiter struct {
	counter uint64
	// tick is the registry's when it was registered.
	tick    uint64
	outcome chan outcome // capacity 1
	// dropped is told by the node that the command was certainly not proposed.
	dropped func(error)
}

// waiters are the requests of this process that wait for the outcome of their
// proposal, by counter. There are as many as requests in flight.
type waiters struct {
	member, boot uint64

	mu      sync.Mutex
	counter uint64
	tick    uint64
	waiting map[uint64]*waiter
	free    sync.Pool
}

func newWaiters(member, boot uint64) *waiters {
	return &waiters{member: member, boot: boot, waiting: make(map[uint64]*waiter)}
}

// register makes a waiter and the id that its command must carry.
func (s *waiters) register() (*waiter, requestID) {
	w, ok := s.free.Get().(*waiter)
	if !ok {
		w = &waiter{outcome: make(chan outcome, 1)}
		w.dropped = func(err error) { s.drop(w.counter, err) }
	}
	s.mu.Lock()
	s.counter++
	w.counter, w.tick = s.counter, s.tick
	s.waiting[w.counter] = w
	s.mu.Unlock()
	return w, requestID{s.member, s.boot, w.counter}
}

// take removes the waiter for a command and returns it; nil when there is none:
// the command is another member's, another life's, or was given up. The caller
// must send it one outcome.
func (s *waiters) take(id requestID) *waiter {
	if id.member != s.member || id.boot != s.boot {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[id.counter]
	delete(s.waiting, id.counter)
	return w
}

func (s *waiters) drop(counter uint64, err error) {
	if w := s.take(requestID{s.member, s.boot, counter}); w != nil {
		w.outcome <- outcome{err: replicaError(err)}
	}
}

// recycle gives a waiter back whose outcome was received, if its command was
// applied. Of one that gave up, or whose time was over, the command may still be
// dropped, and that must not end another request.
func (s *waiters) recycle(w *waiter, out outcome) {
	if out.applied {
		s.free.Put(w)
	}
}

// advance moves the registry's clock by one tick, and ends the wait of those that
// were registered at least age ticks ago.
func (s *waiters) advance(age uint64) {
	var late []*waiter
	s.mu.Lock()
	s.tick++
	for counter, w := range s.waiting {
		if s.tick-w.tick > age {
			late = append(late, w)
			delete(s.waiting, counter)
		}
	}
	s.mu.Unlock()
	for _, w := range late {
		w.outcome <- outcome{err: backends.ErrOutcomeUnknown}
	}
}

// abandon ends every wait.
func (s *waiters) abandon() {
	s.mu.Lock()
	all := s.waiting
	s.waiting = make(map[uint64]*waiter)
	s.mu.Unlock()
	for _, w := range all {
		w.outcome <- outcome{err: backends.ErrOutcomeUnknown}
	}
}
