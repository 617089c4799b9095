package auth

import (
	"maps"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/authpb"

	"github.com/etcdshim/shim/backends"
)

// The user and the role that may do everything.
const (
	rootUser = "root"
	rootRole = "root"
)

// State is users, roles and whether authentication is on, at one auth revision. It
// is immutable, and safe for concurrent use. Its methods take no lock.
type State struct {
	enabled  bool
	revision uint64
	users    map[string]*user
	roles    map[string]*role
}

// user is a user of one or more States in a row. Its record is never changed.
//
// Invariant: in all States that have it the roles it names are the same, so that
// what was merged of them holds in all.
type user struct {
	record *authpb.User
	root   bool
	// merged is made when first asked for.
	merged atomic.Pointer[grants]
}

func newUser(record *authpb.User) *user {
	return &user{record: record, root: slices.Contains(record.Roles, rootRole)}
}

// passwordless tells whether the user was made without a password.
func (u *user) passwordless() bool { return u.record.Options.GetNoPassword() }

// role is a role. Its record is never changed.
type role struct{ record *authpb.Role }

// grants is what a user may read and write.
type grants struct{ read, write ranges }

// Enabled tells whether authentication is on.
func (s *State) Enabled() bool { return s.enabled }

// Revision grows with each change but that of enabling.
func (s *State) Revision() uint64 { return s.revision }

// Read checks the right to read all keys of a range. ErrUserEmpty for a caller who
// did not authenticate, ErrAuthOldRevision for one who did before the last change,
// ErrPermissionDenied. Anybody may while authentication is off.
func (s *State) Read(caller *backends.Caller, keys backends.KeyRange) error {
	g, err := s.grantsOf(caller)
	if err != nil || g == nil || g.read.cover(keys.Key, keys.End) {
		return err
	}
	return backends.ErrPermissionDenied
}

// Write checks the right to write all keys of a range; errors as of Read.
func (s *State) Write(caller *backends.Caller, keys backends.KeyRange) error {
	g, err := s.grantsOf(caller)
	if err != nil || g == nil || g.write.cover(keys.Key, keys.End) {
		return err
	}
	return backends.ErrPermissionDenied
}

// grantsOf returns nil when nothing is refused.
func (s *State) grantsOf(caller *backends.Caller) (*grants, error) {
	switch {
	case !s.enabled:
		return nil, nil
	case caller.AuthRevision == 0:
		return nil, backends.ErrUserEmpty
	case caller.AuthRevision < s.revision:
		return nil, backends.ErrAuthOldRevision
	}
	u := s.users[caller.User]
	switch {
	case u == nil:
		return nil, backends.ErrPermissionDenied
	case u.root:
		return nil, nil
	}
	if g := u.merged.Load(); g != nil {
		return g, nil
	}
	g := s.merge(u)
	u.merged.Store(g)
	return g, nil
}

// merge unites what the roles of a user permit. A role that does not exist, and a
// range without a key, permit nothing.
func (s *State) merge(u *user) *grants {
	var read, write []interval
	for _, name := range u.record.Roles {
		r := s.roles[name]
		if r == nil {
			continue
		}
		for _, p := range r.record.KeyPermission {
			keys, ok := intervalOf(p.Key, p.RangeEnd)
			if !ok {
				continue
			}
			switch p.PermType {
			case authpb.Permission_READ:
				read = append(read, keys)
			case authpb.Permission_WRITE:
				write = append(write, keys)
			case authpb.Permission_READWRITE:
				read, write = append(read, keys), append(write, keys)
			}
		}
	}
	return &grants{union(read), union(write)}
}

// Admin checks that a caller has the role root. ErrUserEmpty, ErrUserNotFound,
// ErrPermissionDenied. The auth revision does not matter, as in etcd.
func (s *State) Admin(caller *backends.Caller) error {
	if !s.enabled {
		return nil
	}
	if caller.User == "" {
		return backends.ErrUserEmpty
	}
	switch u := s.users[caller.User]; {
	case u == nil:
		return backends.ErrUserNotFound
	case !u.root:
		return backends.ErrPermissionDenied
	}
	return nil
}

// Known checks that a caller authenticated. ErrUserEmpty.
func (s *State) Known(caller *backends.Caller) error {
	if s.enabled && caller.User == "" && caller.AuthRevision == 0 {
		return backends.ErrUserEmpty
	}
	return nil
}

// Password returns the hash of a user's password, for Hasher.Matches.
// ErrAuthNotEnabled; ErrAuthFailed for an unknown user, which must take the caller
// as long as a wrong password: compare with a nil hash. ErrNoPasswordUser.
func (s *State) Password(name string) ([]byte, error) {
	u := s.users[name]
	switch {
	case !s.enabled:
		return nil, backends.ErrAuthNotEnabled
	case u == nil:
		return nil, backends.ErrAuthFailed
	case u.passwordless():
		return nil, backends.ErrNoPasswordUser
	}
	return u.record.Password, nil
}

// Login is apply's check of an authentication, whose password was compared at
// caller.AuthRevision before it was proposed. ErrAuthNotEnabled, ErrAuthFailed;
// ErrAuthOldRevision when the password may have been changed since.
func (s *State) Login(caller *backends.Caller) error {
	u := s.users[caller.User]
	switch {
	case !s.enabled:
		return backends.ErrAuthNotEnabled
	case caller.AuthRevision != s.revision:
		return backends.ErrAuthOldRevision
	case u == nil || u.passwordless():
		return backends.ErrAuthFailed
	}
	return nil
}

// UserRoles lists a user's roles for a caller: itself, or one with the role root.
// Errors of Admin, ErrUserNotFound. The list is the caller's.
func (s *State) UserRoles(caller *backends.Caller, name string) ([]string, error) {
	if err := s.Admin(caller); err != nil && name != caller.User {
		return nil, err
	}
	u := s.users[name]
	if u == nil {
		return nil, backends.ErrUserNotFound
	}
	return slices.Clone(u.record.Roles), nil
}

// RolePermissions lists what a role permits for a caller: one who has it, or the
// role root. Errors of Admin, ErrRoleNotFound. What it returns must not be changed.
func (s *State) RolePermissions(caller *backends.Caller, name string) ([]backends.Permission, error) {
	if err := s.Admin(caller); err != nil {
		u := s.users[caller.User]
		if u == nil || !slices.Contains(u.record.Roles, name) {
			return nil, err
		}
	}
	r := s.roles[name]
	if r == nil {
		return nil, backends.ErrRoleNotFound
	}
	if name == rootRole {
		return []backends.Permission{{Kind: backends.PermissionReadWrite, KeyRange: backends.KeyRange{End: []byte{0}}}}, nil
	}
	permissions := make([]backends.Permission, len(r.record.KeyPermission))
	for i, p := range r.record.KeyPermission {
		permissions[i] = backends.Permission{
			Kind: backends.PermissionKind(p.PermType), KeyRange: backends.KeyRange{Key: p.Key, End: p.RangeEnd},
		}
	}
	return permissions, nil
}

// UserNames lists the users, ascending. Errors of Admin.
func (s *State) UserNames(caller *backends.Caller) ([]string, error) {
	if err := s.Admin(caller); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(s.users)), nil
}

// RoleNames lists the roles, ascending. Errors of Admin.
func (s *State) RoleNames(caller *backends.Caller) ([]string, error) {
	if err := s.Admin(caller); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(s.roles)), nil
}
