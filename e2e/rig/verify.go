package rig

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// keyValues is the state of every key at one revision.
type keyValues map[string]*mvccpb.KeyValue

// Verifier holds what a restarted server says against the Record. It lives over
// all rounds, from the empty store on, and knows every revision since: clients
// compact no revision that it has not seen.
type Verifier struct {
	rec *Record
	rng *rand.Rand

	// base is the compacted revision, with the state there; history is every
	// revision above it that was seen, without a gap, of which those up to explained
	// are explained, and make up state. All four are guarded by rec's lock.
	base      int64
	baseState keyValues
	history   []revision
	explained int64
	state     keyValues

	// compacted is the last compacted revision that was seen, which base follows at
	// the next Verify.
	compacted int64
	position  position
	// started is when a server was last seen to be up after a start.
	started time.Time

	// Events is how many events were compared, Resolved how many operations that
	// were never answered turned out to be done.
	Events, Resolved int
	// Expired is how many leases were seen to end by themselves with a key.
	Expired int
}

// NewVerifier makes a verifier of rec.
func NewVerifier(rec *Record) *Verifier {
	rec.witnessed = 1 // an empty store stands at revision 1
	return &Verifier{rec: rec, rng: rand.New(rand.NewPCG(1, 1)), baseState: keyValues{}, state: keyValues{}, explained: 1}
}

// Seen is the highest revision, and Compacted the highest compacted revision,
// that the verifier has seen.
func (v *Verifier) Seen() int64 { return v.explained }

// Compacted is described with Seen.
func (v *Verifier) Compacted() int64 { return v.compacted }

// Verify runs while no client writes; only leases with a short TTL may change
// the store meanwhile. After an error the verifier cannot be used again.
func (v *Verifier) Verify(ctx context.Context, conn *grpc.ClientConn) error {
	kv := pb.NewKVClient(conn)
	v.restarted()
	if err := v.Observe(ctx, conn); err != nil {
		return err
	}
	v.rec.Lock()
	defer v.rec.Unlock()
	head, err := kv.Range(ctx, &pb.RangeRequest{Key: every, RangeEnd: every, CountOnly: true})
	if err != nil {
		return err
	}
	now := head.Header.Revision
	if seen := max(v.rec.revision, v.rec.witnessed); now < seen {
		return fmt.Errorf("revision %d after the restart, but %d was acknowledged or seen", now, seen)
	}
	v.forget(v.compacted)
	compacted := int64(0)
	if now > 1 { // else a watch from the beginning is neither refused nor answered
		if compacted, err = v.compactedRevision(ctx, conn); err != nil {
			return err
		}
	}
	if err := v.walk(ctx, conn, compacted+1, now); err != nil {
		return err
	}
	if err := v.explainAll(); err != nil {
		return err
	}
	for _, at := range []int64{now, max(compacted, 1), max(compacted, 1) + v.rng.Int64N(now-max(compacted, 1)+1)} {
		if err := v.compareState(ctx, kv, at); err != nil {
			return err
		}
	}
	if err := v.compareLeases(ctx, conn); err != nil {
		return err
	}
	v.compacted = compacted
	v.rec.compacted, v.rec.maybeCompacted = compacted, compacted
	// What did not happen by now must never happen.
	clear(v.rec.unknown)
	v.rec.unknownDeletes = nil
	return nil
}

// forget drops the history up to a revision, which was compacted.
func (v *Verifier) forget(compacted int64) {
	for len(v.history) > 0 && v.history[0].number <= compacted {
		v.baseState.apply(v.history[0])
		v.history = v.history[1:]
	}
	v.base = compacted
}

// apply changes the state as r does.
func (s keyValues) apply(r revision) {
	for _, e := range r.events {
		if e.Type == mvccpb.Event_DELETE {
			delete(s, string(e.Kv.Key))
		} else {
			s[string(e.Kv.Key)] = e.Kv
		}
	}
}

// compactedRevision asks a watch from the beginning, which a compacted store
// refuses with the revision.
func (v *Verifier) compactedRevision(ctx context.Context, conn *grpc.ClientConn) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return 0, err
	}
	if err := w.Send(watchFrom(1)); err != nil {
		return 0, err
	}
	for {
		resp, err := w.Recv()
		if err != nil {
			return 0, err
		}
		if resp.Created && !resp.Canceled {
			continue
		}
		compacted := resp.CompactRevision
		if compacted != v.rec.compacted && compacted != v.rec.maybeCompacted {
			return 0, fmt.Errorf("compacted at %d, but %d was acknowledged and %d asked for", compacted, v.rec.compacted, v.rec.maybeCompacted)
		}
		if compacted < v.compacted {
			return 0, fmt.Errorf("compacted at %d, but earlier at %d", compacted, v.compacted)
		}
		return compacted, nil
	}
}

// walk reads all history there is, by a watch from its beginning. What was seen
// before must come again exactly; what follows is taken into the history.
func (v *Verifier) walk(ctx context.Context, conn *grpc.ClientConn, next, now int64) error {
	next = max(next, 2)
	if next > now {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	if err := w.Send(watchFrom(next)); err != nil {
		return err
	}
	for next <= now {
		resp, err := w.Recv()
		if err != nil {
			return fmt.Errorf("history at revision %d: %w", next, err)
		}
		if resp.Canceled {
			return fmt.Errorf("history at revision %d: cancelled, %q, compacted %d", next, resp.CancelReason, resp.CompactRevision)
		}
		revisions, err := split(resp.Events, next)
		if err != nil {
			return fmt.Errorf("history: %w", err)
		}
		for _, r := range revisions {
			if before := v.seen(r.number); before == nil {
				v.history = append(v.history, r)
				v.rec.witnessed = r.number
			} else if err := sameEvents(*before, r); err != nil {
				return err
			}
			v.Events += len(r.events)
		}
		next += int64(len(revisions))
	}
	return nil
}

// seen is the revision of that number in the history, nil if it is above it.
func (v *Verifier) seen(number int64) *revision {
	if len(v.history) == 0 || number > v.history[len(v.history)-1].number {
		return nil
	}
	return &v.history[number-v.history[0].number]
}

// sameEvents tells how a revision that is read again differs from what it was.
func sameEvents(before, again revision) error {
	if len(before.events) != len(again.events) {
		return fmt.Errorf("revision %d had %d events and has %d after the restart", before.number, len(before.events), len(again.events))
	}
	for i, e := range before.events {
		a := again.events[i]
		if e.Type != a.Type || !sameRecord(e.Kv, a.Kv) || !sameRecord(e.PrevKv, a.PrevKv) {
			return fmt.Errorf("revision %d: event %d was %s and is %s after the restart", before.number, i, showEvent(e), showEvent(a))
		}
	}
	return nil
}

func sameRecord(a, b *mvccpb.KeyValue) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return string(a.Key) == string(b.Key) && string(a.Value) == string(b.Value) && a.ModRevision == b.ModRevision &&
		a.CreateRevision == b.CreateRevision && a.Version == b.Version && a.Lease == b.Lease
}

func showEvent(e *mvccpb.Event) string {
	return fmt.Sprintf("%v %s, before %s", e.Type, showRecord(e.Kv), showRecord(e.PrevKv))
}

func showRecord(r *mvccpb.KeyValue) string {
	if r == nil {
		return "nothing"
	}
	return fmt.Sprintf("{%q = %.*q, created %d, modified %d, version %d, lease %x}", r.Key, shownValue, r.Value, r.CreateRevision, r.ModRevision, r.Version, r.Lease)
}

// pageKeys bounds one answer: some of the values are large.
const pageKeys = 200

// compareState compares every key at a revision with what the history gives.
func (v *Verifier) compareState(ctx context.Context, kv pb.KVClient, at int64) error {
	want := keyValues{}
	for key, r := range v.baseState {
		want[key] = r
	}
	for _, r := range v.history {
		if r.number > at {
			break
		}
		want.apply(r)
	}
	found := 0
	for from := every; ; {
		resp, err := kv.Range(ctx, &pb.RangeRequest{Key: from, RangeEnd: every, Revision: at, Limit: pageKeys})
		if err != nil {
			return fmt.Errorf("range at revision %d: %w", at, err)
		}
		if rest := int64(len(want) - found); resp.Count != rest {
			return fmt.Errorf("range at revision %d from %q on counts %d keys, the history gives %d", at, from, resp.Count, rest)
		}
		for _, r := range resp.Kvs {
			if !sameRecord(r, want[string(r.Key)]) {
				return fmt.Errorf("at revision %d there is %s, the history gives %s", at, showRecord(r), showRecord(want[string(r.Key)]))
			}
			from = append(append([]byte{}, r.Key...), 0)
		}
		found += len(resp.Kvs)
		if !resp.More {
			break
		}
	}
	if found != len(want) {
		return fmt.Errorf("%d keys at revision %d, the history gives %d", found, at, len(want))
	}
	return nil
}
