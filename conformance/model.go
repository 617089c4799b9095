package conformance

import (
	"fmt"
	"math/rand/v2"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/memory"
)

const (
	// modelOps is the number of requests of one random sequence.
	modelOps = 400
	// modelKeys and modelLeases are few, so that requests meet.
	modelKeys, modelLeases = 8, 4
)

// modelCases send random requests to the endpoint and to the executable specification, and
// compare every answer and every event.
func modelCases() []Case {
	var cases []Case
	for seed := uint64(1); seed <= 4; seed++ {
		cases = append(cases, Case{Name: fmt.Sprintf("model/seed-%d", seed), RPC: "KV.Txn",
			Run: func(c *C) { modelRun(c, seed) }})
	}
	return append(cases, Case{Name: "model/new-seed", RPC: "KV.Txn", Run: func(c *C) { modelRun(c, rand.Uint64()) }})
}

// modelRun compares the endpoint with memory.
func modelRun(c *C, seed uint64) {
	reference := Serve(c.T, "memory", memory.New(backends.SystemClock{}), Live)
	Compare(c, reference, seed)
}

// side is one of the two servers that are compared. Revisions are told relative to base.
type side struct {
	*C
	base    int64
	now     int64 // the current revision, relative
	leases  []int64
	watches []*watchStream
	renew   func(int64) *pb.LeaseKeepAliveResponse
}

// Compare sends one random sequence to c's endpoint and to reference, and compares.
func Compare(c *C, reference *Endpoint, seed uint64) {
	c.Helper()
	c.Logf("seed %d", seed)
	other := newC(c.T, reference, "model")
	other.prefix = c.prefix
	sides := [2]*side{{C: c}, {C: other}}
	ids := rand.New(rand.NewPCG(seed, 1))
	var leases []int64
	for range modelLeases {
		leases = append(leases, ids.Int64N(1<<61)+1<<61)
	}
	for _, s := range sides {
		s.leases = leases
		s.base = s.put("start", "").Header.Revision
		s.compact(s.base, false) // both begin at a compaction
		for _, r := range modelWatches(s) {
			w := s.open()
			w.create(r)
			s.watches = append(s.watches, w)
		}
		if s.Endpoint.Capabilities[Leases] {
			s.renew = s.keepAlive()
		}
	}
	if sides[0].renew == nil || sides[1].renew == nil {
		sides[0].renew, sides[1].renew = nil, nil
	}
	random := rand.New(rand.NewPCG(seed, 2))
	for i := range modelOps {
		at := random.Uint64()
		var sent, got [2]string
		for j, s := range sides {
			sent[j], got[j] = s.step(rand.New(rand.NewPCG(at, 3)))
		}
		if got[0] != got[1] {
			c.Fatalf("seed %d, request %d: %s\n%s answers %s\n%s answers %s", seed, i, sent[0],
				c.Endpoint.Name, got[0], reference.Name, got[1])
		}
	}
	compareWatches(c, sides, seed)
	for _, s := range sides {
		for _, id := range leases {
			// Some are revoked already; the answer does not matter.
			_, _ = s.Lease.LeaseRevoke(s.Ctx, &pb.LeaseRevokeRequest{ID: id})
		}
	}
}

// modelWatches are watches that are open from the start to the end.
func modelWatches(s *side) []*pb.WatchCreateRequest {
	return []*pb.WatchCreateRequest{
		{Key: s.key(""), RangeEnd: s.end("")},
		{Key: s.key("k3"), RangeEnd: s.end("")},
		{Key: s.key(""), RangeEnd: s.end(""), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}},
		{Key: s.key(""), RangeEnd: s.end(""), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}},
	}
}

// compareWatches opens watches over the history, ends all with a put and a delete of
// one key, and compares what each told.
func compareWatches(c *C, sides [2]*side, seed uint64) {
	c.Helper()
	for _, s := range sides {
		for from := int64(0); from <= s.now; from += max(1, s.now/7) {
			w := s.open()
			w.create(&pb.WatchCreateRequest{Key: s.key(""), RangeEnd: s.end(""), StartRevision: s.base + from, PrevKv: true})
			s.watches = append(s.watches, w)
		}
		s.put("~end", "")
		s.del("~end")
	}
	for i := range sides[0].watches {
		a, b := sides[0].told(i), sides[1].told(i)
		for j := range max(len(a), len(b)) {
			if j >= len(a) || j >= len(b) || a[j] != b[j] {
				c.Fatalf("seed %d, watch %d: event %d of %d and %d differs:\n%s\n%s", seed, i, j, len(a), len(b), at(a, j), at(b, j))
			}
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(none)"
}

// told receives what watch i tells until the last event that it may tell.
func (s *side) told(i int) []string {
	s.Helper()
	var lines []string
	for {
		r := s.watches[i].recv()
		if r.Canceled {
			return append(lines, fmt.Sprintf("canceled, compacted at %d", r.CompactRevision-s.base))
		}
		for _, e := range r.Events {
			s.relative(e.ProtoReflect())
			lines = append(lines, text(e))
			last := e.Type == mvccpb.Event_DELETE || i == 3 // watch 3 is told no deletes
			if last && string(e.Kv.Key) == string(s.key("~end")) {
				return lines
			}
		}
	}
}

// step sends one request, chosen by random, and returns it and its answer as text.
func (s *side) step(random *rand.Rand) (string, string) {
	s.Helper()
	kind := random.IntN(100)
	if s.renew == nil {
		kind %= 85 // below: no leases
	}
	var request, answer proto.Message
	var err error
	switch {
	case kind < 25:
		r := s.randomPut(random)
		request = r
		answer, err = s.KV.Put(s.Ctx, r)
	case kind < 45:
		r := s.randomRange(random)
		request = r
		answer, err = s.KV.Range(s.Ctx, r)
	case kind < 52:
		r := s.randomDelete(random)
		request = r
		answer, err = s.KV.DeleteRange(s.Ctx, r)
	case kind < 77:
		r := s.randomTxn(random, 2)
		request = r
		answer, err = s.KV.Txn(s.Ctx, r)
	case kind < 81:
		r := &pb.CompactionRequest{Revision: s.base + s.now - random.Int64N(20) + 2, Physical: random.IntN(4) == 0}
		request = r
		answer, err = s.KV.Compact(s.Ctx, r)
	case kind < 85:
		r := s.randomRange(random)
		r.SortOrder, r.SortTarget = 0, 0
		r.MinModRevision, r.MaxModRevision, r.MinCreateRevision, r.MaxCreateRevision = 0, 0, 0, 0
		request = r
		var chunks []*pb.RangeResponse
		chunks, err = s.chunks(r)
		whole := &pb.RangeResponse{}
		for _, m := range chunks {
			proto.Merge(whole, m)
		}
		answer = whole
	default:
		request, answer, err = s.lease(kind, s.leases[random.IntN(len(s.leases))])
	}
	told := text(request)
	if err != nil {
		e, _ := status.FromError(err)
		return told, fmt.Sprintf("%v %q", e.Code(), e.Message())
	}
	s.relative(answer.ProtoReflect())
	if h, ok := answer.(interface{ GetHeader() *pb.ResponseHeader }); ok && h.GetHeader() != nil {
		s.now = max(s.now, h.GetHeader().Revision)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(answer)
	s.must(err, "marshal")
	return told, fmt.Sprintf("%T %x %s", answer, b, text(answer))
}

// lease sends a request of the Lease service about id.
func (s *side) lease(kind int, id int64) (proto.Message, proto.Message, error) {
	switch {
	case kind < 90:
		r := &pb.LeaseGrantRequest{ID: id, TTL: 3600}
		answer, err := s.Lease.LeaseGrant(s.Ctx, r)
		return r, answer, err
	case kind < 93:
		r := &pb.LeaseRevokeRequest{ID: id}
		answer, err := s.Lease.LeaseRevoke(s.Ctx, r)
		return r, answer, err
	case kind < 97:
		r := &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}
		answer, err := s.Lease.LeaseTimeToLive(s.Ctx, r)
		if err == nil {
			if answer.TTL > 0 {
				answer.TTL = 1 // time passes
			}
			slices.SortFunc(answer.Keys, slices.Compare[[]byte])
		}
		return r, answer, err
	default:
		r := &pb.LeaseKeepAliveRequest{ID: id}
		return r, s.renew(id), nil
	}
}

// relative makes revisions in m relative to base and clears what tells servers apart.
func (s *side) relative(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				s.relative(v.List().Get(i).Message())
			}
		case f.IsList():
		case f.Message() != nil:
			s.relative(v.Message())
		}
		switch f.Name() {
		case "cluster_id", "member_id", "raft_term":
			m.Clear(f)
		case "revision", "mod_revision", "create_revision":
			m.Set(f, protoreflect.ValueOfInt64(v.Int()-s.base))
		}
		return true
	})
}

func (s *side) randomKey(random *rand.Rand) []byte {
	return s.key(fmt.Sprintf("k%d", random.IntN(modelKeys)))
}

// randomEnd is the end of a range from key: none, another key, or the end of the case's keys.
func (s *side) randomEnd(random *rand.Rand) []byte {
	switch random.IntN(4) {
	case 0, 1:
		return nil
	case 2:
		return s.randomKey(random)
	default:
		return s.end("")
	}
}

// randomRevision is zero, or one near the current, sometimes compacted or in the future.
func (s *side) randomRevision(random *rand.Rand) int64 {
	if random.IntN(2) == 0 {
		return 0
	}
	return max(s.base+s.now-random.Int64N(12)+1, s.base)
}

func (s *side) randomPut(random *rand.Rand) *pb.PutRequest {
	r := &pb.PutRequest{Key: s.randomKey(random), Value: fmt.Append(nil, random.IntN(20)), PrevKv: random.IntN(3) == 0}
	switch random.IntN(8) {
	case 0:
		r.Value, r.IgnoreValue = nil, true
	case 1:
		r.IgnoreLease = true
	case 2, 3:
		if s.renew != nil {
			r.Lease = s.leases[random.IntN(len(s.leases))]
		}
	}
	return r
}

func (s *side) randomDelete(random *rand.Rand) *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: s.randomKey(random), PrevKv: random.IntN(2) == 0}
	if random.IntN(3) == 0 {
		r.RangeEnd = s.randomKey(random)
	}
	return r
}

func (s *side) randomRange(random *rand.Rand) *pb.RangeRequest {
	r := &pb.RangeRequest{Key: s.randomKey(random), RangeEnd: s.randomEnd(random), Revision: s.randomRevision(random)}
	r.Limit = max(0, random.Int64N(8)-3)
	r.KeysOnly = random.IntN(6) == 0
	r.CountOnly = random.IntN(8) == 0
	r.Serializable = random.IntN(6) == 0
	if random.IntN(3) == 0 {
		// Only by key: for equal versions, values or revisions the order is not defined.
		r.SortOrder = pb.RangeRequest_SortOrder(random.IntN(3))
	}
	if random.IntN(6) == 0 {
		r.MinModRevision = s.randomRevision(random)
		r.MaxCreateRevision = s.randomRevision(random)
	}
	if random.IntN(6) == 0 {
		r.MaxModRevision = s.randomRevision(random)
		r.MinCreateRevision = s.randomRevision(random)
	}
	return r
}

func (s *side) randomCompare(random *rand.Rand) *pb.Compare {
	k := &pb.Compare{Key: s.randomKey(random), Result: pb.Compare_CompareResult(random.IntN(4))}
	if random.IntN(4) == 0 {
		k.RangeEnd = s.end("")
	}
	switch random.IntN(5) {
	case 0:
		k.Target, k.TargetUnion = pb.Compare_VERSION, &pb.Compare_Version{Version: random.Int64N(4)}
	case 1:
		k.Target, k.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: s.randomRevision(random)}
	case 2:
		k.Target, k.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: s.randomRevision(random)}
	case 3:
		k.Target, k.TargetUnion = pb.Compare_VALUE, &pb.Compare_Value{Value: fmt.Append(nil, random.IntN(20))}
	default:
		k.Target, k.TargetUnion = pb.Compare_LEASE, &pb.Compare_Lease{Lease: s.leases[random.IntN(len(s.leases))]}
	}
	return k
}

func (s *side) randomTxn(random *rand.Rand, depth int) *pb.TxnRequest {
	t := &pb.TxnRequest{}
	for range random.IntN(3) {
		t.Compare = append(t.Compare, s.randomCompare(random))
	}
	ops := func() []*pb.RequestOp {
		var list []*pb.RequestOp
		for range random.IntN(4) {
			list = append(list, s.randomOp(random, depth))
		}
		return list
	}
	t.Success, t.Failure = ops(), ops()
	return t
}

func (s *side) randomOp(random *rand.Rand, depth int) *pb.RequestOp {
	switch kind := random.IntN(10); {
	case kind < 4:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: s.randomPut(random)}}
	case kind < 7:
		return opRange(s.randomRange(random))
	case kind < 9 || depth == 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: s.randomDelete(random)}}
	default:
		return opTxn(s.randomTxn(random, depth-1))
	}
}
