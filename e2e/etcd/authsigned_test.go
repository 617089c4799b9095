package etcd

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// signingKeys writes a pair of keys as both servers read it; public is empty of a secret.
func signingKeys(t *testing.T, key any) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	private, public = filepath.Join(dir, "private.pem"), filepath.Join(dir, "public.pem")
	write := func(path string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, ok := key.(interface{ Public() crypto.PublicKey })
	if !ok {
		write(private, []byte("a secret of both"))
		return private, ""
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if der, err = x509.MarshalPKIXPublicKey(pair.Public()); err != nil {
		t.Fatal(err)
	}
	write(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return private, public
}

// TestSignedTokensOfEtcd ensures, for each kind of key, that a token which one of shim and etcd gave is good at the other,
// that one of another key is not, and that neither gives one with the public key alone.
func TestSignedTokensOfEtcd(t *testing.T) {
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	es, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tokens := map[string]string{}
	for _, c := range []struct {
		method string
		key    any
	}{{"HS512", nil}, {"RS256", rs}, {"PS384", rs}, {"ES384", es}, {"EdDSA", ed}} {
		t.Run(c.method, func(t *testing.T) {
			private, public := signingKeys(t, c.key)
			jwt := "jwt,ttl=1h,sign-method=" + c.method
			sides := map[string]*process.Server{
				"etcd": process.Etcd(t, "--bcrypt-cost", "4", "--auth-token", jwt+",priv-key="+private),
				"shim": process.Shim(t, "--bcrypt-cost", "4", "--auth-token", jwt+",priv-key="+private),
			}
			for name, s := range sides {
				populate(t, s)
				guard(t, s)
				call(t, s, func(ctx context.Context, conn *grpc.ClientConn) error {
					r, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "alice's"})
					tokens[name+" "+c.method] = r.GetToken()
					return err
				})
			}
			answers := map[string][]string{}
			for name, s := range sides {
				call(t, s, func(ctx context.Context, conn *grpc.ClientConn) error {
					for _, of := range slices.Sorted(maps.Keys(tokens)) {
						as := metadata.AppendToOutgoingContext(ctx, "token", tokens[of])
						for _, key := range []string{"key/10", "other"} {
							_, err := pb.NewKVClient(conn).Range(as, &pb.RangeRequest{Key: []byte(key)})
							answers[name] = append(answers[name], of+" "+key+": "+status.Code(err).String()+" "+status.Convert(err).Message())
							if good := strings.HasSuffix(of, " "+c.method) && key == "key/10"; good != (err == nil) {
								t.Errorf("%s answers %s with the token of %s by: %v", name, key, of, err)
							}
						}
					}
					return nil
				})
			}
			for i, want := range answers["etcd"] {
				if got := answers["shim"][i]; got != want {
					t.Errorf("etcd %s\nshim %s", want, got)
				}
			}
			if public == "" {
				return
			}
			var refusals []string
			for _, start := range []func(testing.TB, ...string) *process.Server{process.Etcd, process.Shim} {
				s := start(t, "--bcrypt-cost", "4", "--auth-token", jwt+",pub-key="+public)
				guard(t, s)
				call(t, s, func(ctx context.Context, conn *grpc.ClientConn) error {
					_, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "alice's"})
					refusals = append(refusals, status.Code(err).String()+" "+status.Convert(err).Message())
					return nil
				})
			}
			if refusals[0] != refusals[1] || refusals[0] == "OK " {
				t.Errorf("with the public key alone etcd answers %q, shim %q", refusals[0], refusals[1])
			}
		})
	}
}
