package raftbolt

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/crypto/bcrypt"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
)

const rootPassword, alicePassword = "root's secret word", "alice's secret word"

// guarded is a member with authentication on. alice may read [a, c) and write b.
type guarded struct {
	*member
	root backends.Caller
}

// must fails the test unless err is nil.
func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// expectErr checks an error; nil expects none.
func expectErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || (got == nil) != (want == nil) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func cheapHashes(c *Config, _ *backends.Env) { c.BcryptCost = auth.MinCost }

// openGuarded opens a member in dir and makes its users and roles.
func openGuarded(t *testing.T, dir string, change func(*Config, *backends.Env)) *guarded {
	t.Helper()
	g := &guarded{member: openIn(t, dir, func(c *Config, env *backends.Env) {
		cheapHashes(c, env)
		if change != nil {
			change(c, env)
		}
	})}
	ctx, nobody := context.Background(), backends.Caller{}
	for name, password := range map[string]string{"root": rootPassword, "alice": alicePassword} {
		_, err := g.UserAdd(ctx, &backends.UserAddRequest{Name: name, Password: password})
		must(t, "add "+name, err)
	}
	for _, role := range []string{"root", "reader", "writer"} {
		_, err := g.RoleAdd(ctx, nobody, role)
		must(t, "add role", err)
	}
	g.permit("reader", backends.PermissionRead, "a", "c")
	g.permit("writer", backends.PermissionWrite, "b", "")
	for user, roles := range map[string][]string{"root": {"root"}, "alice": {"reader", "writer"}} {
		for _, role := range roles {
			_, err := g.UserGrantRole(ctx, nobody, user, role)
			must(t, "grant role", err)
		}
	}
	_, err := g.AuthEnable(ctx, nobody)
	must(t, "enable", err)
	g.root = g.login("root", rootPassword)
	return g
}

func (g *guarded) permit(role string, kind backends.PermissionKind, key, end string) {
	g.t.Helper()
	_, err := g.RoleGrantPermission(context.Background(), g.root, role, &backends.Permission{
		Kind: kind, KeyRange: backends.KeyRange{Key: []byte(key), End: []byte(end)}})
	must(g.t, "grant permission", err)
}

// login authenticates, and identifies by the token.
func (g *guarded) login(name, password string) backends.Caller {
	g.t.Helper()
	r, err := g.Authenticate(context.Background(), backends.Caller{}, name, password)
	must(g.t, "authenticate "+name, err)
	return g.identify(backends.Caller{Token: r.Token})
}

func (g *guarded) identify(caller backends.Caller) backends.Caller {
	g.t.Helper()
	caller, err := g.Identify(context.Background(), caller)
	must(g.t, "identify", err)
	return caller
}

// try makes a Txn of one list.
func (g *guarded) try(caller backends.Caller, ops ...backends.Op) error {
	r, err := g.Txn(context.Background(), &backends.TxnRequest{Caller: caller, TxnOp: one(ops...)})
	if err == nil {
		r.Close()
	}
	return err
}

func (g *guarded) read(caller backends.Caller, key, end string) error {
	c, err := g.Range(context.Background(), &backends.RangeRequest{Caller: caller,
		RangeOptions: backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte(key), End: []byte(end)}}})
	if err == nil {
		c.Close()
	}
	return err
}

func ranged(key, end string) backends.Op {
	return backends.Op{Range: &backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte(key), End: []byte(end)}}}
}

// TestAuthOfOperations ensures what each operation takes, alone and nested.
func TestAuthOfOperations(t *testing.T) {
	g := openGuarded(t, t.TempDir(), nil)
	alice := g.login("alice", alicePassword)
	denied := backends.ErrPermissionDenied
	prevKV := func(key string) backends.Op {
		return backends.Op{Put: &backends.PutOp{Key: []byte(key), PrevKV: true}}
	}
	quiet := func(key, end string) backends.Op {
		return backends.Op{Delete: &backends.DeleteOp{KeyRange: backends.KeyRange{Key: []byte(key), End: []byte(end)}}}
	}
	g.permit("writer", backends.PermissionWrite, "w", "x") // she may write there, and not read
	alice = g.identify(alice)
	for i, c := range []struct {
		op   backends.Op
		want error
	}{
		{get("a", 0), nil},
		{get("c", 0), denied},
		{ranged("a", "c"), nil},
		{ranged("a", "c\x00"), denied},
		// GHSA-xg4h-6gfc-h4m8's cases, of Range: the right to one key is none to those above.
		{ranged("b", "\x00"), denied},
		{ranged("\x00", "\x00"), denied},
		{put("b", "1"), nil},
		{put("a", "1"), denied},
		{put("w1", "1"), nil},
		{prevKV("b"), nil},
		// CVE-2026-44283, GHSA-x35m-3gp4-4fh5: a previous record takes the right to read.
		{prevKV("w1"), denied},
		{quiet("b", ""), nil},
		{quiet("w", "x"), nil},
		{quiet("a", "c"), denied},
		{quiet("w", "\x00"), denied},
		{del("b", ""), nil},
		{del("w", "x"), denied},
	} {
		// CVE-2026-33343, GHSA-rfx7-8w68-q57q: a nested operation is one like any other, in
		// a branch that runs or not.
		never := backends.Compare{KeyRange: backends.KeyRange{Key: []byte("a")}, Target: backends.CompareVersion, Number: 99}
		nested := one(backends.Op{Txn: &backends.TxnOp{Compare: []backends.Compare{never}, Success: []backends.Op{
			{Txn: &backends.TxnOp{Success: []backends.Op{c.op}}}}}})
		failing := backends.TxnOp{Success: nil, Failure: []backends.Op{c.op}}
		for name, txn := range map[string]backends.TxnOp{
			"alone": one(c.op), "after a put": one(put("w9", ""), c.op), "nested": nested, "not run": failing,
		} {
			for who, caller := range map[string]backends.Caller{"alice": alice, "root": g.root} {
				want := c.want
				if who == "root" {
					want = nil
				}
				r, err := g.Txn(context.Background(), &backends.TxnRequest{Caller: g.identify(caller), TxnOp: txn})
				if err == nil {
					r.Close()
				}
				expectErr(t, fmt.Sprintf("%d %s by %s", i, name, who), err, want)
			}
		}
	}
	// A comparison tells of values.
	for key, want := range map[string]error{"a": nil, "c": denied, "w1": denied} {
		compare := backends.TxnOp{Compare: []backends.Compare{{KeyRange: backends.KeyRange{Key: []byte(key)}, Target: backends.CompareValue}}}
		_, err := g.Txn(context.Background(), &backends.TxnRequest{Caller: alice, TxnOp: compare})
		expectErr(t, "compare "+key, err, want)
		compare.Success = []backends.Op{put("b", "")}
		_, err = g.Txn(context.Background(), &backends.TxnRequest{Caller: alice, TxnOp: compare})
		expectErr(t, "compare and put "+key, err, want)
		_, err = g.Txn(context.Background(), &backends.TxnRequest{Caller: alice, TxnOp: one(backends.Op{Txn: &compare})})
		expectErr(t, "nested compare and put "+key, err, want)
	}
	for key, want := range map[string]error{"a": nil, "c": denied} {
		expectErr(t, "range "+key, g.read(alice, key, ""), want)
	}
	expectErr(t, "range from b", g.read(alice, "b", "\x00"), denied)
	expectErr(t, "range by nobody", g.read(backends.Caller{}, "a", ""), backends.ErrUserEmpty)
	expectErr(t, "put by nobody", g.try(backends.Caller{}, put("b", "")), backends.ErrUserEmpty)
	expectErr(t, "read txn by nobody", g.try(backends.Caller{}, get("a", 0)), backends.ErrUserEmpty)
	expectErr(t, "an empty txn by nobody", g.try(backends.Caller{}), nil) // as etcd
}

// TestAuthOfLeases ensures what attaching to, renewing, revoking and looking at a
// lease takes: CVE-2026-44283 (attaching), CVE-2023-32082 (keys shown) and
// CVE-2026-33413, GHSA-q8m4-xhhv-38mg (calls that were not checked).
func TestAuthOfLeases(t *testing.T) {
	g := openGuarded(t, t.TempDir(), nil)
	ctx, denied := context.Background(), backends.ErrPermissionDenied
	alice, nobody := g.login("alice", alicePassword), backends.Caller{}
	for id, key := range map[int64]string{1: "", 2: "b", 3: "a", 4: "z"} {
		_, err := g.LeaseGrant(ctx, g.root, id, 1000)
		must(t, "grant", err)
		if key != "" {
			must(t, "attach", g.try(g.root, leased(key, id)))
		}
	}
	type answers struct{ attach, renew, show, ttl error }
	for id, want := range map[int64]answers{
		1: {nil, nil, nil, nil},
		2: {nil, nil, nil, nil},
		3: {denied, denied, nil, nil}, // a may be read, not written
		4: {denied, denied, denied, nil},
		5: {backends.ErrLeaseNotFound, backends.ErrLeaseNotFound, backends.ErrLeaseNotFound, backends.ErrLeaseNotFound},
	} {
		what := fmt.Sprintf("lease %d: ", id)
		expectErr(t, what+"attach", g.try(alice, leased("b", id)), want.attach)
		expectErr(t, what+"attach nested", g.try(alice, backends.Op{Txn: &backends.TxnOp{Success: []backends.Op{leased("b", id)}}}), want.attach)
		_, err := g.LeaseKeepAlive(ctx, alice, id)
		expectErr(t, what+"renew", err, want.renew)
		_, err = g.LeaseKeepAlive(ctx, nobody, id)
		expectErr(t, what+"renew by nobody", err, backends.ErrUserEmpty)
		r, err := g.LeaseTimeToLive(ctx, alice, id, true)
		expectErr(t, what+"keys", err, want.show)
		if err != nil && len(r.Keys) > 0 {
			t.Errorf("%s%d keys beside an error", what, len(r.Keys))
		}
		_, err = g.LeaseTimeToLive(ctx, alice, id, false)
		expectErr(t, what+"time to live", err, want.ttl)
		for _, keys := range []bool{false, true} {
			_, err = g.LeaseTimeToLive(ctx, nobody, id, keys)
			expectErr(t, what+"time to live by nobody", err, backends.ErrUserEmpty)
		}
		if want.ttl == nil {
			_, err = g.LeaseKeepAlive(ctx, g.root, id)
			expectErr(t, what+"renew by root", err, nil)
			_, err = g.LeaseTimeToLive(ctx, g.root, id, true)
			expectErr(t, what+"keys for root", err, nil)
		}
	}
	_, err := g.LeaseLeases(ctx, alice)
	expectErr(t, "list", err, denied)
	_, err = g.LeaseLeases(ctx, nobody)
	expectErr(t, "list by nobody", err, backends.ErrUserEmpty)
	list, err := g.LeaseLeases(ctx, g.root)
	if err != nil || len(list.IDs) != 4 {
		t.Errorf("list: %v, %v", list.IDs, err)
	}
	_, err = g.LeaseRevoke(ctx, nobody, 1)
	expectErr(t, "revoke by nobody", err, backends.ErrUserEmpty)
	must(t, "detach", g.try(g.root, put("b", ""))) // it was attached to each above
	must(t, "attach", g.try(g.root, leased("b", 2)))
	for id, want := range map[int64]error{1: nil, 2: nil, 3: denied, 4: denied, 5: backends.ErrLeaseNotFound} {
		_, err := g.LeaseRevoke(ctx, alice, id)
		expectErr(t, fmt.Sprintf("revoke %d", id), err, want)
	}
	_, err = g.LeaseRevoke(ctx, g.root, 4)
	must(t, "revoke by root", err)
	_, err = g.LeaseRevoke(ctx, g.root, 3)
	must(t, "revoke by root", err)
	if list, err := g.LeaseLeases(ctx, alice); err != nil || len(list.IDs) != 0 {
		t.Errorf("list of none: %v, %v", list.IDs, err)
	}
}

// TestAuthOfExpiry ensures that the leader's own revocations need nobody's right.
func TestAuthOfExpiry(t *testing.T) {
	clock := newTestClock()
	g := openGuarded(t, t.TempDir(), func(_ *Config, env *backends.Env) { env.Clock = clock })
	_, err := g.LeaseGrant(context.Background(), g.root, 1, 10)
	must(t, "grant", err)
	must(t, "attach", g.try(g.root, leased("z", 1)))
	clock.awaitTimer(t, 5*time.Second) // the lease's first checkpoint
	clock.advance(11 * time.Second)
	eventually(t, "the lease is gone", func() bool {
		list, err := g.LeaseLeases(context.Background(), g.identify(g.root))
		return err == nil && len(list.IDs) == 0
	})
}

// watch adds a watch and returns its first batch.
func (g *guarded) watch(caller backends.Caller, key, end string) backends.WatchBatch {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := g.Watch(ctx, caller)
	must(g.t, "watch", err)
	defer s.Close()
	must(g.t, "add", s.Add(ctx, &backends.WatchRequest{Caller: caller, ID: 7, KeyRange: backends.KeyRange{Key: []byte(key), End: []byte(end)}}))
	b, err := s.Next(ctx)
	must(g.t, "next", err)
	if len(b.IDs) != 1 || b.IDs[0] != 7 {
		g.t.Errorf("watch [%q, %q): %+v", key, end, b)
	}
	return b
}

// TestAuthOfWatches is GHSA-xg4h-6gfc-h4m8: the range of a watch is what is checked,
// with the end of one zero byte, which reaches to the last key.
func TestAuthOfWatches(t *testing.T) {
	g := openGuarded(t, t.TempDir(), nil)
	must(t, "put", g.try(g.root, put("z", "hidden")))
	g.permit("reader", backends.PermissionRead, "m", "")
	alice := g.login("alice", alicePassword)
	for _, c := range []struct {
		caller   backends.Caller
		key, end string
		want     error
	}{
		{alice, "m", "", nil},
		{alice, "m", "m\x00", nil},
		{alice, "m", "\x00", backends.ErrPermissionDenied},
		{alice, "m", "n", backends.ErrPermissionDenied},
		{alice, "\x00", "\x00", backends.ErrPermissionDenied},
		{alice, "\x00", "", backends.ErrPermissionDenied},
		{alice, "a", "c", nil},
		{alice, "a", "d", backends.ErrPermissionDenied},
		{g.root, "\x00", "\x00", nil},
		{backends.Caller{}, "m", "", backends.ErrUserEmpty},
		{backends.Caller{Token: "x.1"}, "m", "", backends.ErrInvalidAuthToken},
		{backends.Caller{User: "alice", AuthRevision: 3}, "m", "", backends.ErrAuthOldRevision},
	} {
		if c.caller.User == "root" {
			c.caller = g.identify(c.caller)
		}
		b := g.watch(c.caller, c.key, c.end)
		if want := c.want != nil; (b.Kind == backends.WatchCanceled) != want || !want && b.Kind != backends.WatchCreated {
			t.Errorf("%q watches [%q, %q): kind %d", c.caller.User, c.key, c.end, b.Kind)
		}
		expectErr(t, fmt.Sprintf("%q watches [%q, %q)", c.caller.User, c.key, c.end), b.Reason, c.want)
		if b.Header.Revision == 0 {
			t.Error("no revision in the header")
		}
	}
}

// TestWatchIsIdentifiedAnew ensures that a stream that was opened before a change of
// users takes watches after it, as etcd's does.
func TestWatchIsIdentifiedAnew(t *testing.T) {
	g := openGuarded(t, t.TempDir(), nil)
	alice := g.login("alice", alicePassword)
	g.permit("reader", backends.PermissionRead, "q", "")
	if b := g.watch(alice, "q", ""); b.Kind != backends.WatchCreated {
		t.Errorf("%+v", b)
	}
	alice.Token = ""
	if b := g.watch(alice, "q", ""); b.Kind != backends.WatchCanceled || !errors.Is(b.Reason, backends.ErrAuthOldRevision) {
		t.Errorf("%+v", b)
	}
}

// TestAuthOldRevision ensures that a write counts at the auth revision of its
// proposal, and that a read is not answered across a change of users.
func TestAuthOldRevision(t *testing.T) {
	g := openGuarded(t, t.TempDir(), nil)
	alice := g.login("alice", alicePassword)
	must(t, "put", g.try(alice, put("b", "")))
	g.permit("reader", backends.PermissionRead, "x", "")
	expectErr(t, "a write", g.try(alice, put("b", "")), backends.ErrAuthOldRevision)
	_, err := g.LeaseGrant(context.Background(), alice, 1, 1000)
	must(t, "grant", err)
	must(t, "attach", g.try(g.identify(g.root), leased("b", 1)))
	_, err = g.LeaseRevoke(context.Background(), alice, 1)
	expectErr(t, "revoke", err, backends.ErrAuthOldRevision)

	// A read takes the token's word once more, without a token it cannot.
	must(t, "range", g.read(alice, "x", ""))
	_, err = g.LeaseKeepAlive(context.Background(), alice, 1)
	must(t, "renew", err)
	bare := backends.Caller{User: alice.User, AuthRevision: alice.AuthRevision}
	expectErr(t, "range", g.read(bare, "a", ""), backends.ErrAuthOldRevision)
	expectErr(t, "range without a right", g.read(bare, "z", ""), backends.ErrAuthOldRevision)
	expectErr(t, "read txn", g.try(bare, get("a", 0)), backends.ErrAuthOldRevision)
	_, err = g.LeaseTimeToLive(context.Background(), bare, 1, true)
	expectErr(t, "keys", err, backends.ErrAuthOldRevision)
	// A revision above the present one, as a signed token may have, is not it either.
	future := backends.Caller{User: "alice", AuthRevision: 1 << 40}
	expectErr(t, "range from the future", g.read(future, "a", ""), backends.ErrAuthOldRevision)
	expectErr(t, "write from the future", g.try(future, put("b", "")), nil) // as etcd
}

// TestNothingIsReadThatWasForbidden ensures that no read sees what was written after the right to read
// was taken away, and before it was given back, whatever it is overtaken by.
func TestNothingIsReadThatWasForbidden(t *testing.T) {
	g := openGuarded(t, t.TempDir(), func(c *Config, _ *backends.Env) { c.UnsafeNoFsync = true })
	alice, ctx := g.login("alice", alicePassword), context.Background()
	must(t, "put", g.try(g.root, put("b", "public")))
	b := backends.KeyRange{Key: []byte("b")}
	over := make(chan struct{})
	var readers sync.WaitGroup
	var seen, refused atomic.Int64
	note := func(c backends.Cursor, err error) {
		if err != nil {
			if !isRefusal(err) {
				t.Errorf("read: %v", err)
			}
			refused.Add(1)
			return
		}
		defer c.Close()
		chunk, err := c.Next(ctx)
		if err != nil {
			t.Errorf("read: %v", err)
			return
		}
		if bytes.Contains(chunk.Bytes(), []byte("secret")) {
			t.Error("a secret was read")
		}
		chunk.Release()
		seen.Add(1)
	}
	for _, read := range []func(backends.Caller){
		func(who backends.Caller) {
			note(g.Range(ctx, &backends.RangeRequest{Caller: who, RangeOptions: backends.RangeOptions{KeyRange: b}}))
		},
		func(who backends.Caller) {
			r, err := g.Txn(ctx, &backends.TxnRequest{Caller: who, TxnOp: one(backends.Op{Range: &backends.RangeOptions{KeyRange: b}})})
			if err != nil {
				note(nil, err)
				return
			}
			note(r.Responses[0].Range, nil)
			r.Close()
		},
		func(who backends.Caller) { // a write, which is looked at when it is applied
			r, err := g.Txn(ctx, &backends.TxnRequest{Caller: who, TxnOp: one(backends.Op{Range: &backends.RangeOptions{KeyRange: b}}, put("b", "public"))})
			if err != nil {
				note(nil, err)
				return
			}
			note(r.Responses[0].Range, nil)
			r.Close()
		},
	} {
		readers.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					read(g.identify(alice))
				}
			}
		})
	}
	reader := backends.KeyRange{Key: []byte("a"), End: []byte("c")}
	for range 800 {
		_, err := g.RoleRevokePermission(ctx, g.root, "reader", reader)
		must(t, "revoke", err)
		must(t, "put", g.try(g.identify(g.root), put("b", "secret")))
		must(t, "put", g.try(g.identify(g.root), put("b", "public")))
		g.permit("reader", backends.PermissionRead, "a", "c")
	}
	close(over)
	readers.Wait()
	if seen.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d reads, %d refusals: the test looks too late", seen.Load(), refused.Load())
	}
}

// TestTokensEnd ensures that tokens end with their user's password, their user, and
// authentication, and by themselves when they are not used.
func TestTokensEnd(t *testing.T) {
	clock := newTestClock()
	g := openGuarded(t, t.TempDir(), func(c *Config, env *backends.Env) { env.Clock, c.AuthTokenTTL = clock, time.Minute })
	ctx := context.Background()
	expect := func(what string, caller backends.Caller, want error) {
		t.Helper()
		_, err := g.Identify(ctx, backends.Caller{Token: caller.Token})
		expectErr(t, what, err, want)
	}
	bad := backends.ErrInvalidAuthToken
	alice := g.login("alice", alicePassword)
	index, ok := g.machine.tokens.AssignedAt(alice.Token)
	if !ok || index == 0 {
		t.Errorf("token %q does not tell the index of its entry", alice.Token)
	}
	// An entry is answered a moment before the node counts it as applied.
	eventually(t, "the token's entry is applied", func() bool { return g.node.Status().Applied >= index })
	_, err := g.UserChangePassword(ctx, &backends.UserChangePasswordRequest{Caller: g.root, Name: "alice", Password: "new"})
	must(t, "change password", err)
	expect("after a new password", alice, bad)
	expect("root's", g.root, nil)
	_, err = g.Authenticate(ctx, backends.Caller{}, "alice", alicePassword)
	expectErr(t, "the old password", err, backends.ErrAuthFailed)
	alice = g.login("alice", "new")
	_, err = g.UserDelete(ctx, g.root, "alice")
	must(t, "delete", err)
	expect("after the user", alice, bad)

	clock.advance(time.Minute)
	expect("used in time", g.root, nil)
	clock.advance(time.Minute)
	expect("used again in time", g.root, nil)
	clock.advance(time.Minute + 1)
	expect("not used", g.root, bad)
	g.root = g.login("root", rootPassword)
	_, err = g.AuthDisable(ctx, g.root)
	must(t, "disable", err)
	caller, err := g.Identify(ctx, backends.Caller{Token: "anything"})
	if err != nil || caller.User != "" || caller.AuthRevision != 0 || g.AuthEnabled() {
		t.Errorf("off: %+v, %v", caller, err)
	}
	_, err = g.AuthEnable(ctx, backends.Caller{})
	must(t, "enable", err)
	expect("of before", g.root, bad)
	// A token of an entry that is not applied yet is waited for; of one that never comes,
	// too, but not for long.
	expect("of the future", backends.Caller{Token: "abcdefghijklmnop.18446744073709551615"}, bad)
}

// TestCertificateName ensures that a verified common name is a user, if there is no
// token.
func TestCertificateName(t *testing.T) {
	g := openGuarded(t, t.TempDir(), nil)
	alice := g.identify(backends.Caller{Certified: true, CertName: "alice"})
	must(t, "put", g.try(alice, put("b", "")))
	expectErr(t, "put", g.try(alice, put("z", "")), backends.ErrPermissionDenied)
	_, err := g.Identify(context.Background(), backends.Caller{Certified: true, CertName: "root", Token: "x.1"})
	expectErr(t, "a bad token beside a name", err, backends.ErrInvalidAuthToken)
	expectErr(t, "put", g.try(g.identify(backends.Caller{Certified: true, CertName: "nobody"}), put("b", "")), backends.ErrPermissionDenied)
	expectErr(t, "put without a certificate", g.try(g.identify(backends.Caller{CertName: "root"}), put("b", "")), backends.ErrUserEmpty)
	expectErr(t, "put by a certificate without a name", g.try(g.identify(backends.Caller{Certified: true}), put("b", "")), backends.ErrPermissionDenied)
	for name, want := range map[string][2]error{
		"": {nil, backends.ErrUserEmpty}, "nobody": {nil, backends.ErrUserNotFound},
		"alice": {nil, backends.ErrPermissionDenied}, "root": {nil, nil},
	} {
		caller := g.identify(backends.Caller{Certified: true, CertName: name})
		expectErr(t, "user "+name, g.Authorize(context.Background(), caller, backends.AccessUser), want[0])
		expectErr(t, "admin "+name, g.Authorize(context.Background(), caller, backends.AccessAdmin), want[1])
		expectErr(t, "an access that is none", g.Authorize(context.Background(), caller, 0), backends.ErrPermissionDenied)
	}
}

// TestPasswords ensures etcd's answers, and that an unknown user's is a wrong
// password's.
func TestPasswords(t *testing.T) {
	g := openGuarded(t, t.TempDir(), nil)
	ctx, nobody := context.Background(), backends.Caller{}
	add := func(req backends.UserAddRequest) error {
		req.Caller = g.identify(g.root)
		_, err := g.UserAdd(ctx, &req)
		return err
	}
	change := func(req backends.UserChangePasswordRequest) error {
		req.Caller = g.identify(g.root)
		_, err := g.UserChangePassword(ctx, &req)
		return err
	}
	expect := func(name, password string, want error) {
		t.Helper()
		_, err := g.Authenticate(ctx, nobody, name, password)
		expectErr(t, name+" "+password, err, want)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("hashed"), bcrypt.MinCost)
	must(t, "hash", err)
	encoded := base64.StdEncoding.EncodeToString(hash)

	expect("alice", alicePassword, nil)
	expect("alice", "wrong", backends.ErrAuthFailed)
	expect("unknown", "wrong", backends.ErrAuthFailed)
	must(t, "add", add(backends.UserAddRequest{Name: "empty"}))
	expect("empty", "", nil)
	must(t, "add", add(backends.UserAddRequest{Name: "none", NoPassword: true, Password: "ignored"}))
	expect("none", "ignored", backends.ErrNoPasswordUser)
	must(t, "add", add(backends.UserAddRequest{Name: "both", HashedPassword: encoded})) // etcd ignores it
	expect("both", "hashed", backends.ErrAuthFailed)
	expect("both", "", nil)
	must(t, "change", change(backends.UserChangePasswordRequest{Name: "both", HashedPassword: encoded}))
	expect("both", "hashed", nil)
	expectErr(t, "no base64", change(backends.UserChangePasswordRequest{Name: "both", HashedPassword: "?"}), backends.ErrNoPasswordUser)
	expect("both", "hashed", nil)
	must(t, "change", change(backends.UserChangePasswordRequest{Name: "both"}))
	expect("both", "", backends.ErrAuthFailed) // nothing hashes to nothing
	must(t, "change", change(backends.UserChangePasswordRequest{Name: "none", Password: "p"}))
	expect("none", "p", backends.ErrNoPasswordUser)
	expectErr(t, "too long", add(backends.UserAddRequest{Name: "long", Password: strings.Repeat("p", 73)}), backends.ErrPasswordTooLong)
	_, err = g.UserAdd(ctx, &backends.UserAddRequest{Name: "x", Password: "p"})
	expectErr(t, "by nobody", err, backends.ErrUserEmpty)

	_, err = g.AuthDisable(ctx, g.root)
	must(t, "disable", err)
	expect("alice", alicePassword, backends.ErrAuthNotEnabled)
}

// TestPasswordsAreNotKept is CVE-2021-28235: no password is in any file of the member
// after it was set and used, and none is in what it logs.
func TestPasswordsAreNotKept(t *testing.T) {
	dir := t.TempDir()
	g := openGuarded(t, dir, nil)
	alice := g.login("alice", alicePassword)
	_, err := g.Authenticate(context.Background(), backends.Caller{}, "alice", "wrong secret word")
	expectErr(t, "wrong", err, backends.ErrAuthFailed)
	_, err = g.UserChangePassword(context.Background(), &backends.UserChangePasswordRequest{Caller: g.root, Name: "alice", Password: "alice's next secret word"})
	must(t, "change", err)
	g.close()
	found := false
	must(t, "walk", filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, secret := range []string{rootPassword, alicePassword, "wrong secret word", "alice's next secret word"} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
		if strings.HasSuffix(path, storeName) && bytes.Contains(b, []byte(alice.Token)) {
			t.Errorf("%s holds a token", path)
		}
		found = found || bytes.Contains(b, []byte("alice"))
		return nil
	}))
	if !found {
		t.Error("no file has the user's name: the test looks in the wrong place")
	}
}

// TestAuthSurvives ensures that users, roles and the auth revision are there after a
// clean stop and after a kill, that tokens in the store are not, and that the checks
// of the directory find them sound (etcd 14571: rights that a restart forgot).
func TestAuthSurvives(t *testing.T) {
	dir := t.TempDir()
	g := openGuarded(t, dir, nil)
	alice := g.login("alice", alicePassword)
	status, err := g.AuthStatus(context.Background(), backends.Caller{})
	must(t, "status", err)
	// 1, two users, three roles, two permissions, three grants.
	if !status.Enabled || status.AuthRevision != 11 {
		t.Errorf("%+v", status)
	}
	killed := copyDir(t, dir)
	g.close()
	for what, dir := range map[string]string{"stopped": dir, "killed": killed} {
		report, err := Check(CheckConfig{DataDir: dir})
		if err != nil || len(report.Findings) > 0 {
			t.Errorf("%s: %+v, %v", what, report, err)
		}
		again := &guarded{member: openIn(t, dir, cheapHashes)}
		after, err := again.AuthStatus(context.Background(), backends.Caller{})
		if err != nil || after.Enabled != status.Enabled || after.AuthRevision != status.AuthRevision {
			t.Errorf("%s: %+v, %v", what, after, err)
		}
		expectErr(t, what, again.read(backends.Caller{}, "a", ""), backends.ErrUserEmpty)
		if what == "stopped" {
			_, err := again.Identify(context.Background(), backends.Caller{Token: alice.Token})
			expectErr(t, "a token of before", err, backends.ErrInvalidAuthToken)
		}
		fresh := again.login("alice", alicePassword)
		must(t, what, again.try(fresh, put("b", "")))
		expectErr(t, what, again.try(fresh, put("a", "")), backends.ErrPermissionDenied)
		again.close()
	}
}

// TestAuthFollowsTheStore ensures that a member serves the users, roles and permissions of the
// store that it has, whichever way it got there: a start, and a restored snapshot, of which the auth
// revision goes on (etcd 14571: permissions that were of another store).
func TestAuthFollowsTheStore(t *testing.T) {
	g := openGuarded(t, t.TempDir(), nil)
	alice := g.login("alice", alicePassword)
	early := g.saved()
	g.root = g.identify(g.root)
	g.permit("writer", backends.PermissionWrite, "a", "")
	_, err := g.UserDelete(context.Background(), g.root, "alice")
	must(t, "delete", err)
	late := g.saved()
	revision := g.machine.auth.Load().Revision()
	g.close()
	for path, want := range map[string]struct {
		alice    error
		revision uint64
	}{early: {nil, revision - 2}, late: {backends.ErrAuthFailed, revision}} {
		config := Config{DataDir: filepath.Join(t.TempDir(), "restored")}
		_, err := Restore(context.Background(), config, RestoreOptions{Snapshot: path}, testEnv(t))
		must(t, "restore", err)
		r := &guarded{member: openIn(t, config.DataDir, cheapHashes)}
		status, err := r.AuthStatus(context.Background(), backends.Caller{})
		if err != nil || !status.Enabled || status.AuthRevision != want.revision {
			t.Errorf("%+v, %v, want revision %d", status, err, want.revision)
		}
		for what, token := range map[string]string{"alice's": alice.Token, "root's": g.root.Token} {
			_, err = r.Identify(context.Background(), backends.Caller{Token: token})
			expectErr(t, "a token of the other store, "+what, err, backends.ErrInvalidAuthToken)
		}
		expectErr(t, "read by nobody", r.read(backends.Caller{}, "a", ""), backends.ErrUserEmpty)
		_, err = r.Authenticate(context.Background(), backends.Caller{}, "alice", alicePassword)
		expectErr(t, "alice", err, want.alice)
		if want.alice == nil {
			caller := r.login("alice", alicePassword)
			must(t, "put", r.try(caller, put("b", "")))
			expectErr(t, "put", r.try(caller, put("a", "")), backends.ErrPermissionDenied)
		}
		r.root = r.login("root", rootPassword)
		r.permit("reader", backends.PermissionRead, "x", "")
		if got := r.machine.auth.Load().Revision(); got != want.revision+1 {
			t.Errorf("auth revision %d after a change, want %d", got, want.revision+1)
		}
	}
}

// TestRefusedLoginsAreLogged names GO-2024-2530: of each login that is refused the log tells who and
// why, also of a user who has a certificate alone; never the password, nor more of a name than fits a line.
func TestRefusedLoginsAreLogged(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	g := openGuarded(t, t.TempDir(), func(_ *Config, env *backends.Env) { env.Logger = zap.New(core) })
	_, err := g.UserAdd(context.Background(), &backends.UserAddRequest{Caller: g.root, Name: "certified", NoPassword: true})
	must(t, "add", err)
	long := strings.Repeat("ä", 1<<19)
	for _, c := range []struct {
		user, logged string
		want         error
	}{
		{"alice", "alice", backends.ErrAuthFailed},
		{"unknown", "unknown", backends.ErrAuthFailed},
		{"certified", "certified", backends.ErrNoPasswordUser},
		{"x" + long, "x" + strings.Repeat("ä", maxLoggedName/2-1), backends.ErrAuthFailed},
	} {
		_, err := g.Authenticate(context.Background(), backends.Caller{}, c.user, "wrong secret word")
		expectErr(t, c.logged, err, c.want)
		lines := logs.TakeAll()
		if len(lines) != 1 || lines[0].Message != "invalid authentication was requested" {
			t.Fatalf("%s: logged %v", c.logged, lines)
		}
		if fields := lines[0].ContextMap(); len(fields) != 2 || fields["user"] != c.logged || fields["error"] != c.want.Error() {
			t.Errorf("%s: logged %v", c.logged, fields)
		}
	}
	_, err = g.Identify(context.Background(), backends.Caller{Token: "a.secret.token"})
	expectErr(t, "bad token", err, backends.ErrInvalidAuthToken)
	lines := logs.FilterMessage("invalid auth token").All()
	if len(lines) != 1 || lines[0].ContextMap()["token-fingerprint"] != auth.Fingerprint("a.secret.token") || len(lines[0].Context) != 1 {
		t.Errorf("a bad token is logged as %v", lines)
	}
}

// TestFilesArePrivate names CVE-2020-15113: what the member makes is its owner's alone, and a
// data directory that is open to others is told of.
func TestFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	must(t, "open the directory to others", os.Chmod(dir, 0o755))
	core, logs := observer.New(zap.WarnLevel)
	env := testEnv(t)
	env.Logger = zap.New(core)
	b, err := Open(context.Background(), Config{DataDir: dir}, env)
	must(t, "open", err)
	lines := logs.FilterMessage("directory is open to others than its owner").All()
	if len(lines) != 1 || lines[0].ContextMap()["dir"] != dir {
		t.Errorf("told of %v", lines)
	}
	files := 0
	must(t, "walk", filepath.WalkDir(filepath.Join(dir, "member"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		files++
		return err
	}))
	if files < 6 {
		t.Errorf("only %d files and directories", files)
	}
	must(t, "close", b.Close(context.Background()))
}

// TestSignedTokensOfAMember ensures that a JWT works from login to write, is ended by
// a change of users, and works again after a restart.
func TestSignedTokensOfAMember(t *testing.T) {
	dir := t.TempDir()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, "key", err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, "key", err)
	path := filepath.Join(t.TempDir(), "key.pem")
	must(t, "key", os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	signed := func(c *Config, env *backends.Env) {
		cheapHashes(c, env)
		c.AuthToken = "jwt,sign-method=EdDSA,priv-key=" + path
	}
	g := openGuarded(t, dir, signed)
	alice := g.login("alice", alicePassword)
	must(t, "put", g.try(alice, put("b", "")))
	must(t, "range", g.read(alice, "a", "c"))
	g.close()
	g = &guarded{member: openIn(t, dir, signed), root: g.root}
	must(t, "put after a restart", g.try(g.identify(alice), put("b", "")))
	g.permit("reader", backends.PermissionRead, "x", "")
	alice = g.identify(alice)
	for what, err := range map[string]error{
		"put": g.try(alice, put("b", "")), "range": g.read(alice, "a", "c"), "watch": g.watch(alice, "a", "c").Reason,
	} {
		expectErr(t, what, err, backends.ErrAuthOldRevision)
	}
	// What takes the role root goes by the name alone, as in etcd.
	_, err = g.UserList(context.Background(), g.identify(g.root))
	must(t, "list users", err)
	if _, err := Open(context.Background(), Config{DataDir: t.TempDir(), AuthToken: "jwt,sign-method=EdDSA"}, testEnv(t)); !errors.Is(err, auth.ErrMissingKey) {
		t.Errorf("without a key: %v", err)
	}
}

// TestAuthOffCostsNothing ensures that a read allocates the same, and a command is as
// long, as before there was authentication.
func TestAuthOffCostsNothing(t *testing.T) {
	c := command{kind: kindTxn, txn: &backends.TxnOp{Success: []backends.Op{put("k", "v")}}}
	bare := len(c.encode())
	c.caller = identity(&backends.Caller{Token: "token", Certified: true, CertName: "name"})
	if n := len(c.encode()); n != bare {
		t.Errorf("a command of nobody has %d bytes, not %d", n, bare)
	}
	m := openIn(t, t.TempDir(), nil)
	caller := backends.Caller{Token: "token"}
	n := testing.AllocsPerRun(100, func() {
		again, err := m.permitRead(context.Background(), &caller, nil)
		if again || err != nil {
			t.Error(again, err)
		}
		if caller, err := m.Identify(context.Background(), caller); err != nil || caller.User != "" {
			t.Error(caller, err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestAuthGate ensures the gates that a proposer cannot have passed: the machine
// itself refuses what a member that knows less lets through.
func TestAuthGate(t *testing.T) {
	g := openGuarded(t, t.TempDir(), nil)
	ctx := context.Background()
	propose := func(c command) error {
		_, err := g.propose(ctx, &c)
		return err
	}
	_, err := g.LeaseGrant(ctx, g.root, 1, 1000)
	must(t, "grant", err)
	must(t, "attach", g.try(g.root, leased("z", 1)))
	op := one(put("b", ""))
	expectErr(t, "txn", propose(command{kind: kindTxn, txn: &op}), backends.ErrUserEmpty)
	expectErr(t, "revoke", propose(command{kind: kindLeaseRevoke, lease: 1}), backends.ErrUserEmpty)
	expectErr(t, "change", propose(command{kind: kindAuthChange, change: &auth.Change{Kind: auth.Disable}}), backends.ErrUserEmpty)
	// An authentication whose password was compared before users changed gives no token.
	old := backends.Caller{User: "alice", AuthRevision: g.root.AuthRevision - 1}
	expectErr(t, "authenticate", propose(command{kind: kindAuthenticate, caller: old, token: "abcdefghijklmnop"}), backends.ErrAuthOldRevision)
	token := fmt.Sprintf("abcdefghijklmnop.%d", g.node.Status().Applied)
	_, err = g.Identify(ctx, backends.Caller{Token: token})
	expectErr(t, "its token", err, backends.ErrInvalidAuthToken)
}
