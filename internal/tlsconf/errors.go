package tlsconf

import "errors"

// When a configuration is made.
var (
	// ErrIncomplete: a server needs a certificate and a key.
	ErrIncomplete = errors.New("TLS needs a certificate file and a key file")
	// ErrTwoRules: clients are named either by common name or by host name.
	ErrTwoRules = errors.New("allowed common names and allowed host names exclude each other")
	// ErrVersions: no version of TLS is left.
	ErrVersions = errors.New("the least TLS version is above the highest")
	// ErrSuitesOfTLS13: the cipher suites of TLS 1.3 cannot be chosen.
	ErrSuitesOfTLS13 = errors.New("cipher suites cannot be configured when only TLS 1.3 is enabled")
	// ErrNoCertificate: a file of authorities without any.
	ErrNoCertificate = errors.New("no certificate in it")
	// ErrValidity: a certificate of one's own is valid for 1 to maxYears years.
	ErrValidity = errors.New("the validity of a self-signed certificate must be 1 to 290 years")
)

// During a handshake.
var (
	// ErrRevoked: the client's certificate is on the revocation list.
	ErrRevoked = errors.New("tls: the client's certificate is revoked")
	// ErrNotAllowed: neither the common name nor a host name of the client's
	// certificate is an allowed one.
	ErrNotAllowed = errors.New("tls: client certificate authentication failed: its name is not an allowed one")
)
