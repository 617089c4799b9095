package hostile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func attacks() []attack {
	streams := int64(size(2000, 500))
	writes := int64(layerAndLog * garbageFactor)
	return []attack{
		{"stuck watchers", garbageFactor*watchQueues + writes + streams*perStream + baseline, stuckWatchers, false},
		{"slow watchers", garbageFactor*watchQueues + writes + 200*perStream + baseline, slowWatchers, false},
		{"watches without end", garbageFactor*watchQueues + baseline, manyWatches, false},
		{"eight ranges of 100 MB", garbageFactor*(responseBudget+100*mib) + baseline, bigRanges, false},
		{"ranges never read", garbageFactor*(overdraft*responseBudget+100*mib) + 64*perStream + mappedBytes + baseline, unreadRanges, true},
		{"streams never read", garbageFactor*(responseBudget+int64(size(100, 10))*(waitingChunk+4*perStream)) + eventRing + baseline, unreadStreams, true},
		{"transactions at every limit", garbageFactor*(responseBudget+130*mib) + writes + baseline, fullTransactions, false},
		{"leases expiring at once", writes + baseline, leaseStorm, true},
		{"connections coming and going", 1000*perConnection + baseline, churn, false},
		{"silent connections", int64(size(2000, 500))*perConnection + baseline, silence, true},
		{"frames of HTTP/2", 64*perConnection + garbageFactor*64*mib + baseline, frames, false},
		{"compressed zeros", garbageFactor*32*mib + baseline, bombs, false},
	}
}

// hotEvents are put by stuckWatchers and slowWatchers, of this size.
const hotBytes = 16 << 10

// watchHot opens a watch of the hot keys and returns once it was created.
func watchHot(ctx context.Context, conn *grpc.ClientConn) (pb.Watch_WatchClient, error) {
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	err = w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte("hot/"), RangeEnd: []byte("hot0"),
	}}})
	if err != nil {
		return nil, err
	}
	_, err = w.Recv()
	return w, err
}

// openHot opens n such streams over the connections.
func openHot(ctx context.Context, t *testing.T, conns []*grpc.ClientConn, n int) []pb.Watch_WatchClient {
	t.Helper()
	watches := make([]pb.Watch_WatchClient, n)
	each(t, n, 32, func(i int) (err error) {
		watches[i], err = watchHot(ctx, conns[i%len(conns)])
		return err
	})
	return watches
}

// each runs f for 0 ≤ i < n, a few at a time.
func each(t *testing.T, n, atOnce int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	var next atomic.Int64
	failures := make(chan error, atOnce)
	for range atOnce {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					failures <- fmt.Errorf("%d of %d: %w", i, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
}

// writeHot puts n hot values and returns their revisions, ascending.
func writeHot(ctx context.Context, t *testing.T, v *victim, n int) []int64 {
	t.Helper()
	conn := v.Dial(t)
	defer func() { _ = conn.Close() }()
	kv := pb.NewKVClient(conn)
	revisions := make([]int64, n)
	for i := range revisions {
		resp, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "hot/%03d", i%100), Value: value(i, hotBytes)})
		if err != nil {
			t.Fatalf("a put while watchers are stuck: %v", err)
		}
		revisions[i] = resp.Header.Revision
	}
	return revisions
}

// expectAll reads a watch until it has every revision, in order, once.
func expectAll(w pb.Watch_WatchClient, revisions []int64) error {
	for seen := 0; seen < len(revisions); {
		resp, err := w.Recv()
		if err != nil {
			return fmt.Errorf("after %d of %d events: %w", seen, len(revisions), err)
		}
		if resp.Canceled {
			return fmt.Errorf("cancelled after %d of %d events: %s", seen, len(revisions), resp.CancelReason)
		}
		for _, e := range resp.Events {
			if seen == len(revisions) || e.Kv.ModRevision != revisions[seen] {
				return fmt.Errorf("event %d has revision %d", seen, e.Kv.ModRevision)
			}
			seen++
		}
	}
	return nil
}

// stuckWatchers opens streams that stop reading while far more is written than
// fits into queues. Writers go on; those that read again have missed nothing.
func stuckWatchers(t *testing.T, v *victim) string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	n, events := size(2000, 500), size(6400, 1600) // 100 MiB, 25 MiB
	conns, hangUp := v.conns(t, 20)
	defer hangUp()
	watches := openHot(ctx, t, conns, n)
	revisions := writeHot(ctx, t, v, events)
	const awake = 10
	each(t, awake, awake, func(i int) error { return expectAll(watches[i*n/awake], revisions) })
	return fmt.Sprintf("%d watchers stuck through %d MiB of events, %d read all of it afterwards", n, events*hotBytes/mib, awake)
}

// slowWatchers read a message now and then while events pile up, then all.
func slowWatchers(t *testing.T, v *victim) string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	n, events := size(200, 50), size(1600, 400)
	conns, hangUp := v.conns(t, 20)
	defer hangUp()
	watches := openHot(ctx, t, conns, n)
	var revisions []int64
	written := make(chan struct{})
	slow := make([]int, n)
	var reading sync.WaitGroup
	failures := make(chan error, n)
	for i, w := range watches {
		reading.Go(func() {
			var got []int64
			for {
				select {
				case <-written: // from now on as fast as it goes
					slow[i] = len(got)
					for k, r := range got {
						if revisions[k] != r {
							failures <- fmt.Errorf("watcher %d: event %d has revision %d, not %d", i, k, r, revisions[k])
							return
						}
					}
					if err := expectAll(w, revisions[len(got):]); err != nil {
						failures <- fmt.Errorf("watcher %d: %w", i, err)
					}
					return
				case <-time.After(50 * time.Millisecond): // slowness is what is tested
				}
				resp, err := w.Recv()
				if err != nil {
					failures <- err
					return
				}
				for _, e := range resp.Events {
					got = append(got, e.Kv.ModRevision)
				}
				if len(got) == events {
					return
				}
			}
		})
	}
	revisions = writeHot(ctx, t, v, events)
	close(written)
	reading.Wait()
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
	return fmt.Sprintf("%d slow watchers each read %d events", n, events)
}

// manyWatches creates watches on one stream without reading an answer, and on
// another, reading, until it is refused.
func manyWatches(t *testing.T, v *victim) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conns, hangUp := v.conns(t, 2)
	defer hangUp()
	create := func(i int) *pb.WatchRequest {
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: fmt.Appendf(nil, "many/%d", i), RangeEnd: fmt.Appendf(nil, "many/%d/", i),
		}}}
	}
	mute, err := pb.NewWatchClient(conns[0]).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	muted := make(chan struct{})
	go func() {
		defer close(muted)
		for i := range 200_000 {
			if mute.Send(create(i)) != nil {
				return
			}
		}
	}()

	n := size(110_000, 20_000) // the bound is 100,000 of one stream
	w, err := pb.NewWatchClient(conns[1]).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for i := range n {
			if w.Send(create(i)) != nil {
				return
			}
		}
	}()
	created, refused := 0, 0
	for range n {
		resp, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if resp.Canceled {
			refused++
		} else {
			created++
		}
	}
	if created != min(n, 100_000) || created+refused != n {
		t.Errorf("%d created, %d refused", created, refused)
	}
	hangUp()
	<-muted
	return fmt.Sprintf("%d watches of one stream, %d refused", created, refused)
}

// bigRanges asks for the 100 MB eight times at once, on connections of their own.
func bigRanges(t *testing.T, v *victim) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	const clients = 8
	rounds := size(5, 1)
	conns, hangUp := v.conns(t, clients)
	defer hangUp()
	for range rounds {
		each(t, clients, clients, func(i int) error {
			resp, err := rangeBig(ctx, conns[i])
			if err != nil {
				return err
			}
			if len(resp.Kvs) != bigKeys {
				return fmt.Errorf("%d records", len(resp.Kvs))
			}
			for k, kv := range resp.Kvs {
				if !bytes.Equal(kv.Value, value(k, bigBytes)) {
					return fmt.Errorf("record %d holds something else", k)
				}
			}
			return nil
		})
	}
	return fmt.Sprintf("%d answers of 100 MB", clients*rounds)
}

func rangeBig(ctx context.Context, conn *grpc.ClientConn) (*pb.RangeResponse, error) {
	return pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0")}, grpc.MaxCallRecvMsgSize(1<<30))
}

// unreadRanges asks for the 100 MB and never reads, again and again, while a
// client that does read must get its answer in the end.
func unreadRanges(t *testing.T, v *victim) string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	n := size(64, 6)
	conns, hangUp := v.conns(t, n)
	defer hangUp()
	for _, conn := range conns {
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, pb.KV_Range_FullMethodName)
		if err == nil {
			err = stream.SendMsg(&pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0")})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	reader := v.Dial(t)
	defer func() { _ = reader.Close() }()
	for range size(4, 2) {
		resp, err := rangeBig(ctx, reader)
		if err != nil {
			t.Fatalf("a client that reads, beside %d that do not: %v", n, err)
		}
		if len(resp.Kvs) != bigKeys {
			t.Fatalf("%d records", len(resp.Kvs))
		}
	}
	took := time.Since(began)
	if hold := time.Duration(size(40, 10)) * time.Second; took < hold {
		time.Sleep(hold - took) // memory must not grow with time, either
	}
	return fmt.Sprintf("%d ranges of 100 MB never read; those read took %.1f s", n, took.Seconds())
}

// unreadStreams opens streams of every kind that answer for long, and reads none.
func unreadStreams(t *testing.T, v *victim) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	n := size(100, 10)
	conns, hangUp := v.conns(t, 20)
	defer hangUp()
	maintenance := pb.NewMaintenanceClient
	reader := v.Dial(t)
	defer func() { _ = reader.Close() }()
	var sending sync.WaitGroup
	for i := range n {
		conn := conns[i%len(conns)]
		if _, err := pb.NewKVClient(conn).RangeStream(ctx, &pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0")}); err != nil {
			t.Fatal(err)
		}
		if _, err := maintenance(conn).Snapshot(ctx, &pb.SnapshotRequest{}); err != nil {
			t.Fatal(err)
		}
		alive, err := pb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sending.Go(func() {
			for range 20_000 {
				if alive.Send(&pb.LeaseKeepAliveRequest{ID: 7}) != nil {
					return
				}
			}
		})
		w, err := pb.NewWatchClient(conn).Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sending.Go(func() {
			for range 20_000 {
				if w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}) != nil {
					return
				}
			}
		})
	}
	// Few snapshots are made at a time, and all places are taken by clients that do
	// not read. One that reads must get its turn.
	turn := time.Now()
	var snapshot int64
	snap, err := maintenance(reader).Snapshot(ctx, &pb.SnapshotRequest{})
	for err == nil {
		var part *pb.SnapshotResponse
		if part, err = snap.Recv(); err == nil {
			snapshot += int64(len(part.Blob))
		}
	}
	if !errors.Is(err, io.EOF) || snapshot == 0 {
		t.Fatalf("a snapshot that is read, after %v: %v", time.Since(turn), err)
	}
	cancel()
	hangUp()
	sending.Wait()
	return fmt.Sprintf("%d streams never read; a snapshot of %d MiB that was read came after %.1f s", 4*n, snapshot/mib, time.Since(turn).Seconds())
}

// fullTransactions sends transactions at the limits of operations, bytes and
// depth, and just beyond.
func fullTransactions(t *testing.T, v *victim) string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	conns, hangUp := v.conns(t, 8)
	defer hangUp()
	put := func(key string, n int) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: make([]byte, n)}}}
	}
	wide := func(prefix string, ops, bytes int) *pb.TxnRequest {
		r := &pb.TxnRequest{}
		for i := range ops {
			r.Success = append(r.Success, put(fmt.Sprint(prefix, i), bytes/ops-64))
		}
		return r
	}
	deep := func(levels int) *pb.TxnRequest {
		r := &pb.TxnRequest{Success: []*pb.RequestOp{put("deep", 100)}}
		for range levels {
			r = &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}}}
		}
		return r
	}
	greedy := &pb.TxnRequest{}
	for range 128 {
		greedy.Success = append(greedy.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{
			Key: []byte("big/"), RangeEnd: []byte("big0"), Limit: 10, // 1 MB each
		}}})
	}
	cases := []struct {
		name    string
		request func(i int) *pb.TxnRequest
		want    codes.Code
	}{
		{"128 puts of 1.5 MiB", func(i int) *pb.TxnRequest { return wide(fmt.Sprintf("wide/%d/", i%16), 128, 3<<19) }, codes.OK},
		{"129 puts", func(int) *pb.TxnRequest { return wide("over/", 129, 129*100) }, codes.InvalidArgument},
		{"puts of 1.6 MiB", func(int) *pb.TxnRequest { return wide("over/", 100, 1600<<10) }, codes.InvalidArgument},
		{"puts of 3 MiB", func(int) *pb.TxnRequest { return wide("over/", 100, 3<<20) }, codes.ResourceExhausted},
		{"100 levels", func(int) *pb.TxnRequest { return deep(100) }, codes.OK},
		{"1,000 levels", func(int) *pb.TxnRequest { return deep(1000) }, codes.InvalidArgument},
		{"5,000 levels", func(int) *pb.TxnRequest { return deep(5000) }, codes.Internal}, // protobuf reads 10,000 deep, as etcd's
		{"128 ranges of 1 MB", func(int) *pb.TxnRequest { return greedy }, codes.OK},
	}
	n := size(40, 16)
	for _, c := range cases {
		each(t, n, 8, func(i int) error {
			_, err := pb.NewKVClient(conns[i%len(conns)]).Txn(ctx, c.request(i), grpc.MaxCallRecvMsgSize(1<<30))
			if status.Code(err) != c.want {
				return fmt.Errorf("%s: %w, not %v", c.name, err, c.want)
			}
			return nil
		})
	}
	return fmt.Sprintf("%d kinds, %d of each", len(cases), n)
}

// leaseStorm makes leases, each with a key, expire in the same second. Each key is
// deleted once, no two in one revision, and none before its time.
func leaseStorm(t *testing.T, v *victim) string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	n, ttl := size(10_000, 2_000), int64(size(30, 8))
	conns, hangUp := v.conns(t, 20)
	defer hangUp()
	w, err := pb.NewWatchClient(conns[0]).Watch(ctx)
	if err == nil {
		err = w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: []byte("storm/"), RangeEnd: []byte("storm0"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT},
		}}})
	}
	if err == nil {
		_, err = w.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	// Granted over seconds, then renewed within a moment, so that they are due together.
	each(t, n, 64, func(i int) error {
		conn := conns[i%len(conns)]
		if _, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(i + 1), TTL: ttl}); err != nil {
			return err
		}
		_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "storm/%05d", i), Lease: int64(i + 1)})
		return err
	})
	renewed := time.Now()
	each(t, len(conns), len(conns), func(c int) error {
		alive, err := pb.NewLeaseClient(conns[c]).LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		for i := c; i < n; i += len(conns) {
			if err := alive.Send(&pb.LeaseKeepAliveRequest{ID: int64(i + 1)}); err != nil {
				return err
			}
			resp, err := alive.Recv()
			if err != nil || resp.TTL != ttl {
				return fmt.Errorf("keep-alive of lease %d: %v, %w", i+1, resp, err)
			}
		}
		return alive.CloseSend()
	})
	gone, revisions := map[string]bool{}, map[int64]bool{}
	for len(gone) < n {
		resp, err := w.Recv()
		if err != nil {
			t.Fatalf("after %d of %d deletions: %v", len(gone), n, err)
		}
		for _, e := range resp.Events {
			if early := time.Duration(ttl)*time.Second - time.Since(renewed); early > 0 {
				t.Fatalf("%s was deleted %v before its lease was over", e.Kv.Key, early)
			}
			if gone[string(e.Kv.Key)] || revisions[e.Kv.ModRevision] {
				t.Fatalf("%s, revision %d: deleted twice, or with another lease's key", e.Kv.Key, e.Kv.ModRevision)
			}
			gone[string(e.Kv.Key)], revisions[e.Kv.ModRevision] = true, true
		}
	}
	took := time.Since(renewed) - time.Duration(ttl)*time.Second
	if took > time.Minute {
		t.Errorf("the last of %d leases was gone %v after its time", n, took)
	}
	left, err := pb.NewLeaseClient(conns[0]).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(left.Leases) != 0 {
		t.Errorf("%d leases are left", len(left.Leases))
	}
	return fmt.Sprintf("%d leases were gone within %.1f s of their time", n, took.Seconds())
}

// churn opens and closes connections, a thousand at a time, some in the middle of
// a request.
func churn(t *testing.T, v *victim) string {
	rounds := size(10, 2)
	for range rounds {
		each(t, 1000, 100, func(i int) error {
			conn := v.Dial(t)
			defer func() { _ = conn.Close() }()
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if i%4 == 3 {
				w, err := watchHot(ctx, conn)
				if err == nil && i%8 == 7 {
					err = w.CloseSend()
				}
				return err
			}
			if i%4 == 2 { // hang up while the answer is on its way
				hasty, hangUp := context.WithTimeout(ctx, time.Duration(v.rng2(i))*time.Microsecond)
				defer hangUp()
				_, err := pb.NewKVClient(conn).Range(hasty, &pb.RangeRequest{Key: []byte("small/"), RangeEnd: []byte("small0")})
				if c := status.Code(err); c != codes.OK && c != codes.DeadlineExceeded {
					return err
				}
				return nil
			}
			_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("small/000001")})
			return err
		})
	}
	return fmt.Sprintf("%d connections", 1000*rounds)
}

// rng2 is a pause in microseconds that depends on i alone, up to 20 ms.
func (v *victim) rng2(i int) int { return i * 7919 % 20_000 }

// bombs sends requests that are far larger once unpacked.
func bombs(t *testing.T, v *victim) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conns, hangUp := v.conns(t, 2)
	defer hangUp()
	n := size(8, 2)
	each(t, n, 2, func(i int) error {
		_, err := pb.NewKVClient(conns[i%len(conns)]).Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 256*mib)},
			grpc.UseCompressor(gzip.Name), grpc.MaxCallSendMsgSize(1<<30))
		if status.Code(err) != codes.ResourceExhausted {
			return fmt.Errorf("256 MiB of zeros: %w", err)
		}
		return nil
	})
	return fmt.Sprintf("%d times 256 MiB of zeros", n)
}
