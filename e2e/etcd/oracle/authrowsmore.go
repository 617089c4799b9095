package oracle

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// ordered are the names of a table, in order: what is made of it is the same each time.
func ordered[V any](table map[string]V) []string { return slices.Sorted(maps.Keys(table)) }

func sortedRows(rows []matrixRow) []matrixRow {
	slices.SortFunc(rows, func(a, b matrixRow) int { return cmp.Or(cmp.Compare(a.rpc, b.rpc), cmp.Compare(a.what, b.what)) })
	return rows
}

// plainRow is a row of one request that changes nothing, or whose change is put back by after.
func plainRow(rpc, what string, request proto.Message, after func(*matrix)) matrixRow {
	return matrixRow{rpc: rpc, what: what, ask: func(m *matrix) *Step { return m.call(rpc, request) }, after: after}
}

// otherRows are the rows of what is about no key: members, maintenance, health.
func otherRows() []matrixRow {
	const unknown = 0x1234567
	disarm := func(m *matrix) {
		for _, kind := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			m.keep("Maintenance.Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: selfSymbol(), Alarm: kind})
		}
	}
	rows := []matrixRow{
		plainRow("Cluster.MemberList", "", &pb.MemberListRequest{}, nil),
		plainRow("Cluster.MemberList", "linearizable", &pb.MemberListRequest{Linearizable: true}, nil),
		plainRow("Cluster.MemberAdd", "bad URL", &pb.MemberAddRequest{PeerURLs: []string{"not a URL"}, IsLearner: true}, nil),
		plainRow("Cluster.MemberAdd", "no URL", &pb.MemberAddRequest{IsLearner: true}, nil),
		memberAddRow(),
		plainRow("Cluster.MemberRemove", "unknown", &pb.MemberRemoveRequest{ID: unknown}, nil),
		plainRow("Cluster.MemberRemove", "the only one", &pb.MemberRemoveRequest{ID: selfSymbol()}, nil),
		plainRow("Cluster.MemberUpdate", "unknown", &pb.MemberUpdateRequest{ID: unknown, PeerURLs: []string{"http://127.0.0.1:11"}}, nil),
		plainRow("Cluster.MemberUpdate", "itself", &pb.MemberUpdateRequest{ID: selfSymbol(), PeerURLs: []string{"http://127.0.0.1:12"}}, nil),
		plainRow("Cluster.MemberPromote", "unknown", &pb.MemberPromoteRequest{ID: unknown}, nil),
		plainRow("Cluster.MemberPromote", "a voter", &pb.MemberPromoteRequest{ID: selfSymbol()}, nil),
		plainRow("Maintenance.Alarm", "look", &pb.AlarmRequest{}, nil),
		plainRow("Maintenance.Alarm", "raise", &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: selfSymbol(), Alarm: pb.AlarmType_NOSPACE}, disarm),
		plainRow("Maintenance.Alarm", "raise corrupt", &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: selfSymbol(), Alarm: pb.AlarmType_CORRUPT}, disarm),
		plainRow("Maintenance.Alarm", "clear", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: selfSymbol(), Alarm: pb.AlarmType_NOSPACE}, nil),
		alarmedRow("KV.Put", &pb.PutRequest{Key: []byte("m/k")}, disarm),
		alarmedRow("Lease.LeaseGrant", &pb.LeaseGrantRequest{ID: leaseUnknown, TTL: 100}, disarm),
		plainRow("Maintenance.Status", "", &pb.StatusRequest{}, nil),
		plainRow("Maintenance.Defragment", "", &pb.DefragmentRequest{}, nil),
		plainRow("Maintenance.Hash", "", &pb.HashRequest{}, nil),
		plainRow("Maintenance.HashKV", "present", &pb.HashKVRequest{}, nil),
		plainRow("Maintenance.HashKV", "future", &pb.HashKVRequest{Revision: now(1000)}, nil),
		plainRow("Maintenance.Snapshot", "", &pb.SnapshotRequest{}, nil),
		plainRow("Maintenance.MoveLeader", "to itself", &pb.MoveLeaderRequest{TargetID: selfSymbol()}, nil),
		plainRow("Maintenance.MoveLeader", "to nobody", &pb.MoveLeaderRequest{TargetID: unknown}, nil),
		plainRow("Maintenance.Downgrade", "validate", &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.6"}, nil),
		plainRow("Maintenance.Downgrade", "no version", &pb.DowngradeRequest{Action: pb.DowngradeRequest_ENABLE, Version: "x.y"}, nil),
		plainRow("Maintenance.Downgrade", "cancel", &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL}, nil),
		plainRow("Maintenance.Downgrade", "unknown", &pb.DowngradeRequest{Action: 9}, nil),
		plainRow("Health.Check", "", &healthpb.HealthCheckRequest{}, nil),
		plainRow("Health.Check", "unknown", &healthpb.HealthCheckRequest{Service: "unknown"}, nil),
		{rpc: "Health.Watch", what: "", ask: func(m *matrix) *Step {
			s := m.call("Health.Watch", &healthpb.HealthCheckRequest{})
			s.Take = 1
			return s
		}},
	}
	return rows
}

// memberAddRow adds a learner, which is removed.
func memberAddRow() matrixRow {
	return matrixRow{rpc: "Cluster.MemberAdd", what: "a learner", ask: func(m *matrix) *Step {
		b := m.bind()
		s := m.call("Cluster.MemberAdd", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{fmt.Sprintf("http://127.0.0.1:%d", 100+b)}})
		s.Bind = b
		return s
	}, after: func(m *matrix) { m.keep("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: memberSymbol(m.binds)}) }}
}

// alarmedRow asks while an alarm is raised, which is told before a missing permission.
func alarmedRow(rpc string, request proto.Message, disarm func(*matrix)) matrixRow {
	r := plainRow(rpc, "while an alarm is raised", request, func(m *matrix) { disarm(m); m.restoreKeys() })
	r.before = func(m *matrix) {
		m.keep("Maintenance.Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: selfSymbol(), Alarm: pb.AlarmType_NOSPACE})
	}
	return r
}

// accountRows are the rows of users and roles. With signed tokens nobody logs in twice in
// one second, whose tokens would be the same.
func accountRows(signed bool) []matrixRow {
	undo := (*matrix).undoAccounts
	key, another := []byte("m/k"), []byte("m/l")
	rows := []matrixRow{
		plainRow("Auth.AuthStatus", "", &pb.AuthStatusRequest{}, nil),
		plainRow("Auth.AuthEnable", "", &pb.AuthEnableRequest{}, (*matrix).restoreSwitch),
		plainRow("Auth.AuthDisable", "", &pb.AuthDisableRequest{}, (*matrix).restoreSwitch),
		plainRow("Auth.Authenticate", "wrong password", &pb.AuthenticateRequest{Name: visitor, Password: "wrong"}, nil),
		plainRow("Auth.Authenticate", "unknown", &pb.AuthenticateRequest{Name: "unknown", Password: password}, nil),
		plainRow("Auth.UserAdd", "another", &pb.AuthUserAddRequest{Name: visitor + "2", Password: password}, undo),
		plainRow("Auth.UserAdd", "another, by certificate", &pb.AuthUserAddRequest{Name: visitor + "2", Options: &authpb.UserAddOptions{NoPassword: true}}, undo),
		plainRow("Auth.UserAdd", "again", &pb.AuthUserAddRequest{Name: visitor, Password: password}, undo),
		plainRow("Auth.UserAdd", "no name", &pb.AuthUserAddRequest{Password: password}, nil),
		plainRow("Auth.UserGet", "", &pb.AuthUserGetRequest{Name: visitor}, nil),
		plainRow("Auth.UserGet", "root", &pb.AuthUserGetRequest{Name: "root"}, nil),
		plainRow("Auth.UserGet", "unknown", &pb.AuthUserGetRequest{Name: "unknown"}, nil),
		plainRow("Auth.UserGet", "no name", &pb.AuthUserGetRequest{}, nil),
		{rpc: "Auth.UserGet", what: "oneself", ask: func(m *matrix) *Step {
			return m.call("Auth.UserGet", &pb.AuthUserGetRequest{Name: m.caller.name})
		}},
		plainRow("Auth.UserList", "", &pb.AuthUserListRequest{}, nil),
		plainRow("Auth.UserDelete", "", &pb.AuthUserDeleteRequest{Name: visitor}, undo),
		plainRow("Auth.UserDelete", "unknown", &pb.AuthUserDeleteRequest{Name: "unknown"}, nil),
		plainRow("Auth.UserChangePassword", "", &pb.AuthUserChangePasswordRequest{Name: visitor, Password: "new"}, undo),
		plainRow("Auth.UserChangePassword", "hashed", &pb.AuthUserChangePasswordRequest{Name: visitor, HashedPassword: hashed()}, undo),
		plainRow("Auth.UserChangePassword", "unknown", &pb.AuthUserChangePasswordRequest{Name: "unknown", Password: "new"}, nil),
		plainRow("Auth.UserGrantRole", "again", &pb.AuthUserGrantRoleRequest{User: visitor, Role: visits}, undo),
		plainRow("Auth.UserGrantRole", "root", &pb.AuthUserGrantRoleRequest{User: visitor, Role: "root"}, undo),
		plainRow("Auth.UserGrantRole", "unknown", &pb.AuthUserGrantRoleRequest{User: visitor, Role: "unknown"}, nil),
		plainRow("Auth.UserRevokeRole", "", &pb.AuthUserRevokeRoleRequest{Name: visitor, Role: visits}, undo),
		plainRow("Auth.UserRevokeRole", "not granted", &pb.AuthUserRevokeRoleRequest{Name: visitor, Role: "root"}, nil),
		plainRow("Auth.RoleAdd", "another", &pb.AuthRoleAddRequest{Name: visits + "2"}, undo),
		plainRow("Auth.RoleAdd", "again", &pb.AuthRoleAddRequest{Name: visits}, nil),
		plainRow("Auth.RoleAdd", "no name", &pb.AuthRoleAddRequest{}, nil),
		plainRow("Auth.RoleGet", "", &pb.AuthRoleGetRequest{Role: visits}, nil),
		plainRow("Auth.RoleGet", "root", &pb.AuthRoleGetRequest{Role: "root"}, nil),
		plainRow("Auth.RoleGet", "unknown", &pb.AuthRoleGetRequest{Role: "unknown"}, nil),
		{rpc: "Auth.RoleGet", what: "one's own", ask: func(m *matrix) *Step {
			return m.call("Auth.RoleGet", &pb.AuthRoleGetRequest{Role: m.caller.role(0)})
		}},
		plainRow("Auth.RoleList", "", &pb.AuthRoleListRequest{}, nil),
		plainRow("Auth.RoleDelete", "", &pb.AuthRoleDeleteRequest{Role: visits}, undo),
		plainRow("Auth.RoleDelete", "unknown", &pb.AuthRoleDeleteRequest{Role: "unknown"}, nil),
		plainRow("Auth.RoleGrantPermission", "", &pb.AuthRoleGrantPermissionRequest{Name: visits, Perm: &authpb.Permission{Key: another, PermType: authpb.Permission_WRITE}}, undo),
		plainRow("Auth.RoleGrantPermission", "nothing", &pb.AuthRoleGrantPermissionRequest{Name: visits}, nil),
		plainRow("Auth.RoleGrantPermission", "empty", &pb.AuthRoleGrantPermissionRequest{Name: visits, Perm: &authpb.Permission{Key: another, RangeEnd: key}}, nil),
		plainRow("Auth.RoleRevokePermission", "", &pb.AuthRoleRevokePermissionRequest{Role: visits, Key: key}, undo),
		plainRow("Auth.RoleRevokePermission", "not granted", &pb.AuthRoleRevokePermissionRequest{Role: visits, Key: another}, nil),
	}
	if !signed {
		rows = append(rows, plainRow("Auth.Authenticate", "", &pb.AuthenticateRequest{Name: visitor, Password: password}, nil))
	}
	return append(rows, rootRows()...)
}

// rootRows take from root what it needs while authentication is on. While it is off they would work.
func rootRows() []matrixRow {
	rows := []matrixRow{
		plainRow("Auth.UserDelete", "root", &pb.AuthUserDeleteRequest{Name: "root"}, nil),
		plainRow("Auth.RoleDelete", "root", &pb.AuthRoleDeleteRequest{Role: "root"}, nil),
		plainRow("Auth.UserRevokeRole", "root from root", &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"}, nil),
	}
	for i := range rows {
		rows[i].after = func(m *matrix) {
			m.keep("Auth.UserAdd", &pb.AuthUserAddRequest{Name: "root", Password: password})
			m.keep("Auth.RoleAdd", &pb.AuthRoleAddRequest{Name: "root"})
			m.keep("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
			m.keep("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: keeper, Role: "root"})
			if m.mode.off {
				m.keep("Auth.UserGrantRole", &pb.AuthUserGrantRoleRequest{User: "admin", Role: "root"})
			}
		}
	}
	return rows
}

// turnRows are the rows of locks and elections. Those in which the server grants a lease, which
// nobody knows of who is refused afterwards, come last.
func turnRows() []matrixRow {
	undo := func(m *matrix) {
		for _, s := range []span{{"m/k/", "m/k0"}, {"z/s/", "z/s0"}} {
			m.keep("KV.DeleteRange", &pb.DeleteRangeRequest{Key: []byte(s.key), RangeEnd: []byte(s.end), PrevKv: true})
		}
		m.restoreKeys()
	}
	var rows []matrixRow
	for _, name := range []string{"m/k", "z/s"} {
		for _, lease := range []int64{leaseFree, leaseOwn, leaseForeign, leaseUnknown} {
			what := fmt.Sprintf("%q, lease %d", name, lease)
			rows = append(rows,
				plainRow("Lock.Lock", what, &v3lockpb.LockRequest{Name: []byte(name), Lease: lease}, undo),
				plainRow("Election.Campaign", what, &v3electionpb.CampaignRequest{Name: []byte(name), Lease: lease, Value: []byte("mine")}, undo),
			)
		}
		rows = append(rows, plainRow("Lock.Unlock", fmt.Sprintf("%q", name), &v3lockpb.UnlockRequest{Key: []byte(name)}, undo))
		rows = append(rows, ledRows(name, undo)...)
	}
	rows = append(rows, plainRow("Lock.Unlock", "no key", &v3lockpb.UnlockRequest{}, nil),
		plainRow("Election.Resign", "no leader", &v3electionpb.ResignRequest{}, nil))
	for _, name := range []string{"m/k", "z/s"} {
		what := fmt.Sprintf("%q, a lease of the server's", name)
		rows = append(rows,
			grantedRow("Lock.Lock", what, &v3lockpb.LockRequest{Name: []byte(name)}, undo),
			grantedRow("Election.Campaign", what, &v3electionpb.CampaignRequest{Name: []byte(name), Value: []byte("mine")}, undo),
		)
	}
	return rows
}

// ledRows ask about an election that the keeper leads.
func ledRows(name string, undo func(*matrix)) []matrixRow {
	campaign := func(m *matrix) {
		m.keep("Election.Campaign", &v3electionpb.CampaignRequest{Name: []byte(name), Lease: leaseFree, Value: []byte("the keeper's")}).Bind = m.bind()
	}
	leader := func(m *matrix) *v3electionpb.LeaderKey {
		return &v3electionpb.LeaderKey{Name: []byte(name), Key: lockKey(name, leaseFree), Rev: revSymbol(m.binds), Lease: leaseFree}
	}
	rows := []matrixRow{
		plainRow("Election.Leader", "", &v3electionpb.LeaderRequest{Name: []byte(name)}, undo),
		{rpc: "Election.Observe", ask: func(m *matrix) *Step {
			s := m.call("Election.Observe", &v3electionpb.LeaderRequest{Name: []byte(name)})
			s.Take = 1
			return s
		}},
		{rpc: "Election.Proclaim", ask: func(m *matrix) *Step {
			return m.call("Election.Proclaim", &v3electionpb.ProclaimRequest{Leader: leader(m), Value: []byte("another's")})
		}},
		{rpc: "Election.Resign", ask: func(m *matrix) *Step {
			return m.call("Election.Resign", &v3electionpb.ResignRequest{Leader: leader(m)})
		}},
	}
	for i := range rows {
		rows[i].what, rows[i].before, rows[i].after = fmt.Sprintf("%q", name), campaign, undo
	}
	return rows
}

// grantedRow binds the lease that the server grants.
func grantedRow(rpc, what string, request proto.Message, undo func(*matrix)) matrixRow {
	return matrixRow{rpc: rpc, what: what, ask: func(m *matrix) *Step {
		s := m.call(rpc, request)
		s.Bind = m.bind()
		return s
	}, after: func(m *matrix) {
		undo(m)
		m.keep("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: leaseSymbol(m.binds)})
	}}
}
