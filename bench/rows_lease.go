package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
)

// leaseTTL is long enough that no lease expires during a run, in seconds.
const leaseTTL = 3600

// runKeepAlive measures clients that each keep a lease of their own alive on a stream
// of their own, one request at a time.
func runKeepAlive(ctx context.Context, t *target, d time.Duration) (f figure, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ids := make([]int64, t.sizes.some)
	for i := range ids {
		var granted written
		if err := call(ctx, t.control, methodGrant, appendInt(nil, 1, leaseTTL), &granted); err != nil {
			return f, err
		}
		if ids[i] = granted.second; granted.third != leaseTTL || ids[i] == 0 {
			return f, fmt.Errorf("granted lease %d with TTL %d", ids[i], granted.third)
		}
	}
	run, done, err := closedLoop(t, len(ids), func(c int, conn *grpc.ClientConn) func(context.Context) error {
		var stream grpc.ClientStream
		request := encoded(appendInt(nil, 1, ids[c]))
		// The stream outlives the calls of its operation, and ends with the row.
		return func(context.Context) (err error) {
			if stream == nil {
				if stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, methodKeepAlive); err != nil {
					return err
				}
			}
			if err := stream.SendMsg(request); err != nil {
				return err
			}
			var answer kept
			if err := stream.RecvMsg(&answer); err != nil {
				return err
			}
			if answer.id != ids[c] || answer.ttl != leaseTTL {
				return fmt.Errorf("keep-alive of lease %d answered lease %d, TTL %d", ids[c], answer.id, answer.ttl)
			}
			return nil
		}
	})
	if err != nil {
		return f, err
	}
	defer done()
	if f, err = measure(ctx, t, d, run); err != nil {
		return f, err
	}
	for _, id := range ids {
		var revoked written
		if err := call(ctx, t.control, methodRevoke, appendInt(nil, 1, id), &revoked); err != nil {
			return f, err
		}
	}
	return f, nil
}
