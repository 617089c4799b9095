package rig

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// revision is what one write changed.
type revision struct {
	number int64
	events []*mvccpb.Event
	// at is when its events came, if they came while it was made; else zero.
	at time.Time
}

// every is the range of all keys.
var every = []byte{0}

func watchFrom(start int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: every, RangeEnd: every, StartRevision: start, PrevKv: true,
	}}}
}

// Witness watches every key from where the verifier's history ends, until the
// server is gone or ctx ends, and keeps what it sees for the next Verify. With it,
// compactions of the clients follow close behind the writes; without it, none
// goes beyond the last Verify. It returns a GoneError, or what a correct watch
// cannot do: leave out a revision, repeat one, split one.
func (v *Verifier) Witness(ctx context.Context, conn *grpc.ClientConn) error {
	next := v.end() + 1
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err == nil {
		err = w.Send(watchFrom(next))
	}
	for err == nil {
		var resp *pb.WatchResponse
		if resp, err = w.Recv(); err != nil {
			break
		}
		if resp.Canceled {
			return fmt.Errorf("watch of everything at revision %d: cancelled, %q, compacted %d", next, resp.CancelReason, resp.CompactRevision)
		}
		revisions, wrong := split(resp.Events, next)
		if wrong != nil {
			return fmt.Errorf("watch of everything: %w", wrong)
		}
		v.take(revisions, time.Now())
		next += int64(len(revisions))
	}
	return GoneError{err}
}

// split cuts events into whole revisions, the first of which must be next.
func split(events []*mvccpb.Event, next int64) ([]revision, error) {
	var revisions []revision
	for len(events) > 0 {
		number := events[0].Kv.ModRevision
		n := slices.IndexFunc(events, func(e *mvccpb.Event) bool { return e.Kv.ModRevision != number })
		if n < 0 {
			n = len(events)
		}
		if number != next {
			return nil, fmt.Errorf("it goes from revision %d to %d", next-1, number)
		}
		revisions = append(revisions, revision{number: number, events: events[:n:n]})
		events = events[n:]
		next++
	}
	return revisions, nil
}

// end is the last revision that is in the history.
func (v *Verifier) end() int64 {
	v.rec.Lock()
	defer v.rec.Unlock()
	return v.rec.witnessed
}

// take adds revisions that follow the history, seen at the given time.
func (v *Verifier) take(revisions []revision, at time.Time) {
	v.rec.Lock()
	defer v.rec.Unlock()
	for _, r := range revisions {
		r.at = at
		v.history = append(v.history, r)
		v.rec.witnessed = r.number
	}
}
