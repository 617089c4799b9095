package kill

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// readyLine is what shim logs once it serves.
const readyLine = "ready to serve client requests"

// startTimeout bounds a start, recovery of the log included, on a busy machine.
const startTimeout = 60 * time.Second

// buildShim builds the shim of this checkout and returns its path.
func buildShim(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "shim")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/shim")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// server is a running shim.
type server struct {
	cmd  *exec.Cmd
	addr string
	// log keeps what the process printed, for a failure's report.
	log  *tail
	done chan error
}

// startServer starts shim on dir and addr, with more flags if given, and returns
// once it is ready.
func startServer(t *testing.T, bin, dir, addr string, flags ...string) *server {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"--data-dir", dir, "--listen-client-urls", "http://" + addr, "--advertise-client-urls", "http://" + addr}, flags...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{cmd: cmd, addr: addr, log: &tail{}, done: make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		seen := false
		for lines.Scan() {
			s.log.add(lines.Text())
			if !seen && strings.Contains(lines.Text(), readyLine) {
				seen = true
				close(ready)
			}
		}
		_, _ = io.Copy(io.Discard, stderr)
		s.done <- cmd.Wait()
	}()
	select {
	case <-ready:
	case err := <-s.done:
		t.Fatalf("shim ended before it was ready: %v\n%s", err, s.log)
	case <-time.After(startTimeout):
		_ = cmd.Process.Kill()
		t.Fatalf("shim was not ready within %v\n%s", startTimeout, s.log)
	}
	return s
}

// kill sends SIGKILL and waits for the end. That the process was still alive to
// be killed is part of the test: it fails when shim had stopped by itself.
func (s *server) kill(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.done:
		t.Fatalf("shim stopped by itself: %v\n%s", err, s.log)
	default:
	}
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	err := <-s.done
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("shim did not end by SIGKILL but with %v\n%s", err, s.log)
	}
}

// terminate sends SIGTERM and expects exit code 0.
func (s *server) terminate(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.done:
		var exit *exec.ExitError
		bySignal := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM
		if err != nil && (*binary == "" || !bySignal) { // etcd sends itself the signal again, shim exits 0
			t.Fatalf("shim did not end cleanly on SIGTERM: %v\n%s", err, s.log)
		}
	case <-time.After(startTimeout):
		_ = s.cmd.Process.Kill()
		t.Fatalf("shim did not end within %v of SIGTERM\n%s", startTimeout, s.log)
	}
}

// dial makes a client connection of its own.
func (s *server) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// freeAddr finds a loopback port below the ephemeral range, so that no outgoing
// connection takes it between a kill and the restart.
func freeAddr(t *testing.T) string {
	t.Helper()
	for port := 21000 + os.Getpid()%8000; port < 32000; port++ {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// tail keeps the last lines of a log. It is written by one goroutine and read
// after that ended, or by a failing test.
type tail struct{ lines []string }

func (l *tail) add(line string) {
	if l.lines = append(l.lines, line); len(l.lines) > 200 {
		l.lines = l.lines[100:]
	}
}

func (l *tail) String() string {
	var b bytes.Buffer
	for _, line := range l.lines {
		fmt.Fprintln(&b, line)
	}
	return b.String()
}
