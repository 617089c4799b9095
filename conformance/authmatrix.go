package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// need is what a call of the matrix needs.
type need string

// The needs. A token that is bad is refused wherever it is looked at.
const (
	needNothing need = "nothing, not even that the token is good"
	needNoName  need = "nothing but that a token, if there is one, is good"
	needUser    need = "a user"
	needRead    need = "to read the key"
	needWrite   need = "to write the key"
	needBoth    need = "to read and write the key"
	needRoot    need = "root"
)

// want is the refusal of a caller of the matrix; "" for none.
func (n need) want(who string) string {
	switch {
	case n == needNothing:
		return ""
	case who == "bad token":
		return msgBadToken
	case n == needNoName:
		return ""
	case who == "nobody":
		return msgNobody
	case who == "root", n == needUser, who == "both" && n != needRoot,
		who == "reader" && n == needRead, who == "writer" && n == needWrite:
		return ""
	}
	return msgDenied
}

// matrixRow is one call, harmless also to who may make it.
type matrixRow struct {
	rpc  string
	what string
	need need
	call func(m *matrix, ctx context.Context) error
}

// matrix is what the rows call with: a key that is there, and a lease that has it.
type matrix struct {
	*C
	key, end []byte
	lease    int64
	peerURLs []string
}

func authMatrixCases() []Case {
	return []Case{
		{Name: "auth/matrix-kv", RPC: "KV.Txn", Run: func(c *C) { c.matrix(matrixKV()) }},
		{Name: "auth/matrix-watch-and-lease", RPC: "Watch.Watch", Run: func(c *C) { c.matrix(matrixWatchAndLease()) }},
		{Name: "auth/matrix-cluster-and-maintenance", RPC: "Cluster.MemberList", Run: func(c *C) { c.matrix(matrixClusterAndMaintenance()) }},
		{Name: "auth/matrix-auth", RPC: "Auth.UserList", Run: func(c *C) { c.matrix(matrixAuth()) }},
	}
}

// matrixRows is the whole matrix.
func matrixRows() []matrixRow {
	var rows []matrixRow
	for _, part := range [][]matrixRow{matrixKV(), matrixWatchAndLease(), matrixClusterAndMaintenance(), matrixAuth(), matrixTurns()} {
		rows = append(rows, part...)
	}
	return rows
}

// matrix makes each call as each kind of caller.
func (c *C) matrix(rows []matrixRow) {
	c.Helper()
	c.accounts()
	m := &matrix{C: c, key: c.key("k"), end: c.end("k")}
	c.member("reader", permission(authpb.Permission_READ, m.key, m.end))
	c.member("writer", permission(authpb.Permission_WRITE, m.key, m.end))
	c.member("both", permission(authpb.Permission_READWRITE, m.key, m.end))
	c.user("stranger")
	c.enable()
	members, err := c.Cluster.MemberList(c.Ctx, &pb.MemberListRequest{})
	c.must(err, "list members")
	m.peerURLs = members.Members[0].PeerURLs
	m.lease = c.grant(600)
	callers := []string{"bad token", "nobody", "stranger", "reader", "writer", "both", "root"}
	contexts := map[string]context.Context{"bad token": withToken(c.nobody(), "bad"), "nobody": c.nobody(), "root": c.Ctx}
	for _, who := range callers[2:6] {
		contexts[who] = c.as(who)
	}
	for _, row := range rows {
		for _, who := range callers {
			c.putLease("k", m.lease) // which a row may have deleted
			err := row.call(m, contexts[who])
			got := ""
			if st := status.Convert(err); st.Message() == msgBadToken || st.Message() == msgNobody || st.Message() == msgDenied {
				got = st.Message()
			} else if st.Code() == codes.Unimplemented {
				c.Errorf("%s, %s: %v", row.rpc, row.what, err)
			}
			if want := row.need.want(who); got != want {
				c.Errorf("%s, %s, needs %s; as %s: got %v, want %q", row.rpc, row.what, row.need, who, err, want)
			}
		}
	}
}

func (m *matrix) txn(ctx context.Context, depth int, t *pb.TxnRequest) error {
	_, err := m.KV.Txn(ctx, nest(t, depth))
	return err
}

// txnRows are an operation of a transaction, in the list that runs, in the other, and nested.
func txnRows(what string, n need, op func(m *matrix) *pb.RequestOp) []matrixRow {
	var rows []matrixRow
	for depth := range 3 {
		rows = append(rows,
			matrixRow{"KV.Txn", fmt.Sprintf("%s, nested %d times", what, depth), n, func(m *matrix, ctx context.Context) error {
				return m.txn(ctx, depth, thenOp(op(m)))
			}},
			matrixRow{"KV.Txn", fmt.Sprintf("%s that does not run, nested %d times", what, depth), n, func(m *matrix, ctx context.Context) error {
				return m.txn(ctx, depth, elseOp(op(m)))
			}},
		)
	}
	return rows
}

func matrixKV() []matrixRow {
	rng := func(r func(m *matrix) *pb.RangeRequest) func(*matrix, context.Context) error {
		return func(m *matrix, ctx context.Context) error {
			_, err := m.KV.Range(ctx, r(m))
			return err
		}
	}
	stream := func(r func(m *matrix) *pb.RangeRequest) func(*matrix, context.Context) error {
		return func(m *matrix, ctx context.Context) error {
			s, err := m.KV.RangeStream(ctx, r(m))
			for err == nil {
				_, err = s.Recv()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
	put := func(r func(m *matrix) *pb.PutRequest) func(*matrix, context.Context) error {
		return func(m *matrix, ctx context.Context) error {
			_, err := m.KV.Put(ctx, r(m))
			return err
		}
	}
	del := func(r func(m *matrix) *pb.DeleteRangeRequest) func(*matrix, context.Context) error {
		return func(m *matrix, ctx context.Context) error {
			_, err := m.KV.DeleteRange(ctx, r(m))
			return err
		}
	}
	one := func(m *matrix) *pb.RangeRequest { return &pb.RangeRequest{Key: m.key} }
	prefix := func(m *matrix) *pb.RangeRequest { return &pb.RangeRequest{Key: m.key, RangeEnd: m.end} }
	from := func(m *matrix) *pb.RangeRequest {
		return &pb.RangeRequest{Key: m.key, RangeEnd: []byte{0}, CountOnly: true}
	}
	putOne := func(m *matrix) *pb.PutRequest { return &pb.PutRequest{Key: m.key} }
	putPrev := func(m *matrix) *pb.PutRequest { return &pb.PutRequest{Key: m.key, PrevKv: true} }
	putLease := func(m *matrix) *pb.PutRequest { return &pb.PutRequest{Key: m.key, Lease: m.lease} }
	delOne := func(m *matrix) *pb.DeleteRangeRequest { return &pb.DeleteRangeRequest{Key: m.key} }
	delPrev := func(m *matrix) *pb.DeleteRangeRequest {
		return &pb.DeleteRangeRequest{Key: m.key, RangeEnd: m.end, PrevKv: true}
	}
	rows := []matrixRow{
		{"KV.Range", "key", needRead, rng(one)},
		{"KV.Range", "prefix", needRead, rng(prefix)},
		{"KV.Range", "from key", needRoot, rng(from)},
		{"KV.RangeStream", "key", needRead, stream(one)},
		{"KV.RangeStream", "prefix", needRead, stream(prefix)},
		{"KV.RangeStream", "from key", needRoot, stream(from)},
		{"KV.Put", "key", needWrite, put(putOne)},
		{"KV.Put", "with the previous record", needBoth, put(putPrev)},
		{"KV.Put", "with a lease", needWrite, put(putLease)},
		{"KV.DeleteRange", "key", needWrite, del(delOne)},
		{"KV.DeleteRange", "prefix with previous records", needBoth, del(delPrev)},
		{"KV.DeleteRange", "everything else", needRoot, del(func(*matrix) *pb.DeleteRangeRequest {
			return &pb.DeleteRangeRequest{Key: []byte("\xff\xff"), RangeEnd: []byte{0}}
		})},
		{"KV.Txn", "of nothing", needNoName, func(m *matrix, ctx context.Context) error { return m.txn(ctx, 0, &pb.TxnRequest{}) }},
		{"KV.Compact", "future", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.KV.Compact(ctx, &pb.CompactionRequest{Revision: 1 << 40})
			return err
		}},
	}
	for depth := range 3 {
		rows = append(rows, matrixRow{"KV.Txn", fmt.Sprintf("compare, nested %d times", depth), needRead, func(m *matrix, ctx context.Context) error {
			return m.txn(ctx, depth, &pb.TxnRequest{Compare: []*pb.Compare{compareMod(m.key, 0)}})
		}})
	}
	for _, part := range [][]matrixRow{
		txnRows("range", needRead, func(m *matrix) *pb.RequestOp { return opRange(one(m)) }),
		txnRows("range from key", needRoot, func(m *matrix) *pb.RequestOp { return opRange(from(m)) }),
		txnRows("put", needWrite, func(m *matrix) *pb.RequestOp { return put1(putOne(m)) }),
		txnRows("put with the previous record", needBoth, func(m *matrix) *pb.RequestOp { return put1(putPrev(m)) }),
		txnRows("put with a lease", needWrite, func(m *matrix) *pb.RequestOp { return put1(putLease(m)) }),
		txnRows("delete", needWrite, func(m *matrix) *pb.RequestOp { return delete1(delOne(m)) }),
		txnRows("delete with previous records", needBoth, func(m *matrix) *pb.RequestOp { return delete1(delPrev(m)) }),
	} {
		rows = append(rows, part...)
	}
	return rows
}

// watchOnce creates a watch and returns why it was refused, as an error of that text.
func (m *matrix) watchOnce(ctx context.Context, r *pb.WatchCreateRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := m.Watch.Watch(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
		return err
	}
	answer, err := stream.Recv()
	if err != nil {
		return err
	}
	for reason, message := range map[string]string{watchDenied: msgDenied, watchNobody: msgNobody, watchBadToken: msgBadToken} {
		if answer.Canceled && answer.CancelReason == reason {
			return status.Error(codes.Aborted, message)
		}
	}
	if answer.Canceled {
		return fmt.Errorf("canceled: %s", text(answer))
	}
	return nil
}

// renewOnce renews a lease on a stream of its own.
func (m *matrix) renewOnce(ctx context.Context, id int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := m.Lease.LeaseKeepAlive(ctx)
	if err == nil {
		err = stream.Send(&pb.LeaseKeepAliveRequest{ID: id})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

func matrixWatchAndLease() []matrixRow {
	return []matrixRow{
		{"Watch.Watch", "key", needRead, func(m *matrix, ctx context.Context) error {
			return m.watchOnce(ctx, &pb.WatchCreateRequest{Key: m.key})
		}},
		{"Watch.Watch", "prefix with previous records", needRead, func(m *matrix, ctx context.Context) error {
			return m.watchOnce(ctx, &pb.WatchCreateRequest{Key: m.key, RangeEnd: m.end, PrevKv: true})
		}},
		{"Watch.Watch", "from key", needRoot, func(m *matrix, ctx context.Context) error {
			return m.watchOnce(ctx, &pb.WatchCreateRequest{Key: m.key, RangeEnd: []byte{0}})
		}},
		{"Watch.Watch", "from a future revision", needRead, func(m *matrix, ctx context.Context) error {
			return m.watchOnce(ctx, &pb.WatchCreateRequest{Key: m.key, StartRevision: 1 << 40})
		}},
		{"Lease.LeaseGrant", "with an id that is taken", needUser, func(m *matrix, ctx context.Context) error {
			_, err := m.Lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: m.lease, TTL: 600})
			return err
		}},
		{"Lease.LeaseRevoke", "unknown", needUser, func(m *matrix, ctx context.Context) error {
			_, err := m.Lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: m.lease + 1})
			return err
		}},
		{"Lease.LeaseRevoke", "with a key", needWrite, func(m *matrix, ctx context.Context) error {
			id := m.grant(600)
			m.putLease("k", id)
			_, err := m.Lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
			return err
		}},
		{"Lease.LeaseKeepAlive", "unknown", needUser, func(m *matrix, ctx context.Context) error { return m.renewOnce(ctx, m.lease+1) }},
		{"Lease.LeaseKeepAlive", "with a key", needWrite, func(m *matrix, ctx context.Context) error { return m.renewOnce(ctx, m.lease) }},
		{"Lease.LeaseTimeToLive", "without keys", needUser, func(m *matrix, ctx context.Context) error {
			_, err := m.Lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: m.lease})
			return err
		}},
		{"Lease.LeaseTimeToLive", "with keys", needRead, func(m *matrix, ctx context.Context) error {
			_, err := m.Lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: m.lease, Keys: true})
			return err
		}},
		{"Lease.LeaseLeases", "one with a key", needRead, func(m *matrix, ctx context.Context) error {
			_, err := m.Lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
			return err
		}},
	}
}

func matrixClusterAndMaintenance() []matrixRow {
	const unknown = 0x1234567
	return []matrixRow{
		{"Cluster.MemberList", "", needUser, func(m *matrix, ctx context.Context) error {
			_, err := m.Cluster.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			return err
		}},
		{"Cluster.MemberAdd", "with the URLs of another", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: m.peerURLs, IsLearner: true})
			return err
		}},
		{"Cluster.MemberRemove", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: unknown})
			return err
		}},
		{"Cluster.MemberUpdate", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Cluster.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: unknown, PeerURLs: []string{"http://127.0.0.1:1"}})
			return err
		}},
		{"Cluster.MemberPromote", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Cluster.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: unknown})
			return err
		}},
		{"Maintenance.Alarm", "list", needUser, func(m *matrix, ctx context.Context) error {
			_, err := m.Maintenance.Alarm(ctx, &pb.AlarmRequest{})
			return err
		}},
		{"Maintenance.Alarm", "clear", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE})
			return err
		}},
		{"Maintenance.Status", "", needUser, func(m *matrix, ctx context.Context) error {
			_, err := m.Maintenance.Status(ctx, &pb.StatusRequest{})
			return err
		}},
		{"Maintenance.Defragment", "", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Maintenance.Defragment(ctx, &pb.DefragmentRequest{})
			return err
		}},
		{"Maintenance.Hash", "", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Maintenance.Hash(ctx, &pb.HashRequest{})
			return err
		}},
		{"Maintenance.HashKV", "", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Maintenance.HashKV(ctx, &pb.HashKVRequest{})
			return err
		}},
		{"Maintenance.Snapshot", "", needRoot, func(m *matrix, ctx context.Context) error { return m.snapshotOnce(ctx) }},
		{"Maintenance.MoveLeader", "to nobody", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Maintenance.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: unknown})
			return err
		}},
		{"Maintenance.Downgrade", "to a version that is too old", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Maintenance.Downgrade(ctx, &pb.DowngradeRequest{Version: "3.1"})
			return err
		}},
		{"Health.Check", "", needNothing, func(m *matrix, ctx context.Context) error {
			_, err := m.Health.Check(ctx, &healthpb.HealthCheckRequest{})
			return err
		}},
	}
}

func matrixAuth() []matrixRow {
	const unknown = "unknown"
	return []matrixRow{
		{"Auth.AuthEnable", "again", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
			return err
		}},
		{"Auth.AuthDisable", "", needRoot, func(m *matrix, ctx context.Context) error {
			if ctx == m.Ctx {
				return nil // root turns it off in other cases
			}
			_, err := m.Auth.AuthDisable(ctx, &pb.AuthDisableRequest{})
			return err
		}},
		{"Auth.AuthStatus", "", needNoName, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.AuthStatus(ctx, &pb.AuthStatusRequest{})
			return err
		}},
		{"Auth.Authenticate", "with a wrong password", needNothing, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "wrong"})
			return err
		}},
		{"Auth.UserAdd", "again", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root"})
			return err
		}},
		{"Auth.UserGet", "another", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "root"})
			return err
		}},
		{"Auth.UserList", "", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.UserList(ctx, &pb.AuthUserListRequest{})
			return err
		}},
		{"Auth.UserDelete", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: unknown})
			return err
		}},
		{"Auth.UserChangePassword", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: unknown})
			return err
		}},
		{"Auth.UserGrantRole", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: unknown, Role: "root"})
			return err
		}},
		{"Auth.UserRevokeRole", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: unknown, Role: "root"})
			return err
		}},
		{"Auth.RoleAdd", "again", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "role of reader"})
			return err
		}},
		{"Auth.RoleGet", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: unknown})
			return err
		}},
		{"Auth.RoleList", "", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.RoleList(ctx, &pb.AuthRoleListRequest{})
			return err
		}},
		{"Auth.RoleDelete", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: unknown})
			return err
		}},
		{"Auth.RoleGrantPermission", "nothing", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "role of reader"})
			return err
		}},
		{"Auth.RoleRevokePermission", "unknown", needRoot, func(m *matrix, ctx context.Context) error {
			_, err := m.Auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: unknown, Key: m.key})
			return err
		}},
	}
}
