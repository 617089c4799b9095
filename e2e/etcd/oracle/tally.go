package oracle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Counts are what was compared, over some sequences. They are kept between the parts
// of a full run.
type Counts struct {
	// Calls are all that were compared, AfterKill those of them that came after a kill and
	// restart of both, of which there were Kills.
	Calls, AfterKill, Kills int
	// Sequences are those that were played, by profile.
	Sequences map[string]int
	// Answers are the calls by RPC and outcome.
	Answers map[string]map[string]int
	// Rows counts the cases of bad inputs, by name.
	Rows map[string]int
	// Fields counts the fields of etcd's answers that were not zero, by full name.
	Fields map[string]int
	// Masked counts what was compared by a mask, by field, Kept the explained
	// differences, by reason, and Signs the differences, by kind.
	Masked, Kept, Signs map[string]int
}

func newCounts() Counts {
	return Counts{
		Sequences: map[string]int{}, Answers: map[string]map[string]int{}, Rows: map[string]int{}, Fields: map[string]int{},
		Masked: map[string]int{}, Kept: map[string]int{}, Signs: map[string]int{},
	}
}

// merge adds what other sequences have counted.
func (c *Counts) merge(o Counts) {
	c.Calls, c.AfterKill, c.Kills = c.Calls+o.Calls, c.AfterKill+o.AfterKill, c.Kills+o.Kills
	for rpc, outcomes := range o.Answers {
		if c.Answers[rpc] == nil {
			c.Answers[rpc] = map[string]int{}
		}
		sumInto(c.Answers[rpc], outcomes)
	}
	sumInto(c.Sequences, o.Sequences)
	sumInto(c.Rows, o.Rows)
	sumInto(c.Fields, o.Fields)
	sumInto(c.Masked, o.Masked)
	sumInto(c.Kept, o.Kept)
	sumInto(c.Signs, o.Signs)
}

func sumInto(to, from map[string]int) {
	for k, n := range from {
		to[k] += n
	}
}

func sum(m map[string]int) int {
	n := 0
	for _, c := range m {
		n += c
	}
	return n
}

// afterKill are the calls of 100 that came after a kill.
func (c *Counts) afterKill() int { return 100 * c.AfterKill / max(1, c.Calls) }

// counts are the valid and the refused calls of an RPC.
func (c *Counts) counts(rpc string) (valid, refused int) {
	for outcome, n := range c.Answers[rpc] {
		if outcome == "OK" {
			valid += n
		} else {
			refused += n
		}
	}
	return valid, refused
}

// A Tally is the counts of a run. Its methods may be called from several goroutines.
type Tally struct {
	mu     sync.Mutex
	counts Counts
	table  map[int]row
}

func newTally() *Tally { return &Tally{counts: newCounts(), table: rows()} }

// add notes the answer to a step; slots are the RPCs of calls that are joined.
func (t *Tally) add(step Step, slots map[int]string, etcd Answer, killed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &t.counts
	rpc := step.Verb
	switch {
	case step.Raw != "":
		rpc = step.Of
	case step.Verb == verbJoin:
		rpc = slots[step.Join]
	case step.Verb == verbAwait:
		rpc = "KV.Range"
	case step.Verb == verbKill && killed:
		c.Kills++
	}
	for _, r := range etcd.Replies {
		c.see(r.ProtoReflect())
	}
	for _, w := range etcd.Watched {
		c.see(w.message.ProtoReflect())
	}
	if etcd.Calls == 0 {
		return
	}
	if c.Answers[rpc] == nil {
		c.Answers[rpc] = map[string]int{}
	}
	c.Answers[rpc][etcd.outcome()] += etcd.Calls
	c.Calls += etcd.Calls
	if killed {
		c.AfterKill += etcd.Calls
	}
	for _, n := range step.Rows {
		for _, r := range t.table[n].cases {
			if r.is(rpc, etcd) {
				c.Rows[r.name(n)]++
			}
		}
	}
}

// see notes the fields of a message that are not zero, and of those within.
func (c *Counts) see(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		c.Fields[string(f.FullName())]++
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				c.see(v.List().Get(i).Message())
			}
		default:
			c.see(v.Message())
		}
		return true
	})
}

// use notes what a comparer has masked and what it has let pass.
func (t *Tally) use(c *Comparer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sumInto(t.counts.Masked, c.Masked)
	sumInto(t.counts.Kept, c.Kept)
}

// finish notes the end of a sequence.
func (t *Tally) finish(p profile, v *verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Sequences[p.name]++
	if v != nil {
		t.counts.Signs[v.sign()]++
	}
}

// progress is the number of calls and sequences so far, and of those that ended at a difference.
func (t *Tally) progress() (calls, sequences, differences int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts.Calls, sum(t.counts.Sequences), sum(t.counts.Signs)
}

// String is the table that every run prints.
func (c *Counts) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d calls compared in %d sequences %v; %d kills and restarts of both, %d calls (%d %%) after one\n",
		c.Calls, sum(c.Sequences), c.Sequences, c.Kills, c.AfterKill, c.afterKill())
	fmt.Fprintf(&b, "\ncalls per RPC and answer of etcd:\n")
	for _, rpc := range slices.Sorted(maps.Keys(c.Answers)) {
		valid, refused := c.counts(rpc)
		fmt.Fprintf(&b, "  %-28s %d valid, %d refused:", rpc, valid, refused)
		for _, outcome := range slices.Sorted(maps.Keys(c.Answers[rpc])) {
			fmt.Fprintf(&b, " %s %d", outcome, c.Answers[rpc][outcome])
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "\nnot asked, and why:\n")
	for _, n := range notAsked() {
		fmt.Fprintf(&b, "  %s: %s\n", n.what, n.why)
	}
	fmt.Fprintf(&b, "\nmasks, with how often each was compared by its rule (ids are compared everywhere, as symbols):\n")
	for _, m := range masks() {
		fmt.Fprintf(&b, "  %-48s %8d  %s: %s\n", m.field, c.Masked[string(m.field)], m.rule, m.reason)
	}
	fmt.Fprintf(&b, "\nexplained differences, with how often each occurred:\n")
	for _, e := range Explanations() {
		fmt.Fprintf(&b, "  %-48s %8d  %s\n", e.Field, c.Kept[e.Reason], e.Reason)
	}
	fmt.Fprintf(&b, "\nbad inputs, with how often etcd gave its known answer:\n")
	table := rows()
	for _, n := range slices.Sorted(maps.Keys(table)) {
		for _, r := range table[n].cases {
			fmt.Fprintf(&b, "  %8d  %s\n", c.Rows[r.name(n)], r.name(n))
		}
		if why := table[n].off; why != "" {
			fmt.Fprintf(&b, "         -  %2d %s: %s\n", n, table[n].what, why)
		}
	}
	fmt.Fprintf(&b, "\nfields of answers that were never other than zero: %v\n", c.neverSeen())
	fmt.Fprintf(&b, "\ndifferences: %d\n", len(c.Signs))
	for _, s := range slices.Sorted(maps.Keys(c.Signs)) {
		fmt.Fprintf(&b, "  %5d  %s\n", c.Signs[s], s)
	}
	return b.String()
}

// fewest are the valid and refused calls that a full run must have of an RPC.
func fewest(rpc string) (valid, refused int) {
	switch rpc {
	case "Maintenance.Snapshot", "Maintenance.Defragment", "Maintenance.Hash", "Maintenance.Downgrade", "Maintenance.MoveLeader",
		"Auth.Authenticate", "Auth.UserAdd", "Auth.UserChangePassword":
		return 300, 2000
	case "Cluster.MemberPromote":
		return 0, 2000 // a learner that comes needs a cluster
	}
	return 5000, 2000
}

// lacking lists what a run has too little of: of each RPC, the n-th part of what a full
// run must have, or one valid and one refused call if n is 0; and each case of a bad input
// at least once.
func (c *Counts) lacking(known map[string]*method, n int) []string {
	var faults []string
	for _, rpc := range slices.Sorted(maps.Keys(known)) {
		needValid, needRefused := fewest(rpc)
		valid, refused := c.counts(rpc)
		if n == 0 {
			needValid, needRefused = min(1, needValid), 1
		} else {
			needValid, needRefused = needValid/n, needRefused/n
		}
		if valid < needValid || refused < needRefused {
			faults = append(faults, fmt.Sprintf("%s: %d valid and %d refused calls, want %d and %d", rpc, valid, refused, needValid, needRefused))
		}
	}
	table := rows()
	for _, r := range slices.Sorted(maps.Keys(table)) {
		for _, one := range table[r].cases {
			if c.Rows[one.name(r)] == 0 {
				faults = append(faults, "no such bad input: "+one.name(r))
			}
		}
	}
	if c.AfterKill*10 < c.Calls {
		faults = append(faults, fmt.Sprintf("%d of %d calls came after a kill, want a tenth", c.AfterKill, c.Calls))
	}
	return faults
}

// alwaysZero are the fields that one member's right answers have no value for.
func alwaysZero() []string {
	return []string{
		"etcdserverpb.MemberPromoteResponse.header", "etcdserverpb.MemberPromoteResponse.members", // see fewest
		"etcdserverpb.SnapshotResponse.header", "etcdserverpb.DefragmentResponse.header", "etcdserverpb.MoveLeaderResponse.header", // etcd sets none
		"etcdserverpb.LeaseGrantResponse.error", // nor this
		"etcdserverpb.StatusResponse.isLearner", // one that is alone is none
	}
}

// neverSeen lists the fields of answers that were compared only as zero, but for those of
// alwaysZero.
func (c *Counts) neverSeen() []string {
	known, err := methods()
	if err != nil {
		return []string{err.Error()}
	}
	all := map[string]bool{}
	for _, m := range known {
		fieldsOf(m.newAnswer().ProtoReflect().Descriptor(), all)
	}
	var out []string
	for f := range all {
		if c.Fields[f] == 0 && !slices.Contains(alwaysZero(), f) {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return out
}

// fieldsOf collects the fields of a message and of those within.
func fieldsOf(d protoreflect.MessageDescriptor, all map[string]bool) {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		if all[string(f.FullName())] {
			continue
		}
		all[string(f.FullName())] = true
		if f.Message() != nil {
			fieldsOf(f.Message(), all)
		}
	}
}
