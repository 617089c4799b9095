package conformance

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"hash"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// authJWTCases are the cases of tokens that are signed, which tell who somebody is and at which
// auth revision that was so.
func authJWTCases() []Case {
	return []Case{
		{Name: "auth/jwt", RPC: "Auth.Authenticate", Condition: SignedTokens, Run: authJWT},
		{Name: "auth/jwt-of-an-old-revision", RPC: "Auth.Authenticate", Condition: SignedTokens, Run: authJWTOld},
		{Name: "auth/jwt-of-other-revisions", RPC: "KV.Range", Condition: SignedTokens, Run: authJWTRevisions},
		{Name: "auth/jwt-algorithm-is-pinned", RPC: "KV.Range", Condition: SignedTokens, Run: authJWTAlgorithm},
		{Name: "auth/pr-15676-jwt-without-claims", RPC: "KV.Range", Condition: SignedTokens, Run: authJWTClaims},
	}
}

// claims are what a token says.
type claims map[string]any

// goodClaims are those of a user at an auth revision, for an hour.
func goodClaims(user string, revision uint64) claims {
	return claims{"username": user, "revision": revision, "exp": time.Now().Add(time.Hour).Unix()}
}

// sign makes a token: by HMAC, or without a signature for alg none.
func (c *C) sign(alg, secret string, with claims) string {
	c.Helper()
	encode := func(v any) string {
		b, err := json.Marshal(v)
		c.must(err, "encode")
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := encode(map[string]string{"alg": alg, "typ": "JWT"}) + "." + encode(with)
	sums := map[string]func() hash.Hash{"HS256": sha256.New, "HS384": sha512.New384, "HS512": sha512.New}
	if sums[alg] == nil {
		return text + "."
	}
	mac := hmac.New(sums[alg], []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// signed is a context with a token of the server's own making, as far as the server can tell.
func (c *C) signed(with claims) context.Context {
	c.Helper()
	return withToken(c.nobody(), c.sign("HS256", SignedTokenSecret, with))
}

func (c *C) tryGet(ctx context.Context, name string) error {
	_, err := c.KV.Range(ctx, &pb.RangeRequest{Key: c.key(name)})
	return err
}

func (c *C) tryPut(ctx context.Context, name string) error {
	_, err := c.KV.Put(ctx, &pb.PutRequest{Key: c.key(name)})
	return err
}

func (c *C) tryStatus(ctx context.Context) error {
	_, err := c.Maintenance.Status(ctx, &pb.StatusRequest{})
	return err
}

// tryCompact asks for what needs the role root, and cannot be done.
func (c *C) tryCompact(ctx context.Context) error {
	_, err := c.KV.Compact(ctx, &pb.CompactionRequest{Revision: 1 << 40})
	return err
}

func authJWT(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("a"), nil))
	c.enable()
	revision := c.authStatus().AuthRevision
	r, err := c.Auth.Authenticate(c.nobody(), &pb.AuthenticateRequest{Name: "alice", Password: passwordOf("alice")})
	c.must(err, "authenticate")
	parts := strings.Split(r.Token, ".")
	if len(parts) != 3 {
		c.Fatalf("a token of %d parts", len(parts))
	}
	decode := func(part string) map[string]any {
		b, err := base64.RawURLEncoding.DecodeString(part)
		c.must(err, "decode")
		m := map[string]any{}
		c.must(json.Unmarshal(b, &m), "decode %s", b)
		return m
	}
	equal(c, "algorithm", decode(parts[0])["alg"], any("HS256"))
	said := decode(parts[1])
	equal(c, "user", said["username"], any("alice"))
	equal(c, "auth revision", said["revision"], any(float64(revision)))
	if exp, _ := said["exp"].(float64); exp < float64(time.Now().Unix()) || len(said) != 3 {
		c.Errorf("claims %v", said)
	}
	alice := withToken(c.nobody(), r.Token)
	c.must(c.tryPut(alice, "a"), "put")
	c.must(c.tryGet(alice, "a"), "get")
	c.wantDenied(c.tryGet(alice, "b"))
	c.must(c.tryGet(c.signed(goodClaims("alice", revision)), "a"), "get with a token that was signed elsewhere")
	c.wantDenied(c.tryCompact(alice))
	_, err = c.Auth.Authenticate(c.nobody(), &pb.AuthenticateRequest{Name: "alice", Password: "wrong"})
	c.wantError(err, codes.InvalidArgument, msgAuthFailed)
}

// authJWTOld: after any change of users, roles and permissions, what is about keys asks for a new
// token; what is not asks whether there is such a user, and what it may do now.
func authJWTOld(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("a"), nil))
	c.user("admin", "root")
	c.enable()
	alice, admin := c.as("alice"), c.as("admin")
	c.must(c.tryPut(alice, "a"), "put")
	c.role("unrelated")
	for _, call := range []func(context.Context, string) error{c.tryGet, c.tryPut} {
		for _, ctx := range []context.Context{alice, admin} {
			c.wantError(call(ctx, "a"), codes.InvalidArgument, msgAuthOld)
		}
	}
	w := c.watchOn(alice)
	w.sendCreate(&pb.WatchCreateRequest{Key: c.key("a")})
	w.denied("rpc error: code = InvalidArgument desc = " + msgAuthOld)
	c.must(c.tryStatus(alice), "status")
	c.wantError(c.tryCompact(admin), codes.OutOfRange, msgFuture)
	_, err := c.Auth.UserList(admin, &pb.AuthUserListRequest{})
	c.must(err, "list users")
	_, err = c.Auth.UserGet(alice, &pb.AuthUserGetRequest{Name: "alice"})
	c.must(err, "get oneself")
	c.must(c.tryPut(c.as("alice"), "a"), "put with a new token")
	c.revokeRole("admin", "root")
	c.wantDenied(c.tryCompact(admin))
	_, err = c.Auth.UserDelete(c.Ctx, &pb.AuthUserDeleteRequest{Name: "admin"})
	c.must(err, "delete a user")
	c.wantError(c.tryCompact(admin), codes.FailedPrecondition, msgUserNotFound)
	_, err = c.Auth.UserList(admin, &pb.AuthUserListRequest{})
	c.wantError(err, codes.FailedPrecondition, msgUserNotFound)
	c.must(c.tryStatus(admin), "status as somebody who was deleted")
	c.wantError(c.tryGet(admin, "a"), codes.InvalidArgument, msgAuthOld)
}

// authJWTRevisions: what tokens say that this server would not have made.
func authJWTRevisions(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("a"), nil))
	c.enable()
	now := c.authStatus().AuthRevision
	ahead := c.signed(goodClaims("alice", now+1000))
	c.must(c.tryPut(ahead, "a"), "put at a revision to come")
	c.wantError(c.tryGet(ahead, "a"), codes.InvalidArgument, msgAuthOld)
	c.wantDenied(c.tryPut(ahead, "b"))
	c.wantDenied(c.tryGet(ahead, "b"))
	zero := c.signed(goodClaims("alice", 0))
	c.wantNobody(c.tryPut(zero, "a"))
	c.wantNobody(c.tryGet(zero, "a"))
	c.must(c.tryStatus(zero), "status at no revision")
	c.wantDenied(c.tryCompact(zero))
	unknown := c.signed(goodClaims("unknown", now))
	c.wantDenied(c.tryPut(unknown, "a"))
	c.wantDenied(c.tryGet(unknown, "a"))
	c.must(c.tryStatus(unknown), "status as an unknown user")
	c.wantError(c.tryCompact(unknown), codes.FailedPrecondition, msgUserNotFound)
	unnamed := c.signed(goodClaims("", now))
	c.wantDenied(c.tryPut(unnamed, "a"))
	c.wantDenied(c.tryGet(unnamed, "a"))
	c.must(c.tryStatus(unnamed), "status as a user without a name")
	c.wantNobody(c.tryCompact(unnamed))
	forever := goodClaims("alice", now)
	delete(forever, "exp")
	c.must(c.tryGet(c.signed(forever), "a"), "get with a token that does not end")
}

// authJWTAlgorithm: the server's algorithm and key are the only ones, and a token ends.
func authJWTAlgorithm(c *C) {
	c.accounts()
	c.enable()
	good := goodClaims("root", c.authStatus().AuthRevision)
	ended := goodClaims("root", c.authStatus().AuthRevision)
	ended["exp"] = time.Now().Add(-time.Hour).Unix()
	early := goodClaims("root", c.authStatus().AuthRevision)
	early["nbf"] = time.Now().Add(time.Hour).Unix()
	valid := c.sign("HS256", SignedTokenSecret, good)
	parts := strings.Split(valid, ".")
	for what, token := range map[string]string{
		"no algorithm":          c.sign("none", "", good),
		"None":                  c.sign("None", "", good),
		"HS384":                 c.sign("HS384", SignedTokenSecret, good),
		"HS512":                 c.sign("HS512", SignedTokenSecret, good),
		"unknown algorithm":     c.sign("XX", SignedTokenSecret, good),
		"another key":           c.sign("HS256", "another", good),
		"an empty key":          c.sign("HS256", "", good),
		"no signature":          parts[0] + "." + parts[1] + ".",
		"two parts":             parts[0] + "." + parts[1],
		"four parts":            valid + ".x",
		"other claims":          parts[0] + "." + strings.Split(c.sign("HS256", "another", goodClaims("alice", 1)), ".")[1] + "." + parts[2],
		"ended":                 c.sign("HS256", SignedTokenSecret, ended),
		"not yet":               c.sign("HS256", SignedTokenSecret, early),
		"a token of other kind": "abcdefghijklmnop.1",
	} {
		if err := c.tryGet(withToken(c.nobody(), token), "a"); status.Convert(err).Message() != msgBadToken {
			c.Errorf("%s: got %v, want %q", what, err, msgBadToken)
		}
	}
	c.must(c.tryGet(withToken(c.nobody(), valid), "a"), "get with a valid token")
}

// authJWTClaims: a token without a user or a revision stopped the server.
func authJWTClaims(c *C) {
	c.accounts()
	c.enable()
	for _, change := range []func(claims){
		func(m claims) { delete(m, "username") },
		func(m claims) { delete(m, "revision") },
		func(m claims) { clear(m) },
		func(m claims) { m["username"] = 1 },
		func(m claims) { m["username"] = nil },
		func(m claims) { m["username"] = []string{"root"} },
		func(m claims) { m["revision"] = "1" },
		func(m claims) { m["revision"] = nil },
		func(m claims) { m["revision"] = claims{} },
		func(m claims) { m["exp"] = "soon" },
	} {
		with := goodClaims("root", c.authStatus().AuthRevision)
		change(with)
		if err := c.tryGet(c.signed(with), "a"); status.Convert(err).Message() != msgBadToken {
			c.Errorf("claims %v: got %v, want %q", with, err, msgBadToken)
		}
	}
	c.must(c.tryGet(c.as("root"), "a"), "get")
}
