package etcd

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// unaryRecords is the largest limit for which a range is asked for in one
// answer, and how many records a page has: 10 MiB of Kubernetes' larger objects.
const unaryRecords = 1000

// Range implements backends.Backend.
func (b *Backend) Range(ctx context.Context, req *backends.RangeRequest) (backends.Cursor, error) {
	r := rangeRequest(&req.RangeOptions)
	r.Serializable = req.Serializable
	if len(r.RangeEnd) == 0 || r.CountOnly || (r.Limit > 0 && r.Limit <= unaryRecords) {
		l, err := b.list(ctx, req.Caller, r)
		if err != nil {
			return nil, err
		}
		return &listCursor{l}, nil
	}
	// etcd 3.7.3 pins a stream to one revision only when asked for revision 0.
	r.Revision = max(r.Revision, 0)
	if !b.noStream.Load() {
		c, err := b.stream(ctx, req.Caller, r)
		if re, ok := errors.AsType[*backends.Remote](err); !ok || codes.Code(re.Code) != codes.Unimplemented {
			return c, err
		}
		b.noStream.Store(true)
	}
	return b.pages(ctx, req.Caller, r)
}

func rangeRequest(o *backends.RangeOptions) *pb.RangeRequest {
	return &pb.RangeRequest{
		Key:       o.Key,
		RangeEnd:  o.End,
		Revision:  o.Revision,
		Limit:     o.Limit,
		KeysOnly:  o.KeysOnly,
		CountOnly: o.CountOnly,
	}
}

func (b *Backend) list(ctx context.Context, caller backends.Caller, r *pb.RangeRequest) (list, error) {
	var answer raw
	if err := b.call(ctx, reading, pb.KV_Range_FullMethodName, caller, r, &answer); err != nil {
		return list{}, err
	}
	return decodeList(answer.bytes)
}

// streamCursor is a cursor over a RangeStream, whose last message has the result.
type streamCursor struct {
	b       *Backend
	ctx     context.Context // of the RPC
	cancel  context.CancelFunc
	attempt *attempt
	stream  grpc.ClientStream
	list    list
	ended   bool
}

// stream opens a RangeStream and awaits its first message, or its refusal. An error gives a
// nil interface.
func (b *Backend) stream(ctx context.Context, caller backends.Caller, r *pb.RangeRequest) (backends.Cursor, error) {
	ctx, cancel := context.WithCancel(ctx)
	rpc, a := b.begin(ctx, reading, caller)
	stream, err := b.conn.NewStream(rpc, &grpc.StreamDesc{ServerStreams: true}, pb.KV_RangeStream_FullMethodName)
	if err == nil {
		if err = stream.SendMsg(r); err == nil || errors.Is(err, io.EOF) { // EOF: the reason is for RecvMsg to tell
			err = stream.CloseSend()
		}
	}
	c := &streamCursor{b: b, ctx: ctx, cancel: cancel, attempt: a, stream: stream}
	if err != nil {
		err = b.outcome(ctx, a, err)
	} else {
		err = c.receive()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		cancel()
		return nil, err
	}
	return c, nil
}

// receive replaces the list by that of the next message. io.EOF after the last.
func (c *streamCursor) receive() error {
	var answer raw
	if err := c.stream.RecvMsg(&answer); err != nil {
		if errors.Is(err, io.EOF) {
			c.ended = true
			return io.EOF
		}
		return c.b.outcome(c.ctx, c.attempt, err)
	}
	return eachField("range stream response", answer.bytes, func(f field) (err error) {
		if f.tag == rangeStreamResponse {
			c.list, err = decodeList(f.bytes)
		}
		return err
	})
}

// Next implements backends.Cursor.
func (c *streamCursor) Next(ctx context.Context) (*backends.Chunk, error) {
	defer context.AfterFunc(ctx, c.cancel)()
	for {
		if chunk := c.list.chunk(); chunk != nil {
			return chunk, nil
		}
		if c.ended {
			return nil, io.EOF
		}
		if err := c.receive(); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
}

// Result implements backends.Cursor.
func (c *streamCursor) Result() backends.RangeResult { return c.list.result }

// Close implements backends.Cursor.
func (c *streamCursor) Close() { c.cancel() }

// pageCursor reads a range in pages at one revision.
type pageCursor struct {
	b      *Backend
	caller backends.Caller
	// next is the request for the page after list.
	next   *pb.RangeRequest
	left   int64 // records within the limit; 0 when there is none
	list   list
	result backends.RangeResult
}

func (b *Backend) pages(ctx context.Context, caller backends.Caller, r *pb.RangeRequest) (backends.Cursor, error) {
	c := &pageCursor{b: b, caller: caller, next: r, left: max(r.Limit, 0)}
	if err := c.read(ctx); err != nil {
		return nil, err
	}
	c.result.Header, c.result.Count = c.list.result.Header, c.list.result.Count
	if r.Revision == 0 {
		r.Revision = c.result.Header.Revision
	}
	return c, nil
}

// read reads the next page and prepares the request for the one after it.
func (c *pageCursor) read(ctx context.Context) (err error) {
	limited := c.left > 0
	c.next.Limit = unaryRecords
	if limited {
		c.next.Limit = min(c.left, unaryRecords)
	}
	if c.list, err = c.b.list(ctx, c.caller, c.next); err != nil {
		return err
	}
	c.result.More = c.list.result.More
	if c.left -= int64(c.list.n); limited && c.left <= 0 || !c.result.More {
		c.next = nil
		return nil
	}
	c.left = max(c.left, 0)
	key, err := decodeKey(c.list.last)
	c.next.Key = append(key, 0)
	return err
}

// decodeKey is a copy of a record's key, with room for one byte more.
func decodeKey(record []byte) (key []byte, err error) {
	err = eachField("record", record, func(f field) error {
		if f.tag == recordKey {
			key = append(make([]byte, 0, len(f.bytes)+1), f.bytes...)
		}
		return nil
	})
	if err == nil && key == nil {
		err = malformed("record")
	}
	return key, err
}

// Next implements backends.Cursor.
func (c *pageCursor) Next(ctx context.Context) (*backends.Chunk, error) {
	for {
		if chunk := c.list.chunk(); chunk != nil {
			return chunk, nil
		}
		if c.next == nil {
			return nil, io.EOF
		}
		if err := c.read(ctx); err != nil {
			return nil, err
		}
	}
}

// Result implements backends.Cursor.
func (c *pageCursor) Result() backends.RangeResult { return c.result }

// Close implements backends.Cursor.
func (c *pageCursor) Close() { c.next = nil }
