package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// startTimeout bounds a start, which takes long at 1,000,000 keys when others use the machine.
	startTimeout = 5 * time.Minute
	// stopTimeout bounds a clean stop; shim's own bound on its last flush is 60 s.
	stopTimeout = 90 * time.Second
	// firstPort and lastPort lie below Linux's ephemeral ports.
	firstPort, lastPort = 20000, 32767
)

// build compiles the servers into bin below the data directory, so that two runs at a
// time do not meet, and returns their paths: shim of this checkout, and etcd from its own module with the versions that its release has.
func build(ctx context.Context, o options) (map[string]string, error) {
	bin := filepath.Join(o.dir, "bin")
	binaries := map[string]string{}
	for _, name := range o.servers {
		args := []string{"build", "-trimpath"}
		dir, pkg := "etcd", "go.etcd.io/etcd/server/v3"
		if name == "shim" {
			dir, pkg = o.root, "./cmd/shim"
			if o.profiles != "" {
				args = append(args, "-tags", "benchpprof")
			}
		}
		binaries[name] = filepath.Join(bin, name)
		c := exec.CommandContext(ctx, "go", append(args, "-o", binaries[name], pkg)...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GOWORK=off")
		if out, err := c.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s in %s: %w\n%s", name, dir, err, out)
		}
	}
	return binaries, nil
}

// server is a server process. It is killed when this process ends.
type server struct {
	name, binary, dir string
	address           string // host:port of clients
	peer, pprof       string // host:port
	profiled          bool

	command *exec.Cmd
	log     *os.File
	exited  chan struct{} // closed when the process has ended
}

// newServer prepares a server on an empty directory; start starts it.
func newServer(name, binary, dir string, profiled bool) (*server, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	s := &server{name: name, binary: binary, dir: dir, profiled: profiled}
	for _, into := range []*string{&s.address, &s.peer, &s.pprof} {
		port, err := freePort(s.address, s.peer)
		if err != nil {
			return nil, err
		}
		*into = port
	}
	return s, os.MkdirAll(dir, 0o755)
}

// freePort finds a loopback address that nobody listens on.
func freePort(taken ...string) (string, error) {
search:
	for port := firstPort + os.Getpid()%(lastPort-firstPort); port <= lastPort; port++ {
		address := fmt.Sprintf("127.0.0.1:%d", port)
		for _, t := range taken {
			if t == address {
				continue search
			}
		}
		if l, err := net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", errors.New("no free port")
}

// flags are the server's: only names, addresses and the directory; everything else
// is as shipped. Both servers take the same.
func (s *server) flags() []string {
	client, peer := "http://"+s.address, "http://"+s.peer
	flags := []string{
		"--name", "default", "--data-dir", filepath.Join(s.dir, "data"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
	}
	if s.profiled && s.name == "etcd" {
		flags = append(flags, "--enable-pprof")
	}
	return flags
}

// start starts the process, without waiting for it to be ready. Its log goes to a
// file beside the data.
func (s *server) start() error {
	var err error
	if s.log, err = os.OpenFile(filepath.Join(s.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	s.command = exec.Command(s.binary, s.flags()...)
	s.command.Stdout, s.command.Stderr = s.log, s.log
	if s.profiled {
		s.command.Env = append(os.Environ(), "SHIM_BENCH_PPROF="+s.pprof)
	}
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.command.Start(); err != nil {
		return err
	}
	exited, command := make(chan struct{}), s.command
	s.exited = exited
	go func() {
		_ = command.Wait() // the code is in ProcessState
		close(exited)
	}()
	return nil
}

func (s *server) pid() int { return s.command.Process.Pid }

// waitReady returns when /readyz answers 200, asked each 2 ms.
func (s *server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for {
		if s.ready(ctx) {
			return nil
		}
		select {
		case <-poll.C:
		case <-s.exited:
			return fmt.Errorf("%s ended before it was ready; see %s", s.name, s.log.Name())
		case <-ctx.Done():
			return fmt.Errorf("%s not ready: %w; see %s", s.name, ctx.Err(), s.log.Name())
		}
	}
}

func (s *server) ready(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode == http.StatusOK
}

// stop ends the process cleanly and waits for it.
func (s *server) stop() error {
	if s.command == nil {
		return nil
	}
	defer func() { _ = s.log.Close() }()
	_ = s.command.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		_ = s.command.Process.Kill()
		<-s.exited
		return fmt.Errorf("%s did not stop within %s; see %s", s.name, stopTimeout, s.log.Name())
	}
	// etcd ends by the signal it was sent, shim with 0.
	status, _ := s.command.ProcessState.Sys().(syscall.WaitStatus)
	if code := s.command.ProcessState.ExitCode(); code != 0 && (!status.Signaled() || status.Signal() != syscall.SIGTERM) {
		return fmt.Errorf("%s ended with %s; see %s", s.name, s.command.ProcessState, s.log.Name())
	}
	return nil
}
