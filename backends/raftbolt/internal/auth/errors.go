package auth

import "errors"

// Errors of NewTokens: the description of the tokens cannot be meant.
var (
	// ErrTokenOptions: the description is not "simple", or "jwt" with options.
	ErrTokenOptions = errors.New("invalid auth options")
	// ErrSignMethod: the signing method is unknown, or none is named.
	ErrSignMethod = errors.New("invalid auth signature method")
	// ErrMissingKey: the signing method needs a key that is not named.
	ErrMissingKey = errors.New("missing key data")
	// ErrKeyMismatch: the two keys do not belong together.
	ErrKeyMismatch = errors.New("public and private keys don't match")
)

// ErrVerifyOnly: a token cannot be given, since only the public key is configured.
// Its text is etcd's, which reaches clients.
var ErrVerifyOnly = errors.New("auth: token signing attempted with verify-only key")

// ErrMalformedRecord: bytes in one of the buckets are not what belongs there.
var ErrMalformedRecord = errors.New("malformed auth record")
