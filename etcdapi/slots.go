package etcdapi

import (
	"net"
	"sync"
)

// metricsConnections is how many connections the ports of metrics have together. They
// do not share those of clients: a probe must be answered however many clients there
// are, and a scraper needs one.
const metricsConnections = 64

// slots bound how many connections there are on some listeners together. Beyond, one of
// each listener is accepted and waits until another has ended, and the rest wait in the
// kernel's queue. nil is no bound.
type slots chan struct{}

func newSlots(n int) slots {
	if n <= 0 {
		return nil
	}
	return make(slots, n)
}

// take waits for a slot; false when done ends before there is one.
func (s slots) take(done <-chan struct{}) bool {
	if s == nil {
		return true
	}
	select {
	case s <- struct{}{}:
		return true
	case <-done:
		return false
	}
}

func (s slots) give() {
	if s != nil {
		<-s
	}
}

// hold is a connection that gives its slot back when it is closed.
func (s slots) hold(c net.Conn) net.Conn {
	if s == nil {
		return c
	}
	return &slottedConn{Conn: c, give: sync.OnceFunc(s.give)}
}

// slottedConn is a connection that has a slot.
type slottedConn struct {
	net.Conn
	give func()
}

// Close closes the connection and gives its slot back.
func (c *slottedConn) Close() error {
	err := c.Conn.Close()
	c.give()
	return err
}
