package etcdapi

import (
	"context"
	"net/http"
	"testing"

	"google.golang.org/grpc/metadata"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// behind is a backend as a pass-through to a server that knows its callers: it permits
// everything and tells its status, and any value, only to who has the token "t".
type behind struct{ *accounts }

func (behind) Identify(_ context.Context, c backends.Caller) (backends.Caller, error) { return c, nil }

func (behind) Authorize(context.Context, backends.Caller, backends.Access) error { return nil }

func (b behind) Status(ctx context.Context) (backends.Status, error) {
	if backends.CallerOf(ctx).Token != "t" {
		return backends.Status{}, backends.ErrUserEmpty
	}
	return b.Backend.Status(ctx)
}

// TestStatusOnBehalf: the state of a server that does not tell nobody is asked for in the name of
// who sent the request; that nobody is not told does not make it sick, or leaderless, and a watch
// that is refused is answered all the same.
func TestStatusOnBehalf(t *testing.T) {
	s, conn := serve(t, behind{newAccounts(t)}, Config{})
	known := metadata.AppendToOutgoingContext(t.Context(), "token", "t")
	if _, err := pb.NewMaintenanceClient(conn).Status(known, &pb.StatusRequest{}); err != nil {
		t.Errorf("status with a token: %v", err)
	}
	_, err := pb.NewMaintenanceClient(conn).Status(t.Context(), &pb.StatusRequest{})
	if got := answer(err); got != "nobody" {
		t.Errorf("status without one: %v", err)
	}
	r, err := pb.NewLeaseClient(conn).LeaseTimeToLive(known, &pb.LeaseTimeToLiveRequest{ID: 99})
	if err != nil || r.TTL != -1 {
		t.Errorf("time to live of an unknown lease: %v, %v", r, err)
	}
	leader := metadata.AppendToOutgoingContext(t.Context(), "hasleader", "true")
	if _, err := pb.NewKVClient(conn).Put(leader, &pb.PutRequest{Key: []byte("a")}); err != nil {
		t.Errorf("put that requires a leader, as nobody: %v", err)
	}
	w := openWatchAs(t.Context(), t, conn)
	w.send(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: -1})
	w.want("etcdserver: mvcc: required revision has been compacted")
	for _, path := range []string{"/health", "/livez", "/readyz"} {
		r, err := http.Get("http://" + address(t, s) + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
}
