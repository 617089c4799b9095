package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// withTLS among a script's flags stands for those of a second port, with TLS, which
// wants a certificate of the client.
const withTLS = "with TLS"

// secured makes certificates and returns the flags of a server that listens without
// TLS at a port and with TLS at another one.
func (d *side) secured(t *testing.T, port int) []string {
	t.Helper()
	d.secure, d.certs = fmt.Sprintf("127.0.0.1:%d", process.Port(t)), t.TempDir()
	ca, other := newAuthority(t), newAuthority(t)
	ca.write(t, filepath.Join(d.certs, "ca.pem"))
	other.write(t, filepath.Join(d.certs, "other-ca.pem"))
	ca.issue(t, d.certs, "server")
	ca.issue(t, d.certs, "alice")
	ca.issue(t, d.certs, "bob")
	other.issue(t, d.certs, "mallory")
	plain, secure := fmt.Sprintf("http://127.0.0.1:%d", port), "https://"+d.secure
	return []string{
		"--listen-client-urls", plain + "," + secure, "--advertise-client-urls", plain + "," + secure,
		"--cert-file", filepath.Join(d.certs, "server.pem"), "--key-file", filepath.Join(d.certs, "server-key.pem"),
		"--trusted-ca-file", filepath.Join(d.certs, "ca.pem"), "--client-cert-auth",
	}
}

// tlsTurns ensure that the options of TLS let the same in and keep the same out, and
// that the name in a certificate is a user's, as on etcd.
func tlsTurns() []turn {
	secure := func(words, certificate string) turn {
		return run(words + " --endpoints=https://$SECURE --cacert=$CERTS/ca.pem --cert=$CERTS/" + certificate + ".pem --key=$CERTS/" + certificate + "-key.pem")
	}
	// The client's words about a broken handshake depend on which end speaks first.
	refused := func(flags string) turn {
		return run("get k1 --command-timeout=2s --endpoints=https://$SECURE " + flags).withoutStderr()
	}
	refusedSave := func(flags string) turn {
		return run("snapshot save own.db --command-timeout=5s --endpoints=https://$SECURE " + flags).by("shim").withoutStderr()
	}
	own := "--cert=$CERTS/alice.pem --key=$CERTS/alice-key.pem"
	steps := inOrder(
		secure("put k1 1", "alice"), secure("get k1", "bob").formats(everyFormat...), secure("member list", "alice").formats(everyFormat...),
		run("get k1 --insecure-skip-tls-verify --endpoints=https://$SECURE "+own), run("get k1 --insecure-transport=false --endpoints=$SECURE --cacert=$CERTS/ca.pem "+own),
		refused("--cacert=$CERTS/ca.pem"), refused("--insecure-skip-tls-verify"), refused("--cacert=$CERTS/other-ca.pem "+own), refused(own),
		refused("--cacert=$CERTS/ca.pem --cert=$CERTS/mallory.pem --key=$CERTS/mallory-key.pem"), run("get k1 --command-timeout=2s --endpoints=http://$SECURE").withoutStderr(),
		run("get k1 --endpoints=https://$SECURE --cacert=$CERTS/none.pem"), run("get k1 --endpoints=https://$SECURE --cert=$CERTS/alice.pem --key=$CERTS/bob-key.pem"),
		secure("snapshot save s.db", "alice"), secure("snapshot save own.db", "alice").by("shim"), refusedSave("--cacert=$CERTS/other-ca.pem "+own), refusedSave("--cacert=$CERTS/ca.pem"),
		run("user add root:secret"), run("user grant-role root root"), run("user add alice --no-password"), run("role add reader"), run("role grant-permission reader read k1"),
		run("user grant-role alice reader"), run("auth enable"),
	)
	for _, words := range []string{"get k1", "get k2", "put k1 x", "user list", "user get alice", "role get reader", "auth status", "watch k2"} {
		for _, certificate := range []string{"alice", "bob"} {
			steps = append(steps, secure(words, certificate))
		}
	}
	return inOrder(steps, secure("put k1 x --user=root:secret", "alice"), secure("put k1 x --user=root:wrong", "alice"), secure("get k1 -w json", "alice"), run("auth disable --user=root:secret"), sameHash())
}

// authority signs certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.cert = a.sign(t, a.cert, a.cert, &a.key.PublicKey)
	return a
}

// sign signs a certificate that is valid for a day.
func (a *authority) sign(t *testing.T, template, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// write writes the authority's own certificate.
func (a *authority) write(t *testing.T, path string) {
	t.Helper()
	writePEM(t, path, "CERTIFICATE", a.cert.Raw)
}

// issue writes NAME.pem and NAME-key.pem, of a server or client at 127.0.0.1.
func (a *authority) issue(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, name+".pem"), "CERTIFICATE", cert.Raw)
	writePEM(t, filepath.Join(dir, name+"-key.pem"), "EC PRIVATE KEY", der)
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
