package disk

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// injection is a fault in a system call on files.
type injection struct {
	// call and what are strace's, such as fdatasync and error=EIO.
	call, what string
	// paths are the files; none means any.
	paths []string
}

func (in injection) String() string {
	names := make([]string, 0, len(in.paths))
	for _, p := range in.paths {
		names = append(names, filepath.Base(p))
	}
	if len(names) > 3 {
		names = append(names[:3:3], "…")
	}
	return fmt.Sprintf("%s of %s on %s", in.what, in.call, strings.Join(names, ", "))
}

// flags are strace's; the trace goes to a file.
func (in injection) flags(trace string) []string {
	// The writes are shown beside, to see what was not synced.
	calls := in.call
	if !strings.Contains(calls, "pwrite64") {
		calls += ",pwrite64"
	}
	if !strings.Contains(calls, "fdatasync") {
		calls += ",fdatasync"
	}
	flags := []string{"-f", "-y", "-s", "0", "-e", "signal=none", "-o", trace, "-e", "trace=" + calls, "-e", "inject=" + in.call + ":" + in.what}
	for _, p := range in.paths {
		flags = append(flags, "-P", p)
	}
	return flags
}

// tracer is a running strace.
type tracer struct {
	injection
	cmd   *exec.Cmd
	trace string
	ended chan struct{}
}

// attachTimeout bounds how long strace takes to seize every thread.
const attachTimeout = 20 * time.Second

// attach injects into a running process, and returns once it does.
func attach(t testing.TB, pid int, in injection) *tracer {
	t.Helper()
	r := &tracer{injection: in, trace: filepath.Join(t.TempDir(), "trace"), ended: make(chan struct{})}
	r.cmd = exec.Command("strace", append(in.flags(r.trace), "-p", strconv.Itoa(pid))...)
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatalf("strace: %v (the Debian package of that name is needed)", err)
	}
	attached := make(chan struct{})
	var said strings.Builder
	go func() {
		defer close(r.ended)
		lines := bufio.NewScanner(stderr)
		for n := 0; lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "attached") {
				if n++; n == 1 {
					close(attached)
				}
			}
		}
		_ = r.cmd.Wait() // ends as the tracee does
	}()
	t.Cleanup(r.detach)
	select {
	case <-attached:
	case <-r.ended:
		t.Fatalf("strace: %s", said.String())
	case <-time.After(attachTimeout):
		t.Fatal("strace does not attach")
	}
	return r
}

// detach ends the injection.
func (r *tracer) detach() {
	_ = r.cmd.Process.Signal(os.Interrupt) // it may have ended with its tracee
	<-r.ended
}

// call is a line of the trace.
type call struct {
	name, path     string
	injected       bool
	offset, length int64 // of a pwrite64
}

var (
	callLine  = regexp.MustCompile(`^\d+ +([a-z_0-9]+)\((.*)$`)
	fdPath    = regexp.MustCompile(`^\d+<([^>]*)>`)
	writeArgs = regexp.MustCompile(`, (\d+), (\d+)(?:\)| <unfinished)`)
	resumed   = regexp.MustCompile(`^(\d+) +<\.\.\. ([a-z_0-9]+) resumed>(.*)$`)
)

// calls reads the trace; the injection must be over.
func (r *tracer) calls(t testing.TB) []call {
	t.Helper()
	return readTrace(t, r.trace)
}

func readTrace(t testing.TB, path string) (all []call) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]int{} // by thread and call: the place of an unfinished one
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		thread, _, _ := strings.Cut(line, " ")
		hit := strings.Contains(line, "(INJECTED)") || strings.Contains(line, "(DELAYED)")
		if m := resumed.FindStringSubmatch(line); m != nil {
			if i, ok := open[m[1]+m[2]]; ok && hit {
				all[i].injected = true
			}
			continue
		}
		m := callLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		c := call{name: m[1], injected: hit}
		if p := fdPath.FindStringSubmatch(m[2]); p != nil {
			c.path = p[1]
		}
		if w := writeArgs.FindStringSubmatch(m[2]); w != nil && c.name == "pwrite64" {
			c.length, _ = strconv.ParseInt(w[1], 10, 64)
			c.offset, _ = strconv.ParseInt(w[2], 10, 64)
		}
		if strings.Contains(line, "unfinished") {
			open[thread+c.name] = len(all)
		}
		all = append(all, c)
	}
	for _, c := range all {
		if c.injected {
			counted.injected.Add(1)
		}
	}
	return all
}

// firstInjected is the place of the first call that was made to fail, -1 if there
// was none.
func firstInjected(all []call) int {
	for i, c := range all {
		if c.injected {
			return i
		}
	}
	return -1
}
