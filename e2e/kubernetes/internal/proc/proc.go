// Package proc runs the programs that the end-to-end tests need as child processes, and ends them.
//
// Its nouns: a Process is one child in a process group of its own, whose output goes to a file; a Server is a Process that speaks etcd's
// API (shim or etcd) and can be killed and started again on the same data directory and ports.
//
// Nothing outlives the test: callers end each Process with Stop or Kill, and on Linux the kernel kills the children when the test process
// itself dies (a `go test` time-out, for example, runs no cleanup).
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Process is a started child. Its methods may be called from several goroutines.
type Process struct {
	name    string
	logPath string
	cmd     *exec.Cmd
	done    chan struct{} // closed once the child has been reaped
}

// Start runs bin with args. Both its output streams are appended to <dir>/<name>.log, so that a restart continues the same file.
func Start(name, dir, bin string, args ...string) (*Process, error) {
	logPath := filepath.Join(dir, name+".log")
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the child holds its own descriptor
	cmd := exec.Command(bin, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{name: name, logPath: logPath, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the state is read from cmd.ProcessState by Exit
		close(p.done)
	}()
	return p, nil
}

// Name is the name given to Start.
func (p *Process) Name() string { return p.name }

// Done is closed when the child has ended and been reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the child ended, or "running".
func (p *Process) Exit() string {
	select {
	case <-p.done:
		return p.cmd.ProcessState.String()
	default:
		return "running"
	}
}

// Kill sends SIGKILL to the child's process group and returns once the child is reaped: its ports and file locks are free then.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// Stop sends SIGTERM, and SIGKILL when the child has not ended after grace. It returns once the child is reaped.
func (p *Process) Stop(grace time.Duration) {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.Kill()
	}
}

// signal reaches the whole group. A group that is gone already is no fault: the child may end by itself at any moment.
func (p *Process) signal(sig syscall.Signal) {
	select {
	case <-p.done: // reaped: the number may belong to somebody else by now
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, sig)
	}
}

// Tail returns at most the last maxBytes of the child's output.
func (p *Process) Tail(maxBytes int64) string {
	f, err := os.Open(p.logPath)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > maxBytes {
		if _, err := f.Seek(-maxBytes, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	tail, err := io.ReadAll(io.LimitReader(f, maxBytes))
	if err != nil {
		return err.Error()
	}
	return string(tail)
}

// Until calls probe every 50 ms until it returns nil. It fails when ctx ends or the child does, with probe's last error.
func (p *Process) Until(ctx context.Context, probe func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = probe(ctx); last == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended (%s); its log ends with:\n%s", p.name, p.Exit(), p.Tail(4096))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.name, errors.Join(ctx.Err(), last))
		case <-tick.C:
		}
	}
}

// Command is a short-lived child whose output the caller reads: its process group is killed when ctx ends.
func Command(ctx context.Context, bin string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.SysProcAttr = ownGroup()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // for a grandchild that holds the pipes
	return cmd
}
