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

// verifyAll compares every key of the data set with the model, in one stream. Nothing
// else may write meanwhile.
func (t *target) verifyAll(ctx context.Context) error {
	want := t.expect(t.data.allSorted)
	answer := ranged{stream: true}
	request := rangeRequest{key: []byte(allPrefix), end: prefixEnd(allPrefix)}.encode()
	if err := callStream(ctx, t.control, methodRangeStream, request, &answer); err != nil {
		return err
	}
	if err := answer.verify(want, int64(want.records), false); err != nil {
		return fmt.Errorf("the data of %s differs from the model: %w", t.name, err)
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
