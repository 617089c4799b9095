package oracle

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// depthOfAnswers is how deep messages are nested in what is corrupted: a
// transaction's range within a transaction.
const depthOfAnswers = 4

// TestCorruptionIsReported ensures that no field of any answer can be changed, added or
// left out without a difference, but for those of masks.
func TestCorruptionIsReported(t *testing.T) {
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	hidden := maskTable()
	fields := map[protoreflect.FullName]bool{}
	for _, m := range known {
		for _, answer := range full(m.answer, depthOfAnswers) {
			same := []Answer{replied(answer), {Watched: watchedOnce(answer)}}
			for _, a := range same {
				if d := NewComparer().Compare(a, a); len(d) > 0 {
					t.Errorf("%s: equal answers differ: %v", m.name, d)
				}
			}
			for _, c := range corruptions(answer) {
				_, masked := hidden[c.field]
				if masked && c.how != "an unknown field beside it" || sameButOrder(c) {
					continue
				}
				fields[c.field] = true
				if len(NewComparer().Compare(replied(answer), replied(c.message))) == 0 {
					t.Errorf("%s: %s, %s: not reported", m.name, c.field, c.how)
				}
				bad := Answer{Watched: watchedOnce(c.message)}
				if bad.Watched != nil && len(NewComparer().Compare(same[1], bad)) == 0 {
					t.Errorf("a watch's %s, %s: not reported", c.field, c.how)
				}
			}
		}
	}
	if len(fields) < 100 {
		t.Errorf("%d fields were corrupted: the walk is broken", len(fields))
	}
}

// watchedOnce is a watch's message, nil of another.
func watchedOnce(m proto.Message) []watched {
	if w, ok := m.(*pb.WatchResponse); ok {
		return []watched{{1, w}}
	}
	return nil
}

// sameButOrder tells of a list whose order is explained to mean nothing.
func sameButOrder(c corruption) bool {
	_, ok := explainedTable()[string(c.field)]
	return ok && c.how == "another order"
}

func replied(m ...proto.Message) Answer { return Answer{Replies: m} }

// TestBesidesMessages ensures that what is no message's field is compared.
func TestBesidesMessages(t *testing.T) {
	same := Answer{
		Code: codes.NotFound, Message: "gone", Header: metadata.MD{"a": {"1"}}, Trailer: metadata.MD{"b": {"2"}},
		Replies: []proto.Message{&pb.PutResponse{}}, Watched: []watched{{1, &pb.WatchResponse{}}},
	}
	if d := NewComparer().Compare(same, same); len(d) != 0 {
		t.Fatalf("equal answers differ: %v", d)
	}
	for name, change := range map[string]func(*Answer){
		"code":           func(a *Answer) { a.Code = codes.Internal },
		"message":        func(a *Answer) { a.Message = "Gone" },
		"no message":     func(a *Answer) { a.Message = "" },
		"header":         func(a *Answer) { a.Header = metadata.MD{"a": {"2"}} },
		"no header":      func(a *Answer) { a.Header = nil },
		"trailer":        func(a *Answer) { a.Trailer = metadata.MD{"b": {"2", "3"}} },
		"more trailer":   func(a *Answer) { a.Trailer = metadata.MD{"b": {"2"}, "c": {""}, "d": {"x"}} },
		"no reply":       func(a *Answer) { a.Replies = nil },
		"two replies":    func(a *Answer) { a.Replies = append(a.Replies, &pb.PutResponse{}) },
		"another reply":  func(a *Answer) { a.Replies = []proto.Message{&pb.TxnResponse{}} },
		"nothing seen":   func(a *Answer) { a.Watched = nil },
		"seen twice":     func(a *Answer) { a.Watched = append(slices.Clone(a.Watched), a.Watched...) },
		"another stream": func(a *Answer) { a.Watched = []watched{{2, &pb.WatchResponse{}}} },
		"another watch":  func(a *Answer) { a.Watched = []watched{{1, &pb.WatchResponse{WatchId: 1}}} },
	} {
		changed := same
		change(&changed)
		if len(NewComparer().Compare(same, changed)) == 0 {
			t.Errorf("%s: not reported", name)
		}
	}
}

// TestMasks ensures that there are not too many masks, each of a field that there
// is, and that what is masked is still held to its rule.
func TestMasks(t *testing.T) {
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(masks()); n > maxMasks || n != len(maskNames()) {
		t.Errorf("%d masks of %d fields, want at most %d, one for each field", n, len(maskNames()), maxMasks)
	}
	all := map[protoreflect.FullName]bool{}
	for _, m := range known {
		for _, answer := range full(m.answer, depthOfAnswers) {
			for _, c := range corruptions(answer) {
				all[c.field] = true
			}
		}
	}
	for _, name := range maskNames() {
		if !all[name] {
			t.Errorf("mask of %s, which is no field of an answer", name)
		}
	}
	status := func(size int64, index uint64) Answer {
		return replied(&pb.StatusResponse{DbSize: size, RaftIndex: index})
	}
	lease := func(ttl int64) Answer { return replied(&pb.LeaseTimeToLiveResponse{TTL: ttl, GrantedTTL: 1000}) }
	token := func(text string) Answer { return replied(&pb.AuthenticateResponse{Token: text}) }
	for _, c := range []struct {
		name   string
		pairs  [][2]Answer
		differ bool
	}{
		{"sizes", [][2]Answer{{status(5, 1), status(900, 3)}}, false},
		{"a size that is not there", [][2]Answer{{status(5, 1), status(0, 3)}}, true},
		{"a negative size", [][2]Answer{{status(5, 1), status(-5, 3)}}, true},
		{"rising indexes", [][2]Answer{{status(1, 5), status(1, 7)}, {status(1, 5), status(1, 8)}}, false},
		{"a file that shrinks", [][2]Answer{{status(5, 1), status(9, 1)}, {status(5, 1), status(8, 1)}}, true},
		{"an index that falls", [][2]Answer{{status(1, 5), status(1, 7)}, {status(1, 6), status(1, 6)}}, true},
		{"remaining times", [][2]Answer{{lease(100), lease(98)}}, false},
		{"more than all is in use", [][2]Answer{{replied(&pb.StatusResponse{DbSize: 5, DbSizeInUse: 5}), replied(&pb.StatusResponse{DbSize: 5, DbSizeInUse: 6})}}, true},
		{"more is applied than there is", [][2]Answer{{
			replied(&pb.StatusResponse{RaftIndex: 5, RaftAppliedIndex: 5}), replied(&pb.StatusResponse{RaftIndex: 5, RaftAppliedIndex: 6}),
		}}, true},
		{"more remains than was granted", [][2]Answer{{lease(990), lease(1001)}}, true},
		{"remaining times far apart", [][2]Answer{{lease(1000), lease(500)}}, true},
		{"no lease on one side", [][2]Answer{{lease(-1), lease(5)}}, true},
		{"another negative", [][2]Answer{{lease(-1), lease(-2)}}, true},
		{"tokens", [][2]Answer{{token("a"), token("b")}, {token("c"), token("d")}}, false},
		{"a token again", [][2]Answer{{token("a"), token("b")}, {token("c"), token("b")}}, true},
		{"no token", [][2]Answer{{token("a"), token("")}}, true},
	} {
		comparer := NewComparer()
		found := false
		for _, p := range c.pairs {
			found = found || len(comparer.Compare(p[0], p[1])) > 0
		}
		if found != c.differ {
			t.Errorf("%s: difference reported: %v, want %v", c.name, found, c.differ)
		}
	}
}

// TestExplained ensures that there are not too many explained differences, each
// with a reason, and that one lets pass no more than it says.
func TestExplained(t *testing.T) {
	if n := len(Explanations()); n > maxExplained {
		t.Errorf("%d explained differences, want at most %d", n, maxExplained)
	}
	for _, e := range Explanations() {
		if e.Reason == "" || !strings.Contains(e.Field, ".") {
			t.Errorf("%q is explained by %q: want a field and a reason", e.Field, e.Reason)
		}
	}
	keys := func(k ...string) Answer {
		r := &pb.LeaseTimeToLiveResponse{}
		for _, key := range k {
			r.Keys = append(r.Keys, []byte(key))
		}
		return replied(r)
	}
	chunks := func(cut ...int) Answer {
		var a Answer
		n := 0
		for _, size := range cut {
			r := &pb.RangeResponse{}
			for range size {
				n++
				r.Kvs = append(r.Kvs, &mvccpb.KeyValue{Key: fmt.Append(nil, n)})
			}
			a.Replies = append(a.Replies, &pb.RangeStreamResponse{RangeResponse: r})
		}
		last, _ := a.Replies[len(a.Replies)-1].(*pb.RangeStreamResponse)
		last.RangeResponse.Count, last.RangeResponse.Header = int64(n), &pb.ResponseHeader{Revision: 5}
		return a
	}
	headed := chunks(1, 2)
	if first, ok := headed.Replies[0].(*pb.RangeStreamResponse); ok {
		first.RangeResponse.Header = &pb.ResponseHeader{Revision: 5}
	}
	// told is of a watch's messages, each with its events' revisions, and a + for a fragment.
	told := func(messages ...string) Answer {
		var a Answer
		for _, text := range messages {
			w := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 9}}
			text, w.Fragment = strings.CutSuffix(text, "+")
			for _, rev := range strings.Fields(strings.ReplaceAll(text, "+", " ")) {
				w.Events = append(w.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), ModRevision: int64(rev[0] - '0')}})
			}
			a.Watched = append(a.Watched, watched{1, w})
		}
		return a
	}
	errs := func(e ...string) Answer { return replied(&pb.StatusResponse{Errors: e}) }
	for _, c := range []struct {
		name       string
		etcd, shim Answer
		differ     bool
	}{
		{"keys in another order", keys("a", "b"), keys("b", "a"), false},
		{"another key", keys("a", "b"), keys("b", "c"), true},
		{"a key twice", keys("a", "b"), keys("a", "b", "b"), true},
		{"chunks cut elsewhere", chunks(10, 20, 3), chunks(10, 23), false},
		{"fewer records", chunks(10, 20, 3), chunks(10, 22), true},
		{"an empty chunk", chunks(10, 20, 3), chunks(10, 0, 23), true},
		{"a header too early", chunks(3), headed, true},
		{"history cut elsewhere", told("2 3", "4 5"), told("2", "3 4", "5"), false},
		{"history in fragments", told("2+", "2 3+", "3"), told("2 2 3", "3"), true},
		{"fragments of history", told("2+", "2 3+", "3"), told("2 2", "3 3"), false},
		{"fragments of history cut where messages are", told("2+", "3"), told("2", "3"), false},
		{"a revision in two messages, cut where fragments are", told("2+", "2 3"), told("2", "2 3"), true},
		{"a revision in two messages", told("2 2 3"), told("2", "2 3"), true},
		{"a fragment at the end", told("2", "3"), told("2 3+"), true},
		{"an event less", told("2 3"), told("2", "4"), true},
		{"events of now in other fragments", told("2 2+", "2"), told("2+", "2 2"), true},
		{"events of now in messages instead of fragments", told("2+", "2"), told("2", "2"), true},
		{"events of now in one message", told("2 2+", "2"), told("2 2 2"), true},
		{"spaces", errs("memberID:1  alarm:NOSPACE"), errs("memberID:1 alarm:NOSPACE"), false},
		{"another alarm", errs("memberID:1  alarm:NOSPACE"), errs("memberID:1 alarm:CORRUPT"), true},
		{"a no-break space", Answer{Message: "proto:\u00a0bad"}, Answer{Message: "proto: bad"}, false},
		{"gRPC's words", Answer{Message: "grpc: failed to unmarshal the received message: proto:\u00a0x"}, Answer{Message: "grpc: error unmarshalling request: proto: x"}, false},
		{"gRPC's words of something else", Answer{Message: "grpc: failed to unmarshal the received message: x"}, Answer{Message: "grpc: error unmarshalling request: y"}, true},
		{"another message", Answer{Message: "proto:\u00a0bad"}, Answer{Message: "proto: worse"}, true},
	} {
		if got := len(NewComparer().Compare(c.etcd, c.shim)) > 0; got != c.differ {
			t.Errorf("%s: difference reported: %v, want %v", c.name, got, c.differ)
		}
	}
}

// TestSymbols ensures that each side's ids are compared as the same, and another id is not.
func TestSymbols(t *testing.T) {
	const a, b, stranger = int64(0x6A7B00000000AAAA), int64(0x6A7B00000000BBBB), int64(0x6A7B00000000CCCC)
	etcd, shim := newKnown(), newKnown()
	etcd.bind(symbolLease+1, a)
	shim.bind(symbolLease+1, b)
	of := func(id int64) proto.Message {
		return &pb.RangeResponse{Kvs: (&pb.RangeResponse{}).Kvs, Header: &pb.ResponseHeader{MemberId: uint64(id)}}
	}
	key := func(id int64) proto.Message {
		return &pb.LeaseTimeToLiveResponse{ID: id, Keys: [][]byte{lockKey("lock/a", id)}}
	}
	for _, make := range []func(int64) proto.Message{of, key} {
		if d := NewComparer().Compare(replied(etcd.fromServer(make(a))), replied(shim.fromServer(make(b)))); len(d) != 0 {
			t.Errorf("one id is two: %v", d)
		}
		if len(NewComparer().Compare(replied(etcd.fromServer(make(a))), replied(shim.fromServer(make(stranger))))) == 0 {
			t.Error("a stranger's id is taken for the bound one")
		}
	}
	r, _ := etcd.toServer(&pb.LeaseRevokeRequest{ID: leaseSymbol(1)}).(*pb.LeaseRevokeRequest)
	if r.ID != a {
		t.Errorf("the symbol is sent as %x, want %x", r.ID, a)
	}
	etcd.revision, etcd.compacted = 50, 20
	for symbol, want := range map[int64]int64{now(0): 50, now(-3): 47, now(2): 52, now(-99): 0, compacted(1): 21, compacted(-30): 0, 7: 7} {
		if got := etcd.resolve(symbol); got != want {
			t.Errorf("%d is sent as %d, want %d", symbol, got, want)
		}
	}
	shim.bind(symbolLease+2, b)
	if got := shim.resolve(leaseSymbol(2)); got != leaseSymbol(2) {
		t.Errorf("one id has two symbols: %x", got)
	}
}

// TestScriptIsRead ensures that a script reads as it was written, whatever the generator makes.
func TestScriptIsRead(t *testing.T) {
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range profiles() {
		g := newGenerator(rand.New(rand.NewPCG(1, 2)), p)
		for _, c := range calls() {
			for _, make := range []func(*generator){c.valid, c.invalid, func(g *generator) { g.garbage(c.rpc) }} {
				for range 20 {
					if make != nil {
						make(g)
					}
				}
			}
		}
		want := Script{p.flags, g.script}
		var text strings.Builder
		if err := want.write(&text); err != nil {
			t.Fatal(err)
		}
		got, err := readScript(strings.NewReader(text.String()), known)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Flags, want.Flags) || len(got.Steps) != len(want.Steps) {
			t.Fatalf("flags %q and %d steps, want %q and %d", got.Flags, len(got.Steps), want.Flags, len(want.Steps))
		}
		for i, w := range want.Steps {
			if !sameStep(got.Steps[i], w) {
				t.Fatalf("step %d was read as\n%v\nwant\n%v", i, got.Steps[i], w)
			}
		}
	}
}

func sameStep(a, b Step) bool {
	requests := slices.EqualFunc(a.Requests, b.Requests, func(x, y proto.Message) bool { return proto.Equal(x, y) })
	rows := slices.Equal(a.Rows, b.Rows)
	a.Requests, b.Requests, a.Rows, b.Rows = nil, nil, nil, nil
	return requests && rows && a.Verb == b.Verb && a.Stream == b.Stream && a.Async == b.Async && a.Join == b.Join && a.Bind == b.Bind &&
		a.Take == b.Take && a.Count == b.Count && a.As == b.As && a.Raw == b.Raw && a.Of == b.Of
}

// TestSequencesRepeat ensures that a seed makes the same script again.
func TestSequencesRepeat(t *testing.T) {
	write := func(seed uint64) string {
		s, _ := generate(seed, 3)
		var text strings.Builder
		for _, step := range s.Steps {
			text.WriteString(strings.Join(strings.Fields(step.String()), " ") + "\n")
		}
		return text.String()
	}
	once, again := write(7), write(7)
	if once != again {
		t.Error("one seed made two scripts")
	}
	if once == write(8) {
		t.Error("two seeds made one script")
	}
}

// TestShrink ensures that a script is shrunk to the steps that it takes.
func TestShrink(t *testing.T) {
	var script Script
	for i := range 100 {
		script.Steps = append(script.Steps, Step{Verb: verbClose, Stream: i})
	}
	has := func(s Script, n int) bool {
		return slices.ContainsFunc(s.Steps, func(s Step) bool { return s.Stream == n })
	}
	got := shrunk(script, 1000, func(s Script) bool { return has(s, 17) && has(s, 80) && has(s, 81) })
	if len(got.Steps) != 3 || !has(got, 17) || !has(got, 80) || !has(got, 81) {
		t.Errorf("shrunk to %v", got.Steps)
	}
}

// TestRows ensures that each of the 66 bad inputs has its row, with cases or a reason; that
// each generator's row is one; and that each case is asked for by some generator.
func TestRows(t *testing.T) {
	table := rows()
	for n := 1; n <= 66; n++ {
		if r := table[n]; r.what == "" || (len(r.cases) == 0) != (r.off != "") {
			t.Errorf("bad input %d: %+v", n, r)
		}
	}
	asked := map[string]bool{}
	for _, p := range profiles() {
		s := newGenerator(rand.New(rand.NewPCG(3, 4)), p)
		s.make(6000)
		for _, step := range s.script {
			rpc := step.Verb
			if step.Raw != "" {
				rpc = step.Of
			}
			for _, r := range step.Rows {
				if r != 0 && len(table[r].cases) == 0 {
					t.Errorf("%v: no bad input %d", step, r)
				}
				for _, c := range table[r].cases {
					if c.rpc == "" || c.rpc == rpc {
						asked[c.name(r)] = true
					}
				}
			}
		}
	}
	for n, r := range table {
		for _, c := range r.cases {
			if !asked[c.name(n)] {
				t.Errorf("nobody asks for %s", c.name(n))
			}
		}
	}
}

// TestRowCase ensures that an answer is taken for a case only if it is one.
func TestRowCase(t *testing.T) {
	told := func(w *pb.WatchResponse) Answer { return Answer{Watched: []watched{{1, w}}} }
	refused := told(&pb.WatchResponse{Canceled: true, CancelReason: "etcdserver: permission denied"})
	refused.Refused = true
	for _, c := range []struct {
		row    int
		rpc    string
		answer Answer
		want   bool
	}{
		{1, "KV.Put", Answer{Code: codes.InvalidArgument, Message: "etcdserver: key is not provided"}, true},
		{1, "KV.Txn", Answer{Code: codes.InvalidArgument, Message: "etcdserver: key is not provided"}, false},
		{1, "KV.Put", Answer{Code: codes.NotFound, Message: "etcdserver: key is not provided"}, false},
		{1, "KV.Put", Answer{Code: codes.InvalidArgument, Message: "etcdserver: value is provided"}, false},
		{8, "KV.Range", Answer{}, true},
		{8, "KV.Range", Answer{Code: codes.OutOfRange}, false},
		{26, "Watch.Watch", told(&pb.WatchResponse{Canceled: true, CompactRevision: 7}), true},
		{26, "Watch.Watch", told(&pb.WatchResponse{Created: true}), false},
		{31, "Watch.Watch", refused, true},
		{31, "Watch.Watch", told(&pb.WatchResponse{Created: true}), false},
		{57, "Auth.UserGet", Answer{Code: codes.Unimplemented, Message: "malformed method name: x"}, true},
	} {
		got := slices.ContainsFunc(rows()[c.row].cases, func(r rowCase) bool { return r.is(c.rpc, c.answer) })
		if got != c.want {
			t.Errorf("row %d, %s, %+v: %v, want %v", c.row, c.rpc, c.answer, got, c.want)
		}
	}
}

// TestSnapshotIsFolded ensures that chunks of a snapshot that do not hold together are noticed.
func TestSnapshotIsFolded(t *testing.T) {
	sum := func(chunks ...string) []proto.Message {
		var out []proto.Message
		left := 0
		for _, c := range chunks {
			left += len(c)
		}
		for _, c := range chunks {
			left -= len(c)
			out = append(out, &pb.SnapshotResponse{Blob: []byte(c), RemainingBytes: uint64(left), Version: "3.7.0"})
		}
		// The sum of "abc", however it is cut.
		digest := "\xba\x78\x16\xbf\x8f\x01\xcf\xea\x41\x41\x40\xde\x5d\xae\x22\x23\xb0\x03\x61\xa3\x96\x17\x7a\x9c\xb4\x10\xff\x61\xf2\x00\x15\xad"
		return append(out, &pb.SnapshotResponse{Blob: []byte(digest), Version: "3.7.0"})
	}
	a, err := folded(sum("abc"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := folded(sum("a", "bc"))
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(a, b) || a.RemainingBytes != 3 {
		t.Errorf("%v and %v, want the same", a, b)
	}
	for name, bad := range map[string][]proto.Message{
		"another byte": sum("abd"), "cut": sum("abc")[:1], "nothing": nil, "a chunk twice": slices.Concat(sum("abc")[:1], sum("abc")),
		"another version": append(sum("a", "bc")[:2], &pb.SnapshotResponse{Blob: a.Blob, Version: "3.6.0"}),
	} {
		if _, err := folded(bad); err == nil {
			t.Errorf("%s: taken for a snapshot", name)
		}
	}
}
