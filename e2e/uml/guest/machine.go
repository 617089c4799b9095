//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etcdshim/shim/e2e/rig"
	"github.com/etcdshim/shim/e2e/uml/wire"
)

// machine is what the host may call. One server runs at a time.
type machine struct {
	server *rig.Server
}

// Run runs a command to its end.
func (m *machine) Run(argv []string, out *wire.Output) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	*out = wire.Output{Text: string(text), Code: cmd.ProcessState.ExitCode()}
	return nil
}

// Mount mounts a file system on a directory, which it makes.
func (m *machine) Mount(what wire.Mount, _ *struct{}) error {
	if err := os.MkdirAll(what.Dir, 0o755); err != nil {
		return err
	}
	return os.NewSyscallError("mount", unix.Mount(what.Device, what.Dir, what.Type, 0, what.Options))
}

// Unmount unmounts a directory; what was not written yet is written first.
func (m *machine) Unmount(dir string, _ *struct{}) error {
	return os.NewSyscallError("umount", unix.Unmount(dir, 0))
}

// Start starts the server and does not wait for it.
func (m *machine) Start(l wire.Launch, _ *struct{}) error {
	if m.server != nil {
		return errors.New("a server runs already")
	}
	s, err := rig.Launch(rig.Options{Bin: l.Bin, Dir: l.Dir, Addr: wire.ClientAddr, Flags: l.Flags})
	if err != nil {
		return err
	}
	m.server = s
	return nil
}

// AwaitReady waits until the server is ready.
func (m *machine) AwaitReady(timeout time.Duration, _ *struct{}) error {
	return m.server.AwaitReady(timeout)
}

// Kill kills the server, which must be running.
func (m *machine) Kill(_ struct{}, out *wire.Ended) error {
	select {
	case <-m.server.Exited():
		return fmt.Errorf("the server had ended by itself: %w\n%s", m.server.Err(), m.server.Log())
	default:
	}
	m.server.End()
	return m.ended(out)
}

// AwaitEnd waits until the server ends by itself.
func (m *machine) AwaitEnd(timeout time.Duration, out *wire.Ended) error {
	select {
	case <-m.server.Exited():
		return m.ended(out)
	case <-time.After(timeout):
		return fmt.Errorf("the server still runs after %v\n%s", timeout, m.server.Log())
	}
}

// Log is the end of the server's log.
func (m *machine) Log(_ struct{}, out *string) error {
	if m.server != nil {
		*out = m.server.Log()
	}
	return nil
}

func (m *machine) ended(out *wire.Ended) error {
	*out = wire.Ended{How: fmt.Sprint(m.server.Err()), Code: m.server.ExitCode(), Log: m.server.Log()}
	m.server = nil
	return nil
}
