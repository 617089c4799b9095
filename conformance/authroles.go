package conformance

import (
	"context"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// authRoleCases are the cases of roles, of ranges that they permit, and of the role root.
func authRoleCases() []Case {
	return []Case{
		{Name: "badinput/row-42-empty-names", RPC: "Auth.RoleAdd", Covers: []string{"AuthRoleAddRequest.name"}, Run: authRow42},
		{Name: "badinput/row-43-unknown-and-duplicate", RPC: "Auth.UserGrantRole", Run: authRow43},
		{Name: "badinput/row-44-no-permission-given", RPC: "Auth.RoleGrantPermission",
			Covers: []string{"AuthRoleGrantPermissionRequest.perm"}, Run: authRow44},
		{Name: "badinput/row-48-no-right", RPC: "Auth.UserAdd", Run: authRow48},
		{Name: "badinput/row-49-root-while-on", RPC: "Auth.UserDelete", Run: authRow49},
		{Name: "auth/pr-15619-empty-permission-range", RPC: "Auth.RoleGrantPermission", Run: authEmptyRange},
		{Name: "auth/roles", RPC: "Auth.RoleList", Covers: []string{
			"AuthRoleGetRequest.role", "AuthRoleDeleteRequest.role", "AuthRoleGrantPermissionRequest.name",
			"AuthRoleRevokePermissionRequest.role", "AuthRoleRevokePermissionRequest.key", "AuthRoleRevokePermissionRequest.range_end",
		}, Run: authRoles},
		{Name: "auth/role-permissions-in-order", RPC: "Auth.RoleGet", Run: authPermissionOrder},
		{Name: "auth/root-role", RPC: "Auth.RoleGet", Run: authRootRole},
		{Name: "auth/role-delete-takes-it-from-users", RPC: "Auth.RoleDelete", Run: authRoleDelete},
		{Name: "auth/ask-for-oneself", RPC: "Auth.UserGet", Run: authSelf},
		{Name: "auth/kinds-of-permission", RPC: "KV.Put", Covers: []string{"Permission.permType"}, Run: authKinds},
		{Name: "auth/ranges-of-permission", RPC: "KV.Range", Covers: []string{"Permission.key", "Permission.range_end"}, Run: authRanges},
		{Name: "auth/permissions-of-roles-join", RPC: "KV.Range", Run: authJoin},
		{Name: "auth/changes-take-effect-at-once", RPC: "Auth.RoleRevokePermission", Run: authAtOnce},
	}
}

func authRow42(c *C) {
	c.accounts()
	_, err := c.Auth.UserAdd(c.Ctx, &pb.AuthUserAddRequest{Password: "p"})
	c.wantError(err, codes.InvalidArgument, msgNobody)
	_, err = c.Auth.UserAdd(c.Ctx, &pb.AuthUserAddRequest{Options: &authpb.UserAddOptions{NoPassword: true}})
	c.wantError(err, codes.InvalidArgument, msgNobody)
	_, err = c.Auth.RoleAdd(c.Ctx, &pb.AuthRoleAddRequest{})
	c.wantError(err, codes.InvalidArgument, msgRoleNameEmpty)
}

func authRow43(c *C) {
	c.accounts()
	c.user("alice")
	c.role("some")
	c.role("granted", permission(authpb.Permission_READ, []byte("a"), []byte("c")))
	c.grantRole("alice", "granted")
	for _, tc := range []struct {
		what, message string
		call          func(context.Context) error
	}{
		{"add a user twice", msgUserExists, func(ctx context.Context) error {
			_, err := c.Auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "alice", Password: "p"})
			return err
		}},
		{"get an unknown user", msgUserNotFound, func(ctx context.Context) error {
			_, err := c.Auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "x"})
			return err
		}},
		{"delete an unknown user", msgUserNotFound, func(ctx context.Context) error {
			_, err := c.Auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "x"})
			return err
		}},
		{"a password for an unknown user", msgUserNotFound, func(ctx context.Context) error {
			_, err := c.Auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "x", Password: "p"})
			return err
		}},
		{"a role for an unknown user", msgUserNotFound, func(ctx context.Context) error {
			_, err := c.Auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "x", Role: "y"})
			return err
		}},
		{"an unknown role for a user", msgRoleNotFound, func(ctx context.Context) error {
			_, err := c.Auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "alice", Role: "y"})
			return err
		}},
		{"a role without a name for a user", msgRoleNotFound, func(ctx context.Context) error {
			_, err := c.Auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "alice"})
			return err
		}},
		{"revoke from an unknown user", msgUserNotFound, func(ctx context.Context) error {
			_, err := c.Auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "x", Role: "some"})
			return err
		}},
		{"revoke a role that was not granted", msgNotGranted, func(ctx context.Context) error {
			_, err := c.Auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "some"})
			return err
		}},
		{"revoke an unknown role", msgNotGranted, func(ctx context.Context) error {
			_, err := c.Auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "y"})
			return err
		}},
		{"add a role twice", msgRoleExists, func(ctx context.Context) error {
			_, err := c.Auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "some"})
			return err
		}},
		{"get an unknown role", msgRoleNotFound, func(ctx context.Context) error {
			_, err := c.Auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "y"})
			return err
		}},
		{"get the role root, which was not made", msgRoleNotFound, func(ctx context.Context) error {
			_, err := c.Auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "root"})
			return err
		}},
		{"delete an unknown role", msgRoleNotFound, func(ctx context.Context) error {
			_, err := c.Auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "y"})
			return err
		}},
		{"permit an unknown role something", msgRoleNotFound, func(ctx context.Context) error {
			_, err := c.Auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "y", Perm: permission(authpb.Permission_READ, []byte("a"), nil)})
			return err
		}},
		{"forbid an unknown role something", msgRoleNotFound, func(ctx context.Context) error {
			_, err := c.Auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "y", Key: []byte("a")})
			return err
		}},
		{"revoke a permission on the key alone", msgNoPermission, func(ctx context.Context) error {
			_, err := c.Auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "granted", Key: []byte("a")})
			return err
		}},
		{"revoke a permission on a part of the range", msgNoPermission, func(ctx context.Context) error {
			_, err := c.Auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "granted", Key: []byte("a"), RangeEnd: []byte("b")})
			return err
		}},
	} {
		err := tc.call(c.Ctx)
		if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != tc.message {
			c.Errorf("%s: got %v, want %q", tc.what, err, tc.message)
		}
	}
}

func authRow44(c *C) {
	c.accounts()
	c.role("some")
	for _, role := range []string{"some", "unknown"} {
		_, err := c.Auth.RoleGrantPermission(c.Ctx, &pb.AuthRoleGrantPermissionRequest{Name: role})
		c.wantError(err, codes.InvalidArgument, msgPermNotGiven)
	}
}

// authEmptyRange: a permission on no key is refused, whether the role exists or not.
func authEmptyRange(c *C) {
	c.accounts()
	c.role("some")
	for _, role := range []string{"some", "unknown"} {
		for _, p := range []*authpb.Permission{
			{}, {RangeEnd: []byte("a")}, {RangeEnd: []byte{0}},
			permission(authpb.Permission_READ, []byte("b"), []byte("a")), permission(authpb.Permission_READ, []byte("b"), []byte("b")),
		} {
			_, err := c.Auth.RoleGrantPermission(c.Ctx, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: p})
			c.wantError(err, codes.InvalidArgument, msgAuthMgmt)
		}
	}
	equal(c, "permissions", c.permissions("some"), "")
}

func authRow48(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("mine"), c.end("mine")))
	c.enable()
	c.put("other", "1")
	alice := c.as("alice")
	_, err := c.KV.Range(alice, &pb.RangeRequest{Key: c.key("other")})
	c.wantDenied(err)
	_, err = c.KV.Compact(alice, &pb.CompactionRequest{Revision: 1})
	c.wantDenied(err)
	_, err = c.Auth.UserAdd(alice, &pb.AuthUserAddRequest{Name: "bob", Password: "p"})
	c.wantDenied(err)
	_, err = c.Auth.UserAdd(alice, &pb.AuthUserAddRequest{})
	c.wantDenied(err)
	_, err = c.Auth.UserAdd(alice, &pb.AuthUserAddRequest{Name: "bob", Password: strings.Repeat("p", 73)})
	c.wantError(err, codes.Unknown, msgPasswordLong) // what comes before
}

// authRow49: root, its role, and its having it cannot be taken away while authentication is on.
func authRow49(c *C) {
	c.accounts()
	c.role("root")
	c.user("alice", "root")
	c.enable()
	calls := []func() error{
		func() error { _, err := c.Auth.UserDelete(c.Ctx, &pb.AuthUserDeleteRequest{Name: "root"}); return err },
		func() error { _, err := c.Auth.RoleDelete(c.Ctx, &pb.AuthRoleDeleteRequest{Role: "root"}); return err },
		func() error {
			_, err := c.Auth.UserRevokeRole(c.Ctx, &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"})
			return err
		},
	}
	for _, call := range calls {
		c.wantError(call(), codes.InvalidArgument, msgAuthMgmt)
	}
	c.revokeRole("alice", "root")
	_, err := c.Auth.UserDelete(c.as("alice"), &pb.AuthUserDeleteRequest{Name: "root"})
	c.wantDenied(err)
	_, err = c.Auth.AuthDisable(c.Ctx, &pb.AuthDisableRequest{})
	c.must(err, "turn off")
	c.Ctx = c.nobody()
	c.must(calls[2](), "revoke root from root")
	c.must(calls[1](), "delete role root")
	c.must(calls[0](), "delete user root")
}

// permissions describes a role's, in the order of the answer.
func (c *C) permissions(role string) string {
	c.Helper()
	r, err := c.Auth.RoleGet(c.Ctx, &pb.AuthRoleGetRequest{Role: role})
	c.must(err, "get role %s", role)
	var words []string
	for _, p := range r.Perm {
		words = append(words, fmt.Sprintf("%v:%s-%s", p.PermType, p.Key, p.RangeEnd))
	}
	return strings.Join(words, " ")
}

func authRoles(c *C) {
	c.accounts()
	for _, name := range []string{"r2", "R", "r1", "root"} {
		c.role(name)
	}
	list := func() string {
		r, err := c.Auth.RoleList(c.Ctx, &pb.AuthRoleListRequest{})
		c.must(err, "list roles")
		return strings.Join(r.Roles, " ")
	}
	equal(c, "roles", list(), "R r1 r2 root")
	c.permit("r1", permission(authpb.Permission_READ, []byte("a"), nil))
	c.permit("r1", permission(authpb.Permission_WRITE, []byte("b"), []byte("c")))
	equal(c, "permissions", c.permissions("r1"), "READ:a- WRITE:b-c")
	equal(c, "permissions of another", c.permissions("r2"), "")
	c.permit("r1", permission(authpb.Permission_READWRITE, []byte("a"), nil))
	equal(c, "permissions after a change of kind", c.permissions("r1"), "READWRITE:a- WRITE:b-c")
	c.forbid("r1", []byte("b"), []byte("c"))
	equal(c, "permissions after a revocation", c.permissions("r1"), "READWRITE:a-")
	_, err := c.Auth.RoleDelete(c.Ctx, &pb.AuthRoleDeleteRequest{Role: "r2"})
	c.must(err, "delete role")
	equal(c, "roles", list(), "R r1 root")
}

// authPermissionOrder: permissions stand by their keys, and of one key as they came; a permission on
// a range that is not the first of its key is permitted again (auth/store.go, RoleGrantPermission).
func authPermissionOrder(c *C) {
	c.accounts()
	c.role("r")
	for _, p := range []*authpb.Permission{
		permission(authpb.Permission_READ, []byte("m"), []byte("z")),
		permission(authpb.Permission_READ, []byte("b"), nil),
		permission(authpb.Permission_READ, []byte("m"), nil),
		permission(authpb.Permission_WRITE, []byte("a"), []byte{0}),
		permission(authpb.Permission_READ, []byte("m"), []byte("n")),
	} {
		c.permit("r", p)
	}
	equal(c, "permissions", c.permissions("r"), "WRITE:a-\x00 READ:b- READ:m-z READ:m- READ:m-n")
	c.permit("r", permission(authpb.Permission_WRITE, []byte("m"), []byte("z")))
	c.permit("r", permission(authpb.Permission_WRITE, []byte("m"), nil))
	equal(c, "permissions", c.permissions("r"), "WRITE:a-\x00 READ:b- WRITE:m-z READ:m- READ:m-n WRITE:m-")
	c.forbid("r", []byte("m"), nil)
	equal(c, "permissions", c.permissions("r"), "WRITE:a-\x00 READ:b- WRITE:m-z READ:m-n")
}

// authRootRole: the role root permits everything, whatever was granted to it, and who has it is
// as root.
func authRootRole(c *C) {
	c.accounts()
	c.role("root", permission(authpb.Permission_READ, []byte("a"), nil))
	equal(c, "permissions of root", c.permissions("root"), "READWRITE:-\x00")
	c.user("admin", "root")
	c.enable()
	admin := c.as("admin")
	_, err := c.KV.Put(admin, &pb.PutRequest{Key: c.key("a"), PrevKv: true})
	c.must(err, "put")
	_, err = c.KV.Range(admin, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	c.must(err, "range over everything")
	_, err = c.Auth.UserAdd(admin, &pb.AuthUserAddRequest{Name: "bob", Password: passwordOf("bob")})
	c.must(err, "add a user")
	_, err = c.Maintenance.HashKV(admin, &pb.HashKVRequest{})
	c.must(err, "hash")
	c.revokeRole("admin", "root")
	_, err = c.KV.Put(admin, &pb.PutRequest{Key: c.key("a")})
	c.wantDenied(err)
	_, err = c.Maintenance.HashKV(admin, &pb.HashKVRequest{})
	c.wantDenied(err)
}

func authRoleDelete(c *C) {
	c.accounts()
	c.role("r1", permission(authpb.Permission_READ, c.key("a"), nil))
	c.role("r2")
	c.user("alice", "r1", "r2")
	c.user("bob", "r2")
	c.enable()
	alice := c.as("alice")
	_, err := c.KV.Range(alice, &pb.RangeRequest{Key: c.key("a")})
	c.must(err, "range")
	_, err = c.Auth.RoleDelete(c.Ctx, &pb.AuthRoleDeleteRequest{Role: "r1"})
	c.must(err, "delete role")
	equal(c, "roles of alice", c.userRoles("alice"), "r2")
	equal(c, "roles of bob", c.userRoles("bob"), "r2")
	_, err = c.KV.Range(alice, &pb.RangeRequest{Key: c.key("a")})
	c.wantDenied(err)
	c.role("r1", permission(authpb.Permission_READ, c.key("a"), nil))
	_, err = c.KV.Range(alice, &pb.RangeRequest{Key: c.key("a")})
	c.wantDenied(err)
}

// authSelf: everybody may ask for their own user and roles, and for nothing else.
func authSelf(c *C) {
	c.accounts()
	c.role("mine", permission(authpb.Permission_READ, c.key("a"), nil))
	c.role("other")
	c.user("alice", "mine")
	c.user("bob")
	c.enable()
	alice := c.as("alice")
	u, err := c.Auth.UserGet(alice, &pb.AuthUserGetRequest{Name: "alice"})
	c.must(err, "get oneself")
	equal(c, "roles", strings.Join(u.Roles, " "), "mine")
	r, err := c.Auth.RoleGet(alice, &pb.AuthRoleGetRequest{Role: "mine"})
	c.must(err, "get one's role")
	equal(c, "permissions", len(r.Perm), 1)
	for _, name := range []string{"bob", "root", "unknown", ""} {
		_, err = c.Auth.UserGet(alice, &pb.AuthUserGetRequest{Name: name})
		c.wantDenied(err)
	}
	for _, name := range []string{"other", "root", "unknown", ""} {
		_, err = c.Auth.RoleGet(alice, &pb.AuthRoleGetRequest{Role: name})
		c.wantDenied(err)
	}
	_, err = c.Auth.UserChangePassword(alice, &pb.AuthUserChangePasswordRequest{Name: "alice", Password: "p"})
	c.wantDenied(err)
	_, err = c.Auth.UserGet(c.nobody(), &pb.AuthUserGetRequest{Name: "alice"})
	c.wantNobody(err)
	_, err = c.Auth.RoleGet(c.nobody(), &pb.AuthRoleGetRequest{Role: "mine"})
	c.wantNobody(err)
	// Nobody's name is empty, so that nobody may ask for the user of that name.
	_, err = c.Auth.UserGet(c.nobody(), &pb.AuthUserGetRequest{})
	c.wantError(err, codes.FailedPrecondition, msgUserNotFound)
}

// authKinds: what reading, writing and both permit, with a previous record that is asked for.
func authKinds(c *C) {
	c.accounts()
	key := c.key("k")
	for name, kind := range map[string]authpb.Permission_Type{"reader": authpb.Permission_READ, "writer": authpb.Permission_WRITE, "both": authpb.Permission_READWRITE} {
		c.member(name, permission(kind, key, nil))
	}
	c.user("none")
	c.enable()
	users := map[string]context.Context{"none": c.as("none"), "reader": c.as("reader"), "writer": c.as("writer"), "both": c.as("both")}
	for _, tc := range []struct {
		what    string
		allowed string
		call    func(context.Context) error
	}{
		{"put", "writer both", func(ctx context.Context) error {
			_, err := c.KV.Put(ctx, &pb.PutRequest{Key: key})
			return err
		}},
		{"range", "reader both", func(ctx context.Context) error {
			_, err := c.KV.Range(ctx, &pb.RangeRequest{Key: key})
			return err
		}},
		{"count", "reader both", func(ctx context.Context) error {
			_, err := c.KV.Range(ctx, &pb.RangeRequest{Key: key, CountOnly: true})
			return err
		}},
		{"serializable range", "reader both", func(ctx context.Context) error {
			_, err := c.KV.Range(ctx, &pb.RangeRequest{Key: key, Serializable: true})
			return err
		}},
		{"range stream", "reader both", func(ctx context.Context) error {
			stream, err := c.KV.RangeStream(ctx, &pb.RangeRequest{Key: key})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
		{"put with the previous record", "both", func(ctx context.Context) error {
			_, err := c.KV.Put(ctx, &pb.PutRequest{Key: key, PrevKv: true})
			return err
		}},
		{"put that keeps the value", "writer both", func(ctx context.Context) error {
			_, err := c.KV.Put(ctx, &pb.PutRequest{Key: key, IgnoreValue: true})
			return err
		}},
		{"delete with the previous record", "both", func(ctx context.Context) error {
			_, err := c.KV.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, PrevKv: true})
			return err
		}},
		{"delete", "writer both", func(ctx context.Context) error {
			_, err := c.KV.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key})
			return err
		}},
	} {
		for name, ctx := range users {
			if name != "none" && name != "reader" { // for what needs the key
				_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: key})
				c.must(err, "put as root")
			}
			err := tc.call(ctx)
			switch allowed := strings.Contains(" "+tc.allowed+" ", " "+name+" "); {
			case allowed && err != nil:
				c.Errorf("%s as %s: %v", tc.what, name, err)
			case !allowed && (status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != msgDenied):
				c.Errorf("%s as %s: got %v, want %q", tc.what, name, err, msgDenied)
			}
		}
	}
}

// rangeCase is a range, relative to the case's prefix, and whether it is permitted.
type rangeCase struct {
	key, end string
	allowed  bool
}

// fromKey as the end of a rangeCase means every key from key on.
const fromKey = "\x00"

// mayRange compares what ranges a user is permitted. Deletes are permitted as ranges are.
func (c *C) mayRange(user string, cases []rangeCase) {
	c.Helper()
	ctx := c.as(user)
	for _, tc := range cases {
		key, end := c.key(tc.key), []byte(nil)
		switch tc.end {
		case "":
		case fromKey:
			end = []byte{0}
		default:
			end = c.key(tc.end)
		}
		_, read := c.KV.Range(ctx, &pb.RangeRequest{Key: key, RangeEnd: end, CountOnly: true})
		_, deleted := c.KV.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, RangeEnd: end})
		for what, err := range map[string]error{"range": read, "delete": deleted} {
			if tc.allowed && err != nil {
				c.Errorf("%s %q %q as %s: %v", what, tc.key, tc.end, user, err)
			}
			if !tc.allowed && status.Convert(err).Message() != msgDenied {
				c.Errorf("%s %q %q as %s: got %v, want %q", what, tc.key, tc.end, user, err, msgDenied)
			}
		}
	}
}

func authRanges(c *C) {
	c.accounts()
	c.member("alice",
		permission(authpb.Permission_READWRITE, c.key("b"), nil),
		permission(authpb.Permission_READWRITE, c.key("d"), c.key("f")),
	)
	c.member("bob", permission(authpb.Permission_READWRITE, c.key("x"), []byte{0}))
	c.member("carol", permission(authpb.Permission_READWRITE, []byte{0}, []byte{0}))
	c.enable()
	c.mayRange("alice", []rangeCase{
		{"b", "", true}, {"a", "", false}, {"b\x00", "", false}, {"ba", "", false}, {"b", "b\x00", true}, {"b", "b\x01", false},
		{"b", "c", false}, {"b", fromKey, false},
		{"d", "", true}, {"e", "", true}, {"exx", "", true}, {"f", "", false}, {"c", "", false}, {"c\xff\xff", "", false},
		{"d", "f", true}, {"d", "e", true}, {"e", "f", true}, {"d", "f\x00", false}, {"c", "f", false}, {"c\xff", "e", false},
		{"d", fromKey, false}, {"e", fromKey, false}, {"b", "f", false},
	})
	c.mayRange("bob", []rangeCase{
		{"x", "", true}, {"w", "", false}, {"x", fromKey, true}, {"x", "y", true}, {"z", fromKey, true}, {"w", fromKey, false},
		{"w", "y", false}, {"xx", "xy", true},
	})
	c.mayRange("carol", []rangeCase{{"", "", true}, {"a", "", true}, {"a", "z", true}, {"a", fromKey, true}})
	_, err := c.KV.Range(c.as("carol"), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	c.must(err, "range over everything")
	_, err = c.KV.Range(c.as("bob"), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	c.wantDenied(err)
}

// authJoin: what several permissions, of one role or of several, permit together.
func authJoin(c *C) {
	c.accounts()
	c.role("r1", permission(authpb.Permission_READWRITE, c.key("a"), c.key("c")), permission(authpb.Permission_READWRITE, c.key("m"), nil))
	c.role("r2", permission(authpb.Permission_READWRITE, c.key("c"), c.key("e")), permission(authpb.Permission_READWRITE, c.key("d"), c.key("g")),
		permission(authpb.Permission_READWRITE, c.key("m\x00"), c.key("o")))
	c.role("r3", permission(authpb.Permission_READ, c.key("p"), c.key("q")))
	c.role("r4", permission(authpb.Permission_WRITE, c.key("p"), c.key("q")))
	c.user("alice", "r1", "r2", "r3", "r4")
	c.enable()
	c.mayRange("alice", []rangeCase{
		{"a", "c", true}, {"a", "d", true}, {"b", "f", true}, {"a", "g", true}, {"a", "g\x00", false},
		{"m", "n", true}, {"m", "o", true}, {"l", "o", false}, {"a", "o", false},
		{"p", "q", true}, {"p", "", true}, {"o", "q", false},
	})
}

// authAtOnce: the next request feels a change, with the token that there is.
func authAtOnce(c *C) {
	c.accounts()
	c.user("alice")
	c.enable()
	alice := c.as("alice")
	put := func() error {
		_, err := c.KV.Put(alice, &pb.PutRequest{Key: c.key("k")})
		return err
	}
	get := func() error {
		_, err := c.KV.Range(alice, &pb.RangeRequest{Key: c.key("k")})
		return err
	}
	c.wantDenied(put())
	c.role("r")
	c.grantRole("alice", "r")
	c.wantDenied(put())
	c.permit("r", permission(authpb.Permission_WRITE, c.key("k"), nil))
	c.must(put(), "put after it was permitted")
	c.wantDenied(get())
	c.permit("r", permission(authpb.Permission_READ, c.key("k"), nil))
	c.wantDenied(put())
	c.must(get(), "get after it was permitted instead")
	c.permit("r", permission(authpb.Permission_READWRITE, c.key("k"), nil))
	c.must(put(), "put")
	c.forbid("r", c.key("k"), nil)
	c.wantDenied(put())
	c.wantDenied(get())
	c.permit("r", permission(authpb.Permission_READWRITE, c.key("k"), nil))
	c.must(put(), "put")
	c.revokeRole("alice", "r")
	c.wantDenied(put())
	c.wantDenied(get())
}
