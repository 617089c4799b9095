package power

import (
	"encoding/binary"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// answers reads the messages that the server sends on its sockets: HTTP/2 frames of
// gRPC. It tells the revision in the header of each.
type answers struct {
	revision func(r int64) error
	conns    map[int]*connection
}

type connection struct {
	frames  []byte
	streams map[uint32][]byte
}

// Of HTTP/2 (RFC 9113, section 4.1) and of gRPC's message framing.
const (
	frameHeadBytes   = 9
	frameData        = 0
	frameReset       = 3
	flagPadded       = 8
	flagEnd          = 1
	messageHeadBytes = 5
)

func newAnswers(revision func(int64) error) *answers {
	return &answers{revision: revision, conns: map[int]*connection{}}
}

// sent takes what was written to a socket, in order.
func (a *answers) sent(socket int, data []byte) error {
	c := a.conns[socket]
	if c == nil {
		c = &connection{streams: map[uint32][]byte{}}
		a.conns[socket] = c
	}
	c.frames = append(c.frames, data...)
	for len(c.frames) >= frameHeadBytes {
		length := int(c.frames[0])<<16 | int(c.frames[1])<<8 | int(c.frames[2])
		if len(c.frames) < frameHeadBytes+length {
			return nil
		}
		kind, flags, stream := c.frames[3], c.frames[4], binary.BigEndian.Uint32(c.frames[5:])
		payload := c.frames[frameHeadBytes : frameHeadBytes+length]
		if kind == frameData {
			if flags&flagPadded != 0 {
				return fmt.Errorf("a padded DATA frame")
			}
			c.streams[stream] = append(c.streams[stream], payload...)
			if err := a.messages(c, stream); err != nil {
				return err
			}
		}
		if kind == frameReset || flags&flagEnd != 0 {
			delete(c.streams, stream)
		}
		c.frames = c.frames[frameHeadBytes+length:]
	}
	return nil
}

// messages takes the whole messages of a stream.
func (a *answers) messages(c *connection, stream uint32) error {
	b := c.streams[stream]
	for len(b) >= messageHeadBytes {
		n := int(binary.BigEndian.Uint32(b[1:]))
		if len(b) < messageHeadBytes+n {
			break
		}
		if b[0] != 0 {
			return fmt.Errorf("a compressed message")
		}
		// Every answer of etcd's API has its header in field 1; the rest is of no
		// interest, and any message can be read as one without it.
		var m pb.LeaseRevokeResponse
		if err := proto.Unmarshal(b[messageHeadBytes:messageHeadBytes+n], &m); err != nil {
			return fmt.Errorf("an answer of %d bytes: %w", n, err)
		}
		if err := a.revision(m.GetHeader().GetRevision()); err != nil {
			return err
		}
		b = b[messageHeadBytes+n:]
	}
	c.streams[stream] = b
	return nil
}
