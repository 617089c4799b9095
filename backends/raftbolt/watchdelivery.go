package raftbolt

import (
	"slices"

	"github.com/etcdshim/shim/backends"
)

// watchDelivery turns matched events into batches: those of one revision, or of
// one turn of catching up. Watches that get the same events share the list of
// them, and those of one stream the batch. It is used with the hub's mutex held.
type watchDelivery struct {
	touched []*watch
	streams []*watchStream
	groups  map[groupKey]*eventGroup
}

// groupKey says which watches may share events; equal lists have equal keys.
type groupKey struct {
	signature uint64
	prevKV    bool
}

// eventGroup is a list of events that at least one watch gets.
type eventGroup struct {
	hits   []*watchEvent
	events []backends.Event
	bytes  int64
}

// outBatch is a batch of a stream before it is queued.
type outBatch struct {
	group *eventGroup
	ids   []int64
}

func newWatchDelivery() *watchDelivery {
	return &watchDelivery{groups: make(map[groupKey]*eventGroup)}
}

// hit notes that a watch gets an event, the nth of the delivery.
func (d *watchDelivery) hit(w *watch, n int, e *watchEvent) {
	if len(w.hits) == 0 {
		d.touched = append(d.touched, w)
	}
	w.hits = append(w.hits, e)
	// FNV-1a over the numbers of the events.
	w.signature = (w.signature ^ uint64(n+1)) * 1099511628211
}

// flush queues the batches with a header. A stream whose queue is full gets
// nothing of it when fallBehind is given, which is called for it instead.
func (d *watchDelivery) flush(header backends.Header, fallBehind func(*watchStream)) error {
	for _, w := range d.touched {
		if s := w.stream; !s.taken {
			s.taken, s.skip = true, fallBehind != nil && s.queue.full.Load()
			d.streams = append(d.streams, s)
		}
	}
	var failed error
	for _, w := range d.touched {
		if !w.stream.skip && failed == nil {
			failed = d.assign(w)
		}
	}
	for _, s := range d.streams {
		for _, o := range s.out {
			s.queue.push(backends.WatchBatch{
				Kind: backends.WatchEvents, IDs: o.ids, Header: header, Events: o.group.events,
			}, o.group.bytes)
		}
		if s.skip {
			fallBehind(s)
		}
		clear(s.out)
		s.out, s.outOf, s.taken, s.skip = s.out[:0], nil, false, false
	}
	for _, w := range d.touched {
		clear(w.hits)
		w.hits, w.signature = w.hits[:0], 0
		if cap(w.hits) > 64 {
			w.hits = nil
		}
	}
	clear(d.touched)
	clear(d.streams)
	clear(d.groups)
	d.touched, d.streams = d.touched[:0], d.streams[:0]
	return failed
}

// assign puts a watch's events into a batch of its stream.
func (d *watchDelivery) assign(w *watch) error {
	g, err := d.group(w)
	if err != nil {
		return err
	}
	s := w.stream
	i, ok := 0, len(s.out) > 0 && s.out[0].group == g
	if !ok && len(s.out) > 1 {
		i, ok = s.outOf[g]
	}
	if ok {
		o := &s.out[i]
		if len(o.ids) == 1 {
			o.ids = slices.Clone(o.ids) // it is a watch's own
		}
		o.ids = append(o.ids, w.id)
		return nil
	}
	if len(s.out) > 0 {
		if s.outOf == nil {
			s.outOf = make(map[*eventGroup]int)
		}
		s.outOf[g] = len(s.out)
	}
	s.out = append(s.out, outBatch{group: g, ids: w.self})
	return nil
}

// group finds or encodes the list of a watch's events.
func (d *watchDelivery) group(w *watch) (*eventGroup, error) {
	key := groupKey{w.signature, w.prevKV}
	known := d.groups[key]
	if known != nil && slices.Equal(known.hits, w.hits) {
		return known, nil
	}
	g := &eventGroup{hits: w.hits, events: make([]backends.Event, len(w.hits))}
	for i, e := range w.hits {
		event, err := e.Encoded(w.prevKV)
		if err != nil {
			return nil, err
		}
		g.events[i] = event
		g.bytes += int64(len(event)) + eventOverheadBytes
	}
	if known == nil {
		d.groups[key] = g // else two lists of one signature: the second is not shared
	}
	return g, nil
}
