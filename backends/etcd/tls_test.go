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
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

// certificate makes a certificate for 127.0.0.1 that signs itself, and its files.
func certificate(t *testing.T) (pair tls.Certificate, cert, key string) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &secret.PublicKey, secret)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pair, err = tls.LoadX509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	return pair, cert, key
}

// TestTLS ensures that the parameters of the URL turn TLS on, that the upstream's
// certificate is verified unless the URL says otherwise, and that a client's goes along.
func TestTLS(t *testing.T) {
	pair, cert, key := certificate(t)
	_, foreign, _ := certificate(t)
	ca := x509.NewCertPool()
	text, err := os.ReadFile(cert)
	if err != nil || !ca.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: ca, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	pb.RegisterMaintenanceServer(s, &upstream{})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	for _, c := range []struct {
		name   string
		params url.Values
		ok     bool
	}{
		{"verified", url.Values{"cacert": {cert}, "cert": {cert}, "key": {key}}, true},
		{"not verified", url.Values{"insecure-skip-tls-verify": {"true"}, "cert": {cert}, "key": {key}}, true},
		{"signed by somebody else", url.Values{"cacert": {foreign}, "cert": {cert}, "key": {key}}, false},
		{"by nobody the system knows", url.Values{"tls": {"true"}, "cert": {cert}, "key": {key}}, false},
		{"no certificate of the client's", url.Values{"cacert": {cert}}, false},
		{"no TLS", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			if !c.ok { // a connection that fails is tried again until the end
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
			}
			b, err := open(ctx, &url.URL{Scheme: "etcd", Host: l.Addr().String(), RawQuery: c.params.Encode()}, backends.Env{Clock: backends.SystemClock{}})
			if err == nil {
				err = b.Close(ctx)
			}
			if c.ok != (err == nil) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestNobodyIsNotTheCertificate names CVE-2018-16886: a caller without a token is nobody at the upstream,
// also when this server has a certificate there that names a user; and a token is the caller's.
func TestNobodyIsNotTheCertificate(t *testing.T) {
	pair, cert, key := certificate(t)
	text, err := os.ReadFile(cert)
	ca := x509.NewCertPool()
	if err != nil || !ca.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan metadata.MD, 1)
	note := func(ctx context.Context) {
		md, _ := metadata.FromIncomingContext(ctx)
		seen <- md
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: ca, ClientAuth: tls.VerifyClientCertIfGiven})),
		grpc.UnaryInterceptor(func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			note(ctx)
			return nil, rpctypes.ErrGRPCUserEmpty // so it opens, too, while authentication is on
		}),
		grpc.StreamInterceptor(func(_ any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
			note(stream.Context())
			return rpctypes.ErrGRPCUserEmpty
		}))
	for _, register := range []func(grpc.ServiceRegistrar){
		func(r grpc.ServiceRegistrar) { pb.RegisterMaintenanceServer(r, pb.UnimplementedMaintenanceServer{}) },
		func(r grpc.ServiceRegistrar) { pb.RegisterKVServer(r, pb.UnimplementedKVServer{}) },
		func(r grpc.ServiceRegistrar) { pb.RegisterWatchServer(r, pb.UnimplementedWatchServer{}) },
		func(r grpc.ServiceRegistrar) { pb.RegisterLeaseServer(r, pb.UnimplementedLeaseServer{}) },
	} {
		register(s)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	for _, c := range []struct {
		params    url.Values
		anonymous bool
	}{
		{url.Values{"cacert": {cert}, "cert": {cert}, "key": {key}}, true},
		{url.Values{"cacert": {cert}, "cert": {cert}, "key": {key}, "cert-names-user": {"true"}}, false},
		{url.Values{"cacert": {cert}}, false},
	} {
		opened, err := open(t.Context(), &url.URL{Scheme: "etcd", Host: l.Addr().String(), RawQuery: c.params.Encode()}, backends.Env{Clock: backends.SystemClock{}})
		if err != nil {
			t.Fatal(err)
		}
		b := opened.(*Backend)
		if md := <-seen; (len(md[gatewayKey]) > 0) != c.anonymous {
			t.Errorf("%v: opened with %v", c.params, md)
		}
		for _, caller := range []backends.Caller{{}, {Token: "alice's"}, {Certified: true, CertName: "root"}} {
			for what, call := range map[string]func(){
				"range": func() {
					if c, err := b.Range(t.Context(), &backends.RangeRequest{Caller: caller, RangeOptions: backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte("a")}}}); err == nil {
						_, _ = c.Next(t.Context()) // what is sent counts, and not what is answered
						c.Close()
					}
				},
				"txn":    func() { _, _ = b.Txn(t.Context(), &backends.TxnRequest{Caller: caller}) },
				"status": func() { _, _ = b.Status(backends.WithCaller(t.Context(), caller)) },
				"lease":  func() { _, _ = b.LeaseKeepAlive(t.Context(), caller, 1) },
			} {
				call()
				md := <-seen
				if gateway := len(md[gatewayKey]) > 0; gateway != (c.anonymous && caller.Token == "") {
					t.Errorf("%v, %s by %+v: %v", c.params, what, caller, md)
				}
				if token := strings.Join(md["token"], ","); token != caller.Token {
					t.Errorf("%v, %s by %+v: token %q", c.params, what, caller, token)
				}
			}
		}
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// TestTLSParameters ensures that parameters that cannot be meant are refused.
func TestTLSParameters(t *testing.T) {
	_, cert, key := certificate(t)
	for query, want := range map[string]string{
		"tls=perhaps":             "neither true nor false",
		"cert=" + cert:            "go together",
		"key=" + key:              "go together",
		"cacert=" + key:           "holds no certificate",
		"cacert=" + cert + ".not": "no such file",
		"tls=true&tls=true":       "2 times",
		"cert-names-user=true":    "goes with cert",
		"cert-names-user=x":       "neither true nor false",
	} {
		u := &url.URL{Scheme: "etcd", Host: "127.0.0.1:1", RawQuery: query}
		if _, err := open(t.Context(), u, backends.Env{Clock: backends.SystemClock{}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", query, err, want)
		}
	}
}
