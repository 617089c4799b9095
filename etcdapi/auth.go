package etcdapi

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

const (
	// maxPasswordBytes is the longest password that bcrypt hashes.
	maxPasswordBytes = 72
	// authTagBytes is what the tag of such a request is longer in etcd's proposal than that
	// of a write.
	authTagBytes = 1
	// hashedPasswordBytes is a bcrypt hash in base64.
	hashedPasswordBytes = 80
)

// authService describes the service of authentication.
func (s *Server) authService() grpc.ServiceDesc {
	const name = "etcdserverpb.Auth"
	return grpc.ServiceDesc{
		ServiceName: name,
		Methods: []grpc.MethodDesc{
			unary(s, name, "AuthEnable", (*Server).authEnable),
			unary(s, name, "AuthDisable", (*Server).authDisable),
			unary(s, name, "AuthStatus", (*Server).authStatus),
			unary(s, name, "Authenticate", (*Server).authenticate),
			unary(s, name, "UserAdd", (*Server).userAdd),
			unary(s, name, "UserGet", (*Server).userGet),
			unary(s, name, "UserList", (*Server).userList),
			unary(s, name, "UserDelete", (*Server).userDelete),
			unary(s, name, "UserChangePassword", (*Server).userChangePassword),
			unary(s, name, "UserGrantRole", (*Server).userGrantRole),
			unary(s, name, "UserRevokeRole", (*Server).userRevokeRole),
			unary(s, name, "RoleAdd", (*Server).roleAdd),
			unary(s, name, "RoleGet", (*Server).roleGet),
			unary(s, name, "RoleList", (*Server).roleList),
			unary(s, name, "RoleDelete", (*Server).roleDelete),
			unary(s, name, "RoleGrantPermission", (*Server).roleGrantPermission),
			unary(s, name, "RoleRevokePermission", (*Server).roleRevokePermission),
		},
	}
}

// authCaller is who asks for something about users and roles. proposal is what etcd would
// propose, whose size is checked after the token was.
func (s *Server) authCaller(ctx context.Context, what string, proposal proto.Message) (backends.Caller, error) {
	if s.auth == nil {
		return backends.Caller{}, s.unsupported(what)
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return backends.Caller{}, err
	}
	return caller, s.checkBytes(proto.Size(proposal)+authTagBytes, caller)
}

func (s *Server) authEnable(ctx context.Context, r *pb.AuthEnableRequest) (any, error) {
	caller, err := s.authCaller(ctx, "AuthEnable", r)
	if err != nil {
		return nil, err
	}
	h, err := s.auth.AuthEnable(ctx, caller)
	if err != nil {
		return nil, err
	}
	return &pb.AuthEnableResponse{Header: wireHeader(h)}, nil
}

func (s *Server) authDisable(ctx context.Context, r *pb.AuthDisableRequest) (any, error) {
	caller, err := s.authCaller(ctx, "AuthDisable", r)
	if err != nil {
		return nil, err
	}
	h, err := s.auth.AuthDisable(ctx, caller)
	if err != nil {
		return nil, err
	}
	return &pb.AuthDisableResponse{Header: wireHeader(h)}, nil
}

func (s *Server) authStatus(ctx context.Context, r *pb.AuthStatusRequest) (any, error) {
	caller, err := s.authCaller(ctx, "AuthStatus", r)
	if err != nil {
		return nil, err
	}
	res, err := s.auth.AuthStatus(ctx, caller)
	if err != nil {
		return nil, err
	}
	return &pb.AuthStatusResponse{Header: wireHeader(res.Header), Enabled: res.Enabled, AuthRevision: res.AuthRevision}, nil
}

// authenticate does not look at a token that the request brings, as etcd.
func (s *Server) authenticate(ctx context.Context, r *pb.AuthenticateRequest) (any, error) {
	if s.auth == nil {
		return nil, s.unsupported("Authenticate")
	}
	password := r.Password
	r.Password = "" // whoever looks at the request later must not find it (CVE-2021-28235)
	res, err := s.auth.Authenticate(ctx, backends.Caller{}, r.Name, password)
	if err != nil {
		return nil, err
	}
	return &pb.AuthenticateResponse{Header: wireHeader(res.Header), Token: res.Token}, nil
}

// checkPassword refuses what bcrypt does not hash, as etcd does before it looks at the token.
func checkPassword(password string) error {
	if len(password) > maxPasswordBytes {
		return backends.ErrPasswordTooLong
	}
	return nil
}

func (s *Server) userAdd(ctx context.Context, r *pb.AuthUserAddRequest) (any, error) {
	req := &backends.UserAddRequest{Name: r.Name, Password: r.Password, HashedPassword: r.HashedPassword, NoPassword: r.Options.GetNoPassword()}
	proposal := r
	if !req.NoPassword && s.auth != nil {
		if err := checkPassword(r.Password); err != nil {
			return nil, err
		}
		proposal = &pb.AuthUserAddRequest{Name: r.Name, Options: r.Options, HashedPassword: string(make([]byte, hashedPasswordBytes))}
		r.Password = ""
	}
	var err error
	if req.Caller, err = s.authCaller(ctx, "UserAdd", proposal); err != nil {
		return nil, err
	}
	h, err := s.auth.UserAdd(ctx, req)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserAddResponse{Header: wireHeader(h)}, nil
}

func (s *Server) userGet(ctx context.Context, r *pb.AuthUserGetRequest) (any, error) {
	caller, err := s.authCaller(ctx, "UserGet", r)
	if err != nil {
		return nil, err
	}
	res, err := s.auth.UserGet(ctx, caller, r.Name)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGetResponse{Header: wireHeader(res.Header), Roles: res.Roles}, nil
}

func (s *Server) userList(ctx context.Context, r *pb.AuthUserListRequest) (any, error) {
	caller, err := s.authCaller(ctx, "UserList", r)
	if err != nil {
		return nil, err
	}
	res, err := s.auth.UserList(ctx, caller)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserListResponse{Header: wireHeader(res.Header), Users: res.Names}, nil
}

func (s *Server) userDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (any, error) {
	caller, err := s.authCaller(ctx, "UserDelete", r)
	if err != nil {
		return nil, err
	}
	h, err := s.auth.UserDelete(ctx, caller, r.Name)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserDeleteResponse{Header: wireHeader(h)}, nil
}

func (s *Server) userChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (any, error) {
	req := &backends.UserChangePasswordRequest{Name: r.Name, Password: r.Password, HashedPassword: r.HashedPassword}
	proposal := r
	if r.Password != "" && s.auth != nil {
		if err := checkPassword(r.Password); err != nil {
			return nil, err
		}
		proposal = &pb.AuthUserChangePasswordRequest{Name: r.Name, HashedPassword: string(make([]byte, hashedPasswordBytes))}
		r.Password = ""
	}
	var err error
	if req.Caller, err = s.authCaller(ctx, "UserChangePassword", proposal); err != nil {
		return nil, err
	}
	h, err := s.auth.UserChangePassword(ctx, req)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserChangePasswordResponse{Header: wireHeader(h)}, nil
}

func (s *Server) userGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (any, error) {
	caller, err := s.authCaller(ctx, "UserGrantRole", r)
	if err != nil {
		return nil, err
	}
	h, err := s.auth.UserGrantRole(ctx, caller, r.User, r.Role)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGrantRoleResponse{Header: wireHeader(h)}, nil
}

func (s *Server) userRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (any, error) {
	caller, err := s.authCaller(ctx, "UserRevokeRole", r)
	if err != nil {
		return nil, err
	}
	h, err := s.auth.UserRevokeRole(ctx, caller, r.Name, r.Role)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserRevokeRoleResponse{Header: wireHeader(h)}, nil
}

func (s *Server) roleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (any, error) {
	caller, err := s.authCaller(ctx, "RoleAdd", r)
	if err != nil {
		return nil, err
	}
	h, err := s.auth.RoleAdd(ctx, caller, r.Name)
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleAddResponse{Header: wireHeader(h)}, nil
}

func (s *Server) roleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (any, error) {
	caller, err := s.authCaller(ctx, "RoleGet", r)
	if err != nil {
		return nil, err
	}
	res, err := s.auth.RoleGet(ctx, caller, r.Role)
	if err != nil {
		return nil, err
	}
	out := &pb.AuthRoleGetResponse{Header: wireHeader(res.Header), Perm: make([]*authpb.Permission, len(res.Permissions))}
	for i, p := range res.Permissions {
		out.Perm[i] = &authpb.Permission{PermType: authpb.Permission_Type(p.Kind), Key: p.Key, RangeEnd: p.End}
	}
	return out, nil
}

func (s *Server) roleList(ctx context.Context, r *pb.AuthRoleListRequest) (any, error) {
	caller, err := s.authCaller(ctx, "RoleList", r)
	if err != nil {
		return nil, err
	}
	res, err := s.auth.RoleList(ctx, caller)
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleListResponse{Header: wireHeader(res.Header), Roles: res.Names}, nil
}

func (s *Server) roleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (any, error) {
	caller, err := s.authCaller(ctx, "RoleDelete", r)
	if err != nil {
		return nil, err
	}
	h, err := s.auth.RoleDelete(ctx, caller, r.Role)
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleDeleteResponse{Header: wireHeader(h)}, nil
}

func (s *Server) roleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (any, error) {
	caller, err := s.authCaller(ctx, "RoleGrantPermission", r)
	if err != nil {
		return nil, err
	}
	var permission *backends.Permission
	if r.Perm != nil {
		permission = &backends.Permission{
			Kind:     backends.PermissionKind(r.Perm.PermType),
			KeyRange: backends.KeyRange{Key: r.Perm.Key, End: r.Perm.RangeEnd},
		}
	}
	h, err := s.auth.RoleGrantPermission(ctx, caller, r.Name, permission)
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleGrantPermissionResponse{Header: wireHeader(h)}, nil
}

func (s *Server) roleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (any, error) {
	caller, err := s.authCaller(ctx, "RoleRevokePermission", r)
	if err != nil {
		return nil, err
	}
	h, err := s.auth.RoleRevokePermission(ctx, caller, r.Role, backends.KeyRange{Key: r.Key, End: r.RangeEnd})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleRevokePermissionResponse{Header: wireHeader(h)}, nil
}
