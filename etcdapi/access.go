package etcdapi

import (
	"context"

	"google.golang.org/grpc/health/grpc_health_v1"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

// demand is what a method asks of its caller while authentication is on.
type demand int

const (
	// denied is the demand of a method without an entry: nobody may call it.
	denied demand = iota
	// open: nobody is asked who they are.
	open
	// byBackend: the backend decides, by the caller and by what the request is about. The
	// handler identifies the caller once the request's form was checked, as etcd does.
	byBackend
	// user: whoever is somebody. Where keys are concerned the backend decides further.
	user
	// admin: who has the role root.
	admin
	// userByHandler and adminByHandler are the same, but the handler calls authorize: for
	// each message of a stream, or after a check that etcd makes first.
	userByHandler
	adminByHandler
)

// accessTable has what etcd 3.7.3 demands for each RPC, by its full method. A method that
// is not in it is denied. The handlers of etcd are named where it is not v3rpc's that asks.
func accessTable() map[string]demand {
	return map[string]demand{
		// v3_server.go, doSerialize for reads; apply/auth.go for writes.
		pb.KV_Range_FullMethodName:       byBackend,
		pb.KV_RangeStream_FullMethodName: byBackend,
		pb.KV_Put_FullMethodName:         byBackend,
		pb.KV_DeleteRange_FullMethodName: byBackend,
		pb.KV_Txn_FullMethodName:         byBackend,
		pb.KV_Compact_FullMethodName:     admin,

		// Each creation is asked, with the token that the stream was opened with; a watch that
		// exists is never asked again (v3rpc/watch.go, isWatchPermitted).
		pb.Watch_Watch_FullMethodName: byBackend,

		// v3_server.go; then the keys of the lease, by apply/auth.go (revoke), checkLeaseRenew,
		// checkLeaseTimeToLive and checkLeaseLeases.
		pb.Lease_LeaseGrant_FullMethodName:      user,
		pb.Lease_LeaseRevoke_FullMethodName:     user,
		pb.Lease_LeaseKeepAlive_FullMethodName:  userByHandler,
		pb.Lease_LeaseTimeToLive_FullMethodName: user,
		pb.Lease_LeaseLeases_FullMethodName:     user,

		// server.go; the URLs of a new member are looked at before (v3rpc/member.go).
		pb.Cluster_MemberAdd_FullMethodName:     adminByHandler,
		pb.Cluster_MemberRemove_FullMethodName:  admin,
		pb.Cluster_MemberUpdate_FullMethodName:  admin,
		pb.Cluster_MemberList_FullMethodName:    user,
		pb.Cluster_MemberPromote_FullMethodName: admin,

		// v3rpc/maintenance.go, authMaintenanceServer. To change alarms is an admin's.
		pb.Maintenance_Alarm_FullMethodName:      user,
		pb.Maintenance_Status_FullMethodName:     user,
		pb.Maintenance_Defragment_FullMethodName: admin,
		pb.Maintenance_Hash_FullMethodName:       admin,
		pb.Maintenance_HashKV_FullMethodName:     admin,
		pb.Maintenance_Snapshot_FullMethodName:   admin,
		pb.Maintenance_MoveLeader_FullMethodName: admin,
		pb.Maintenance_Downgrade_FullMethodName:  admin,

		// apply/auth.go, needAdminPermission, UserGet and RoleGet: where the change is made.
		pb.Auth_AuthEnable_FullMethodName:           byBackend,
		pb.Auth_AuthDisable_FullMethodName:          byBackend,
		pb.Auth_AuthStatus_FullMethodName:           byBackend,
		pb.Auth_Authenticate_FullMethodName:         open,
		pb.Auth_UserAdd_FullMethodName:              byBackend,
		pb.Auth_UserGet_FullMethodName:              byBackend,
		pb.Auth_UserList_FullMethodName:             byBackend,
		pb.Auth_UserDelete_FullMethodName:           byBackend,
		pb.Auth_UserChangePassword_FullMethodName:   byBackend,
		pb.Auth_UserGrantRole_FullMethodName:        byBackend,
		pb.Auth_UserRevokeRole_FullMethodName:       byBackend,
		pb.Auth_RoleAdd_FullMethodName:              byBackend,
		pb.Auth_RoleGet_FullMethodName:              byBackend,
		pb.Auth_RoleList_FullMethodName:             byBackend,
		pb.Auth_RoleDelete_FullMethodName:           byBackend,
		pb.Auth_RoleGrantPermission_FullMethodName:  byBackend,
		pb.Auth_RoleRevokePermission_FullMethodName: byBackend,

		// Each of the requests that they are made of is asked by itself, as in etcd, where they
		// are a client of the services above.
		"/v3lockpb.Lock/Lock":             byBackend,
		"/v3lockpb.Lock/Unlock":           byBackend,
		"/v3electionpb.Election/Campaign": byBackend,
		"/v3electionpb.Election/Proclaim": byBackend,
		"/v3electionpb.Election/Leader":   byBackend,
		"/v3electionpb.Election/Observe":  byBackend,
		"/v3electionpb.Election/Resign":   byBackend,

		// grpc's own service; etcd registers it as it is.
		grpc_health_v1.Health_Check_FullMethodName: open,
		grpc_health_v1.Health_List_FullMethodName:  open,
		grpc_health_v1.Health_Watch_FullMethodName: open,
	}
}

// permit checks the caller of a request against what its method demands, as far as that is
// not left to the handler or to the backend. In the context that it returns the caller is
// known, so that caller does not identify again. It costs nothing while authentication is off.
func (s *Server) permit(ctx context.Context, d demand) (context.Context, error) {
	var access backends.Access
	switch d {
	case open, byBackend, userByHandler, adminByHandler:
		return ctx, nil
	case user:
		access = backends.AccessUser
	case admin:
		access = backends.AccessAdmin
	default:
		return nil, rpctypes.ErrGRPCPermissionDenied
	}
	if !s.authEnabled() {
		return ctx, nil
	}
	caller, err := s.authorize(ctx, access)
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, callerKey{}, caller), nil
}

// authorize identifies the caller of a request and checks what is about no key.
func (s *Server) authorize(ctx context.Context, access backends.Access) (backends.Caller, error) {
	if !s.authEnabled() {
		return backends.Caller{}, nil
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return backends.Caller{}, err
	}
	return caller, s.auth.Authorize(ctx, caller, access)
}
