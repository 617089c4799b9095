package etcd

import (
	"context"
	"errors"
	"net"
	"net/url"
	"reflect"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

// authUpstream is an etcd that answers every call of Auth with what it is told, and
// keeps what it was asked.
type authUpstream struct {
	answer  proto.Message
	err     error
	method  string
	request proto.Message
	token   []string
}

func (u *authUpstream) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	if info.FullMethod == pb.Maintenance_Status_FullMethodName {
		return &pb.StatusResponse{Version: "3.7.3"}, nil
	}
	u.method, u.request = info.FullMethod, req.(proto.Message)
	u.token = metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameGRPC)
	return u.answer, u.err
}

func (u *authUpstream) serve(t *testing.T) *Backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnaryInterceptor(u.intercept))
	pb.RegisterAuthServer(s, pb.UnimplementedAuthServer{})
	pb.RegisterMaintenanceServer(s, pb.UnimplementedMaintenanceServer{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	b, err := open(t.Context(), &url.URL{Scheme: "etcd", Host: l.Addr().String()}, backends.Env{Clock: backends.SystemClock{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return b.(*Backend)
}

// Every call goes on as it is, with the caller's token, and its answer comes back
// whole; an error is the waist's.
func TestAuthPassesThrough(t *testing.T) {
	u := &authUpstream{}
	b := u.serve(t)
	ctx, caller := t.Context(), backends.Caller{Token: "alice's"}
	h, at5 := &pb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: 5, RaftTerm: 3}, backends.Header{ClusterID: 1, MemberID: 2, Revision: 5, Term: 3}
	keys := backends.KeyRange{Key: []byte("a"), End: []byte("b")}
	permission := &authpb.Permission{PermType: authpb.Permission_READWRITE, Key: []byte("a"), RangeEnd: []byte("b")}
	for _, c := range []struct {
		method  string
		request proto.Message
		answer  proto.Message
		call    func() (any, error)
		want    any
	}{
		{pb.Auth_AuthStatus_FullMethodName, &pb.AuthStatusRequest{}, &pb.AuthStatusResponse{Header: h, Enabled: true, AuthRevision: 9},
			func() (any, error) { return b.AuthStatus(ctx, caller) }, backends.AuthStatusResult{Header: at5, Enabled: true, AuthRevision: 9}},
		{pb.Auth_AuthEnable_FullMethodName, &pb.AuthEnableRequest{}, &pb.AuthEnableResponse{Header: h},
			func() (any, error) { return b.AuthEnable(ctx, caller) }, at5},
		{pb.Auth_AuthDisable_FullMethodName, &pb.AuthDisableRequest{}, &pb.AuthDisableResponse{Header: h},
			func() (any, error) { return b.AuthDisable(ctx, caller) }, at5},
		{pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "n", Password: "p"}, &pb.AuthenticateResponse{Header: h, Token: "t"},
			func() (any, error) { return b.Authenticate(ctx, caller, "n", "p") }, backends.AuthenticateResult{Header: at5, Token: "t"}},
		{pb.Auth_UserAdd_FullMethodName,
			&pb.AuthUserAddRequest{Name: "n", Password: "p", HashedPassword: "h", Options: &authpb.UserAddOptions{NoPassword: true}},
			&pb.AuthUserAddResponse{Header: h}, func() (any, error) {
				return b.UserAdd(ctx, &backends.UserAddRequest{Caller: caller, Name: "n", Password: "p", HashedPassword: "h", NoPassword: true})
			}, at5},
		{pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: "n"}, &pb.AuthUserGetResponse{Header: h, Roles: []string{"r"}},
			func() (any, error) { return b.UserGet(ctx, caller, "n") }, backends.UserGetResult{Header: at5, Roles: []string{"r"}}},
		{pb.Auth_UserList_FullMethodName, &pb.AuthUserListRequest{}, &pb.AuthUserListResponse{Header: h, Users: []string{"u"}},
			func() (any, error) { return b.UserList(ctx, caller) }, backends.NamesResult{Header: at5, Names: []string{"u"}}},
		{pb.Auth_UserDelete_FullMethodName, &pb.AuthUserDeleteRequest{Name: "n"}, &pb.AuthUserDeleteResponse{Header: h},
			func() (any, error) { return b.UserDelete(ctx, caller, "n") }, at5},
		{pb.Auth_UserChangePassword_FullMethodName, &pb.AuthUserChangePasswordRequest{Name: "n", Password: "p", HashedPassword: "h"},
			&pb.AuthUserChangePasswordResponse{Header: h}, func() (any, error) {
				return b.UserChangePassword(ctx, &backends.UserChangePasswordRequest{Caller: caller, Name: "n", Password: "p", HashedPassword: "h"})
			}, at5},
		{pb.Auth_UserGrantRole_FullMethodName, &pb.AuthUserGrantRoleRequest{User: "u", Role: "r"}, &pb.AuthUserGrantRoleResponse{Header: h},
			func() (any, error) { return b.UserGrantRole(ctx, caller, "u", "r") }, at5},
		{pb.Auth_UserRevokeRole_FullMethodName, &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "r"}, &pb.AuthUserRevokeRoleResponse{Header: h},
			func() (any, error) { return b.UserRevokeRole(ctx, caller, "u", "r") }, at5},
		{pb.Auth_RoleAdd_FullMethodName, &pb.AuthRoleAddRequest{Name: "r"}, &pb.AuthRoleAddResponse{Header: h},
			func() (any, error) { return b.RoleAdd(ctx, caller, "r") }, at5},
		{pb.Auth_RoleGet_FullMethodName, &pb.AuthRoleGetRequest{Role: "r"}, &pb.AuthRoleGetResponse{Header: h, Perm: []*authpb.Permission{permission}},
			func() (any, error) { return b.RoleGet(ctx, caller, "r") },
			backends.RoleGetResult{Header: at5, Permissions: []backends.Permission{{Kind: backends.PermissionReadWrite, KeyRange: keys}}}},
		{pb.Auth_RoleList_FullMethodName, &pb.AuthRoleListRequest{}, &pb.AuthRoleListResponse{Header: h, Roles: []string{"r"}},
			func() (any, error) { return b.RoleList(ctx, caller) }, backends.NamesResult{Header: at5, Names: []string{"r"}}},
		{pb.Auth_RoleDelete_FullMethodName, &pb.AuthRoleDeleteRequest{Role: "r"}, &pb.AuthRoleDeleteResponse{Header: h},
			func() (any, error) { return b.RoleDelete(ctx, caller, "r") }, at5},
		{pb.Auth_RoleGrantPermission_FullMethodName, &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: permission},
			&pb.AuthRoleGrantPermissionResponse{Header: h}, func() (any, error) {
				return b.RoleGrantPermission(ctx, caller, "r", &backends.Permission{Kind: backends.PermissionReadWrite, KeyRange: keys})
			}, at5},
		{pb.Auth_RoleGrantPermission_FullMethodName, &pb.AuthRoleGrantPermissionRequest{Name: "r"},
			&pb.AuthRoleGrantPermissionResponse{Header: h}, func() (any, error) { return b.RoleGrantPermission(ctx, caller, "r", nil) }, at5},
		{pb.Auth_RoleRevokePermission_FullMethodName, &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("a"), RangeEnd: []byte("b")},
			&pb.AuthRoleRevokePermissionResponse{Header: h}, func() (any, error) { return b.RoleRevokePermission(ctx, caller, "r", keys) }, at5},
	} {
		*u = authUpstream{answer: c.answer}
		got, err := c.call()
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", c.method, got, err, c.want)
		}
		if u.method != c.method || !proto.Equal(u.request, c.request) || len(u.token) != 1 || u.token[0] != caller.Token {
			t.Errorf("%s: the upstream was asked %s %v with token %q", c.method, u.method, u.request, u.token)
		}
		*u = authUpstream{err: rpctypes.ErrGRPCRoleNotFound}
		if _, err := c.call(); !errors.Is(err, backends.ErrRoleNotFound) {
			t.Errorf("%s: %v", c.method, err)
		}
	}
	if _, err := b.Identify(ctx, caller); err != nil || !b.AuthEnabled() || b.Authorize(ctx, caller, backends.AccessAdmin) != nil {
		t.Error("the upstream decides, and not the one before it")
	}
}
