// Package process builds etcd, etcdctl, etcdutl and shim and runs servers as
// processes on free loopback ports, for tests.
//
// Binaries land in the bin directory of this module, under the name of their
// command; the go command's cache makes a rebuild of an unchanged one cheap, and one
// build per test binary is enough. A server lives until its test ends; its data
// directory is temporary. Readiness is an event: the first answer of the client
// port's /readyz, asked for again each 20 ms until the process ends or startTimeout.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// startTimeout bounds the time from start to ready: an election and two
	// fsyncs, with room for a busy machine.
	startTimeout = 60 * time.Second
	// stopTimeout bounds the time from SIGTERM to exit; then the process is killed.
	stopTimeout = 20 * time.Second
	// maxOutput bounds the kept output of a server, in bytes; the newest is kept.
	maxOutput = 8 << 10
	// firstPort and lastPort lie below the ephemeral range of Linux (32768).
	firstPort, lastPort = 20000, 32767
)

// packages maps a command to the package it is built from.
func packages() map[string]string {
	return map[string]string{
		"etcd":    "go.etcd.io/etcd/server/v3",
		"etcdctl": "go.etcd.io/etcd/etcdctl/v3",
		"etcdutl": "go.etcd.io/etcd/etcdutl/v3",
		"shim":    "github.com/etcdshim/shim/cmd/shim",
	}
}

// builds remembers what this process has built.
type builds struct {
	mu   sync.Mutex
	done map[string]string
}

var built = builds{done: map[string]string{}} //nolint:gochecknoglobals // a build per test binary

// Binary builds a command ("etcd", "etcdctl", "etcdutl", "shim") and returns its path.
func Binary(t testing.TB, command string) string {
	t.Helper()
	built.mu.Lock()
	defer built.mu.Unlock()
	if path, ok := built.done[command]; ok {
		return path
	}
	pkg, ok := packages()[command]
	if !ok {
		t.Fatalf("process: no command %q", command)
	}
	root := moduleDir()
	path := filepath.Join(root, "bin", command)
	build := exec.Command("go", "build", "-trimpath", "-o", path, pkg)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("process: build %s: %v\n%s", pkg, err, out)
	}
	built.done[command] = path
	return path
}

// moduleDir is the directory of the module e2e/etcd: the parent of this file's.
func moduleDir() string {
	_, file, _, _ := runtime.Caller(0)
	if filepath.IsAbs(file) {
		return filepath.Dir(filepath.Dir(file))
	}
	// Built with -trimpath: a test runs in its package's directory.
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	for d := dir; d != filepath.Dir(d); d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "process", "process.go")); err == nil {
			return d
		}
	}
	return dir
}

// ports hands out each port once, so that servers started side by side do not
// meet; a port somebody else listens on is passed over.
type ports struct {
	mu   sync.Mutex
	next int
}

var free = ports{next: firstPort + os.Getpid()%(lastPort-firstPort)} //nolint:gochecknoglobals // one machine, one port space

// Port returns a loopback port that nobody listens on, below 32768.
func Port(t testing.TB) int {
	t.Helper()
	free.mu.Lock()
	defer free.mu.Unlock()
	for range lastPort - firstPort {
		free.next++
		if free.next > lastPort {
			free.next = firstPort
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", free.next))
		if err != nil {
			continue
		}
		_ = l.Close()
		return free.next
	}
	t.Fatal("process: no free port")
	return 0
}

// Server is a running server process.
type Server struct {
	// Address is the host:port of the client port.
	Address string
	// DataDir is the data directory.
	DataDir string

	command *exec.Cmd
	output  *tail
	exited  chan struct{} // closed when the process has ended
}

// Etcd starts a single-member etcd with extra flags, and waits until it is ready.
func Etcd(t testing.TB, flags ...string) *Server {
	t.Helper()
	client, peer := Port(t), Port(t)
	peerURL := fmt.Sprintf("http://127.0.0.1:%d", peer)
	flags = append([]string{
		"--name", "default", "--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL,
		"--initial-cluster", "default=" + peerURL,
	}, flags...)
	s := Start(t, Binary(t, "etcd"), client, t.TempDir(), flags...)
	s.WaitReady(t)
	return s
}

// Shim starts shim with extra flags on a temporary data directory, and waits until it is ready.
func Shim(t testing.TB, flags ...string) *Server {
	t.Helper()
	s := Start(t, Binary(t, "shim"), Port(t), t.TempDir(), flags...)
	s.WaitReady(t)
	return s
}

// Start starts a server binary that takes etcd's flags, without waiting. The
// test's end stops it.
func Start(t testing.TB, binary string, port int, dataDir string, flags ...string) *Server {
	t.Helper()
	s := &Server{
		Address: fmt.Sprintf("127.0.0.1:%d", port), DataDir: dataDir,
		output: &tail{}, exited: make(chan struct{}),
	}
	url := "http://" + s.Address
	s.command = exec.Command(binary, append([]string{
		"--data-dir", dataDir, "--listen-client-urls", url, "--advertise-client-urls", url,
	}, flags...)...)
	s.command.Stdout, s.command.Stderr = s.output, s.output
	// The server ends with the test binary, also when that is killed.
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := s.command.Start()
	if err != nil {
		t.Fatalf("process: start %s: %v", binary, err)
	}
	go func() {
		_ = s.command.Wait() // the exit code is in ProcessState
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("output of %s at %s:\n%s", filepath.Base(binary), s.Address, s.Output())
		}
	})
	return s
}

// WaitReady returns when /readyz answers 200, and fails the test if the process ends before.
func (s *Server) WaitReady(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := s.ready(ctx); err == nil {
			return
		}
		select {
		case <-s.exited:
			t.Fatalf("process: %s ended before it was ready:\n%s", s.command.Path, s.Output())
		case <-ctx.Done():
			t.Fatalf("process: %s not ready after %s:\n%s", s.command.Path, startTimeout, s.Output())
		case <-tick.C:
		}
	}
}

func (s *Server) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// Kill sends SIGKILL and waits for the end of the process.
func (s *Server) Kill() {
	_ = s.command.Process.Kill() // it may have ended already
	<-s.exited
}

// Stop sends SIGTERM and waits for the end of the process; after
// stopTimeout it kills.
func (s *Server) Stop() {
	_ = s.command.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		s.Kill()
	}
}

// Exited is closed when the process has ended.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// ExitCode is the exit code of an ended process; -1 if a signal ended it.
func (s *Server) ExitCode() int { return s.command.ProcessState.ExitCode() }

// PID is the process id.
func (s *Server) PID() int { return s.command.Process.Pid }

// Output returns the newest output, at most maxOutput bytes.
func (s *Server) Output() string { return s.output.String() }

// tail keeps the last maxOutput bytes written.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *tail) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if extra := o.buf.Len() - maxOutput; extra > 0 {
		o.buf.Next(extra)
	}
	return len(p), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.ToValidUTF8(o.buf.String(), "?")
}
