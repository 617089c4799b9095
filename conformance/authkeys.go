package conformance

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// authKeyCases are the cases of what is permitted by keys in transactions, leases and watches,
// the advisories among them, and of what is found first.
func authKeyCases() []Case {
	return []Case{
		{Name: "auth/txn", RPC: "KV.Txn", Run: authTxn},
		{Name: "auth/cve-2026-33343-nested-txn", RPC: "KV.Txn", Run: authNestedTxn},
		{Name: "auth/cve-2026-44283-prev-kv-and-lease-in-txn", RPC: "KV.Txn", Run: authPutInTxn},
		{Name: "auth/cve-2026-33413-what-is-about-no-key", RPC: "Cluster.MemberList", Run: authNoKey},
		{Name: "auth/cve-2023-32082-keys-of-a-lease", RPC: "Lease.LeaseTimeToLive", Run: authLeaseKeys},
		{Name: "auth/lease-of-others", RPC: "Lease.LeaseRevoke", Run: authLeaseOthers},
		{Name: "auth/keep-alive", RPC: "Lease.LeaseKeepAlive", Run: authKeepAlive},
		{Name: "badinput/row-31-watch-denied", RPC: "Watch.Watch", Run: authRow31},
		{Name: "auth/ghsa-xg4h-6gfc-h4m8-watch-from-key", RPC: "Watch.Watch", Run: authWatchFromKey},
		{Name: "auth/watch-ids-and-order-of-faults", RPC: "Watch.Watch", Run: authWatchIDs},
		{Name: "auth/watch-outlives-its-permission", RPC: "Watch.Watch", Run: authWatchLong},
		{Name: "auth/watch-from-before", RPC: "Watch.Watch", Run: authWatchBefore},
		{Name: "auth/faults-of-form-come-first", RPC: "KV.Put", Run: authFormFirst},
		{Name: "auth/faults-of-state-come-last", RPC: "KV.Put", Run: authStateLast},
	}
}

// put1 is an operation that puts a request.
func put1(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

// delete1 is an operation that deletes.
func delete1(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

// nest puts a transaction into others, depth of them, in turn in the list that runs and in the other.
func nest(t *pb.TxnRequest, depth int) *pb.TxnRequest {
	for i := range depth {
		outer := &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(t)}}
		if i%2 == 1 {
			outer = &pb.TxnRequest{Failure: []*pb.RequestOp{opTxn(t)}}
		}
		t = outer
	}
	return t
}

// mayTxn compares whether transactions are permitted, as they are and nested.
func (c *C) mayTxn(ctx context.Context, allowed bool, txns map[string]*pb.TxnRequest) {
	c.Helper()
	for what, t := range txns {
		for depth := range 4 {
			_, err := c.KV.Txn(ctx, nest(t, depth))
			if allowed && err != nil {
				c.Errorf("%s, nested %d times: %v", what, depth, err)
			}
			if !allowed && (status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != msgDenied) {
				c.Errorf("%s, nested %d times: got %v, want %q", what, depth, err, msgDenied)
			}
		}
	}
}

func thenOp(op *pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: []*pb.RequestOp{op}} }
func elseOp(op *pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Failure: []*pb.RequestOp{op}} }

// authTxn: each comparison and each operation is looked at, those that do not run as well.
func authTxn(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("mine"), c.end("mine")))
	c.enable()
	c.put("mine", "1")
	c.put("other", "1")
	mine, other, between := c.key("mine"), c.key("other"), c.key("n")
	alice := c.as("alice")
	all := func(key, end []byte) map[string]*pb.TxnRequest {
		return map[string]*pb.TxnRequest{
			"compare": {Compare: []*pb.Compare{{Key: key, RangeEnd: end, Target: pb.Compare_MOD, Result: pb.Compare_GREATER,
				TargetUnion: &pb.Compare_ModRevision{ModRevision: 0}}}},
			"range":                     thenOp(opRange(&pb.RangeRequest{Key: key, RangeEnd: end})),
			"range that does not run":   elseOp(opRange(&pb.RangeRequest{Key: key, RangeEnd: end})),
			"count":                     thenOp(opRange(&pb.RangeRequest{Key: key, RangeEnd: end, CountOnly: true})),
			"put":                       thenOp(opPut(key, "1")),
			"put that does not run":     elseOp(opPut(key, "1")),
			"delete":                    thenOp(opDelete(key, end)),
			"delete that does not run":  elseOp(opDelete(key, end)),
			"delete with what was":      thenOp(delete1(&pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: true})),
			"put with what was":         thenOp(put1(&pb.PutRequest{Key: key, PrevKv: true})),
			"second operation":          {Success: []*pb.RequestOp{opGet(mine), opRange(&pb.RangeRequest{Key: key, RangeEnd: end})}},
			"read after the other list": {Success: []*pb.RequestOp{opGet(mine)}, Failure: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: key, RangeEnd: end})}},
		}
	}
	c.mayTxn(alice, true, all(mine, nil))
	c.mayTxn(alice, true, all(mine, c.end("mine")))
	c.mayTxn(alice, false, all(other, nil))
	wide := all(mine, between)
	for _, point := range []string{"put", "put that does not run", "put with what was"} {
		delete(wide, point)
	}
	c.mayTxn(alice, false, wide)
	equal(c, "the other's value", string(c.get("other").Kvs[0].Value), "1")
	for what, t := range all(mine, nil) {
		_, err := c.KV.Txn(c.nobody(), t)
		if status.Convert(err).Message() != msgNobody {
			c.Errorf("%s as nobody: got %v, want %q", what, err, msgNobody)
		}
	}
	_, err := c.KV.Txn(c.nobody(), &pb.TxnRequest{})
	c.must(err, "a transaction about nothing, as nobody")
	_, err = c.KV.Txn(withToken(c.nobody(), "bad"), &pb.TxnRequest{})
	c.wantBadToken(err)
}

// authNestedTxn: GHSA-rfx7-8w68-q57q. A transaction in a transaction read the whole key space.
func authNestedTxn(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("mine"), nil))
	c.enable()
	c.put("secret", "1")
	alice := c.as("alice")
	everything := opRange(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	for _, t := range []*pb.TxnRequest{
		thenOp(everything), thenOp(opDelete([]byte{0}, []byte{0})),
		{Compare: []*pb.Compare{{Key: c.key("secret"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("1")}}}},
	} {
		for depth := 1; depth <= 5; depth++ {
			r, err := c.KV.Txn(alice, nest(t, depth))
			if status.Convert(err).Message() != msgDenied {
				c.Errorf("nested %d times: got %v %v, want %q", depth, r, err, msgDenied)
			}
		}
	}
	equal(c, "the secret's value", string(c.get("secret").Kvs[0].Value), "1")
}

// authPutInTxn: GHSA-x35m-3gp4-4fh5. In a transaction a put showed the previous record to who may
// not read, and attached a lease of others.
func authPutInTxn(c *C) {
	c.accounts()
	c.member("writer", permission(authpb.Permission_WRITE, c.key("k"), nil))
	c.enable()
	c.put("k", "secret")
	lease := c.grant(600)
	c.putLease("foreign", lease)
	writer := c.as("writer")
	c.mayTxn(writer, false, map[string]*pb.TxnRequest{
		"put with what was":      thenOp(put1(&pb.PutRequest{Key: c.key("k"), PrevKv: true})),
		"put with another lease": thenOp(put1(&pb.PutRequest{Key: c.key("k"), Lease: lease})),
		"the same, in vain":      elseOp(put1(&pb.PutRequest{Key: c.key("k"), Lease: lease})),
		"delete with what was":   thenOp(delete1(&pb.DeleteRangeRequest{Key: c.key("k"), PrevKv: true})),
	})
	for _, r := range []*pb.PutRequest{{Key: c.key("k"), PrevKv: true}, {Key: c.key("k"), Lease: lease}} {
		_, err := c.KV.Put(writer, r)
		c.wantDenied(err)
	}
	equal(c, "value", string(c.get("k").Kvs[0].Value), "secret")
	free := c.grant(600)
	c.mayTxn(writer, true, map[string]*pb.TxnRequest{"put with a lease of nobody": thenOp(put1(&pb.PutRequest{Key: c.key("k"), Lease: free}))})
}

// authNoKey: GHSA-q8m4-xhhv-38mg. The list of members, alarms, leases and compaction were not
// looked at.
func authNoKey(c *C) {
	c.accounts()
	c.user("alice")
	c.enable()
	revision := c.put("a", "1").Header.Revision
	lease := c.grant(600)
	c.putLease("b", lease)
	bad := withToken(c.nobody(), "bad")
	for _, tc := range []struct {
		what  string
		admin bool
		call  func(context.Context) error
	}{
		{"list members", false, func(ctx context.Context) error {
			_, err := c.Cluster.MemberList(ctx, &pb.MemberListRequest{})
			return err
		}},
		{"list members, linearizable", false, func(ctx context.Context) error {
			_, err := c.Cluster.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			return err
		}},
		{"list alarms", false, func(ctx context.Context) error {
			_, err := c.Maintenance.Alarm(ctx, &pb.AlarmRequest{})
			return err
		}},
		{"raise an alarm", true, func(ctx context.Context) error {
			_, err := c.Maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})
			return err
		}},
		{"clear an alarm", true, func(ctx context.Context) error {
			_, err := c.Maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE})
			return err
		}},
		{"compact", true, func(ctx context.Context) error {
			_, err := c.KV.Compact(ctx, &pb.CompactionRequest{Revision: revision})
			return err
		}},
		{"grant a lease", false, func(ctx context.Context) error {
			_, err := c.Lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 600})
			return err
		}},
		{"time to live of a lease", false, func(ctx context.Context) error {
			_, err := c.Lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: lease})
			return err
		}},
		{"list leases", true, func(ctx context.Context) error {
			_, err := c.Lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
			return err
		}},
		{"revoke a lease", true, func(ctx context.Context) error {
			_, err := c.Lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: lease})
			return err
		}},
	} {
		c.wantNobody(tc.call(c.nobody()))
		c.wantBadToken(tc.call(bad))
		if err := tc.call(c.as("alice")); tc.admin {
			c.wantDenied(err)
		} else {
			c.must(err, "%s as alice", tc.what)
		}
		if tc.what != "raise an alarm" {
			c.must(tc.call(c.Ctx), "%s as root", tc.what)
		}
	}
}

// authLeaseKeys: the names of a lease's keys are shown to who may read them all.
func authLeaseKeys(c *C) {
	c.accounts()
	c.member("reader", permission(authpb.Permission_READ, c.key("r"), c.end("r")))
	c.member("writer", permission(authpb.Permission_WRITE, c.key("r"), c.end("r")))
	c.enable()
	lease := c.grant(600)
	c.putLease("r1", lease)
	c.putLease("r2", lease)
	ask := func(user string, keys bool) error {
		r, err := c.Lease.LeaseTimeToLive(c.as(user), &pb.LeaseTimeToLiveRequest{ID: lease, Keys: keys})
		if err == nil && keys {
			slices.SortFunc(r.Keys, bytes.Compare) // etcd has them in any order
			equal(c, "keys", fmt.Sprintf("%q", r.Keys), fmt.Sprintf("%q", [][]byte{c.key("r1"), c.key("r2")}))
		}
		return err
	}
	c.must(ask("reader", true), "keys as the reader")
	c.wantDenied(ask("writer", true))
	c.must(ask("writer", false), "time to live as the writer")
	c.putLease("s", lease)
	c.wantDenied(ask("reader", true))
	c.must(ask("reader", false), "time to live as the reader")
	_, err := c.Lease.LeaseLeases(c.as("reader"), &pb.LeaseLeasesRequest{})
	c.wantDenied(err)
	c.del("s")
	c.must(ask("reader", true), "keys without the other's")
	_, err = c.Lease.LeaseLeases(c.as("reader"), &pb.LeaseLeasesRequest{})
	c.must(err, "leases as the reader")
	_, err = c.Lease.LeaseLeases(c.as("writer"), &pb.LeaseLeasesRequest{})
	c.wantDenied(err)
	for _, keys := range []bool{true, false} {
		r, err := c.Lease.LeaseTimeToLive(c.as("writer"), &pb.LeaseTimeToLiveRequest{ID: lease + 1, Keys: keys})
		c.must(err, "time to live of an unknown lease")
		equal(c, "time to live of an unknown lease", r.TTL, -1)
	}
}

// authLeaseOthers: a lease can be attached to a key, and revoked, by who may write all of its keys.
func authLeaseOthers(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("a"), c.end("a")))
	c.enable()
	alice := c.as("alice")
	attach := func(name string, lease int64) error {
		_, err := c.KV.Put(alice, &pb.PutRequest{Key: c.key(name), Lease: lease})
		return err
	}
	revoke := func(lease int64) error {
		_, err := c.Lease.LeaseRevoke(alice, &pb.LeaseRevokeRequest{ID: lease})
		return err
	}
	lease := c.grant(600)
	c.must(attach("a1", lease), "attach a lease without keys")
	c.must(attach("a2", lease), "attach it again")
	c.wantDenied(attach("b", lease))
	c.putLease("b", lease)
	c.wantDenied(attach("a3", lease))
	c.wantDenied(attach("a1", lease))
	c.wantDenied(revoke(lease))
	equal(c, "keys that stay", c.names(c.rng(c.all())), "a1 a2 b")
	c.put("b", "without a lease")
	c.must(attach("a3", lease), "attach the lease without the other's key")
	c.must(revoke(lease), "revoke it")
	equal(c, "keys that stay", c.names(c.rng(c.all())), "b")
	c.wantError(revoke(lease), codes.NotFound, msgLeaseNotFound)
	c.wantError(attach("a1", lease), codes.NotFound, msgLeaseNotFound)
	c.wantDenied(attach("b", lease))
}

// authKeepAlive: each renewal is looked at; one that is refused ends the stream.
func authKeepAlive(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("a"), c.end("a")))
	c.enable()
	lease := c.grant(600)
	c.putLease("a", lease)
	renew := func(stream pb.Lease_LeaseKeepAliveClient, id int64) (*pb.LeaseKeepAliveResponse, error) {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	open := func(ctx context.Context) pb.Lease_LeaseKeepAliveClient {
		c.Helper()
		stream, err := c.Lease.LeaseKeepAlive(ctx)
		c.must(err, "keep-alive stream")
		return stream
	}
	stream := open(c.as("alice"))
	r, err := renew(stream, lease)
	c.must(err, "renew")
	equal(c, "TTL", r.TTL, 600)
	r, err = renew(stream, lease+1)
	c.must(err, "renew an unknown lease")
	equal(c, "TTL of an unknown lease", r.TTL, 0)
	c.putLease("b", lease)
	_, err = renew(stream, lease)
	c.wantDenied(err)

	c.put("b", "without a lease")
	stream = open(c.as("alice"))
	_, err = renew(stream, lease)
	c.must(err, "renew on a new stream")
	_, err = c.Auth.UserChangePassword(c.Ctx, &pb.AuthUserChangePasswordRequest{Name: "alice", Password: passwordOf("alice")})
	c.must(err, "change the password")
	_, err = renew(stream, lease)
	c.wantBadToken(err)
	_, err = renew(open(c.nobody()), lease)
	c.wantNobody(err)
	_, err = renew(open(c.nobody()), lease+1)
	c.wantNobody(err)
	_, err = renew(open(withToken(c.nobody(), "bad")), lease+1)
	c.wantBadToken(err)
	stream = open(c.nobody())
	c.must(stream.CloseSend(), "close")
	if r, err := stream.Recv(); err == nil {
		c.Errorf("got %v to no renewal", r)
	}
}

const (
	watchDenied   = "rpc error: code = PermissionDenied desc = " + msgDenied
	watchNobody   = "rpc error: code = InvalidArgument desc = " + msgNobody
	watchBadToken = "rpc error: code = Unauthenticated desc = " + msgBadToken
)

// denied receives the answer to a watch that was not created.
func (w *watchStream) denied(reason string) {
	w.c.Helper()
	r := w.recv()
	if !r.Created || !r.Canceled || r.WatchId != -1 || r.CompactRevision != 0 || len(r.Events) != 0 {
		w.c.Fatalf("got %s, want a watch that is refused", text(r))
	}
	equal(w.c, "cancel reason", r.CancelReason, reason)
	if r.Header.Revision <= 0 {
		w.c.Errorf("header revision of a refused watch: %d", r.Header.Revision)
	}
}

func authRow31(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READ, c.key("a"), c.key("c")), permission(authpb.Permission_WRITE, c.key("c"), c.key("e")))
	c.enable()
	w := c.watchOn(c.as("alice"))
	for _, r := range []*pb.WatchCreateRequest{
		{Key: c.key("c")}, {Key: c.key("x")}, {Key: c.key("a"), RangeEnd: c.key("d")}, {Key: c.key("a"), RangeEnd: []byte{0}},
		{}, {Key: []byte{0}, RangeEnd: []byte{0}}, {Key: c.key("x"), PrevKv: true, StartRevision: 1 << 40, ProgressNotify: true, WatchId: 7},
	} {
		w.sendCreate(r)
		w.denied(watchDenied)
	}
	id := w.create(&pb.WatchCreateRequest{Key: c.key("a"), RangeEnd: c.key("c")}).WatchId
	c.put("b", "1")
	w.wantEvents(id, "b=1")
	w = c.watchOn(c.nobody())
	w.sendCreate(&pb.WatchCreateRequest{Key: c.key("a")})
	w.denied(watchNobody)
	w = c.watchOn(withToken(c.nobody(), "bad"))
	w.sendCreate(&pb.WatchCreateRequest{Key: c.key("a")})
	w.denied(watchBadToken)
}

// authWatchFromKey: who could read one key received every later one.
func authWatchFromKey(c *C) {
	c.accounts()
	c.member("point", permission(authpb.Permission_READ, c.key("k"), nil))
	c.member("range", permission(authpb.Permission_READ, c.key("k"), c.key("l")))
	c.member("on", permission(authpb.Permission_READ, c.key("k"), []byte{0}))
	c.enable()
	for _, user := range []string{"point", "range"} {
		w := c.watchOn(c.as(user))
		w.sendCreate(&pb.WatchCreateRequest{Key: c.key("k"), RangeEnd: []byte{0}})
		w.denied(watchDenied)
		_, err := c.KV.Range(c.as(user), &pb.RangeRequest{Key: c.key("k"), RangeEnd: []byte{0}})
		c.wantDenied(err)
		id := w.create(&pb.WatchCreateRequest{Key: c.key("k")}).WatchId
		c.put("z", "secret")
		c.put("k", "1")
		w.wantEvents(id, "k=1")
	}
	w := c.watchOn(c.as("on"))
	id := w.create(&pb.WatchCreateRequest{Key: c.key("k"), RangeEnd: []byte{0}}).WatchId
	c.put("z", "1")
	w.wantEvents(id, "z=1")
}

// authWatchIDs: a watch that is refused takes no id, and permission is asked for after the start
// revision and before everything else.
func authWatchIDs(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READ, c.key("a"), c.end("a")))
	c.enable()
	mine, other := c.key("a"), c.key("x")
	w := c.watchOn(c.as("alice"))
	requests := []*pb.WatchCreateRequest{
		{Key: other}, {Key: mine}, {Key: other, WatchId: 5}, {Key: mine, WatchId: 5}, {Key: other}, {Key: mine},
		{Key: other, StartRevision: -1}, {Key: other, WatchId: 5}, {Key: mine, WatchId: 5},
		{Key: other, RangeEnd: c.key("b")}, {Key: c.key("a2"), RangeEnd: c.key("a1")}, {Key: mine},
	}
	for _, r := range requests {
		w.sendCreate(r)
	}
	const duplicate, empty = "mvcc: duplicate watch ID provided on the WatchStream", "mvcc: watcher range is empty"
	for i, want := range []any{watchDenied, 0, watchDenied, 5, watchDenied, 1, msgCompacted, watchDenied, duplicate, watchDenied, empty, 2} {
		if reason, ok := want.(string); ok {
			w.denied(reason)
			continue
		}
		r := w.recv()
		if !r.Created || r.Canceled {
			c.Fatalf("answer to request %d: %s", i, text(r))
		}
		equal(c, fmt.Sprintf("id of watch %d", i), r.WatchId, int64(want.(int)))
	}
}

// authWatchLong: a watch that exists goes on, whatever becomes of its permission, of its user and of
// authentication; a new one on the same stream is asked.
func authWatchLong(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READ, c.key("a"), nil))
	c.enable()
	w := c.watchOn(c.as("alice"))
	request := &pb.WatchCreateRequest{Key: c.key("a")}
	id := w.create(request).WatchId
	c.put("a", "1")
	w.wantEvents(id, "a=1")
	c.forbid("role of alice", c.key("a"), nil)
	c.put("a", "2")
	w.wantEvents(id, "a=2")
	w.sendCreate(request)
	w.denied(watchDenied)
	c.permit("role of alice", permission(authpb.Permission_READ, c.key("a"), nil))
	w.sendCancel(w.create(request).WatchId)
	equal(c, "canceled", w.recv().Canceled, true)
	_, err := c.Auth.UserDelete(c.Ctx, &pb.AuthUserDeleteRequest{Name: "alice"})
	c.must(err, "delete alice")
	c.put("a", "3")
	w.wantEvents(id, "a=3")
	w.sendCreate(request)
	w.denied(watchBadToken)
	w.sendProgress()
	equal(c, "progress of", w.recv().WatchId, -1)
	_, err = c.Auth.AuthDisable(c.Ctx, &pb.AuthDisableRequest{})
	c.must(err, "turn off")
	c.Ctx = c.nobody()
	w.create(request)
}

// authWatchBefore: a watch of before authentication was turned on goes on.
func authWatchBefore(c *C) {
	c.accounts()
	w := c.open()
	id := w.create(&pb.WatchCreateRequest{Key: c.key("a")}).WatchId
	c.enable()
	c.put("a", "1")
	w.wantEvents(id, "a=1")
	w.sendCreate(&pb.WatchCreateRequest{Key: c.key("a")})
	w.denied(watchNobody)
}

// authFormFirst: what is wrong with a request in itself is found before anybody asks who sent it.
func authFormFirst(c *C) {
	c.accounts()
	c.user("alice")
	c.enable()
	a := c.key("a")
	many := make([]*pb.RequestOp, 129)
	for i := range many {
		many[i] = opGet(a)
	}
	for _, ctx := range []context.Context{c.nobody(), withToken(c.nobody(), "bad"), c.as("alice")} {
		_, err := c.KV.Range(ctx, &pb.RangeRequest{})
		c.wantError(err, codes.InvalidArgument, msgEmptyKey)
		_, err = c.KV.Range(ctx, &pb.RangeRequest{Key: a, SortOrder: 9})
		c.wantError(err, codes.InvalidArgument, msgSort)
		_, err = c.KV.Put(ctx, &pb.PutRequest{Key: a, Value: a, IgnoreValue: true})
		c.wantError(err, codes.InvalidArgument, msgValueGiven)
		_, err = c.KV.DeleteRange(ctx, &pb.DeleteRangeRequest{})
		c.wantError(err, codes.InvalidArgument, msgEmptyKey)
		_, err = c.KV.Txn(ctx, &pb.TxnRequest{Success: many})
		c.wantError(err, codes.InvalidArgument, msgTooManyOps)
		_, err = c.KV.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{opPut(a, "1"), opPut(a, "2")}})
		c.wantError(err, codes.InvalidArgument, msgDuplicateKey)
		stream, err := c.KV.RangeStream(ctx, &pb.RangeRequest{Key: a, SortOrder: pb.RangeRequest_DESCEND})
		if err == nil {
			_, err = stream.Recv()
		}
		c.wantError(err, codes.Unimplemented, msgStreamSort)
		_, err = c.Cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"bad"}})
		c.wantError(err, codes.InvalidArgument, "etcdserver: given member URLs are invalid")
	}
}

// authStateLast: what is wrong with a request as things stand, or for its size, is not told to who
// may not send it.
func authStateLast(c *C) {
	c.accounts()
	c.member("alice", permission(authpb.Permission_READWRITE, c.key("a"), nil))
	c.enable()
	c.put("old", "1")
	c.compact(c.put("old", "2").Header.Revision, false)
	future := c.revision() + 1000
	a, other := c.key("a"), c.key("other")
	large := []byte(strings.Repeat("v", 3<<19))
	for what, call := range map[string]func(ctx context.Context, key []byte) error{
		"future revision": func(ctx context.Context, key []byte) error {
			_, err := c.KV.Range(ctx, &pb.RangeRequest{Key: key, Revision: future})
			return err
		},
		"compacted revision": func(ctx context.Context, key []byte) error {
			_, err := c.KV.Range(ctx, &pb.RangeRequest{Key: key, Revision: 1})
			return err
		},
		"put with an unknown lease": func(ctx context.Context, key []byte) error {
			_, err := c.KV.Put(ctx, &pb.PutRequest{Key: key, Lease: 12345})
			return err
		},
		"put of an absent key that keeps its value": func(ctx context.Context, key []byte) error {
			_, err := c.KV.Put(ctx, &pb.PutRequest{Key: key, IgnoreValue: true})
			return err
		},
		"txn at a future revision": func(ctx context.Context, key []byte) error {
			_, err := c.KV.Txn(ctx, thenOp(opRange(&pb.RangeRequest{Key: key, Revision: future})))
			return err
		},
	} {
		err := call(c.as("alice"), a)
		if err == nil || status.Convert(err).Message() == msgDenied {
			c.Errorf("%s, of a key that is permitted: %v", what, err)
		}
		c.wantDenied(call(c.as("alice"), other))
		c.wantNobody(call(c.nobody(), a))
		c.wantBadToken(call(withToken(c.nobody(), "bad"), a))
	}
	// The size is checked before the backend is asked, and after the token.
	put := func(ctx context.Context) error {
		_, err := c.KV.Put(ctx, &pb.PutRequest{Key: other, Value: large})
		return err
	}
	c.wantError(put(c.nobody()), codes.InvalidArgument, msgTooLarge)
	c.wantError(put(c.as("alice")), codes.InvalidArgument, msgTooLarge)
	c.wantBadToken(put(withToken(c.nobody(), "bad")))
	for _, revision := range []int64{0, future} {
		_, err := c.KV.Compact(c.as("alice"), &pb.CompactionRequest{Revision: revision})
		c.wantDenied(err)
	}
	_, err := c.Lease.LeaseGrant(c.nobody(), &pb.LeaseGrantRequest{TTL: 9_000_000_001})
	c.wantNobody(err)
	_, err = c.Lease.LeaseRevoke(c.nobody(), &pb.LeaseRevokeRequest{ID: 12345})
	c.wantNobody(err)
}
