package conformance

import (
	"context"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// authCases are the cases of users, roles, and of what they may do.
func authCases() []Case {
	var cases []Case
	for _, area := range [][]Case{authServiceCases(), authRoleCases(), authKeyCases(), authJWTCases(), authMatrixCases(), authTurnCases()} {
		cases = append(cases, area...)
	}
	for i := range cases {
		k := &cases[i]
		k.Needs = Auth
		if k.Condition == "" {
			k.Condition = Accounts
		}
		if !strings.HasPrefix(k.RPC, "Auth.") {
			k.Absent = authAbsent
		}
	}
	return cases
}

// authAbsent is what cases of other RPCs assert where there is no authentication.
func authAbsent(c *C) {
	_, err := c.Auth.AuthEnable(c.Ctx, &pb.AuthEnableRequest{})
	if status.Code(err) != codes.Unimplemented {
		c.Errorf("AuthEnable without the capability: got %v, want Unimplemented", err)
	}
}

// passwordOf is the password that user gives to each.
func passwordOf(name string) string { return "password of " + name }

// accounts makes sure that a case ends as it began: without users, roles and authentication.
func (c *C) accounts() {
	c.Helper()
	users, err := c.Auth.UserList(c.Ctx, &pb.AuthUserListRequest{})
	c.must(err, "list users")
	if len(users.Users) != 0 {
		c.Fatalf("there are users before the case: %v", users.Users)
	}
	c.Cleanup(c.noAccounts)
}

// noAccounts turns authentication off and deletes every user and role, and every lease, which
// the next case would see.
func (c *C) noAccounts() {
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	defer cancel()
	st, err := c.Auth.AuthStatus(ctx, &pb.AuthStatusRequest{})
	c.must(err, "status of authentication")
	if st.Enabled {
		_, err = c.Auth.AuthDisable(c.login(ctx, "root", passwordOf("root")), &pb.AuthDisableRequest{})
		c.must(err, "turn authentication off")
	}
	users, err := c.Auth.UserList(ctx, &pb.AuthUserListRequest{})
	c.must(err, "list users")
	for _, name := range users.Users {
		_, err = c.Auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: name})
		c.must(err, "delete user %s", name)
	}
	roles, err := c.Auth.RoleList(ctx, &pb.AuthRoleListRequest{})
	c.must(err, "list roles")
	for _, name := range roles.Roles {
		_, err = c.Auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: name})
		c.must(err, "delete role %s", name)
	}
	if !c.Endpoint.Capabilities[Leases] {
		return
	}
	leases, err := c.Lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	c.must(err, "list leases")
	for _, l := range leases.Leases {
		_, err = c.Lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: l.ID})
		c.must(err, "revoke %x", l.ID)
	}
}

// user makes a user with roles.
func (c *C) user(name string, roles ...string) {
	c.Helper()
	_, err := c.Auth.UserAdd(c.Ctx, &pb.AuthUserAddRequest{Name: name, Password: passwordOf(name)})
	c.must(err, "add user %s", name)
	for _, role := range roles {
		c.grantRole(name, role)
	}
}

func (c *C) grantRole(user, role string) {
	c.Helper()
	_, err := c.Auth.UserGrantRole(c.Ctx, &pb.AuthUserGrantRoleRequest{User: user, Role: role})
	c.must(err, "grant %s to %s", role, user)
}

func (c *C) revokeRole(user, role string) {
	c.Helper()
	_, err := c.Auth.UserRevokeRole(c.Ctx, &pb.AuthUserRevokeRoleRequest{Name: user, Role: role})
	c.must(err, "revoke %s from %s", role, user)
}

// role makes a role with permissions.
func (c *C) role(name string, permissions ...*authpb.Permission) {
	c.Helper()
	_, err := c.Auth.RoleAdd(c.Ctx, &pb.AuthRoleAddRequest{Name: name})
	c.must(err, "add role %s", name)
	for _, p := range permissions {
		c.permit(name, p)
	}
}

func (c *C) permit(role string, p *authpb.Permission) {
	c.Helper()
	_, err := c.Auth.RoleGrantPermission(c.Ctx, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: p})
	c.must(err, "grant %s to %s", text(p), role)
}

func (c *C) forbid(role string, key, end []byte) {
	c.Helper()
	_, err := c.Auth.RoleRevokePermission(c.Ctx, &pb.AuthRoleRevokePermissionRequest{Role: role, Key: key, RangeEnd: end})
	c.must(err, "revoke %q %q from %s", key, end, role)
}

func permission(kind authpb.Permission_Type, key, end []byte) *authpb.Permission {
	return &authpb.Permission{PermType: kind, Key: key, RangeEnd: end}
}

// member makes a user with a role of its own that has the permissions.
func (c *C) member(name string, permissions ...*authpb.Permission) {
	c.Helper()
	c.role("role of "+name, permissions...)
	c.user(name, "role of "+name)
}

// enable makes root and turns authentication on. From then on the case's context is root's.
func (c *C) enable() {
	c.Helper()
	c.user("root", "root")
	_, err := c.Auth.AuthEnable(c.Ctx, &pb.AuthEnableRequest{})
	c.must(err, "turn authentication on")
	c.Ctx = c.as("root")
}

// nobody is a context without a token.
func (c *C) nobody() context.Context {
	return metadata.NewOutgoingContext(c.Ctx, metadata.MD{})
}

// as is a context with a new token of user.
func (c *C) as(user string) context.Context {
	c.Helper()
	return c.login(c.nobody(), user, passwordOf(user))
}

// login adds a new token to ctx.
func (c *C) login(ctx context.Context, user, password string) context.Context {
	c.Helper()
	r, err := c.Auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: user, Password: password})
	c.must(err, "authenticate %s", user)
	if r.Token == "" {
		c.Fatalf("%s got an empty token", user)
	}
	return withToken(ctx, r.Token)
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "token", token)
}

// wantNobody, wantBadToken and wantDenied require the refusals of authentication.
func (c *C) wantNobody(err error) { c.Helper(); c.wantError(err, codes.InvalidArgument, msgNobody) }
func (c *C) wantDenied(err error) { c.Helper(); c.wantError(err, codes.PermissionDenied, msgDenied) }
func (c *C) wantBadToken(err error) {
	c.Helper()
	c.wantError(err, codes.Unauthenticated, msgBadToken)
}

func (c *C) authStatus() *pb.AuthStatusResponse {
	c.Helper()
	r, err := c.Auth.AuthStatus(c.Ctx, &pb.AuthStatusRequest{})
	c.must(err, "status of authentication")
	c.header("status of authentication", r.Header)
	return r
}
