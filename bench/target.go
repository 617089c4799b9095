package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
)

// target is a running server with the model of what it must hold.
type target struct {
	*server
	*state
	sizes sizes
	// control is a connection for what is not measured.
	control *grpc.ClientConn
	// pinned are the past states that later rows read, by prefix.
	pinned map[string]*pin
	// profile, when set, begins a CPU profile of the server as it is.
	profile func()
}

// beginProfile begins the profile of the row that is about to be measured, if one is
// wanted.
func (t *target) beginProfile() {
	if t.profile != nil {
		t.profile()
	}
}

// revision asks for the store's revision.
func (t *target) revision(ctx context.Context) (int64, error) {
	var r ranged
	request := rangeRequest{key: []byte("/"), countOnly: true}.encode()
	if err := call(ctx, t.control, methodRange, request, &r); err != nil {
		return 0, err
	}
	return r.revision, nil
}

// verifyAll compares every key of the data set with the model, in pages at one
// revision. Nothing else may write meanwhile.
func (t *target) verifyAll(ctx context.Context) error {
	revision, err := t.revision(ctx)
	if err != nil {
		return err
	}
	present := make([]int, 0, len(t.data.keys))
	for i, v := range t.version {
		if v > 0 {
			present = append(present, i)
		}
	}
	present = t.data.sorted(present)
	const page = 10_000 // records, so that an answer stays far below grpc's largest message
	from := []byte(allPrefix)
	for len(present) > 0 {
		n := min(page, len(present))
		var r ranged
		request := rangeRequest{key: from, end: prefixEnd(allPrefix), limit: page, revision: revision}.encode()
		if err := call(ctx, t.control, methodRange, request, &r); err != nil {
			return err
		}
		if err := r.verify(t.expect(present[:n]), int64(len(present)), n < len(present)); err != nil {
			return fmt.Errorf("data of %s differs from the model at or after %q: %w", t.name, from, err)
		}
		from = append(append([]byte{}, t.data.keys[present[n-1]]...), 0)
		present = present[n:]
	}
	return nil
}

// wait waits until the server is quiet, which ends what it does in the background.
func (t *target) wait(ctx context.Context) error { return waitQuiet(ctx, t.pid()) }

// connect opens the control connection.
func (t *target) connect() error {
	conns, err := dial(t.address, 1)
	if err != nil {
		return err
	}
	t.control = conns[0]
	return nil
}

func (t *target) close() error {
	if t.control != nil {
		_ = t.control.Close() // nothing is under way on it
	}
	return t.stop()
}

// since is the time from begin in whole milliseconds, for progress.
func since(begin time.Time) time.Duration { return time.Since(begin).Round(time.Millisecond) }
