package etcdapi

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"

	"github.com/etcdshim/shim/backends"
)

// TestHolderGoneWhileItLocksAgain: a client that holds a lock and goes away while it asks for it
// once more goes on to hold it: the key is of the first time, which was answered.
func TestHolderGoneWhileItLocksAgain(t *testing.T) {
	u := newTurns(t)
	lease := u.grant()
	_, err := u.server.lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("a"), Lease: lease})
	u.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	u.backend.afterTxn = cancel
	_, err = u.server.lock(ctx, &v3lockpb.LockRequest{Name: []byte("a"), Lease: lease})
	if ctx.Err() == nil || err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, cancelled: %v", err, ctx.Err())
	}
	if keys := u.keys("a"); len(keys) != 1 {
		t.Errorf("keys: %q", keys)
	}
}

// expiring is accounts whose tokens end when the next transaction was made.
type expiring struct {
	*accounts
	armed, ended atomic.Bool
	after        sync.Once // calls then
	then         func()
}

func (e *expiring) Identify(ctx context.Context, c backends.Caller) (backends.Caller, error) {
	if e.ended.Load() {
		return backends.Caller{}, backends.ErrInvalidAuthToken
	}
	return e.accounts.Identify(ctx, c)
}

func (e *expiring) Txn(ctx context.Context, r *backends.TxnRequest) (*backends.TxnResult, error) {
	res, err := e.accounts.Txn(ctx, r)
	if e.armed.Load() {
		e.after.Do(func() {
			e.ended.Store(true)
			e.then()
		})
	}
	return res, err
}

// TestTokenEndsWhileWaiting: a caller whose token ended while it waits is refused when its turn has
// come, or goes away before that. Either way its key, which would hold up those behind it as long
// as its lease is renewed, is deleted in the name that it had. (etcd 3.7.3 leaves it: it deletes the
// key in the name of nobody.)
func TestTokenEndsWhileWaiting(t *testing.T) {
	name := []byte("/me")
	for what, call := range map[string]func(*Server, context.Context, int64) error{
		"lock": func(s *Server, ctx context.Context, lease int64) error {
			_, err := s.lock(ctx, &v3lockpb.LockRequest{Name: name, Lease: lease})
			return err
		},
		"candidate": func(s *Server, ctx context.Context, lease int64) error {
			_, err := s.campaign(ctx, &v3electionpb.CampaignRequest{Name: name, Lease: lease})
			return err
		},
	} {
		for _, goes := range []bool{true, false} {
			t.Run(what, func(t *testing.T) {
				b := &expiring{accounts: newAccounts(t)}
				s, _ := serve(t, b, Config{})
				ctx, cancel := context.WithCancel(metadata.NewIncomingContext(t.Context(), metadata.Pairs("token", "token-me")))
				defer cancel()
				b.then = func() {
					if goes {
						cancel()
					}
				}
				for lease := range int64(2) {
					if _, err := b.LeaseGrant(ctx, backends.Caller{}, lease+1, 600); err != nil {
						t.Fatal(err)
					}
				}
				if err := call(s, ctx, 1); err != nil { // it is first
					t.Fatal(err)
				}
				b.armed.Store(true)
				err := call(s, ctx, 2)
				switch {
				case goes && !errors.Is(err, context.Canceled):
					t.Errorf("who went away got %v", err)
				case !goes && status.Convert(err).Message() != "etcdserver: invalid auth token":
					t.Errorf("who stayed got %v", err)
				}
				b.ended.Store(false)
				keys, err := b.LeaseTimeToLive(t.Context(), backends.Caller{}, 2, true)
				if err != nil {
					t.Fatal(err)
				}
				// A candidate that is refused keeps its place, as in etcd.
				if left := len(keys.Keys); left != 0 && (goes || what == "lock") {
					t.Errorf("keys left: %q", keys.Keys)
				}
			})
		}
	}
}
