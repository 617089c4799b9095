package oracle

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// verdict is the first step that was answered differently.
type verdict struct {
	// index is the step's place in the script.
	index       int
	step        Step
	differences []Difference
	etcd, shim  Answer
}

// cannotGoOn begins the message of an answer to a step that could not be done.
const cannotGoOn = "cannot go on"

// play runs a script on fresh servers. prepare, if not nil, is called before.
func play(t testing.TB, base string, methods map[string]*method, script Script, prepare func(etcd, shim *Side)) (etcd, shim []Answer) {
	t.Helper()
	dir, err := os.MkdirTemp(base, "oracle-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	a, b := newPair(t, dir, methods, script.Flags)
	defer a.close()
	defer b.close()
	if prepare != nil {
		prepare(a, b)
	}
	var both sync.WaitGroup
	both.Go(func() { etcd = a.run(t, script) })
	both.Go(func() { shim = b.run(t, script) })
	both.Wait()
	return etcd, shim
}

// judge compares the answers to a script, and notes what was compared in the
// tally. It returns nil when they are equal.
func judge(script Script, etcd, shim []Answer, sum *Tally) *verdict {
	c := NewComparer()
	defer func() { sum.use(c) }()
	slots := map[int]string{}
	killed, compacting := false, false
	for i, step := range script.Steps {
		if i >= len(etcd) || i >= len(shim) {
			return &verdict{index: i, step: step, differences: []Difference{{"script", "script", fmt.Sprintf("%d steps done", len(etcd)), fmt.Sprintf("%d steps done", len(shim))}}}
		}
		if step.Async != 0 {
			slots[step.Async] = step.Verb
		}
		killed = killed || step.Verb == verbKill
		if step.Verb == verbKill || step.Verb == "Maintenance.Defragment" {
			c.state.reopen()
		}
		differences := c.Compare(etcd[i], shim[i])
		if len(differences) == 0 {
			differences = unanswered(etcd[i], shim[i])
		}
		compacting = compactsOn(compacting, step, shim[i])
		if i > 0 && len(differences) == 0 && !compacting {
			differences = unstable(script.Steps[i-1], step, shim[i-1], shim[i])
		}
		sum.add(step, slots, etcd[i], killed)
		if len(differences) > 0 {
			return &verdict{i, step, differences, etcd[i], shim[i]}
		}
	}
	return nil
}

// unanswered finds fault with two equal answers that are none.
func unanswered(etcd, shim Answer) []Difference {
	for _, a := range []Answer{etcd, shim} {
		if a.Late || strings.HasPrefix(a.Message, cannotGoOn) {
			return []Difference{{"status.message", "status.message", etcd.Message, shim.Message}}
		}
	}
	return nil
}

// compactsOn tells whether after a step a compaction may still be changing the file: one that
// was not waited for may, until one was that came after it. Restarts go on with it.
func compactsOn(before bool, step Step, answer Answer) bool {
	const compact = "KV.Compact"
	if step.Verb != compact || answer.Code != codes.OK || len(step.Requests) != 1 {
		return before
	}
	r, ok := step.Requests[0].(*pb.CompactionRequest)
	return ok && !r.GetPhysical()
}

// unstable finds fault with two hashes in a row: of a file that nobody has changed it
// is the same.
func unstable(last, step Step, before, after Answer) []Difference {
	const hash = "Maintenance.Hash"
	if last.Verb != hash || step.Verb != hash || len(before.Replies)*len(after.Replies) != 1 {
		return nil
	}
	a, _ := before.Replies[0].(*pb.HashResponse)
	b, _ := after.Replies[0].(*pb.HashResponse)
	if a.GetHash() == b.GetHash() {
		return nil
	}
	return []Difference{{"replies[0].hash", "etcdserverpb.HashResponse.hash", "stable", fmt.Sprintf("%d, then %d", a.GetHash(), b.GetHash())}}
}

// sign tells what kind of difference it is: the call and the fields.
func (v *verdict) sign() string {
	verb := v.step.Verb
	if v.step.Raw != "" {
		verb += " " + v.step.Raw + " " + v.step.Of
	}
	var fields []string
	for _, d := range v.differences {
		if !slices.Contains(fields, d.Field) {
			fields = append(fields, d.Field)
		}
	}
	return verb + ": " + strings.Join(fields, ", ")
}

// maxDifferences bounds the differences that are printed of a step.
const maxDifferences = 8

func (v *verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "step %d: %s\n", v.index+1, clipped(v.step.String()))
	for i, d := range v.differences {
		if i == maxDifferences {
			fmt.Fprintf(&b, "\t… and %d more\n", len(v.differences)-i)
			break
		}
		fmt.Fprintf(&b, "\t%s\n", d)
	}
	for _, side := range []struct {
		name   string
		answer Answer
	}{{"etcd", v.etcd}, {"shim", v.shim}} {
		fmt.Fprintf(&b, "\t%s: %s %s\n", side.name, side.answer.Code, clipped(side.answer.Message))
		for i, r := range side.answer.Replies {
			if i == maxDifferences {
				break
			}
			fmt.Fprintf(&b, "\t\t%s\n", shown(r))
		}
	}
	return b.String()
}

// maxPrinted bounds a line for people, in bytes.
const maxPrinted = 2000

func clipped(text string) string {
	if len(text) > maxPrinted {
		return text[:maxPrinted] + "…"
	}
	return text
}
