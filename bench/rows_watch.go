package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// fan is one key and everything that watches it.
type fan struct {
	t     *target
	index int
	// left is how many deliveries of the put under way are still to come; the last
	// one sends its time on delivered.
	left      atomic.Int64
	delivered chan time.Time
	streams   []*watchStream
	fail      context.CancelCauseFunc
}

// watchStream is one stream with watches of the same key. Between a put's begin and
// its last delivery its state belongs to the receiving goroutine.
type watchStream struct {
	fan    *fan
	client grpc.ClientStream
	// last are the mod revision and version of each watch's newest event, by id.
	last map[int64]*seen
	want []byte
}

type seen struct{ mod, version int64 }

// runWatch measures watches.sizes watches of one key, over so many streams, ten to a
// connection. One client puts the key, waits until every watch has the event, and
// puts again: the latency is from the put's begin to the last delivery, and an
// operation is a delivery.
func runWatch(streams func(sizes) int) func(context.Context, *target, time.Duration) (figure, error) {
	return func(ctx context.Context, t *target, d time.Duration) (figure, error) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		n := streams(t.sizes)
		conns, err := dial(t.address, connections(n))
		if err != nil {
			return figure{}, err
		}
		defer hangUp(conns)
		f := &fan{t: t, index: t.data.watched.first, delivered: make(chan time.Time, 1), fail: cancel}
		for i := range n {
			s := &watchStream{fan: f, last: map[int64]*seen{}}
			if err := s.open(ctx, conns[i%len(conns)], t.sizes.watches/n); err != nil {
				return figure{}, err
			}
			f.streams = append(f.streams, s)
		}
		for _, s := range f.streams {
			go s.receive(ctx)
		}
		got, err := measure(ctx, t, d, f.load)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return got, err
	}
}

// open creates the stream's watches and waits for each to be confirmed.
func (s *watchStream) open(ctx context.Context, conn *grpc.ClientConn, watches int) error {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, methodWatch)
	if err != nil {
		return err
	}
	s.client = stream
	f := s.fan
	request := encoded(appendBytes(nil, 1, appendBytes(nil, 1, f.t.data.keys[f.index]))) // WatchRequest.create_request.key
	for range watches {
		if err := stream.SendMsg(request); err != nil {
			return err
		}
		var created watched
		if err := stream.RecvMsg(&created); err != nil {
			return err
		}
		if !created.created || created.canceled || len(created.events) > 0 || s.last[created.id] != nil {
			return fmt.Errorf("the answer to a new watch is %+v", created)
		}
		s.last[created.id] = &seen{mod: f.t.mod[f.index], version: f.t.version[f.index]}
	}
	return nil
}

// receive verifies events until the stream ends.
func (s *watchStream) receive(ctx context.Context) {
	var response watched
	for {
		if err := s.client.RecvMsg(&response); err != nil {
			if ctx.Err() == nil {
				s.fan.fail(fmt.Errorf("watch stream: %w", err))
			}
			return
		}
		if err := s.check(&response); err != nil {
			s.fan.fail(err)
			return
		}
		if s.fan.left.Add(-int64(len(response.events))) == 0 {
			s.fan.delivered <- time.Now()
		}
	}
}

// check verifies that the events of a response are the next of their watch: the next
// version of the key, at a later revision, with the right bytes.
func (s *watchStream) check(w *watched) error {
	last := s.last[w.id]
	if last == nil || w.created || w.canceled || w.deletes > 0 {
		return fmt.Errorf("watch %d: created %t, canceled %t, %d deletes: not expected", w.id, w.created, w.canceled, w.deletes)
	}
	for _, record := range w.events {
		mod := modRevision(record)
		if mod <= last.mod || mod > w.revision {
			return fmt.Errorf("watch %d: event at revision %d after %d, header %d", w.id, mod, last.mod, w.revision)
		}
		create := s.fan.t.create[s.fan.index]
		if create == 0 {
			create = mod // the first put of the key is under way
		}
		s.want = s.fan.t.data.appendRecord(s.want[:0], s.fan.index, create, mod, last.version+1)
		if string(record) != string(s.want) {
			return fmt.Errorf("watch %d: event is %q; it must be %q", w.id, record, s.want)
		}
		last.mod, last.version = mod, last.version+1
	}
	return nil
}

// modRevision reads the mod revision of an encoded record; -1 if it has none.
func modRevision(record []byte) int64 {
	for len(record) > 0 {
		number, kind, n := protowire.ConsumeTag(record)
		if n < 0 {
			return -1
		}
		record = record[n:]
		if number == 3 && kind == protowire.VarintType {
			v, n := protowire.ConsumeVarint(record)
			if n < 0 {
				return -1
			}
			return int64(v)
		}
		if n = protowire.ConsumeFieldValue(number, kind, record); n < 0 {
			return -1
		}
		record = record[n:]
	}
	return -1
}

// load puts the key again and again; each time every watch must get the event.
func (f *fan) load(ctx context.Context, d time.Duration) (samples, error) {
	builder := &requestBuilder{data: f.t.data}
	var got samples
	for end := time.Now().Add(d); time.Now().Before(end); {
		f.left.Store(int64(f.t.sizes.watches))
		begin := time.Now()
		var answer written
		if err := call(ctx, f.t.control, methodPut, builder.put(f.index, f.t.version[f.index]+1), &answer); err != nil {
			return got, err
		}
		var last time.Time
		select {
		case last = <-f.delivered:
		case <-time.After(deliveryTimeout):
			return got, fmt.Errorf("%d watches have not got the event of revision %d after %s", f.left.Load(), answer.revision, deliveryTimeout)
		case <-ctx.Done():
			return got, context.Cause(ctx)
		}
		f.t.put(f.index, answer.revision)
		if err := f.agree(); err != nil {
			return got, err
		}
		got.latencies = append(got.latencies, last.Sub(begin))
		got.ops += int64(f.t.sizes.watches)
	}
	return got, nil
}

// deliveryTimeout bounds how long one event may take to all watches.
const deliveryTimeout = 30 * time.Second

// agree verifies that every watch's newest event is that of the last put. All have
// been delivered, so that no receiver writes.
func (f *fan) agree() error {
	for _, s := range f.streams {
		for id, last := range s.last {
			if last.mod != f.t.mod[f.index] || last.version != f.t.version[f.index] {
				return fmt.Errorf("watch %d stands at revision %d, version %d; the last put was at %d, version %d", id, last.mod, last.version, f.t.mod[f.index], f.t.version[f.index])
			}
		}
	}
	return nil
}
