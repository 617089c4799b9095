package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

func start() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func newTokens(t *testing.T, description string, ttl time.Duration) *Tokens {
	t.Helper()
	tokens, err := NewTokens(description, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// give assigns a simple token.
func give(t *testing.T, tokens *Tokens, user string, index uint64, now time.Time) string {
	t.Helper()
	prefix, err := tokens.Prefix(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tokens.Assign(user, prefix, index, now)
	token, err := tokens.Give(user, 1, prefix, index, now)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func expectUser(t *testing.T, tokens *Tokens, token string, now time.Time, user string) {
	t.Helper()
	id, err := tokens.Identify(token, now)
	if user == "" {
		if !errors.Is(err, backends.ErrInvalidAuthToken) {
			t.Errorf("%q is %q's, %v", token, id.User, err)
		}
		return
	}
	if err != nil || id.User != user {
		t.Errorf("%q is %q's, %v; want %q", token, id.User, err, user)
	}
}

// TestSimpleTokens ensures that a token lives for its TTL from its last use, and ends
// with its user's password, and with all.
func TestSimpleTokens(t *testing.T) {
	tokens, now := newTokens(t, "simple", 0), start()
	if tokens.Signed() {
		t.Error("simple tokens are not signed")
	}
	alice, bob := give(t, tokens, "alice", 7, now), give(t, tokens, "bob", 8, now)
	if index, ok := tokens.AssignedAt(alice); !ok || index != 7 || len(alice) != prefixLetters+2 {
		t.Errorf("token %q was assigned at %d, %v", alice, index, ok)
	}
	now = now.Add(DefaultTokenTTL)
	expectUser(t, tokens, alice, now, "alice")
	now = now.Add(time.Nanosecond)
	expectUser(t, tokens, bob, now, "")
	now = now.Add(DefaultTokenTTL - time.Nanosecond)
	expectUser(t, tokens, alice, now, "alice")
	expectUser(t, tokens, alice, now.Add(DefaultTokenTTL+1), "")
	if n := len(tokens.simple.tokens); n != 0 || tokens.simple.byUse.Len() != 0 {
		t.Errorf("%d tokens are kept", n)
	}

	alice, bob = give(t, tokens, "alice", 9, now), give(t, tokens, "bob", 10, now)
	second := give(t, tokens, "alice", 10, now)
	tokens.EndUser("alice")
	expectUser(t, tokens, alice, now, "")
	expectUser(t, tokens, second, now, "")
	expectUser(t, tokens, bob, now, "bob")
	tokens.EndAll()
	expectUser(t, tokens, bob, now, "")
	for _, bad := range []string{"", ".", "a.b", "a.1.2", strings.Repeat("x", 1<<20), bob + "0", "a.99999999999999999999"} {
		expectUser(t, tokens, bad, now, "")
	}
	// Apply never gives one token twice; if it did, it would stay the first one's.
	tokens.Assign("alice", "p", 1, now)
	tokens.Assign("bob", "p", 1, now)
	expectUser(t, tokens, "p.1", now, "alice")
	// Of a member whose tokens are signed, an authentication has no prefix.
	tokens.Assign("alice", "", 5, now)
	expectUser(t, tokens, ".5", now, "")
}

// TestSimpleTokensBound ensures that no number of authentications makes the table
// grow beyond its bound, and that those in use stay.
func TestSimpleTokensBound(t *testing.T) {
	tokens, now := newTokens(t, "simple", time.Hour), start()
	tokens.Assign("alice", "kept", 0, now)
	tokens.Assign("alice", "idle", 0, now)
	for i := range uint64(maxSimpleTokens) {
		if i%1000 == 0 {
			expectUser(t, tokens, "kept.0", now, "alice")
		}
		tokens.Assign("bob", "p", i, now)
	}
	if n := len(tokens.simple.tokens); n != maxSimpleTokens || tokens.simple.byUse.Len() != n {
		t.Errorf("%d tokens are kept, the bound is %d", n, maxSimpleTokens)
	}
	expectUser(t, tokens, "kept.0", now, "alice")
	expectUser(t, tokens, "idle.0", now, "")
}

// TestPrefix ensures that every letter is drawn, none much more often than another,
// and that a source that fails is an error.
func TestPrefix(t *testing.T) {
	tokens := newTokens(t, "simple", 0)
	counts := map[rune]int{}
	const n = 2000
	for range n {
		prefix, err := tokens.Prefix(rand.Reader)
		if err != nil || len(prefix) != prefixLetters {
			t.Fatal(prefix, err)
		}
		for _, c := range prefix {
			counts[c]++
		}
	}
	// The mean is 615, the standard deviation 25.
	for _, c := range letters {
		if counts[c] < 400 || counts[c] > 850 {
			t.Errorf("letter %c came %d times", c, counts[c])
		}
	}
	if len(counts) != len(letters) {
		t.Errorf("%d different letters", len(counts))
	}
	if _, err := tokens.Prefix(strings.NewReader("short")); err == nil {
		t.Error("half a source gave a prefix")
	}
}

func TestNoTokens(t *testing.T) {
	tokens := newTokens(t, "", 0)
	if prefix, err := tokens.Prefix(rand.Reader); prefix != "" || err != nil {
		t.Error(prefix, err)
	}
	tokens.Assign("alice", "p", 1, start())
	expectUser(t, tokens, "p.1", start(), "")
	if _, err := tokens.Give("alice", 1, "", 1, start()); !errors.Is(err, backends.ErrAuthFailed) {
		t.Error(err)
	}
	tokens.EndUser("alice")
	tokens.EndAll()
}

// TestTokenDescriptions ensures what etcd's --auth-token takes and refuses.
func TestTokenDescriptions(t *testing.T) {
	for description, want := range map[string]error{
		"simple":                           nil,
		"simple,ttl=5":                     nil,
		"simple,":                          ErrTokenOptions,
		"Simple":                           ErrTokenOptions,
		"jwt":                              ErrSignMethod,
		"jwt,sign-method=none":             ErrSignMethod,
		"jwt,sign-method=HS1":              ErrSignMethod,
		"jwt,sign-method=HS256":            ErrMissingKey,
		"jwt,sign-method=RS256":            ErrMissingKey,
		"jwt,sign-method=ES256":            ErrMissingKey,
		"jwt,sign-method=EdDSA":            ErrMissingKey,
		"jwt,sign-method":                  ErrTokenOptions,
		"jwt,sign-method=a=b":              ErrTokenOptions,
		"jwt,ttl=1m,ttl=2m":                ErrTokenOptions,
		"jwt,sign-method=HS256,ttl=x":      ErrTokenOptions,
		"jwt,sign-method=HS256,pub-key=/x": ErrTokenOptions,
		"opaque":                           ErrTokenOptions,
	} {
		if _, err := NewTokens(description, 0); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%q: %v, want %v", description, err, want)
		}
	}
}

func TestFingerprint(t *testing.T) {
	if got := Fingerprint("token"); got != fmt.Sprintf("%.12s", "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0") {
		t.Error(got)
	}
}
