package etcdapi

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
)

// received is what a client's side of a stream gave: a message, an error, or
// neither when the client closed it.
type received[M any] struct {
	message M
	err     error
}

// receive reads a stream in a goroutine that ends after the first error, or with
// ctx. A handler can so return while the client is silent: grpc then makes the
// pending read fail.
func receive[T any, M message[T]](ctx context.Context, stream grpc.ServerStream) <-chan received[M] {
	out := make(chan received[M])
	go func() {
		for {
			in := M(new(T))
			r := received[M]{message: in}
			if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
				r = received[M]{}
			} else if err != nil {
				r = received[M]{err: err}
			}
			select {
			case out <- r:
			case <-ctx.Done():
				return
			}
			if r.message == nil {
				return
			}
		}
	}()
	return out
}

// streamEnd counts a stream that failed for another reason than that its
// context ended, and returns why it ended.
func (s *Server) streamEnd(ctx context.Context, direction, api string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.metrics.streamFailures.WithLabelValues(direction, api).Inc()
	return err
}
