package oracle

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// tampersFlag is few in the short form: each is a sequence.
var tampersFlag = flag.Int("tampers", 12, "changes of shim's answers on the wire that must be found; -1: all there are")

const (
	// tamperSteps is how long the sequences are that are tampered with.
	tamperSteps = 220
	// tamperPatience is how long such a sequence waits for what was taken from it.
	tamperPatience = 7 * time.Second
	// maxTampered bounds the messages that are tampered with, in bytes: each of their fields is tried.
	maxTampered = 32 << 10
)

// TestTamperedShimIsReported ensures that a change of one field of one of shim's messages, as it
// comes from the wire, makes a difference: whatever the harness makes of it, by which symbols
// and which waits, it is not lost there.
func TestTamperedShimIsReported(t *testing.T) {
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	places := map[string]int{} // the profile, by what could be changed
	scripts := map[int]Script{}
	for i, p := range profiles() {
		g := newGenerator(rand.New(rand.NewPCG(seed, uint64(i))), p)
		g.make(tamperSteps)
		scripts[i] = Script{p.flags, g.script}
		w := &wire{}
		etcd, shim := play(t, *dirFlag, known, scripts[i], func(_, shim *Side) { shim.tamper = w.look })
		if v := judge(scripts[i], etcd, shim, newTally()); v != nil {
			t.Fatalf("%s differs untouched: %v", p.name, v)
		}
		for _, what := range w.changes() {
			if _, ok := places[what]; !ok {
				places[what] = i
			}
		}
	}
	if len(places) < 200 {
		t.Errorf("%d changes are possible: the sequences are too poor", len(places))
	}
	names := slices.Sorted(maps.Keys(places))
	r := rand.New(rand.NewPCG(seed, 1))
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	if *tampersFlag >= 0 {
		names = names[:min(*tampersFlag, len(names))]
	}
	for _, name := range names {
		at := places[name]
		w := &wire{target: name}
		var etcd, shim []Answer
		for try := 0; try < 3 && !w.hit(); try++ { // some answers depend on how fast the machine is
			etcd, shim = play(t, *dirFlag, known, scripts[at], func(etcd, shim *Side) {
				etcd.patience, shim.patience, shim.tamper = tamperPatience, tamperPatience, w.look
			})
		}
		if !w.hit() {
			t.Errorf("%s: did not come again", name)
		} else if v := judge(scripts[at], etcd, shim, newTally()); v == nil || v.etcd.Late {
			t.Errorf("%s, sequence of %s: not reported", name, profiles()[at].name)
		}
	}
	t.Logf("%d of %d possible changes were reported", len(names), len(places))
}

// wire sees shim's messages as they come, notes how they could be changed, and makes the
// first change that is its target.
type wire struct {
	target string

	mu   sync.Mutex
	seen map[string]bool
	done bool
}

// changes lists what look has noted. Streams of a side that was closed may still be read.
func (w *wire) changes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.seen))
}

func (w *wire) hit() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done
}

func (w *wire) look(rpc string, m proto.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done || proto.Size(m) > maxTampered {
		return
	}
	if w.seen == nil {
		w.seen = map[string]bool{}
	}
	hidden := maskTable()
	for _, c := range corruptions(m) {
		_, masked := hidden[c.field]
		if masked && c.how != "an unknown field beside it" || sameButOrder(c) || unknowable(m, c) {
			continue
		}
		name := fmt.Sprintf("%s: %s, %s", rpc, c.field, c.how)
		w.seen[name] = true
		if name == w.target {
			proto.Reset(m)
			proto.Merge(m, c.message)
			w.done = true
			return
		}
	}
}

// unknowable tells of an id that the server has just chosen: another is as good, until
// it turns out not to be the one.
func unknowable(m proto.Message, c corruption) bool {
	grant, ok := m.(*pb.LeaseGrantResponse)
	return ok && grant.ID >= 1<<32 && c.field == "etcdserverpb.LeaseGrantResponse.ID" && c.how == "another value"
}
