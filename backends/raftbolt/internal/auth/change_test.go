package auth

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
)

// file is the buckets as a store keeps them.
type file map[Bucket]map[string][]byte

func (f file) write(writes []Write) {
	for _, w := range writes {
		if f[w.Bucket] == nil {
			f[w.Bucket] = map[string][]byte{}
		}
		if w.Value == nil {
			delete(f[w.Bucket], string(w.Key))
		} else {
			f[w.Bucket][string(w.Key)] = w.Value
		}
	}
}

func (f file) each(b Bucket, visit func(key, value []byte)) error {
	for k, v := range f[b] {
		visit([]byte(k), v)
	}
	return nil
}

// world is a State that changes one by one, with its file.
type world struct {
	t    *testing.T
	now  *State
	file file
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, file: file{}}
	w.file.write([]Write{Founding()})
	w.load()
	return w
}

func (w *world) load() {
	w.t.Helper()
	s, err := Load(w.file.each)
	if err != nil {
		w.t.Fatal(err)
	}
	w.now = s
}

func (w *world) apply(caller backends.Caller, c Change) (Outcome, error) {
	out, err := w.now.Apply(&caller, &c)
	if err == nil {
		w.file.write(out.Writes)
		w.now = out.State
	}
	return out, err
}

// do applies a change as root, which must succeed.
func (w *world) do(c Change) Outcome {
	w.t.Helper()
	out, err := w.apply(w.caller("root"), c)
	if err != nil {
		w.t.Fatalf("%v: %v", c.Kind, err)
	}
	return out
}

// caller is a user identified now.
func (w *world) caller(name string) backends.Caller {
	return backends.Caller{User: name, AuthRevision: w.now.Revision()}
}

func keys(key, end string) backends.KeyRange {
	return backends.KeyRange{Key: []byte(key), End: []byte(end)}
}

func grant(role string, kind backends.PermissionKind, key, end string) Change {
	return Change{Kind: RoleGrant, Role: role, Permission: &backends.Permission{Kind: kind, KeyRange: keys(key, end)}}
}

// enabled is a world with authentication on: root; alice, who may read [a, c) and
// write b; carl, who has no role.
func enabled(t *testing.T) *world {
	w := newWorld(t)
	w.do(Change{Kind: UserAdd, User: "root", Password: []byte("h")})
	w.do(Change{Kind: RoleAdd, Role: "root"})
	w.do(Change{Kind: UserGrant, User: "root", Role: "root"})
	w.do(Change{Kind: UserAdd, User: "alice", Password: []byte("h")})
	w.do(Change{Kind: UserAdd, User: "carl", NoPassword: true})
	w.do(Change{Kind: RoleAdd, Role: "reader"})
	w.do(grant("reader", backends.PermissionRead, "a", "c"))
	w.do(Change{Kind: RoleAdd, Role: "writer"})
	w.do(grant("writer", backends.PermissionWrite, "b", ""))
	w.do(Change{Kind: UserGrant, User: "alice", Role: "reader"})
	w.do(Change{Kind: UserGrant, User: "alice", Role: "writer"})
	w.do(Change{Kind: Enable})
	return w
}

// dump is all that a State is made of.
func (s *State) dump() string {
	var b strings.Builder
	fmt.Fprintf(&b, "enabled %v revision %d\n", s.enabled, s.revision)
	for _, name := range slices.Sorted(maps.Keys(s.users)) {
		fmt.Fprintf(&b, "user %q: %v\n", name, s.users[name].record)
	}
	for _, name := range slices.Sorted(maps.Keys(s.roles)) {
		fmt.Fprintf(&b, "role %q: %v\n", name, s.roles[name].record)
	}
	return b.String()
}

// TestChangeErrors ensures etcd's errors, in etcd's order (auth/store.go).
func TestChangeErrors(t *testing.T) {
	long := strings.Repeat("n", maxNameBytes+1)
	for _, on := range []bool{false, true} {
		w := enabled(t)
		if !on {
			w.do(Change{Kind: Disable})
		}
		whileOn := func(err error) error {
			if on {
				return err
			}
			return nil
		}
		root, alice, nobody, gone := w.caller("root"), w.caller("alice"), backends.Caller{}, w.caller("gone")
		for i, c := range []struct {
			caller backends.Caller
			change Change
			want   error
		}{
			{nobody, Change{Kind: UserAdd, User: "x"}, whileOn(backends.ErrUserEmpty)},
			{gone, Change{Kind: UserAdd, User: "x"}, whileOn(backends.ErrUserNotFound)},
			{alice, Change{Kind: UserAdd, User: "x"}, whileOn(backends.ErrPermissionDenied)},
			{alice, Change{Kind: Enable}, whileOn(backends.ErrPermissionDenied)},
			// An administrator's revision does not matter.
			{backends.Caller{User: "root", AuthRevision: 1}, Change{Kind: UserAdd, User: "x"}, nil},
			{root, Change{Kind: UserAdd}, backends.ErrUserEmpty},
			{root, Change{Kind: UserAdd, User: "alice"}, backends.ErrUserAlreadyExist},
			{root, Change{Kind: UserAdd, User: long}, backends.ErrRequestTooLarge},
			{root, Change{Kind: UserAdd, User: "\xff"}, backends.ErrInvalidAuthMgmt},
			{root, Change{Kind: UserDelete, User: "x"}, backends.ErrUserNotFound},
			{root, Change{Kind: UserDelete}, backends.ErrUserNotFound},
			{root, Change{Kind: UserDelete, User: "root"}, whileOn(backends.ErrInvalidAuthMgmt)},
			{root, Change{Kind: UserPassword, User: "x"}, backends.ErrUserNotFound},
			{root, Change{Kind: UserPassword, User: "x", BadPassword: true}, backends.ErrUserNotFound},
			{root, Change{Kind: UserPassword, User: "alice", BadPassword: true}, backends.ErrNoPasswordUser},
			{root, Change{Kind: UserPassword, User: "carl", BadPassword: true}, nil},
			{root, Change{Kind: UserPassword, User: "carl", Password: []byte("h")}, nil},
			{root, Change{Kind: UserGrant, User: "x", Role: "y"}, backends.ErrUserNotFound},
			{root, Change{Kind: UserGrant, User: "alice", Role: "y"}, backends.ErrRoleNotFound},
			{root, Change{Kind: UserGrant, User: "alice", Role: "reader"}, nil},
			{root, Change{Kind: UserRevoke, User: "x", Role: "reader"}, backends.ErrUserNotFound},
			{root, Change{Kind: UserRevoke, User: "alice", Role: "root"}, backends.ErrRoleNotGranted},
			{root, Change{Kind: UserRevoke, User: "root", Role: "root"}, whileOn(backends.ErrInvalidAuthMgmt)},
			{root, Change{Kind: RoleAdd}, backends.ErrRoleEmpty},
			{root, Change{Kind: RoleAdd, Role: "reader"}, backends.ErrRoleAlreadyExist},
			{root, Change{Kind: RoleAdd, Role: long}, backends.ErrRequestTooLarge},
			{root, Change{Kind: RoleDelete, Role: "x"}, backends.ErrRoleNotFound},
			{root, Change{Kind: RoleDelete, Role: "root"}, whileOn(backends.ErrInvalidAuthMgmt)},
			{root, Change{Kind: RoleGrant, Role: "x"}, backends.ErrPermissionNotGiven},
			{root, grant("x", 0, "", "b"), backends.ErrInvalidAuthMgmt},
			{root, grant("reader", 0, "b", "b"), backends.ErrInvalidAuthMgmt},
			{root, grant("reader", 0, "b", "a"), backends.ErrInvalidAuthMgmt},
			{root, grant("x", 0, "a", "b"), backends.ErrRoleNotFound},
			{root, grant("reader", 0, "a", "\x00"), nil},
			{root, Change{Kind: RoleRevoke, Role: "x", Keys: keys("a", "c")}, backends.ErrRoleNotFound},
			{root, Change{Kind: RoleRevoke, Role: "reader", Keys: keys("a", "d")}, backends.ErrPermissionNotGranted},
		} {
			before := w.now.dump()
			if _, err := w.now.Apply(&c.caller, &c.change); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("on %v, %d: %v by %q: %v, want %v", on, i, c.change.Kind, c.caller.User, err, c.want)
			}
			if after := w.now.dump(); after != before {
				t.Errorf("on %v, %d: %v changed a State", on, i, c.change.Kind)
			}
		}
	}
}

func TestEnableErrors(t *testing.T) {
	w := newWorld(t)
	if _, err := w.apply(backends.Caller{}, Change{Kind: Enable}); !errors.Is(err, backends.ErrRootUserNotExist) {
		t.Error(err)
	}
	w.do(Change{Kind: UserAdd, User: "root"})
	if _, err := w.apply(backends.Caller{}, Change{Kind: Enable}); !errors.Is(err, backends.ErrRootRoleNotExist) {
		t.Error(err)
	}
	// The role root need not exist to be granted.
	w.do(Change{Kind: UserGrant, User: "root", Role: "root"})
	w.do(Change{Kind: Enable})
	if !w.now.Enabled() {
		t.Error("not enabled")
	}
}

// TestAuthRevision ensures that the auth revision grows exactly when etcd's does:
// with each change that changes something, but not with enabling.
func TestAuthRevision(t *testing.T) {
	w := newWorld(t)
	if w.now.Revision() != 1 {
		t.Fatalf("a new store has auth revision %d", w.now.Revision())
	}
	for i, c := range []struct {
		change Change
		grows  uint64
	}{
		{Change{Kind: Disable}, 0},
		{Change{Kind: UserAdd, User: "root"}, 1},
		{Change{Kind: RoleAdd, Role: "root"}, 1},
		{Change{Kind: UserGrant, User: "root", Role: "root"}, 1},
		{Change{Kind: UserGrant, User: "root", Role: "root"}, 0},
		{Change{Kind: Enable}, 0},
		{Change{Kind: Enable}, 0},
		{Change{Kind: UserPassword, User: "root", Password: []byte("h")}, 1},
		{Change{Kind: RoleAdd, Role: "r"}, 1},
		{grant("r", backends.PermissionRead, "a", "b"), 1},
		{grant("r", backends.PermissionRead, "a", "b"), 1},
		{Change{Kind: UserAdd, User: "u"}, 1},
		{Change{Kind: UserGrant, User: "u", Role: "r"}, 1},
		{Change{Kind: UserRevoke, User: "u", Role: "r"}, 1},
		{Change{Kind: RoleRevoke, Role: "r", Keys: keys("a", "b")}, 1},
		{Change{Kind: RoleDelete, Role: "r"}, 1},
		{Change{Kind: UserDelete, User: "u"}, 1},
		{Change{Kind: Disable}, 1},
		{Change{Kind: Disable}, 0},
		{Change{Kind: Enable}, 0},
	} {
		before := w.now.Revision()
		w.do(c.change)
		if w.now.Revision() != before+c.grows {
			t.Errorf("%d: %v: auth revision %d after %d", i, c.change.Kind, w.now.Revision(), before)
		}
		kept := w.now.dump()
		if w.load(); w.now.dump() != kept {
			t.Errorf("%d: %v: the store has %s, want %s", i, c.change.Kind, w.now.dump(), kept)
		}
	}
}

// TestTokensEnd ensures who loses tokens.
func TestTokensEnd(t *testing.T) {
	for _, c := range []struct {
		change Change
		user   string
		all    bool
	}{
		{Change{Kind: UserPassword, User: "alice"}, "alice", false},
		{Change{Kind: UserDelete, User: "alice"}, "alice", false},
		{Change{Kind: Disable}, "", true},
		{Change{Kind: UserRevoke, User: "alice", Role: "reader"}, "", false},
		{Change{Kind: RoleDelete, Role: "reader"}, "", false},
	} {
		if out := enabled(t).do(c.change); out.EndUser != c.user || out.EndAll != c.all {
			t.Errorf("%v ends the tokens of %q, all %v", c.change.Kind, out.EndUser, out.EndAll)
		}
	}
}

// TestRecords ensures etcd's bytes (server/storage/schema/auth*.go).
func TestRecords(t *testing.T) {
	w := enabled(t)
	w.do(Change{Kind: UserPassword, User: "alice", Password: []byte("new")})
	want := map[Bucket]map[string]string{
		Settings: {"authEnabled": "01", "authRevision": "000000000000000d"},
		Users: {
			// name, password, roles, and options, which are there though empty.
			"root":  "0a04726f6f74" + "120168" + "1a04726f6f74" + "2200",
			"alice": "0a05616c696365" + "12036e6577" + "1a06726561646572" + "1a06777269746572" + "2200",
			"carl":  "0a046361726c" + "22020801",
		},
		Roles: {
			"root":   "0a04726f6f74",
			"reader": "0a06726561646572" + "1206" + "120161" + "1a0163",
			"writer": "0a06777269746572" + "1205" + "0801" + "120162",
		},
	}
	for b, entries := range want {
		for k, v := range entries {
			if got := hex.EncodeToString(w.file[b][k]); got != v {
				t.Errorf("%s %s: %s, want %s", b, k, got, v)
			}
		}
		if len(w.file[b]) != len(entries) {
			t.Errorf("%s has %d entries", b, len(w.file[b]))
		}
	}
	w.do(Change{Kind: Disable})
	if got := hex.EncodeToString(w.file[Settings]["authEnabled"]); got != "00" {
		t.Errorf("disabled: %s", got)
	}
}

func TestMalformedRecords(t *testing.T) {
	for _, c := range []struct {
		bucket     Bucket
		key, value string
	}{
		{Settings, "authEnabled", "\x02"},
		{Settings, "authEnabled", ""},
		{Settings, "authRevision", "1"},
		{Settings, "other", ""},
		{Users, "alice", "\x0a\x03bob"},
		{Users, "alice", "\xff"},
		{Roles, "r", "\x0a\x01s"},
		{Roles, "r", "\x0a"},
		{"alarm", "", ""},
	} {
		if err := CheckEntry(c.bucket, []byte(c.key), []byte(c.value)); !errors.Is(err, ErrMalformedRecord) {
			t.Errorf("%s %q %q: %v", c.bucket, c.key, c.value, err)
		}
		if c.bucket == "alarm" {
			continue
		}
		f := file{c.bucket: {c.key: []byte(c.value)}}
		if _, err := Load(f.each); !errors.Is(err, ErrMalformedRecord) {
			t.Errorf("load %s %q %q: %v", c.bucket, c.key, c.value, err)
		}
	}
	if s, err := Load(file{}.each); err != nil || s.Revision() != 1 || s.Enabled() {
		t.Errorf("a store from before authentication: %v, %v", s, err)
	}
}

// TestPermissionsFollowRoles ensures that what was merged for a user is not used once
// a role changed, and that an older State goes on as it was.
func TestPermissionsFollowRoles(t *testing.T) {
	w := enabled(t)
	check := func(s *State, name string, write bool, r backends.KeyRange) error {
		caller := backends.Caller{User: name, AuthRevision: s.Revision()}
		if write {
			return s.Write(&caller, r)
		}
		return s.Read(&caller, r)
	}
	expect := func(what string, got, want error) {
		t.Helper()
		if !errors.Is(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	old := w.now
	expect("read", check(w.now, "alice", false, keys("a", "c")), nil)
	expect("read more", check(w.now, "alice", false, keys("a", "c\x00")), backends.ErrPermissionDenied)
	expect("write what may be read", check(w.now, "alice", true, keys("a", "")), backends.ErrPermissionDenied)
	expect("write", check(w.now, "alice", true, keys("b", "")), nil)
	expect("root", check(w.now, "root", true, keys("\x00", "\x00")), nil)
	expect("without a role", check(w.now, "carl", false, keys("a", "")), backends.ErrPermissionDenied)
	expect("a user that is none", check(w.now, "x", false, keys("a", "")), backends.ErrPermissionDenied)

	w.do(grant("reader", backends.PermissionReadWrite, "a", "c"))
	expect("write after a grant", check(w.now, "alice", true, keys("a", "c")), nil)
	expect("an old caller", w.now.Read(&backends.Caller{User: "alice", AuthRevision: old.Revision()}, keys("a", "")), backends.ErrAuthOldRevision)
	expect("the old state", check(old, "alice", true, keys("a", "")), backends.ErrPermissionDenied)
	w.do(Change{Kind: RoleRevoke, Role: "reader", Keys: keys("a", "c")})
	expect("read after a revocation", check(w.now, "alice", false, keys("a", "")), backends.ErrPermissionDenied)
	w.do(grant("reader", backends.PermissionRead, "a", "c"))
	expect("read", check(w.now, "alice", false, keys("a", "")), nil)
	w.do(Change{Kind: RoleDelete, Role: "reader"})
	expect("read after the role's end", check(w.now, "alice", false, keys("a", "")), backends.ErrPermissionDenied)
	w.do(Change{Kind: RoleAdd, Role: "reader"})
	expect("a new role of the name", check(w.now, "alice", false, keys("a", "")), backends.ErrPermissionDenied)
	w.do(Change{Kind: UserGrant, User: "carl", Role: "root"})
	expect("a second root", check(w.now, "carl", true, keys("\x00", "\x00")), nil)
	w.do(Change{Kind: UserRevoke, User: "carl", Role: "root"})
	expect("no second root", check(w.now, "carl", false, keys("a", "")), backends.ErrPermissionDenied)
	w.do(Change{Kind: Disable})
	expect("off", check(w.now, "x", true, keys("\x00", "\x00")), nil)
}

// TestRoleGrantBesides ensures etcd's answer where a role has several ranges with one
// key: only the first is found, and another grant of a later one is added beside it
// (auth/store.go, RoleGrantPermission).
func TestRoleGrantBesides(t *testing.T) {
	w := enabled(t)
	w.do(Change{Kind: RoleAdd, Role: "r"})
	w.do(grant("r", backends.PermissionRead, "k", "m"))
	w.do(grant("r", backends.PermissionReadWrite, "k", ""))
	w.do(grant("r", backends.PermissionRead, "k", ""))
	w.do(grant("r", backends.PermissionWrite, "k", "m"))
	root := w.caller("root")
	got, err := w.now.RolePermissions(&root, "r")
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%q", got); text != `[{'\x01' {"k" "m"}} {'\x02' {"k" ""}} {'\x00' {"k" ""}}]` {
		t.Error(text)
	}
	w.do(Change{Kind: RoleRevoke, Role: "r", Keys: keys("k", "")})
	if got, _ := w.now.RolePermissions(&root, "r"); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

// TestWhoMayAsk ensures who gets lists of users and roles.
func TestWhoMayAsk(t *testing.T) {
	w := enabled(t)
	root, alice, nobody := w.caller("root"), w.caller("alice"), backends.Caller{}
	expect := func(what string, got any, err error, want string, refusal error) {
		t.Helper()
		if fmt.Sprintf("%q", got) != want || !errors.Is(err, refusal) || (err == nil) != (refusal == nil) {
			t.Errorf("%s: %q, %v, want %s, %v", what, got, err, want, refusal)
		}
	}
	got, err := w.now.UserRoles(&alice, "alice")
	expect("of itself", got, err, `["reader" "writer"]`, nil)
	got, err = w.now.UserRoles(&alice, "root")
	expect("of another", got, err, `[]`, backends.ErrPermissionDenied)
	got, err = w.now.UserRoles(&root, "x")
	expect("of nobody", got, err, `[]`, backends.ErrUserNotFound)
	got, err = w.now.UserRoles(&nobody, "alice")
	expect("asked by nobody", got, err, `[]`, backends.ErrUserEmpty)
	got, err = w.now.UserNames(&root)
	expect("users", got, err, `["alice" "carl" "root"]`, nil)
	got, err = w.now.UserNames(&alice)
	expect("users", got, err, `[]`, backends.ErrPermissionDenied)
	got, err = w.now.RoleNames(&root)
	expect("roles", got, err, `["reader" "root" "writer"]`, nil)
	permissions, err := w.now.RolePermissions(&alice, "reader")
	expect("its role", permissions, err, `[{'\x00' {"a" "c"}}]`, nil)
	permissions, err = w.now.RolePermissions(&alice, "root")
	expect("another role", permissions, err, `[]`, backends.ErrPermissionDenied)
	permissions, err = w.now.RolePermissions(&root, "root")
	expect("the role root", permissions, err, `[{'\x02' {"" "\x00"}}]`, nil)
	permissions, err = w.now.RolePermissions(&root, "x")
	expect("no role", permissions, err, `[]`, backends.ErrRoleNotFound)
}

// TestLogin ensures the answers about passwords, and that a password which was
// compared before a change of users does not count after it.
func TestLogin(t *testing.T) {
	w := enabled(t)
	for name, want := range map[string]error{"alice": nil, "x": backends.ErrAuthFailed, "carl": backends.ErrNoPasswordUser} {
		if _, err := w.now.Password(name); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	alice, carl, x := w.caller("alice"), w.caller("carl"), w.caller("x")
	if err := w.now.Login(&alice); err != nil {
		t.Error(err)
	}
	for _, caller := range []backends.Caller{carl, x} {
		if err := w.now.Login(&caller); !errors.Is(err, backends.ErrAuthFailed) {
			t.Errorf("%s: %v", caller.User, err)
		}
	}
	w.do(Change{Kind: UserPassword, User: "alice", Password: []byte("new")})
	if err := w.now.Login(&alice); !errors.Is(err, backends.ErrAuthOldRevision) {
		t.Error(err)
	}
	w.do(Change{Kind: Disable})
	if err := w.now.Login(&alice); !errors.Is(err, backends.ErrAuthNotEnabled) {
		t.Error(err)
	}
	if _, err := w.now.Password("alice"); !errors.Is(err, backends.ErrAuthNotEnabled) {
		t.Error(err)
	}
}

// TestChangesModel makes random changes: what the file holds loads as the State that
// is in memory, and what a user may do is what a model that knows no cache says.
func TestChangesModel(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 2))
	pick := func(names ...string) string { return names[rnd.IntN(len(names))] }
	made := 0
	for range 40 {
		w := enabled(t)
		for range 100 {
			r := randomRange(rnd)
			c := Change{Kind: ChangeKind(1 + rnd.IntN(int(RoleRevoke))), User: pick("root", "alice", "carl", "dora"),
				Role: pick("root", "reader", "writer", "other"), NoPassword: rnd.IntN(4) == 0, Keys: r,
				Permission: &backends.Permission{Kind: backends.PermissionKind(rnd.IntN(4)), KeyRange: r}}
			if c.Kind == RoleRevoke {
				root := w.caller("root")
				if all, err := w.now.RolePermissions(&root, c.Role); err == nil && len(all) > 0 {
					c.Keys = all[rnd.IntN(len(all))].KeyRange
				}
			}
			out, err := w.apply(w.caller("root"), c)
			if err == nil && len(out.Writes) > 0 {
				made++
			}
			kept := w.now
			if w.load(); w.now.dump() != kept.dump() {
				t.Fatalf("seed %d: after %v the file has\n%s, want\n%s", seed, c.Kind, w.now.dump(), kept.dump())
			}
			w.now = kept
			checkGrants(t, seed, w.now, pick("root", "alice", "carl", "dora"), randomRange(rnd))
		}
	}
	if made < 1000 {
		t.Fatalf("seed %d: only %d changes of 4000 were made", seed, made)
	}
}

// checkGrants compares the answers about one range with a model.
func checkGrants(t *testing.T, seed uint64, s *State, name string, asked backends.KeyRange) {
	t.Helper()
	var read, write []backends.KeyRange
	u := s.users[name]
	root := u != nil && slices.Contains(u.record.Roles, "root")
	if u != nil {
		for _, roleName := range u.record.Roles {
			if s.roles[roleName] == nil {
				continue
			}
			for _, p := range s.roles[roleName].record.KeyPermission {
				r := backends.KeyRange{Key: p.Key, End: p.RangeEnd}
				switch backends.PermissionKind(p.PermType) {
				case backends.PermissionRead:
					read = append(read, r)
				case backends.PermissionWrite:
					write = append(write, r)
				case backends.PermissionReadWrite:
					read, write = append(read, r), append(write, r)
				}
			}
		}
	}
	caller := backends.Caller{User: name, AuthRevision: s.Revision()}
	for what, c := range map[string]struct {
		got  error
		want bool
	}{
		"read":  {s.Read(&caller, asked), !s.enabled || root || u != nil && naiveCover(read, asked)},
		"write": {s.Write(&caller, asked), !s.enabled || root || u != nil && naiveCover(write, asked)},
	} {
		if (c.got == nil) != c.want {
			t.Fatalf("seed %d: %s may %s %q: %v, want %v\n%s", seed, name, what, asked, c.got, c.want, s.dump())
		}
	}
}
