package rig

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// explainAll finds who made each revision that is new in the history, checks that
// it is there whole and as it was acknowledged, and applies it to the state.
func (v *Verifier) explainAll() error {
	for _, r := range v.history {
		if r.number <= v.explained {
			continue
		}
		if err := v.explain(r); err != nil {
			return err
		}
		v.state.apply(r)
		v.explained = r.number
		delete(v.rec.acked, r.number)
	}
	// No revision is missing up to the present one, and so nothing that was acknowledged.
	for number, o := range v.rec.acked {
		return fmt.Errorf("revision %d was acknowledged, and is not in the history up to %d: %v", number, v.explained, o)
	}
	return nil
}

func (v *Verifier) explain(r revision) error {
	o := v.maker(r)
	if o == nil {
		return fmt.Errorf("nobody wrote revision %d: %s", r.number, showEvents(r.events))
	}
	want := v.keysOf(o)
	for _, e := range r.events {
		key := string(e.Kv.Key)
		at := slices.Index(want, key)
		if at < 0 {
			return fmt.Errorf("revision %d by %v touches %q", r.number, o, key)
		}
		want = slices.Delete(want, at, at+1)
		if err := v.explainEvent(r.number, o, e); err != nil {
			return err
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("revision %d by %v is only half there: %q is missing", r.number, o, want)
	}
	o.Rev = r.number
	switch o.Kind {
	case Expire:
		v.Expired++
		return v.explainExpiry(r, o.Lease)
	case Revoke:
		v.rec.leases[o.Lease].gone = true
	}
	return nil
}

// explainEvent compares one event with the state before it and with its maker.
func (v *Verifier) explainEvent(number int64, o *Op, e *mvccpb.Event) error {
	before := v.state[string(e.Kv.Key)]
	if !sameRecord(before, e.PrevKv) {
		return fmt.Errorf("revision %d: the previous record is %s, it was %s", number, showRecord(e.PrevKv), showRecord(before))
	}
	if o.Kind == Guarded && before.GetModRevision() != o.Guard {
		return fmt.Errorf("guarded write %v took effect on mod revision %d", o, before.GetModRevision())
	}
	if o.Deletes() != (e.Type == mvccpb.Event_DELETE) {
		return fmt.Errorf("revision %d by %v is a %v", number, o, e.Type)
	}
	if o.Deletes() {
		return nil
	}
	want := &mvccpb.KeyValue{Key: e.Kv.Key, Value: []byte(o.Value), Lease: o.Lease, ModRevision: number, CreateRevision: number, Version: 1}
	if before != nil {
		want.CreateRevision, want.Version = before.CreateRevision, before.Version+1
	}
	if !sameRecord(want, e.Kv) {
		return fmt.Errorf("revision %d by %v is %s, and should be %s", number, o, showRecord(e.Kv), showRecord(want))
	}
	return nil
}

// maker returns the operation that made a revision: the one acknowledged with it,
// else one that was never answered, else the expiry of a lease.
func (v *Verifier) maker(r revision) *Op {
	if o := v.rec.acked[r.number]; o != nil {
		return o
	}
	first := r.events[0]
	key := string(first.Kv.Key)
	if first.Type == mvccpb.Event_PUT {
		if o := v.rec.unknown[string(first.Kv.Value)]; o != nil && o.Rev == 0 {
			v.Resolved++
			return o
		}
		return nil
	}
	for _, o := range v.rec.unknownDeletes {
		if o.Rev == 0 && slices.Contains(v.keysOf(o), key) {
			v.Resolved++
			return o
		}
	}
	if id := v.state[key].GetLease(); id != 0 && v.rec.leases[id] != nil && v.rec.leases[id].ttl < longTTL {
		return &Op{Kind: Expire, Lease: id}
	}
	return nil
}

// keysOf lists what an operation touches, on the present state.
func (v *Verifier) keysOf(o *Op) []string {
	var keys []string
	for key, r := range v.state {
		switch o.Kind {
		case DeleteRange:
			if key >= o.Keys[0] && key < o.Keys[1] {
				keys = append(keys, key)
			}
		case Revoke, Expire:
			if r.Lease == o.Lease {
				keys = append(keys, key)
			}
		default:
			return slices.Clone(o.Keys)
		}
	}
	if o.Kind == DeleteRange || o.Kind == Revoke || o.Kind == Expire {
		return keys
	}
	return slices.Clone(o.Keys) // the state is empty
}

// explainExpiry judges when a lease ended by itself.
func (v *Verifier) explainExpiry(r revision, id int64) error {
	l := v.rec.leases[id]
	l.gone = true
	at := r.at
	if at.IsZero() {
		at = time.Now() // it ended before now
	}
	if at.Before(l.until) {
		return fmt.Errorf("lease %x ended at revision %d, %v before its time", id, r.number, l.until.Sub(at))
	}
	if r.at.IsZero() {
		return nil
	}
	if late := r.at.Sub(v.mustEnd(l)); late > 0 {
		return fmt.Errorf("lease %x ended at revision %d, %v after its time", id, r.number, late)
	}
	return nil
}

// LeaseSlack bounds how late a lease ends: the election time-out that each start
// adds, and what a busy machine takes to revoke it and to tell.
const LeaseSlack = 10 * time.Second

// mustEnd is when a lease that nobody renews has ended for certain: its TTL counts
// anew after each start.
func (v *Verifier) mustEnd(l *lease) time.Time {
	from := l.touched
	if v.started.After(from) {
		from = v.started
	}
	return from.Add(l.ttl + LeaseSlack)
}

// shownEvents bounds what is printed of a revision.
const shownEvents = 10

func showEvents(events []*mvccpb.Event) string {
	var shown []string
	for _, e := range events[:min(len(events), shownEvents)] {
		shown = append(shown, showEvent(e))
	}
	return strings.Join(shown, "; ")
}
