package etcdapi

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec is grpc's protobuf codec, except that a reply is in wire form already.
type codec struct {
	metrics *metrics
}

// Name is the content subtype, as of grpc's own protobuf codec.
func (codec) Name() string { return "proto" }

// Marshal encodes v. Of a reply it hands the pieces over, without copying.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *reply:
		c.metrics.sentBytes.Add(float64(m.size))
		return m.take(), nil
	case proto.Message:
		b, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		c.metrics.sentBytes.Add(float64(len(b)))
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return nil, fmt.Errorf("cannot encode a %T", v)
}

// inbound is the request of a unary RPC. That it could not be decoded is noted
// rather than returned to grpc, which would send a text of its own at once.
type inbound struct {
	message proto.Message
	fault   error
}

// Unmarshal decodes data, which grpc frees afterwards.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if in, ok := v.(*inbound); ok {
		in.fault = c.Unmarshal(data, in.message)
		return nil
	}
	c.metrics.receivedBytes.Add(float64(data.Len()))
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("cannot decode a %T", v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	if err := proto.Unmarshal(buf.ReadOnlyData(), m); err != nil {
		// The protobuf module varies the space in its texts from build to build.
		return errors.New(strings.ReplaceAll(err.Error(), "\u00a0", " "))
	}
	return nil
}
