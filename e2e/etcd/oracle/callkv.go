package oracle

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// kvCalls are the RPCs of KV but Txn.
func kvCalls() []call {
	return []call{
		{"KV.Range", 6, 25, func(g *generator) { g.add("KV.Range", g.rangeRequest()) }, (*generator).badRange},
		{"KV.RangeStream", 3, 30, func(g *generator) { g.add("KV.RangeStream", g.streamRequest()) }, (*generator).badRangeStream},
		{"KV.Put", 7, 15, func(g *generator) { g.add("KV.Put", g.putRequest()) }, (*generator).badPut},
		{"KV.DeleteRange", 3, 25, func(g *generator) { g.add("KV.DeleteRange", g.deleteRequest()) }, (*generator).badDelete},
		{"KV.Compact", 2, 40, (*generator).compact, (*generator).badCompact},
	}
}

// keys is how many keys there are of most of those that are asked for.
const keys = 14

// key is one of few, so that calls meet.
func (g *generator) key() []byte {
	switch g.IntN(12) {
	case 0:
		return []byte(pick(g, "a", "b", "ab", "c"))
	case 1:
		return []byte(pick(g, "\x00", "\x00\x00", "\xff", "k", "k/", "ключ"))
	default:
		return fmt.Appendf(nil, "k/%02d", g.IntN(keys))
	}
}

// keyRange is a key alone, a prefix, an interval, all from a key on, or everything.
func (g *generator) keyRange() (key, end []byte) {
	switch g.IntN(10) {
	case 0, 1, 2:
		return g.key(), nil
	case 3, 4:
		return []byte("k/"), []byte("k0")
	case 5:
		return []byte("k/0"), []byte("k/1")
	case 6:
		return g.key(), []byte{0}
	case 7:
		return []byte{0}, []byte{0}
	default:
		key, end = g.key(), g.key()
		if string(end) < string(key) && !g.mayInvert() {
			key, end = end, key
		}
		return key, end
	}
}

// mayInvert tells whether the end of a range may be below its key: see notAsked.
func (g *generator) mayInvert() bool { return !g.profile.auth || g.user == "root" }

func (g *generator) value() []byte {
	switch {
	case g.profile.big > 0 && g.chance(50):
		v := make([]byte, g.profile.big/2+g.IntN(g.profile.big/2))
		for i := range v {
			v[i] = byte('a' + i%23)
		}
		return v
	case g.chance(3):
		return make([]byte, 1000+g.IntN(5000))
	default:
		return []byte(pick(g, "", "1", "2", "v", "value", fmt.Sprint(g.IntN(1000))))
	}
}

// revision is one that may be readable: none, the present, recent ones.
func (g *generator) revision() int64 {
	switch g.IntN(8) {
	case 0, 1, 2, 3:
		return 0
	case 4:
		return now(0)
	case 5:
		return compacted(0)
	case 6:
		return compacted(1)
	default:
		return now(-g.IntN(12))
	}
}

// bound is a revision to filter by, mostly none.
func (g *generator) bound() int64 {
	if g.chance(75) {
		return 0
	}
	return pick(g, now(-g.IntN(20)), now(0), now(5), 1, 3, -1)
}

func (g *generator) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{Revision: g.revision(), Serializable: g.chance(30), KeysOnly: g.chance(20), CountOnly: g.chance(10)}
	r.Key, r.RangeEnd = g.keyRange()
	if g.chance(40) {
		r.Limit = pick[int64](g, 1, 2, 3, 5, 1000, 1<<40)
	}
	if g.chance(35) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.IntN(5))
	}
	if g.chance(25) {
		r.MinModRevision, r.MaxModRevision = g.bound(), g.bound()
		r.MinCreateRevision, r.MaxCreateRevision = g.bound(), g.bound()
	}
	return r
}

func (g *generator) badRange() {
	r := g.rangeRequest()
	var row int
	n := g.IntN(6)
	if n == 3 && !g.mayInvert() {
		n = 0
	}
	switch n {
	case 0:
		r.Key, row = nil, 1
	case 1:
		r.Revision, row = now(1+g.IntN(5)), 6
	case 2:
		r.Revision, row = compacted(-1-g.IntN(3)), 7
	case 3:
		r.Limit, r.Revision, row = pick[int64](g, -1, -5), pick[int64](g, 0, -1, -7), 8
		r.Key, r.RangeEnd = []byte("k/09"), []byte(pick(g, "k/01", "k/09", "k/"))
	case 4:
		r.SortOrder, row = pb.RangeRequest_SortOrder(pick(g, 3, 7, -1)), 9
		r.SortTarget = pb.RangeRequest_SortTarget(g.IntN(5))
	default:
		r.SortTarget, row = pb.RangeRequest_SortTarget(pick(g, 5, 9, -1)), 9
		r.SortOrder = pb.RangeRequest_SortOrder(g.IntN(3))
	}
	rows := []int{row}
	if row == 9 {
		rows = append(rows, 34)
	}
	g.add("KV.Range", r, rows...)
}

// streamRequest is a range that RangeStream takes: without an order or a filter by
// revision. A target without an order is not asked for: see notAsked.
func (g *generator) streamRequest() *pb.RangeRequest {
	r := g.rangeRequest()
	r.SortOrder, r.SortTarget = pb.RangeRequest_NONE, pb.RangeRequest_KEY
	if g.chance(10) {
		r.SortOrder = pb.RangeRequest_ASCEND
	}
	r.MinModRevision, r.MaxModRevision, r.MinCreateRevision, r.MaxCreateRevision = 0, 0, 0, 0
	return r
}

func (g *generator) badRangeStream() {
	r := g.streamRequest()
	var row int
	switch g.IntN(6) {
	case 0:
		r.Key, row = nil, 1
	case 1:
		r.Revision, row = now(1+g.IntN(5)), 6
	case 2:
		r.Revision, row = compacted(-1-g.IntN(3)), 7
	case 3:
		r.SortOrder, r.SortTarget, row = pick(g, pb.RangeRequest_DESCEND, pb.RangeRequest_ASCEND), pb.RangeRequest_SortTarget(1+g.IntN(4)), 63
	case 4:
		r.SortOrder, row = pb.RangeRequest_SortOrder(pick(g, 3, -1)), 34
	default:
		*pick(g, &r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision) = pick(g, now(0), 1, -1)
		g.add("KV.RangeStream", r)
		return
	}
	g.add("KV.RangeStream", r, row)
}

func (g *generator) putRequest() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: g.chance(30)}
	if g.chance(15) {
		r.Lease = g.lease()
	}
	switch g.IntN(20) {
	case 0:
		r.IgnoreValue, r.Value = true, nil
	case 1:
		r.IgnoreLease, r.Lease = true, 0
	}
	return r
}

func (g *generator) badPut() {
	r := g.putRequest()
	r.IgnoreLease, r.IgnoreValue = false, false
	var row int
	switch g.IntN(40) {
	case 0:
		r.Value, row = make([]byte, 1572864+10), 18
	case 1:
		r.Value, row = make([]byte, 3<<20), 19
	default:
		switch g.IntN(5) {
		case 0:
			r.Key, row = nil, 1
		case 1:
			r.IgnoreValue, r.Value, row = true, []byte("v"), 2
		case 2:
			r.IgnoreLease, r.Lease, row = true, 1, 3
		case 3:
			r.Key, r.Value, r.Lease, row = []byte("never"), nil, 0, 4
			r.IgnoreValue = g.chance(50)
			r.IgnoreLease = !r.IgnoreValue
		default:
			r.Lease, row = pick[int64](g, 987654321, -987654321), 5
		}
	}
	g.add("KV.Put", r, row)
}

func (g *generator) deleteRequest() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{PrevKv: g.chance(40)}
	if r.Key, r.RangeEnd = g.keyRange(); len(r.RangeEnd) > 0 && g.chance(70) {
		r.RangeEnd = nil // else there is soon nothing left
	}
	return r
}

func (g *generator) badDelete() {
	r := g.deleteRequest()
	r.Key = nil
	g.add("KV.DeleteRange", r, 1)
}

// compact forgets a little: what is left of history is what there is to read.
func (g *generator) compact() {
	if g.profile.big > 0 && g.chance(80) { // enough to be told in fragments
		g.add("KV.Compact", &pb.CompactionRequest{Revision: now(-80 - g.IntN(40)), Physical: g.chance(50)})
		return
	}
	g.add("KV.Compact", &pb.CompactionRequest{Revision: pick(g, now(-g.IntN(12)), now(-g.IntN(6)), compacted(2+g.IntN(3)), now(0)), Physical: g.chance(50)})
}

func (g *generator) badCompact() {
	r := &pb.CompactionRequest{Physical: g.chance(50)}
	row := 10
	if g.chance(30) {
		r.Revision = now(1 + g.IntN(9))
	} else {
		r.Revision, row = pick(g, compacted(0), compacted(-1), 0, -1, -99), 11
	}
	g.add("KV.Compact", r, row)
}
