package etcdapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// authority signs certificates of a test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	var der []byte
	a.key, der = a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	})
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// sign signs a certificate; by itself when there is no authority yet.
func (a *authority) sign(template *x509.Certificate) (*ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, der
}

// certificate is one of name, for 127.0.0.1 and both sides.
func (a *authority) certificate(name string) tls.Certificate {
	a.t.Helper()
	key, der := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.certificate("server")}}
}

func (a *authority) client(protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: a.pool, NextProtos: protocols}
}

// serveOn starts a server on an endpoint at a free port, until the test ends.
func serveOn(t *testing.T, b backends.Backend, cfg Config, e Endpoint) (s *Server, address string) {
	t.Helper()
	s, err := New(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if e.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.ServeOn(e) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("ServeOn returned %v", err)
		}
	})
	return s, e.Listener.Addr().String()
}

// seesTLS answers ranges, and tells what it knows of their connections.
func seesTLS(seen chan<- *credentials.TLSInfo) *fake {
	return &fake{ranges: func(ctx context.Context, _ *backends.RangeRequest) (backends.Cursor, error) {
		var info *credentials.TLSInfo
		if p, ok := peer.FromContext(ctx); ok {
			if secured, ok := p.AuthInfo.(credentials.TLSInfo); ok {
				info = &secured
			}
		}
		seen <- info
		return &cursor{result: backends.RangeResult{Header: testHeader}}, nil
	}}
}

func dial(t *testing.T, address string, creds credentials.TransportCredentials) pb.KVClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return pb.NewKVClient(conn)
}

// get gets a page and tells its body and protocol.
func get(t *testing.T, c *http.Client, url string) (code int, body, protocol string, err error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Do(r)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = answer.Body.Close() }()
	b, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(b), answer.Proto, err
}

func httpClient(t *testing.T, c *tls.Config, http2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: http2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestTLS: gRPC, HTTP/2 and HTTP/1 are answered on one TLS port, and gRPC also when its
// client cannot be told from HTTP's. Handlers see the connection's state.
func TestTLS(t *testing.T) {
	a := newAuthority(t)
	seen := make(chan *credentials.TLSInfo, 1)
	_, address := serveOn(t, seesTLS(seen), Config{}, Endpoint{TLS: a.server()})
	for name, protocols := range map[string][]string{"gRPC's protocols": nil, "HTTP's too": {"h2", "http/1.1"}} {
		kv := dial(t, address, credentials.NewTLS(a.client(protocols...)))
		resp, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
		if err != nil || resp.Header.Revision != testHeader.Revision {
			t.Fatalf("%s: %v, %v", name, resp, err)
		}
		if info := <-seen; info == nil || info.State.NegotiatedProtocol != "h2" || info.SecurityLevel != credentials.PrivacyAndIntegrity {
			t.Errorf("%s: the handler sees %+v", name, info)
		}
	}
	for protocol, http2 := range map[string]bool{"HTTP/2.0": true, "HTTP/1.1": false} {
		code, body, got, err := get(t, httpClient(t, a.client(), http2), "https://"+address+"/livez")
		<-seen
		if err != nil || code != http.StatusOK || body != "ok\n" || got != protocol {
			t.Errorf("%s: %d %q over %s, %v", protocol, code, body, got, err)
		}
	}
}

// TestTLSPlainRefused: a TLS port says nothing to a plaintext client.
func TestTLSPlainRefused(t *testing.T) {
	a := newAuthority(t)
	_, address := serveOn(t, &fake{}, Config{}, Endpoint{TLS: a.server()})
	if _, _, _, err := get(t, http.DefaultClient, "http://"+address+"/version"); err == nil {
		t.Error("HTTP without TLS was answered")
	}
	kv := dial(t, address, insecure.NewCredentials())
	if _, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}); err == nil {
		t.Error("gRPC without TLS was answered")
	}
}

// TestPlainBesideTLS: where an address is listed with http and https, both are answered.
func TestPlainBesideTLS(t *testing.T) {
	a := newAuthority(t)
	seen := make(chan *credentials.TLSInfo, 1)
	_, address := serveOn(t, seesTLS(seen), Config{}, Endpoint{TLS: a.server(), Plain: true})
	for secure, creds := range map[bool]credentials.TransportCredentials{true: credentials.NewTLS(a.client()), false: insecure.NewCredentials()} {
		if _, err := dial(t, address, creds).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}); err != nil {
			t.Fatalf("gRPC, secure %t: %v", secure, err)
		}
		if info := <-seen; (info != nil) != secure {
			t.Errorf("gRPC, secure %t: the handler sees %v", secure, info)
		}
	}
	for _, url := range []string{"http://", "https://"} {
		if code, _, _, err := get(t, httpClient(t, a.client(), true), url+address+"/version"); err != nil || code != http.StatusOK {
			t.Errorf("%s: %d, %v", url, code, err)
		}
	}
}

// TestTraffic: a listener carries what it was told to, and nothing else, plain and with TLS.
func TestTraffic(t *testing.T) {
	a := newAuthority(t)
	for _, c := range []struct {
		traffic                Traffic
		grpc, version, metrics bool
	}{
		{TrafficAll, true, true, true},
		{TrafficGRPC, true, false, false},
		{TrafficHTTP, false, true, true},
		{TrafficMetrics, false, false, true},
	} {
		for _, secure := range []bool{false, true} {
			e, creds, scheme := Endpoint{Traffic: c.traffic}, insecure.NewCredentials(), "http://"
			if secure {
				e.TLS, creds, scheme = a.server(), credentials.NewTLS(a.client()), "https://"
			}
			_, address := serveOn(t, newMemory(t), Config{}, e)
			_, err := dial(t, address, creds).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
			if (err == nil) != c.grpc {
				t.Errorf("%v, secure %t: gRPC: %v", c.traffic, secure, err)
			}
			client := httpClient(t, a.client(), false)
			for path, served := range map[string]bool{"/version": c.version, "/metrics": c.metrics, "/health": c.metrics} {
				code, _, _, err := get(t, client, scheme+address+path)
				if (err == nil && code == http.StatusOK) != served {
					t.Errorf("%v, secure %t: %s: %d, %v", c.traffic, secure, path, code, err)
				}
			}
		}
	}
}

// TestClientCertificate: a client without a certificate is rejected where one is
// required, in etcd's words; of one that has one the chains are known.
func TestClientCertificate(t *testing.T) {
	a := newAuthority(t)
	core, logs := observer.New(zapcore.WarnLevel)
	seen := make(chan *credentials.TLSInfo, 1)
	config := a.server()
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, a.pool
	_, address := serveOn(t, seesTLS(seen), Config{Logger: zap.New(core)}, Endpoint{TLS: config})

	known := a.client()
	known.Certificates = []tls.Certificate{a.certificate("alice")}
	if _, err := dial(t, address, credentials.NewTLS(known)).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	info := <-seen
	if info == nil || len(info.State.VerifiedChains) != 1 || info.State.VerifiedChains[0][0].Subject.CommonName != "alice" {
		t.Errorf("the handler sees %+v", info)
	}

	nobody := a.client()
	nobody.ServerName = "localhost"
	if _, err := dial(t, address, credentials.NewTLS(nobody)).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}); err == nil {
		t.Fatal("a client without a certificate was answered")
	}
	lines := logs.FilterMessage("rejected connection on client endpoint").All()
	if len(lines) == 0 {
		t.Fatal("nothing was logged")
	}
	fields := lines[0].ContextMap()
	if fields["server-name"] != "localhost" || fields["error"] != "tls: client didn't provide a certificate" || fields["remote-addr"] == "" {
		t.Errorf("logged %v", fields)
	}
}

// TestRejectedCertificate: what was wrong with a certificate is told with the names in it.
func TestRejectedCertificate(t *testing.T) {
	a := newAuthority(t)
	core, logs := observer.New(zapcore.WarnLevel)
	config := a.server()
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, a.pool
	config.VerifyConnection = func(tls.ConnectionState) error { return errors.New("revoked") }
	_, address := serveOn(t, &fake{}, Config{Logger: zap.New(core)}, Endpoint{TLS: config})
	client := a.client()
	client.Certificates = []tls.Certificate{a.certificate("alice")}
	if _, _, _, err := get(t, httpClient(t, client, true), "https://"+address+"/version"); err == nil {
		t.Fatal("answered")
	}
	lines := logs.FilterMessage("rejected connection on client endpoint").All()
	if len(lines) == 0 {
		t.Fatal("nothing was logged")
	}
	fields := lines[0].ContextMap()
	if fields["error"] != "revoked" || !slices.Equal(fields["dns-names"].([]any), []any{"localhost"}) || !slices.Equal(fields["ip-addresses"].([]any), []any{"127.0.0.1"}) {
		t.Errorf("logged %v", fields)
	}
}

// TestSilentTLS names CVE-2026-73500 (GHSA-6vch-q96h-7gc3) and etcd's lack of a
// ReadHeaderTimeout: who says nothing, before the handshake, within it or after it, is
// disconnected, and others are served meanwhile.
func TestSilentTLS(t *testing.T) {
	a := newAuthority(t)
	core, logs := observer.New(zapcore.WarnLevel)
	_, address := serveOn(t, newMemory(t), Config{Logger: zap.New(core), prefaceTimeout: 500 * time.Millisecond}, Endpoint{TLS: a.server()})
	for name, begin := range map[string]func(net.Conn) (net.Conn, error){
		"before":         func(c net.Conn) (net.Conn, error) { return c, nil },
		"within":         func(c net.Conn) (net.Conn, error) { _, err := c.Write([]byte{tlsHandshakeRecord, 3, 1}); return c, err },
		"after, HTTP/1":  handshake(a.client("http/1.1")),
		"after, nothing": handshake(a.client()),
		"after, gRPC":    handshake(a.client("h2")),
	} {
		raw, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c, err := begin(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := dial(t, address, credentials.NewTLS(a.client())).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}); err != nil {
			t.Errorf("%s: meanwhile: %v", name, err)
		}
		// It ends: the test's own timeout would tell if it did not.
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v", name, err)
		}
		_ = raw.Close()
	}
	timeouts := 0
	for _, l := range logs.FilterMessage("rejected connection on client endpoint").All() {
		if strings.Contains(l.ContextMap()["error"].(string), "i/o timeout") {
			timeouts++
		}
	}
	if timeouts != 2 {
		t.Errorf("%d time-outs were logged, want those of the two handshakes", timeouts)
	}
}

func handshake(c *tls.Config) func(net.Conn) (net.Conn, error) {
	c.ServerName = "localhost"
	return func(raw net.Conn) (net.Conn, error) {
		t := tls.Client(raw, c)
		return t, t.Handshake()
	}
}

// TestConfigForClient: certificates can change while the server runs, and a configuration
// that is made for a client needs to know nothing of the protocols.
func TestConfigForClient(t *testing.T) {
	a := newAuthority(t)
	config := a.server()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{a.certificate("another")}}, nil
	}
	seen := make(chan *credentials.TLSInfo, 1)
	_, address := serveOn(t, seesTLS(seen), Config{}, Endpoint{TLS: config})
	if _, err := dial(t, address, credentials.NewTLS(a.client())).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	<-seen
	client := a.client()
	client.VerifyConnection = func(s tls.ConnectionState) error {
		if name := s.PeerCertificates[0].Subject.CommonName; name != "another" {
			t.Errorf("the certificate is that of %s", name)
		}
		return nil
	}
	if _, _, protocol, err := get(t, httpClient(t, client, true), "https://"+address+"/version"); err != nil || protocol != "HTTP/2.0" {
		t.Errorf("%s, %v", protocol, err)
	}
}
