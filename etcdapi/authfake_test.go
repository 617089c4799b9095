package etcdapi

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

// accounts is a memory backend with authentication: a user's token is "token-" and its
// name, "root" has the role root, and everybody may watch what lies below "/" and its
// name, and nothing else. What it was asked about users and roles it notes and does not do.
type accounts struct {
	*memory.Backend
	on         atomic.Bool
	identified atomic.Int64

	mu    sync.Mutex
	asked string // the last call about users and roles
	fails error  // what such calls answer
}

func newAccounts(t *testing.T) *accounts {
	a := &accounts{Backend: newMemory(t)}
	a.on.Store(true)
	return a
}

// as is a context with the token of a user; of nobody without one.
func as(ctx context.Context, user string) context.Context {
	if user == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "token", "token-"+user)
}

func (a *accounts) note(caller backends.Caller, format string, args ...any) (backends.Header, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = caller.User + " " + fmt.Sprintf(format, args...)
	return testHeader, a.fails
}

// fail sets what the calls about users and roles answer from now on.
func (a *accounts) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fails = err
}

func (a *accounts) last() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

func (a *accounts) AuthEnabled() bool { return a.on.Load() }

func (a *accounts) Identify(_ context.Context, c backends.Caller) (backends.Caller, error) {
	a.identified.Add(1)
	name, ok := strings.CutPrefix(c.Token, "token-")
	switch {
	case c.Token == "" && !c.Certified:
		return c, nil
	case c.Token == "":
		c.User = c.CertName
	case !ok:
		return backends.Caller{}, backends.ErrInvalidAuthToken
	default:
		c.User = name
	}
	c.AuthRevision = 7
	return c, nil
}

func (a *accounts) Authorize(_ context.Context, c backends.Caller, access backends.Access) error {
	switch {
	case c.User == "":
		return backends.ErrUserEmpty
	case access == backends.AccessAdmin && c.User != "root":
		return backends.ErrPermissionDenied
	}
	return nil
}

func (a *accounts) may(c backends.Caller, keys backends.KeyRange) error {
	switch {
	case !a.on.Load() || c.User == "root":
		return nil
	case c.User == "":
		return backends.ErrUserEmpty
	case !strings.HasPrefix(string(keys.Key), "/"+c.User):
		return backends.ErrPermissionDenied
	}
	return nil
}

func (a *accounts) Range(ctx context.Context, r *backends.RangeRequest) (backends.Cursor, error) {
	if err := a.may(r.Caller, r.KeyRange); err != nil {
		return nil, err
	}
	return a.Backend.Range(ctx, r)
}

// Watch opens a stream whose watches are created, or refused, and see nothing.
func (a *accounts) Watch(context.Context, backends.Caller) (backends.WatchStream, error) {
	return &accountsWatch{accounts: a, batches: make(chan backends.WatchBatch, 100), closed: make(chan struct{})}, nil
}

type accountsWatch struct {
	accounts *accounts
	batches  chan backends.WatchBatch
	closed   chan struct{}
}

func (w *accountsWatch) Add(_ context.Context, r *backends.WatchRequest) error {
	b := backends.WatchBatch{Kind: backends.WatchCreated, IDs: []int64{r.ID}, Header: testHeader}
	if err := w.accounts.may(r.Caller, r.KeyRange); err != nil {
		b.Kind, b.Reason = backends.WatchCanceled, err
	}
	w.batches <- b
	return nil
}

func (w *accountsWatch) Cancel(id int64) {
	w.batches <- backends.WatchBatch{Kind: backends.WatchCanceled, IDs: []int64{id}, Header: testHeader}
}

func (w *accountsWatch) Progress(int64) {}

func (w *accountsWatch) Next(ctx context.Context) (backends.WatchBatch, error) {
	select {
	case b := <-w.batches:
		return b, nil
	case <-w.closed:
		return backends.WatchBatch{}, backends.ErrStopped
	case <-ctx.Done():
		return backends.WatchBatch{}, ctx.Err()
	}
}

func (w *accountsWatch) Close() { close(w.closed) }

func (a *accounts) AuthStatus(_ context.Context, c backends.Caller) (backends.AuthStatusResult, error) {
	h, err := a.note(c, "status")
	return backends.AuthStatusResult{Header: h, Enabled: a.on.Load(), AuthRevision: 7}, err
}

func (a *accounts) AuthEnable(_ context.Context, c backends.Caller) (backends.Header, error) {
	return a.note(c, "enable")
}

func (a *accounts) AuthDisable(_ context.Context, c backends.Caller) (backends.Header, error) {
	return a.note(c, "disable")
}

func (a *accounts) Authenticate(_ context.Context, c backends.Caller, name, password string) (backends.AuthenticateResult, error) {
	h, err := a.note(c, "authenticate %q %q", name, password)
	return backends.AuthenticateResult{Header: h, Token: "token-" + name}, err
}

func (a *accounts) UserAdd(_ context.Context, r *backends.UserAddRequest) (backends.Header, error) {
	return a.note(r.Caller, "user add %q %q %q %t", r.Name, r.Password, r.HashedPassword, r.NoPassword)
}

func (a *accounts) UserGet(_ context.Context, c backends.Caller, name string) (backends.UserGetResult, error) {
	h, err := a.note(c, "user get %q", name)
	return backends.UserGetResult{Header: h, Roles: []string{"r1", "r2"}}, err
}

func (a *accounts) UserList(_ context.Context, c backends.Caller) (backends.NamesResult, error) {
	h, err := a.note(c, "user list")
	return backends.NamesResult{Header: h, Names: []string{"u1", "u2"}}, err
}

func (a *accounts) UserDelete(_ context.Context, c backends.Caller, name string) (backends.Header, error) {
	return a.note(c, "user delete %q", name)
}

func (a *accounts) UserChangePassword(_ context.Context, r *backends.UserChangePasswordRequest) (backends.Header, error) {
	return a.note(r.Caller, "user change password %q %q %q", r.Name, r.Password, r.HashedPassword)
}

func (a *accounts) UserGrantRole(_ context.Context, c backends.Caller, user, role string) (backends.Header, error) {
	return a.note(c, "user grant role %q %q", user, role)
}

func (a *accounts) UserRevokeRole(_ context.Context, c backends.Caller, user, role string) (backends.Header, error) {
	return a.note(c, "user revoke role %q %q", user, role)
}

func (a *accounts) RoleAdd(_ context.Context, c backends.Caller, name string) (backends.Header, error) {
	return a.note(c, "role add %q", name)
}

func (a *accounts) RoleGet(_ context.Context, c backends.Caller, name string) (backends.RoleGetResult, error) {
	h, err := a.note(c, "role get %q", name)
	return backends.RoleGetResult{Header: h, Permissions: []backends.Permission{
		{Kind: backends.PermissionReadWrite, KeyRange: backends.KeyRange{Key: []byte("a"), End: []byte("b")}},
		{Kind: backends.PermissionWrite, KeyRange: backends.KeyRange{Key: []byte("c")}},
	}}, err
}

func (a *accounts) RoleList(_ context.Context, c backends.Caller) (backends.NamesResult, error) {
	h, err := a.note(c, "role list")
	return backends.NamesResult{Header: h, Names: []string{"r1", "r2"}}, err
}

func (a *accounts) RoleDelete(_ context.Context, c backends.Caller, name string) (backends.Header, error) {
	return a.note(c, "role delete %q", name)
}

func (a *accounts) RoleGrantPermission(_ context.Context, c backends.Caller, role string, p *backends.Permission) (backends.Header, error) {
	if p == nil {
		return a.note(c, "role grant permission %q nil", role)
	}
	return a.note(c, "role grant permission %q %d %q %q", role, p.Kind, p.Key, p.End)
}

func (a *accounts) RoleRevokePermission(_ context.Context, c backends.Caller, role string, keys backends.KeyRange) (backends.Header, error) {
	return a.note(c, "role revoke permission %q %q %q", role, keys.Key, keys.End)
}
