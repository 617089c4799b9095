package etcd

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// guard makes root and alice, who may read what begins with key/, and turns authentication on.
func guard(t *testing.T, s *process.Server) {
	t.Helper()
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		auth := pb.NewAuthClient(c)
		for _, do := range []func() (any, error){
			func() (any, error) {
				return auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: "secret"})
			},
			func() (any, error) { return auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "root"}) },
			func() (any, error) {
				return auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
			},
			func() (any, error) {
				return auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "alice", Password: "alice's"})
			},
			func() (any, error) { return auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "reader"}) },
			func() (any, error) {
				return auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "reader", Perm: &authpb.Permission{Key: []byte("key/"), RangeEnd: []byte("key0")}})
			},
			func() (any, error) {
				return auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "alice", Role: "reader"})
			},
			func() (any, error) { return auth.AuthEnable(ctx, &pb.AuthEnableRequest{}) },
		} {
			if _, err := do(); err != nil {
				return err
			}
		}
		return nil
	})
}

// guarded is what nobody, root and alice are answered.
func guarded(t *testing.T, s *process.Server) (answers []string) {
	t.Helper()
	call(t, s, func(ctx context.Context, c *grpc.ClientConn) error {
		kv, auth := pb.NewKVClient(c), pb.NewAuthClient(c)
		for user, password := range map[string]string{"": "", "root": "secret", "alice": "alice's", "bob": "x"} {
			as := ctx
			if user != "" {
				r, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: user, Password: password})
				answers = append(answers, fmt.Sprintf("%q authenticates: %v", user, status.Convert(err).Message()))
				as = metadata.AppendToOutgoingContext(ctx, "token", r.GetToken())
			}
			st, err := auth.AuthStatus(as, &pb.AuthStatusRequest{})
			answers = append(answers, fmt.Sprintf("%q: enabled %t, revision %d, %v", user, st.GetEnabled(), st.GetAuthRevision(), status.Convert(err).Message()))
			for _, key := range []string{"key/10", "other"} {
				get, err := kv.Range(as, &pb.RangeRequest{Key: []byte(key)})
				answers = append(answers, fmt.Sprintf("%q reads %s: %d at %d, %v", user, key, get.GetCount(), get.GetHeader().GetRevision(), status.Convert(err).Message()))
			}
		}
		slices.Sort(answers)
		return nil
	})
	return answers
}

// TestSnapshotOfGuarded ensures that a snapshot of a server whose authentication is on is given to root
// alone, and that whatever server it is restored to guards the same: from shim to etcd and from etcd to shim.
func TestSnapshotOfGuarded(t *testing.T) {
	for from, start := range map[string]func(testing.TB, ...string) *process.Server{"etcd": process.Etcd, "shim": process.Shim} {
		t.Run("from "+from, func(t *testing.T) {
			s, dir := start(t, "--bcrypt-cost", "4"), t.TempDir()
			populate(t, s)
			guard(t, s)
			want := guarded(t, s)
			if !slices.ContainsFunc(want, func(a string) bool { return strings.Contains(a, "permission denied") }) {
				t.Fatalf("%s refuses alice nothing: %q", from, want)
			}
			for _, by := range []string{"etcdctl", "shim"} {
				path := filepath.Join(dir, by+".db")
				for user, refusal := range map[string]string{"": "user name is empty", "alice:alice's": "permission denied", "root:wrong": "authentication failed", "root:secret": ""} {
					args := []string{"--endpoints", s.Address, path}
					if user != "" {
						args = append(args, "--user", user)
					}
					o := ran(t, by, append([]string{"snapshot", "save"}, args...)...)
					if (o.exit == 0) != (refusal == "") || !strings.Contains(o.stderr, refusal) {
						t.Errorf("%s as %q: exit %d\n%s%s, want %q", by, user, o.exit, o.stdout, o.stderr, refusal)
					}
				}
				restored := filepath.Join(dir, by+"-restored")
				tool(t, "shim", "snapshot", "restore", path, "--data-dir", restored)
				for what, to := range map[string]*process.Server{"etcd": startRestoredEtcd(t, path), "shim": startShim(t, restored)} {
					if got := guarded(t, to); !slices.Equal(got, want) {
						t.Errorf("saved by %s, restored to %s:\n%s\nwant\n%s", by, what, strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
				}
			}
		})
	}
}

// TestSnapshotByCertificate ensures that a snapshot is given to whom a certificate names, if that is root.
func TestSnapshotByCertificate(t *testing.T) {
	a := newCertificates(t)
	a.named("server", "server")
	clients := map[string]tls.Certificate{"root": a.named("root", "root"), "alice": a.named("alice", "alice")}
	for _, server := range []string{"etcd", "shim"} {
		s := newCertSide(t, server, a, clients, "--client-cert-auth")
		s.accounts()
		for _, by := range []string{"etcdctl", "shim"} {
			for user, refusal := range map[string]string{"root": "", "alice": "permission denied"} {
				o := ran(t, by, "snapshot", "save", filepath.Join(t.TempDir(), "saved.db"), "--endpoints", "https://"+s.address,
					"--cacert", a.file("authority.crt"), "--cert", a.file(user+".crt"), "--key", a.file(user+".key"))
				if (o.exit == 0) != (refusal == "") || !strings.Contains(o.stderr, refusal) {
					t.Errorf("%s, by %s as %s: exit %d\n%s%s", server, by, user, o.exit, o.stdout, o.stderr)
				}
			}
		}
	}
}
