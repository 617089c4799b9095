package oracle

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func watchCalls() []call {
	return []call{{"Watch.Watch", 1, 30, (*generator).watch, (*generator).badWatch}}
}

// stream is the number of a watch stream, of the past or of the future. With
// authentication there is no future: its sentinel would need a right to write.
func (g *generator) stream() int {
	if g.profile.auth {
		return pick(g, 1, 2)
	}
	return pick(g, 1, 2, streamOfFuture, streamOfFuture+1)
}

// maxWatches bounds the ids of watches that a script uses.
const maxWatches = 12

func (g *generator) watch() {
	stream := g.stream()
	if g.profile.notified && g.IntN(60) == 0 {
		stream = pick(g, 1, 2) // in the future nothing is told
		r := g.create(stream)
		r.GetCreateRequest().ProgressNotify = true
		g.watchStep(stream, r)
		g.script = append(g.script, Step{Verb: verbNotify, Stream: stream})
		return
	}
	if g.profile.big > 0 && g.chance(20) {
		g.manyAtOnce()
		return
	}
	if g.profile.big > 0 && g.chance(40) { // more than goes into one message
		all := &pb.WatchCreateRequest{Key: []byte("k/"), RangeEnd: []byte("k0"), StartRevision: compacted(0), PrevKv: true, Fragment: g.chance(80)}
		g.watchStep(pick(g, 1, 2), &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: all}})
		return
	}
	switch n := g.IntN(20); {
	case n < 12:
		g.watchStep(stream, g.create(stream))
	case n < 16:
		g.watchStep(stream, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: g.watchID()}}})
	case n < 19:
		g.watchStep(stream, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	default:
		g.script = append(g.script, Step{Verb: verbClose, Stream: stream})
	}
}

// manyAtOnce has events of one revision, with the values before, that are more than goes into one message.
func (g *generator) manyAtOnce() {
	all := &pb.WatchCreateRequest{Key: []byte("k/"), RangeEnd: []byte("k0"), PrevKv: true, Fragment: g.chance(80)}
	g.watchStep(g.stream(), &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: all}})
	for i := range keys {
		g.add("KV.Put", &pb.PutRequest{Key: fmt.Appendf(nil, "k/%02d", i), Value: make([]byte, g.profile.big-g.IntN(5000))})
	}
	g.add("KV.DeleteRange", &pb.DeleteRangeRequest{Key: []byte("k/"), RangeEnd: []byte("k0")})
}

func (g *generator) watchStep(stream int, r proto.Message, rows ...int) {
	s := g.add("Watch.Watch", r, rows...)
	s.Stream = stream
}

// watchID is one that may be a watch: servers give them out from 0 on.
func (g *generator) watchID() int64 { return g.Int64N(maxWatches) }

func (g *generator) create(stream int) *pb.WatchRequest {
	c := &pb.WatchCreateRequest{PrevKv: g.chance(50), Fragment: g.chance(40), ProgressNotify: g.chance(20)}
	switch g.IntN(4) {
	case 0:
		c.Key = g.key()
	case 1:
		c.Key, c.RangeEnd = []byte("k/"), []byte("k0")
	case 2:
		c.Key, c.RangeEnd = []byte("k/0"), []byte("k/1")
	default:
		c.Key, c.RangeEnd = []byte{0}, []byte{0}
	}
	if g.chance(25) {
		c.Filters = pick(g,
			[]pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}, []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE},
			[]pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE},
			[]pb.WatchCreateRequest_FilterType{7})
	}
	if g.chance(40) {
		c.WatchId = 1 + g.Int64N(maxWatches-1)
	}
	switch {
	case stream >= streamOfFuture:
		if g.chance(50) {
			c.StartRevision = now(1 + g.IntN(6))
		}
	case g.chance(70):
		c.StartRevision = pick(g, now(-g.IntN(40)), now(0), compacted(0))
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: c}}
}

func (g *generator) badWatch() {
	stream := g.stream()
	r := g.create(stream)
	c := r.GetCreateRequest()
	switch g.IntN(8) {
	case 0:
		c.StartRevision = pick[int64](g, -1, -100)
		g.watchStep(stream, r, 27)
	case 1:
		c.Key, c.RangeEnd = []byte("k/05"), []byte(pick(g, "k/01", "k/05", "a"))
		if !g.mayInvert() {
			c.RangeEnd = c.Key
		}
		g.watchStep(stream, r, 28)
	case 2, 3:
		c.WatchId = 1 + g.Int64N(maxWatches-1)
		g.watchStep(stream, r, 28)
		again, _ := proto.Clone(r).(*pb.WatchRequest)
		g.watchStep(stream, again, 28)
	case 4:
		if stream < streamOfFuture {
			c.StartRevision = compacted(-1 - g.IntN(3))
			g.watchStep(stream, r, 26)
			return
		}
		c.StartRevision = now(1 + g.IntN(3))
		g.watchStep(stream, r, 29)
	case 5:
		c.Key, c.RangeEnd = nil, pick(g, nil, []byte{0}, []byte("k/05"))
		g.watchStep(stream, r, 29)
	case 6:
		cancel := &pb.WatchCancelRequest{WatchId: pick[int64](g, 77, -5, 1<<50)}
		g.watchStep(stream, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: cancel}}, 30)
	default:
		g.watchStep(stream, &pb.WatchRequest{}, 30)
	}
}
