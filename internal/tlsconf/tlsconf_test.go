package tlsconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, next: 100}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// issue signs a certificate for name, which stands as common name and host name.
func (a *authority) issue(name string) (certPEM, keyPEM []byte, serial *big.Int) {
	a.t.Helper()
	a.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(a.t, err)
	private, err := x509.MarshalECPrivateKey(key)
	must(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), template.SerialNumber
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// revoke makes a list, DER.
func (a *authority) revoke(serials ...*big.Int) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	must(a.t, err)
	return der
}

// files is a directory in which files are replaced as operators replace them.
type files struct {
	t   *testing.T
	dir string
}

func (f files) put(name string, content []byte) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	must(f.t, os.WriteFile(path+".new", content, 0o600))
	must(f.t, os.Rename(path+".new", path))
	return path
}

// server puts a server's pair and returns a configuration with it.
func (f files) server(a *authority) Config {
	f.t.Helper()
	certPEM, keyPEM, _ := a.issue("server")
	return Config{CertFile: f.put("server.crt", certPEM), KeyFile: f.put("server.key", keyPEM)}
}

// shake shakes hands over a pipe. The client trusts everybody and shows pair. It
// returns the client's state, the server's error and the client's.
func shake(t *testing.T, config *tls.Config, client *tls.Config) (tls.ConnectionState, error, error) {
	t.Helper()
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	deadline := time.Now().Add(20 * time.Second)
	_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
	served := make(chan error, 1)
	go func() {
		s := tls.Server(a, config)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x")) // in TLS 1.3 the client learns of a refusal when it reads
		}
		_ = a.Close()
		served <- err
	}()
	client = client.Clone()
	client.InsecureSkipVerify = true
	c := tls.Client(b, client)
	err := c.Handshake()
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	_ = b.Close()
	return c.ConnectionState(), <-served, err
}

func clientPair(t *testing.T, certPEM, keyPEM []byte) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	must(t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// TestReload ensures that a certificate, an authority and a revocation list that
// are replaced hold for the next handshake, and that a replaced pair in two steps
// refuses nobody.
func TestReload(t *testing.T) {
	f := files{t, t.TempDir()}
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	core, logs := observer.New(zapcore.InfoLevel)
	cfg := f.server(first)
	cfg.TrustedCAFile, cfg.CRLFile = f.put("ca.crt", first.pem()), f.put("crl", first.revoke())
	cfg.Logger = zap.New(core)
	config, err := Server(cfg)
	must(t, err)

	certPEM, keyPEM, serial := first.issue("alice")
	alice := clientPair(t, certPEM, keyPEM)
	certPEM, keyPEM, _ = second.issue("bob")
	bob := clientPair(t, certPEM, keyPEM)
	expect := func(step string, who *tls.Config, in bool) tls.ConnectionState {
		t.Helper()
		state, served, got := shake(t, config, who)
		if (served == nil && got == nil) != in {
			t.Fatalf("%s: the server says %v, the client %v; let in should be %v", step, served, got, in)
		}
		return state
	}
	before := expect("alice", alice, true).PeerCertificates[0].SerialNumber
	expect("bob of an unknown authority", bob, false)
	expect("nobody", &tls.Config{}, false)

	newCert, newKeyPEM, newSerial := first.issue("server")
	f.put("server.crt", newCert) // its key is still the old one
	if got := expect("half replaced", alice, true).PeerCertificates[0].SerialNumber; got.Cmp(before) != 0 {
		t.Errorf("a certificate without its key is shown: %v", got)
	}
	if logs.FilterLevelExact(zapcore.WarnLevel).Len() != 1 {
		t.Errorf("half a pair is told of %d times", logs.FilterLevelExact(zapcore.WarnLevel).Len())
	}
	f.put("server.key", newKeyPEM)
	if got := expect("replaced", alice, true).PeerCertificates[0].SerialNumber; got.Cmp(newSerial) != 0 {
		t.Errorf("the server shows %v, not %v", got, newSerial)
	}

	f.put("ca.crt", append(first.pem(), second.pem()...))
	expect("bob of a new authority", bob, true)
	f.put("crl", first.revoke(serial))
	expect("alice revoked", alice, false)
	expect("bob not revoked", bob, true)
	f.put("crl", []byte("garbage"))
	expect("bob without a list", bob, false)
	f.put("crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: first.revoke(serial)}))
	expect("bob with a PEM list", bob, true)
	expect("alice on a PEM list", alice, false)
	f.put("ca.crt", second.pem())
	f.put("crl", first.revoke())
	expect("alice of a removed authority", alice, false)

	must(t, os.Rename(cfg.TrustedCAFile, cfg.TrustedCAFile+".away"))
	expect("bob without authorities", bob, false)
	must(t, os.Rename(cfg.TrustedCAFile+".away", cfg.TrustedCAFile))
	expect("bob when they are back", bob, true)
}

// TestNoResumption ensures that a client whose authority was removed cannot come
// back with a session of before.
func TestNoResumption(t *testing.T) {
	f := files{t, t.TempDir()}
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	cfg := f.server(first)
	cfg.TrustedCAFile = f.put("ca.crt", first.pem())
	config, err := Server(cfg)
	must(t, err)
	certPEM, keyPEM, _ := first.issue("alice")
	alice := clientPair(t, certPEM, keyPEM)
	alice.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	alice.ServerName = "server"
	for range 2 {
		state, served, got := shake(t, config, alice)
		if served != nil || got != nil || state.DidResume {
			t.Fatalf("%v, %v, resumed %v", served, got, state.DidResume)
		}
	}
	f.put("ca.crt", second.pem())
	if _, served, _ := shake(t, config, alice); served == nil {
		t.Error("a client of a removed authority was let in")
	}
}

// TestAllowedNames ensures that only named clients are let in.
func TestAllowedNames(t *testing.T) {
	f := files{t, t.TempDir()}
	a := newAuthority(t, "ca")
	base := f.server(a)
	base.TrustedCAFile = f.put("ca.crt", a.pem())
	certPEM, keyPEM, _ := a.issue("alice")
	alice := clientPair(t, certPEM, keyPEM)
	for _, c := range []struct {
		name       string
		cns, hosts []string
		in         bool
	}{
		{"all", nil, nil, true},
		{"common name", []string{"bob", "alice"}, nil, true},
		{"other common name", []string{"bob"}, nil, false},
		{"host name", nil, []string{"bob", "alice"}, true},
		{"address", nil, []string{"127.0.0.1"}, true},
		{"other host name", nil, []string{"bob"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := base
			cfg.AllowedCNs, cfg.AllowedHostnames = c.cns, c.hosts
			config, err := Server(cfg)
			must(t, err)
			_, served, _ := shake(t, config, alice)
			if (served == nil) != c.in || !c.in && !errors.Is(served, ErrNotAllowed) {
				t.Errorf("the server says %v", served)
			}
		})
	}
}

// TestVersions ensures that the bounds of versions and the suites hold.
func TestVersions(t *testing.T) {
	f := files{t, t.TempDir()}
	base := f.server(newAuthority(t, "ca"))
	suite, weak, found := CipherSuite("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305")
	if !found || weak || suite != tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 {
		t.Fatalf("the short name of a suite is %#x, weak %v, found %v", suite, weak, found)
	}
	if _, weak, found := CipherSuite("TLS_ECDHE_RSA_WITH_RC4_128_SHA"); !weak || !found {
		t.Error("a weak suite is not known as one")
	}
	if _, _, found := CipherSuite("nonsense"); found {
		t.Error("a suite of no name is known")
	}
	const weakOnly = 0 // for a version: TLS 1.2 with nothing but weak suites
	for _, c := range []struct {
		name     string
		set      func(*Config)
		from, to uint16
		in       bool
	}{
		{"default takes 1.2", func(*Config) {}, tls.VersionTLS12, tls.VersionTLS12, true},
		{"default takes 1.3", func(*Config) {}, tls.VersionTLS13, tls.VersionTLS13, true},
		{"default refuses 1.1", func(*Config) {}, tls.VersionTLS10, tls.VersionTLS11, false},
		// GHSA-5x4g-q5rc-36jp: what etcd does not name may not let weak suites in.
		{"default refuses weak suites", func(*Config) {}, tls.VersionTLS12, weakOnly, false},
		{"least 1.3 refuses 1.2", func(c *Config) { c.MinVersion = tls.VersionTLS13 }, tls.VersionTLS12, tls.VersionTLS12, false},
		{"highest 1.2 refuses 1.3", func(c *Config) { c.MaxVersion = tls.VersionTLS12 }, tls.VersionTLS13, tls.VersionTLS13, false},
		{"suite", func(c *Config) { c.CipherSuites = []uint16{suite} }, tls.VersionTLS12, tls.VersionTLS12, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := base
			c.set(&cfg)
			config, err := Server(cfg)
			must(t, err)
			client := &tls.Config{MinVersion: c.from, MaxVersion: c.to}
			if c.to == weakOnly {
				client.MaxVersion = c.from
				for _, s := range tls.InsecureCipherSuites() {
					client.CipherSuites = append(client.CipherSuites, s.ID)
				}
			}
			state, served, _ := shake(t, config, client)
			if (served == nil) != c.in {
				t.Errorf("the server says %v", served)
			}
			if c.in && len(cfg.CipherSuites) > 0 && state.CipherSuite != suite {
				t.Errorf("the suite is %s", tls.CipherSuiteName(state.CipherSuite))
			}
		})
	}
}

// TestMistakes ensures that a server does not start with files or rules that
// cannot be meant, and that the error names the file.
func TestMistakes(t *testing.T) {
	f := files{t, t.TempDir()}
	a := newAuthority(t, "ca")
	base := f.server(a)
	_, otherKey, _ := a.issue("other")
	for _, c := range []struct {
		name, want string
		is         error
		set        func(*Config)
	}{
		{"no key", "", ErrIncomplete, func(c *Config) { c.KeyFile = "" }},
		{"absent certificate", "absent.crt", os.ErrNotExist, func(c *Config) { c.CertFile = filepath.Join(f.dir, "absent.crt") }},
		{"other key", "other.key", nil, func(c *Config) { c.KeyFile = f.put("other.key", otherKey) }},
		{"absent authorities", "absent.ca", os.ErrNotExist, func(c *Config) { c.TrustedCAFile = filepath.Join(f.dir, "absent.ca") }},
		{"no authority", "empty.ca", ErrNoCertificate, func(c *Config) { c.TrustedCAFile = f.put("empty.ca", []byte("# none\n")) }},
		{"absent list", "absent.crl", os.ErrNotExist, func(c *Config) { c.CRLFile = filepath.Join(f.dir, "absent.crl") }},
		{"bad list", "bad.crl", nil, func(c *Config) { c.CRLFile = f.put("bad.crl", []byte("x")) }},
		{"two rules", "", ErrTwoRules, func(c *Config) { c.AllowedCNs, c.AllowedHostnames = []string{"a"}, []string{"b"} }},
		{"versions", "", ErrVersions, func(c *Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS12 }},
		{"suites of 1.3", "", ErrSuitesOfTLS13, func(c *Config) {
			c.MinVersion, c.CipherSuites = tls.VersionTLS13, []uint16{tls.TLS_AES_128_GCM_SHA256}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := base
			c.set(&cfg)
			_, err := Server(cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// TestCached ensures that handshakes share a configuration until a file changes.
func TestCached(t *testing.T) {
	f := files{t, t.TempDir()}
	cfg := f.server(newAuthority(t, "ca"))
	now := time.Now().Add(time.Hour) // the files are settled
	cfg.Now = func() time.Time { return now }
	config, err := Server(cfg)
	must(t, err)
	one, err := config.GetConfigForClient(nil)
	must(t, err)
	two, err := config.GetConfigForClient(nil)
	must(t, err)
	if one != two {
		t.Error("two handshakes made two configurations of the same files")
	}
	certPEM, err := os.ReadFile(cfg.CertFile)
	must(t, err)
	f.put("server.crt", certPEM) // another file of the same content
	if three, err := config.GetConfigForClient(nil); err != nil || three != one {
		t.Errorf("the same content made another configuration: %v", err)
	}
}

// TestSelfSigned ensures that a pair is made once, private, for the hosts, and
// anew when it expired or is not whole.
func TestSelfSigned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fixtures", "client")
	now := time.Now()
	hosts := []string{"127.0.0.1:2379", "[::1]:1", "localhost:2379", "0.0.0.0:2"}
	certFile, keyFile, made, err := SelfSigned(dir, hosts, 1, now)
	must(t, err)
	if !made || certFile != filepath.Join(dir, "cert.pem") || keyFile != filepath.Join(dir, "key.pem") {
		t.Fatalf("made %v: %s, %s", made, certFile, keyFile)
	}
	for path, mode := range map[string]os.FileMode{certFile: 0o600, keyFile: 0o600, dir: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	for _, h := range []string{"127.0.0.1", "::1", "localhost"} {
		if err := pair.Leaf.VerifyHostname(h); err != nil {
			t.Error(err)
		}
	}
	if got := pair.Leaf.NotAfter.Sub(now); got > year || got < year-2*time.Second {
		t.Errorf("valid for %v", got)
	}
	config, err := Server(Config{CertFile: certFile, KeyFile: keyFile})
	must(t, err)
	if _, served, got := shake(t, config, &tls.Config{}); served != nil || got != nil {
		t.Errorf("%v, %v", served, got)
	}
	if _, _, made, err = SelfSigned(dir, hosts, 1, now.Add(year-time.Minute)); made || err != nil {
		t.Errorf("made again while it is valid: %v, %v", made, err)
	}
	if _, _, made, err = SelfSigned(dir, hosts, 1, now.Add(year+time.Minute)); !made || err != nil {
		t.Errorf("expired, and made again: %v, %v", made, err)
	}
	must(t, os.Remove(certFile))
	if _, _, made, err = SelfSigned(dir, hosts, 1, now); !made || err != nil {
		t.Errorf("half a pair, and made again: %v, %v", made, err)
	}
	if _, _, _, err = SelfSigned(dir, hosts, 0, now); !errors.Is(err, ErrValidity) {
		t.Errorf("a validity of 0 years: %v", err)
	}
}
