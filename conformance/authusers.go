package conformance

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// authServiceCases are the cases of turning authentication on, of users and of tokens.
func authServiceCases() []Case {
	return []Case{
		{Name: "badinput/row-40-enable-without-root", RPC: "Auth.AuthEnable", Run: authRow40},
		{Name: "badinput/row-41-authenticate-while-off", RPC: "Auth.Authenticate", Run: authRow41},
		{Name: "badinput/row-45-nobody", RPC: "Auth.AuthEnable", Run: authRow45},
		{Name: "badinput/row-46-bad-token", RPC: "Auth.Authenticate", Run: authRow46},
		{Name: "badinput/row-47-wrong-password", RPC: "Auth.Authenticate",
			Covers: []string{"AuthenticateRequest.name", "AuthenticateRequest.password"}, Run: authRow47},
		{Name: "auth/enable-and-disable", RPC: "Auth.AuthDisable", Run: authEnableDisable},
		{Name: "auth/revision", RPC: "Auth.AuthStatus", Run: authRevision},
		{Name: "auth/users", RPC: "Auth.UserList", Covers: []string{
			"AuthUserAddRequest.name", "AuthUserGetRequest.name", "AuthUserDeleteRequest.name", "AuthUserGrantRoleRequest.user",
			"AuthUserGrantRoleRequest.role", "AuthUserRevokeRoleRequest.name", "AuthUserRevokeRoleRequest.role",
		}, Run: authUsers},
		{Name: "auth/passwords", RPC: "Auth.UserChangePassword", Covers: []string{
			"AuthUserAddRequest.password", "AuthUserAddRequest.hashedPassword", "AuthUserChangePasswordRequest.name",
			"AuthUserChangePasswordRequest.password", "AuthUserChangePasswordRequest.hashedPassword",
		}, Run: authPasswords},
		{Name: "auth/no-password-user", RPC: "Auth.UserAdd",
			Covers: []string{"AuthUserAddRequest.options", "UserAddOptions.no_password"}, Run: authNoPassword},
		{Name: "auth/cve-2020-15115-short-passwords", RPC: "Auth.UserAdd", Run: authShortPassword},
		{Name: "auth/token-metadata", RPC: "Auth.Authenticate", Run: authTokenMetadata},
		{Name: "auth/tokens-end", RPC: "Auth.AuthDisable", Run: authTokensEnd},
		{Name: "auth/token-ttl", RPC: "Auth.Authenticate", Condition: ShortTokens, Slow: true, Run: authTokenTTL},
		{Name: "auth/health", RPC: "HTTP", Run: authHealth},
		{Name: "auth/headers", RPC: "Auth.UserAdd", Run: authHeaders},
	}
}

func authRow40(c *C) {
	c.accounts()
	_, err := c.Auth.AuthEnable(c.Ctx, &pb.AuthEnableRequest{})
	c.wantError(err, codes.FailedPrecondition, msgRootUser)
	c.user("root")
	_, err = c.Auth.AuthEnable(c.Ctx, &pb.AuthEnableRequest{})
	c.wantError(err, codes.FailedPrecondition, msgRootRole)
	c.role("some")
	c.grantRole("root", "some")
	_, err = c.Auth.AuthEnable(c.Ctx, &pb.AuthEnableRequest{})
	c.wantError(err, codes.FailedPrecondition, msgRootRole)
	equal(c, "enabled", c.authStatus().Enabled, false)
}

func authRow41(c *C) {
	c.accounts()
	c.user("root", "root")
	for _, name := range []string{"root", "unknown", ""} {
		_, err := c.Auth.Authenticate(c.Ctx, &pb.AuthenticateRequest{Name: name, Password: passwordOf(name)})
		c.wantError(err, codes.FailedPrecondition, msgAuthOff)
	}
}

func authRow45(c *C) {
	c.accounts()
	c.enable()
	for name, call := range map[string]func(context.Context) error{
		"Range": func(ctx context.Context) error {
			_, err := c.KV.Range(ctx, &pb.RangeRequest{Key: c.key("a")})
			return err
		},
		"Put": func(ctx context.Context) error { _, err := c.KV.Put(ctx, &pb.PutRequest{Key: c.key("a")}); return err },
		"LeaseGrant": func(ctx context.Context) error {
			_, err := c.Lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60})
			return err
		},
		"MemberList": func(ctx context.Context) error {
			_, err := c.Cluster.MemberList(ctx, &pb.MemberListRequest{})
			return err
		},
		"Alarm activate": func(ctx context.Context) error {
			_, err := c.Maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})
			return err
		},
		"Status": func(ctx context.Context) error { _, err := c.Maintenance.Status(ctx, &pb.StatusRequest{}); return err },
		"Defragment": func(ctx context.Context) error {
			_, err := c.Maintenance.Defragment(ctx, &pb.DefragmentRequest{})
			return err
		},
		"Snapshot": func(ctx context.Context) error { return c.snapshotOnce(ctx) },
	} {
		err := call(c.nobody())
		if status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != msgNobody {
			c.Errorf("%s: got %v, want %q", name, err, msgNobody)
		}
	}
}

// snapshotOnce asks for a snapshot and receives its first message.
func (c *C) snapshotOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Maintenance.Snapshot(ctx, &pb.SnapshotRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

func authRow46(c *C) {
	c.accounts()
	c.user("alice")
	c.enable()
	for _, token := range []string{"x", "", ".", "a.b", "abcdefghijklmnop.1", "a.1.1", "token with spaces", strings.Repeat("t", 1000)} {
		ctx := withToken(c.nobody(), token)
		_, err := c.KV.Range(ctx, &pb.RangeRequest{Key: c.key("a")})
		c.wantBadToken(err)
		_, err = c.Maintenance.Status(ctx, &pb.StatusRequest{})
		c.wantBadToken(err)
		_, err = c.Auth.AuthStatus(ctx, &pb.AuthStatusRequest{})
		c.wantBadToken(err)
		_, err = c.Auth.UserList(ctx, &pb.AuthUserListRequest{})
		c.wantBadToken(err)
		// Who wants a new token may have a bad one.
		c.login(ctx, "alice", passwordOf("alice"))
	}
	alice := c.as("alice")
	_, err := c.Maintenance.Status(alice, &pb.StatusRequest{})
	c.must(err, "status as alice")
	_, err = c.Auth.UserChangePassword(c.Ctx, &pb.AuthUserChangePasswordRequest{Name: "alice", Password: "another"})
	c.must(err, "change the password")
	_, err = c.Maintenance.Status(alice, &pb.StatusRequest{})
	c.wantBadToken(err)
}

func authRow47(c *C) {
	c.accounts()
	c.user("alice")
	c.enable()
	for _, r := range []*pb.AuthenticateRequest{
		{Name: "alice", Password: "wrong"}, {Name: "alice"}, {Name: "alice", Password: passwordOf("alice") + " "},
		{Name: "alice", Password: passwordOf("root")}, {Name: "alice", Password: strings.Repeat("p", 1000)},
		{Name: "unknown", Password: passwordOf("alice")}, {Name: "unknown"}, {}, {Password: passwordOf("alice")},
		{Name: "Alice", Password: passwordOf("alice")},
	} {
		_, err := c.Auth.Authenticate(c.nobody(), r)
		c.wantError(err, codes.InvalidArgument, msgAuthFailed)
	}
	c.as("alice")
}

func authEnableDisable(c *C) {
	c.accounts()
	equal(c, "enabled at first", c.authStatus().Enabled, false)
	r, err := c.Auth.AuthDisable(c.Ctx, &pb.AuthDisableRequest{})
	c.must(err, "turn off what is off")
	c.header("disable", r.Header)
	c.user("alice")
	c.enable()
	equal(c, "enabled", c.authStatus().Enabled, true)
	_, err = c.Auth.AuthEnable(c.Ctx, &pb.AuthEnableRequest{})
	c.must(err, "turn on what is on")
	for _, call := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := c.Auth.AuthEnable(ctx, &pb.AuthEnableRequest{}); return err },
		func(ctx context.Context) error {
			_, err := c.Auth.AuthDisable(ctx, &pb.AuthDisableRequest{})
			return err
		},
	} {
		c.wantNobody(call(c.nobody()))
		c.wantDenied(call(c.as("alice")))
	}
	// Everybody may ask.
	for _, ctx := range []context.Context{c.nobody(), c.as("alice")} {
		st, err := c.Auth.AuthStatus(ctx, &pb.AuthStatusRequest{})
		c.must(err, "status of authentication")
		equal(c, "enabled", st.Enabled, true)
	}
	_, err = c.Auth.AuthDisable(c.Ctx, &pb.AuthDisableRequest{})
	c.must(err, "turn off")
	c.Ctx = c.nobody()
	equal(c, "enabled", c.authStatus().Enabled, false)
	c.put("a", "by nobody")
}

// authRevision: each change of users, roles and permissions counts, and nothing else.
func authRevision(c *C) {
	c.accounts()
	last := c.authStatus().AuthRevision
	step := func(what string, by uint64) {
		c.Helper()
		now := c.authStatus().AuthRevision
		equal(c, "growth of the auth revision by: "+what, now-last, by)
		last = now
	}
	c.user("root")
	step("adding a user", 1)
	c.grantRole("root", "root")
	step("granting a role", 1)
	c.grantRole("root", "root")
	step("granting it again", 0)
	c.role("r")
	step("adding a role", 1)
	p := permission(authpb.Permission_READ, c.key("a"), nil)
	c.permit("r", p)
	step("granting a permission", 1)
	c.permit("r", p)
	step("granting it again", 1)
	_, err := c.Auth.AuthEnable(c.Ctx, &pb.AuthEnableRequest{})
	c.must(err, "turn on")
	step("turning on", 0)
	c.Ctx = c.as("root")
	step("a token", 0)
	_, err = c.Auth.RoleAdd(c.Ctx, &pb.AuthRoleAddRequest{Name: "r"})
	c.wantError(err, codes.FailedPrecondition, msgRoleExists)
	step("an error", 0)
	c.forbid("r", p.Key, nil)
	step("revoking a permission", 1)
	c.revision()
	c.put("a", "1")
	step("a put", 0)
	_, err = c.Auth.UserChangePassword(c.Ctx, &pb.AuthUserChangePasswordRequest{Name: "root", Password: passwordOf("root")})
	c.must(err, "change a password")
	c.Ctx = c.as("root")
	step("changing a password", 1)
	_, err = c.Auth.AuthDisable(c.Ctx, &pb.AuthDisableRequest{})
	c.must(err, "turn off")
	c.Ctx = c.nobody()
	step("turning off", 1)
	_, err = c.Auth.AuthDisable(c.Ctx, &pb.AuthDisableRequest{})
	c.must(err, "turn off again")
	step("turning off again", 0)
}

func (c *C) userRoles(name string) string {
	c.Helper()
	r, err := c.Auth.UserGet(c.Ctx, &pb.AuthUserGetRequest{Name: name})
	c.must(err, "get user %s", name)
	return strings.Join(r.Roles, " ")
}

func authUsers(c *C) {
	c.accounts()
	for _, name := range []string{"bob", "alice", "Zoe", "a/b", "äh", strings.Repeat("n", 60)} {
		c.user(name)
	}
	list := func() string {
		r, err := c.Auth.UserList(c.Ctx, &pb.AuthUserListRequest{})
		c.must(err, "list users")
		return strings.Join(r.Users, " ")
	}
	equal(c, "users", list(), "Zoe a/b alice bob "+strings.Repeat("n", 60)+" äh")
	for _, role := range []string{"r2", "r1", "r3"} {
		c.role(role)
		c.grantRole("bob", role)
	}
	c.grantRole("bob", "root") // which needs not exist
	equal(c, "roles of bob", c.userRoles("bob"), "r1 r2 r3 root")
	equal(c, "roles of alice", c.userRoles("alice"), "")
	c.revokeRole("bob", "r2")
	equal(c, "roles of bob", c.userRoles("bob"), "r1 r3 root")
	_, err := c.Auth.UserDelete(c.Ctx, &pb.AuthUserDeleteRequest{Name: "alice"})
	c.must(err, "delete alice")
	equal(c, "users", list(), "Zoe a/b bob "+strings.Repeat("n", 60)+" äh")
	c.user("alice")
	equal(c, "roles of the new alice", c.userRoles("alice"), "")
}

// hashedPassword is "hashed", by bcrypt at cost 4.
const hashedPassword = "$2a$04$abcdefghijklmnopqrstuu369LYjJlegQeGD0CWsjs58fASePKjWq"

func authPasswords(c *C) {
	c.accounts()
	hash := base64.StdEncoding.EncodeToString([]byte(hashedPassword))
	long := strings.Repeat("p", 73)
	for name, r := range map[string]*pb.AuthUserAddRequest{
		"empty": {}, "longest": {Password: long[:72]},
		// A hash that comes with a new user is not looked at.
		"both": {Password: "plain", HashedPassword: hash}, "hash": {HashedPassword: hash}, "no base64": {Password: "plain", HashedPassword: "?"},
	} {
		r.Name = name
		_, err := c.Auth.UserAdd(c.Ctx, r)
		c.must(err, "add user %s", name)
	}
	_, err := c.Auth.UserAdd(c.Ctx, &pb.AuthUserAddRequest{Name: "too long", Password: long})
	c.wantError(err, codes.Unknown, msgPasswordLong)
	_, err = c.Auth.UserChangePassword(c.Ctx, &pb.AuthUserChangePasswordRequest{Name: "empty", Password: long})
	c.wantError(err, codes.Unknown, msgPasswordLong)
	_, err = c.Auth.UserChangePassword(c.Ctx, &pb.AuthUserChangePasswordRequest{Name: "both", HashedPassword: "?"})
	c.wantError(err, codes.Unknown, msgNoPassword)
	c.enable()
	works := func(name, password string) {
		c.Helper()
		c.login(c.nobody(), name, password)
	}
	fails := func(name, password string) {
		c.Helper()
		_, err := c.Auth.Authenticate(c.nobody(), &pb.AuthenticateRequest{Name: name, Password: password})
		c.wantError(err, codes.InvalidArgument, msgAuthFailed)
	}
	works("empty", "")
	works("longest", long[:72])
	fails("longest", long[:71])
	works("both", "plain")
	fails("both", "hashed")
	works("hash", "")
	fails("hash", "hashed")
	works("no base64", "plain")
	change := func(name, password, hash string) {
		c.Helper()
		_, err := c.Auth.UserChangePassword(c.Ctx, &pb.AuthUserChangePasswordRequest{Name: name, Password: password, HashedPassword: hash})
		c.must(err, "change the password of %s", name)
	}
	change("both", "new", "")
	works("both", "new")
	fails("both", "plain")
	change("both", "", hash)
	works("both", "hashed")
	fails("both", "new")
	change("both", "newer", hash)
	works("both", "newer")
	fails("both", "hashed")
	change("both", "", "") // no password is none that can be given
	fails("both", "")
	fails("both", "newer")
}

func authNoPassword(c *C) {
	c.accounts()
	_, err := c.Auth.UserAdd(c.Ctx, &pb.AuthUserAddRequest{
		Name: "cert", Password: "given all the same", Options: &authpb.UserAddOptions{NoPassword: true},
	})
	c.must(err, "add a user without a password")
	_, err = c.Auth.UserAdd(c.Ctx, &pb.AuthUserAddRequest{Name: "plain", Password: "p", Options: &authpb.UserAddOptions{}})
	c.must(err, "add a user with options and a password")
	c.enable()
	c.login(c.nobody(), "plain", "p")
	for _, password := range []string{"", "given all the same", "other"} {
		_, err := c.Auth.Authenticate(c.nobody(), &pb.AuthenticateRequest{Name: "cert", Password: password})
		c.wantError(err, codes.Unknown, msgNoPassword)
	}
	_, err = c.Auth.UserChangePassword(c.Ctx, &pb.AuthUserChangePasswordRequest{Name: "cert", Password: "new"})
	c.must(err, "change the password of a user without one")
	_, err = c.Auth.Authenticate(c.nobody(), &pb.AuthenticateRequest{Name: "cert", Password: "new"})
	c.wantError(err, codes.Unknown, msgNoPassword)
}

// authShortPassword: etcd has no least length of a password; its answer to the advisory was to
// say so.
func authShortPassword(c *C) {
	c.accounts()
	_, err := c.Auth.UserAdd(c.Ctx, &pb.AuthUserAddRequest{Name: "short", Password: "p"})
	c.must(err, "add a user with a short password")
	c.enable()
	c.login(c.nobody(), "short", "p")
	_, err = c.Auth.Authenticate(c.nobody(), &pb.AuthenticateRequest{Name: "short", Password: ""})
	c.wantError(err, codes.InvalidArgument, msgAuthFailed)
}

// authTokenMetadata: a token may stand under two names, and be introduced.
func authTokenMetadata(c *C) {
	c.accounts()
	c.enable()
	r, err := c.Auth.Authenticate(c.nobody(), &pb.AuthenticateRequest{Name: "root", Password: passwordOf("root")})
	c.must(err, "authenticate")
	for _, tc := range []struct {
		metadata []string
		ok       bool
	}{
		{[]string{"token", r.Token}, true},
		{[]string{"Token", r.Token}, true},
		{[]string{"token", "Bearer " + r.Token}, true},
		{[]string{"authorization", r.Token}, true},
		{[]string{"authorization", "Bearer " + r.Token}, true},
		{[]string{"authorization", "bearer " + r.Token}, false},
		{[]string{"authorization", "Bearer  " + r.Token}, false},
		{[]string{"authorization", "Basic " + r.Token}, false},
		{[]string{"token", r.Token, "authorization", "bad"}, true},
		{[]string{"token", "bad", "authorization", r.Token}, false},
		{[]string{"token", r.Token, "token", "bad"}, true},
		{[]string{"token", "bad", "token", r.Token}, false},
		{[]string{"token", "", "authorization", r.Token}, false},
		{[]string{"token", "Bearer "}, false},
		{[]string{"token", "x" + r.Token}, false},
		{[]string{"token", strings.ToUpper(r.Token)}, r.Token == strings.ToUpper(r.Token)},
	} {
		_, err := c.KV.Range(metadata.AppendToOutgoingContext(c.nobody(), tc.metadata...), &pb.RangeRequest{Key: c.key("a")})
		switch {
		case tc.ok && err != nil:
			c.Errorf("%q: %v", tc.metadata[0]+" "+strings.ReplaceAll(tc.metadata[1], r.Token, "TOKEN"), err)
		case !tc.ok && status.Convert(err).Message() != msgBadToken:
			c.Errorf("%q: got %v, want %q", tc.metadata[0]+" "+strings.ReplaceAll(tc.metadata[1], r.Token, "TOKEN"), err, msgBadToken)
		}
	}
}

// authTokensEnd: tokens end with their user's password, with their user, and with authentication;
// not with a change of what the user may do.
func authTokensEnd(c *C) {
	c.accounts()
	c.user("alice")
	c.user("bob")
	c.enable()
	alice, again, bob := c.as("alice"), c.as("alice"), c.as("bob")
	try := func(ctx context.Context) error {
		_, err := c.Maintenance.Status(ctx, &pb.StatusRequest{})
		return err
	}
	c.role("some", permission(authpb.Permission_READ, c.key("a"), nil))
	c.grantRole("alice", "some")
	for _, ctx := range []context.Context{alice, again, bob, c.Ctx} {
		c.must(try(ctx), "status")
	}
	_, err := c.Auth.UserChangePassword(c.Ctx, &pb.AuthUserChangePasswordRequest{Name: "alice", Password: passwordOf("alice")})
	c.must(err, "change a password to the same")
	c.wantBadToken(try(alice))
	c.wantBadToken(try(again))
	c.must(try(bob), "status as bob")
	_, err = c.Auth.UserDelete(c.Ctx, &pb.AuthUserDeleteRequest{Name: "bob"})
	c.must(err, "delete bob")
	c.wantBadToken(try(bob))
	alice = c.as("alice")
	_, err = c.Auth.AuthDisable(c.Ctx, &pb.AuthDisableRequest{})
	c.must(err, "turn off")
	c.must(try(alice), "status with a token while authentication is off")
	root := c.Ctx
	_, err = c.Auth.AuthEnable(c.nobody(), &pb.AuthEnableRequest{})
	c.must(err, "turn on again")
	c.wantBadToken(try(alice))
	c.wantBadToken(try(root))
	c.Ctx = c.as("root")
}

// authTokenTTL: a token that was not used for long enough is refused.
func authTokenTTL(c *C) {
	c.accounts()
	c.enable()
	for unused := TokenTTL; ; unused *= 2 {
		root := c.as("root")
		timer := time.NewTimer(unused)
		select {
		case <-timer.C:
		case <-c.Ctx.Done():
			c.Fatalf("a token that was unused for %v still works", unused/2)
		}
		if _, err := c.Maintenance.Status(root, &pb.StatusRequest{}); err != nil {
			c.wantBadToken(err)
			return
		}
	}
}

// authHealth: probes bring no token.
func authHealth(c *C) {
	c.accounts()
	c.enable()
	c.wantHTTP("/health", http.StatusOK, `{"health":"true","reason":""}`)
	c.wantHTTP("/health?serializable=true", http.StatusOK, `{"health":"true","reason":""}`)
	c.wantHTTP("/livez", http.StatusOK, "ok\n")
	c.wantHTTP("/readyz", http.StatusOK, "ok\n")
	code, _, _ := c.http(http.MethodGet, "/version")
	equal(c, "status of /version", code, http.StatusOK)
}

// authHeaders: what is done to users and roles makes no revision, and is answered with a
// complete header.
func authHeaders(c *C) {
	c.accounts()
	revision := c.put("a", "1").Header.Revision
	headers := map[string]*pb.ResponseHeader{}
	note := func(what string, h *pb.ResponseHeader, err error) {
		c.Helper()
		c.must(err, "%s", what)
		headers[what] = h
	}
	ctx := c.Ctx
	userAdd, err := c.Auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: passwordOf("root")})
	note("UserAdd", userAdd.GetHeader(), err)
	roleAdd, err := c.Auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "root"})
	note("RoleAdd", roleAdd.GetHeader(), err)
	grantRole, err := c.Auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	note("UserGrantRole", grantRole.GetHeader(), err)
	enable, err := c.Auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
	note("AuthEnable", enable.GetHeader(), err)
	authenticate, err := c.Auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: passwordOf("root")})
	note("Authenticate", authenticate.GetHeader(), err)
	ctx = withToken(ctx, authenticate.GetToken())
	st, err := c.Auth.AuthStatus(ctx, &pb.AuthStatusRequest{})
	note("AuthStatus", st.GetHeader(), err)
	permit, err := c.Auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "root", Perm: permission(authpb.Permission_READ, []byte("a"), nil)})
	note("RoleGrantPermission", permit.GetHeader(), err)
	forbid, err := c.Auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "root", Key: []byte("a")})
	note("RoleRevokePermission", forbid.GetHeader(), err)
	users, err := c.Auth.UserList(ctx, &pb.AuthUserListRequest{})
	note("UserList", users.GetHeader(), err)
	roles, err := c.Auth.RoleList(ctx, &pb.AuthRoleListRequest{})
	note("RoleList", roles.GetHeader(), err)
	user, err := c.Auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "root"})
	note("UserGet", user.GetHeader(), err)
	role, err := c.Auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "root"})
	note("RoleGet", role.GetHeader(), err)
	disable, err := c.Auth.AuthDisable(ctx, &pb.AuthDisableRequest{})
	note("AuthDisable", disable.GetHeader(), err)
	change, err := c.Auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "root", Password: "p"})
	note("UserChangePassword", change.GetHeader(), err)
	revoke, err := c.Auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"})
	note("UserRevokeRole", revoke.GetHeader(), err)
	userDelete, err := c.Auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "root"})
	note("UserDelete", userDelete.GetHeader(), err)
	roleDelete, err := c.Auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "root"})
	note("RoleDelete", roleDelete.GetHeader(), err)
	for what, h := range headers {
		c.header(what, h)
		equal(c, fmt.Sprintf("revision of the answer to %s", what), h.GetRevision(), revision)
	}
	equal(c, "calls", len(headers), 17)
}
