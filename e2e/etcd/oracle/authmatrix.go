package oracle

import (
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The matrix asks every RPC, in each form in which it is about keys, leases, members
// or users, as each kind of caller, of both servers, and compares every answer. A cell
// of it is a row, which is a form of an RPC, as one caller; what a cell may have changed
// is put back before the next, also when nobody expects that it changed anything:
// the script has no model of what is permitted.

// span is a range of keys as the wire names it.
type span struct{ key, end string }

// holds tells whether a key is in the range.
func (s span) holds(key string) bool {
	switch s.end {
	case "":
		return key == s.key
	case "\x00":
		return key >= s.key
	}
	return key >= s.key && key < s.end
}

// right is one permission of a role.
type right struct {
	kind authpb.Permission_Type
	span
}

// caller is a kind of caller. One without a name has no token, that of the name "!" a
// token that nobody gave.
type caller struct {
	name string
	// roles are each a role of its own.
	roles [][]right
	// root has the role root.
	root bool
	// gone is deleted, and of ended the password is changed, when they have a token.
	gone, ended bool
}

// callers are all kinds.
func callers() []caller {
	const r, w, rw = authpb.Permission_READ, authpb.Permission_WRITE, authpb.Permission_READWRITE
	one := func(name string, kind authpb.Permission_Type, s span) caller {
		return caller{name: name, roles: [][]right{{{kind, s}}}}
	}
	key, prefix, from, all := span{"m/k", ""}, span{"m/", "m0"}, span{"m/k", "\x00"}, span{"\x00", "\x00"}
	return []caller{
		{name: ""}, {name: "!"}, {name: "root", root: true}, {name: "admin", root: true},
		one("rw-key", rw, key), one("r-key", r, key), one("w-key", w, key),
		one("rw-prefix", rw, prefix), one("r-prefix", r, prefix), one("w-prefix", w, prefix),
		one("rw-from", rw, from), one("r-from", r, from), one("w-from", w, from), one("rw-all", rw, all),
		{name: "split", roles: [][]right{{{r, prefix}}, {{w, key}}}},
		{name: "touching", roles: [][]right{{{rw, span{"m/", "m/k"}}}, {{rw, span{"m/k", "m0"}}}}},
		{name: "stranger"},
		{name: "gone", gone: true, roles: [][]right{{{rw, all}}}},
		{name: "ended", ended: true, roles: [][]right{{{rw, all}}}},
	}
}

// reads tells whether a caller may read a key.
func (c caller) reads(key string) bool {
	switch {
	case c.root:
		return true
	case c.gone || c.ended:
		return false
	}
	for _, role := range c.roles {
		for _, r := range role {
			if r.kind != authpb.Permission_WRITE && r.holds(key) {
				return true
			}
		}
	}
	return false
}

func (c caller) role(n int) string { return fmt.Sprintf("role-%s-%d", c.name, n) }

// Others than callers: the keeper, who has the role root, puts back what a cell
// changed; of visitor and of the role visits it is that users and roles are changed.
const (
	keeper  = "keeper"
	visitor = "visitor"
	visits  = "visits"
)

// The leases, with the keys that have them.
const (
	leaseFree    = 701 + iota // none
	leaseOwn                  // m/k
	leaseForeign              // z/s
	leaseMixed                // m/a and z/t
	leaseUnknown              // there is no such lease
)

// fixture are the keys that there are, with their leases.
func fixture() []*pb.PutRequest {
	return []*pb.PutRequest{
		{Key: []byte("m/a"), Value: []byte("1"), Lease: leaseMixed, PrevKv: true},
		{Key: []byte("m/k"), Value: []byte("2"), Lease: leaseOwn, PrevKv: true},
		{Key: []byte("m/z"), Value: []byte("3"), PrevKv: true},
		{Key: []byte("z/s"), Value: []byte("secret"), Lease: leaseForeign, PrevKv: true},
		{Key: []byte("z/t"), Value: []byte("secret, too"), Lease: leaseMixed, PrevKv: true},
	}
}

// matrixMode is what a matrix is asked under.
type matrixMode struct {
	name  string
	flags []string
	// off turns authentication off before anything is asked.
	off bool
	// signed tells that tokens are JWTs; stale that users change after tokens were given.
	signed, stale bool
	callers       []caller
	rows          []matrixRow
}

// matrixRow is a form of an RPC.
type matrixRow struct {
	rpc, what string
	// before is done by the keeper. ask makes the caller's request; after puts back what it may
	// have changed. before and after may be nil.
	before func(*matrix)
	ask    func(*matrix) *Step
	after  func(*matrix)
}

// cell is a row as one caller: the steps from first up to end, of which that at asked is the caller's.
type cell struct {
	row               matrixRow
	caller            caller
	first, asked, end int
}

func (c cell) String() string {
	return fmt.Sprintf("%s, %s, as %q", c.row.rpc, c.row.what, c.caller.name)
}

// matrix is a script under way.
type matrix struct {
	mode   matrixMode
	steps  []Step
	cells  []cell
	caller caller // of the cell under way
	binds  int
}

// newMatrix makes the script of a mode.
func newMatrix(mode matrixMode) *matrix {
	m := &matrix{mode: mode}
	m.found()
	for _, row := range mode.rows {
		for _, c := range mode.callers {
			m.caller = c
			one := cell{row: row, caller: c, first: len(m.steps)}
			if row.before != nil {
				row.before(m)
			}
			one.asked = len(m.steps)
			row.ask(m)
			if row.after != nil {
				row.after(m)
			}
			one.end = len(m.steps)
			m.cells = append(m.cells, one)
		}
	}
	if !mode.off {
		m.changesInUse()
	}
	return m
}

// as makes a call of a user.
func (m *matrix) as(user, rpc string, request proto.Message) *Step {
	m.steps = append(m.steps, Step{Verb: rpc, As: user, Requests: []proto.Message{request}})
	return &m.steps[len(m.steps)-1]
}

// keep makes a call of the keeper, who needs no token while authentication is off.
func (m *matrix) keep(rpc string, request proto.Message) *Step {
	if m.mode.off {
		return m.as("", rpc, request)
	}
	return m.as(keeper, rpc, request)
}

// call makes the call of the cell's caller.
func (m *matrix) call(rpc string, request proto.Message) *Step {
	return m.as(m.caller.name, rpc, request)
}

// bind is a number that no symbol has yet.
func (m *matrix) bind() int {
	m.binds++
	return m.binds
}

// known are the callers of the mode that have an account.
func (m *matrix) known() []caller {
	return slices.DeleteFunc(slices.Clone(m.mode.callers), func(c caller) bool { return c.name == "" || c.name == "!" })
}

// found makes leases, keys and users, turns authentication on, and gets tokens.
func (m *matrix) found() {
	for id := int64(leaseFree); id < leaseUnknown; id++ {
		m.as("", "Lease.LeaseGrant", &pb.LeaseGrantRequest{ID: id, TTL: 100_000})
	}
	for _, p := range fixture() {
		m.as("", "KV.Put", p)
		m.as("", "KV.Put", p) // so that there is something to compact
	}
	m.as("", "KV.Compact", &pb.CompactionRequest{Revision: now(-2), Physical: true})
	m.as("", "Auth.UserAdd", &pb.AuthUserAddRequest{Name: keeper, Password: password})
	m.as("", "Auth.UserAdd", &pb.AuthUserAddRequest{Name: "root", Password: password})
	m.as("", "Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: "root"})
	m.as("", "Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: keeper, Role: "root"})
	m.as("", "Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	for _, c := range m.known() {
		m.foundUser(c)
	}
	m.as("", "Auth.AuthEnable", &pb.AuthEnableRequest{})
	m.login(keeper)
	for _, c := range m.known() {
		switch {
		case c.gone:
			m.login(c.name)
			m.as(keeper, "Auth.UserDelete", &pb.AuthUserDeleteRequest{Name: c.name})
		case c.ended:
			m.login(c.name)
			m.as(keeper, "Auth.UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: c.name, Password: password})
		}
	}
	if !m.mode.off {
		m.restoreAccounts()
	}
	m.loginAll()
	switch {
	case m.mode.off:
		m.as(keeper, "Auth.AuthDisable", &pb.AuthDisableRequest{})
		m.restoreAccounts()
	case m.mode.stale:
		m.as(keeper, "Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: "later"})
		m.login(keeper)
	}
}

func (m *matrix) foundUser(c caller) {
	if c.name != "root" {
		m.as("", "Auth.UserAdd", &pb.AuthUserAddRequest{Name: c.name, Password: password})
		if c.root {
			m.as("", "Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: c.name, Role: "root"})
		}
	}
	for n, rights := range c.roles {
		m.as("", "Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: c.role(n)})
		for _, r := range rights {
			m.as("", "Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: c.role(n), Perm: &authpb.Permission{
				PermType: r.kind, Key: []byte(r.key), RangeEnd: []byte(r.end)}})
		}
		m.as("", "Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: c.name, Role: c.role(n)})
	}
}

func (m *matrix) login(user string) {
	m.as("", "Auth.Authenticate", &pb.AuthenticateRequest{Name: user, Password: password})
}

// loginAll gets tokens for all who can have one.
func (m *matrix) loginAll() {
	m.login(keeper)
	for _, c := range m.known() {
		if !c.gone && !c.ended {
			m.login(c.name)
		}
	}
}

// restoreKeys gives every key its value and its lease, and so tells what the cell did to them.
func (m *matrix) restoreKeys() {
	t := &pb.TxnRequest{}
	for _, p := range fixture() {
		t.Success = append(t.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
	}
	m.keep("KV.Txn", t)
}

// restoreLeases grants those that were revoked, and attaches them again.
func (m *matrix) restoreLeases() {
	for id := int64(leaseFree); id < leaseUnknown; id++ {
		m.keep("Lease.LeaseGrant", &pb.LeaseGrantRequest{ID: id, TTL: 100_000})
	}
	m.restoreKeys()
}

// restoreAccounts makes visitor and visits anew.
func (m *matrix) restoreAccounts() {
	for _, name := range []string{visitor, visitor + "2"} {
		m.keep("Auth.UserDelete", &pb.AuthUserDeleteRequest{Name: name})
	}
	for _, name := range []string{visits, visits + "2"} {
		m.keep("Auth.RoleDelete", &pb.AuthRoleDeleteRequest{Role: name})
	}
	m.keep("Auth.UserAdd", &pb.AuthUserAddRequest{Name: visitor, Password: password})
	m.keep("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: visits})
	m.keep("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: visits, Perm: &authpb.Permission{Key: []byte("m/k")}})
	m.keep("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: visitor, Role: visits})
}

// undoAccounts puts back what a cell did to visitor and visits. Since users change, the keeper
// needs a new token, if tokens are signed.
func (m *matrix) undoAccounts() {
	m.restoreAccounts()
	if m.mode.signed {
		m.login(keeper)
	}
}

// restoreSwitch turns authentication on again, or off, whatever it is.
func (m *matrix) restoreSwitch() {
	switch {
	case m.mode.off:
		m.login(keeper)
		m.as(keeper, "Auth.AuthDisable", &pb.AuthDisableRequest{})
	case m.mode.signed:
		m.as("", "Auth.AuthEnable", &pb.AuthEnableRequest{})
		m.undoAccounts()
	default:
		m.as("", "Auth.AuthEnable", &pb.AuthEnableRequest{})
		m.loginAll()
	}
}

// changesInUse takes away, one after the other, what a user has who is watching.
func (m *matrix) changesInUse() {
	c := caller{name: "leaver", roles: [][]right{{{authpb.Permission_READWRITE, span{"m/", "m0"}}}}}
	perm := &authpb.Permission{PermType: authpb.Permission_READWRITE, Key: []byte("m/"), RangeEnd: []byte("m0")}
	get := func() {
		m.as(c.name, "KV.Range", &pb.RangeRequest{Key: []byte("m/k")})
		m.as(c.name, "KV.Put", &pb.PutRequest{Key: []byte("m/k"), Value: []byte("by who leaves"), PrevKv: true})
		m.watch(1, c.name, &pb.WatchCreateRequest{Key: []byte("m/k")})
		m.keep("KV.Put", &pb.PutRequest{Key: []byte("m/k"), Value: []byte("by the keeper")})
	}
	m.keep("Auth.UserAdd", &pb.AuthUserAddRequest{Name: c.name, Password: password})
	m.keep("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: c.role(0)})
	m.keep("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: c.role(0), Perm: perm})
	m.keep("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: c.name, Role: c.role(0)})
	step := func(rpc string, request proto.Message) {
		m.keep(rpc, request)
		if m.mode.signed {
			m.login(keeper)
		}
		get()
	}
	m.login(keeper)
	m.login(c.name)
	get()
	step("Auth.RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: c.role(0), Key: perm.Key, RangeEnd: perm.RangeEnd})
	step("Auth.RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: c.role(0), Perm: perm})
	step("Auth.UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: c.name, Role: c.role(0)})
	step("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: c.name, Role: c.role(0)})
	step("Auth.RoleDelete", &pb.AuthRoleDeleteRequest{Role: c.role(0)})
	step("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: c.role(0)})
	step("Auth.UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: c.name, Password: password})
	m.login(c.name)
	step("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: c.name, Role: "root"})
	step("Auth.UserDelete", &pb.AuthUserDeleteRequest{Name: c.name})
	m.keep("Auth.AuthDisable", &pb.AuthDisableRequest{})
	get()
	m.steps = append(m.steps, Step{Verb: verbClose, Stream: 1})
}

// watch creates a watch on a stream that a user opens.
func (m *matrix) watch(stream int, user string, create *pb.WatchCreateRequest) *Step {
	s := m.as(user, "Watch.Watch", &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	s.Stream = stream
	return s
}

// shownKeys are the keys of which a message tells more than its caller said: those of
// records and events, and those of a lease.
func shownKeys(m proto.Message) (keys [][]byte) {
	var walk func(protoreflect.Message)
	walk = func(m protoreflect.Message) {
		switch r := m.Interface().(type) {
		case *mvccpb.KeyValue:
			keys = append(keys, r.Key)
			return
		case *pb.LeaseTimeToLiveResponse:
			keys = append(keys, r.Keys...)
		}
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.Message() == nil || f.IsMap():
			case f.IsList():
				for i := range v.List().Len() {
					walk(v.List().Get(i).Message())
				}
			default:
				walk(v.Message())
			}
			return true
		})
	}
	walk(m.ProtoReflect())
	return keys
}

// leaks lists the keys that the answers to a cell show a caller who may not read them.
func (m *matrix) leaks(c cell, answers []Answer) (keys []string) {
	if m.mode.off {
		return nil
	}
	messages := slices.Clone(answers[c.asked].Replies)
	for _, a := range answers[c.first:c.end] {
		for _, w := range a.watched() {
			messages = append(messages, w)
		}
	}
	for _, message := range messages {
		for _, key := range shownKeys(message) {
			if !c.caller.reads(string(key)) || m.mode.stale && !c.caller.root {
				keys = append(keys, string(key))
			}
		}
	}
	return keys
}

// watched are the messages of watch streams.
func (a Answer) watched() []*pb.WatchResponse {
	out := make([]*pb.WatchResponse, len(a.Watched))
	for i, w := range a.Watched {
		out[i] = w.message
	}
	return out
}
