package oracle

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// The verbs of steps that are not the name of an RPC.
const (
	verbKill  = "kill"  // SIGKILL, and a start on the same directory
	verbAwait = "await" // wait until a range has count keys
	verbJoin  = "join"  // wait for the call that a step with async began
	verbRaw   = "raw"   // what no gRPC library would send
	verbClose = "close" // end a watch stream
	// verbNotify waits until a watch is told of progress by the clock.
	verbNotify = "notify"
)

// A Step is one call, or something done to the server. In a script it is a line: the verb,
// options as name=value, and each request in braces, in protobuf's text form.
type Step struct {
	// Verb is an RPC, as "KV.Put", or one of the verbs above.
	Verb     string
	Requests []proto.Message
	// Stream is the number of a watch stream; see streamOfFuture.
	Stream int
	// Async is the slot of a call that the script does not wait for, and Join the one that is waited for.
	Async, Join int
	// Bind is the number of the symbols that this step's answer gives a meaning.
	Bind int
	// Take is how many messages of an endless stream are taken.
	Take int
	// Count is the number of keys that verbAwait waits for.
	Count int
	// As is the user whose newest token the call carries; "!" carries one that is none.
	As string
	// Raw names what verbRaw does to the RPC Of.
	Raw, Of string
	// Rows are the rows of the table of bad inputs that the step is meant to be.
	Rows []int
}

// streamOfFuture is the lowest number of a stream whose watches begin at the
// present or in the future; those below are streams of the past.
const streamOfFuture = 10

func (s Step) String() string {
	var b strings.Builder
	b.WriteString(s.Verb)
	for _, o := range s.options() {
		if *o.text != "" {
			fmt.Fprintf(&b, " %s=%s", o.name, *o.text)
		}
	}
	for _, o := range s.numbers() {
		if *o.value != 0 {
			fmt.Fprintf(&b, " %s=%d", o.name, *o.value)
		}
	}
	for _, r := range s.Rows {
		fmt.Fprintf(&b, " row=%d", r)
	}
	for _, r := range s.Requests {
		text := prototext.MarshalOptions{EmitASCII: true}.Format(r)
		fmt.Fprintf(&b, " {%s}", named(text))
	}
	return b.String()
}

type textOption struct {
	name string
	text *string
}

type numberOption struct {
	name  string
	value *int
}

func (s *Step) options() []textOption {
	return []textOption{{"as", &s.As}, {"raw", &s.Raw}, {"of", &s.Of}}
}

func (s *Step) numbers() []numberOption {
	return []numberOption{
		{"stream", &s.Stream}, {"async", &s.Async}, {"slot", &s.Join}, {"bind", &s.Bind}, {"take", &s.Take}, {"count", &s.Count},
	}
}

// parseStep is the reverse of String.
func parseStep(line string, known map[string]*method) (Step, error) {
	var s Step
	var rest string
	s.Verb, rest, _ = strings.Cut(line, " ")
	for rest = strings.TrimSpace(rest); rest != "" && rest[0] != '{'; rest = strings.TrimSpace(rest) {
		var word string
		word, rest, _ = strings.Cut(rest, " ")
		name, value, ok := strings.Cut(word, "=")
		if !ok || !s.set(name, value) {
			return s, fmt.Errorf("step %q: no option %q", line, word)
		}
	}
	m := known[s.Verb]
	if s.Verb == verbAwait {
		m = known["KV.Range"]
	}
	if m == nil && rest != "" {
		return s, fmt.Errorf("step %q: no RPC %q", line, s.Verb)
	}
	for rest != "" {
		end := closing(rest)
		if end < 0 {
			return s, fmt.Errorf("step %q: a brace is open", line)
		}
		r := m.newRequest()
		if err := prototext.Unmarshal([]byte(numbered(rest[1:end])), r); err != nil {
			return s, fmt.Errorf("step %q: %w", line, err)
		}
		s.Requests = append(s.Requests, r)
		rest = strings.TrimSpace(rest[end+1:])
	}
	return s, nil
}

func (s *Step) set(name, value string) bool {
	for _, o := range s.options() {
		if o.name == name {
			*o.text = value
			return true
		}
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return false
	}
	for _, o := range s.numbers() {
		if o.name == name {
			*o.value = n
			return true
		}
	}
	if name == "row" {
		s.Rows = append(s.Rows, n)
		return true
	}
	return false
}

// closing is the index of the brace that closes the first, those in quotes aside; -1 if there is none.
func closing(text string) int {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// A Script is what is asked of both servers, from their start on empty directories.
type Script struct {
	// Flags are given to both.
	Flags []string
	Steps []Step
}

// calls are how many calls the script makes, unless one is refused before its last request.
func (s Script) calls() int {
	n := 0
	for _, step := range s.Steps {
		switch {
		case step.Async != 0: // counted where it is joined
		case step.Verb == verbRaw || step.Verb == verbAwait || step.Verb == verbJoin:
			n++
		default:
			n += len(step.Requests)
		}
	}
	return n
}

// write writes the script so that readScript reads it.
func (s Script) write(w io.Writer) error {
	b := bufio.NewWriter(w)
	_, _ = fmt.Fprintf(b, "flags %s\n", strings.Join(s.Flags, " ")) // Flush tells
	for _, step := range s.Steps {
		_, _ = fmt.Fprintln(b, step)
	}
	return b.Flush()
}

// maxLine bounds a line of a script, in bytes: a request that is too large for the
// servers, in text.
const maxLine = 32 << 20

// readScript reads what write has written. Empty lines and those that begin with # are left out.
func readScript(r io.Reader, known map[string]*method) (Script, error) {
	var s Script
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if flags, ok := strings.CutPrefix(line, "flags"); ok {
			s.Flags = strings.Fields(flags)
			continue
		}
		step, err := parseStep(line, known)
		if err != nil {
			return s, err
		}
		s.Steps = append(s.Steps, step)
	}
	return s, lines.Err()
}

// reads tells whether a step cannot bring forth an event. Who campaigns again with another
// value makes a revision that the answer does not tell, so that its events are awaited after
// the next step.
func (s Step) reads() bool {
	switch s.Verb {
	case "Election.Campaign":
		return true
	case "KV.Range", "KV.RangeStream", "Lease.LeaseTimeToLive", "Lease.LeaseLeases", "Cluster.MemberList",
		"Maintenance.Status", "Maintenance.HashKV", "Maintenance.Hash", "Maintenance.Snapshot", "Election.Leader",
		"Auth.AuthStatus", "Auth.UserGet", "Auth.UserList", "Auth.RoleGet", "Auth.RoleList":
		return true
	}
	return false
}
