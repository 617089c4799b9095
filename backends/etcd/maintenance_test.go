package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// etcd tells of unknown leases without an error.
func TestUnknownLease(t *testing.T) {
	ttl := int64(0)
	u := &upstream{
		keep: func(s grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
			r, err := s.Recv()
			if err != nil {
				return err
			}
			return s.Send(&pb.LeaseKeepAliveResponse{ID: r.ID, TTL: ttl, Header: &pb.ResponseHeader{Revision: 4}})
		},
		ttl: func(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
			if ttl == 0 {
				return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}, nil
			}
			// Of a lease that expired and was not revoked yet etcd tells a negative rest.
			return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1, GrantedTTL: ttl, Keys: [][]byte{{'b'}, {'a'}}}, nil
		},
	}
	b, _ := u.serve(t)
	if _, err := b.LeaseKeepAlive(t.Context(), backends.Caller{}, 7); !errors.Is(err, backends.ErrLeaseNotFound) {
		t.Errorf("keep-alive: %v", err)
	}
	if _, err := b.LeaseTimeToLive(t.Context(), backends.Caller{}, 7, true); !errors.Is(err, backends.ErrLeaseNotFound) {
		t.Errorf("time to live: %v", err)
	}
	ttl = 5
	if r, err := b.LeaseKeepAlive(t.Context(), backends.Caller{}, 7); err != nil || r.TTLSeconds != 5 || r.Header.Revision != 4 {
		t.Errorf("keep-alive: %+v, %v", r, err)
	}
	r, err := b.LeaseTimeToLive(t.Context(), backends.Caller{}, 7, true)
	if err != nil || r.TTLSeconds != -1 || r.GrantedTTLSeconds != 5 || fmt.Sprintf("%s", r.Keys) != "[a b]" {
		t.Errorf("time to live: %+v, %v", r, err)
	}
}

// A snapshot loses its checksum, and its last part is not handed out when that
// is wrong or missing.
func TestSnapshot(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10)
	var sum []byte
	u := &upstream{snapshot: func(_ *pb.SnapshotRequest, s grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
		for i := 0; i < 100; i += 25 {
			if err := s.Send(&pb.SnapshotResponse{Blob: data[i : i+25], RemainingBytes: uint64(75 - i), Version: "3.7.0"}); err != nil {
				return err
			}
		}
		if sum == nil {
			return nil
		}
		return s.Send(&pb.SnapshotResponse{Blob: sum})
	}}
	b, _ := u.serve(t)
	right := sha256.Sum256(data)
	for name, c := range map[string]struct {
		sum []byte
		ok  bool
	}{"right": {right[:], true}, "wrong": {make([]byte, sha256.Size), false}, "missing": {nil, false}} {
		sum = c.sum
		s, err := b.Snapshot(t.Context(), backends.Caller{})
		if err != nil {
			t.Fatal(err)
		}
		if s.SizeBytes != 100 || s.StorageVersion != "3.7.0" {
			t.Errorf("%s: %+v", name, s)
		}
		got := make([]byte, 100)
		n, err := io.ReadFull(s, got)
		switch {
		case c.ok:
			if _, end := s.Read(make([]byte, 1)); err != nil || !bytes.Equal(got, data) || !errors.Is(end, io.EOF) {
				t.Errorf("%s: read %d bytes, %v, %v", name, n, err, end)
			}
		case err == nil || n >= 100:
			t.Errorf("%s: read %d bytes, %v", name, n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Alarms that the upstream reports as text become alarms again.
func TestStatusAlarms(t *testing.T) {
	alarm := &pb.AlarmMember{MemberID: 1 << 63, Alarm: pb.AlarmType_NOSPACE}
	u := &upstream{status: &pb.StatusResponse{Version: "3.7.3", Errors: []string{alarm.String(), "etcdserver: no leader", "else"}}}
	b, _ := u.serve(t)
	st, err := b.Status(t.Context())
	if err != nil || len(st.Alarms) != 1 || st.Alarms[0] != (backends.Alarm{MemberID: 1 << 63, Kind: backends.AlarmNoSpace}) ||
		!slices.Equal(st.Errors, []string{"else"}) {
		t.Errorf("status %+v, %v", st, err)
	}
}
