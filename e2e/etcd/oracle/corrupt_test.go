package oracle

import (
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// maxCorruptions bounds the corruptions of each RPC's answers.
const maxCorruptions = 120

// TestCorruptedShimIsReported plays a sequence of each profile, with which both
// servers agree, and ensures that a change of any field of any of shim's answers, one at a
// time, is reported at its step.
func TestCorruptedShimIsReported(t *testing.T) {
	known, err := methods()
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	left := map[string]int{}
	corrupted := 0
	for _, p := range profiles() {
		g := newGenerator(rand.New(rand.NewPCG(9, 9)), p)
		g.make(200)
		script := Script{p.flags, g.script}
		etcd, shim := play(t, *dirFlag, known, script, nil)
		if v := judge(script, etcd, shim, newTally()); v != nil {
			t.Errorf("%s: %v", p.name, v)
			continue
		}
		for i, step := range script.Steps {
			for _, bad := range corruptAnswers(shim[i]) {
				if left[step.Verb] >= maxCorruptions && r.IntN(100) > 0 {
					continue
				}
				left[step.Verb]++
				corrupted++
				answers := slices.Clone(shim)
				answers[i] = bad.answer
				if v := judge(script, etcd, answers, newTally()); v == nil || v.index != i {
					t.Errorf("%s, step %d, %s: %s: not reported there", p.name, i+1, step.Verb, bad.what)
				}
			}
		}
	}
	t.Logf("%d corruptions reported: %v", corrupted, left)
	if corrupted < 500 {
		t.Errorf("%d corruptions, want at least 500", corrupted)
	}
}

type badAnswer struct {
	what   string
	answer Answer
}

// corruptAnswers are an answer with one field of one message changed, for each that
// is not masked.
func corruptAnswers(a Answer) []badAnswer {
	hidden := maskTable()
	var out []badAnswer
	for n, m := range a.Replies {
		for _, c := range corruptions(m) {
			if _, masked := hidden[c.field]; masked && c.how != "an unknown field beside it" || sameButOrder(c) {
				continue
			}
			b := a
			b.Replies = slices.Clone(a.Replies)
			b.Replies[n] = c.message
			out = append(out, badAnswer{string(c.field) + ", " + c.how, b})
		}
	}
	for n, w := range a.Watched {
		for _, c := range corruptions(w.message) {
			m, ok := c.message.(*pb.WatchResponse)
			if !ok {
				continue
			}
			b := a
			b.Watched = slices.Clone(a.Watched)
			b.Watched[n] = watched{w.stream, m}
			out = append(out, badAnswer{string(c.field) + ", " + c.how, b})
		}
	}
	return out
}
