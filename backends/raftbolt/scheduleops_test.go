package raftbolt

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
)

// choices decide what a run does: from a seed, or from a fuzzer's bytes.
type choices interface {
	// below is a number in [0, n), n at most 65536.
	below(n int) int
}

type randomChoices struct{ *rand.Rand }

func (c randomChoices) below(n int) int { return c.IntN(n) }

// byteChoices reads one byte for a choice of at most 256, else two; zero when
// there are no more.
type byteChoices struct{ rest []byte }

func (c *byteChoices) below(n int) int {
	if len(c.rest) == 0 || n <= 1 {
		return 0
	}
	if n <= 256 || len(c.rest) == 1 {
		b := c.rest[0]
		c.rest = c.rest[1:]
		return int(b) % n
	}
	b := binary.LittleEndian.Uint16(c.rest)
	c.rest = c.rest[2:]
	return int(b) % n
}

func oneIn(c choices, n int) bool { return c.below(n) == n-1 }

// step is what is asked of every member alike: an entry of the log, or one read.
type step struct {
	term     uint64
	commands []command

	read     *backends.RangeOptions
	readTxn  *backends.TxnOp
	history  *historyRead
	hash     *int64
	leases   bool
	snapshot bool
}

type historyRead struct {
	from   int64
	prevKV bool
}

func (s *step) String() string {
	switch {
	case s.read != nil:
		return fmt.Sprintf("range %q %q %+v", s.read.Key, s.read.End, *s.read)
	case s.readTxn != nil:
		return fmt.Sprintf("read txn %x", appendTxn(nil, s.readTxn))
	case s.history != nil:
		return fmt.Sprintf("history %+v", *s.history)
	case s.hash != nil:
		return fmt.Sprintf("hash at %d", *s.hash)
	case s.leases:
		return "leases"
	case s.snapshot:
		return "snapshot"
	}
	out := fmt.Sprintf("entry of term %d:", s.term)
	for i := range s.commands {
		// Of a long command the beginning says enough: the seed has the whole.
		out += fmt.Sprintf(" kind %d %.200x", s.commands[i].kind, s.commands[i].encode()[headerBytes:])
	}
	return out
}

// stepper invents steps that make sense for the state that the model is in.
type stepper struct {
	choices
	m *naive
	// keys is how many different keys there are: few, so that they are changed
	// often, or more than a node of the index holds.
	keys int
	// large values fill more than one chunk of an answer.
	large  bool
	term   uint64
	serial int
	// budget is how many operations the transaction being made may still have.
	budget int
}

func (g *stepper) key() string {
	k := fmt.Sprintf("k%03d", g.below(g.keys))
	switch g.below(12) {
	case 0:
		return k[:2]
	case 1:
		return k + "\x00"
	case 2:
		return "\xff" + k[3:]
	}
	return k
}

func (g *stepper) keyRange() backends.KeyRange {
	r := backends.KeyRange{Key: []byte(g.key())}
	switch g.below(5) {
	case 0:
		r.End = []byte{0}
	case 1:
		r.End = []byte(g.key()) // often empty
	case 2:
		r = backends.KeyRange{Key: []byte{0}, End: []byte{0}}
	}
	return r
}

// past is a revision to read at: often one that cannot be read.
func (g *stepper) past() int64 {
	switch g.below(3) {
	case 0:
		return 0
	case 1:
		return int64(g.below(12) - 1)
	}
	from := g.m.compact - 1
	return from + int64(g.below(int(min(g.m.revision-from+2, 60000))))
}

func (g *stepper) leaseID() int64 { return int64(g.below(6)) - 1 }

func (g *stepper) value() []byte {
	g.serial++
	v := fmt.Appendf(nil, "%d", g.serial)
	switch {
	case oneIn(g, 16):
		return nil
	case oneIn(g, 10):
		v = append(v, make([]byte, g.below(3000))...)
	case g.large && oneIn(g, 3):
		v = append(v, make([]byte, 20<<10+g.below(65536)*2)...)
	}
	return v
}

func (g *stepper) rangeOptions() *backends.RangeOptions {
	o := &backends.RangeOptions{KeyRange: g.keyRange(), Revision: g.past(), KeysOnly: oneIn(g, 4), CountOnly: oneIn(g, 8)}
	if g.below(2) == 0 {
		o.Limit = int64(g.below(6))
	}
	return o
}

// usage is what a transaction writes so far: the API refuses to put a key twice,
// or to put one that is deleted.
type usage struct {
	puts    []string
	deletes []backends.KeyRange
}

func (u *usage) clone() *usage { return &usage{slices.Clone(u.puts), slices.Clone(u.deletes)} }

func (u *usage) mayPut(key string) bool {
	return !slices.Contains(u.puts, key) &&
		!slices.ContainsFunc(u.deletes, func(r backends.KeyRange) bool { return naiveContains(&r, key) })
}

func (u *usage) mayDelete(r backends.KeyRange) bool {
	return !slices.ContainsFunc(u.puts, func(k string) bool { return naiveContains(&r, k) })
}

func (g *stepper) txnOp(depth int, u *usage, reads bool) *backends.TxnOp {
	if depth == 0 {
		g.budget = 128 // as the API
	}
	t := &backends.TxnOp{}
	for range g.below(3) {
		t.Compare = append(t.Compare, g.compare())
	}
	failure := u.clone()
	t.Success = g.ops(depth, u, reads)
	if len(t.Compare) > 0 {
		t.Failure = g.ops(depth, failure, reads)
	}
	if len(t.Failure) > 0 {
		u.puts = append(u.puts, failure.puts...)
		u.deletes = append(u.deletes, failure.deletes...)
	}
	return t
}

func (g *stepper) ops(depth int, u *usage, reads bool) (ops []backends.Op) {
	n := g.below(5)
	if g.keys > 100 && oneIn(g, 4) {
		n = g.below(60)
	}
	n = min(n, g.budget)
	g.budget -= n
	for range n {
		switch kind := g.below(10); {
		case kind == 0 && depth < 3:
			ops = append(ops, backends.Op{Txn: g.txnOp(depth+1, u, reads)})
		case kind < 3 || reads:
			ops = append(ops, backends.Op{Range: g.rangeOptions()})
		case kind < 5:
			if r := g.keyRange(); u.mayDelete(r) {
				u.deletes = append(u.deletes, r)
				ops = append(ops, backends.Op{Delete: &backends.DeleteOp{KeyRange: r, PrevKV: g.below(2) == 0}})
			}
		default:
			if p := g.putOp(); u.mayPut(string(p.Key)) {
				u.puts = append(u.puts, string(p.Key))
				ops = append(ops, backends.Op{Put: p})
			}
		}
	}
	return ops
}

func (g *stepper) putOp() *backends.PutOp {
	p := &backends.PutOp{Key: []byte(g.key()), PrevKV: g.below(3) == 0}
	if p.IgnoreValue = oneIn(g, 12); !p.IgnoreValue {
		p.Value = g.value()
	}
	if p.IgnoreLease = oneIn(g, 12); !p.IgnoreLease && oneIn(g, 3) {
		p.Lease = g.leaseID()
		if g.m.leases[p.Lease] == nil && !oneIn(g, 8) {
			p.Lease = 0
		}
	}
	return p
}

func (g *stepper) compare() backends.Compare {
	c := backends.Compare{KeyRange: g.keyRange(), Target: backends.CompareTarget(g.below(6)), Result: backends.CompareResult(g.below(5))}
	if c.Target == backends.CompareValue {
		c.Value = fmt.Appendf(nil, "%d", g.below(g.serial+1))
	} else {
		c.Number = int64(g.below(int(min(g.m.revision+2, 60000))))
		if g.below(2) == 0 {
			c.Number = int64(g.below(4))
		}
	}
	return c
}

func (g *stepper) next() *step {
	if oneIn(g, 40) {
		g.term++
	}
	switch n := g.below(40); {
	case n < 26:
		s := &step{term: g.term}
		for range 1 + g.below(4)/2 {
			s.commands = append(s.commands, g.command())
		}
		return s
	case n < 31:
		return &step{read: g.rangeOptions()}
	case n < 33:
		return &step{readTxn: g.txnOp(0, &usage{}, true)}
	case n < 36:
		return &step{history: &historyRead{from: max(g.past(), 0), prevKV: g.below(2) == 0}}
	case n < 38:
		return &step{leases: true}
	case n < 39:
		at := g.past()
		return &step{hash: &at}
	}
	if oneIn(g, 4) {
		return &step{snapshot: true}
	}
	return &step{leases: true}
}

func (g *stepper) command() command {
	if len(g.m.alarms) > 0 && g.below(3) == 0 { // else most writes would be refused for long
		return command{kind: kindAlarm, action: backends.AlarmDeactivate, alarm: g.m.alarms[0]}
	}
	switch n := g.below(24); {
	case n < 6:
		return command{kind: kindTxn, txn: &backends.TxnOp{Success: []backends.Op{{Put: g.putOp()}}}}
	case n < 8:
		return command{kind: kindTxn, txn: &backends.TxnOp{Success: []backends.Op{{Delete: &backends.DeleteOp{KeyRange: g.keyRange(), PrevKV: g.below(2) == 0}}}}}
	case n < 16:
		return command{kind: kindTxn, txn: g.txnOp(0, &usage{}, false)}
	case n < 18:
		return command{kind: kindCompact, revision: g.past()}
	case n < 20:
		return command{kind: kindLeaseGrant, lease: g.leaseID(), ttlSeconds: int64(g.below(100)) - 5}
	case n < 22:
		// An expiry, which names the term it was decided in, perhaps too late; or a client's wish.
		c := command{kind: kindLeaseRevoke, lease: g.leaseID()}
		if g.below(2) == 0 {
			c.term = g.term - uint64(g.below(4)/3)
		}
		return c
	case n < 23:
		c := command{kind: kindCheckpoint, term: g.term - uint64(g.below(6)/5)}
		for range g.below(4) {
			c.checkpoints = append(c.checkpoints, lease.Checkpoint{ID: g.leaseID(), RemainingTTLSeconds: int64(g.below(120)) - 2})
		}
		return c
	}
	action := backends.AlarmDeactivate
	if oneIn(g, 4) {
		action = backends.AlarmActivate
	}
	return command{kind: kindAlarm, action: action, alarm: backends.Alarm{MemberID: uint64(g.below(2)), Kind: backends.AlarmKind(g.below(3))}}
}
