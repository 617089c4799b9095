// Package tlsconf makes the TLS configuration of a listener from files on disk,
// with etcd's rules, and keeps it up to date with them: a certificate, key,
// certificate authority or revocation list that is replaced holds for the next
// handshake, without a restart. etcd does so for the certificate and the list.
//
// Config names the files and rules; Server makes a *tls.Config of it, after it
// has read every file once, so that a mistake shows at the start. Each handshake
// then asks for the files' identity (device, inode, size, time of change) and
// reads again only what changed. There are no goroutines.
//
// A file that cannot be used any more is treated by what is at stake. The
// certificate is kept as it was, with a warning: replacing it and its key takes
// two steps, and a handshake may come between them. Without the authorities or
// the revocation list nobody can be trusted, so handshakes fail until they are
// back; that, too, is logged, once for each distinct failure.
//
// Connections that stand are not looked at again.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Config describes the server's side of TLS. Paths are read as long as the
// configuration made of it is in use.
type Config struct {
	// CertFile and KeyFile hold the server's chain and key, PEM. Both are needed.
	CertFile string
	KeyFile  string

	// ClientCertAuth asks clients for a certificate, and so does TrustedCAFile:
	// the authorities, PEM, that may have signed it. Without a file the system's
	// are trusted, as in etcd.
	ClientCertAuth bool
	TrustedCAFile  string
	// CRLFile lists revoked certificates, DER as in etcd, or PEM. As in etcd,
	// whoever shows a certificate with a listed serial number is refused, whatever
	// authority signed the certificate or the list.
	CRLFile string
	// AllowedCNs and AllowedHostnames name the clients that are let in: by common
	// name, or by a name or address of the certificate. At most one may be set;
	// empty lets in all.
	AllowedCNs       []string
	AllowedHostnames []string

	// CipherSuites are those of TLS 1.2; empty means Go's choice.
	CipherSuites []uint16
	// MinVersion and MaxVersion bound the version; 0 means TLS 1.2, and Go's newest.
	MinVersion uint16
	MaxVersion uint16

	// NextProtos are the protocols offered to clients; empty means h2 and http/1.1.
	NextProtos []string

	// Logger tells of files that changed or cannot be used; nil means none. Now is
	// the time; nil means the system's.
	Logger *zap.Logger
	Now    func() time.Time
}

// VerifiesClients tells whether clients need a certificate.
func (c *Config) VerifiesClients() bool { return c.ClientCertAuth || c.TrustedCAFile != "" }

// Check holds the rules against each other, without a look at files. Errors:
// ErrTwoRules, ErrVersions, ErrSuitesOfTLS13.
func (c *Config) Check() error {
	switch {
	case len(c.AllowedCNs) > 0 && len(c.AllowedHostnames) > 0:
		return fmt.Errorf("%w: common names %q, host names %q", ErrTwoRules, c.AllowedCNs, c.AllowedHostnames)
	case c.MaxVersion != 0 && c.MaxVersion < c.minVersion():
		return fmt.Errorf("%w: %s is above %s", ErrVersions, tls.VersionName(c.minVersion()), tls.VersionName(c.MaxVersion))
	case c.minVersion() >= tls.VersionTLS13 && len(c.CipherSuites) > 0:
		return ErrSuitesOfTLS13
	}
	return nil
}

func (c *Config) minVersion() uint16 {
	if c.MinVersion == 0 {
		return tls.VersionTLS12
	}
	return c.MinVersion
}

// Server makes the configuration of a listener. Errors: ErrIncomplete,
// ErrTwoRules, ErrVersions, ErrSuitesOfTLS13; else what is wrong with a file, by
// its name.
func Server(c Config) (*tls.Config, error) {
	if c.CertFile == "" || c.KeyFile == "" {
		return nil, fmt.Errorf("%w: certificate %q, key %q", ErrIncomplete, c.CertFile, c.KeyFile)
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &server{cfg: c}
	s.pair = watch(c, "certificate", parsePair, c.CertFile, c.KeyFile)
	s.pair.keep = true
	if c.TrustedCAFile != "" {
		s.authorities = watch(c, "certificate authorities", parseAuthorities, c.TrustedCAFile)
	}
	if c.CRLFile != "" {
		s.revoked = watch(c, "certificate revocation list", parseRevoked, c.CRLFile)
	}
	current, err := s.current()
	if err != nil {
		return nil, err
	}
	outer := current.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current() }
	return outer, nil
}

// server makes a configuration anew when one of its files has changed.
type server struct {
	cfg         Config
	pair        *watched[tls.Certificate]
	authorities *watched[*x509.CertPool] // nil: the system's, or no client certificates
	revoked     *watched[revoked]        // nil: none

	mu   sync.Mutex
	made *tls.Config // of the generations below; nil at first
	gens [3]uint64
}

// current is the configuration of the files as they are. It is shared and never
// changed.
func (s *server) current() (*tls.Config, error) {
	pair, gen0, err := s.pair.get()
	if err != nil {
		return nil, err
	}
	authorities, gen1, err := s.authorities.get()
	if err != nil {
		return nil, err
	}
	list, gen2, err := s.revoked.get()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if gens := [3]uint64{gen0, gen1, gen2}; s.made == nil || s.gens != gens {
		s.made, s.gens = s.make(pair, authorities, list), gens
	}
	return s.made, nil
}

func (s *server) make(pair tls.Certificate, authorities *x509.CertPool, list revoked) *tls.Config {
	c := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   s.cfg.minVersion(),
		MaxVersion:   s.cfg.MaxVersion,
		CipherSuites: slices.Clone(s.cfg.CipherSuites),
		NextProtos:   slices.Clone(s.cfg.NextProtos),
		Time:         s.cfg.Now,
	}
	if len(c.NextProtos) == 0 {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	if s.cfg.VerifiesClients() {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, authorities
		// A resumed session is not checked against the authorities again: a client
		// of one that was removed could come back until its ticket ends.
		c.SessionTicketsDisabled = true
	}
	// Unlike VerifyPeerCertificate it runs for every connection.
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if err := list.check(state.PeerCertificates); err != nil {
			return err
		}
		return s.cfg.allows(state)
	}
	return c
}

// allows checks the names of a client's certificate. Errors: ErrNotAllowed.
func (c *Config) allows(state tls.ConnectionState) error {
	if len(c.AllowedCNs) == 0 && len(c.AllowedHostnames) == 0 || !c.VerifiesClients() {
		return nil
	}
	for _, chain := range state.VerifiedChains {
		leaf := chain[0] // a verified chain is not empty
		if slices.Contains(c.AllowedCNs, leaf.Subject.CommonName) ||
			slices.ContainsFunc(c.AllowedHostnames, func(h string) bool { return leaf.VerifyHostname(h) == nil }) {
			return nil
		}
	}
	return ErrNotAllowed
}
