package lease

import "errors"

// Answers of Renew beside those of package backends.
var (
	// ErrExpired: the deadline has passed; the lease is about to be revoked and
	// must not be renewed any more.
	ErrExpired = errors.New("lease has expired and waits to be revoked")
	// ErrCheckpointed: a checkpoint of the lease is replicated or on its way. It
	// must be reset, by a replicated checkpoint of zero, before a renewal holds.
	ErrCheckpointed = errors.New("lease has a checkpoint that must be reset first")
)

// ErrMalformedRecord: bytes in the lease bucket are not a lease.
var ErrMalformedRecord = errors.New("malformed lease record")
