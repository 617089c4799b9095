package etcdapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// authCall is a call of the service of authentication.
type authCall struct {
	method string
	in     proto.Message
	// asked is what the backend is asked, out is for the answer, answered what it has to be.
	asked    string
	out      proto.Message
	answered proto.Message
}

func authCalls() []authCall {
	h := wireHeader(testHeader)
	return []authCall{
		{"AuthEnable", &pb.AuthEnableRequest{}, "enable", &pb.AuthEnableResponse{}, &pb.AuthEnableResponse{Header: h}},
		{"AuthDisable", &pb.AuthDisableRequest{}, "disable", &pb.AuthDisableResponse{}, &pb.AuthDisableResponse{Header: h}},
		{"AuthStatus", &pb.AuthStatusRequest{}, "status", &pb.AuthStatusResponse{}, &pb.AuthStatusResponse{Header: h, Enabled: true, AuthRevision: 7}},
		{"UserAdd", &pb.AuthUserAddRequest{Name: "n", Password: "p", HashedPassword: "h"}, `user add "n" "p" "h" false`,
			&pb.AuthUserAddResponse{}, &pb.AuthUserAddResponse{Header: h}},
		{"UserAdd", &pb.AuthUserAddRequest{Name: "n", Password: "p", Options: &authpb.UserAddOptions{NoPassword: true}}, `user add "n" "p" "" true`,
			&pb.AuthUserAddResponse{}, &pb.AuthUserAddResponse{Header: h}},
		{"UserGet", &pb.AuthUserGetRequest{Name: "n"}, `user get "n"`,
			&pb.AuthUserGetResponse{}, &pb.AuthUserGetResponse{Header: h, Roles: []string{"r1", "r2"}}},
		{"UserList", &pb.AuthUserListRequest{}, `user list`, &pb.AuthUserListResponse{}, &pb.AuthUserListResponse{Header: h, Users: []string{"u1", "u2"}}},
		{"UserDelete", &pb.AuthUserDeleteRequest{Name: "n"}, `user delete "n"`, &pb.AuthUserDeleteResponse{}, &pb.AuthUserDeleteResponse{Header: h}},
		{"UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "n", Password: "p"}, `user change password "n" "p" ""`,
			&pb.AuthUserChangePasswordResponse{}, &pb.AuthUserChangePasswordResponse{Header: h}},
		{"UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "n", HashedPassword: "h"}, `user change password "n" "" "h"`,
			&pb.AuthUserChangePasswordResponse{}, &pb.AuthUserChangePasswordResponse{Header: h}},
		{"UserGrantRole", &pb.AuthUserGrantRoleRequest{User: "n", Role: "r"}, `user grant role "n" "r"`,
			&pb.AuthUserGrantRoleResponse{}, &pb.AuthUserGrantRoleResponse{Header: h}},
		{"UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: "n", Role: "r"}, `user revoke role "n" "r"`,
			&pb.AuthUserRevokeRoleResponse{}, &pb.AuthUserRevokeRoleResponse{Header: h}},
		{"RoleAdd", &pb.AuthRoleAddRequest{Name: "r"}, `role add "r"`, &pb.AuthRoleAddResponse{}, &pb.AuthRoleAddResponse{Header: h}},
		{"RoleGet", &pb.AuthRoleGetRequest{Role: "r"}, `role get "r"`, &pb.AuthRoleGetResponse{}, &pb.AuthRoleGetResponse{Header: h, Perm: []*authpb.Permission{
			{PermType: authpb.Permission_READWRITE, Key: []byte("a"), RangeEnd: []byte("b")}, {PermType: authpb.Permission_WRITE, Key: []byte("c")},
		}}},
		{"RoleList", &pb.AuthRoleListRequest{}, `role list`, &pb.AuthRoleListResponse{}, &pb.AuthRoleListResponse{Header: h, Roles: []string{"r1", "r2"}}},
		{"RoleDelete", &pb.AuthRoleDeleteRequest{Role: "r"}, `role delete "r"`, &pb.AuthRoleDeleteResponse{}, &pb.AuthRoleDeleteResponse{Header: h}},
		{"RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{PermType: authpb.Permission_WRITE, Key: []byte("k"), RangeEnd: []byte("m")}},
			`role grant permission "r" 1 "k" "m"`, &pb.AuthRoleGrantPermissionResponse{}, &pb.AuthRoleGrantPermissionResponse{Header: h}},
		{"RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: "r"}, `role grant permission "r" nil`,
			&pb.AuthRoleGrantPermissionResponse{}, &pb.AuthRoleGrantPermissionResponse{Header: h}},
		{"RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("k"), RangeEnd: []byte("m")}, `role revoke permission "r" "k" "m"`,
			&pb.AuthRoleRevokePermissionResponse{}, &pb.AuthRoleRevokePermissionResponse{Header: h}},
	}
}

// TestAuthCalls: each call reaches the backend with its arguments and its caller, and the
// backend's answer, with a header, the client.
func TestAuthCalls(t *testing.T) {
	a := newAccounts(t)
	_, conn := serve(t, a, Config{})
	for _, k := range authCalls() {
		if err := conn.Invoke(as(t.Context(), "alice"), "/etcdserverpb.Auth/"+k.method, k.in, k.out); err != nil {
			t.Errorf("%s: %v", k.method, err)
			continue
		}
		if got, want := a.last(), "alice "+k.asked; got != want {
			t.Errorf("%s asked %q, want %q", k.method, got, want)
		}
		if !proto.Equal(k.out, k.answered) {
			t.Errorf("%s answered %v, want %v", k.method, k.out, k.answered)
		}
	}
}

// TestAuthenticate: who asks does not matter, nor does a bad token.
func TestAuthenticate(t *testing.T) {
	a := newAccounts(t)
	_, conn := serve(t, a, Config{})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "token", "stolen")
	r, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "n", Password: "p"})
	if err != nil || r.Token != "token-n" || !proto.Equal(r.Header, wireHeader(testHeader)) {
		t.Errorf("%v, %v", r, err)
	}
	if got := a.last(); got != ` authenticate "n" "p"` {
		t.Errorf("asked %q", got)
	}
}

// TestAuthErrors: each error is sent as etcd 3.7.3 sends it.
func TestAuthErrors(t *testing.T) {
	a := newAccounts(t)
	_, conn := serve(t, a, Config{})
	for _, tc := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{backends.ErrUserEmpty, codes.InvalidArgument, "etcdserver: user name is empty"},
		{backends.ErrUserAlreadyExist, codes.FailedPrecondition, "etcdserver: user name already exists"},
		{backends.ErrUserNotFound, codes.FailedPrecondition, "etcdserver: user name not found"},
		{backends.ErrRoleEmpty, codes.InvalidArgument, "etcdserver: role name is empty"},
		{backends.ErrRoleAlreadyExist, codes.FailedPrecondition, "etcdserver: role name already exists"},
		{backends.ErrRoleNotFound, codes.FailedPrecondition, "etcdserver: role name not found"},
		{backends.ErrRoleNotGranted, codes.FailedPrecondition, "etcdserver: role is not granted to the user"},
		{backends.ErrPermissionNotGiven, codes.InvalidArgument, "etcdserver: permission not given"},
		{backends.ErrPermissionNotGranted, codes.FailedPrecondition, "etcdserver: permission is not granted to the role"},
		{backends.ErrRootUserNotExist, codes.FailedPrecondition, "etcdserver: root user does not exist"},
		{backends.ErrRootRoleNotExist, codes.FailedPrecondition, "etcdserver: root user does not have root role"},
		{backends.ErrAuthNotEnabled, codes.FailedPrecondition, "etcdserver: authentication is not enabled"},
		{backends.ErrAuthFailed, codes.InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"},
		{backends.ErrNoPasswordUser, codes.Unknown, "auth: authentication failed, password was given for no password user"},
		{backends.ErrInvalidAuthToken, codes.Unauthenticated, "etcdserver: invalid auth token"},
		{backends.ErrInvalidAuthMgmt, codes.InvalidArgument, "etcdserver: invalid auth management"},
		{backends.ErrAuthOldRevision, codes.InvalidArgument, "etcdserver: revision of auth store is old"},
		{backends.ErrPermissionDenied, codes.PermissionDenied, "etcdserver: permission denied"},
	} {
		a.fail(fmt.Errorf("somewhere: %w", tc.err))
		for _, k := range authCalls() {
			err := conn.Invoke(t.Context(), "/etcdserverpb.Auth/"+k.method, k.in, k.out)
			if st := status.Convert(err); st.Code() != tc.code || st.Message() != tc.text {
				t.Errorf("%s: %v is sent as %v, want %v %q", k.method, tc.err, err, tc.code, tc.text)
			}
		}
	}
}

// TestAuthAbsent: a backend without authentication says so, to each call.
func TestAuthAbsent(t *testing.T) {
	_, conn := serve(t, newMemory(t), Config{})
	calls := append(authCalls(), authCall{method: "Authenticate", in: &pb.AuthenticateRequest{Name: "n"}, out: &pb.AuthenticateResponse{}})
	for _, k := range calls {
		err := conn.Invoke(t.Context(), "/etcdserverpb.Auth/"+k.method, k.in, k.out)
		if want := "etcdserver: " + k.method + " is not supported by the memory backend"; status.Code(err) != codes.Unimplemented || status.Convert(err).Message() != want {
			t.Errorf("%s: %v", k.method, err)
		}
	}
	// And a token is of no consequence.
	ctx := metadata.AppendToOutgoingContext(t.Context(), "token", "stolen")
	if _, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("a")}); err != nil {
		t.Errorf("put with a token: %v", err)
	}
}

// TestPasswordTooLong: what bcrypt would not hash is refused with its text, before the
// token is looked at, as etcd hashes first.
func TestPasswordTooLong(t *testing.T) {
	a := newAccounts(t)
	_, conn := serve(t, a, Config{})
	client := pb.NewAuthClient(conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "token", "stolen")
	long := strings.Repeat("p", 73)
	_, add := client.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "n", Password: long})
	_, change := client.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "n", Password: long})
	for _, err := range []error{add, change} {
		if status.Code(err) != codes.Unknown || status.Convert(err).Message() != "bcrypt: password length exceeds 72 bytes" {
			t.Errorf("got %v", err)
		}
	}
	if _, err := client.UserAdd(as(t.Context(), "root"), &pb.AuthUserAddRequest{Name: "n", Password: long[:72]}); err != nil {
		t.Errorf("72 bytes: %v", err)
	}
	if _, err := client.UserAdd(as(t.Context(), "root"), &pb.AuthUserAddRequest{Name: "n", Password: long, Options: &authpb.UserAddOptions{NoPassword: true}}); err != nil {
		t.Errorf("no password, and a long one: %v", err)
	}
}

// TestAuthTooLarge: a name that etcd's proposal has no room for is refused, after the token
// was looked at.
func TestAuthTooLarge(t *testing.T) {
	_, conn := serve(t, newAccounts(t), Config{MaxRequestBytes: 1000})
	client := pb.NewAuthClient(conn)
	name := strings.Repeat("n", 1000)
	_, err := client.RoleAdd(as(t.Context(), "root"), &pb.AuthRoleAddRequest{Name: name})
	if status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != "etcdserver: request is too large" {
		t.Errorf("got %v", err)
	}
	_, err = client.RoleAdd(metadata.AppendToOutgoingContext(t.Context(), "token", "stolen"), &pb.AuthRoleAddRequest{Name: name})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("with a bad token: %v", err)
	}
}

// safeBuffer is a log.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestNoSecretsInLog: neither a password, nor its hash, nor a token stands in the log, at any
// level, of requests that are slow, refused, or end in a panic (CVE-2021-28235, etcd PR 20941).
func TestNoSecretsInLog(t *testing.T) {
	const secret = "s3cr3t"
	log := &safeBuffer{}
	logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(log), zapcore.DebugLevel))
	a := newAccounts(t)
	_, conn := serve(t, a, Config{Logger: logger, WarningUnaryRequestDuration: time.Nanosecond})
	client := pb.NewAuthClient(conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "token", "token-"+secret, "authorization", secret)
	calls := map[string]func() error{
		"Authenticate": func() error {
			_, err := client.Authenticate(ctx, &pb.AuthenticateRequest{Name: "n", Password: secret})
			return err
		},
		"UserAdd": func() error {
			_, err := client.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "n", Password: secret, HashedPassword: secret})
			return err
		},
		"UserChangePassword": func() error {
			_, err := client.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "n", Password: secret, HashedPassword: secret})
			return err
		},
		"Put": func() error {
			_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte(secret)})
			return err
		},
	}
	for name, call := range calls {
		a.fail(nil)
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		a.fail(backends.ErrAuthFailed)
		_ = call() // refused, save for the put
		if !strings.Contains(log.String(), "/"+name+`"`) {
			t.Errorf("%s is not in the log: it was to be slow", name)
		}
	}
	ctx = metadata.AppendToOutgoingContext(t.Context(), "token", secret) // no token of anybody
	for name, call := range calls {
		if err := call(); status.Code(err) != codes.Unauthenticated && name != "Authenticate" {
			t.Errorf("%s with a bad token: %v", name, err)
		}
	}
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, secret) {
			t.Errorf("a secret in the log: %s", line)
		}
	}
}

// watchAs is a watch stream with what it needs to be asked things one after the other.
type watchAs struct {
	t *testing.T
	grpc.BidiStreamingClient[pb.WatchRequest, pb.WatchResponse]
}

func openWatchAs(ctx context.Context, t *testing.T, conn *grpc.ClientConn) watchAs {
	t.Helper()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return watchAs{t, stream}
}

func (w watchAs) send(requests ...*pb.WatchCreateRequest) {
	w.t.Helper()
	for _, r := range requests {
		if err := w.Send(createRequest(r)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// want receives an answer for each: an id for a watch that was created, else the reason.
func (w watchAs) want(answers ...any) {
	w.t.Helper()
	for i, want := range answers {
		r, err := w.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		var got any = r.CancelReason
		switch {
		case r.Created && !r.Canceled:
			got = int(r.WatchId)
		case !r.Created || r.WatchId != -1:
			got = r
		}
		if got != want {
			w.t.Fatalf("answer %d is %v, want %v", i, got, want)
		}
	}
}

const (
	watchDenied   = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
	watchBadToken = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
	watchNobody   = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
)

// TestWatchDenied: a watch that is refused is told as etcd tells it, and leaves its id to the next
// one, also when all are asked for at once.
func TestWatchDenied(t *testing.T) {
	_, conn := serve(t, newAccounts(t), Config{})
	mine, other := []byte("/alice/a"), []byte("/bob/a")
	w := openWatchAs(as(t.Context(), "alice"), t, conn)
	w.send(
		&pb.WatchCreateRequest{Key: other},
		&pb.WatchCreateRequest{Key: mine},
		&pb.WatchCreateRequest{Key: other, WatchId: 5},
		&pb.WatchCreateRequest{Key: mine, WatchId: 5},
		&pb.WatchCreateRequest{Key: other},
		&pb.WatchCreateRequest{Key: mine},
		// Of several faults, permission comes after the revision and before the rest.
		&pb.WatchCreateRequest{Key: other, StartRevision: -1},
		&pb.WatchCreateRequest{Key: other, WatchId: 5},
		&pb.WatchCreateRequest{Key: mine, WatchId: 5},
		&pb.WatchCreateRequest{Key: other, RangeEnd: []byte("/")},
		&pb.WatchCreateRequest{Key: mine, RangeEnd: []byte("/")},
		&pb.WatchCreateRequest{Key: mine},
	)
	w.want(watchDenied, 0, watchDenied, 5, watchDenied, 1,
		"etcdserver: mvcc: required revision has been compacted", watchDenied, reasonDuplicateWatch, watchDenied, reasonEmptyRange, 2)

	w = openWatchAs(t.Context(), t, conn)
	w.send(&pb.WatchCreateRequest{Key: mine})
	w.want(watchNobody)

	w = openWatchAs(metadata.AppendToOutgoingContext(t.Context(), "token", "stolen"), t, conn)
	w.send(&pb.WatchCreateRequest{Key: mine}, &pb.WatchCreateRequest{Key: mine, StartRevision: -1}, &pb.WatchCreateRequest{Key: mine, RangeEnd: []byte("/")})
	w.want(watchBadToken, "etcdserver: mvcc: required revision has been compacted", watchBadToken)
}

// TestOrderOfChecks: a fault of the request's form is found before the token is looked at, the
// size and everything that needs the backend after.
func TestOrderOfChecks(t *testing.T) {
	_, conn := serve(t, newAccounts(t), Config{MaxRequestBytes: 1000})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "token", "stolen")
	kv := pb.NewKVClient(conn)
	big := make([]byte, 2000)
	key := []byte("a")
	for name, call := range map[string]struct {
		want codes.Code
		call func() error
	}{
		"range without a key": {codes.InvalidArgument, func() error { _, err := kv.Range(ctx, &pb.RangeRequest{}); return err }},
		"range":               {codes.Unauthenticated, func() error { _, err := kv.Range(ctx, &pb.RangeRequest{Key: key}); return err }},
		"put without a key":   {codes.InvalidArgument, func() error { _, err := kv.Put(ctx, &pb.PutRequest{}); return err }},
		"put too large":       {codes.Unauthenticated, func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: big}); return err }},
		"delete without a key": {codes.InvalidArgument, func() error {
			_, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{})
			return err
		}},
		"delete too large": {codes.Unauthenticated, func() error {
			_, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: big})
			return err
		}},
		"txn with an empty operation": {codes.InvalidArgument, func() error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{}}})
			return err
		}},
		"txn": {codes.Unauthenticated, func() error { _, err := kv.Txn(ctx, &pb.TxnRequest{}); return err }},
		"compact at a future revision": {codes.Unauthenticated, func() error {
			_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 1000})
			return err
		}},
		"revoke of no lease": {codes.Unauthenticated, func() error {
			_, err := pb.NewLeaseClient(conn).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 99})
			return err
		}},
		"sorted range stream": {codes.Unimplemented, func() error {
			stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_DESCEND})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
		"range stream": {codes.Unauthenticated, func() error {
			stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: key})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
	} {
		if err := call.call(); status.Code(err) != call.want {
			t.Errorf("%s: %v, want %v", name, err, call.want)
		}
	}
}

// TestKeepAliveRefused: a renewal that is refused ends the stream, though those before it on
// the same stream were not.
func TestKeepAliveRefused(t *testing.T) {
	a := newAccounts(t)
	a.on.Store(false)
	_, conn := serve(t, a, Config{})
	leases := pb.NewLeaseClient(conn)
	if _, err := leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: 5, TTL: 60}); err != nil {
		t.Fatal(err)
	}
	stream, err := leases.LeaseKeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	renew := func() error {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 5}); err != nil {
			return err
		}
		_, err := stream.Recv()
		return err
	}
	if err := renew(); err != nil {
		t.Fatal(err)
	}
	a.on.Store(true)
	if got := answer(renew()); got != "nobody" {
		t.Errorf("after authentication was turned on: %q", got)
	}
}

// TestHealthWithAuthentication: that nobody may not read the key of the health checks does not
// make a server sick.
func TestHealthWithAuthentication(t *testing.T) {
	s, _ := serve(t, newAccounts(t), Config{})
	for _, path := range []string{"/health", "/livez", "/readyz", "/health?serializable=true"} {
		r, err := http.Get("http://" + address(t, s) + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
}
