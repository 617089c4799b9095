package conformance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// caseTimeout bounds one case. It is far above what a case needs on a busy
// machine, so that it ends only cases whose awaited event never comes.
const caseTimeout = 60 * time.Second

// Case is one statement about one RPC.
type Case struct {
	// Name is "area/what". Cases for a row of the bad-input table carry
	// its number: "badinput/row-09-bad-sort-order".
	Name string
	// RPC is the method the case is about, as "KV.Range"; HTTP cases use "HTTP".
	RPC string
	// Covers lists the request fields, as "RangeRequest.limit", that the case
	// would notice to be ignored by a server.
	Covers []string
	// Needs is the optional capability the case depends on; empty for none.
	Needs Capability
	// Absent, if set, replaces the default check of an endpoint that lacks
	// Needs (an empty request to RPC must answer Unimplemented).
	Absent func(*C)
	// Condition is what the server must be like; empty for any live server.
	Condition Condition
	// Slow cases wait for real time. They run side by side, so they
	// must not assume that they alone make revisions.
	Slow bool
	// Run makes the statement.
	Run func(*C)
}

// C is what a running case works with. It ends with the case.
type C struct {
	*testing.T
	// Ctx ends with the case, or after caseTimeout.
	Ctx context.Context
	// Endpoint is the server under test.
	Endpoint *Endpoint

	KV          pb.KVClient
	Watch       pb.WatchClient
	Lease       pb.LeaseClient
	Cluster     pb.ClusterClient
	Maintenance pb.MaintenanceClient
	Auth        pb.AuthClient
	Health      healthpb.HealthClient
	Lock        v3lockpb.LockClient
	Election    v3electionpb.ElectionClient

	prefix string
}

// newC binds a case to an endpoint. The key prefix is unique for each call, so
// that runs on one server never meet.
func newC(t *testing.T, endpoint *Endpoint, name string) *C {
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	t.Cleanup(cancel)
	var id [6]byte
	if _, err := rand.Read(id[:]); err != nil {
		t.Fatal(err)
	}
	c := &C{
		T: t, Ctx: ctx, Endpoint: endpoint,
		prefix: "conformance/" + hex.EncodeToString(id[:]) + "/" + name + "/",
	}
	c.use(endpoint.Conn)
	return c
}

// use points the stubs at conn.
func (c *C) use(conn *grpc.ClientConn) {
	c.KV = pb.NewKVClient(conn)
	c.Watch = pb.NewWatchClient(conn)
	c.Lease = pb.NewLeaseClient(conn)
	c.Cluster = pb.NewClusterClient(conn)
	c.Maintenance = pb.NewMaintenanceClient(conn)
	c.Auth = pb.NewAuthClient(conn)
	c.Health = healthpb.NewHealthClient(conn)
	c.Lock = v3lockpb.NewLockClient(conn)
	c.Election = v3electionpb.NewElectionClient(conn)
}

// key returns the case's own key for name.
func (c *C) key(name string) []byte { return []byte(c.prefix + name) }

// end returns the end of the range of all keys that begin with key(name).
func (c *C) end(name string) []byte { return prefixEnd(c.key(name)) }

// prefixEnd returns the first key after all keys that begin with prefix, whose last
// byte must not be 0xff.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	end[len(end)-1]++
	return end
}

// must ends the case on an error.
func (c *C) must(err error, what string, args ...any) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v", fmt.Sprintf(what, args...), err)
	}
}

// equal reports a difference between got and want.
func equal[V comparable](c *C, what string, got, want V) {
	c.Helper()
	if got != want {
		c.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// equalProto reports a difference between two messages.
func equalProto(c *C, what string, got, want proto.Message) {
	c.Helper()
	if !proto.Equal(got, want) {
		c.Errorf("%s:\n got %s\nwant %s", what, text(got), text(want))
	}
}

func text(m proto.Message) string {
	s := prototext.MarshalOptions{}.Format(m)
	if len(s) > 2000 {
		s = s[:2000] + "..."
	}
	return s
}

// wantError requires err to be the gRPC status (code, message), exactly.
func (c *C) wantError(err error, code codes.Code, message string) {
	c.Helper()
	if err == nil {
		c.Fatalf("got no error, want %v %q", code, message)
	}
	s, _ := status.FromError(err)
	if s.Code() != code || s.Message() != message {
		c.Fatalf("got error %v %q, want %v %q", s.Code(), s.Message(), code, message)
	}
}

// put writes key(name) and returns the answer.
func (c *C) put(name, value string) *pb.PutResponse {
	c.Helper()
	r, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: c.key(name), Value: []byte(value)})
	c.must(err, "put %s", name)
	return r
}

// del deletes key(name) and returns the answer.
func (c *C) del(name string) *pb.DeleteRangeResponse {
	c.Helper()
	r, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: c.key(name)})
	c.must(err, "delete %s", name)
	return r
}

// get reads one key of the case with everything else at its default.
func (c *C) get(name string) *pb.RangeResponse {
	c.Helper()
	return c.rng(&pb.RangeRequest{Key: c.key(name)})
}

// rng sends a Range that must succeed.
func (c *C) rng(r *pb.RangeRequest) *pb.RangeResponse {
	c.Helper()
	resp, err := c.KV.Range(c.Ctx, r)
	c.must(err, "range %s", text(r))
	return resp
}

// all returns a Range over every key of the case.
func (c *C) all() *pb.RangeRequest {
	return &pb.RangeRequest{Key: c.key(""), RangeEnd: c.end("")}
}

// txn sends a Txn that must succeed (whichever branch it takes).
func (c *C) txn(r *pb.TxnRequest) *pb.TxnResponse {
	c.Helper()
	resp, err := c.KV.Txn(c.Ctx, r)
	c.must(err, "txn %s", text(r))
	return resp
}

// revision returns the server's current revision.
func (c *C) revision() int64 {
	c.Helper()
	return c.get("revision").Header.Revision
}

// compact compacts at revision, which must succeed.
func (c *C) compact(revision int64, physical bool) {
	c.Helper()
	_, err := c.KV.Compact(c.Ctx, &pb.CompactionRequest{Revision: revision, Physical: physical})
	c.must(err, "compact at %d", revision)
}

// names returns the keys of kvs without the case's prefix, separated by spaces.
func (c *C) names(r *pb.RangeResponse) string {
	s := ""
	for i, kv := range r.Kvs {
		if i > 0 {
			s += " "
		}
		if k := string(kv.Key); len(k) >= len(c.prefix) && k[:len(c.prefix)] == c.prefix {
			s += k[len(c.prefix):]
		} else {
			s += fmt.Sprintf("%q", k)
		}
	}
	return s
}

// header requires a complete header.
func (c *C) header(what string, h *pb.ResponseHeader) {
	c.Helper()
	if h == nil {
		c.Fatalf("%s: no header", what)
	}
	if h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 || h.Revision <= 0 {
		c.Errorf("%s: header lacks something: %s", what, text(h))
	}
}

func opPut(key []byte, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte(value)}}}
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opGet(key []byte) *pb.RequestOp { return opRange(&pb.RangeRequest{Key: key}) }

func opDelete(key, end []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: end}}}
}

func opTxn(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}

// compareMod is the compare of every Kubernetes write: MOD(key) = revision.
func compareMod(key []byte, revision int64) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}
}
