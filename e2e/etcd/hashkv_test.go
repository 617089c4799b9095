package etcd

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

var (
	hashSeed      = flag.Uint64("hash-seed", 1, "first seed of TestHashKV")
	hashHistories = flag.Int("hash-histories", 3, "how many random histories TestHashKV compares")
	hashSteps     = flag.Int("hash-steps", 250, "steps of each")
)

// pair is etcd and shim, which get the same requests.
type pair struct {
	t     *testing.T
	flags [2][]string
	sides [2]*process.Server
	conns [2]*grpc.ClientConn
	// done are the requests so far, with etcd's answers.
	done []string
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t}
	peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
	for i, name := range []string{"etcd", "shim"} {
		p.flags[i] = []string{"--name", "default", "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
			"--listen-peer-urls", peer}
		p.sides[i] = process.Start(t, process.Binary(t, name), process.Port(t), t.TempDir(), p.flags[i]...)
	}
	p.await()
	return p
}

// restart ends both, cleanly or not, and starts them again.
func (p *pair) restart(kill bool) {
	p.t.Helper()
	for i, s := range p.sides {
		if kill {
			s.Kill()
		} else {
			s.Stop()
		}
		p.sides[i] = process.Start(p.t, process.Binary(p.t, []string{"etcd", "shim"}[i]), process.Port(p.t), s.DataDir, p.flags[i]...)
	}
	p.await()
}

func (p *pair) await() {
	p.t.Helper()
	for i, s := range p.sides {
		s.WaitReady(p.t)
		if p.conns[i] != nil {
			_ = p.conns[i].Close()
		}
		conn, err := grpc.NewClient(s.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			p.t.Fatal(err)
		}
		p.conns[i] = conn
		p.t.Cleanup(func() { _ = conn.Close() })
	}
}

// ask asks both at the same time; the answers must be equal as texts.
func (p *pair) ask(what string, do func(ctx context.Context, c *grpc.ClientConn) (string, error)) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	var got [2]string
	var wg sync.WaitGroup
	for i, c := range p.conns {
		wg.Go(func() {
			text, err := do(ctx, c)
			if err != nil {
				text = status.Convert(err).String()
			}
			got[i] = text
		})
	}
	wg.Wait()
	p.done = append(p.done, what+": "+got[0])
	if got[0] != got[1] {
		p.t.Errorf("%s, after\n%s:\netcd %s\nshim %s", what, strings.Join(p.done[max(0, len(p.done)-30):], "\n"), got[0], got[1])
	}
	return got[0]
}

func (p *pair) hash(revision int64) string {
	p.t.Helper()
	return p.ask(fmt.Sprintf("hash at %d", revision), func(ctx context.Context, c *grpc.ClientConn) (string, error) {
		r, err := pb.NewMaintenanceClient(c).HashKV(ctx, &pb.HashKVRequest{Revision: revision})
		return fmt.Sprintf("%d at %d, compacted at %d, current %d", r.GetHash(), r.GetHashRevision(), r.GetCompactRevision(), r.GetHeader().GetRevision()), err
	})
}

// TestHashKV ensures that HashKV is etcd's after the same requests: at every kind of
// revision, after compactions (waited for), at the revisions of compactions, also of
// compacted ones, after restarts and kills, and after a defragmentation. -hash-seed
// replays a history.
func TestHashKV(t *testing.T) {
	for seed := *hashSeed; seed < *hashSeed+uint64(*hashHistories); seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			h := &history{pair: newPair(t), r: rand.New(rand.NewPCG(seed, 0)), revision: 1}
			for range *hashSteps {
				h.step()
				if t.Failed() {
					t.FailNow()
				}
			}
			t.Logf("%d revisions, compactions at %v, %d hashes compared, %d restarts", h.revision, h.compactions, h.hashes, h.restarts)
			if h.hashes < *hashSteps || len(h.compactions) == 0 {
				t.Errorf("too little was compared")
			}
		})
	}
}

// history is a random history under way.
type history struct {
	*pair
	r           *rand.Rand
	revision    int64
	compactions []int64
	leases      []int64
	hashes      int
	restarts    int
}

func (h *history) key() []byte { return fmt.Appendf(nil, "k%02d", h.r.IntN(20)) }

func (h *history) put() *pb.PutRequest {
	p := &pb.PutRequest{Key: h.key(), Value: fmt.Appendf(nil, "%d", h.r.Uint32())}
	if len(h.leases) > 0 && h.r.IntN(4) == 0 {
		p.Lease = h.leases[h.r.IntN(len(h.leases))]
	}
	return p
}

// deletion deletes a key or an interval, everything only when alone: beside a put, etcd
// 3.7.3 fails to see that the key is changed twice, and after a compaction at that
// revision it has lost the put.
func (h *history) deletion(alone bool) *pb.DeleteRangeRequest {
	d := &pb.DeleteRangeRequest{Key: h.key()}
	switch n := h.r.IntN(8); {
	case n == 0 && alone:
		d.Key, d.RangeEnd = []byte{0}, []byte{0}
	case n < 3:
		d.RangeEnd = h.key()
	}
	return d
}

// write sends a write and notes the revision it made.
func (h *history) write(what string, do func(ctx context.Context, c *grpc.ClientConn) (*pb.ResponseHeader, error)) {
	h.t.Helper()
	revisions := make(chan int64, 2)
	h.ask(what, func(ctx context.Context, c *grpc.ClientConn) (string, error) {
		r, err := do(ctx, c)
		revisions <- r.GetRevision()
		return fmt.Sprint("revision ", r.GetRevision()), err
	})
	h.revision = max(h.revision, <-revisions, <-revisions)
}

func (h *history) step() {
	h.t.Helper()
	switch n := h.r.IntN(100); {
	case n < 50:
		r := h.put()
		h.write(fmt.Sprint("put ", r), func(ctx context.Context, c *grpc.ClientConn) (*pb.ResponseHeader, error) {
			a, err := pb.NewKVClient(c).Put(ctx, r)
			return a.GetHeader(), err
		})
	case n < 68:
		r := h.deletion(true)
		h.write(fmt.Sprint("delete ", r), func(ctx context.Context, c *grpc.ClientConn) (*pb.ResponseHeader, error) {
			a, err := pb.NewKVClient(c).DeleteRange(ctx, r)
			return a.GetHeader(), err
		})
	case n < 78: // refused by both when a key would be changed twice
		r := &pb.TxnRequest{}
		for range 1 + h.r.IntN(4) {
			if h.r.IntN(3) > 0 {
				r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: h.put()}})
			} else {
				r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: h.deletion(false)}})
			}
		}
		h.write(fmt.Sprint("txn ", r), func(ctx context.Context, c *grpc.ClientConn) (*pb.ResponseHeader, error) {
			a, err := pb.NewKVClient(c).Txn(ctx, r)
			return a.GetHeader(), err
		})
	case n < 82:
		h.lease()
	case n < 88:
		h.compact()
	case n < 90:
		h.restarts++
		h.restart(n == 88)
		h.settle()
	case n < 92:
		h.ask("defragment", func(ctx context.Context, c *grpc.ClientConn) (string, error) {
			_, err := pb.NewMaintenanceClient(c).Defragment(ctx, &pb.DefragmentRequest{})
			return "", err
		})
	}
	h.look()
}

func (h *history) lease() {
	if len(h.leases) > 0 && h.r.IntN(3) == 0 {
		i := h.r.IntN(len(h.leases))
		id := h.leases[i]
		h.leases = slices.Delete(h.leases, i, i+1)
		h.write("revoke", func(ctx context.Context, c *grpc.ClientConn) (*pb.ResponseHeader, error) {
			a, err := pb.NewLeaseClient(c).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
			return a.GetHeader(), err
		})
		return
	}
	id := 1 + h.r.Int64N(1<<40)
	h.leases = append(h.leases, id)
	h.write("grant", func(ctx context.Context, c *grpc.ClientConn) (*pb.ResponseHeader, error) {
		a, err := pb.NewLeaseClient(c).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 100_000})
		return a.GetHeader(), err
	})
}

// settle waits until a compaction that a kill interrupted is done: else the next one
// would take no hash. Both refuse to compact again, once what is under way is done.
func (h *history) settle() {
	h.t.Helper()
	if n := len(h.compactions); n > 0 {
		h.compactAt(slices.Max(h.compactions))
	}
}

func (h *history) compact() {
	at := h.revision - h.r.Int64N(min(h.revision, 30))
	if h.r.IntN(4) == 0 {
		at = h.revision
	}
	h.compactAt(at)
	h.compactions = append(h.compactions, at)
}

func (h *history) compactAt(at int64) {
	h.t.Helper()
	h.write(fmt.Sprint("compact at ", at), func(ctx context.Context, c *grpc.ClientConn) (*pb.ResponseHeader, error) {
		a, err := pb.NewKVClient(c).Compact(ctx, &pb.CompactionRequest{Revision: at, Physical: true})
		return a.GetHeader(), err
	})
}

// look compares hashes at some revisions.
func (h *history) look() {
	h.t.Helper()
	at := []int64{0, 1 + h.r.Int64N(h.revision+2)}
	if n := len(h.compactions); n > 0 {
		last := h.compactions[n-1]
		at = append(at, last, last+1, h.compactions[max(0, n-1-h.r.IntN(14))])
	}
	if h.r.IntN(10) == 0 {
		at = append(at, -1-h.r.Int64N(1<<60))
	}
	for _, revision := range at {
		h.hash(revision)
		h.hashes++
	}
}
