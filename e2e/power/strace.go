package power

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Call is one system call of the trace.
type Call struct {
	Process int // thread group
	thread  int
	Name    string
	Args    []string
	// Data is what a write wrote; cut tells that strace did not show all of it.
	Data []byte
	cut  bool
	// Ret is the result; it is negative for an error.
	Ret int64
	// killed tells that the process ended in it, and last that it may have: it was the
	// last of a thread that was killed.
	killed, last bool
	// never tells that it then had no effect; the first play of the trace finds out.
	never bool
	// covered is what a sync was entered after.
	covered []*change
}

// Event is an entry into a call, a return from it, or both when nothing came
// between.
type Event struct {
	*Call
	Enter, Exit bool
}

// tracedCalls are those that change a file system, hand out descriptors or carry
// answers to clients. Calls that the model does not know stand here too, so that the
// replay can refuse them.
var tracedCalls = strings.Join([]string{
	"open", "openat", "openat2", "creat", "close", "close_range", "lseek", "dup", "dup2", "dup3", "accept4",
	"write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "truncate", "fallocate",
	"copy_file_range", "sendfile", "splice", "mmap", "msync",
	"rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
	"link", "linkat", "symlink", "symlinkat",
	"fsync", "fdatasync", "sync", "syncfs", "sync_file_range",
	"clone", "clone3", "fork", "vfork",
}, ",")

// maxTracedBytes is how much of one write strace shows; the player refuses a longer one
// of a file that it follows. shim's longest are a quarter of a mebibyte of zeros, and a batch.
const maxTracedBytes = 4 << 20

// StraceArgs are strace's, to record into file.
func StraceArgs(file string) []string {
	return []string{"-f", "--seccomp-bpf", "-xx", "-s", strconv.Itoa(maxTracedBytes), "-e", "signal=kill", "-e", "trace=" + tracedCalls, "-o", file}
}

// ParseTrace reads what strace wrote.
func ParseTrace(r io.Reader) ([]Event, error) {
	p := parser{open: map[int]*Call{}, last: map[int]*Call{}}
	lines := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if err := p.line(bytes.TrimRight(line, "\n")); err != nil {
				return nil, fmt.Errorf("strace line %d: %w: %.200s", n, err, line)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return p.events, p.processes()
}

type parser struct {
	events []Event
	open   map[int]*Call // unfinished calls by thread
	last   map[int]*Call // begun, by thread
}

// success is the result of a write or sync that did all.
func (c *Call) success() int64 {
	if c.Name == "write" || c.Name == "pwrite64" {
		return int64(len(c.Data))
	}
	return 0
}

func (p *parser) line(line []byte) error {
	digits, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return fmt.Errorf("no thread id")
	}
	thread, err := strconv.Atoi(string(digits))
	if err != nil {
		return err
	}
	rest = bytes.TrimLeft(rest, " ")
	switch {
	case bytes.HasPrefix(rest, []byte("+++ killed")):
		// strace then prints "?" for the result of its last call, or that of another.
		if c := p.last[thread]; c != nil {
			c.last, c.killed = true, c.killed || c.Ret != c.success() || p.open[thread] == c
		}
		if c := p.open[thread]; c != nil {
			c.Ret = -1
			p.events = append(p.events, Event{Call: c, Exit: true})
		}
		fallthrough
	case bytes.HasPrefix(rest, []byte("+++")), bytes.HasPrefix(rest, []byte("---")):
		delete(p.open, thread)
		return nil
	case bytes.HasPrefix(rest, []byte("<... ")):
		c := p.open[thread]
		if c == nil {
			return fmt.Errorf("resumed, but never begun")
		}
		delete(p.open, thread)
		_, result, err := splitResult(rest)
		if err != nil {
			return err
		}
		if err := c.finish(result); err != nil {
			return err
		}
		p.events = append(p.events, Event{Call: c, Exit: true})
		return nil
	}
	const unfinished = " <unfinished ...>"
	if args, ok := bytes.CutSuffix(rest, []byte(unfinished)); ok {
		c, err := newCall(thread, args)
		if err != nil {
			return err
		}
		p.open[thread], p.last[thread] = c, c
		p.events = append(p.events, Event{Call: c, Enter: true})
		return nil
	}
	args, result, err := splitResult(rest)
	if err != nil {
		return err
	}
	c, err := newCall(thread, args)
	if err != nil {
		return err
	}
	if err := c.finish(result); err != nil {
		return err
	}
	p.last[thread] = c
	p.events = append(p.events, Event{Call: c, Enter: true, Exit: true})
	return nil
}

// splitResult splits "name(args) = result" into "name(args" and "result".
func splitResult(line []byte) (args, result []byte, err error) {
	i := bytes.LastIndex(line, []byte(" = "))
	if i < 0 {
		return nil, nil, fmt.Errorf("no result")
	}
	args = bytes.TrimRight(line[:i], " ")
	if args, ok := bytes.CutSuffix(args, []byte(")")); ok {
		return args, line[i+3:], nil
	}
	return nil, nil, fmt.Errorf("no end of arguments")
}

func newCall(thread int, text []byte) (*Call, error) {
	name, args, ok := bytes.Cut(text, []byte("("))
	if !ok {
		return nil, fmt.Errorf("no call")
	}
	c := &Call{thread: thread, Name: string(name)}
	list := splitArgs(args)
	if (c.Name == "write" || c.Name == "pwrite64") && len(list) > 1 {
		var err error
		if bytes.HasPrefix(list[1], []byte("0x")) {
			// The process is ending: its memory is gone already, and the call will do
			// nothing. The sums of the files prove it.
			c.never = true
		} else if bytes.HasSuffix(list[1], []byte("...")) {
			c.cut = true
		} else if c.Data, err = unquote(list[1]); err != nil {
			return nil, err
		}
		list[1] = nil
	}
	for _, a := range list {
		c.Args = append(c.Args, string(a))
	}
	return c, nil
}

// finish takes the result, such as "5", "-1 ENOENT (No such file or directory)", "?"
// or "0x7f4888379000".
func (c *Call) finish(result []byte) error {
	word, _, _ := bytes.Cut(result, []byte(" "))
	if string(word) == "?" {
		c.Ret, c.killed = -1, true
		return nil
	}
	if strings.HasPrefix(string(word), "0x") {
		n, err := strconv.ParseUint(string(word[2:]), 16, 64)
		c.Ret = int64(n)
		return err
	}
	n, err := strconv.ParseInt(string(word), 10, 64)
	c.Ret = n
	return err
}

// splitArgs splits at commas outside of brackets. Strings are in hexadecimal: they
// hold none.
func splitArgs(text []byte) [][]byte {
	var args [][]byte
	depth, start := 0, 0
	for i, b := range text {
		switch b {
		case '{', '[', '(':
			depth++
		case '}', ']', ')':
			depth--
		case ',':
			if depth == 0 {
				args = append(args, bytes.TrimSpace(text[start:i]))
				start = i + 1
			}
		}
	}
	return append(args, bytes.TrimSpace(text[start:]))
}

// unquote decodes "\x2f\x64". A string that strace cut off is an error.
func unquote(text []byte) ([]byte, error) {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return nil, fmt.Errorf("no whole string")
	}
	text = text[1 : len(text)-1]
	if len(text)%4 != 0 {
		return nil, fmt.Errorf("string of odd length")
	}
	out := make([]byte, len(text)/4)
	digits := make([]byte, 2)
	for i := range out {
		copy(digits, text[4*i+2:])
		if digits[0] == '0' && digits[1] == '0' {
			continue
		}
		if _, err := hex.Decode(out[i:i+1], digits); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// processes finds out which threads are of one process. A thread's calls may stand
// before the return of the clone that made it.
func (p *parser) processes() error {
	parent := map[int]int{}
	process := map[int]bool{} // those that are no thread of their parent
	for _, e := range p.events {
		if !e.Exit || e.Ret <= 0 || !slices.Contains([]string{"clone", "clone3", "fork", "vfork"}, e.Name) {
			continue
		}
		child := int(e.Ret)
		if _, twice := parent[child]; twice {
			return fmt.Errorf("process id %d was used twice: record again", child)
		}
		parent[child] = e.thread
		process[child] = !strings.Contains(strings.Join(e.Args, ","), "CLONE_THREAD")
	}
	for _, e := range p.events {
		e.Process = e.thread
		for {
			up, known := parent[e.Process]
			if !known || process[e.Process] {
				break
			}
			e.Process = up
		}
	}
	return nil
}
