package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// pki makes an authority with certificates of its own for a test.
type pki struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{t: t, dir: t.TempDir(), next: 1}
	p.issue("ca")
	return p
}

// issue signs a certificate for a common name, and writes name.crt and name.key; the
// first is the authority's own.
func (p *pki) issue(name string) tls.Certificate {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(p.next), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
	}
	parent, signer := p.cert, p.key
	if parent == nil {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		p.t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
	p.write(name+".crt", certPEM)
	p.write(name+".key", keyPEM)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.cert == nil {
		p.cert, p.key = pair.Leaf, key
	}
	return pair
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

// write replaces a file as an operator should: at once.
func (p *pki) write(name string, content []byte) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name)+".new", content, 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(p.path(name)+".new", p.path(name)); err != nil {
		p.t.Fatal(err)
	}
}

// revoke writes the list of revoked certificates.
func (p *pki) revoke(certificates ...tls.Certificate) {
	p.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range certificates {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, p.cert, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("crl", der)
}

// client is a client's configuration, with a certificate unless it has none.
func (p *pki) client(certificates ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(p.cert)
	return &tls.Config{RootCAs: pool, Certificates: certificates}
}

// tlsSides are both servers, each with TLS and plaintext on one port.
func (p *pki) tlsSides(flags ...string) [2]*side {
	p.t.Helper()
	var sides [2]*side
	for i, name := range []string{"etcd", "shim"} {
		port, peer := process.Port(p.t), fmt.Sprintf("http://127.0.0.1:%d", process.Port(p.t))
		both := fmt.Sprintf("http://127.0.0.1:%[1]d,https://127.0.0.1:%[1]d", port)
		s := process.Start(p.t, process.Binary(p.t, name), port, p.t.TempDir(), append([]string{
			"--listen-client-urls", both, "--advertise-client-urls", both, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", "default=" + peer, "--bcrypt-cost=4",
			"--cert-file", p.path("server.crt"), "--key-file", p.path("server.key"), "--trusted-ca-file", p.path("ca.crt"), "--client-cert-auth",
		}, flags...)...)
		s.WaitReady(p.t)
		sides[i] = &side{name: name, server: s, dir: p.t.TempDir()}
	}
	return sides
}

// page asks for a page, as most clients do, and tells the status, protocol and body, or
// that there was none.
func page(s *side, c *tls.Config, http2 bool, method, path, body string) string {
	return pageAs(s, c, http2, method, path, body, "*/*")
}

// pageAs is page with a header "Accept", or with none if it is empty.
func pageAs(s *side, c *tls.Config, http2 bool, method, path, body, accept string) string {
	scheme := "http://"
	if c != nil {
		scheme = "https://"
	}
	transport := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: http2, DisableKeepAlives: true}
	r, err := http.NewRequest(method, scheme+s.server.Address+path, strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	answer, err := (&http.Client{Transport: transport, Timeout: askTimeout}).Do(r)
	if err != nil {
		return "no answer"
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return "half an answer"
	}
	if path == "/version" || path == "/metrics" {
		text = nil // which differs
	}
	ids := ask{hidden: []string{"cluster_id", "member_id"}} // which follow from the ports
	return fmt.Sprint(answer.StatusCode, " ", answer.Proto, " ", ids.canonical(text))
}

// ranges reads a key by gRPC and tells the error's code and text.
func ranges(s *side, c *tls.Config) string { return rangesAt("passthrough:///"+s.server.Address, c) }

func rangesAt(target string, c *tls.Config) string {
	creds := insecure.NewCredentials()
	if c != nil {
		creds = credentials.NewTLS(c)
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	if status.Code(err) == codes.Unavailable {
		return "no answer"
	}
	return fmt.Sprint(err)
}

// shake makes a handshake and tells the version and protocol, or that it failed. The
// server's word on the client's certificate comes after the client's own end in TLS 1.3,
// so a byte is awaited.
func shake(s *side, c *tls.Config) string {
	c.ServerName = "localhost"
	conn, err := tls.Dial("tcp", s.server.Address, c)
	if err != nil {
		return "refused"
	}
	defer func() { _ = conn.Close() }()
	state := conn.ConnectionState()
	said := fmt.Sprint(tls.VersionName(state.Version), " ", state.NegotiatedProtocol)
	if state.NegotiatedProtocol == "" {
		if _, err := io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
			return "refused late"
		}
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil && state.NegotiatedProtocol == "" {
		return "refused late"
	}
	return said
}

// compareSides makes sure that something is the same on both sides.
func compareSides(t *testing.T, sides [2]*side, title string, tell func(*side) string) {
	t.Helper()
	etcd, shim := tell(sides[0]), tell(sides[1])
	if etcd != shim {
		t.Errorf("%s\netcd: %s\nshim: %s", title, etcd, shim)
	} else if testing.Verbose() {
		t.Logf("%s: %.200s", title, etcd)
	}
}

// TestTLSAlike compares gRPC and HTTP, plain and with TLS, on one port: with
// certificates, without, and with one that is on the list of revoked ones.
func TestTLSAlike(t *testing.T) {
	p := newPKI(t)
	p.issue("server")
	alice, mallory := p.issue("alice"), p.issue("mallory")
	p.revoke()
	stranger := newPKI(t).issue("alice")
	sides := p.tlsSides("--client-crl-file", p.path("crl"))
	for _, path := range []string{"/version", "/health", "/livez?verbose", "/metrics", "/none"} {
		for _, http2 := range []bool{false, true} {
			for name, c := range map[string]*tls.Config{"plain": nil, "alice": p.client(alice), "nobody": p.client(), "stranger": p.client(stranger), "mallory": p.client(mallory)} {
				compareSides(t, sides, fmt.Sprint(path, ", HTTP/2 ", http2, ", ", name), func(s *side) string { return page(s, c, http2, http.MethodGet, path, "") })
			}
		}
	}
	compareSides(t, sides, "gateway with TLS", func(s *side) string {
		return page(s, p.client(alice), true, http.MethodPost, "/v3/kv/range", `{"key":"YQ=="}`)
	})
	for name, c := range map[string]*tls.Config{"plain": nil, "alice": p.client(alice), "nobody": p.client(), "stranger": p.client(stranger), "mallory": p.client(mallory)} {
		compareSides(t, sides, "gRPC, "+name, func(s *side) string { return ranges(s, c) })
	}
	both := func(c *tls.Config) *tls.Config { c.NextProtos = []string{"h2", "http/1.1"}; return c }
	compareSides(t, sides, "gRPC that offers HTTP/1.1, too", func(s *side) string { return ranges(s, both(p.client(alice))) })
	for version := range map[uint16]bool{tls.VersionTLS10: true, tls.VersionTLS11: true, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		for name, protocols := range map[string][]string{"none": nil, "h2": {"h2"}, "both": {"h2", "http/1.1"}} {
			compareSides(t, sides, fmt.Sprint(tls.VersionName(version), " offering ", name), func(s *side) string {
				c := p.client(alice)
				c.MinVersion, c.MaxVersion, c.NextProtos = version, version, protocols
				return shake(s, c)
			})
		}
	}
	p.revoke(mallory)
	for name, who := range map[string]tls.Certificate{"alice": alice, "mallory": mallory} {
		compareSides(t, sides, "revoked, "+name, func(s *side) string {
			return page(s, p.client(who), true, http.MethodGet, "/version", "") + ranges(s, p.client(who))
		})
	}
	// A certificate that is replaced is shown at the next handshake.
	p.issue("server")
	compareSides(t, sides, "a new certificate", func(s *side) string {
		c := p.client(alice)
		c.ServerName, c.NextProtos = "localhost", []string{"h2"}
		conn, err := tls.Dial("tcp", s.server.Address, c)
		if err != nil {
			return err.Error()
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	})
}

// TestTLSUsers compares whom a client's certificate makes its sender while users are
// asked for: by gRPC its common name, and through the gateway nobody, who is told so
// (CVE-2018-16886). etcd's gateway tells such requests by the header "Accept" of the
// client's; without one the server's own certificate is the sender to it, as it never is
// to shim.
func TestTLSUsers(t *testing.T) {
	p := newPKI(t)
	p.issue("server")
	root, nobody := p.issue("root"), p.issue("nobody")
	sides := p.tlsSides()
	for _, call := range [][2]string{
		{"/v3/auth/user/add", `{"name":"root","password":"pw"}`}, {"/v3/auth/role/add", `{"name":"root"}`},
		{"/v3/auth/user/grant", `{"user":"root","role":"root"}`}, {"/v3/auth/enable", `{}`},
	} {
		compareSides(t, sides, call[0], func(s *side) string { return page(s, nil, false, http.MethodPost, call[0], call[1]) })
	}
	for name, c := range map[string]*tls.Config{"plain": nil, "root": p.client(root), "nobody": p.client(nobody)} {
		compareSides(t, sides, "gRPC, "+name, func(s *side) string { return ranges(s, c) })
		for _, path := range []string{"/v3/kv/range", "/v3beta/kv/range", "/v3/auth/authenticate", "/health", "/version", "/readyz"} {
			method := http.MethodGet
			if strings.HasPrefix(path, "/v3") {
				method = http.MethodPost
			}
			compareSides(t, sides, name+" "+path, func(s *side) string { return page(s, c, true, method, path, `{"key":"YQ=="}`) })
		}
	}
	if told := pageAs(sides[1], nil, false, http.MethodPost, "/v3/kv/range", `{"key":"YQ=="}`, ""); !strings.Contains(told, "user name is empty") {
		t.Errorf("without Accept: %s", told)
	}
}

// TestTLSRules compares allowed names, versions and suites.
func TestTLSRules(t *testing.T) {
	p := newPKI(t)
	p.issue("server")
	alice := p.issue("alice")
	for _, flags := range [][]string{
		{"--client-cert-allowed-hostname=localhost"}, {"--client-cert-allowed-hostname=elsewhere"}, {"--client-cert-allowed-hostname=elsewhere,127.0.0.1"},
		{"--tls-min-version=TLS1.3"}, {"--tls-max-version=TLS1.2"},
		{"--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "--tls-max-version=TLS1.2"},
	} {
		sides := p.tlsSides(flags...)
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256} {
				compareSides(t, sides, fmt.Sprint(flags, " ", tls.VersionName(version), " ", tls.CipherSuiteName(suite)), func(s *side) string {
					c := p.client(alice)
					c.MinVersion, c.MaxVersion, c.CipherSuites = version, version, []uint16{suite}
					return page(s, c, false, http.MethodGet, "/version", "") + " " + ranges(s, c.Clone())
				})
			}
		}
	}
}

// TestTLSRefusedAlike ensures that what etcd does not start with, shim does not.
func TestTLSRefusedAlike(t *testing.T) {
	p := newPKI(t)
	p.issue("server")
	p.issue("alice")
	cert, key := "--cert-file="+p.path("server.crt"), "--key-file="+p.path("server.key")
	for _, flags := range [][]string{
		{}, {"--trusted-ca-file=" + p.path("ca.crt")}, {cert}, {key}, {cert, "--key-file=" + p.path("alice.key")}, {"--cert-file=" + p.path("none"), key},
		{cert, key, "--client-cert-file=" + p.path("alice.crt")}, {cert, key, "--client-key-file=" + p.path("alice.key")}, {cert, key, "--trusted-ca-file=" + p.path("none")},
		{cert, key, "--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"}, {cert, key, "--tls-min-version=TLS1.1"},
		{cert, key, "--tls-min-version=TLS1.3", "--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}, {cert, key, "--cipher-suites=TLS_NONE"},
		{"--auto-tls", "--self-signed-cert-validity=0"},
	} {
		url := fmt.Sprintf("https://127.0.0.1:%d", process.Port(t))
		listen := []string{"--listen-client-urls=" + url, "--advertise-client-urls=" + url, fmt.Sprintf("--listen-peer-urls=http://127.0.0.1:%d", process.Port(t))}
		for _, program := range []string{"etcd", "shim"} {
			if code, output := exitOf(t, process.Binary(t, program), nil, append(listen, flags...)); code != 1 {
				t.Errorf("%s %q: exit code %d\n%s", program, flags, code, output)
			}
		}
	}
}
