package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

// hooked is memory with eyes on its watches and transactions.
type hooked struct {
	*memory.Backend

	mu          sync.Mutex
	ranges      int           // that were asked for
	open        int           // watch streams that were not closed
	changed     chan struct{} // closed, and made anew, when open changes
	beforeWatch func()        // called once, before the next watch stream is opened
	afterTxn    func()        // called once, after the next transaction
}

func newHooked(t *testing.T) *hooked {
	return &hooked{Backend: newMemory(t), changed: make(chan struct{})}
}

func (h *hooked) count(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open += n
	close(h.changed)
	h.changed = make(chan struct{})
}

// awaitOpen waits until n watch streams are open.
func (h *hooked) awaitOpen(t *testing.T, n int) {
	t.Helper()
	for {
		h.mu.Lock()
		open, changed := h.open, h.changed
		h.mu.Unlock()
		if open == n {
			return
		}
		select {
		case <-changed:
		case <-time.After(answerTimeout):
			t.Fatalf("%d watch streams are open, want %d", open, n)
		}
	}
}

// once takes a hook, so that what it calls is not hooked.
func (h *hooked) once(hook *func()) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := *hook
	*hook = nil
	if f == nil {
		return func() {}
	}
	return f
}

func (h *hooked) Range(ctx context.Context, r *backends.RangeRequest) (backends.Cursor, error) {
	h.mu.Lock()
	h.ranges++
	h.mu.Unlock()
	return h.Backend.Range(ctx, r)
}

func (h *hooked) Txn(ctx context.Context, r *backends.TxnRequest) (*backends.TxnResult, error) {
	res, err := h.Backend.Txn(ctx, r)
	h.once(&h.afterTxn)()
	return res, err
}

func (h *hooked) Watch(ctx context.Context, c backends.Caller) (backends.WatchStream, error) {
	h.once(&h.beforeWatch)()
	w, err := h.Backend.Watch(ctx, c)
	if err != nil {
		return nil, err
	}
	h.count(1)
	return &countedWatch{WatchStream: w, closed: func() { h.count(-1) }}, nil
}

type countedWatch struct {
	backends.WatchStream
	once   sync.Once
	closed func()
}

func (w *countedWatch) Close() {
	w.WatchStream.Close()
	w.once.Do(w.closed)
}

// turns is a server on hooked, and its clients.
type turns struct {
	t        *testing.T
	backend  *hooked
	server   *Server
	kv       pb.KVClient
	lease    pb.LeaseClient
	lock     v3lockpb.LockClient
	election v3electionpb.ElectionClient
}

func newTurns(t *testing.T) *turns {
	b := newHooked(t)
	s, conn := serve(t, b, Config{})
	return &turns{
		t: t, backend: b, server: s, kv: pb.NewKVClient(conn), lease: pb.NewLeaseClient(conn),
		lock: v3lockpb.NewLockClient(conn), election: v3electionpb.NewElectionClient(conn),
	}
}

func (u *turns) must(err error) {
	u.t.Helper()
	if err != nil {
		u.t.Fatal(err)
	}
}

func (u *turns) grant() int64 {
	u.t.Helper()
	r, err := u.lease.LeaseGrant(u.t.Context(), &pb.LeaseGrantRequest{TTL: 600})
	u.must(err)
	return r.ID
}

// keys lists the keys of a queue, those created first first.
func (u *turns) keys(name string) (keys []string) {
	u.t.Helper()
	r := firstOf(turnPrefix([]byte(name)))
	r.Limit = 0
	resp, err := u.server.innerRange(context.Background(), r)
	u.must(err)
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

// take holds a lock, and returns its key.
func (u *turns) take(name string) []byte {
	u.t.Helper()
	r, err := u.lock.Lock(u.t.Context(), &v3lockpb.LockRequest{Name: []byte(name), Lease: u.grant()})
	u.must(err)
	return r.Key
}

func (u *turns) delete(key []byte) {
	u.t.Helper()
	_, err := u.kv.DeleteRange(u.t.Context(), &pb.DeleteRangeRequest{Key: key})
	u.must(err)
}

// compact writes and compacts, so that no watch can begin at an earlier revision.
func (u *turns) compact() {
	u.t.Helper()
	var revision int64
	for range 2 {
		r, err := u.kv.Put(u.t.Context(), &pb.PutRequest{Key: []byte("x")})
		u.must(err)
		revision = r.Header.Revision
	}
	_, err := u.kv.Compact(u.t.Context(), &pb.CompactionRequest{Revision: revision})
	u.must(err)
}

// waiters starts clients that wait: for a lock, for an election, and observers.
func (u *turns) waiters(ctx context.Context) (results chan error, n int) {
	results = make(chan error)
	u.take("lock")
	_, err := u.election.Campaign(u.t.Context(), &v3electionpb.CampaignRequest{Name: []byte("election"), Lease: u.grant()})
	u.must(err)
	for range 3 {
		lease := u.grant()
		go func() {
			_, err := u.lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("lock"), Lease: lease})
			results <- err
		}()
		go func() {
			_, err := u.election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("election"), Lease: lease})
			results <- err
		}()
	}
	for _, name := range []string{"election", "of nobody"} {
		stream, err := u.election.Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte(name)})
		u.must(err)
		go func() {
			var err error
			for err == nil {
				_, err = stream.Recv()
			}
			results <- err
		}()
	}
	u.backend.awaitOpen(u.t, 8)
	return results, 8
}

// TestWaitersLeaveNothing: clients that go away while they wait leave no key, no
// watch and no goroutine.
func TestWaitersLeaveNothing(t *testing.T) {
	u := newTurns(t)
	ctx, cancel := context.WithCancel(t.Context())
	results, n := u.waiters(ctx)
	cancel()
	for range n {
		if err := <-results; status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
	}
	u.backend.awaitOpen(t, 0)
	u.must(u.server.Shutdown(t.Context())) // returns when the last handler has
	if locks, candidates := u.keys("lock"), u.keys("election"); len(locks) != 1 || len(candidates) != 1 {
		t.Errorf("keys left: %q, %q", locks, candidates)
	}
}

// TestShutdownEndsWaiters: clients that wait do not hold up a shutdown. They are told
// of it, and leave no key.
func TestShutdownEndsWaiters(t *testing.T) {
	u := newTurns(t)
	results, n := u.waiters(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.server.Shutdown(t.Context()) }()
	for range n {
		if err := <-results; status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "etcdserver: server stopped" {
			t.Errorf("got %v", err)
		}
	}
	u.must(<-done)
	u.backend.awaitOpen(t, 0)
	if locks, candidates := u.keys("lock"), u.keys("election"); len(locks) != 1 || len(candidates) != 1 {
		t.Errorf("keys left: %q, %q", locks, candidates)
	}
}

// TestClientGoneInTransaction: a client that goes away while its key is being written
// leaves none: neither behind others, nor as the first, since nobody knows that it is.
func TestClientGoneInTransaction(t *testing.T) {
	u := newTurns(t)
	u.take("held")
	for name, call := range map[string]func(context.Context) error{
		"lock behind another": func(ctx context.Context) error {
			_, err := u.server.lock(ctx, &v3lockpb.LockRequest{Name: []byte("held"), Lease: u.grant()})
			return err
		},
		"candidate behind another": func(ctx context.Context) error {
			_, err := u.server.campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("held"), Lease: u.grant()})
			return err
		},
		"lock that is free": func(ctx context.Context) error {
			_, err := u.server.lock(ctx, &v3lockpb.LockRequest{Name: []byte("free"), Lease: u.grant()})
			return err
		},
		"candidate where nobody leads": func(ctx context.Context) error {
			_, err := u.server.campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("free"), Lease: u.grant()})
			return err
		},
		"lock with a lease of its own": func(ctx context.Context) error {
			_, err := u.server.lock(ctx, &v3lockpb.LockRequest{Name: []byte("free")})
			return err
		},
		"candidate with a lease of its own": func(ctx context.Context) error {
			_, err := u.server.campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("free")})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			written := 0
			u.backend.afterTxn = func() {
				cancel()
				written = len(u.keys("held")) + len(u.keys("free"))
			}
			if err := call(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if left := len(u.keys("held")) + len(u.keys("free")); written != 2 || left != 1 {
				t.Errorf("%d keys when the client went, %d left, want 2 and 1", written, left)
			}
		})
	}
}

// TestLockKeyMadeAnew: a caller that waits does not take a key for its own that was
// deleted and made anew with the same lease, behind another's.
func TestLockKeyMadeAnew(t *testing.T) {
	u := newTurns(t)
	holder := u.take("a")
	shared, other := u.grant(), u.grant()
	wait := func(lease int64, open int) chan error {
		result := make(chan error, 1)
		go func() {
			_, err := u.lock.Lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("a"), Lease: lease})
			result <- err
		}()
		u.backend.awaitOpen(t, open)
		return result
	}
	first := wait(shared, 1)
	key := newTurn([]byte("a"), shared).key
	u.delete(key)
	second := wait(other, 2)
	third := wait(shared, 3)
	u.delete(holder)
	if err := <-first; status.Convert(err).Message() != "mutex: session is expired" {
		t.Errorf("the first got %v", err)
	}
	u.must(<-second)
	if keys := u.keys("a"); len(keys) != 2 || keys[1] != string(key) {
		t.Errorf("keys: %q", keys)
	}
	u.delete(newTurn([]byte("a"), other).key)
	u.must(<-third)
}

// TestCompactedWhileWaiting: a compaction between the look at the queue and the watch
// costs nobody a turn.
func TestCompactedWhileWaiting(t *testing.T) {
	u := newTurns(t)
	key := u.take("a")
	u.backend.beforeWatch = func() {
		u.delete(key)
		u.compact()
	}
	_, err := u.server.lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("a"), Lease: u.grant()})
	u.must(err)
	u.backend.awaitOpen(t, 0)
}

// TestCompactedWhileObserving: compactions before a watch of Observe begins lose no
// leader and tell none twice.
func TestCompactedWhileObserving(t *testing.T) {
	u := newTurns(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var leader *v3electionpb.LeaderKey
	proclaim := func() {
		_, err := u.election.Proclaim(t.Context(), &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte("2")})
		u.must(err)
	}
	u.backend.beforeWatch = func() { // the one for the first leader
		r, err := u.election.Campaign(t.Context(), &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: u.grant(), Value: []byte("1")})
		u.must(err)
		leader = r.Leader
		u.compact()
	}
	var observed []string
	err := u.server.observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("e")}, toldStream{send: func(r *v3electionpb.LeaderResponse) {
		observed = append(observed, string(r.Kv.Value))
		switch string(r.Kv.Value) {
		case "1":
			u.backend.beforeWatch = func() { // the one for what the leader proclaims
				u.compact()
				u.backend.beforeWatch = proclaim // before the next
			}
		case "2":
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || fmt.Sprint(observed) != "[1 2]" {
		t.Errorf("observed %v, %v", observed, err)
	}
	u.backend.awaitOpen(t, 0)
}

// toldStream is the stream of an Observe whose messages a test takes.
type toldStream struct {
	grpc.ServerStream
	send func(*v3electionpb.LeaderResponse)
}

func (s toldStream) SendMsg(m any) error {
	s.send(m.(*v3electionpb.LeaderResponse))
	return nil
}

// TestTurnsAskWhoCalls: Lock and Election identify their caller for each request that they
// make, and answer what etcd does: refusals without a code, and an Observe that just ends.
func TestTurnsAskWhoCalls(t *testing.T) {
	a := newAccounts(t)
	_, conn := serve(t, a, Config{})
	lock, election := v3lockpb.NewLockClient(conn), v3electionpb.NewElectionClient(conn)
	for user, message := range map[string]string{
		"":      "etcdserver: user name is empty",
		"other": "etcdserver: permission denied",
	} {
		_, err := election.Leader(as(t.Context(), user), &v3electionpb.LeaderRequest{Name: []byte("/me")})
		if st := status.Convert(err); st.Code() != codes.Unknown || st.Message() != message {
			t.Errorf("Leader as %q: %v", user, err)
		}
		stream, err := election.Observe(as(t.Context(), user), &v3electionpb.LeaderRequest{Name: []byte("/me")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("Observe as %q: %v", user, err)
		}
	}
	_, err := lock.Lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("/me")})
	if st := status.Convert(err); st.Code() != codes.Unknown || st.Message() != "etcdserver: user name is empty" {
		t.Errorf("Lock: %v", err)
	}
	leases, err := a.LeaseLeases(t.Context(), backends.Caller{})
	if err != nil || len(leases.IDs) != 0 {
		t.Errorf("nobody was granted leases: %v, %v", leases.IDs, err)
	}
	before := a.identified.Load()
	_, err = election.Leader(as(t.Context(), "me"), &v3electionpb.LeaderRequest{Name: []byte("/me")})
	if status.Convert(err).Message() != "election: no leader" || a.identified.Load() == before {
		t.Errorf("Leader as me: %v", err)
	}
}

// TestInnerErrors: an error of etcd's has no code in an answer of Lock or Election;
// any other keeps its own.
func TestInnerErrors(t *testing.T) {
	s := &Server{wireErrors: wireErrors()}
	for _, c := range []struct {
		err     error
		code    codes.Code
		message string
	}{
		{backends.ErrLeaseNotFound, codes.Unknown, "etcdserver: requested lease not found"},
		{backends.ErrNoSpace, codes.Unknown, "etcdserver: mvcc: database space exceeded"},
		{backends.ErrTimeout, codes.Unknown, "etcdserver: request timed out"},
		{&backends.Remote{Code: uint32(codes.NotFound), Message: "etcdserver: requested lease not found"}, codes.Unknown, "etcdserver: requested lease not found"},
		{context.Canceled, codes.Canceled, "context canceled"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "context deadline exceeded"},
		{&backends.Unsupported{Backend: "b", What: "this"}, codes.Unimplemented, "etcdserver: this is not supported by the b backend"},
	} {
		if got := status.Convert(s.innerError(c.err)); got.Code() != c.code || got.Message() != c.message {
			t.Errorf("%v became %v %q, want %v %q", c.err, got.Code(), got.Message(), c.code, c.message)
		}
	}
}
