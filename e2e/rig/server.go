package rig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// readyLine is what shim and etcd log once they serve.
const readyLine = "ready to serve client requests"

// StartTimeout bounds a start, recovery of the log included, and a stop, on a
// busy machine.
const StartTimeout = 60 * time.Second

const (
	// MaxMessageBytes is the largest answer that a connection of Dial takes.
	MaxMessageBytes = 64 << 20
	// logLines bounds what is kept of a process's output.
	logLines = 200
	// maxLogLine bounds one line, bytes.
	maxLogLine = 1 << 20
)

// Options say how a server is started.
type Options struct {
	Bin string // the program, as Build returns it
	Dir string // the data directory
	// Addr is where clients are served, as FreeAddr returns it. It may be kept over
	// restarts.
	Addr  string
	Flags []string // added to those of directory and address
	Env   []string // NAME=value, added to this process's
	// Wrap is a command that the server is started by, such as strace with its
	// flags. Signals go to the process it starts as: it must exec the server, as
	// strace -D does.
	Wrap []string
}

// Server is a running server. Its methods that take a TB fail it; all are for
// one goroutine, save Dial, Log and Exited.
type Server struct {
	Options
	cmd   *exec.Cmd
	log   tail
	ready chan struct{}
	ended chan struct{}
	err   error // of Wait, once ended is closed
}

// Launch starts a server without waiting until it is ready. The process is killed
// when this one ends.
func Launch(o Options) (*Server, error) {
	words := append(append([]string{}, o.Wrap...), o.Bin, "--data-dir", o.Dir,
		"--listen-client-urls", "http://"+o.Addr, "--advertise-client-urls", "http://"+o.Addr)
	cmd := exec.Command(words[0], append(words[1:], o.Flags...)...)
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &Server{Options: o, cmd: cmd, ready: make(chan struct{}), ended: make(chan struct{})}
	go s.follow(stderr)
	return s, nil
}

// follow reads the log until the process ends.
func (s *Server) follow(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, maxLogLine)
	seen := false
	for lines.Scan() {
		s.log.add(lines.Text())
		if !seen && strings.Contains(lines.Text(), readyLine) {
			seen = true
			close(s.ready)
		}
	}
	_, _ = io.Copy(io.Discard, stderr)
	s.err = s.cmd.Wait()
	close(s.ended)
}

// AwaitReady waits until the server serves. It returns an error when it ended
// before, and when it took longer than timeout.
func (s *Server) AwaitReady(timeout time.Duration) error {
	select {
	case <-s.ready:
		return nil
	case <-s.ended:
		return fmt.Errorf("the server ended before it was ready: %w\n%s", s.failure(), s.Log())
	case <-time.After(timeout):
		return fmt.Errorf("the server was not ready within %v\n%s", timeout, s.Log())
	}
}

// Start starts a server and returns once it is ready. What is still running at
// the end of the test is killed.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Launch(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.End)
	if err := s.AwaitReady(StartTimeout); err != nil {
		t.Fatal(err)
	}
	return s
}

// End kills the process if it still runs, and waits for its end.
func (s *Server) End() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.ended
}

// Kill sends SIGKILL and waits for the end. That the process was still alive to
// be killed is part of the test: it fails when the server had stopped by itself.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if err := s.TryKill(); err != nil {
		t.Fatal(err)
	}
}

// TryKill is Kill without a test: it returns why the process did not end by
// SIGKILL.
func (s *Server) TryKill() error {
	s.End()
	if !s.endedBy(syscall.SIGKILL) {
		return fmt.Errorf("the server stopped by itself: %w\n%s", s.failure(), s.Log())
	}
	return nil
}

// failure is how the process ended, exit code 0 included.
func (s *Server) failure() error {
	if s.err == nil {
		return errors.New("exit code 0")
	}
	return s.err
}

// Terminate sends SIGTERM and expects a clean end: exit code 0, or, as etcd does
// it, the signal itself.
func (s *Server) Terminate(t testing.TB) {
	t.Helper()
	if err := s.Stop(StartTimeout); err != nil && !s.endedBy(syscall.SIGTERM) {
		t.Fatalf("the server did not end cleanly on SIGTERM: %v\n%s", err, s.Log())
	}
}

// Stop sends SIGTERM and returns how the process ended: nil for exit code 0. It
// kills it after timeout.
func (s *Server) Stop(timeout time.Duration) error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.ended:
		return s.err
	case <-time.After(timeout):
		s.End()
		return fmt.Errorf("it did not end within %v of SIGTERM", timeout)
	}
}

func (s *Server) endedBy(signal syscall.Signal) bool {
	var exit *exec.ExitError
	return errors.As(s.err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == signal
}

// Exited is closed once the process has ended.
func (s *Server) Exited() <-chan struct{} { return s.ended }

// Err is how the process ended, for use after Exited: nil for exit code 0, else
// an *exec.ExitError.
func (s *Server) Err() error { return s.err }

// ExitCode is the code that the process ended with, for use after Exited; -1 when
// a signal ended it.
func (s *Server) ExitCode() int { return s.cmd.ProcessState.ExitCode() }

// PID is the process's id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Log is the end of what the process has logged so far.
func (s *Server) Log() string { return s.log.String() }

// Dial makes a client connection of its own; the caller closes it. Calls fail at
// once while the server is away.
func (s *Server) Dial(t testing.TB, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := Dial(s.Addr, options...)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// Dial makes a client connection to addr; the caller closes it.
func Dial(addr string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes)),
	}, options...)...)
}

// handedOut counts the addresses of FreeAddr, so that tests that run beside each
// other never get the same one.
var handedOut atomic.Int64

// FreeAddr finds a loopback address whose port is below the range of outgoing
// connections, so that none takes it between a kill and the restart.
func FreeAddr(t testing.TB) string {
	t.Helper()
	const low, high = 21000, 32000
	for range high - low {
		addr := fmt.Sprintf("127.0.0.1:%d", low+(os.Getpid()*61+int(handedOut.Add(1)))%(high-low))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close() // it was only tried
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// tail keeps the last lines of a log.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (l *tail) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines = append(l.lines, line); len(l.lines) > logLines {
		l.lines = append([]string(nil), l.lines[logLines/2:]...)
	}
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n") + "\n"
}
