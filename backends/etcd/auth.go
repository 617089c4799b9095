package etcd

import (
	"context"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// AuthEnabled implements backends.Auth: only the upstream knows, so that every
// caller's token is passed on.
func (b *Backend) AuthEnabled() bool { return true }

// Identify implements backends.Auth: the upstream identifies the caller.
func (b *Backend) Identify(_ context.Context, caller backends.Caller) (backends.Caller, error) {
	return caller, nil
}

// Authorize implements backends.Auth: the upstream authorizes each request.
func (b *Backend) Authorize(context.Context, backends.Caller, backends.Access) error { return nil }

// answered is an answer that has little but its header.
type answered interface {
	proto.Message
	GetHeader() *pb.ResponseHeader
}

// manage makes a call that changes users or roles.
func (b *Backend) manage(ctx context.Context, method string, caller backends.Caller, request proto.Message, response answered) (backends.Header, error) {
	if err := b.call(ctx, writing, method, caller, request, response); err != nil {
		return backends.Header{}, err
	}
	return header(response.GetHeader()), nil
}

// AuthStatus implements backends.Auth.
func (b *Backend) AuthStatus(ctx context.Context, caller backends.Caller) (backends.AuthStatusResult, error) {
	r := &pb.AuthStatusResponse{}
	err := b.call(ctx, reading, pb.Auth_AuthStatus_FullMethodName, caller, &pb.AuthStatusRequest{}, r)
	return backends.AuthStatusResult{Header: header(r.Header), Enabled: r.Enabled, AuthRevision: r.AuthRevision}, err
}

// AuthEnable implements backends.Auth.
func (b *Backend) AuthEnable(ctx context.Context, caller backends.Caller) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_AuthEnable_FullMethodName, caller, &pb.AuthEnableRequest{}, &pb.AuthEnableResponse{})
}

// AuthDisable implements backends.Auth.
func (b *Backend) AuthDisable(ctx context.Context, caller backends.Caller) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_AuthDisable_FullMethodName, caller, &pb.AuthDisableRequest{}, &pb.AuthDisableResponse{})
}

// Authenticate implements backends.Auth. It changes nothing that an unknown outcome
// would matter for: a token that nobody got is nobody's.
func (b *Backend) Authenticate(ctx context.Context, caller backends.Caller, name, password string) (backends.AuthenticateResult, error) {
	r := &pb.AuthenticateResponse{}
	err := b.call(ctx, reading, pb.Auth_Authenticate_FullMethodName, caller, &pb.AuthenticateRequest{Name: name, Password: password}, r)
	return backends.AuthenticateResult{Header: header(r.Header), Token: r.Token}, err
}

// UserAdd implements backends.Auth.
func (b *Backend) UserAdd(ctx context.Context, req *backends.UserAddRequest) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_UserAdd_FullMethodName, req.Caller, &pb.AuthUserAddRequest{
		Name: req.Name, Password: req.Password, HashedPassword: req.HashedPassword, Options: &authpb.UserAddOptions{NoPassword: req.NoPassword},
	}, &pb.AuthUserAddResponse{})
}

// UserGet implements backends.Auth.
func (b *Backend) UserGet(ctx context.Context, caller backends.Caller, name string) (backends.UserGetResult, error) {
	r := &pb.AuthUserGetResponse{}
	err := b.call(ctx, reading, pb.Auth_UserGet_FullMethodName, caller, &pb.AuthUserGetRequest{Name: name}, r)
	return backends.UserGetResult{Header: header(r.Header), Roles: r.Roles}, err
}

// UserList implements backends.Auth.
func (b *Backend) UserList(ctx context.Context, caller backends.Caller) (backends.NamesResult, error) {
	r := &pb.AuthUserListResponse{}
	err := b.call(ctx, reading, pb.Auth_UserList_FullMethodName, caller, &pb.AuthUserListRequest{}, r)
	return backends.NamesResult{Header: header(r.Header), Names: r.Users}, err
}

// UserDelete implements backends.Auth.
func (b *Backend) UserDelete(ctx context.Context, caller backends.Caller, name string) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_UserDelete_FullMethodName, caller, &pb.AuthUserDeleteRequest{Name: name}, &pb.AuthUserDeleteResponse{})
}

// UserChangePassword implements backends.Auth.
func (b *Backend) UserChangePassword(ctx context.Context, req *backends.UserChangePasswordRequest) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_UserChangePassword_FullMethodName, req.Caller, &pb.AuthUserChangePasswordRequest{
		Name: req.Name, Password: req.Password, HashedPassword: req.HashedPassword,
	}, &pb.AuthUserChangePasswordResponse{})
}

// UserGrantRole implements backends.Auth.
func (b *Backend) UserGrantRole(ctx context.Context, caller backends.Caller, user, role string) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_UserGrantRole_FullMethodName, caller,
		&pb.AuthUserGrantRoleRequest{User: user, Role: role}, &pb.AuthUserGrantRoleResponse{})
}

// UserRevokeRole implements backends.Auth.
func (b *Backend) UserRevokeRole(ctx context.Context, caller backends.Caller, user, role string) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_UserRevokeRole_FullMethodName, caller,
		&pb.AuthUserRevokeRoleRequest{Name: user, Role: role}, &pb.AuthUserRevokeRoleResponse{})
}

// RoleAdd implements backends.Auth.
func (b *Backend) RoleAdd(ctx context.Context, caller backends.Caller, name string) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_RoleAdd_FullMethodName, caller, &pb.AuthRoleAddRequest{Name: name}, &pb.AuthRoleAddResponse{})
}

// RoleGet implements backends.Auth.
func (b *Backend) RoleGet(ctx context.Context, caller backends.Caller, name string) (backends.RoleGetResult, error) {
	r := &pb.AuthRoleGetResponse{}
	err := b.call(ctx, reading, pb.Auth_RoleGet_FullMethodName, caller, &pb.AuthRoleGetRequest{Role: name}, r)
	result := backends.RoleGetResult{Header: header(r.Header)}
	for _, p := range r.Perm {
		result.Permissions = append(result.Permissions, backends.Permission{
			Kind: backends.PermissionKind(p.PermType), KeyRange: backends.KeyRange{Key: p.Key, End: p.RangeEnd},
		})
	}
	return result, err
}

// RoleList implements backends.Auth.
func (b *Backend) RoleList(ctx context.Context, caller backends.Caller) (backends.NamesResult, error) {
	r := &pb.AuthRoleListResponse{}
	err := b.call(ctx, reading, pb.Auth_RoleList_FullMethodName, caller, &pb.AuthRoleListRequest{}, r)
	return backends.NamesResult{Header: header(r.Header), Names: r.Roles}, err
}

// RoleDelete implements backends.Auth.
func (b *Backend) RoleDelete(ctx context.Context, caller backends.Caller, name string) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_RoleDelete_FullMethodName, caller, &pb.AuthRoleDeleteRequest{Role: name}, &pb.AuthRoleDeleteResponse{})
}

// RoleGrantPermission implements backends.Auth.
func (b *Backend) RoleGrantPermission(ctx context.Context, caller backends.Caller, role string, permission *backends.Permission) (backends.Header, error) {
	r := &pb.AuthRoleGrantPermissionRequest{Name: role}
	if p := permission; p != nil {
		r.Perm = &authpb.Permission{PermType: authpb.Permission_Type(p.Kind), Key: p.Key, RangeEnd: p.End}
	}
	return b.manage(ctx, pb.Auth_RoleGrantPermission_FullMethodName, caller, r, &pb.AuthRoleGrantPermissionResponse{})
}

// RoleRevokePermission implements backends.Auth.
func (b *Backend) RoleRevokePermission(ctx context.Context, caller backends.Caller, role string, keys backends.KeyRange) (backends.Header, error) {
	return b.manage(ctx, pb.Auth_RoleRevokePermission_FullMethodName, caller,
		&pb.AuthRoleRevokePermissionRequest{Role: role, Key: keys.Key, RangeEnd: keys.End}, &pb.AuthRoleRevokePermissionResponse{})
}
