package clients

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// workerProcess is a worker, seen from the test.
type workerProcess struct {
	f       *flow
	name    string
	command *exec.Cmd
	in      io.Writer
	lines   chan string // what it tells; closed at its end
	exited  chan struct{}
}

// maxLines bounds the lines of a worker that the test has not read: more than any tells.
const maxLines = 1000

// worker starts one; it ends with the test.
func (f *flow) worker(role, name string, variables ...string) *workerProcess {
	f.Helper()
	self, err := os.Executable()
	f.must(err)
	w := &workerProcess{f: f, name: name, command: exec.Command(self), lines: make(chan string, maxLines), exited: make(chan struct{})}
	w.command.Env = append(os.Environ(), roleVariable+"="+role, endpointVariable+"="+f.server.Address, nameVariable+"="+name)
	w.command.Env = append(w.command.Env, variables...)
	w.command.Stderr = os.Stderr
	w.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.in, err = w.command.StdinPipe()
	f.must(err)
	out, err := w.command.StdoutPipe()
	f.must(err)
	f.must(w.command.Start())
	go func() {
		defer close(w.exited)
		defer close(w.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			w.lines <- s.Text()
		}
		_ = w.command.Wait() // how it ended is in ProcessState
	}()
	f.Cleanup(w.kill)
	return w
}

// kill sends SIGKILL, and returns when the process is gone.
func (w *workerProcess) kill() {
	_ = w.command.Process.Kill() // it may have ended already
	for range w.lines {
	}
	<-w.exited
}

// tells takes the worker's next line, which must begin with word, and returns the rest.
func (w *workerProcess) tells(word string) string {
	w.f.Helper()
	line := receive(w.f, w.name+": "+word, w.lines)
	rest, ok := strings.CutPrefix(line, word)
	if !ok {
		w.f.Fatalf("%s tells %q, want %s", w.name, line, word)
	}
	return strings.TrimSpace(rest)
}

// does has a leading worker do something.
func (w *workerProcess) does(what string) {
	w.f.Helper()
	_, err := fmt.Fprintln(w.in, what)
	w.f.must(err)
}

// TestMutexOfProcesses: of three processes that count under a mutex, one is killed while it owns
// it. There are never two owners, no count is lost, and the others finish.
func TestMutexOfProcesses(t *testing.T) {
	const rounds, hold = 15, 5
	each(t, func(f *flow) {
		numbers := f.client.Watch(f.ctx, "number", clientv3.WithCreatedNotify())
		receive(f, "watch", numbers)
		file := filepath.Join(f.TempDir(), "owner")
		var workers []*workerProcess
		for i := range 3 {
			w := f.worker("mutex", fmt.Sprint("worker ", i), fileVariable+"="+file, fmt.Sprint(roundsVariable, "=", rounds),
				fmt.Sprint(holdVariable, "=", map[bool]int{true: hold}[i == 0]))
			workers = append(workers, w)
		}
		victim := workers[0]
		for range hold {
			victim.tells("counted")
		}
		victim.tells("holding")
		victim.kill()
		for _, w := range workers[1:] {
			for range rounds {
				w.tells("counted")
			}
			w.tells("done")
		}
		const want = hold + 2*rounds
		equal(f, "the number", f.get(f.client, "number"), fmt.Sprint("number=", want))
		for n := 1; n <= want; {
			for _, e := range receive(f, "numbers", numbers).Events {
				equal(f, "number", string(e.Kv.Value), fmt.Sprint(n))
				n++
			}
		}
		equal(f, "keys left", f.get(f.client, "mutex/", clientv3.WithPrefix()), "")
	})
}

// TestElectorOfProcesses: of three processes that stand in an election, the leader is killed, and
// the next resigns. Each leads once, in the order in which they came, and an observer sees all
// that they proclaim.
func TestElectorOfProcesses(t *testing.T) {
	each(t, func(f *flow) {
		observed := concurrency.NewElection(f.session(), "election").Observe(f.ctx)
		seen := func(want string) int64 {
			f.Helper()
			kv := receive(f, "observe "+want, observed).Kvs[0]
			equal(f, "observed", string(kv.Value), want)
			return kv.CreateRevision
		}
		standing := f.client.Watch(f.ctx, "election/", clientv3.WithPrefix(), clientv3.WithFilterDelete(), clientv3.WithCreatedNotify())
		receive(f, "watch", standing)
		var workers []*workerProcess
		for i := range 3 {
			workers = append(workers, f.worker("elector", fmt.Sprint("worker ", i)))
			receive(f, "candidate", standing)
			if i == 0 {
				workers[0].tells("leads")
			}
		}
		first, second, third := workers[0], workers[1], workers[2]
		revision := seen("worker 0")
		first.does("proclaim from the first")
		first.tells("did")
		seen("from the first")
		first.kill()

		equal(f, "revision of the second", second.tells("leads"), fmt.Sprint(seen("worker 1")))
		second.does("proclaim from the second")
		second.tells("did")
		if r := seen("from the second"); r <= revision {
			f.Errorf("the second leads since revision %d, the first since %d", r, revision)
		}
		select {
		case line := <-third.lines:
			f.Errorf("the third tells %q while the second leads", line)
		default:
		}
		second.does("resign")
		second.tells("done")

		equal(f, "revision of the third", third.tells("leads"), fmt.Sprint(seen("worker 2")))
		third.does("resign")
		third.tells("done")
		equal(f, "keys left", f.get(f.client, "election/", clientv3.WithPrefix()), "")
	})
}
