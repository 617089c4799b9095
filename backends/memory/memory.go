package memory

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/etcdshim/shim/backends"
)

func init() {
	backends.Register(backends.Driver{Scheme: "memory", Open: open})
}

// The ids in every header. There is one member, which leads from the start.
const (
	clusterID = 0x7368696d6d656d00 // "shimmem" and a zero byte
	memberID  = 0x7368696d6d656d01
	term      = 1
)

// treeDegree is the btree's; 32 is the library's own example.
const treeDegree = 32

// Backend is the store. It implements backends.Backend and backends.Leases.
type Backend struct {
	clock backends.Clock

	mu     sync.Mutex
	closed bool
	// revision is the last one made. An empty store is at 1, as etcd's is.
	revision int64
	// index counts the requests that changed something, as the index of a log would.
	index uint64
	// compacted is the revision of the last compaction, -1 before the first:
	// etcd starts there, so that a compaction at 0 succeeds once.
	compacted int64
	items     *btree.BTreeG[*item]
	// sizeBytes is the encoded size of all records in items.
	sizeBytes int64

	// log holds the events of every revision in [logFirst, revision], in order.
	// It is zero until a compaction took something out of the log.
	log      []event
	logFirst int64

	leases map[int64]*lease
	// nextDeadline is at or before every lease's deadline; zero without leases.
	nextDeadline time.Time
	lastLeaseID  int64

	// changed is closed, and replaced, when a stream may have something to yield.
	changed chan struct{}
	// leaseSooner holds a token when nextDeadline moved to an earlier time.
	leaseSooner chan struct{}
	stop        chan struct{} // closed by Close
	done        chan struct{} // closed when the goroutine has ended
}

func open(_ context.Context, u *url.URL, env backends.Env) (backends.Backend, error) {
	if u.Host != "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.Opaque != "" {
		return nil, fmt.Errorf("backend URL %q: memory takes no address and no path (want memory://)", u.Redacted())
	}
	return New(env.Clock), nil
}

// New makes an empty store at revision 1. Close ends its goroutine.
func New(clock backends.Clock) *Backend {
	b := &Backend{
		clock:       clock,
		revision:    1,
		compacted:   -1,
		items:       btree.NewG(treeDegree, itemLess),
		leases:      make(map[int64]*lease),
		changed:     make(chan struct{}),
		leaseSooner: make(chan struct{}, 1),
		stop:        make(chan struct{}),
		done:        make(chan struct{}),
	}
	go b.expireWhenIdle()
	return b
}

// enter begins a request: it takes the mutex, which the caller must unlock
// unless there is an error, and ends the leases whose time is over.
func (b *Backend) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return backends.ErrStopped
	}
	b.expire()
	return nil
}

// wake lets every stream look again whether there is something to yield.
func (b *Backend) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *Backend) header() backends.Header { return headerAt(b.revision) }

func headerAt(revision int64) backends.Header {
	return backends.Header{ClusterID: clusterID, MemberID: memberID, Revision: revision, Term: term}
}

// Compact implements backends.Backend. History goes at once, so that
// req.Physical makes no difference.
func (b *Backend) Compact(ctx context.Context, req *backends.CompactRequest) (backends.Header, error) {
	if err := b.enter(ctx); err != nil {
		return backends.Header{}, err
	}
	defer b.mu.Unlock()
	if req.Revision <= b.compacted {
		return backends.Header{}, backends.ErrCompacted
	}
	if req.Revision > b.revision {
		return backends.Header{}, backends.ErrFutureRevision
	}
	b.index++
	b.compacted = req.Revision
	b.forget()
	b.trimLog()
	b.wake() // a watch may have lost what it needs
	return b.header(), nil
}

// Status implements backends.Backend.
func (b *Backend) Status(ctx context.Context) (backends.Status, error) {
	if err := b.enter(ctx); err != nil {
		return backends.Status{}, err
	}
	defer b.mu.Unlock()
	return backends.Status{
		Header:          b.header(),
		CompactRevision: max(b.compacted, 0),
		SizeBytes:       b.sizeBytes,
		SizeInUseBytes:  b.sizeBytes,
		Leader:          memberID,
		RaftIndex:       b.index,
		AppliedIndex:    b.index,
	}, nil
}

// Info implements backends.Backend.
func (b *Backend) Info() backends.Info {
	return backends.Info{
		Name:         "memory",
		KeyAlphabet:  backends.AnyBytes,
		MultiKeyTxn:  true,
		OldRevisions: true,
		Versions:     true,
	}
}

// Close implements backends.Backend. Everything kept is lost.
func (b *Backend) Close(context.Context) error {
	b.mu.Lock()
	b.closed = true
	b.wake()
	b.mu.Unlock()
	close(b.stop)
	<-b.done
	return nil
}
