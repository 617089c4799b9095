package power

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ReplayConfig describes a replay.
type ReplayConfig struct {
	Recording Recording
	Seed      uint64
	// States is how many states are drawn beside the prefixes, and Prefixes how many
	// positions are replayed with everything before kept, and with nothing that is not
	// durable; 0: every one.
	States, Prefixes int
	// Shard and Shards: only states whose number is Shard modulo Shards.
	Shard, Shards int
	// Only is the number of the only state to replay; negative: all.
	Only int
	// Work is where states are made, and where failing ones are left.
	Work    string
	Workers int
	// MaxFailures ends the replay.
	MaxFailures int
	// SkipAnswers leaves out whether answers were sent after the sync that they need.
	SkipAnswers bool
	// Shim is the program that `shim check`s and serves, at Addr, one state in
	// ProgramEach before it is verified; 0: none.
	Shim, Addr  string
	ProgramEach int
}

// Result of a replay.
type Result struct {
	Events    int // of the trace
	Positions int // at which the disk had changed
	Numbers   int // of states that the seed gives
	Replayed  map[string]int
	Reopened  int
	Programs  int
	// Answers is how many of the server's were held against the syncs before, with how many
	// revisions of which the log's write was known.
	Answers, AnswersKnown int
	// Seen counts calls in the trace that changed the disk, those of directories with the
	// name, its number left out.
	Seen map[string]int
	// Failures: what was wrong, by state; and where its directory is.
	Failures []string
}

// numbers are those in the names of files.
var numbers = regexp.MustCompile("[0-9][0-9a-f]*")

// timeline is what was asked and acknowledged at each position.
type timeline struct {
	ops          []Op
	asked, acked []int // by operation: the event; -1 never
	// revision acknowledged up to an event, by event, ascending.
	acks []ack
}

type ack struct {
	event    int
	revision int64
}

// replay is one under way.
type replay struct {
	ReplayConfig
	events  []Event
	rec     recorded
	history *History
	time    timeline

	mu     sync.Mutex
	result Result
	// serving is held by whoever has a server at Addr.
	serving sync.Mutex
	// forking is held for writing while a process is started, and for reading while a
	// backend is open: for a moment the new process has all files of this one, and holds
	// their locks.
	forking sync.RWMutex
}

// Replay replays a recording.
func Replay(ctx context.Context, c ReplayConfig) (Result, error) {
	r := &replay{ReplayConfig: c}
	r.result.Replayed, r.result.Seen = map[string]int{}, map[string]int{}
	var err error
	if r.rec, r.history, err = c.Recording.load(); err != nil {
		return r.result, err
	}
	f, err := os.Open(c.Recording.trace())
	if err != nil {
		return r.result, err
	}
	r.events, err = ParseTrace(f)
	_ = f.Close() // only read from
	if err != nil {
		return r.result, err
	}
	r.result.Events = len(r.events)
	positions, err := r.survey()
	if err != nil {
		return r.result, err
	}
	r.result.Positions = len(positions)
	return r.result, r.run(ctx, r.plan(positions))
}

// survey plays the trace once: it finds where the disk changes, takes the marks, and
// holds every answer against the syncs before it.
func (r *replay) survey() (positions []int, err error) {
	p := newPlayer(r.rec.Root, r.Recording.marks())
	r.time.ops = r.rec.Ops
	for range r.rec.Ops {
		r.time.asked = append(r.time.asked, -1)
		r.time.acked = append(r.time.acked, -1)
	}
	event := 0
	var markErr error
	p.onMark = func(line string) { markErr = r.time.mark(event, line) }
	durable := newDurability(r.history)
	p.onSync = durable.synced
	var sendErr error
	a := newAnswers(durable.answered)
	p.onSend = func(socket int, data []byte) { sendErr = a.sent(socket, data) }
	p.onChange = func(call, name string) { r.result.Seen[call+" "+numbers.ReplaceAllString(name, "*")]++ }
	changes := 0
	for i, e := range r.events {
		event = i
		if err := p.step(e); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		if markErr != nil {
			return nil, fmt.Errorf("event %d: %w", i, markErr)
		}
		if sendErr != nil && !r.SkipAnswers {
			r.fail("acknowledged before synced, at event %d: %v", i, sendErr)
		}
		sendErr = nil
		if p.disk.changes != changes {
			changes = p.disk.changes
			positions = append(positions, i)
			r.result.Seen[e.Name]++
		}
	}
	r.result.Answers, r.result.AnswersKnown = durable.answers, durable.known
	return positions, nil
}

func (t *timeline) mark(event int, line string) error {
	words := strings.Fields(line)
	if len(words) < 2 {
		return fmt.Errorf("mark %q", line)
	}
	n, err := strconv.Atoi(words[1])
	if err != nil || n >= len(t.ops) {
		return fmt.Errorf("mark %q: %w", line, err)
	}
	if words[0] == "i" {
		t.asked[n] = event
		return nil
	}
	t.acked[n] = event
	revision, err := strconv.ParseInt(words[2], 10, 64)
	if err != nil {
		return fmt.Errorf("mark %q: %w", line, err)
	}
	if len(t.acks) > 0 {
		revision = max(revision, t.acks[len(t.acks)-1].revision)
	}
	t.acks = append(t.acks, ack{event, revision})
	return nil
}

// revision is the highest one acknowledged up to an event.
func (t *timeline) revision(event int) int64 {
	i, _ := slices.BinarySearchFunc(t.acks, event+1, func(a ack, e int) int { return a.event - e })
	if i == 0 {
		return 1
	}
	return t.acks[i-1].revision
}

// state is one to be tried.
type state struct {
	number int
	event  int
	style  Style
}

// plan numbers the states: first the prefixes, then those drawn.
func (r *replay) plan(positions []int) []state {
	var all []state
	step := 1.0
	if r.Prefixes > 0 && r.Prefixes < len(positions) {
		step = float64(len(positions)) / float64(r.Prefixes)
	}
	for i := 0.0; int(i) < len(positions); i += step {
		for _, style := range []Style{KeepAll, LoseAll} {
			all = append(all, state{number: len(all), event: positions[int(i)], style: style})
		}
	}
	drawn := []Style{LoseOne, KeepOne, Mixed, Mixed}
	near := r.rare(positions)
	for range r.States {
		s := state{number: len(all)}
		rng := r.rng(s.number)
		s.style = drawn[rng.IntN(len(drawn))]
		if s.event = positions[rng.IntN(len(positions))]; rng.IntN(2) == 0 {
			s.event = near[rng.IntN(len(near))]
		}
		all = append(all, s)
	}
	r.result.Numbers = len(all)
	all = slices.DeleteFunc(all, func(s state) bool {
		return r.Only >= 0 && s.number != r.Only || r.Shards > 1 && s.number%r.Shards != r.Shard
	})
	slices.SortStableFunc(all, func(a, b state) int { return a.event - b.event })
	return all
}

// rare are the positions around changes of directories and sizes, which are few and
// where an order matters most.
func (r *replay) rare(positions []int) []int {
	const around = 6
	var near []int
	for i, p := range positions {
		switch r.events[p].Name {
		case "openat", "renameat", "unlinkat", "mkdirat", "ftruncate", "fsync":
			for j := max(0, i-around); j <= min(len(positions)-1, i+around); j++ {
				near = append(near, positions[j])
			}
		}
	}
	return near
}

func (r *replay) rng(number int) *rand.Rand { return rand.New(rand.NewPCG(r.Seed, uint64(number))) }

// made is a state to be verified.
type made struct {
	state
	contents *contents
}

// run plays the trace again and hands each state to a worker when its event is reached.
func (r *replay) run(ctx context.Context, states []state) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	queue := make(chan made, r.Workers)
	var work sync.WaitGroup
	for range r.Workers {
		work.Go(func() {
			for m := range queue {
				if r.try(ctx, m) {
					cancel()
				}
			}
		})
	}
	defer work.Wait()
	defer close(queue)
	p := newPlayer(r.rec.Root, r.Recording.marks())
	for i, e := range r.events {
		if err := p.step(e); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
		for len(states) > 0 && states[0].event == i {
			s := states[0]
			states = states[1:]
			rng := r.rng(s.number)
			c := p.disk.crash(p.disk.newChooser(s.style, rng))
			select {
			case queue <- made{s, c}:
			case <-ctx.Done():
				return nil
			}
		}
	}
	return nil
}

// try makes a state and verifies it; enough tells to stop.
func (r *replay) try(ctx context.Context, m made) (enough bool) {
	if ctx.Err() != nil {
		return true
	}
	dir := filepath.Join(r.Work, fmt.Sprintf("state-%d", m.number))
	v := verifier{replay: r, state: m.state, dir: filepath.Join(dir, r.rec.DataDir)}
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = m.contents.write(dir)
	}
	if err == nil {
		err = v.verify(ctx)
	}
	if err == nil || ctx.Err() != nil { // another one failed: this one was not finished
		_ = os.RemoveAll(dir)
		if err != nil {
			return true
		}
	} else if e := r.leave(dir, m.contents); e != nil {
		err = fmt.Errorf("%w; and the state could not be kept: %w", err, e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Replayed[m.style.String()]++
	r.result.Reopened += v.reopened
	r.result.Programs += v.programs
	if err != nil {
		r.result.Failures = append(r.result.Failures, fmt.Sprintf("seed %d, state %d (%v, power lost at event %d of %d): %v\nleft in %s",
			r.Seed, m.number, m.style, m.event, len(r.events), err, dir))
	}
	return len(r.result.Failures) >= r.MaxFailures
}

// leave makes the state anew, as it was before shim was started on it.
func (r *replay) leave(dir string, c *contents) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return c.write(dir)
}

func (r *replay) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.result.Failures) < r.MaxFailures {
		r.result.Failures = append(r.result.Failures, fmt.Sprintf(format, args...))
	}
}

// durability knows which operations' entries are on the disk for sure.
type durability struct {
	history *History
	on      map[int]bool // by operation
	// checked is the revision up to which every maker that is known is on the disk.
	checked        int64
	answers, known int
}

func newDurability(h *History) *durability {
	return &durability{history: h, on: map[int]bool{}, checked: 1}
}

// synced takes the writes that a sync made durable.
func (d *durability) synced(covered []*change) {
	for _, c := range covered {
		for _, op := range tokens(c.data) {
			d.on[op] = true
		}
	}
}

// answered takes the revision of an answer that begins to be sent.
func (d *durability) answered(revision int64) error {
	d.answers++
	for ; d.checked < min(revision, d.history.last); d.checked++ {
		op, ok := d.history.maker(d.checked + 1)
		if !ok {
			continue
		}
		if !d.on[op] {
			return fmt.Errorf("an answer says revision %d, and the log entry of revision %d (operation %d) is not synced", revision, d.checked+1, op)
		}
		d.known++
	}
	return nil
}
