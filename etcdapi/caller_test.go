package etcdapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// certified is a context of a connection with a client certificate.
func certified(ctx context.Context, name string, verified bool) context.Context {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: name}}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	if verified {
		state.VerifiedChains = [][]*x509.Certificate{nil, {cert, {Subject: pkix.Name{CommonName: "authority"}}}}
	}
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: credentials.TLSInfo{State: state}})
}

// TestCredentials: the token comes first, from "token" or "authorization"; the name of a
// certificate counts if certificates are required, was verified, and is not that of the JSON
// gateway, which calls with the server's own (CVE-2018-16886, GO-2021-0077).
func TestCredentials(t *testing.T) {
	required := &Server{cfg: Config{ClientCertAuth: true}}
	optional := &Server{}
	ctx := t.Context()
	for _, tc := range []struct {
		name     string
		server   *Server
		ctx      context.Context
		metadata []string
		want     backends.Caller
	}{
		{"nothing", required, ctx, nil, backends.Caller{}},
		{"token", required, ctx, []string{"token", "t"}, backends.Caller{Token: "t"}},
		{"authorization", required, ctx, []string{"authorization", "t"}, backends.Caller{Token: "t"}},
		{"bearer", required, ctx, []string{"authorization", "Bearer t"}, backends.Caller{Token: "t"}},
		{"bearer as token", required, ctx, []string{"token", "Bearer t"}, backends.Caller{Token: "t"}},
		{"other case of bearer", required, ctx, []string{"token", "bearer t"}, backends.Caller{Token: "bearer t"}},
		{"both", required, ctx, []string{"authorization", "a", "token", "t"}, backends.Caller{Token: "t"}},
		{"two", required, ctx, []string{"token", "t", "token", "u"}, backends.Caller{Token: "t"}},
		{"empty token", required, certified(ctx, "alice", true), []string{"token", ""}, backends.Caller{Token: "Bearer "}},
		{"certificate", required, certified(ctx, "alice", true), nil, backends.Caller{Certified: true, CertName: "alice"}},
		{"certificate without a name", required, certified(ctx, "", true), nil, backends.Caller{Certified: true}},
		{"certificate and token", required, certified(ctx, "alice", true), []string{"token", "t"}, backends.Caller{Token: "t"}},
		{"certificate not verified", required, certified(ctx, "alice", false), nil, backends.Caller{}},
		{"certificate not required", optional, certified(ctx, "alice", true), nil, backends.Caller{}},
		{"CVE-2018-16886", required, certified(ctx, "server", true), []string{"grpcgateway-accept", "*/*"}, backends.Caller{}},
		{"gateway with a token", required, certified(ctx, "server", true),
			[]string{"grpcgateway-accept", "*/*", "authorization", "t"}, backends.Caller{Token: "t"}},
		{"plain text", required, peer.NewContext(ctx, &peer.Peer{AuthInfo: plainInfo{}}), nil, backends.Caller{}},
	} {
		in := metadata.NewIncomingContext(tc.ctx, metadata.Pairs(tc.metadata...))
		if got := tc.server.credentials(in); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// TestIdentifiedOnce: a request is identified once, each message of a stream of requests
// anew, and nothing while authentication is off.
func TestIdentifiedOnce(t *testing.T) {
	a := newAccounts(t)
	_, conn := serve(t, a, Config{})
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	ctx := as(t.Context(), "root")
	for _, tc := range []struct {
		name string
		want int64
		call func() error
	}{
		{"range", 1, func() error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
			return err
		}},
		{"put", 1, func() error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a")})
			return err
		}},
		{"compact", 1, func() error {
			_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 1})
			return err
		}},
		{"grant", 1, func() error {
			_, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 5, TTL: 60})
			return err
		}},
		{"activate an alarm", 1, func() error {
			_, _ = pb.NewMaintenanceClient(conn).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE})
			return nil // memory has none
		}},
		{"list users", 1, func() error {
			_, err := pb.NewAuthClient(conn).UserList(ctx, &pb.AuthUserListRequest{})
			return err
		}},
		{"authenticate", 0, func() error {
			_, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "root"})
			return err
		}},
		{"three renewals", 3, func() error {
			stream, err := leases.LeaseKeepAlive(ctx)
			for range 3 {
				if err == nil {
					err = stream.Send(&pb.LeaseKeepAliveRequest{ID: 5})
				}
				if err == nil {
					_, err = stream.Recv()
				}
			}
			return err
		}},
		{"two watches", 2, func() error {
			stream, err := pb.NewWatchClient(conn).Watch(ctx)
			for range 2 {
				if err == nil {
					err = stream.Send(createRequest(&pb.WatchCreateRequest{Key: []byte("a")}))
				}
				if err == nil {
					_, err = stream.Recv()
				}
			}
			return err
		}},
	} {
		for _, on := range []bool{true, false} {
			a.on.Store(on)
			a.identified.Store(0)
			want := tc.want
			if !on {
				want = 0
			}
			if err := tc.call(); err != nil && (on || tc.name != "compact" && tc.name != "grant") { // those are not done twice
				t.Errorf("%s: %v", tc.name, err)
			}
			if got := a.identified.Load(); got != want {
				t.Errorf("%s, authentication %t: identified %d times, want %d", tc.name, on, got, want)
			}
		}
	}
}

// TestProposalBytes: the size of a write is that of etcd's proposal, which names the user
// and the auth revision.
func TestProposalBytes(t *testing.T) {
	put := &pb.PutRequest{Key: []byte("a"), Value: make([]byte, 1<<20)}
	add := &pb.AuthUserAddRequest{Name: string(make([]byte, 1<<20))}
	for _, c := range []backends.Caller{
		{}, {User: "u", AuthRevision: 1}, {User: "root", AuthRevision: 300}, {User: string(make([]byte, 500)), AuthRevision: 1 << 40},
	} {
		header := &pb.RequestHeader{ID: 1 << 63, Username: c.User, AuthRevision: c.AuthRevision}
		got := proto.Size(put) + proposalBytes(c)
		if want := proto.Size(&pb.InternalRaftRequest{Header: header, Put: put}); got != want {
			t.Errorf("put by a user of %d bytes: %d, want %d", len(c.User), got, want)
		}
		got = proto.Size(add) + authTagBytes + proposalBytes(c)
		if want := proto.Size(&pb.InternalRaftRequest{Header: header, AuthUserAdd: add}); got != want {
			t.Errorf("user add by a user of %d bytes: %d, want %d", len(c.User), got, want)
		}
	}
}
