package etcdapi

import (
	"context"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

const (
	// bearer may stand before a token.
	bearer = "Bearer "
	// gatewayKey is metadata of every request that came as JSON.
	gatewayKey = "grpcgateway-accept"
)

// callerKey is where permit leaves the caller of a request in its context.
type callerKey struct{}

// authEnabled tells whether callers are looked at.
func (s *Server) authEnabled() bool { return s.auth != nil && s.auth.AuthEnabled() }

// caller is who asks. It is called once for each request that goes to the backend, and
// for each message of a stream of requests: a token may end, and permissions change,
// between two of them. It comes after the checks that etcd makes before it looks at the
// token. While authentication is off everybody is nobody.
func (s *Server) caller(ctx context.Context) (backends.Caller, error) {
	if !s.authEnabled() {
		return backends.Caller{}, nil
	}
	if c, ok := ctx.Value(callerKey{}).(backends.Caller); ok {
		return c, nil
	}
	return s.auth.Identify(ctx, s.credentials(ctx))
}

// state is the backend's, as told to who sent the request of ctx.
func (s *Server) state(ctx context.Context) (backends.Status, error) {
	if s.authEnabled() {
		ctx = backends.WithCaller(ctx, s.credentials(ctx))
	}
	return s.backend.Status(ctx)
}

// credentials are what a request brings to tell who asks (auth/store.go,
// AuthInfoFromCtx; v3_server.go, AuthInfoFromCtx): its token or, without one, the name of
// the client's certificate, if clients have to have one.
func (s *Server) credentials(ctx context.Context) backends.Caller {
	for _, key := range [...]string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		v := metadata.ValueFromIncomingContext(ctx, key)
		if len(v) == 0 {
			continue
		}
		token := strings.TrimPrefix(v[0], bearer)
		if token == "" {
			token = bearer // an empty token is an invalid one, and not the absence of one
		}
		return backends.Caller{Token: token}
	}
	if !s.cfg.ClientCertAuth {
		return backends.Caller{}
	}
	name, ok := certName(ctx)
	return backends.Caller{Certified: ok, CertName: name}
}

// certName is the common name of the client's verified certificate (auth/store.go,
// AuthInfoFromTLS). A certificate without a name is one all the same: who has it is a
// user without a name, and not nobody. A request that came as JSON has none: the
// connection is then the gateway's, whose certificate says nothing of who asked
// (CVE-2018-16886).
func certName(ctx context.Context) (name string, ok bool) {
	if len(metadata.ValueFromIncomingContext(ctx, gatewayKey)) > 0 {
		return "", false
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", false
	}
	for _, chain := range info.State.VerifiedChains {
		if len(chain) > 0 {
			return chain[0].Subject.CommonName, true
		}
	}
	return "", false
}
