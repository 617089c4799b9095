package conformance

import (
	"fmt"
	"sort"
	"strings"
	"sync"
	"testing"
)

// outcome is what came of one case.
type outcome int

const (
	passed outcome = iota
	failed
	// absentOK: the capability is absent and the RPC said so.
	absentOK
	// notGiven: no server in the condition that the case needs.
	notGiven
	outcomes
)

// Summary is what came of a run.
type Summary struct {
	Endpoint string
	Profile  string

	mu       sync.Mutex
	byRPC    map[string]*[outcomes]int
	byArea   map[string]*[outcomes]int
	total    [outcomes]int
	NotGiven []string // names of cases whose condition could not be had
}

func (s *Summary) note(k Case, o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byRPC == nil {
		s.byRPC, s.byArea = map[string]*[outcomes]int{}, map[string]*[outcomes]int{}
	}
	for _, row := range []struct {
		table map[string]*[outcomes]int
		name  string
	}{{s.byRPC, k.RPC}, {s.byArea, k.area()}} {
		if row.table[row.name] == nil {
			row.table[row.name] = new([outcomes]int)
		}
		row.table[row.name][o]++
	}
	s.total[o]++
	if o == notGiven {
		s.NotGiven = append(s.NotGiven, fmt.Sprintf("%s (%s)", k.Name, k.Condition))
	}
}

// Passed is the number of cases that ran and held.
func (s *Summary) Passed() int { return s.total[passed] }

// Absent is the number of cases whose capability is absent and was refused as such.
func (s *Summary) Absent() int { return s.total[absentOK] }

// Print logs the tables by RPC and by area, what was not run, and what
// is tested elsewhere.
func (s *Summary) Print(t *testing.T) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "profile %s on %s\n", s.Profile, s.Endpoint)
	table := func(title string, rows map[string]*[outcomes]int) {
		fmt.Fprintf(&b, "%-32s %6s %6s %6s %8s\n", title, "pass", "fail", "absent", "not run")
		var names []string
		for name := range rows {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			r := rows[name]
			fmt.Fprintf(&b, "%-32s %6d %6d %6d %8d\n", name, r[passed], r[failed], r[absentOK], r[notGiven])
		}
	}
	table("RPC", s.byRPC)
	table("area", s.byArea)
	table("total", map[string]*[outcomes]int{"": &s.total})
	for _, name := range s.NotGiven {
		fmt.Fprintf(&b, "not run, no such server given: %s\n", name)
	}
	fmt.Fprintf(&b, "tested elsewhere: %s\n", strings.Join(elsewhere(), ", "))
	fmt.Print(b.String())
}
