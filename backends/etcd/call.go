package etcd

import (
	"context"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

// purpose tells what a lost answer means: a write may have been done.
type purpose bool

const (
	reading purpose = false
	writing purpose = true
)

// attempt is what became of one RPC.
type attempt struct {
	purpose purpose
	// sent: at least a part of the request was handed to a connection. answered:
	// the status, when there is one, is the upstream's and not of our making.
	sent, answered atomic.Bool
}

type attemptKey struct{}

// observer keeps the attempt of each RPC's context up to date.
type observer struct{}

// TagRPC implements stats.Handler.
func (observer) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements stats.Handler.
func (observer) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (observer) HandleConn(context.Context, stats.ConnStats) {}

// HandleRPC implements stats.Handler.
func (observer) HandleRPC(ctx context.Context, s stats.RPCStats) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return
	}
	switch s.(type) {
	case *stats.OutHeader, *stats.OutPayload:
		a.sent.Store(true)
	case *stats.InTrailer:
		a.answered.Store(true)
	}
}

// gatewayKey is metadata by which etcd knows that a connection's certificate is not that of who
// asks, and leaves its name out of account (auth/store.go, AuthInfoFromTLS).
const gatewayKey = "grpcgateway-accept"

// begin makes an attempt, to be found in the context that it returns. Who has no token
// is nobody, and must not become the user whom this server's own certificate names at the upstream
// (CVE-2018-16886).
func (b *Backend) begin(ctx context.Context, p purpose, caller backends.Caller) (context.Context, *attempt) {
	switch {
	case caller.Token != "":
		ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, caller.Token)
	case b.anonymous:
		ctx = metadata.AppendToOutgoingContext(ctx, gatewayKey, "*/*")
	}
	a := &attempt{purpose: p}
	return context.WithValue(ctx, attemptKey{}, a), a
}

// call makes a unary RPC. response is a proto.Message or a *raw.
func (b *Backend) call(ctx context.Context, p purpose, method string, caller backends.Caller,
	request proto.Message, response any, options ...grpc.CallOption,
) error {
	rpc, a := b.begin(ctx, p, caller)
	return b.outcome(ctx, a, b.conn.Invoke(rpc, method, request, response, options...))
}

// outcome turns the error of an RPC that was made with ctx into one of the waist's.
func (b *Backend) outcome(ctx context.Context, a *attempt, err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	switch {
	case a.answered.Load():
		return remote(st)
	case ctx.Err() != nil:
		return ctx.Err()
	case a.purpose == writing && a.sent.Load():
		return fmt.Errorf("%w: %s", backends.ErrOutcomeUnknown, st.Message())
	case b.closed.Load():
		return backends.ErrStopped
	}
	return &backends.Remote{Code: uint32(st.Code()), Message: "upstream etcd: " + st.Message()}
}

// remote is an error that the upstream answered: a sentinel if one has the same
// code and text on the wire.
func remote(st *status.Status) error {
	for _, e := range [...]struct{ wire, is error }{
		{rpctypes.ErrGRPCCompacted, backends.ErrCompacted},
		{rpctypes.ErrGRPCFutureRev, backends.ErrFutureRevision},
		{rpctypes.ErrGRPCKeyNotFound, backends.ErrKeyNotFound},
		{rpctypes.ErrGRPCLeaseNotFound, backends.ErrLeaseNotFound},
		{rpctypes.ErrGRPCLeaseExist, backends.ErrLeaseExists},
		{rpctypes.ErrGRPCLeaseTTLTooLarge, backends.ErrLeaseTTLTooLarge},
		{rpctypes.ErrGRPCPermissionDenied, backends.ErrPermissionDenied},
		{rpctypes.ErrGRPCUserEmpty, backends.ErrUserEmpty},
		{rpctypes.ErrGRPCUserAlreadyExist, backends.ErrUserAlreadyExist},
		{rpctypes.ErrGRPCUserNotFound, backends.ErrUserNotFound},
		{rpctypes.ErrGRPCRoleEmpty, backends.ErrRoleEmpty},
		{rpctypes.ErrGRPCRoleAlreadyExist, backends.ErrRoleAlreadyExist},
		{rpctypes.ErrGRPCRoleNotFound, backends.ErrRoleNotFound},
		{rpctypes.ErrGRPCRoleNotGranted, backends.ErrRoleNotGranted},
		{rpctypes.ErrGRPCPermissionNotGiven, backends.ErrPermissionNotGiven},
		{rpctypes.ErrGRPCPermissionNotGranted, backends.ErrPermissionNotGranted},
		{rpctypes.ErrGRPCRootUserNotExist, backends.ErrRootUserNotExist},
		{rpctypes.ErrGRPCRootRoleNotExist, backends.ErrRootRoleNotExist},
		{rpctypes.ErrGRPCAuthNotEnabled, backends.ErrAuthNotEnabled},
		{rpctypes.ErrGRPCAuthFailed, backends.ErrAuthFailed},
		{rpctypes.ErrGRPCInvalidAuthToken, backends.ErrInvalidAuthToken},
		{rpctypes.ErrGRPCInvalidAuthMgmt, backends.ErrInvalidAuthMgmt},
		{rpctypes.ErrGRPCAuthOldRevision, backends.ErrAuthOldRevision},
		{rpctypes.ErrGRPCNoSpace, backends.ErrNoSpace},
		{rpctypes.ErrGRPCCorrupt, backends.ErrCorrupt},
	} {
		if w := status.Convert(e.wire); w.Code() == st.Code() && w.Message() == st.Message() {
			return e.is
		}
	}
	return &backends.Remote{Code: uint32(st.Code()), Message: st.Message()}
}

// malformed is for an answer that no etcd gives.
func malformed(what string) error {
	return &backends.Remote{Code: uint32(codes.Internal), Message: "upstream etcd: malformed " + what}
}

// raw receives a message as the bytes it came in.
type raw struct{ bytes []byte }

// codec is protobuf's, save that a *raw is left undecoded.
type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("etcd backend: cannot encode %T", v)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *raw:
		v.bytes = data.Materialize() // a copy: data goes back to its pool
		return nil
	case proto.Message:
		return proto.Unmarshal(data.Materialize(), v)
	}
	return fmt.Errorf("etcd backend: cannot decode into %T", v)
}
