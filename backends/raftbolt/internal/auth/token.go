package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/etcdshim/shim/backends"
)

// The defaults of etcd's --auth-token and --auth-token-ttl.
const (
	DefaultTokens   = "simple"
	DefaultTokenTTL = 300 * time.Second
)

// Tokens give tokens, and tell whose a token is. They are safe for concurrent use.
type Tokens struct {
	// At most one is not nil; without either nobody gets a token.
	simple *simpleTokens
	signed *signedTokens
	// Notes are what an operator should be told, in words.
	Notes []string
}

// NewTokens reads a description as etcd's --auth-token has it: "simple"; or
// "jwt,sign-method=…,pub-key=…,priv-key=…,ttl=…", with the paths of PEM files, or of
// the secret itself for HMAC; or "", which gives nobody a token. ttl is how long a
// simple token lives unused; zero is the default. ErrTokenOptions, ErrSignMethod,
// ErrMissingKey, ErrKeyMismatch, and errors of the files.
func NewTokens(description string, ttl time.Duration) (*Tokens, error) {
	kind, rest, more := strings.Cut(description, ",")
	options := map[string]string{}
	if more {
		var err error
		if options, err = splitOptions(rest); err != nil {
			return nil, err
		}
	}
	switch kind {
	case "":
		return &Tokens{}, nil
	case "simple":
		if ttl <= 0 {
			ttl = DefaultTokenTTL
		}
		return &Tokens{simple: newSimpleTokens(ttl)}, nil
	case "jwt":
		signed, notes, err := newSignedTokens(options)
		if err != nil {
			return nil, err
		}
		return &Tokens{signed: signed, Notes: notes}, nil
	}
	return nil, fmt.Errorf("%w: tokens of kind %q are unknown (simple, jwt)", ErrTokenOptions, kind)
}

// splitOptions reads "a=b,c=d".
func splitOptions(text string) (map[string]string, error) {
	options := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || strings.Contains(value, "=") {
			return nil, fmt.Errorf("%w: %q is not of the form name=value", ErrTokenOptions, pair)
		}
		if _, again := options[key]; again {
			return nil, fmt.Errorf("%w: %q is given twice", ErrTokenOptions, key)
		}
		options[key] = value
	}
	return options, nil
}

// Identity is whose a token is.
type Identity struct {
	User string
	// Revision is the auth revision that a signed token was given at. A simple token
	// has none: it is as good as the present one.
	Revision uint64
}

// Prefix makes the random part of a simple token, which is proposed with an
// authentication; of others it is empty.
func (t *Tokens) Prefix(random io.Reader) (string, error) {
	if t.simple == nil {
		return "", nil
	}
	return randomLetters(random, prefixLetters)
}

// Assign gives a user a simple token, made of the prefix and the index of the
// entry that asks for it. It is apply's, on every member. Without a prefix, or when
// this member has other tokens, it does nothing. It lives from now on.
func (t *Tokens) Assign(name, prefix string, index uint64, now time.Time) {
	if t.simple != nil && prefix != "" {
		t.simple.assign(simpleToken(prefix, index), name, now)
	}
}

// Give is the token of a user who was authenticated at an auth revision: the one
// that Assign was called for, or a signed one. ErrVerifyOnly, ErrAuthFailed when
// there are no tokens, errors of signing.
func (t *Tokens) Give(name string, revision uint64, prefix string, index uint64, now time.Time) (string, error) {
	switch {
	case t.simple != nil:
		return simpleToken(prefix, index), nil
	case t.signed != nil:
		return t.signed.sign(name, revision, now)
	}
	return "", backends.ErrAuthFailed
}

// Identify tells whose a token is, and renews a simple one. ErrInvalidAuthToken.
func (t *Tokens) Identify(token string, now time.Time) (Identity, error) {
	switch {
	case t.simple != nil:
		if name, ok := t.simple.find(token, now); ok {
			return Identity{User: name}, nil
		}
	case t.signed != nil:
		return t.signed.verify(token, now)
	}
	return Identity{}, backends.ErrInvalidAuthToken
}

// Signed tells whether a token has the auth revision at which it was given.
func (t *Tokens) Signed() bool { return t.signed != nil }

// AssignedAt is the index of the entry that assigned a simple token: a member that
// has not applied it cannot know the token yet. ok is false of any other text.
func (t *Tokens) AssignedAt(token string) (index uint64, ok bool) {
	if t.simple == nil {
		return 0, false
	}
	return simpleIndex(token)
}

// EndUser ends a user's simple tokens. Signed ones end by their auth revision.
func (t *Tokens) EndUser(name string) {
	if t.simple != nil {
		t.simple.endUser(name)
	}
}

// EndAll ends every simple token.
func (t *Tokens) EndAll() {
	if t.simple != nil {
		t.simple.endAll()
	}
}

// Fingerprint stands for a token in logs, as in etcd.
func Fingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])[:12]
}
