package raftbolt

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
)

var _ backends.Auth = (*Backend)(nil)

// AuthEnabled implements backends.Auth.
func (b *Backend) AuthEnabled() bool { return b.machine.auth.Load().Enabled() }

// Identify implements backends.Auth. A simple token that was assigned by an entry
// which is not applied here yet waits for it, at most as long as a read does.
func (b *Backend) Identify(ctx context.Context, caller backends.Caller) (backends.Caller, error) {
	s := b.machine.auth.Load()
	if !s.Enabled() {
		return caller, nil
	}
	if caller.Token == "" {
		if caller.Certified {
			caller.User, caller.AuthRevision = caller.CertName, s.Revision()
		}
		return caller, nil
	}
	tokens := b.machine.tokens
	id, err := tokens.Identify(caller.Token, b.env.Clock.Now())
	if err != nil {
		if index, ok := tokens.AssignedAt(caller.Token); ok && index > b.node.Status().Applied {
			// If another member gave it, its entry is committed, and is applied here once this
			// member has what was committed by now.
			if err := b.readIndex(ctx); err != nil {
				return caller, err
			}
			s = b.machine.auth.Load()
			id, err = tokens.Identify(caller.Token, b.env.Clock.Now())
		}
	}
	if err != nil {
		b.env.Logger.Warn("invalid auth token", zap.String("token-fingerprint", auth.Fingerprint(caller.Token)))
		return caller, err
	}
	if !tokens.Signed() {
		id.Revision = s.Revision()
	}
	caller.User, caller.AuthRevision = id.User, id.Revision
	return caller, nil
}

// Authorize implements backends.Auth.
func (b *Backend) Authorize(_ context.Context, caller backends.Caller, access backends.Access) error {
	s := b.machine.auth.Load()
	switch access {
	case backends.AccessUser:
		return s.Known(&caller)
	case backends.AccessAdmin:
		return s.Admin(&caller)
	}
	return backends.ErrPermissionDenied
}

// authState waits until users and roles reflect every acknowledged change.
func (b *Backend) authState(ctx context.Context) (*auth.State, error) {
	if err := b.readIndex(ctx); err != nil {
		return nil, err
	}
	return b.machine.auth.Load(), nil
}

// AuthStatus implements backends.Auth.
func (b *Backend) AuthStatus(ctx context.Context, _ backends.Caller) (backends.AuthStatusResult, error) {
	s, err := b.authState(ctx)
	if err != nil {
		return backends.AuthStatusResult{}, err
	}
	return backends.AuthStatusResult{Header: b.header(b.store.Committed()), Enabled: s.Enabled(), AuthRevision: s.Revision()}, nil
}

// Authenticate implements backends.Auth. The password is compared here, and not where
// the authentication is applied; should users or roles change in between, it is
// compared again. Only the name and a random part of the token go into the log.
func (b *Backend) Authenticate(ctx context.Context, _ backends.Caller, name, password string) (backends.AuthenticateResult, error) {
	for {
		s, err := b.authState(ctx)
		if err != nil {
			return backends.AuthenticateResult{}, err
		}
		if err := b.checkPassword(ctx, s, name, password); err != nil {
			return backends.AuthenticateResult{}, err
		}
		prefix, err := b.machine.tokens.Prefix(rand.Reader)
		if err != nil {
			return backends.AuthenticateResult{}, err
		}
		checked := backends.Caller{User: name, AuthRevision: s.Revision()}
		out, err := b.propose(ctx, &command{kind: kindAuthenticate, caller: checked, token: prefix})
		if errors.Is(err, backends.ErrAuthOldRevision) {
			continue
		}
		if err != nil {
			return backends.AuthenticateResult{}, err
		}
		token, err := b.machine.tokens.Give(name, s.Revision(), prefix, out.index, b.env.Clock.Now())
		if err != nil {
			return backends.AuthenticateResult{}, err
		}
		return backends.AuthenticateResult{Header: b.headerOf(out), Token: token}, nil
	}
}

// maxLoggedName bounds a name in the log, in bytes: who has no account chooses it,
// and may send as much as a request holds.
const maxLoggedName = 256

// checkPassword takes as long for a user that does not exist as for a wrong password.
func (b *Backend) checkPassword(ctx context.Context, s *auth.State, name, password string) error {
	hash, refusal := s.Password(name)
	switch {
	case errors.Is(refusal, backends.ErrAuthNotEnabled):
		return refusal
	case refusal == nil, errors.Is(refusal, backends.ErrAuthFailed):
		ok, err := b.hasher.Matches(ctx, hash, password)
		if err != nil {
			return err
		}
		if !ok {
			refusal = backends.ErrAuthFailed
		}
	}
	if refusal != nil {
		b.env.Logger.Warn("invalid authentication was requested",
			zap.String("user", strings.ToValidUTF8(name[:min(len(name), maxLoggedName)], "")), zap.Error(refusal))
	}
	return refusal
}

// AuthEnable implements backends.Auth.
func (b *Backend) AuthEnable(ctx context.Context, caller backends.Caller) (backends.Header, error) {
	return b.changeAuth(ctx, &caller, &auth.Change{Kind: auth.Enable})
}

// AuthDisable implements backends.Auth.
func (b *Backend) AuthDisable(ctx context.Context, caller backends.Caller) (backends.Header, error) {
	return b.changeAuth(ctx, &caller, &auth.Change{Kind: auth.Disable})
}

// changeAuth proposes a change. What it may and may not is decided where it is applied.
func (b *Backend) changeAuth(ctx context.Context, caller *backends.Caller, c *auth.Change) (backends.Header, error) {
	out, err := b.propose(ctx, &command{kind: kindAuthChange, caller: identity(caller), change: c})
	if err != nil {
		return backends.Header{}, err
	}
	return b.headerOf(out), nil
}

// UserAdd implements backends.Auth.
func (b *Backend) UserAdd(ctx context.Context, req *backends.UserAddRequest) (backends.Header, error) {
	c := &auth.Change{Kind: auth.UserAdd, User: req.Name, NoPassword: req.NoPassword}
	if !req.NoPassword {
		var err error
		if c.Password, err = b.hash(ctx, &req.Caller, req.Password); err != nil {
			return backends.Header{}, err
		}
	}
	return b.changeAuth(ctx, &req.Caller, c)
}

// UserChangePassword implements backends.Auth.
func (b *Backend) UserChangePassword(ctx context.Context, req *backends.UserChangePasswordRequest) (backends.Header, error) {
	c := &auth.Change{Kind: auth.UserPassword, User: req.Name}
	var err error
	if req.Password != "" {
		if c.Password, err = b.hash(ctx, &req.Caller, req.Password); err != nil {
			return backends.Header{}, err
		}
	} else if c.Password, err = base64.StdEncoding.DecodeString(req.HashedPassword); err != nil {
		c.Password, c.BadPassword = nil, true
	}
	return b.changeAuth(ctx, &req.Caller, c)
}

// hash hashes a password for a caller who may set one: nobody else shall keep a
// processor busy with it.
func (b *Backend) hash(ctx context.Context, caller *backends.Caller, password string) ([]byte, error) {
	if len(password) > auth.MaxPasswordBytes {
		return nil, backends.ErrPasswordTooLong
	}
	s, err := b.authState(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Admin(caller); err != nil {
		return nil, err
	}
	return b.hasher.Hash(ctx, password)
}

// UserGet implements backends.Auth.
func (b *Backend) UserGet(ctx context.Context, caller backends.Caller, name string) (backends.UserGetResult, error) {
	s, err := b.authState(ctx)
	if err != nil {
		return backends.UserGetResult{}, err
	}
	roles, err := s.UserRoles(&caller, name)
	if err != nil {
		return backends.UserGetResult{}, err
	}
	return backends.UserGetResult{Header: b.header(b.store.Committed()), Roles: roles}, nil
}

// UserList implements backends.Auth.
func (b *Backend) UserList(ctx context.Context, caller backends.Caller) (backends.NamesResult, error) {
	return b.names(ctx, &caller, (*auth.State).UserNames)
}

// RoleList implements backends.Auth.
func (b *Backend) RoleList(ctx context.Context, caller backends.Caller) (backends.NamesResult, error) {
	return b.names(ctx, &caller, (*auth.State).RoleNames)
}

func (b *Backend) names(ctx context.Context, caller *backends.Caller, list func(*auth.State, *backends.Caller) ([]string, error)) (backends.NamesResult, error) {
	s, err := b.authState(ctx)
	if err != nil {
		return backends.NamesResult{}, err
	}
	names, err := list(s, caller)
	if err != nil {
		return backends.NamesResult{}, err
	}
	return backends.NamesResult{Header: b.header(b.store.Committed()), Names: names}, nil
}

// UserDelete implements backends.Auth.
func (b *Backend) UserDelete(ctx context.Context, caller backends.Caller, name string) (backends.Header, error) {
	return b.changeAuth(ctx, &caller, &auth.Change{Kind: auth.UserDelete, User: name})
}

// UserGrantRole implements backends.Auth.
func (b *Backend) UserGrantRole(ctx context.Context, caller backends.Caller, user, role string) (backends.Header, error) {
	return b.changeAuth(ctx, &caller, &auth.Change{Kind: auth.UserGrant, User: user, Role: role})
}

// UserRevokeRole implements backends.Auth.
func (b *Backend) UserRevokeRole(ctx context.Context, caller backends.Caller, user, role string) (backends.Header, error) {
	return b.changeAuth(ctx, &caller, &auth.Change{Kind: auth.UserRevoke, User: user, Role: role})
}

// RoleAdd implements backends.Auth.
func (b *Backend) RoleAdd(ctx context.Context, caller backends.Caller, name string) (backends.Header, error) {
	return b.changeAuth(ctx, &caller, &auth.Change{Kind: auth.RoleAdd, Role: name})
}

// RoleGet implements backends.Auth.
func (b *Backend) RoleGet(ctx context.Context, caller backends.Caller, name string) (backends.RoleGetResult, error) {
	s, err := b.authState(ctx)
	if err != nil {
		return backends.RoleGetResult{}, err
	}
	permissions, err := s.RolePermissions(&caller, name)
	if err != nil {
		return backends.RoleGetResult{}, err
	}
	return backends.RoleGetResult{Header: b.header(b.store.Committed()), Permissions: permissions}, nil
}

// RoleDelete implements backends.Auth.
func (b *Backend) RoleDelete(ctx context.Context, caller backends.Caller, name string) (backends.Header, error) {
	return b.changeAuth(ctx, &caller, &auth.Change{Kind: auth.RoleDelete, Role: name})
}

// RoleGrantPermission implements backends.Auth.
func (b *Backend) RoleGrantPermission(ctx context.Context, caller backends.Caller, role string, permission *backends.Permission) (backends.Header, error) {
	return b.changeAuth(ctx, &caller, &auth.Change{Kind: auth.RoleGrant, Role: role, Permission: permission})
}

// RoleRevokePermission implements backends.Auth.
func (b *Backend) RoleRevokePermission(ctx context.Context, caller backends.Caller, role string, keys backends.KeyRange) (backends.Header, error) {
	return b.changeAuth(ctx, &caller, &auth.Change{Kind: auth.RoleRevoke, Role: role, Keys: keys})
}
