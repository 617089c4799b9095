package rig

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Load is a number of clients that write at once, over as many runs of the server
// as there are.
type Load struct {
	Record  *Record
	clients []*Client
}

// SetBig makes percent of what the clients do puts of large values, beside those
// of the ordinary mix.
func (l *Load) SetBig(percent int) {
	for _, c := range l.clients {
		c.big.Store(int64(percent))
	}
}

// firstWrong returns the first of errs that is not a GoneError.
func firstWrong(errs []error) error {
	for _, err := range errs {
		var gone GoneError
		if err != nil && !errors.As(err, &gone) {
			return err
		}
	}
	return nil
}

// NewLoad makes a load of n clients, whose choices follow from seed.
func NewLoad(seed uint64, n int) *Load {
	l := &Load{Record: NewRecord()}
	for i := range n {
		l.clients = append(l.clients, NewClient(i, seed, l.Record))
	}
	return l
}

// Run writes to the server at addr, each client over a connection of its own,
// until ctx ends or every client has lost the server. It returns the first answer
// that a correct server cannot give; nil when there was none.
func (l *Load) Run(ctx context.Context, addr string) error {
	errs := make([]error, len(l.clients))
	var clients sync.WaitGroup
	for i, c := range l.clients {
		clients.Go(func() { errs[i] = c.connect(ctx, addr) })
	}
	clients.Wait()
	return firstWrong(errs)
}

// connect is one client's part of Run.
func (c *Client) connect(ctx context.Context, addr string) error {
	conn, err := Dial(addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return c.session(ctx, conn)
}

// session is what a client does to one server process.
func (c *Client) session(ctx context.Context, conn *grpc.ClientConn) error {
	if err := c.refresh(ctx, pb.NewKVClient(conn)); err != nil {
		return err
	}
	if err := c.Run(ctx, conn); err != nil {
		return fmt.Errorf("client %d: %w", c.id, err)
	}
	return nil
}

// pollInterval is how often AwaitWrites looks.
const pollInterval = time.Millisecond

// AwaitWrites waits until n more writes were acknowledged than at the call.
func (l *Load) AwaitWrites(ctx context.Context, n int) error {
	target := l.Record.Writes() + n
	for l.Record.Writes() < target {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d writes: %w", l.Record.Writes()-target+n, n, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
	return nil
}
