package tlsconf

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
)

// parsePair reads a certificate chain and its key.
func parsePair(contents [][]byte) (tls.Certificate, error) {
	return tls.X509KeyPair(contents[0], contents[1])
}

// parseAuthorities reads every certificate of a PEM file. Unlike etcd it refuses
// a file without one, with which no client could be let in.
func parseAuthorities(contents [][]byte) (*x509.CertPool, error) {
	pool, rest, found := x509.NewCertPool(), contents[0], false
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(certificate)
		found = true
	}
	if !found {
		return nil, ErrNoCertificate
	}
	return pool, nil
}

// revoked holds the serial numbers of revoked certificates, as big-endian bytes.
type revoked map[string]struct{}

// parseRevoked reads one list, DER, or several, PEM.
func parseRevoked(contents [][]byte) (revoked, error) {
	lists := [][]byte{contents[0]}
	if rest := contents[0]; bytes.Contains(rest, []byte("-----BEGIN ")) {
		lists = nil
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			lists = append(lists, block.Bytes)
		}
	}
	serials := revoked{}
	for _, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, err
		}
		for _, entry := range list.RevokedCertificateEntries {
			serials[string(entry.SerialNumber.Bytes())] = struct{}{}
		}
	}
	return serials, nil
}

// check looks for each certificate that a client sent. Errors: ErrRevoked.
func (r revoked) check(certificates []*x509.Certificate) error {
	for _, c := range certificates {
		if _, found := r[string(c.SerialNumber.Bytes())]; found {
			return fmt.Errorf("%w: serial number %x", ErrRevoked, c.SerialNumber)
		}
	}
	return nil
}

// CipherSuite finds a cipher suite by its name in Go and, of two, by the name
// that etcd's users know. weak tells that Go does not choose it by itself.
func CipherSuite(name string) (id uint16, weak, found bool) {
	switch name {
	case "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305":
		name += "_SHA256"
	}
	named := func(s *tls.CipherSuite) bool { return s.Name == name }
	if i := slices.IndexFunc(tls.CipherSuites(), named); i >= 0 {
		return tls.CipherSuites()[i].ID, false, true
	}
	if i := slices.IndexFunc(tls.InsecureCipherSuites(), named); i >= 0 {
		return tls.InsecureCipherSuites()[i].ID, true, true
	}
	return 0, false, false
}

// Version reads a TLS version as etcd writes it; "" is 0, the default.
func Version(name string) (version uint16, known bool) {
	switch name {
	case "":
		return 0, true
	case "TLS1.2":
		return tls.VersionTLS12, true
	case "TLS1.3":
		return tls.VersionTLS13, true
	}
	return 0, false
}
