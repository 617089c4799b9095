package etcd

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/crypto/bcrypt"

	"github.com/etcdshim/shim/backends"
	_ "github.com/etcdshim/shim/backends/raftbolt"
	"github.com/etcdshim/shim/e2e/etcd/process"
)

// authSide is one of two stores that are asked the same.
type authSide struct {
	backends.Backend
	backends.Auth
	backends.Leases
	// tokens are those that were given, in order; the n-th of each side is for the same.
	tokens []string
}

func newAuthSide(t *testing.T, url string) *authSide {
	t.Helper()
	b := openURL(t, url)
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &authSide{Backend: b, Auth: b.(backends.Auth), Leases: b.(backends.Leases)}
}

// authCall is a call, the same on both sides. Its answer is all that must be equal.
type authCall struct {
	what string
	// token is an index of tokens, or -1.
	token int
	// access is what the front asks for before; bare calls are not identified.
	access backends.Access
	bare   bool
	do     func(ctx context.Context, s *authSide, caller backends.Caller) (string, error)
}

// run makes a call as the front does.
func (c *authCall) run(ctx context.Context, s *authSide) string {
	var caller backends.Caller
	if c.token >= 0 {
		caller.Token = s.tokens[c.token]
	}
	var answer string
	var err error
	if !c.bare {
		caller, err = s.Identify(ctx, caller)
	}
	if err == nil && c.access != 0 {
		err = s.Authorize(ctx, caller, c.access)
	}
	if err == nil {
		answer, err = c.do(ctx, s, caller)
	}
	if err == nil {
		return answer
	}
	text := err.Error()
	if remote := new(backends.Remote); errors.As(err, &remote) {
		text = remote.Message
	}
	return "error: " + strings.TrimPrefix(strings.TrimPrefix(text, "etcdserver: "), "auth: ")
}

// authGenerator makes random calls.
type authGenerator struct {
	*rand.Rand
	tokens int
	hashes []string
}

func pick[T any](g *authGenerator, all ...T) T { return all[g.IntN(len(all))] }

func (g *authGenerator) user() string {
	return pick(g, "root", "root", "alice", "alice", "bob", "carl", "")
}

func (g *authGenerator) role() string {
	return pick(g, "root", "reader", "reader", "writer", "both", "")
}

func (g *authGenerator) password() string { return pick(g, "one", "one", "two", "") }

func (g *authGenerator) key() []byte { return []byte(pick(g, "a", "ab", "b", "c", "d", "\x00")) }

func (g *authGenerator) keys() backends.KeyRange {
	r := backends.KeyRange{Key: g.key()}
	switch g.IntN(6) {
	case 0:
		r.End = []byte{0}
	case 1, 2:
		// Upside-down ranges are left out: etcd's answer depends on its tree's shape.
		if end := g.key(); string(end) > string(r.Key) {
			r.End = end
		}
	}
	return r
}

func (g *authGenerator) lease() int64 { return int64(g.IntN(4)) }

func (g *authGenerator) op(depth int) backends.Op {
	switch n := g.IntN(10); {
	case n < 3:
		return backends.Op{Put: &backends.PutOp{Key: g.key(), Value: []byte(strconv.Itoa(g.IntN(100))), Lease: g.lease() * int64(g.IntN(2)), PrevKV: g.IntN(3) == 0}}
	case n < 6:
		return backends.Op{Range: &backends.RangeOptions{KeyRange: g.keys()}}
	case n < 8 || depth > 1:
		return backends.Op{Delete: &backends.DeleteOp{KeyRange: g.keys(), PrevKV: g.IntN(2) == 0}}
	}
	t := g.txn(depth + 1)
	return backends.Op{Txn: &t}
}

// txn has one operation in each branch, so that no key is put twice.
func (g *authGenerator) txn(depth int) backends.TxnOp {
	var t backends.TxnOp
	if g.IntN(2) == 0 {
		t.Compare = []backends.Compare{{KeyRange: g.keys(), Target: backends.CompareVersion, Result: backends.CompareGreater}}
	}
	if g.IntN(5) > 0 {
		t.Success = []backends.Op{g.op(depth)}
	}
	if g.IntN(3) == 0 {
		t.Failure = []backends.Op{g.op(depth)}
	}
	return t
}

func headerText(h backends.Header, err error) (string, error) {
	return fmt.Sprint("revision ", h.Revision), err
}

func (g *authGenerator) call() authCall {
	c := authCall{token: -1}
	if g.tokens > 0 && g.IntN(6) > 0 {
		// Newer tokens are more likely to be good.
		c.token = g.tokens - 1 - g.IntN(min(g.tokens, 1+g.IntN(12)))
	}
	switch n := g.IntN(100); {
	case n < 40:
		g.manage(&c)
	case n < 80:
		g.keyCall(&c)
	default:
		g.leaseCall(&c)
	}
	return c
}

func (g *authGenerator) manage(c *authCall) {
	user, role, password, keys := g.user(), g.role(), g.password(), g.keys()
	hash := pick(g, append(g.hashes, "?", "")...)
	none := g.IntN(4) == 0
	if user == "root" {
		password, none = "one", false // else nobody could turn authentication off again
	}
	kind := backends.PermissionKind(g.IntN(3))
	if g.IntN(10) == 0 {
		keys.Key = nil
	}
	type call = func(context.Context, *authSide, backends.Caller) (string, error)
	options := map[string]call{
		"enable": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.AuthEnable(ctx, caller))
		},
		"status": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.AuthStatus(ctx, caller)
			return fmt.Sprint(r.Enabled, r.AuthRevision, r.Header.Revision), err
		},
		"user add": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.UserAdd(ctx, &backends.UserAddRequest{Caller: caller, Name: user, Password: password, NoPassword: none}))
		},
		"user delete": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.UserDelete(ctx, caller, user))
		},
		"user get": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.UserGet(ctx, caller, user)
			return fmt.Sprintf("%q", r.Roles), err
		},
		"user list": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.UserList(ctx, caller)
			return fmt.Sprintf("%q", r.Names), err
		},
		"user password": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.UserChangePassword(ctx, &backends.UserChangePasswordRequest{Caller: caller, Name: user, Password: password, HashedPassword: hash}))
		},
		"user grant": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.UserGrantRole(ctx, caller, user, role))
		},
		"user revoke": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.UserRevokeRole(ctx, caller, user, role))
		},
		"role add": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.RoleAdd(ctx, caller, role))
		},
		"role get": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.RoleGet(ctx, caller, role)
			return fmt.Sprintf("%q", r.Permissions), err
		},
		"role list": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.RoleList(ctx, caller)
			return fmt.Sprintf("%q", r.Names), err
		},
		"role delete": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.RoleDelete(ctx, caller, role))
		},
		"role grant": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			p := &backends.Permission{Kind: kind, KeyRange: keys}
			if none && kind == 0 {
				p = nil
			}
			return headerText(s.RoleGrantPermission(ctx, caller, role, p))
		},
		"role revoke": func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.RoleRevokePermission(ctx, caller, role, keys))
		},
	}
	order := []string{"enable", "enable", "status", "user add", "user add", "user delete", "user get", "user list", "user password", "user grant",
		"user grant", "user grant", "user revoke", "role add", "role add", "role get", "role list", "role delete", "role grant", "role grant",
		"role grant", "role grant", "role revoke"}
	name := pick(g, order...)
	c.do = options[name]
	c.what = fmt.Sprintf("%s: user %q, role %q, password %q, hash %q, none %v, kind %d, keys %q", name, user, role, password, hash, none, kind, keys)
	if g.IntN(60) == 0 {
		c.what, c.do = "disable", func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.AuthDisable(ctx, caller))
		}
	}
}

func (g *authGenerator) keyCall(c *authCall) {
	keys := g.keys()
	switch g.IntN(4) {
	case 0:
		c.what = fmt.Sprintf("range %q", keys)
		c.do = func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			cursor, err := s.Range(ctx, &backends.RangeRequest{Caller: caller, RangeOptions: backends.RangeOptions{KeyRange: keys}})
			if err != nil {
				return "", err
			}
			return drained(ctx, cursor)
		}
	case 1:
		c.what = fmt.Sprintf("watch %q", keys)
		c.do = func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			w, err := s.Watch(ctx, caller)
			if err != nil {
				return "", err
			}
			defer w.Close()
			if err := w.Add(ctx, &backends.WatchRequest{Caller: caller, ID: 1, KeyRange: keys}); err != nil {
				return "", err
			}
			b, err := w.Next(ctx)
			if err == nil && b.Reason != nil {
				err = b.Reason
			}
			return fmt.Sprintf("kind %d at %d", b.Kind, b.Header.Revision), err
		}
	default:
		txn := g.txn(0)
		c.what = "txn " + txnText(&txn)
		c.do = func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.Txn(ctx, &backends.TxnRequest{Caller: caller, TxnOp: txn})
			if err != nil {
				return "", err
			}
			defer r.Close()
			text, err := resultText(ctx, &r.TxnOpResult)
			return fmt.Sprintf("revision %d %s", r.Header.Revision, text), err
		}
	}
}

func txnText(t *backends.TxnOp) string {
	ops := func(ops []backends.Op) (out string) {
		for _, o := range ops {
			switch {
			case o.Put != nil:
				out += fmt.Sprintf(" put %+v", *o.Put)
			case o.Range != nil:
				out += fmt.Sprintf(" range %q", o.Range.KeyRange)
			case o.Delete != nil:
				out += fmt.Sprintf(" delete %q %v", o.Delete.KeyRange, o.Delete.PrevKV)
			default:
				out += txnText(o.Txn)
			}
		}
		return out
	}
	return fmt.Sprintf("(if %+v then%s else%s)", t.Compare, ops(t.Success), ops(t.Failure))
}

func resultText(ctx context.Context, r *backends.TxnOpResult) (string, error) {
	text := fmt.Sprint(r.Succeeded)
	for _, o := range r.Responses {
		var part string
		var err error
		switch {
		case o.Range != nil:
			part, err = drained(ctx, o.Range)
		case o.Put != nil:
			part = fmt.Sprintf("%q", o.Put.PrevKV)
		case o.Delete != nil:
			if o.Delete.PrevKVs != nil {
				part, err = drained(ctx, o.Delete.PrevKVs)
			}
			part += fmt.Sprint(o.Delete.Deleted)
		default:
			part, err = resultText(ctx, o.Txn)
		}
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(" [%s]", part)
	}
	return text, nil
}

func drained(ctx context.Context, c backends.Cursor) (string, error) {
	defer c.Close()
	text := ""
	for {
		chunk, err := c.Next(ctx)
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return "", err
		}
		for record := range chunk.Records() {
			text += fmt.Sprintf(" %q", record)
		}
		chunk.Release()
	}
}

func (g *authGenerator) leaseCall(c *authCall) {
	id := 1 + int64(g.IntN(3))
	keys := g.IntN(2) == 0
	switch g.IntN(6) {
	case 0:
		c.what, c.access = fmt.Sprint("lease grant ", id), backends.AccessUser
		c.do = func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.LeaseGrant(ctx, caller, id, 10000)
			return fmt.Sprint(r.ID, r.TTLSeconds), err
		}
	case 1:
		c.what = fmt.Sprint("lease revoke ", id)
		c.do = func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			return headerText(s.LeaseRevoke(ctx, caller, id))
		}
	case 2:
		c.what = fmt.Sprint("lease renew ", id)
		c.do = func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.LeaseKeepAlive(ctx, caller, id)
			return fmt.Sprint(r.TTLSeconds), err
		}
	case 3, 4:
		c.what = fmt.Sprint("lease time to live ", id, keys)
		c.do = func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.LeaseTimeToLive(ctx, caller, id, keys)
			return fmt.Sprintf("%d %q", r.GrantedTTLSeconds, r.Keys), err
		}
	default:
		c.what = "leases"
		c.do = func(ctx context.Context, s *authSide, caller backends.Caller) (string, error) {
			r, err := s.LeaseLeases(ctx, caller)
			slices.Sort(r.IDs)
			return fmt.Sprint(r.IDs), err
		}
	}
}

// TestAuthDifferential asks raftbolt and real etcd the same random things about
// users, roles and permissions, and of keys under them: every answer and error is the
// same, and in the end so is every byte of the three buckets, but for salts.
func TestAuthDifferential(t *testing.T) {
	calls := 3000
	if n, err := strconv.Atoi(os.Getenv("AUTH_CALLS")); err == nil {
		calls = n
	}
	seed := rand.Uint64()
	if n, err := strconv.ParseUint(os.Getenv("AUTH_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("AUTH_SEED=%d AUTH_CALLS=%d", seed, calls)
	g := &authGenerator{Rand: rand.New(rand.NewPCG(seed, 4))}
	for _, password := range []string{"one", "two"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		g.hashes = append(g.hashes, base64.StdEncoding.EncodeToString(hash))
	}
	upstream := process.Etcd(t, "--bcrypt-cost", "4")
	dir := t.TempDir()
	etcd := newAuthSide(t, "etcd://"+upstream.Address)
	shim := newAuthSide(t, (&url.URL{Scheme: "raftbolt", Path: dir, RawQuery: "bcrypt-cost=4"}).String())
	answers := map[string]int{}
	// Some sequences have authentication off for long; they go on until it was felt.
	missing := func() []error {
		return slices.DeleteFunc([]error{
			backends.ErrPermissionDenied, backends.ErrUserEmpty, backends.ErrInvalidAuthToken, backends.ErrUserNotFound,
			backends.ErrRoleNotFound, backends.ErrInvalidAuthMgmt, backends.ErrRoleNotGranted, backends.ErrPermissionNotGranted,
		}, func(refusal error) bool { return answers[refusal.Error()] > 0 })
	}
	for n := 0; n < calls || n < 10*calls && len(missing()) > 0; n++ {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if n%10 == 0 {
			for range 3 {
				g.login(ctx, t, etcd, shim)
			}
		}
		c := g.call()
		want, got := c.run(ctx, etcd), c.run(ctx, shim)
		cancel()
		if refusal, refused := strings.CutPrefix(want, "error: "); refused {
			answers[refusal]++
		} else {
			answers["no refusal"]++
		}
		if got != want {
			t.Fatalf("call %d with token %d: %s:\n shim %s\n etcd %s", n, c.token, c.what, got, want)
		}
	}
	for _, refusal := range slices.Sorted(maps.Keys(answers)) {
		t.Logf("%5d × %s", answers[refusal], refusal)
	}
	for _, refusal := range missing() {
		t.Errorf("seed %d: nobody was told that %v", seed, refusal)
	}
	g.compareBuckets(t, upstream, shim, dir)
}

// login authenticates somebody, on both sides.
func (g *authGenerator) login(ctx context.Context, t *testing.T, etcd, shim *authSide) {
	t.Helper()
	user, password := g.user(), g.password()
	want, err := etcd.Authenticate(ctx, backends.Caller{}, user, password)
	got, err2 := shim.Authenticate(ctx, backends.Caller{}, user, password)
	c := authCall{bare: true, token: -1}
	text := func(err error) string {
		c.do = func(context.Context, *authSide, backends.Caller) (string, error) { return "token", err }
		return c.run(ctx, nil)
	}
	if text(err) != text(err2) || want.Header.Revision != got.Header.Revision {
		t.Fatalf("authenticate %q %q: shim %v, etcd %v", user, password, err2, err)
	}
	if err == nil {
		etcd.tokens, shim.tokens = append(etcd.tokens, want.Token), append(shim.tokens, got.Token)
		g.tokens++
	}
}

// compareBuckets stops both and compares what they left.
func (g *authGenerator) compareBuckets(t *testing.T, upstream *process.Server, shim *authSide, dir string) {
	t.Helper()
	if err := shim.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	upstream.Stop()
	want, got := bucketTexts(t, upstream.DataDir), bucketTexts(t, dir)
	if len(want) < 5 {
		t.Errorf("the buckets have %d entries", len(want))
	}
	if strings.Join(want, "\n") != strings.Join(got, "\n") {
		t.Errorf("the buckets of shim:\n%s\nof etcd:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// bucketTexts are the entries of the auth buckets, with salts and hashes struck out.
func bucketTexts(t *testing.T, dir string) (out []string) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "member", "snap", "db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	err = db.View(func(tx *bolt.Tx) error {
		for _, name := range []string{"auth", "authUsers", "authRoles"} {
			err := tx.Bucket([]byte(name)).ForEach(func(k, v []byte) error {
				text := string(v)
				if i := strings.Index(text, "$2a$04$"); i >= 0 {
					text = text[:i+7] + "…" + text[i+60:]
				}
				out = append(out, fmt.Sprintf("%s %q: %q", name, k, text))
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
