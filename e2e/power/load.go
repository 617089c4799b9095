package power

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/rig"
)

// LoadConfig describes a recording's load.
type LoadConfig struct {
	Recording Recording
	Shim      string // the program
	Root      string // of the disk that is modelled: an empty directory
	Addr      string
	Seed      uint64
	Ops       int // about how many operations clients issue
	Clients   int
	// LargeBytes is the size of one value in LargeEach.
	LargeBytes, LargeEach int
	// CatchupEntries is how many entries the log keeps below what the store holds durably.
	CatchupEntries int
	// NoKills ends every session by SIGTERM.
	NoKills bool
}

// dataDir is where below the root the data lie: several new directories deep, since a
// directory that was just made can be lost as well.
const dataDir = "var/lib/shim"

// keepRevisions is how much history a compaction leaves, so that a state is verified
// in milliseconds.
const keepRevisions = 60

// DefaultCatchupEntries: few, so that the log is short.
const DefaultCatchupEntries = 20

// serverFlags keep the log short and compactions in several batches.
func serverFlags(catchupEntries int) []string {
	return []string{"--snapshot-catchup-entries", strconv.Itoa(catchupEntries), "--compaction-batch-limit", "20", "--compaction-sleep-interval", "1ms"}
}

// load runs one server after the other, with clients, and notes marks.
type load struct {
	LoadConfig
	marks  *os.File
	server *rig.Server

	mu   sync.Mutex
	ops  []Op
	done *counter // operations answered

	watched  *counter // the last revision of events
	watchErr error
	events   []*mvccpb.Event
	// compacted is the last revision asked for.
	compacted int64
}

// Load runs the load to its end. Call it under strace, with StraceArgs.
func Load(c LoadConfig) (err error) {
	l := &load{LoadConfig: c, done: newCounter(0), watched: newCounter(1)}
	if l.marks, err = os.OpenFile(c.Recording.marks(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.marks.Close()) }()
	// A clean stop, a kill, and an end that is a kill.
	for i, share := range []float64{0.4, 0.75, 1} {
		stop := l.kill
		if i == 0 || l.NoKills {
			stop = l.terminate
		}
		if err := l.session(i, int64(share*float64(c.Ops)), stop); err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
	}
	// What the last kill left unanswered, too, is in the history: the log has it.
	stop := l.kill
	if l.NoKills {
		stop = l.terminate
	}
	if err := l.session(3, 0, stop); err != nil {
		return fmt.Errorf("last start: %w", err)
	}
	return l.Recording.save(recorded{Root: c.Root, DataDir: dataDir, Ops: l.ops}, l.events)
}

// begin notes an operation before it is sent.
func (l *load) begin(o Op) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.Number = len(l.ops)
	l.ops = append(l.ops, o)
	_, err := fmt.Fprintf(l.marks, "i %d\n", o.Number)
	return o.Number, err
}

// acknowledged notes an answer with its revision.
func (l *load) acknowledged(n int, h *pb.ResponseHeader) error {
	_, err := fmt.Fprintf(l.marks, "a %d %d\n", n, h.GetRevision())
	l.done.add(1)
	return err
}

// session is one life of the server: until that many operations were answered.
func (l *load) session(number int, until int64, stop func() error) error {
	var err error
	o := rig.Options{Bin: l.Shim, Dir: filepath.Join(l.Root, dataDir), Addr: l.Addr, Flags: serverFlags(l.CatchupEntries)}
	if l.server, err = rig.Launch(o); err != nil {
		return err
	}
	if err := l.server.AwaitReady(rig.StartTimeout); err != nil {
		return err
	}
	conn, err := rig.Dial(l.Addr)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only read from
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // whatever waits, waits no longer than the server lives
		<-l.server.Exited()
		cancel()
	}()
	var work sync.WaitGroup
	work.Go(func() { l.watch(ctx, conn) })
	failed := make(chan error, l.Clients+1)
	start := func(f func() error) {
		work.Go(func() {
			err := f()
			if failed <- err; err != nil {
				cancel()
			}
		})
	}
	if until > 0 {
		for i := range l.Clients {
			c := &client{load: l, rng: rand.New(rand.NewPCG(l.Seed, uint64(number*100+i))), id: i, kv: pb.NewKVClient(conn), leases: pb.NewLeaseClient(conn)}
			start(func() error { return c.run(ctx) })
		}
		start(func() error { return l.maintain(ctx, conn, until) })
		l.done.await(ctx, until)
	} else if err := l.catchUp(ctx, conn); err != nil {
		return err
	}
	// The clients go on while the server ends.
	err = stop()
	cancel()
	work.Wait()
	close(failed)
	for e := range failed {
		err = errors.Join(err, e)
	}
	if err := errors.Join(err, l.watchErr); err != nil {
		return err
	}
	sums, err := fileSums(l.Root)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(l.marks, "%s%s\n", markFiles, sums)
	return err
}

func (l *load) kill() error {
	if err := syscall.Kill(l.server.PID(), syscall.SIGKILL); err != nil {
		return err
	}
	<-l.server.Exited()
	return nil
}

func (l *load) terminate() error {
	if err := syscall.Kill(l.server.PID(), syscall.SIGTERM); err != nil {
		return err
	}
	<-l.server.Exited()
	if code := l.server.ExitCode(); code != 0 {
		return fmt.Errorf("SIGTERM: exit code %d\n%s", code, l.server.Log())
	}
	return nil
}

// watch collects the history, from where it stands.
func (l *load) watch(ctx context.Context, conn *grpc.ClientConn) {
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		l.watchErr = unlessGone(err) // the next session goes on
		return
	}
	err = w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: l.watched.now() + 1,
	}}})
	for err == nil {
		var resp *pb.WatchResponse
		if resp, err = w.Recv(); err != nil {
			return // the server ended; the next session goes on
		}
		if resp.Canceled {
			l.watchErr = fmt.Errorf("the watch was cancelled: %v", resp)
			return
		}
		l.events = append(l.events, resp.Events...)
		if n := len(resp.Events); n > 0 {
			l.watched.set(resp.Events[n-1].Kv.ModRevision)
		}
	}
}

// catchUp waits until the history is whole.
func (l *load) catchUp(ctx context.Context, conn *grpc.ClientConn) error {
	head, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("x")})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rig.StartTimeout)
	defer cancel()
	if !l.watched.await(ctx, head.Header.Revision) {
		return fmt.Errorf("the watch stands at revision %d, the store at %d", l.watched.now(), head.Header.Revision)
	}
	return nil
}

// client issues operations one after another until the server is gone.
type client struct {
	*load
	rng     *rand.Rand
	id      int
	kv      pb.KVClient
	leases  pb.LeaseClient
	granted []int64
}

func (c *client) run(ctx context.Context) error {
	for ctx.Err() == nil {
		gone, err := c.step(ctx)
		if err != nil {
			return err
		}
		if gone {
			return nil
		}
	}
	return nil
}

func (c *client) key() []byte { return fmt.Appendf(nil, "key/%d/%02d", c.id, c.rng.IntN(25)) }

// value is some bytes with the operation's token; once in a while many.
func (c *client) value(n int) []byte {
	if c.rng.IntN(c.LargeEach) == 0 {
		return fill(n, c.LargeBytes)
	}
	return c.small(n)
}

func (c *client) small(n int) []byte { return fill(n, c.rng.IntN(1200)) }

func fill(n, size int) []byte {
	return append([]byte(token(n)), bytes.Repeat([]byte{byte('a' + n%26)}, size)...)
}

// step is one operation. gone tells that the server no longer answers; an error is the
// recorder's.
func (c *client) step(ctx context.Context) (gone bool, err error) {
	o := Op{Kind: Write}
	kind := c.rng.IntN(100)
	switch {
	case kind >= 95 && len(c.granted) > 0:
		i := c.rng.IntN(len(c.granted))
		o.Kind, o.Lease, o.Long = Revoke, c.granted[i], true
		c.granted = append(c.granted[:i], c.granted[i+1:]...)
	case kind >= 88:
		o.Kind, o.Long = Grant, c.rng.IntN(3) > 0
		o.Lease = int64(c.rng.Uint64() >> 1)
	}
	n, err := c.begin(o)
	if err != nil {
		return false, err
	}
	header, err := c.send(ctx, kind, o, n)
	if err != nil {
		return true, unlessGone(err)
	}
	return false, c.acknowledged(n, header)
}

// unlessGone is nil for an error that a server gives that ends.
func unlessGone(err error) error {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled:
		return nil
	}
	return err
}

type headed interface{ GetHeader() *pb.ResponseHeader }

func (c *client) send(ctx context.Context, kind int, o Op, n int) (*pb.ResponseHeader, error) {
	var r headed
	var err error
	switch {
	case o.Kind == Revoke:
		r, err = c.leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: o.Lease})
	case o.Kind == Grant:
		ttl := int64(3600)
		if !o.Long {
			ttl = 2
		}
		if r, err = c.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: o.Lease, TTL: ttl}); err == nil && o.Long {
			c.granted = append(c.granted, o.Lease)
		}
	case kind < 50:
		r, err = c.kv.Put(ctx, &pb.PutRequest{Key: c.key(), Value: c.value(n), Lease: c.lease()})
	case kind < 62:
		key := c.key()
		r, err = c.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, RangeEnd: append(key[:len(key)-1:len(key)-1], '3')})
	case kind < 74:
		r, err = c.kv.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: c.key(), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: 0}}},
			Success: []*pb.RequestOp{putOp(c.key(), c.value(n), 0)},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: c.key()}}}},
		})
	default:
		pair := c.rng.IntN(5)
		r, err = c.kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
			putOp(fmt.Appendf(nil, "pair/%d/%d/a", c.id, pair), c.value(n), 0),
			putOp(fmt.Appendf(nil, "pair/%d/%d/b", c.id, pair), c.small(n), c.lease()), // two large ones are too large for a request
		}})
	}
	if err != nil {
		return nil, err
	}
	return r.GetHeader(), nil
}

// lease is one to attach a key to, now and then.
func (c *client) lease() int64 {
	if len(c.granted) == 0 || c.rng.IntN(4) > 0 {
		return 0
	}
	return c.granted[c.rng.IntN(len(c.granted))]
}

func putOp(key, value []byte, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value, Lease: lease}}}
}

// maintain compacts, defragments and saves snapshots, in turns, spread over the
// operations of a session.
func (l *load) maintain(ctx context.Context, conn *grpc.ClientConn, until int64) error {
	jobs := []func(context.Context, *grpc.ClientConn) (*pb.ResponseHeader, error){l.defragment, l.snapshot, nil}
	const rounds = 6
	from := l.done.now()
	for i := range int64(rounds) {
		if !l.done.await(ctx, from+(until-from)*i/rounds) {
			return nil
		}
		if gone, err := l.compact(ctx, conn, i%2 == 0); gone || err != nil {
			return err
		}
		job := jobs[i%int64(len(jobs))]
		if job == nil {
			continue
		}
		n, err := l.begin(Op{Kind: Other})
		if err != nil {
			return err
		}
		header, err := job(ctx, conn)
		if err != nil {
			return unlessGone(err)
		}
		if err := l.acknowledged(n, header); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) compact(ctx context.Context, conn *grpc.ClientConn, physical bool) (gone bool, err error) {
	target := l.watched.now() - keepRevisions
	if target <= l.compacted {
		return false, nil
	}
	l.compacted = target
	n, err := l.begin(Op{Kind: Compact, Target: target})
	if err != nil {
		return false, err
	}
	resp, err := pb.NewKVClient(conn).Compact(ctx, &pb.CompactionRequest{Revision: target, Physical: physical})
	if err != nil {
		return true, unlessGone(err)
	}
	return false, l.acknowledged(n, resp.Header)
}

func (l *load) defragment(ctx context.Context, conn *grpc.ClientConn) (*pb.ResponseHeader, error) {
	resp, err := pb.NewMaintenanceClient(conn).Defragment(ctx, &pb.DefragmentRequest{})
	return resp.GetHeader(), err
}

func (l *load) snapshot(ctx context.Context, conn *grpc.ClientConn) (*pb.ResponseHeader, error) {
	stream, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return nil, err
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
}
