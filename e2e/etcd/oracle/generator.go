package oracle

import (
	"math/rand/v2"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// A profile is a kind of sequence.
type profile struct {
	name string
	// flags are given to both servers.
	flags []string
	// share is how often the profile is chosen, relative to the others.
	share int
	// weight is how often an RPC of a service is asked, relative to the others; 1 if absent.
	weight map[string]int
	// big makes values of up to so many bytes.
	big int
	// auth makes sequences in which authentication is on most of the time.
	auth bool
	// notified makes sequences that wait to be told of progress by the clock.
	notified bool
	// steps is how many steps a sequence has, about.
	steps int
	// leastTTL is the shortest time that a lease lives, in seconds: one and a half election time-outs.
	leastTTL int
}

// quickElection makes servers that serve sooner after a start; a lease then lives
// at least 1 s, and not 2.
func quickElection() []string {
	return []string{"--heartbeat-interval", "10", "--election-timeout", "100"}
}

func profiles() []profile {
	small := map[string]int{"KV": 12, "Watch": 15, "Lease": 4, "Maintenance": 2, "Cluster": 2, "Lock": 2, "Election": 1, "Auth": 1}
	mixed := map[string]int{"KV": 12, "Watch": 7, "Lease": 4, "Maintenance": 2, "Cluster": 3, "Lock": 3, "Election": 1, "Auth": 1}
	return []profile{
		{name: "mixed", flags: quickElection(), share: 8, weight: mixed, steps: 1200},
		{name: "defaults", share: 2, weight: mixed, steps: 1200, leastTTL: 2},
		{
			name: "watches", flags: append(quickElection(), "--watch-progress-notify-interval", "100ms"),
			share: 3, weight: map[string]int{"KV": 6, "Watch": 12, "Lease": 1}, steps: 600, notified: true,
		},
		{
			name: "small requests", flags: append(quickElection(), "--max-request-bytes", "65536", "--max-txn-ops", "16"),
			share: 2, weight: small, steps: 500, big: 60_000,
		},
		{name: "auth", flags: quickElection(), share: 6, weight: map[string]int{"KV": 6, "Auth": 12, "Lease": 3, "Watch": 2, "Maintenance": 2, "Cluster": 2, "Lock": 1, "Election": 1}, steps: 1200, auth: true},
		{name: "locks", flags: quickElection(), share: 3, weight: map[string]int{"KV": 1, "Lock": 18, "Election": 10, "Lease": 2, "Watch": 1}, steps: 900},
	}
}

// killShare is how many sequences of 100 have a kill and restart of both servers.
const killShare = 30

// A call is an RPC and how its requests are made. valid makes steps that are meant
// to be answered well, invalid those that are meant to be refused: what the
// servers make of them is theirs.
type call struct {
	rpc    string
	weight int // among the calls of its service
	// refuse is how many of 100 are meant to be refused.
	refuse         int
	valid, invalid func(*generator)
}

// calls are all RPCs that the oracle can ask.
func calls() []call {
	return slices.Concat(kvCalls(), txnCalls(), leaseCalls(), watchCalls(), maintenanceCalls(), clusterCalls(), authCalls(), lockCalls(), electionCalls())
}

// A generator makes the script of one sequence. It has no model of the servers: it
// knows only the names it has used.
type generator struct {
	*rand.Rand
	profile profile
	calls   []call
	weights []int
	total   int

	script []Step
	// binds is the number of the newest symbol.
	binds int
	// leases are ids that may be leases, members ids that may be members.
	leases  []int64
	members []uint64
	ttl     int64
	slots   int
	// hashes tells that the sequence asks for hashes of the keys; every lease is the
	// client's choice then, since a key that has one is part of the hash.
	hashes bool
	// user is who calls are made as; alarmed tells that an alarm may be on.
	user    string
	alarmed bool
	// later are steps to come when the script is so long.
	later []scheduled
}

type scheduled struct {
	at    int
	steps func()
}

// generate makes the script of a sequence: all that is random in it comes from seed and number.
func generate(seed, number uint64) (Script, profile) {
	r := rand.New(rand.NewPCG(seed, number))
	all := profiles()
	share := 0
	for _, p := range all {
		share += p.share
	}
	// Each part of a run has its share of each profile: the multiples of the golden
	// section are spread evenly, whatever is left out between them.
	spread := (seed + number) * 0x9E3779B97F4A7C15
	n, chosen := int(spread>>32*uint64(share)>>32), profile{}
	for _, p := range all {
		if chosen = p; n < p.share {
			break
		}
		n -= p.share
	}
	g := newGenerator(r, chosen)
	g.make(chosen.steps*3/4 + r.IntN(chosen.steps/2))
	return Script{Flags: chosen.flags, Steps: g.script}, chosen
}

func newGenerator(r *rand.Rand, p profile) *generator {
	g := &generator{Rand: r, profile: p, ttl: 1000}
	for _, c := range calls() {
		weight := c.weight * p.weight[service(c.rpc)]
		if weight == 0 {
			continue
		}
		g.calls, g.weights = append(g.calls, c), append(g.weights, weight)
		g.total += weight
	}
	return g
}

// make fills the script with about so many steps.
func (g *generator) make(steps int) {
	g.begin()
	if g.profile.auth {
		g.enableAuth()
	}
	if g.IntN(100) < killShare {
		for range 1 + g.IntN(2) {
			g.in(g.IntN(steps*2/3), g.kill)
		}
	}
	for len(g.script) < steps {
		for i := 0; i < len(g.later); i++ {
			if l := g.later[i]; l.at <= len(g.script) {
				g.later = slices.Delete(g.later, i, i+1)
				i--
				l.steps()
			}
		}
		if g.profile.auth {
			g.impersonate()
		}
		n := g.IntN(g.total)
		for i, w := range g.weights {
			if n < w {
				g.one(g.calls[i])
				break
			}
			n -= w
		}
	}
}

// begin may begin a downgrade, and compacts a first time: etcd keeps the hash of each compaction, and tells it
// when it is asked for its revision, which must not be 0 or 1 by chance (see hashKV).
func (g *generator) begin() {
	if g.chance(40) {
		g.downgradeAndBack()
	}
	for range 3 {
		g.add("KV.Put", &pb.PutRequest{Key: g.key(), Value: []byte("first")})
	}
	if g.profile.weight["Auth"] > 0 && !g.profile.auth {
		g.foundUsers()
	}
	g.add("KV.Compact", &pb.CompactionRequest{Revision: now(0), Physical: true})
	g.hashes = g.chance(60)
}

// one makes a call of an RPC, valid or not. While an alarm may be on, a lock could
// not be given back, and who comes next would wait for ever.
func (g *generator) one(c call) {
	if s := service(c.rpc); g.alarmed && (s == "Lock" || s == "Election") {
		return
	}
	switch {
	case c.valid != nil && g.IntN(100) >= c.refuse:
		c.valid(g)
	case c.invalid == nil || g.IntN(4) == 0:
		g.garbage(c.rpc)
	default:
		c.invalid(g)
	}
}

// in lets steps come after so many others.
func (g *generator) in(steps int, do func()) {
	g.later = append(g.later, scheduled{len(g.script) + steps, do})
}

// add adds a call to the script.
func (g *generator) add(rpc string, request proto.Message, rows ...int) *Step {
	g.script = append(g.script, Step{Verb: rpc, Requests: []proto.Message{request}, As: g.user, Rows: rows})
	return &g.script[len(g.script)-1]
}

// bind returns the number of a new symbol.
func (g *generator) bind() int {
	g.binds++
	return g.binds
}

func (g *generator) kill() {
	g.script = append(g.script, Step{Verb: verbKill})
	if g.profile.auth {
		g.logIn()
	}
}

// garbage makes a call of the RPC that breaks the rules of gRPC.
func (g *generator) garbage(rpc string) {
	kinds := []struct {
		name string
		row  int
	}{
		{rawBroken, 58}, {rawBroken, 58}, {rawBroken, 58}, {rawLong, 59}, {rawZstd, 60}, {rawBomb, 20}, {rawVersion, 55}, {rawTimeout, 61},
		{rawPath, 57}, {rawMethod, 56}, {rawService, 56}, {rawPings, 62},
	}
	k := kinds[g.IntN(len(kinds))]
	g.script = append(g.script, Step{Verb: verbRaw, Raw: k.name, Of: rpc, As: g.user, Rows: []int{k.row}})
}

// pick returns one of its arguments.
func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

// chance is true in so many cases of 100.
func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }
