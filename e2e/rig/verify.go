package rig

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// every is the range of all keys.
var every = []byte{0}

// Verifier holds what a restarted server says against the record. It lives over
// all rounds.
type Verifier struct {
	rec *Record
	// last is the newest operation known to have taken effect on each key.
	last map[string]*Op
	// seen is the highest revision and compacted the highest compacted revision
	// that any earlier round saw.
	seen, compacted int64
	// Events is how many events were compared, Resolved how many operations that
	// were never answered turned out to be done.
	Events, Resolved int
}

// NewVerifier makes a verifier of rec.
func NewVerifier(rec *Record) *Verifier { return &Verifier{rec: rec, last: map[string]*Op{}} }

// Seen is the highest revision, and Compacted the highest compacted revision,
// that the verifier has seen.
func (v *Verifier) Seen() int64 { return v.seen }

// Compacted is described with Seen.
func (v *Verifier) Compacted() int64 { return v.compacted }

// Verify runs while no client writes; only leases with a short TTL may change
// the store meanwhile.
func (v *Verifier) Verify(ctx context.Context, conn *grpc.ClientConn) error {
	kv := pb.NewKVClient(conn)
	v.rec.Lock()
	defer v.rec.Unlock()
	head, err := kv.Range(ctx, &pb.RangeRequest{Key: every, RangeEnd: every, CountOnly: true})
	if err != nil {
		return err
	}
	now := head.Header.Revision
	if now < v.rec.revision || now < v.seen {
		return fmt.Errorf("revision %d after the restart, but %d was acknowledged and %d seen", now, v.rec.revision, v.seen)
	}
	base, err := v.compactedRevision(ctx, conn)
	if err != nil {
		return err
	}
	state := map[string]*mvccpb.KeyValue{}
	if base > 0 {
		if state, err = v.stateAt(ctx, kv, base); err != nil {
			return err
		}
	}
	if err := v.walk(ctx, conn, state, base, now); err != nil {
		return err
	}
	if err := v.checkState(ctx, kv, state, now); err != nil {
		return err
	}
	if err := v.checkLeases(ctx, conn); err != nil {
		return err
	}
	v.seen, v.compacted = now, base
	// What did not happen by now must never happen.
	clear(v.rec.unknown)
	clear(v.rec.unknownDeletes)
	for revision := range v.rec.acked {
		if revision <= base {
			delete(v.rec.acked, revision)
		}
	}
	v.rec.compacted, v.rec.maybeCompacted = base, base
	return nil
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
		base := resp.CompactRevision
		if base != v.rec.compacted && base != v.rec.maybeCompacted {
			return 0, fmt.Errorf("compacted at %d, but %d was acknowledged and %d asked for", base, v.rec.compacted, v.rec.maybeCompacted)
		}
		if base < v.compacted {
			return 0, fmt.Errorf("compacted at %d, but earlier at %d", base, v.compacted)
		}
		return base, nil
	}
}

func watchFrom(revision int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: every, RangeEnd: every, StartRevision: revision, PrevKv: true,
	}}}
}

func (v *Verifier) stateAt(ctx context.Context, kv pb.KVClient, revision int64) (map[string]*mvccpb.KeyValue, error) {
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: every, RangeEnd: every, Revision: revision})
	if err != nil {
		return nil, fmt.Errorf("range at revision %d: %w", revision, err)
	}
	state := map[string]*mvccpb.KeyValue{}
	for _, r := range resp.Kvs {
		state[string(r.Key)] = r
	}
	if int64(len(state)) != resp.Count {
		return nil, fmt.Errorf("range at revision %d gave %d keys and counted %d", revision, len(state), resp.Count)
	}
	return state, nil
}

// walk replays every event in (base, now] onto state and explains each. No
// revision may be missing, so every acknowledged one is among them.
func (v *Verifier) walk(ctx context.Context, conn *grpc.ClientConn, state map[string]*mvccpb.KeyValue, base, now int64) error {
	next := max(base+1, 2) // an empty store stands at revision 1
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
	var pending []*mvccpb.Event
	for next <= now {
		resp, err := w.Recv()
		if err != nil {
			return fmt.Errorf("history at revision %d: %w", next, err)
		}
		if resp.Canceled {
			return fmt.Errorf("history at revision %d: cancelled, %q, compacted %d", next, resp.CancelReason, resp.CompactRevision)
		}
		pending = append(pending, resp.Events...)
		for len(pending) > 0 && next <= now {
			n := 0
			for n < len(pending) && pending[n].Kv.ModRevision == pending[0].Kv.ModRevision {
				n++
			}
			if got := pending[0].Kv.ModRevision; got != next {
				return fmt.Errorf("history goes from revision %d to %d", next-1, got)
			}
			if err := v.explain(state, next, pending[:n]); err != nil {
				return err
			}
			v.Events += n
			pending = pending[n:]
			next++
		}
	}
	return nil
}

// explain finds who made a revision, checks that it is there whole, and applies it.
func (v *Verifier) explain(state map[string]*mvccpb.KeyValue, revision int64, events []*mvccpb.Event) error {
	o := v.maker(revision, events)
	if o == nil {
		return fmt.Errorf("nobody wrote revision %d: %v", revision, events)
	}
	touched := map[string]bool{}
	for _, e := range events {
		key := string(e.Kv.Key)
		if !slices.Contains(o.Keys, key) || touched[key] {
			return fmt.Errorf("revision %d by %v touches %q", revision, o, key)
		}
		touched[key] = true
		before := state[key]
		if (before == nil) != (e.PrevKv == nil) || (before != nil && (e.PrevKv.ModRevision != before.ModRevision || string(e.PrevKv.Value) != string(before.Value))) {
			return fmt.Errorf("revision %d: previous record of %q is %v, it was %v", revision, key, e.PrevKv, before)
		}
		if o.Kind == Guarded && before.GetModRevision() != o.Guard {
			return fmt.Errorf("guarded write %v took effect on mod revision %d", o, before.GetModRevision())
		}
		if o.Deletes() != (e.Type == mvccpb.Event_DELETE) {
			return fmt.Errorf("revision %d by %v is a %v", revision, o, e.Type)
		}
		if o.Deletes() {
			delete(state, key)
		} else if string(e.Kv.Value) != o.Value || e.Kv.Lease != o.Lease {
			return fmt.Errorf("revision %d by %v has value %q and lease %d", revision, o, e.Kv.Value, e.Kv.Lease)
		} else {
			state[key] = e.Kv
		}
		v.last[key] = o
	}
	for _, key := range o.Keys {
		if !touched[key] && (!o.Deletes() || (state[key] != nil && o.Kind == Revoke)) {
			return fmt.Errorf("revision %d by %v is only half there: %q is missing", revision, o, key)
		}
	}
	o.Rev = revision
	v.rec.acked[revision] = o
	return nil
}

// maker returns the operation that made a revision: the one acknowledged with it,
// else one that was never answered, else the expiry of a lease.
func (v *Verifier) maker(revision int64, events []*mvccpb.Event) *Op {
	if o := v.rec.acked[revision]; o != nil {
		return o
	}
	if events[0].Type == mvccpb.Event_PUT {
		if o := v.rec.unknown[string(events[0].Kv.Value)]; o != nil && o.Rev == 0 {
			v.Resolved++
			return o
		}
		return nil
	}
	for _, o := range v.rec.unknownDeletes[string(events[0].Kv.Key)] {
		if o.Rev == 0 {
			v.Resolved++
			return o
		}
	}
	var keys []string
	for _, e := range events {
		if !v.rec.shortLived[string(e.Kv.Key)] {
			return nil
		}
		keys = append(keys, string(e.Kv.Key))
	}
	return &Op{Kind: Expire, Keys: keys}
}

// checkState compares every key at revision now with the newest operation on it,
// and with the replayed history.
func (v *Verifier) checkState(ctx context.Context, kv pb.KVClient, replayed map[string]*mvccpb.KeyValue, now int64) error {
	state, err := v.stateAt(ctx, kv, now)
	if err != nil {
		return err
	}
	if len(state) != len(replayed) {
		return fmt.Errorf("%d keys at revision %d, the history gives %d", len(state), now, len(replayed))
	}
	for key, r := range replayed {
		if s := state[key]; s == nil || s.ModRevision != r.ModRevision || string(s.Value) != string(r.Value) || s.Version != r.Version || s.CreateRevision != r.CreateRevision {
			return fmt.Errorf("key %q is %v at revision %d, the history gives %v", key, s, now, r)
		}
	}
	// What was acknowledged at or below the compacted revision has no event any
	// more; only its effect can be there.
	for _, o := range v.rec.acked {
		for _, key := range o.Keys {
			if last := v.last[key]; last == nil || last.Rev < o.Rev {
				v.last[key] = o
			}
		}
	}
	for key := range state {
		if v.last[key] == nil {
			v.last[key] = &Op{Kind: Delete, Keys: []string{key}} // it did not exist before
		}
	}
	for key, o := range v.last {
		s := state[key]
		switch {
		case o.Deletes() && s == nil:
		case !o.Deletes() && s != nil && s.ModRevision == o.Rev && string(s.Value) == o.Value:
		default:
			newer := v.compactedAway(key, o, s)
			if newer == nil {
				return fmt.Errorf("key %q is %v, but the newest write of it is %v", key, s, o)
			}
			v.last[key] = newer
		}
	}
	return nil
}

// compactedAway returns what, newer than o and with its event compacted away,
// explains the state of key: an operation never answered, or an expiry; nil if
// nothing does.
func (v *Verifier) compactedAway(key string, o *Op, s *mvccpb.KeyValue) *Op {
	if s == nil {
		if v.rec.shortLived[key] || len(v.rec.unknownDeletes[key]) > 0 {
			return &Op{Kind: Expire, Keys: []string{key}, Rev: o.Rev}
		}
		return nil
	}
	if u := v.rec.unknown[string(s.Value)]; u != nil && slices.Contains(u.Keys, key) && s.ModRevision > o.Rev {
		u.Rev = s.ModRevision
		return u
	}
	return nil
}

// checkLeases compares the leases with those acknowledged.
func (v *Verifier) checkLeases(ctx context.Context, conn *grpc.ClientConn) error {
	resp, err := pb.NewLeaseClient(conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return err
	}
	alive := map[int64]bool{}
	for _, l := range resp.Leases {
		alive[l.ID] = true
	}
	for id := range v.rec.longLeases {
		if !alive[id] {
			return fmt.Errorf("lease %x was granted for %d s and is gone", id, longTTL)
		}
	}
	for id := range v.rec.revoked {
		if alive[id] {
			return fmt.Errorf("lease %x was revoked and is back", id)
		}
	}
	return nil
}
