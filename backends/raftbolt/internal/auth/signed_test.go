package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/etcdshim/shim/backends"
)

// keyFiles writes a key pair as etcd reads it.
func keyFiles(t *testing.T, private any) (privatePath, publicPath string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if secret, ok := private.([]byte); ok {
		return write("secret", secret), ""
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(private.(signer).Public())
	if err != nil {
		t.Fatal(err)
	}
	return write("private.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		write("public.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func edKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestSignedTokens ensures, for every algorithm that etcd takes, that a token is
// verified with either key until its time is over, that only the private key gives
// one, and that neither another algorithm nor another key does.
func TestSignedTokens(t *testing.T) {
	secret, rs, ed := []byte("a secret"), rsaKey(t), edKey(t)
	pairs := map[string]any{
		"HS256": secret, "HS384": secret, "HS512": secret,
		"RS256": rs, "RS384": rs, "RS512": rs, "PS256": rs, "PS384": rs, "PS512": rs,
		"ES256": ecKey(t, elliptic.P256()), "ES384": ecKey(t, elliptic.P384()), "ES512": ecKey(t, elliptic.P521()),
		"EdDSA": ed,
	}
	if len(pairs) != len(signMethods()) {
		t.Errorf("the library knows %v", signMethods())
	}
	now := start()
	given := map[string]string{}
	all := map[string]*Tokens{}
	for method, private := range pairs {
		privatePath, publicPath := keyFiles(t, private)
		tokens := newTokens(t, "jwt,sign-method="+method+",priv-key="+privatePath+",pub-key="+publicPath+",ttl=10s", 0)
		if prefix, err := tokens.Prefix(rand.Reader); prefix != "" || err != nil || !tokens.Signed() {
			t.Errorf("%s: prefix %q, %v", method, prefix, err)
		}
		token, err := tokens.Give("alice", 42, "", 7, now)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		given[method], all[method] = token, tokens
		id, err := tokens.Identify(token, now.Add(9*time.Second))
		if err != nil || id != (Identity{"alice", 42}) {
			t.Errorf("%s: %+v, %v", method, id, err)
		}
		expectUser(t, tokens, token, now.Add(10*time.Second), "")
		expectUser(t, tokens, token[:len(token)-4]+"AAAA", now, "")
		if _, ok := tokens.AssignedAt("a.1"); ok {
			t.Errorf("%s: a signed token was assigned", method)
		}
		if publicPath == "" {
			continue
		}
		verifier := newTokens(t, "jwt,sign-method="+method+",pub-key="+publicPath, 0)
		expectUser(t, verifier, token, now, "alice")
		if _, err := verifier.Give("alice", 1, "", 1, now); !errors.Is(err, ErrVerifyOnly) {
			t.Errorf("%s: the public key gave a token: %v", method, err)
		}
	}
	// The algorithm is pinned: even one of the same key is refused.
	for method, tokens := range all {
		for other, token := range given {
			if other != method {
				expectUser(t, tokens, token, now, "")
			}
		}
	}
}

// TestSignedTokenForgeries ensures that what a client may make up is refused without
// a panic: claims that are missing (etcd PR 15676), the algorithm "none",
// and the public key taken for a secret.
func TestSignedTokenForgeries(t *testing.T) {
	key := rsaKey(t)
	privatePath, publicPath := keyFiles(t, key)
	now := start()
	tokens := newTokens(t, "jwt,sign-method=RS256,priv-key="+privatePath, 0)
	sign := func(method jwt.SigningMethod, key any, claims jwt.Claims) string {
		t.Helper()
		text, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := jwt.MapClaims{"username": "root", "revision": 1, "exp": now.Add(time.Minute).Unix()}
	expectUser(t, tokens, sign(jwt.SigningMethodRS256, key, good), now, "root")
	// Without an end it does not end, as in etcd.
	expectUser(t, tokens, sign(jwt.SigningMethodRS256, key, jwt.MapClaims{"username": "root", "revision": 1}), now, "root")

	public, err := os.ReadFile(publicPath)
	if err != nil {
		t.Fatal(err)
	}
	expectUser(t, tokens, sign(jwt.SigningMethodHS256, public, good), now, "")
	expectUser(t, tokens, sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good), now, "")
	expectUser(t, tokens, sign(jwt.SigningMethodRS512, key, good), now, "")
	expectUser(t, tokens, sign(jwt.SigningMethodRS256, rsaKey(t), good), now, "")
	for name, claims := range map[string]jwt.MapClaims{
		"no claims":           {},
		"no user":             {"revision": 1},
		"no revision":         {"username": "root"},
		"user is a number":    {"username": 1, "revision": 1},
		"revision is text":    {"username": "root", "revision": "1"},
		"revision is null":    {"username": "root", "revision": nil},
		"revision negative":   {"username": "root", "revision": -1},
		"revision too large":  {"username": "root", "revision": 1e300},
		"revision is a list":  {"username": "root", "revision": []int{1}},
		"its end is text":     {"username": "root", "revision": 1, "exp": "tomorrow"},
		"not yet":             {"username": "root", "revision": 1, "nbf": now.Add(time.Hour).Unix()},
		"its time is over":    {"username": "root", "revision": 1, "exp": now.Add(-time.Second).Unix()},
		"its time is no time": {"username": "root", "revision": 1, "exp": -1e300},
	} {
		if id, err := tokens.Identify(sign(jwt.SigningMethodRS256, key, claims), now); !errors.Is(err, backends.ErrInvalidAuthToken) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	for _, text := range []string{"", ".", "..", "...", "a.b.c", strings.Repeat(".", 1<<16), "eyJhbGciOiJSUzI1NiJ9.e30.", "\xff.\xff.\xff"} {
		expectUser(t, tokens, text, now, "")
	}
}

func TestSignedTokenKeys(t *testing.T) {
	privatePath, publicPath := keyFiles(t, edKey(t))
	_, otherPath := keyFiles(t, edKey(t))
	ecPath, _ := keyFiles(t, ecKey(t, elliptic.P256()))
	if _, err := NewTokens("jwt,sign-method=EdDSA,priv-key="+privatePath+",pub-key="+otherPath, 0); !errors.Is(err, ErrKeyMismatch) {
		t.Error(err)
	}
	for _, description := range []string{
		"jwt,sign-method=EdDSA,priv-key=" + ecPath, "jwt,sign-method=EdDSA,priv-key=" + publicPath,
		"jwt,sign-method=RS256,priv-key=" + privatePath, "jwt,sign-method=ES256,pub-key=" + publicPath,
		"jwt,sign-method=PS256,pub-key=" + publicPath, "jwt,sign-method=EdDSA,pub-key=" + privatePath,
	} {
		if _, err := NewTokens(description, 0); err == nil {
			t.Errorf("%s: taken", description)
		}
	}
	tokens := newTokens(t, "jwt,sign-method=EdDSA,color=red,priv-key="+privatePath, 0)
	if len(tokens.Notes) != 1 || !strings.Contains(tokens.Notes[0], "color") {
		t.Errorf("notes %q", tokens.Notes)
	}
}
