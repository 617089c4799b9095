package backends

import "context"

// Auth keeps users, roles and what the roles permit, as etcd does. While it is
// enabled, every method of a backend checks its Caller against the keys it is about,
// nested operations, previous records and attached leases included, and answers
// ErrPermissionDenied, ErrUserEmpty or ErrAuthOldRevision. What concerns no key (compaction,
// granting a lease, maintenance, membership) is checked by the front through Authorize, before
// the backend is called. The methods below from AuthEnable on check their Caller where they
// take effect, before anything else: all but Authenticate need the role root, as Authorize
// would demand it.
type Auth interface {
	// AuthEnabled tells whether callers are looked at: false while authentication is off. It
	// is asked for every request, so it takes no lock. A pass-through, which does not know,
	// answers true.
	AuthEnabled() bool
	// Identify tells who a caller is: it takes the Token or, without one, the CertName if Certified, and
	// returns the Caller with User and AuthRevision set. It is called once for each request,
	// and for each message of a stream of requests, and what it returned goes to the backend.
	// It takes no lock that a writer holds for long. While authentication is off, and of a
	// caller with neither, it returns the caller as it is. ErrInvalidAuthToken. A pass-through
	// returns the caller as it is.
	Identify(ctx context.Context, caller Caller) (Caller, error)
	// Authorize checks what is about no key. ErrUserEmpty, ErrPermissionDenied, and
	// ErrUserNotFound for AccessAdmin when the user was deleted. Like etcd's (auth/store.go,
	// IsAdminPermitted) it does not mind an old revision. A pass-through permits everything,
	// since the server behind it decides.
	Authorize(ctx context.Context, caller Caller, access Access) error

	// AuthStatus tells whether authentication is on. It needs no permission.
	AuthStatus(ctx context.Context, caller Caller) (AuthStatusResult, error)
	// AuthEnable turns authentication on. ErrRootUserNotExist, ErrRootRoleNotExist.
	AuthEnable(ctx context.Context, caller Caller) (Header, error)
	// AuthDisable turns it off.
	AuthDisable(ctx context.Context, caller Caller) (Header, error)
	// Authenticate gives a token for a name and its password; neither is kept or
	// logged. The caller's own token does not matter. ErrAuthNotEnabled, ErrAuthFailed (one for
	// an unknown user and for a wrong password), ErrNoPasswordUser (auth/store.go, CheckPassword).
	Authenticate(ctx context.Context, caller Caller, name, password string) (AuthenticateResult, error)

	// UserAdd makes a user. ErrUserEmpty, ErrUserAlreadyExist.
	UserAdd(ctx context.Context, req *UserAddRequest) (Header, error)
	// UserGet lists a user's roles, in ascending order. A user may ask for itself. ErrUserNotFound.
	UserGet(ctx context.Context, caller Caller, name string) (UserGetResult, error)
	// UserList lists the users, in ascending order.
	UserList(ctx context.Context, caller Caller) (NamesResult, error)
	// UserDelete deletes a user. ErrUserNotFound, ErrInvalidAuthMgmt for root while authentication is on.
	UserDelete(ctx context.Context, caller Caller, name string) (Header, error)
	// UserChangePassword sets a password; the user's tokens end. ErrUserNotFound, ErrNoPasswordUser.
	UserChangePassword(ctx context.Context, req *UserChangePasswordRequest) (Header, error)
	// UserGrantRole gives a user a role. ErrUserNotFound, ErrRoleNotFound.
	UserGrantRole(ctx context.Context, caller Caller, user, role string) (Header, error)
	// UserRevokeRole takes a role away. ErrUserNotFound, ErrRoleNotGranted, ErrInvalidAuthMgmt.
	UserRevokeRole(ctx context.Context, caller Caller, user, role string) (Header, error)

	// RoleAdd makes a role. ErrRoleEmpty, ErrRoleAlreadyExist.
	RoleAdd(ctx context.Context, caller Caller, name string) (Header, error)
	// RoleGet lists what a role permits, ordered by key; of equal keys, as etcd has them. A user may ask for a role of its
	// own. ErrRoleNotFound.
	RoleGet(ctx context.Context, caller Caller, name string) (RoleGetResult, error)
	// RoleList lists the roles, in ascending order.
	RoleList(ctx context.Context, caller Caller) (NamesResult, error)
	// RoleDelete deletes a role, and takes it from every user. ErrRoleNotFound, ErrInvalidAuthMgmt.
	RoleDelete(ctx context.Context, caller Caller, name string) (Header, error)
	// RoleGrantPermission permits, or changes the kind of what is permitted on the same
	// range, if that is the first of its key; else it permits besides, as etcd does
	// (auth/store.go, RoleGrantPermission). ErrPermissionNotGiven for nil, ErrRoleNotFound, ErrInvalidAuthMgmt for an empty range.
	RoleGrantPermission(ctx context.Context, caller Caller, role string, permission *Permission) (Header, error)
	// RoleRevokePermission takes a permission on exactly this range away. ErrRoleNotFound, ErrPermissionNotGranted.
	RoleRevokePermission(ctx context.Context, caller Caller, role string, keys KeyRange) (Header, error)
}

// Access is what a request that is about no key needs.
type Access int

const (
	// AccessUser needs an authenticated caller.
	AccessUser Access = iota + 1
	// AccessAdmin needs a caller with the role root.
	AccessAdmin
)

// AuthStatusResult is the state of authentication.
type AuthStatusResult struct {
	Header  Header
	Enabled bool
	// AuthRevision grows with each change of users, roles and permissions.
	AuthRevision uint64
}

// AuthenticateResult is a token.
type AuthenticateResult struct {
	Header Header
	Token  string
}

// UserAddRequest makes a user with a password of at most 72 bytes, which may be empty, or
// with none: NoPassword, for certificates. As etcd does (etcdserver/v3_server.go, UserAdd),
// a backend ignores HashedPassword, and the password as well when NoPassword is set.
// ErrPasswordTooLong.
type UserAddRequest struct {
	Caller         Caller
	Name           string
	Password       string
	HashedPassword string
	NoPassword     bool
}

// UserChangePasswordRequest sets a password of at most 72 bytes or, when that is empty, a
// hashed one: bcrypt's, in base64; ErrNoPasswordUser when it is not base64. Both are ignored
// for a user without a password. ErrPasswordTooLong.
type UserChangePasswordRequest struct {
	Caller         Caller
	Name           string
	Password       string
	HashedPassword string
}

// UserGetResult are a user's roles.
type UserGetResult struct {
	Header Header
	Roles  []string
}

// NamesResult are names of users or roles.
type NamesResult struct {
	Header Header
	Names  []string
}

// RoleGetResult is what a role permits.
type RoleGetResult struct {
	Header      Header
	Permissions []Permission
}

// Permission is the right to read or write a range of keys, or both.
type Permission struct {
	Kind PermissionKind
	KeyRange
}

// PermissionKind is a kind of permission. The numbers are those of
// authpb.Permission.Type.
type PermissionKind int32

// The kinds of permission.
const (
	PermissionRead PermissionKind = iota
	PermissionWrite
	PermissionReadWrite
)
