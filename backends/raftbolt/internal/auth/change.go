package auth

import (
	"bytes"
	"maps"
	"slices"
	"sort"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

// ChangeKind is a kind of Change. The numbers are part of the log's format: they
// are never used again.
type ChangeKind byte

// The kinds of Change, with the fields that they use.
const (
	Enable       ChangeKind = 1
	Disable      ChangeKind = 2
	UserAdd      ChangeKind = 3  // User, Password, NoPassword
	UserDelete   ChangeKind = 4  // User
	UserPassword ChangeKind = 5  // User, Password, BadPassword
	UserGrant    ChangeKind = 6  // User, Role
	UserRevoke   ChangeKind = 7  // User, Role
	RoleAdd      ChangeKind = 8  // Role
	RoleDelete   ChangeKind = 9  // Role
	RoleGrant    ChangeKind = 10 // Role, Permission
	RoleRevoke   ChangeKind = 11 // Role, Keys
)

// Valid tells whether this program knows the kind.
func (k ChangeKind) Valid() bool { return k >= Enable && k <= RoleRevoke }

// String is the kind as logs have it.
func (k ChangeKind) String() string {
	names := [...]string{Enable: "enable", Disable: "disable", UserAdd: "user add", UserDelete: "user delete", UserPassword: "user password",
		UserGrant: "user grant role", UserRevoke: "user revoke role", RoleAdd: "role add", RoleDelete: "role delete",
		RoleGrant: "role grant permission", RoleRevoke: "role revoke permission"}
	if !k.Valid() {
		return "unknown"
	}
	return names[k]
}

// maxNameBytes bounds the name of a user or a role, which is a key of the store's
// file: bbolt takes none that is longer.
const maxNameBytes = 32768

// Change is one thing that an administrator asks for. Only what its kind says is
// looked at.
type Change struct {
	Kind ChangeKind
	User string
	Role string
	// Password is bcrypt's hash.
	Password []byte
	// NoPassword makes a user who cannot log in by password.
	NoPassword bool
	// BadPassword: the client sent a hash that is not base64, which etcd finds out
	// at apply, after all else.
	BadPassword bool
	// Permission is nil when the client gave none.
	Permission *backends.Permission
	Keys       backends.KeyRange
}

// Outcome is what a Change makes.
type Outcome struct {
	// State is the next one, or the present one when nothing changed.
	State *State
	// Writes are to be committed before State is published.
	Writes []Write
	// EndUser is a user whose tokens end; EndAll ends every token.
	EndUser string
	EndAll  bool
}

// Apply makes a change for a caller. Its errors are etcd's, in etcd's order: those
// of Admin, then of what the change asks for. Beside them ErrRequestTooLarge refuses a
// name that is too long to be a key of the store, of which etcd stops, and
// ErrInvalidAuthMgmt one that is not UTF-8, which no client can send.
func (s *State) Apply(caller *backends.Caller, c *Change) (Outcome, error) {
	if err := s.Admin(caller); err != nil {
		return Outcome{}, err
	}
	if !utf8.ValidString(c.User) || !utf8.ValidString(c.Role) {
		return Outcome{}, backends.ErrInvalidAuthMgmt
	}
	e := edit{now: s, next: &State{enabled: s.enabled, revision: s.revision, users: s.users, roles: s.roles}}
	changed, err := e.apply(c)
	if err != nil {
		return Outcome{}, err
	}
	if !changed {
		return Outcome{State: s}, nil
	}
	if c.Kind != Enable {
		e.next.revision++
		e.out.Writes = append(e.out.Writes, writeRevision(e.next.revision))
	}
	e.out.State = e.next
	return e.out, nil
}

// edit is a Change under way.
type edit struct {
	now, next *State
	out       Outcome
	// ownUsers and ownRoles tell that the table is next's own, and not now's.
	ownUsers, ownRoles bool
}

func (e *edit) apply(c *Change) (changed bool, err error) {
	switch c.Kind {
	case Enable:
		return e.enable()
	case Disable:
		return e.disable(), nil
	case UserAdd:
		return true, e.userAdd(c)
	case UserDelete:
		return true, e.userDelete(c.User)
	case UserPassword:
		return true, e.userPassword(c)
	case UserGrant:
		return e.userGrant(c.User, c.Role)
	case UserRevoke:
		return true, e.userRevoke(c.User, c.Role)
	case RoleAdd:
		return true, e.roleAdd(c.Role)
	case RoleDelete:
		return true, e.roleDelete(c.Role)
	case RoleGrant:
		return true, e.roleGrant(c.Role, c.Permission)
	case RoleRevoke:
		return true, e.roleRevoke(c.Role, c.Keys)
	}
	return false, backends.ErrInvalidAuthMgmt // the decoder refuses it before
}

func (e *edit) enable() (changed bool, err error) {
	if e.now.enabled {
		return false, nil
	}
	switch u := e.now.users[rootUser]; {
	case u == nil:
		return false, backends.ErrRootUserNotExist
	case !u.root:
		return false, backends.ErrRootRoleNotExist
	}
	e.next.enabled = true
	e.out.Writes = append(e.out.Writes, writeEnabled(true))
	return true, nil
}

func (e *edit) disable() (changed bool) {
	if !e.now.enabled {
		return false
	}
	e.next.enabled = false
	e.out.EndAll = true
	e.out.Writes = append(e.out.Writes, writeEnabled(false))
	return true
}

func (e *edit) userAdd(c *Change) error {
	switch {
	case c.User == "":
		return backends.ErrUserEmpty
	case e.now.users[c.User] != nil:
		return backends.ErrUserAlreadyExist
	case len(c.User) > maxNameBytes:
		return backends.ErrRequestTooLarge
	}
	record := &authpb.User{Name: []byte(c.User), Options: &authpb.UserAddOptions{NoPassword: c.NoPassword}}
	if !c.NoPassword {
		record.Password = bytes.Clone(c.Password)
	}
	return e.putUser(record)
}

func (e *edit) userDelete(name string) error {
	if e.now.enabled && name == rootUser {
		return backends.ErrInvalidAuthMgmt
	}
	if e.now.users[name] == nil {
		return backends.ErrUserNotFound
	}
	e.users()
	delete(e.next.users, name)
	e.out.EndUser = name
	e.out.Writes = append(e.out.Writes, Write{Users, []byte(name), nil})
	return nil
}

func (e *edit) userPassword(c *Change) error {
	u := e.now.users[c.User]
	if u == nil {
		return backends.ErrUserNotFound
	}
	record := &authpb.User{Name: u.record.Name, Roles: u.record.Roles, Options: u.record.Options}
	if !u.passwordless() {
		if c.BadPassword {
			return backends.ErrNoPasswordUser
		}
		record.Password = bytes.Clone(c.Password)
	}
	e.out.EndUser = c.User
	return e.putUser(record)
}

// userGrant does nothing for a user who has the role. The role root need not exist.
func (e *edit) userGrant(name, role string) (changed bool, err error) {
	u := e.now.users[name]
	switch {
	case u == nil:
		return false, backends.ErrUserNotFound
	case role != rootRole && e.now.roles[role] == nil:
		return false, backends.ErrRoleNotFound
	case slices.Contains(u.record.Roles, role):
		return false, nil
	}
	roles := append(slices.Clone(u.record.Roles), role)
	slices.Sort(roles)
	return true, e.putUser(withRoles(u, roles))
}

func (e *edit) userRevoke(name, role string) error {
	if e.now.enabled && name == rootUser && role == rootRole {
		return backends.ErrInvalidAuthMgmt
	}
	u := e.now.users[name]
	switch {
	case u == nil:
		return backends.ErrUserNotFound
	case !slices.Contains(u.record.Roles, role):
		return backends.ErrRoleNotGranted
	}
	return e.putUser(withRoles(u, without(u.record.Roles, role)))
}

func (e *edit) roleAdd(name string) error {
	switch {
	case name == "":
		return backends.ErrRoleEmpty
	case e.now.roles[name] != nil:
		return backends.ErrRoleAlreadyExist
	case len(name) > maxNameBytes:
		return backends.ErrRequestTooLarge
	}
	return e.putRole(&authpb.Role{Name: []byte(name)})
}

// roleDelete takes the role from every user, too.
func (e *edit) roleDelete(name string) error {
	if e.now.enabled && name == rootRole {
		return backends.ErrInvalidAuthMgmt
	}
	if e.now.roles[name] == nil {
		return backends.ErrRoleNotFound
	}
	e.roles()
	delete(e.next.roles, name)
	e.out.Writes = append(e.out.Writes, Write{Roles, []byte(name), nil})
	for _, userName := range slices.Sorted(maps.Keys(e.now.users)) {
		u := e.now.users[userName]
		if !slices.Contains(u.record.Roles, name) {
			continue
		}
		if err := e.putUser(withRoles(u, without(u.record.Roles, name))); err != nil {
			return err
		}
	}
	return nil
}

// roleGrant changes the kind of a permission on the same range only where etcd
// does: see the package's text.
func (e *edit) roleGrant(name string, p *backends.Permission) error {
	switch {
	case p == nil:
		return backends.ErrPermissionNotGiven
	case !validRange(p.KeyRange):
		return backends.ErrInvalidAuthMgmt
	case e.now.roles[name] == nil:
		return backends.ErrRoleNotFound
	}
	record := e.now.roles[name].record
	kind := authpb.Permission_Type(p.Kind)
	permissions := slices.Clone(record.KeyPermission)
	granted := &authpb.Permission{PermType: kind, Key: bytes.Clone(p.Key), RangeEnd: bytes.Clone(p.End)}
	i := sort.Search(len(permissions), func(i int) bool { return bytes.Compare(permissions[i].Key, p.Key) >= 0 })
	if i < len(permissions) && bytes.Equal(permissions[i].Key, p.Key) && bytes.Equal(permissions[i].RangeEnd, p.End) {
		permissions[i] = granted
	} else {
		permissions = append(permissions, granted)
		// The order of those with one key is that of Go's sort, as in etcd.
		sort.Sort(byKey(permissions))
	}
	return e.replaceRole(&authpb.Role{Name: record.Name, KeyPermission: permissions})
}

type byKey []*authpb.Permission

func (p byKey) Len() int           { return len(p) }
func (p byKey) Less(i, j int) bool { return bytes.Compare(p[i].Key, p[j].Key) < 0 }
func (p byKey) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

func (e *edit) roleRevoke(name string, keys backends.KeyRange) error {
	if e.now.roles[name] == nil {
		return backends.ErrRoleNotFound
	}
	record := e.now.roles[name].record
	kept := make([]*authpb.Permission, 0, len(record.KeyPermission))
	for _, p := range record.KeyPermission {
		if !bytes.Equal(p.Key, keys.Key) || !bytes.Equal(p.RangeEnd, keys.End) {
			kept = append(kept, p)
		}
	}
	if len(kept) == len(record.KeyPermission) {
		return backends.ErrPermissionNotGranted
	}
	return e.replaceRole(&authpb.Role{Name: record.Name, KeyPermission: kept})
}

// users gives the next State a table of users of its own; roles one of roles.
func (e *edit) users() {
	if !e.ownUsers {
		e.next.users, e.ownUsers = maps.Clone(e.now.users), true
	}
}

func (e *edit) roles() {
	if !e.ownRoles {
		e.next.roles, e.ownRoles = maps.Clone(e.now.roles), true
	}
}

func (e *edit) putUser(record *authpb.User) error {
	e.users()
	e.next.users[string(record.Name)] = newUser(record)
	return e.write(Users, record.Name, record)
}

func (e *edit) putRole(record *authpb.Role) error {
	e.roles()
	e.next.roles[string(record.Name)] = &role{record}
	return e.write(Roles, record.Name, record)
}

// replaceRole also makes those who have the role merge it anew.
func (e *edit) replaceRole(record *authpb.Role) error {
	e.users()
	for name, u := range e.next.users {
		if slices.Contains(u.record.Roles, string(record.Name)) {
			e.next.users[name] = newUser(u.record)
		}
	}
	return e.putRole(record)
}

func (e *edit) write(b Bucket, key []byte, record proto.Message) error {
	value, err := encode(record)
	if err != nil {
		return err
	}
	e.out.Writes = append(e.out.Writes, Write{b, bytes.Clone(key), value})
	return nil
}

func withRoles(u *user, roles []string) *authpb.User {
	return &authpb.User{Name: u.record.Name, Password: u.record.Password, Roles: roles, Options: u.record.Options}
}

func without(roles []string, role string) []string {
	var kept []string
	for _, r := range roles {
		if r != role {
			kept = append(kept, r)
		}
	}
	return kept
}
