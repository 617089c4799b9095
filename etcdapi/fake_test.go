package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdshim/shim/backends"
)

// fake is a backend whose answers a test chooses. What is not set is unsupported.
type fake struct {
	backends.Backend // nil: a call of what is not set panics
	ranges           func(context.Context, *backends.RangeRequest) (backends.Cursor, error)
	txn              func(context.Context, *backends.TxnRequest) (*backends.TxnResult, error)
	status           backends.Status
}

func (f *fake) Info() backends.Info { return backends.Info{Name: "fake"} }

func (f *fake) Status(context.Context) (backends.Status, error) { return f.status, nil }

func (f *fake) Range(ctx context.Context, r *backends.RangeRequest) (backends.Cursor, error) {
	return f.ranges(ctx, r)
}

func (f *fake) Txn(ctx context.Context, r *backends.TxnRequest) (*backends.TxnResult, error) {
	return f.txn(ctx, r)
}

// losesLeader has the status of fake until its leader is gone.
type losesLeader struct {
	*fake
	gone atomic.Bool
}

func (l *losesLeader) Status(context.Context) (backends.Status, error) {
	st := l.status
	if l.gone.Load() {
		st.Leader = 0
	}
	return st, nil
}

// cursor yields given chunks.
type cursor struct {
	chunks []*backends.Chunk
	result backends.RangeResult
	err    error // instead of io.EOF
	closed bool
}

func (c *cursor) Next(context.Context) (*backends.Chunk, error) {
	if len(c.chunks) == 0 {
		if c.err != nil {
			return nil, c.err
		}
		return nil, io.EOF
	}
	chunk := c.chunks[0]
	c.chunks = c.chunks[1:]
	return chunk, nil
}

func (c *cursor) Result() backends.RangeResult { return c.result }
func (c *cursor) Close()                       { c.closed = true }

// chunkOf makes a chunk of key-values.
func chunkOf(t testing.TB, release func(), kvs ...*mvccpb.KeyValue) *backends.Chunk {
	t.Helper()
	var frames []byte
	for _, kv := range kvs {
		var err error
		if frames, err = backends.AppendKeyValue(frames, kv); err != nil {
			t.Fatal(err)
		}
	}
	return backends.NewChunk(frames, len(kvs), release)
}

// keyValues makes n records with values of size bytes; revisions ascend.
func keyValues(n, size int) []*mvccpb.KeyValue {
	kvs := make([]*mvccpb.KeyValue, n)
	for i := range kvs {
		kvs[i] = &mvccpb.KeyValue{
			Key: fmt.Appendf(nil, "key%06d", i), Value: make([]byte, size),
			CreateRevision: int64(i + 2), ModRevision: int64(i + 2), Version: 1,
		}
	}
	return kvs
}

// serve starts a server over b and returns it with a client's connection. Both
// end with the test.
func serve(t *testing.T, b backends.Backend, cfg Config, opts ...grpc.DialOption) (*Server, *grpc.ClientConn) {
	t.Helper()
	s, err := New(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30)),
	}, opts...)
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // whatever is under way is a test's leftover
		_ = s.Shutdown(ctx)
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return s, conn
}
