package etcd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// certificates are an authority and what it signed, in files.
type certificates struct {
	t      *testing.T
	dir    string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	pool   *x509.CertPool
	serial int64
}

func newCertificates(t *testing.T) *certificates {
	t.Helper()
	a := &certificates{t: t, dir: t.TempDir(), pool: x509.NewCertPool()}
	a.sign("authority", &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pool.AddCert(a.cert)
	return a
}

func (a *certificates) file(name string) string { return filepath.Join(a.dir, name) }

// sign makes a certificate and its key, in the files name.crt and name.key; the first is the authority's own.
func (a *certificates) sign(name string, template *x509.Certificate) tls.Certificate {
	a.t.Helper()
	fatal := func(err error) {
		a.t.Helper()
		if err != nil {
			a.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fatal(err)
	a.serial++
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(a.serial), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	fatal(err)
	if a.cert == nil {
		a.key = key
		a.cert, err = x509.ParseCertificate(der)
		fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	fatal(err)
	fatal(os.WriteFile(a.file(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	fatal(os.WriteFile(a.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// named is a certificate of a common name, which may be empty, for 127.0.0.1 and both sides.
func (a *certificates) named(file, name string) tls.Certificate {
	a.t.Helper()
	return a.sign(file, &x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: []string{"test"}}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// certSide is a server with TLS, and clients with certificates.
type certSide struct {
	t       *testing.T
	address string
	configs map[string]*tls.Config
	conns   map[string]*grpc.ClientConn
	token   string // of bob
}

// newCertSide starts a server that asks clients for certificates.
func newCertSide(t *testing.T, binary string, a *certificates, clients map[string]tls.Certificate, flags ...string) *certSide {
	t.Helper()
	port, peer := process.Port(t), fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
	s := &certSide{t: t, address: fmt.Sprintf("127.0.0.1:%d", port), configs: map[string]*tls.Config{}, conns: map[string]*grpc.ClientConn{}}
	process.Start(t, process.Binary(t, binary), port, t.TempDir(), append([]string{
		"--listen-client-urls", "https://" + s.address, "--advertise-client-urls", "https://" + s.address,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer, "--bcrypt-cost", "4",
		"--cert-file", a.file("server.crt"), "--key-file", a.file("server.key"), "--trusted-ca-file", a.file("authority.crt"),
	}, flags...)...)
	for name, cert := range clients {
		config := &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{cert}}
		conn, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		s.configs[name], s.conns[name] = config, conn
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// A range is answered by etcd when it has a leader, and not before.
	if _, err := healthpb.NewHealthClient(s.conns["root"]).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewKVClient(s.conns["root"]).Range(ctx, &pb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	return s
}

// accounts makes root and alice, who have certificates alone, and bob, who has a password, and turns
// authentication on.
func (s *certSide) accounts() {
	s.t.Helper()
	ctx, auth := s.t.Context(), pb.NewAuthClient(s.conns["root"])
	none := &authpb.UserAddOptions{NoPassword: true}
	var errs []error
	note := func(_ any, err error) { errs = append(errs, err) }
	note(auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Options: none}))
	note(auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "alice", Options: none}))
	note(auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "bob", Password: "bob's"}))
	note(auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "root"}))
	note(auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}))
	for _, user := range []string{"alice", "bob"} {
		note(auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "of " + user}))
		perm := &authpb.Permission{PermType: authpb.Permission_READWRITE, Key: []byte(user)}
		note(auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "of " + user, Perm: perm}))
		note(auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: user, Role: "of " + user}))
	}
	note(auth.AuthEnable(ctx, &pb.AuthEnableRequest{}))
	r, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "bob", Password: "bob's"})
	note(r, err)
	for i, err := range errs {
		if err != nil {
			s.t.Fatalf("step %d: %v", i, err)
		}
	}
	s.token = r.Token
}

// ask makes each call as a client, with metadata, and tells what was answered.
func (s *certSide) ask(client string, pairs ...string) (answers []string) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(s.t.Context(), pairs...), 20*time.Second)
	defer cancel()
	conn := s.conns[client]
	kv, auth := pb.NewKVClient(conn), pb.NewAuthClient(conn)
	note := func(what string, _ any, err error) {
		answers = append(answers, fmt.Sprintf("%s: %s %s", what, status.Code(err), status.Convert(err).Message()))
	}
	for _, key := range []string{"alice", "bob", "other"} {
		get, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
		note("range "+key, get, err)
		put, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), PrevKv: true})
		note("put "+key, put, err)
		note("watch "+key, nil, s.watch(ctx, conn, key))
	}
	members, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	note("member list", members, err)
	st, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	note("status", st, err)
	hash, err := pb.NewMaintenanceClient(conn).HashKV(ctx, &pb.HashKVRequest{})
	note("hash", hash, err)
	users, err := auth.UserList(ctx, &pb.AuthUserListRequest{})
	note("user list", users, err)
	for _, user := range []string{"alice", "bob", ""} {
		r, err := auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: user})
		note("user get "+user, r, err)
	}
	login, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "any"})
	note("authenticate by certificate", login, err)
	return answers
}

// watch is why a watch is refused.
func (s *certSide) watch(ctx context.Context, conn *grpc.ClientConn, key string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err == nil {
		err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte(key)}}})
	}
	if err != nil {
		return err
	}
	r, err := stream.Recv()
	if err == nil && r.Canceled {
		return fmt.Errorf("canceled: %s", r.CancelReason) //nolint:err113 // it is compared as text
	}
	return err
}

// post asks the gateway for a key.
func (s *certSide) post(client, key string, header ...string) string {
	s.t.Helper()
	body := fmt.Sprintf(`{"key":%q}`, base64.StdEncoding.EncodeToString([]byte(key)))
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "https://"+s.address+"/v3/kv/range", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{TLSClientConfig: s.configs[client].Clone()}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	compact := new(bytes.Buffer)
	switch {
	case answer.StatusCode == http.StatusOK:
		compact.WriteString("keys") // with ids of its own
	case json.Compact(compact, text) != nil: // protobuf puts spaces into JSON by a hash of the binary
		compact = bytes.NewBuffer(bytes.TrimSpace(text))
	}
	return answer.Status + " " + compact.String()
}

// TestCertificateUsers ensures that the name of a client's certificate is a user where certificates
// are asked for, and nowhere else; that a token comes before it; and that nobody becomes somebody
// through the gateway, by the server's certificate or by their own (CVE-2018-16886).
func TestCertificateUsers(t *testing.T) {
	a := newCertificates(t)
	a.named("server", "root") // of all names the worst
	clients := map[string]tls.Certificate{}
	for file, name := range map[string]string{"root": "root", "alice": "alice", "stranger": "stranger", "unnamed": ""} {
		clients[file] = a.named(file, name)
	}
	for what, flags := range map[string][]string{"certificates name users": {"--client-cert-auth"}, "certificates name nobody": nil} {
		t.Run(what, func(t *testing.T) {
			etcd, shim := newCertSide(t, "etcd", a, clients, flags...), newCertSide(t, "shim", a, clients, flags...)
			etcd.accounts()
			shim.accounts()
			words := map[string]int{}
			for _, client := range []string{"root", "alice", "stranger", "unnamed"} {
				for with, pairs := range map[string]func(*certSide) []string{
					"nothing":         func(*certSide) []string { return nil },
					"bob's token":     func(s *certSide) []string { return []string{"token", s.token} },
					"a bad token":     func(*certSide) []string { return []string{"token", "bad"} },
					"the gateway's":   func(*certSide) []string { return []string{"grpcgateway-accept", "*/*"} },
					"and its a token": func(s *certSide) []string { return []string{"grpcgateway-accept", "*/*", "authorization", s.token} },
				} {
					want, got := etcd.ask(client, pairs(etcd)...), shim.ask(client, pairs(shim)...)
					for i := range want {
						if got[i] != want[i] {
							t.Errorf("%s with %s:\n\tetcd %s\n\tshim %s", client, with, want[i], got[i])
						}
						_, answer, _ := strings.Cut(want[i], ": ")
						words[answer]++
					}
				}
			}
			if len(words) < 5 {
				t.Errorf("the answers say little: %v", words)
			}
			for _, client := range []string{"root", "alice", "stranger", "unnamed"} {
				for _, token := range []bool{false, true} {
					header := func(s *certSide) []string {
						h := []string{"Accept", "*/*"}
						if token {
							h = append(h, "Authorization", s.token)
						}
						return h
					}
					if want, got := etcd.post(client, "bob", header(etcd)...), shim.post(client, "bob", header(shim)...); got != want {
						t.Errorf("gateway, as %s, token %t:\n\tetcd %s\n\tshim %s", client, token, want, got)
					}
				}
			}
			// etcd 3.7.3 knows a request of its gateway by the Accept header that clients mostly send;
			// without it, who has any certificate acts under the name of the server's.
			t.Logf("without Accept etcd answers %s", etcd.post("unnamed", "bob"))
			if got := shim.post("unnamed", "bob"); !strings.Contains(got, "user name is empty") {
				t.Errorf("gateway without an Accept header: %s", got)
			}
		})
	}
}

// TestCertificateUserEnds ensures that the right of a certificate's user is looked up for each request.
func TestCertificateUserEnds(t *testing.T) {
	a := newCertificates(t)
	a.named("server", "server")
	clients := map[string]tls.Certificate{"root": a.named("root", "root"), "alice": a.named("alice", "alice")}
	etcd, shim := newCertSide(t, "etcd", a, clients, "--client-cert-auth"), newCertSide(t, "shim", a, clients, "--client-cert-auth")
	var answers [2][]string
	for i, s := range []*certSide{etcd, shim} {
		s.accounts()
		auth := pb.NewAuthClient(s.conns["root"])
		for n, change := range []func() error{
			func() error { return nil },
			func() error {
				_, err := auth.RoleRevokePermission(t.Context(), &pb.AuthRoleRevokePermissionRequest{Role: "of alice", Key: []byte("alice")})
				return err
			},
			func() error {
				_, err := auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "alice", Role: "of bob"})
				return err
			},
			func() error {
				_, err := auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "alice", Role: "root"})
				return err
			},
			func() error {
				_, err := auth.UserDelete(t.Context(), &pb.AuthUserDeleteRequest{Name: "alice"})
				return err
			},
			func() error {
				_, err := auth.AuthDisable(t.Context(), &pb.AuthDisableRequest{})
				return err
			},
		} {
			if err := change(); err != nil {
				t.Fatalf("change %d: %v", n, err)
			}
			for _, answer := range s.ask("alice") {
				answers[i] = append(answers[i], fmt.Sprintf("after change %d: %s", n, answer))
			}
		}
	}
	if !slices.Equal(answers[0], answers[1]) {
		for i := range answers[0] {
			if answers[0][i] != answers[1][i] {
				t.Errorf("\n\tetcd %s\n\tshim %s", answers[0][i], answers[1][i])
			}
		}
	}
}
