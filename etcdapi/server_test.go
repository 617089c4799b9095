package etcdapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

func newMemory(t *testing.T) *memory.Backend {
	b := memory.New(backends.SystemClock{})
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

// TestSilentConnection: a connection that sends nothing, or only a part of what
// begins a protocol, is closed.
func TestSilentConnection(t *testing.T) {
	s, _ := serve(t, &fake{}, Config{prefaceTimeout: 200 * time.Millisecond})
	for _, sent := range []string{"", "P", "PRI * HTTP/2.0\r\n", http2Preface, "GET /health HT", "GET /health HTTP/1.1\r\nHost: x\r\n"} {
		c, err := net.Dial("tcp", address(t, s))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Errorf("after %q the connection stays open", sent)
		}
		_ = c.Close()
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// TestOnePort: gRPC and HTTP/1 are served on one port, also when the first bytes
// come one by one.
func TestOnePort(t *testing.T) {
	s, conn := serve(t, newMemory(t), Config{ShimVersion: "1.2"})
	if _, err := pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", address(t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, b := range []byte("GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"unknown","shim":"1.2","backend":"memory"}`; err != nil || string(body) != want {
		t.Errorf("%v, %s, want %s", err, body, want)
	}
}

// TestShutdown: a request under way is answered, streams are told, new requests
// are refused, and Serve returns.
func TestShutdown(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	f := &fake{
		Backend: newMemory(t), // for Watch
		ranges: func(context.Context, *backends.RangeRequest) (backends.Cursor, error) {
			close(entered)
			<-leave
			return &cursor{result: backends.RangeResult{Header: testHeader}}, nil
		},
	}
	s, conn := serve(t, f, Config{})
	watch, err := pb.NewWatchClient(conn).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Send(createRequest(&pb.WatchCreateRequest{Key: []byte("a")})); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
		answered <- err
	}()
	<-entered
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(t.Context()) }()
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "etcdserver: server stopped" {
		t.Errorf("the watch ended with %v", err)
	}
	close(leave)
	if err := <-answered; err != nil {
		t.Errorf("the request under way got %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := net.Dial("tcp", conn.Target()[len("passthrough:///"):]); err == nil {
		t.Error("the port is still open")
	}
}

// TestShutdownGivesUp: what does not end in time is cut.
func TestShutdownGivesUp(t *testing.T) {
	entered := make(chan struct{})
	f := &fake{ranges: func(ctx context.Context, _ *backends.RangeRequest) (backends.Cursor, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	s, conn := serve(t, f, Config{})
	answered := make(chan error, 1)
	go func() {
		_, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
		answered <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-answered; err == nil {
		t.Error("the request was answered")
	}
}

// TestLeaderRequired: a request that requires a leader is refused while there is
// none, unless the backend has no notion of one.
func TestLeaderRequired(t *testing.T) {
	f := &fake{
		ranges: func(context.Context, *backends.RangeRequest) (backends.Cursor, error) { return &cursor{}, nil },
		status: backends.Status{Header: backends.Header{Term: 2}},
	}
	_, conn := serve(t, f, Config{})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "hasleader", "true")
	_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "etcdserver: no leader" {
		t.Errorf("got %v", err)
	}
	if _, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Errorf("not required: %v", err)
	}
	_, conn = serve(t, &fake{ranges: f.ranges}, Config{})
	if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Errorf("without consensus: %v", err)
	}
}

// TestLeaderLost: a stream that requires a leader ends when there was none for
// three looks; one that does not goes on.
func TestLeaderLost(t *testing.T) {
	clock := newManualClock()
	f := &fake{Backend: newMemory(t), status: backends.Status{Leader: 1, Header: backends.Header{Term: 2}}}
	lost := &losesLeader{fake: f}
	_, conn := serve(t, lost, Config{Clock: clock, WatchProgressNotifyInterval: time.Hour})
	open := func(ctx context.Context) pb.Watch_WatchClient {
		w, err := pb.NewWatchClient(conn).Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Send(createRequest(&pb.WatchCreateRequest{Key: []byte("a")})); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Recv(); err != nil {
			t.Fatal(err)
		}
		return w
	}
	strict := open(metadata.AppendToOutgoingContext(t.Context(), "hasleader", "true"))
	lax := open(t.Context())
	lost.gone.Store(true)
	ended := make(chan error, 1)
	go func() {
		_, err := strict.Recv()
		ended <- err
	}()
	var err error
	for err == nil {
		select {
		case clock.ticks <- time.Time{}: // whoever waits: the watches' ticks do nothing here
		case err = <-ended:
		}
	}
	if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "etcdserver: no leader" {
		t.Errorf("got %v", err)
	}
	if err := lax.Send(createRequest(&pb.WatchCreateRequest{Key: []byte("b")})); err != nil {
		t.Fatal(err)
	}
	if _, err := lax.Recv(); err != nil {
		t.Errorf("the other stream ended too: %v", err)
	}
}

// TestGzip: compressed requests are understood, and one that is too large after
// decompression is refused.
func TestGzip(t *testing.T) {
	_, conn := serve(t, newMemory(t), Config{})
	kv := pb.NewKVClient(conn)
	if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: make([]byte, 1000)}, grpc.UseCompressor(gzip.Name)); err != nil {
		t.Fatal(err)
	}
	_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: make([]byte, 8<<20)}, grpc.UseCompressor(gzip.Name))
	if want := "grpc: received message after decompression larger than max 2097152"; status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != want {
		t.Errorf("got %v", err)
	}
}

// TestAbsentCapability: what the backend cannot do is Unimplemented, and the text
// names the backend; what etcdapi can answer itself it does.
func TestAbsentCapability(t *testing.T) {
	f := &fake{status: backends.Status{Header: testHeader}}
	_, conn := serve(t, f, Config{Name: "n1", ClientURLs: []string{"http://x:2379"}})
	ctx := t.Context()
	lease, maintenance, cluster := pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn), pb.NewClusterClient(conn)
	lock, election := v3lockpb.NewLockClient(conn), v3electionpb.NewElectionClient(conn)
	for name, call := range map[string]func() error{
		"LeaseGrant":      func() error { _, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{}); return err },
		"LeaseRevoke":     func() error { _, err := lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{}); return err },
		"LeaseTimeToLive": func() error { _, err := lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{}); return err },
		"LeaseLeases":     func() error { _, err := lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{}); return err },
		"LeaseKeepAlive": func() error {
			s, err := lease.LeaseKeepAlive(ctx)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"HashKV":     func() error { _, err := maintenance.HashKV(ctx, &pb.HashKVRequest{}); return err },
		"Hash":       func() error { _, err := maintenance.Hash(ctx, &pb.HashRequest{}); return err },
		"Defragment": func() error { _, err := maintenance.Defragment(ctx, &pb.DefragmentRequest{}); return err },
		"MoveLeader": func() error { _, err := maintenance.MoveLeader(ctx, &pb.MoveLeaderRequest{}); return err },
		"changing alarms": func() error {
			_, err := maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE})
			return err
		},
		"Snapshot": func() error {
			s, err := maintenance.Snapshot(ctx, &pb.SnapshotRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"MemberAdd": func() error { _, err := cluster.MemberAdd(ctx, &pb.MemberAddRequest{}); return err },
		"Lock":      func() error { _, err := lock.Lock(ctx, &v3lockpb.LockRequest{}); return err },
		"Unlock":    func() error { _, err := lock.Unlock(ctx, &v3lockpb.UnlockRequest{}); return err },
		"Campaign":  func() error { _, err := election.Campaign(ctx, &v3electionpb.CampaignRequest{}); return err },
		"Proclaim":  func() error { _, err := election.Proclaim(ctx, &v3electionpb.ProclaimRequest{}); return err },
		"Leader":    func() error { _, err := election.Leader(ctx, &v3electionpb.LeaderRequest{}); return err },
		"Resign":    func() error { _, err := election.Resign(ctx, &v3electionpb.ResignRequest{}); return err },
		"Observe": func() error {
			s, err := election.Observe(ctx, &v3electionpb.LeaderRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	} {
		err := call()
		if want := "etcdserver: " + name + " is not supported by the fake backend"; status.Code(err) != codes.Unimplemented || status.Convert(err).Message() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	members, err := cluster.MemberList(ctx, &pb.MemberListRequest{})
	if err != nil || len(members.Members) != 1 || members.Members[0].Name != "n1" || members.Members[0].ID != testHeader.MemberID || members.Members[0].ClientURLs[0] != "http://x:2379" {
		t.Errorf("MemberList: %v, %v", members, err)
	}
	alarms, err := maintenance.Alarm(ctx, &pb.AlarmRequest{})
	if err != nil || len(alarms.Alarms) != 0 || alarms.Header.Revision != testHeader.Revision {
		t.Errorf("Alarm: %v, %v", alarms, err)
	}
	if _, err := maintenance.Alarm(ctx, &pb.AlarmRequest{Action: 7}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("unknown action: %v", err)
	}
}

// TestHealthService: the server as a whole is SERVING until Shutdown.
func TestHealthService(t *testing.T) {
	s, conn := serve(t, &fake{}, Config{})
	c := grpc_health_v1.NewHealthClient(conn)
	resp, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", resp, err)
	}
	w, err := c.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := w.Recv(); err != nil || resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", resp, err)
	}
	_, err = c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "nope"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("unknown service: %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestConfigFaults: every fault is reported, with its value and bound.
func TestConfigFaults(t *testing.T) {
	_, err := New(&fake{}, Config{MaxRequestBytes: -1, MaxTxnOps: -2, KeepaliveTimeout: -3})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"MaxRequestBytes is -1", "MaxTxnOps is -2", "KeepaliveTimeout is -3ns"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if _, err := New(nil, Config{}); !errors.Is(err, ErrNoBackend) {
		t.Errorf("without a backend: %v", err)
	}
}
