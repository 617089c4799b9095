package oracle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// An Answer is all that a client sees of a step. Its messages are in symbols.
type Answer struct {
	Code codes.Code
	// Message is the status's.
	Message string
	Header  metadata.MD
	Trailer metadata.MD
	Replies []proto.Message
	// Watched are the messages of watch streams that came up to the end of the step,
	// by stream and watch; those of one watch in the order they came in.
	Watched []watched
	// Calls is how many requests it is the answer to.
	Calls int
	// Late tells that the answer did not come within the side's patience.
	Late bool
	// Refused tells of a request that was refused in a message, with a good code: a watch.
	Refused bool
}

// watched is a message of a watch stream.
type watched struct {
	stream  int
	message *pb.WatchResponse
}

// outcome is the answer's column in the summary.
func (a Answer) outcome() string {
	if a.Refused {
		return "refused in a message"
	}
	return a.Code.String()
}

// fail notes an error of a call, whose context it was made with.
func (a *Answer) fail(ctx context.Context, err error) {
	a.Late = ctx.Err() != nil
	s := status.Convert(err)
	a.Code, a.Message = s.Code(), s.Message()
	for _, d := range s.Proto().GetDetails() {
		a.Replies = append(a.Replies, d)
	}
}

// errSnapshot is an answer of Snapshot that does not hold together.
var errSnapshot = errors.New("not a whole snapshot")

// folded makes one message of those of a snapshot: its size, its checksum and its
// version. Chunks may be cut anywhere, but must count down to nothing left, and the last
// is the checksum of those before.
func folded(chunks []proto.Message) (*pb.SnapshotResponse, error) {
	digest := sha256.New()
	total, left := uint64(0), uint64(0)
	out := &pb.SnapshotResponse{}
	for i, m := range chunks {
		c, ok := m.(*pb.SnapshotResponse)
		if !ok {
			return nil, fmt.Errorf("%w: a %T", errSnapshot, m)
		}
		if i == 0 {
			total, left, out.Version = uint64(len(c.Blob))+c.RemainingBytes, uint64(len(c.Blob))+c.RemainingBytes, c.Version
		}
		if c.Version != out.Version || c.Header != nil || len(c.ProtoReflect().GetUnknown()) > 0 {
			return nil, fmt.Errorf("%w: chunk %d has version %q, header %v and %d bytes unknown, the first %q",
				errSnapshot, i, c.Version, c.Header, len(c.ProtoReflect().GetUnknown()), out.Version)
		}
		if i == len(chunks)-1 {
			if c.RemainingBytes != 0 || left != 0 || !bytes.Equal(c.Blob, digest.Sum(nil)) {
				return nil, fmt.Errorf("%w: a checksum of %d bytes that is not that of the file, %d bytes missing", errSnapshot, len(c.Blob), left)
			}
			continue
		}
		digest.Write(c.Blob)
		left -= uint64(len(c.Blob))
		if c.RemainingBytes != left {
			return nil, fmt.Errorf("%w: chunk %d leaves %d bytes, tells %d", errSnapshot, i, left, c.RemainingBytes)
		}
	}
	if len(chunks) < 2 {
		return nil, fmt.Errorf("%w: %d messages", errSnapshot, len(chunks))
	}
	out.RemainingBytes, out.Blob = total, digest.Sum(nil)
	return out, nil
}
