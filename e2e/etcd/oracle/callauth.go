package oracle

import (
	"encoding/base64"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func authCalls() []call {
	return []call{
		{"Auth.AuthEnable", 6, 40, (*generator).authEnable, (*generator).badAuthEnable},
		{"Auth.AuthDisable", 6, 40, (*generator).authDisable, nil},
		{"Auth.AuthStatus", 4, 40, func(g *generator) { g.add("Auth.AuthStatus", &pb.AuthStatusRequest{}) }, nil},
		{"Auth.Authenticate", 2, 50, (*generator).authenticate, (*generator).badAuthenticate},
		{"Auth.UserAdd", 2, 40, (*generator).userAdd, (*generator).badUserAdd},
		{"Auth.UserGet", 10, 40, func(g *generator) { g.add("Auth.UserGet", &pb.AuthUserGetRequest{Name: pick(g, g.aUser(), "root")}) }, (*generator).badUserGet},
		{"Auth.UserList", 7, 40, func(g *generator) { g.add("Auth.UserList", &pb.AuthUserListRequest{}) }, nil},
		{"Auth.UserDelete", 8, 40, (*generator).userDelete, (*generator).badUserDelete},
		{"Auth.UserChangePassword", 3, 55, (*generator).changePassword, (*generator).badChangePassword},
		{"Auth.UserGrantRole", 3, 40, func(g *generator) {
			g.add("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: g.aUser(), Role: g.aRole()})
		}, (*generator).badUserGrantRole},
		{"Auth.UserRevokeRole", 7, 40, (*generator).userRevokeRole, (*generator).badUserRevokeRole},
		{"Auth.RoleAdd", 4, 40, (*generator).roleAdd, (*generator).badRoleAdd},
		{"Auth.RoleGet", 9, 40, func(g *generator) { g.add("Auth.RoleGet", &pb.AuthRoleGetRequest{Role: pick(g, g.aRole(), "root")}) }, (*generator).badRoleGet},
		{"Auth.RoleList", 7, 40, func(g *generator) { g.add("Auth.RoleList", &pb.AuthRoleListRequest{}) }, nil},
		{"Auth.RoleDelete", 5, 40, (*generator).roleDelete, (*generator).badRoleDelete},
		{"Auth.RoleGrantPermission", 3, 40, (*generator).grantPermission, (*generator).badGrantPermission},
		{"Auth.RoleRevokePermission", 9, 40, (*generator).revokePermission, (*generator).badRevokePermission},
	}
}

// password is every user's at first.
const password = "secret"

func users() []string { return []string{"u1", "u2", "u3", "certified"} }
func roles() []string { return []string{"r1", "r2", "r3"} }

// aUser is a name that may be a user's, seldom root's.
func (g *generator) aUser() string { return pick(g, users()...) }
func (g *generator) aRole() string { return pick(g, roles()...) }

// enableAuth founds users and roles and turns authentication on.
func (g *generator) enableAuth() {
	g.user = ""
	g.add("Auth.AuthEnable", &pb.AuthEnableRequest{}, 40)
	g.add("Auth.Authenticate", &pb.AuthenticateRequest{Name: "root", Password: password}, 41)
	g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Name: "root", Password: password})
	g.add("Auth.AuthEnable", &pb.AuthEnableRequest{}, 40)
	g.add("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: "root"})
	g.add("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	g.foundUsers()
	g.turnOn()
}

// foundUsers adds users, and roles with permissions.
func (g *generator) foundUsers() {
	for i, u := range users() {
		if i < len(roles()) {
			g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Name: u, Password: password})
			g.add("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: roles()[i]})
			g.grantPermission()
			g.add("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: u, Role: roles()[i]})
		} else {
			g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Name: u, Options: &authpb.UserAddOptions{NoPassword: true}})
		}
	}
}

func (g *generator) turnOn() {
	g.add("Auth.AuthEnable", &pb.AuthEnableRequest{})
	g.logIn()
}

// logIn gets tokens; those of before a kill are not used any more (see restart).
func (g *generator) logIn() {
	for _, u := range append([]string{"root"}, users()[:2]...) {
		g.add("Auth.Authenticate", &pb.AuthenticateRequest{Name: u, Password: password})
	}
}

// impersonate chooses who makes the next calls.
func (g *generator) impersonate() {
	switch n := g.IntN(20); {
	case n < 14:
		g.user = "root"
	case n < 18:
		g.user = pick(g, users()[:3]...)
	case n < 19:
		g.user = ""
	default:
		g.user = "!"
	}
	if g.IntN(12) == 0 { // what its user may not ask for
		was := g.user
		switch g.IntN(4) {
		case 0:
			g.user = ""
			g.anything(45)
		case 1:
			g.user = "!"
			g.anything(46)
		case 2:
			g.user = "u3"
			g.add("KV.Compact", &pb.CompactionRequest{Revision: now(0)}, 48)
			g.add("KV.Range", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, 48)
			g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Name: "u6", Password: password}, 48)
		default:
			g.user = "u1"
			create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}}
			g.script = append(g.script, Step{Verb: verbClose, Stream: 3})
			g.watchStep(3, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}, 31)
		}
		g.user = was
	}
}

// anything is a call of an RPC that asks who calls.
func (g *generator) anything(row int) {
	calls := []struct {
		rpc     string
		request proto.Message
	}{
		{"KV.Range", &pb.RangeRequest{Key: g.key()}}, {"KV.Put", &pb.PutRequest{Key: g.key()}},
		{"Lease.LeaseGrant", &pb.LeaseGrantRequest{TTL: g.aTTL(), ID: 77}}, {"Cluster.MemberList", &pb.MemberListRequest{}},
		{"Maintenance.Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 99, Alarm: pb.AlarmType_NOSPACE}},
		{"Maintenance.Status", &pb.StatusRequest{}}, {"Maintenance.Defragment", &pb.DefragmentRequest{}}, {"Maintenance.Snapshot", &pb.SnapshotRequest{}},
	}
	for _, at := range []int{g.IntN(len(calls)), g.IntN(len(calls))} {
		g.add(calls[at].rpc, calls[at].request, row)
	}
}

func (g *generator) authEnable() {
	g.turnOn()
}

// badAuthEnable takes from root what it needs. In a profile without authentication root
// never gets it.
func (g *generator) badAuthEnable() {
	if !g.profile.auth {
		g.add("Auth.AuthEnable", &pb.AuthEnableRequest{}, 40)
		return
	}
	was := g.user
	g.user = "root"
	g.add("Auth.AuthDisable", &pb.AuthDisableRequest{})
	g.user = ""
	g.add("Auth.UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"})
	g.add("Auth.AuthEnable", &pb.AuthEnableRequest{}, 40)
	g.add("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	g.turnOn()
	g.user = was
}

// authDisable turns authentication off for some calls.
func (g *generator) authDisable() {
	was := g.user
	g.user = "root"
	g.add("Auth.AuthDisable", &pb.AuthDisableRequest{})
	g.user = ""
	for range g.IntN(4) {
		g.add("KV.Put", &pb.PutRequest{Key: g.key(), Value: g.value()})
		g.add("Auth.AuthStatus", &pb.AuthStatusRequest{})
	}
	g.add("Auth.Authenticate", &pb.AuthenticateRequest{Name: "root", Password: password}, 41)
	g.turnOn()
	g.user = was
}

func (g *generator) authenticate() {
	g.add("Auth.Authenticate", &pb.AuthenticateRequest{Name: pick(g, "root", "u1", "u2", "u3"), Password: password})
}

func (g *generator) badAuthenticate() {
	g.add("Auth.Authenticate", &pb.AuthenticateRequest{
		Name: pick(g, "root", "u1", "nobody", "certified", ""), Password: pick(g, "wrong", "", "Secret"),
	}, 47)
}

// hashed is the password as etcd's client may send it: bcrypt's of cost 4, in base64.
func hashed() string {
	return base64.StdEncoding.EncodeToString([]byte("$2a$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"))
}

func (g *generator) userAdd() {
	r := &pb.AuthUserAddRequest{Name: g.aUser(), Password: password}
	switch g.IntN(4) {
	case 0:
		r.Password, r.HashedPassword = "", hashed()
	case 1:
		r.Password, r.Options = "", &authpb.UserAddOptions{NoPassword: true}
	}
	g.add("Auth.UserAdd", r)
}

// userDelete deletes a user who mostly exists, and mostly adds another of that name.
func (g *generator) userDelete() {
	name := g.aUser()
	if g.chance(40) {
		g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Name: name, Password: password})
	}
	g.add("Auth.UserDelete", &pb.AuthUserDeleteRequest{Name: name})
	if g.chance(60) {
		g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Name: name, Password: password})
		g.add("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: name, Role: g.aRole()})
	}
}

// roleAdd adds a role that mostly does not exist yet, with a permission.
func (g *generator) roleAdd() {
	name := g.aRole()
	if g.chance(60) {
		g.add("Auth.RoleDelete", &pb.AuthRoleDeleteRequest{Role: name})
	}
	g.add("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: name})
	g.add("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: name, Perm: g.permission()})
}

// roleDelete deletes a role that mostly exists.
func (g *generator) roleDelete() {
	name := g.aRole()
	if g.chance(60) {
		g.add("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: name})
	}
	g.add("Auth.RoleDelete", &pb.AuthRoleDeleteRequest{Role: name})
	if g.chance(60) {
		g.add("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: name})
	}
}

func (g *generator) badUserAdd() {
	switch g.IntN(4) {
	case 0:
		g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Password: password}, 42)
	case 1:
		g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Name: "u4", HashedPassword: "not base64!"})
		g.add("Auth.UserDelete", &pb.AuthUserDeleteRequest{Name: "u4"})
	case 2:
		g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Name: "u5"}) // an empty password
		g.add("Auth.UserDelete", &pb.AuthUserDeleteRequest{Name: "u5"})
	default:
		g.add("Auth.UserAdd", &pb.AuthUserAddRequest{Name: "root", Password: password}, 43)
	}
}

func (g *generator) badUserGet() {
	g.add("Auth.UserGet", &pb.AuthUserGetRequest{Name: pick(g, "nobody", "")}, 43)
}

func (g *generator) badUserDelete() {
	if g.chance(40) {
		was := g.user
		g.user = "root"
		g.add("Auth.UserDelete", &pb.AuthUserDeleteRequest{Name: "root"}, 49)
		g.user = was
		return
	}
	g.add("Auth.UserDelete", &pb.AuthUserDeleteRequest{Name: pick(g, "nobody", "")}, 43)
}

// changePassword sets it to what it is, so that others may log in; tokens end all the same.
func (g *generator) changePassword() {
	u := g.aUser()
	r := &pb.AuthUserChangePasswordRequest{Name: u, Password: password}
	if g.chance(30) {
		r.Password, r.HashedPassword = "", hashed()
	}
	g.add("Auth.UserChangePassword", r)
	was := g.user
	g.user = u
	g.add("KV.Range", &pb.RangeRequest{Key: g.key()}, 46)
	g.user = was
	g.add("Auth.Authenticate", &pb.AuthenticateRequest{Name: u, Password: password})
}

func (g *generator) badChangePassword() {
	g.add("Auth.UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: pick(g, "nobody", ""), Password: password}, 43)
}

func (g *generator) badUserGrantRole() {
	g.add("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: pick(g, "nobody", "u1", ""), Role: pick(g, "no role", "")}, 43)
}

func (g *generator) userRevokeRole() {
	u, r := g.aUser(), g.aRole()
	g.add("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: u, Role: r})
	g.add("Auth.UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: u, Role: r})
}

func (g *generator) badUserRevokeRole() {
	if g.profile.auth && g.chance(30) {
		g.add("Auth.UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"})
		g.add("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
		return
	}
	g.add("Auth.UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: pick(g, "nobody", "u1", ""), Role: pick(g, "no role", "root", "")}, 43)
}

func (g *generator) badRoleAdd() {
	if g.chance(40) {
		g.add("Auth.RoleAdd", &pb.AuthRoleAddRequest{}, 42)
		return
	}
	g.add("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: "root"}, 43)
}

func (g *generator) badRoleGet() {
	g.add("Auth.RoleGet", &pb.AuthRoleGetRequest{Role: pick(g, "no role", "")}, 43)
}

func (g *generator) badRoleDelete() {
	if g.chance(40) {
		was := g.user
		g.user = "root"
		g.add("Auth.RoleDelete", &pb.AuthRoleDeleteRequest{Role: "root"}, 49)
		g.user = was
		return
	}
	g.add("Auth.RoleDelete", &pb.AuthRoleDeleteRequest{Role: pick(g, "no role", "")}, 43)
}

// permission is a right to a key, a prefix, all from a key on, or everything.
func (g *generator) permission() *authpb.Permission {
	p := &authpb.Permission{PermType: authpb.Permission_Type(g.IntN(3))}
	p.Key, p.RangeEnd = g.keyRange()
	return p
}

func (g *generator) grantPermission() {
	g.add("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: g.aRole(), Perm: g.permission()})
}

func (g *generator) badGrantPermission() {
	switch g.IntN(5) {
	case 0:
		g.add("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: g.aRole()}, 44)
	case 1:
		g.add("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: "no role", Perm: g.permission()}, 43)
	case 2:
		p := g.permission()
		p.PermType = authpb.Permission_Type(pick(g, 3, 9, -1))
		g.add("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: "r3", Perm: p}, 34)
		g.add("Auth.RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: "r3", Key: p.Key, RangeEnd: p.RangeEnd})
	case 3:
		g.add("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: g.aRole(), Perm: &authpb.Permission{RangeEnd: pick(g, nil, []byte("k/05"))}})
	default:
		p := g.permission()
		p.Key, p.RangeEnd = []byte("k/05"), []byte(pick(g, "k/05", "k/01"))
		g.add("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: g.aRole(), Perm: p})
	}
}

func (g *generator) revokePermission() {
	role, p := g.aRole(), g.permission()
	g.add("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: p})
	g.add("Auth.RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: role, Key: p.Key, RangeEnd: p.RangeEnd})
}

func (g *generator) badRevokePermission() {
	g.add("Auth.RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{
		Role: pick(g, "no role", "r1", "r2", ""), Key: []byte(pick(g, "never granted", "")), RangeEnd: pick(g, nil, []byte{0}),
	}, 43)
}
