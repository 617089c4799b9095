package oracle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// A Tally is what was compared, over all sequences of a run. Its methods may be
// called from several goroutines.
type Tally struct {
	mu        sync.Mutex
	sequences map[string]int            // by profile
	answers   map[string]map[string]int // calls by RPC and outcome
	rows      map[int]int
	masked    map[string]int
	kept      map[string]int
	signs     map[string]int // differences, by kind
	calls     int
	// afterKill are the calls that came after a kill and restart, and killed the sequences that had one.
	afterKill, killed int
}

func newTally() *Tally {
	return &Tally{
		sequences: map[string]int{}, answers: map[string]map[string]int{}, rows: map[int]int{},
		masked: map[string]int{}, kept: map[string]int{}, signs: map[string]int{},
	}
}

// add notes the answer to a step; slots are the RPCs of calls that are joined.
func (t *Tally) add(step Step, slots map[int]string, etcd Answer, killed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rpc := step.Verb
	switch {
	case step.Raw != "":
		rpc = step.Of
	case step.Verb == verbJoin:
		rpc = slots[step.Join]
	case step.Verb == verbAwait:
		rpc = "KV.Range"
	}
	if step.Verb == verbKill && killed {
		t.killed++
	}
	if etcd.Calls == 0 {
		return
	}
	if t.answers[rpc] == nil {
		t.answers[rpc] = map[string]int{}
	}
	t.answers[rpc][etcd.outcome()] += etcd.Calls
	t.calls += etcd.Calls
	if killed {
		t.afterKill += etcd.Calls
	}
	table := rows()
	for _, r := range step.Rows {
		if table[r].is(etcd) {
			t.rows[r]++
		}
	}
}

// use notes what a comparer has masked and what it has let pass.
func (t *Tally) use(c *Comparer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f, n := range c.Masked {
		t.masked[f] += n
	}
	for f, n := range c.Kept {
		t.kept[f] += n
	}
}

// finish notes the end of a sequence.
func (t *Tally) finish(p profile, v *verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sequences[p.name]++
	if v != nil {
		t.signs[v.sign()]++
	}
}

func (t *Tally) compared() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls
}

// differences is the number of sequences that ended at one.
func (t *Tally) differences() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, c := range t.signs {
		n += c
	}
	return n
}

// counts are the valid and the refused calls of an RPC.
func (t *Tally) counts(rpc string) (valid, refused int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for outcome, n := range t.answers[rpc] {
		if outcome == "OK" {
			valid += n
		} else {
			refused += n
		}
	}
	return valid, refused
}

// total is the number of sequences.
func (t *Tally) total() int {
	n := 0
	for _, c := range t.sequences {
		n += c
	}
	return n
}

func (t *Tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d calls compared in %d sequences %v; %d kills and restarts of both, %d calls (%d %%) after one\n",
		t.calls, t.total(), t.sequences, t.killed, t.afterKill, 100*t.afterKill/max(1, t.calls))
	fmt.Fprintf(&b, "\ncalls per RPC and answer of etcd:\n")
	for _, rpc := range slices.Sorted(maps.Keys(t.answers)) {
		fmt.Fprintf(&b, "  %-28s", rpc)
		for _, outcome := range slices.Sorted(maps.Keys(t.answers[rpc])) {
			fmt.Fprintf(&b, " %s %d", outcome, t.answers[rpc][outcome])
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "\nnot asked, since shim does not serve it yet:\n")
	for _, name := range slices.Sorted(maps.Keys(notServed())) {
		fmt.Fprintf(&b, "  %-28s %s\n", name, notServed()[name])
	}
	fmt.Fprintf(&b, "\nmasks, with how often each was compared by its rule (ids are compared everywhere, as symbols):\n")
	for _, m := range masks() {
		fmt.Fprintf(&b, "  %-48s %8d  %s: %s\n", m.field, t.masked[string(m.field)], m.rule, m.reason)
	}
	fmt.Fprintf(&b, "\nexplained differences, with how often each occurred:\n")
	for _, e := range Explanations() {
		fmt.Fprintf(&b, "  %-48s %8d  %s\n", e.Field, t.kept[e.Reason], e.Reason)
	}
	fmt.Fprintf(&b, "\nbad inputs, with how often etcd gave its known answer:\n")
	table := rows()
	for _, n := range slices.Sorted(maps.Keys(table)) {
		r := table[n]
		note := ""
		if why := r.absent(); why != "" {
			note = "not asked: " + why
		}
		fmt.Fprintf(&b, "  %2d %-48s %8d  %s\n", n, r.what, t.rows[n], note)
	}
	fmt.Fprintf(&b, "\ndifferences: %d\n", len(t.signs))
	for _, s := range slices.Sorted(maps.Keys(t.signs)) {
		fmt.Fprintf(&b, "  %5d  %s\n", t.signs[s], s)
	}
	return b.String()
}

// absent tells why a row is not asked for; empty if it is.
func (r row) absent() string {
	if r.off != "" {
		return r.off
	}
	if r.need != "" && off(r.need) != "" {
		return r.need + ": " + off(r.need)
	}
	return ""
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

// lacking lists what a run has too little of: of each RPC, share n of what a full
// run must have; and each row at least once.
func (t *Tally) lacking(known map[string]*method, n int) []string {
	var faults []string
	for _, rpc := range slices.Sorted(maps.Keys(known)) {
		if off(rpc) != "" {
			continue
		}
		needValid, needRefused := fewest(rpc)
		valid, refused := t.counts(rpc)
		if n == 0 {
			needValid, needRefused = min(1, needValid), 1
		} else {
			needValid, needRefused = needValid/n, needRefused/n
		}
		if valid < needValid || refused < needRefused {
			faults = append(faults, fmt.Sprintf("%s: %d valid and %d refused calls, want %d and %d", rpc, valid, refused, needValid, needRefused))
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	table := rows()
	for _, r := range slices.Sorted(maps.Keys(table)) {
		if table[r].absent() == "" && t.rows[r] == 0 {
			faults = append(faults, fmt.Sprintf("bad input %d (%s) did not occur", r, table[r].what))
		}
	}
	return faults
}
