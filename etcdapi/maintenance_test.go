package etcdapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// snapshotFake is a backend with a snapshot that says to have size bytes.
type snapshotFake struct {
	fake
	content []byte
	size    int64
	err     error
}

func (f *snapshotFake) Snapshot(context.Context, backends.Caller) (*backends.Snapshot, error) {
	var r io.Reader = bytes.NewReader(f.content)
	if f.err != nil {
		r = io.MultiReader(r, errorReader{f.err})
	}
	return &backends.Snapshot{ReadCloser: io.NopCloser(r), SizeBytes: f.size, StorageVersion: "3.7.0"}, nil
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

// TestSnapshot: the copy comes in parts of 32 KiB that tell what remains, and its
// SHA-256 after it.
func TestSnapshot(t *testing.T) {
	for _, size := range []int{0, 1, 32 << 10, 100_000} {
		f := &snapshotFake{content: bytes.Repeat([]byte("shim"), size/4+1)[:size], size: int64(size)}
		_, conn := serve(t, f, Config{})
		stream, err := pb.NewMaintenanceClient(conn).Snapshot(t.Context(), &pb.SnapshotRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, part.Blob...)
			if want := max(0, size-len(got)); part.RemainingBytes != uint64(want) || part.Version != "3.7.0" || len(part.Blob) > snapshotPartBytes {
				t.Errorf("of %d: %d remain, version %q, %d bytes", size, part.RemainingBytes, part.Version, len(part.Blob))
			}
		}
		sum := sha256.Sum256(f.content)
		if !bytes.Equal(got, append(bytes.Clone(f.content), sum[:]...)) {
			t.Errorf("of %d bytes: the copy and its sum are not what was sent", size)
		}
	}
}

// TestSnapshotCut: a copy that ends early is an error, never a shorter copy.
func TestSnapshotCut(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
	}{{nil, codes.DataLoss}, {errors.New("disk"), codes.Unknown}, {backends.ErrStopped, codes.Unavailable}} {
		f := &snapshotFake{content: make([]byte, 40_000), size: 50_000, err: c.err}
		_, conn := serve(t, f, Config{})
		stream, err := pb.NewMaintenanceClient(conn).Snapshot(t.Context(), &pb.SnapshotRequest{})
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != c.code {
			t.Errorf("reader's error %v: got %v", c.err, err)
		}
	}
}

// TestStatusAlarms: an alarm's text in Status has one space, in every build, and
// does not name member 0.
func TestStatusAlarms(t *testing.T) {
	f := &fake{status: backends.Status{Header: testHeader, Leader: 7, Alarms: []backends.Alarm{
		{MemberID: 7, Kind: backends.AlarmNoSpace}, {Kind: backends.AlarmCorrupt},
	}}}
	_, conn := serve(t, f, Config{})
	got, err := pb.NewMaintenanceClient(conn).Status(t.Context(), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"memberID:7 alarm:NOSPACE", "alarm:CORRUPT"}; !slices.Equal(got.Errors, want) {
		t.Errorf("errors %q, want %q", got.Errors, want)
	}
}

// onePlace is a backend that makes one snapshot at a time.
type onePlace struct {
	fake
	place chan struct{}
}

func (f *onePlace) Snapshot(context.Context, backends.Caller) (*backends.Snapshot, error) {
	select {
	case f.place <- struct{}{}:
	default:
		return nil, backends.ErrTooManyRequests
	}
	const size = 1 << 20
	return &backends.Snapshot{ReadCloser: placed{bytes.NewReader(make([]byte, size)), f.place}, SizeBytes: size}, nil
}

type placed struct {
	io.Reader
	place chan struct{}
}

func (p placed) Close() error {
	<-p.place
	return nil
}

// TestSnapshotUnread: a snapshot that its client does not read gives its place to
// one that waits; one that is read does not.
func TestSnapshotUnread(t *testing.T) {
	f := &onePlace{place: make(chan struct{}, 1)}
	_, conn := serve(t, f, Config{snapshotStall: 50 * time.Millisecond})
	maintenance := pb.NewMaintenanceClient(conn)
	for range 3 { // each takes the place of the one before
		unread, err := maintenance.Snapshot(t.Context(), &pb.SnapshotRequest{})
		if err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return len(f.place) == 1 })
		read, err := maintenance.Snapshot(t.Context(), &pb.SnapshotRequest{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for {
			part, err := read.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			n += len(part.Blob)
		}
		if n != 1<<20+32 {
			t.Errorf("%d bytes", n)
		}
		for err == nil {
			_, err = unread.Recv()
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the one that was not read ended with %v", err)
		}
	}
	await(t, func() bool { return len(f.place) == 0 })
}

// TestSnapshotPressed ensures that many snapshots that are not read do not each take
// the whole time, one after the other, while one waits; and that those that are read
// go on.
func TestSnapshotPressed(t *testing.T) {
	clock := newManualClock()
	s := newSnapshots(clock, snapshotStall)
	asked := clock.Now()
	for _, step := range []struct {
		what  string
		later time.Duration
		read  bool
		ends  bool
	}{
		{"not read since the waiting began", snapshotStall - 1, false, false},
		{"not read for the whole time", snapshotStall, false, true},
		{"not read, while one waits for long", snapshotStall / pressedSnapshots, false, true},
		{"not read, but not for long", snapshotStall/pressedSnapshots - 1, false, false},
		{"read, while one waits for long", 2 * snapshotStall, true, false},
	} {
		var ended error
		one := s.begin(func(err error) { ended = err })
		clock.now.Add(int64(step.later))
		if step.read {
			s.move(one)
		}
		s.makeWay(asked)
		if step.ends != errors.Is(ended, errSnapshotUnread) {
			t.Errorf("%s, %v later: ended with %v", step.what, step.later, ended)
		}
		if ended == nil && step.later < snapshotStall {
			s.makeWay(clock.Now()) // for one that comes now it stays, too
			if ended != nil {
				t.Errorf("%s: ended for one that came at once", step.what)
			}
		}
		s.end(one)
	}
}
