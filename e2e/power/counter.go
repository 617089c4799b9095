package power

import (
	"context"
	"sync"
)

// counter is a number that grows, and that can be waited for.
type counter struct {
	mu      sync.Mutex
	n       int64
	changed chan struct{} // closed and replaced when n changes
}

func newCounter(n int64) *counter { return &counter{n: n, changed: make(chan struct{})} }

func (c *counter) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *counter) set(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = n
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *counter) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
	close(c.changed)
	c.changed = make(chan struct{})
}

// await waits until the number is n or more; false when ctx ended before.
func (c *counter) await(ctx context.Context, n int64) bool {
	for {
		c.mu.Lock()
		now, changed := c.n, c.changed
		c.mu.Unlock()
		if now >= n {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
