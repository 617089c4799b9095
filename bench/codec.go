package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// The methods that are called.
const (
	methodRange       = "/etcdserverpb.KV/Range"
	methodRangeStream = "/etcdserverpb.KV/RangeStream"
	methodPut         = "/etcdserverpb.KV/Put"
	methodDelete      = "/etcdserverpb.KV/DeleteRange"
	methodTxn         = "/etcdserverpb.KV/Txn"
	methodWatch       = "/etcdserverpb.Watch/Watch"
	methodGrant       = "/etcdserverpb.Lease/LeaseGrant"
	methodRevoke      = "/etcdserverpb.Lease/LeaseRevoke"
	methodKeepAlive   = "/etcdserverpb.Lease/LeaseKeepAlive"
)

// encoded is a request in wire form. It must not be changed until its call has
// returned, or on a stream until the server has answered it.
type encoded []byte

// answer reads a response in the pieces that arrived; it keeps none of them.
type answer interface {
	read(c *cursor) error
}

// codec hands requests over as they are and answers to their reader.
type codec struct{}

// Name is the content subtype that etcd's clients send.
func (codec) Name() string { return "proto" }

// Marshal hands an encoded request over without copying it.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(encoded)
	if !ok {
		return nil, fmt.Errorf("cannot encode a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal lets the answer read the pieces, which grpc frees afterwards.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	a, ok := v.(answer)
	if !ok {
		return fmt.Errorf("cannot decode into a %T", v)
	}
	c := newCursor(data)
	if err := a.read(c); err != nil {
		return err
	}
	return c.err
}

// dial opens n connections to address. They connect when first used, and again
// quickly after a failure, so that a restart is not measured by a back-off.
func dial(address string, n int) ([]*grpc.ClientConn, error) {
	conns := make([]*grpc.ClientConn, 0, n)
	for range n {
		conn, err := grpc.NewClient("passthrough:///"+address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(math.MaxInt32)),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1, MaxDelay: 2 * time.Millisecond},
				MinConnectTimeout: startTimeout,
			}))
		if err != nil {
			hangUp(conns)
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func hangUp(conns []*grpc.ClientConn) {
	for _, c := range conns {
		_ = c.Close() // nothing is under way on it
	}
}

// connections is how many connections a number of clients shares: one for each
// ten, as in etcd's published benchmarks.
func connections(clients int) int { return max(1, clients/10) }

// call is one unary call that gives up when the run ends.
func call(ctx context.Context, conn *grpc.ClientConn, method string, request encoded, into answer) error {
	return conn.Invoke(ctx, method, request, into)
}
