package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/etcdshim/shim/backends"
)

// The options of signed tokens (server/auth/options.go).
const (
	optionMethod     = "sign-method"
	optionPublicKey  = "pub-key"
	optionPrivateKey = "priv-key"
	optionTTL        = "ttl"
)

// defaultSignedTTL is how long a signed token lives.
const defaultSignedTTL = 5 * time.Minute

// The claims of a token beside its end, "exp".
const (
	claimUser     = "username"
	claimRevision = "revision"
)

// signedTokens are JSON Web Tokens of one signing method, which is pinned: a token
// that names another is invalid.
type signedTokens struct {
	method jwt.SigningMethod
	ttl    time.Duration
	// private signs, nil when only the public key is known; public verifies. Of HMAC
	// both are the secret.
	private, public any
}

func newSignedTokens(options map[string]string) (t *signedTokens, notes []string, err error) {
	t = &signedTokens{ttl: defaultSignedTTL}
	if text := options[optionTTL]; text != "" {
		if t.ttl, err = time.ParseDuration(text); err != nil {
			return nil, nil, fmt.Errorf("%w: %s: %w", ErrTokenOptions, optionTTL, err)
		}
	}
	keys := map[string][]byte{}
	for _, name := range []string{optionPublicKey, optionPrivateKey} {
		if path := options[name]; path != "" {
			if keys[name], err = os.ReadFile(path); err != nil {
				return nil, nil, fmt.Errorf("%w: %s: %w", ErrTokenOptions, name, err)
			}
		}
	}
	if t.method = jwt.GetSigningMethod(options[optionMethod]); t.method == nil {
		return nil, nil, fmt.Errorf("%w: %w: %s=%q (one of %v)", ErrTokenOptions, ErrSignMethod, optionMethod, options[optionMethod], signMethods())
	}
	if t.private, t.public, err = parseKeys(t.method, keys[optionPrivateKey], keys[optionPublicKey]); err != nil {
		return nil, nil, err
	}
	for name := range options {
		if !slices.Contains([]string{optionMethod, optionPublicKey, optionPrivateKey, optionTTL}, name) {
			notes = append(notes, fmt.Sprintf("option %q of the tokens is unknown, and is ignored", name))
		}
	}
	slices.Sort(notes)
	return t, notes, nil
}

// signMethods are those that a key can be given for.
func signMethods() []string {
	all := slices.DeleteFunc(jwt.GetAlgorithms(), func(name string) bool { return name == jwt.SigningMethodNone.Alg() })
	slices.Sort(all)
	return all
}

// parseKeys reads the keys that a method needs. private is nil when only the public
// one is given.
func parseKeys(method jwt.SigningMethod, privateText, publicText []byte) (private, public any, err error) {
	switch method.(type) {
	case *jwt.SigningMethodHMAC:
		if len(privateText) == 0 {
			return nil, nil, fmt.Errorf("%w: %s needs %s", ErrMissingKey, method.Alg(), optionPrivateKey)
		}
		return privateText, privateText, nil
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		return parsePair(method, privateText, publicText, jwt.ParseRSAPrivateKeyFromPEM, jwt.ParseRSAPublicKeyFromPEM)
	case *jwt.SigningMethodECDSA:
		return parsePair(method, privateText, publicText, jwt.ParseECPrivateKeyFromPEM, jwt.ParseECPublicKeyFromPEM)
	case *jwt.SigningMethodEd25519:
		return parsePair(method, privateText, publicText, parseEdPrivate, parseEdPublic)
	}
	return nil, nil, fmt.Errorf("%w: %s=%s (one of %v)", ErrSignMethod, optionMethod, method.Alg(), signMethods())
}

// signer is a private key that knows its public one, which can be compared.
type signer interface{ Public() crypto.PublicKey }

type equaler interface{ Equal(crypto.PublicKey) bool }

var (
	_ = []signer{(*rsa.PrivateKey)(nil), (*ecdsa.PrivateKey)(nil), ed25519.PrivateKey(nil)}
	_ = []equaler{(*rsa.PublicKey)(nil), (*ecdsa.PublicKey)(nil), ed25519.PublicKey(nil)}
)

func parsePair[S signer, P equaler](method jwt.SigningMethod, privateText, publicText []byte,
	parsePrivate func([]byte) (S, error), parsePublic func([]byte) (P, error),
) (private, public any, err error) {
	if len(privateText) == 0 && len(publicText) == 0 {
		return nil, nil, fmt.Errorf("%w: %s needs %s or %s", ErrMissingKey, method.Alg(), optionPrivateKey, optionPublicKey)
	}
	if len(privateText) > 0 {
		key, err := parsePrivate(privateText)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", optionPrivateKey, err)
		}
		private, public = key, key.Public()
	}
	if len(publicText) > 0 {
		key, err := parsePublic(publicText)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", optionPublicKey, err)
		}
		if public != nil && !key.Equal(public) {
			return nil, nil, ErrKeyMismatch
		}
		public = key
	}
	return private, public, nil
}

func parseEdPrivate(text []byte) (ed25519.PrivateKey, error) {
	key, err := jwt.ParseEdPrivateKeyFromPEM(text)
	if err != nil {
		return nil, err
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, jwt.ErrNotEdPrivateKey
	}
	return ed, nil
}

func parseEdPublic(text []byte) (ed25519.PublicKey, error) {
	key, err := jwt.ParseEdPublicKeyFromPEM(text)
	if err != nil {
		return nil, err
	}
	ed, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, jwt.ErrNotEdPublicKey
	}
	return ed, nil
}

func (t *signedTokens) sign(user string, revision uint64, now time.Time) (string, error) {
	if t.private == nil {
		return "", ErrVerifyOnly
	}
	token := jwt.NewWithClaims(t.method, jwt.MapClaims{
		claimUser: user, claimRevision: revision, "exp": now.Add(t.ttl).Unix(),
	})
	return token.SignedString(t.private)
}

// verify takes every token with a right signature, whose time is not over and which
// has the two claims, whoever signed it: without "exp" it has no end, as in etcd.
func (t *signedTokens) verify(text string, now time.Time) (Identity, error) {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{t.method.Alg()}), jwt.WithTimeFunc(func() time.Time { return now }))
	token, err := parser.Parse(text, func(*jwt.Token) (any, error) { return t.public, nil })
	if err != nil || !token.Valid {
		return Identity{}, backends.ErrInvalidAuthToken
	}
	claims, ok := token.Claims.(jwt.MapClaims)
	if !ok {
		return Identity{}, backends.ErrInvalidAuthToken
	}
	user, named := claims[claimUser].(string)
	revision, numbered := claims[claimRevision].(float64)
	if !named || !numbered || revision < 0 || revision >= math.MaxUint64 {
		return Identity{}, backends.ErrInvalidAuthToken
	}
	return Identity{User: user, Revision: uint64(revision)}, nil
}
