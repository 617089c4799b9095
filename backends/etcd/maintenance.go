package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// Alarm implements backends.Alarms.
func (b *Backend) Alarm(ctx context.Context, req *backends.AlarmRequest) (backends.AlarmResult, error) {
	p := writing
	if req.Action == backends.AlarmGet {
		p = reading
	}
	r := &pb.AlarmResponse{}
	err := b.call(ctx, p, pb.Maintenance_Alarm_FullMethodName, req.Caller, &pb.AlarmRequest{
		Action: pb.AlarmRequest_AlarmAction(req.Action), MemberID: req.MemberID, Alarm: pb.AlarmType(req.Kind),
	}, r)
	result := backends.AlarmResult{Header: header(r.Header)}
	for _, a := range r.Alarms {
		result.Alarms = append(result.Alarms, backends.Alarm{MemberID: a.MemberID, Kind: backends.AlarmKind(a.Alarm)})
	}
	return result, err
}

// Hash implements backends.Hasher.
func (b *Backend) Hash(ctx context.Context, caller backends.Caller) (backends.HashResult, error) {
	r := &pb.HashResponse{}
	err := b.call(ctx, reading, pb.Maintenance_Hash_FullMethodName, caller, &pb.HashRequest{}, r)
	return backends.HashResult{Header: header(r.Header), Hash: r.Hash}, err
}

// HashKV implements backends.Hasher.
func (b *Backend) HashKV(ctx context.Context, caller backends.Caller, revision int64) (backends.HashKVResult, error) {
	r := &pb.HashKVResponse{}
	err := b.call(ctx, reading, pb.Maintenance_HashKV_FullMethodName, caller, &pb.HashKVRequest{Revision: revision}, r)
	return backends.HashKVResult{
		Header: header(r.Header), Hash: r.Hash, CompactRevision: r.CompactRevision, HashRevision: r.HashRevision,
	}, err
}

// Defragment implements backends.Defragmenter.
func (b *Backend) Defragment(ctx context.Context, caller backends.Caller) (backends.Header, error) {
	r := &pb.DefragmentResponse{}
	err := b.call(ctx, writing, pb.Maintenance_Defragment_FullMethodName, caller, &pb.DefragmentRequest{}, r)
	return header(r.Header), err
}

// Snapshot implements backends.Snapshotter.
func (b *Backend) Snapshot(ctx context.Context, caller backends.Caller) (*backends.Snapshot, error) {
	ctx, cancel := context.WithCancel(ctx)
	rpc, a := b.begin(ctx, reading, caller)
	s := &snapshot{b: b, ctx: ctx, cancel: cancel, attempt: a, hash: sha256.New()}
	first, err := s.open(rpc)
	if err != nil {
		cancel()
		return nil, err
	}
	size := int64(len(first.Blob)) + int64(first.RemainingBytes)
	s.left = size
	if err := s.accept(first); err != nil {
		cancel()
		return nil, err
	}
	return &backends.Snapshot{Header: header(first.Header), ReadCloser: s, SizeBytes: size, StorageVersion: first.Version}, nil
}

// snapshot reads the copy out of the upstream's messages. The copy is followed
// by its SHA-256, and its last part is given out only once that was found right:
// a reader may stop at the last byte.
type snapshot struct {
	b       *Backend
	ctx     context.Context // of the RPC
	cancel  context.CancelFunc
	attempt *attempt
	stream  grpc.ClientStream
	hash    hash.Hash
	left    int64  // bytes not received yet
	part    []byte // received, hashed, and not read yet
	failed  error
}

func (s *snapshot) open(rpc context.Context) (*pb.SnapshotResponse, error) {
	stream, err := s.b.conn.NewStream(rpc, &grpc.StreamDesc{ServerStreams: true}, pb.Maintenance_Snapshot_FullMethodName)
	if err != nil {
		return nil, s.b.outcome(s.ctx, s.attempt, err)
	}
	s.stream = stream
	if err := stream.SendMsg(&pb.SnapshotRequest{}); err != nil && !errors.Is(err, io.EOF) { // EOF: RecvMsg has the reason
		return nil, s.b.outcome(s.ctx, s.attempt, err)
	}
	if err := stream.CloseSend(); err != nil {
		return nil, s.b.outcome(s.ctx, s.attempt, err)
	}
	return s.receive()
}

func (s *snapshot) receive() (*pb.SnapshotResponse, error) {
	m := &pb.SnapshotResponse{}
	err := s.stream.RecvMsg(m)
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, s.b.outcome(s.ctx, s.attempt, err)
	}
	return m, nil
}

// accept takes a message's part of the copy in, and after the last one compares the hash.
func (s *snapshot) accept(m *pb.SnapshotResponse) error {
	if int64(len(m.Blob)) > s.left {
		return malformed("snapshot: longer than announced")
	}
	s.part = m.Blob
	s.left -= int64(len(m.Blob))
	s.hash.Write(m.Blob)
	if s.left > 0 {
		return nil
	}
	sum, err := s.receive()
	if err != nil {
		return err
	}
	if !bytes.Equal(sum.Blob, s.hash.Sum(nil)) {
		return malformed("snapshot: the checksum differs")
	}
	return nil
}

// Read implements io.Reader.
func (s *snapshot) Read(p []byte) (int, error) {
	for len(s.part) == 0 {
		if s.failed == nil && s.left == 0 {
			s.failed = io.EOF
		}
		if s.failed != nil {
			return 0, s.failed
		}
		m, err := s.receive()
		if err == nil {
			err = s.accept(m)
		}
		if err != nil {
			s.part, s.failed = nil, err
		}
	}
	n := copy(p, s.part)
	s.part = s.part[n:]
	return n, nil
}

// Close implements io.Closer.
func (s *snapshot) Close() error {
	s.cancel()
	return nil
}
