package uml

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/etcdshim/shim/e2e/uml/wire"
)

const (
	// memory is what a machine has; shim, its page cache and the tools fit.
	memory = "512M"
	// bootTimeout bounds a boot, which takes about 3 s, on a busy host.
	bootTimeout = 60 * time.Second
	// consoleBytes bounds what is kept of a machine's console.
	consoleBytes = 1 << 16
)

// Machine is a running guest.
type Machine struct {
	cmd     *exec.Cmd
	console *console
	session *yamux.Session
	calls   *rpc.Client
	// alive reaches its end when every process of the machine is gone.
	alive   *os.File
	clients net.Listener
	done    sync.WaitGroup
	off     bool
}

// Boot starts a machine with the program guest and the file disk as its device
// /dev/ubda, and forwards connections to clientAddr, of the host, to the server in
// it. Files of the machine's own go to dir. It returns once the guest answers.
func Boot(guest, disk, dir, clientAddr string) (*Machine, error) {
	if words := guest + disk + dir; strings.ContainsAny(words, ", :") {
		return nil, fmt.Errorf("a kernel's arguments cannot name %q, %q and %q", guest, disk, dir)
	}
	kernel, err := exec.LookPath("linux.uml")
	if err != nil {
		return nil, fmt.Errorf("%w: install Debian's package user-mode-linux", err)
	}
	line, to, from, err := serialLine()
	if err != nil {
		return nil, err
	}
	alive, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = errors.Join(to.Close(), from.Close(), hold.Close()) }() // the machine has its own
	m := &Machine{console: &console{}, alive: alive}
	m.cmd = exec.Command(kernel, "mem="+memory, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init="+guest,
		"ubd0="+disk, "con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:3,fd:4", "uml_dir="+dir, "umid="+filepath.Base(disk))
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.console
	m.cmd.ExtraFiles = []*os.File{to, from, hold}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	if err := m.connect(line, clientAddr); err != nil {
		return nil, errors.Join(fmt.Errorf("boot: %w\n%s", err, m.console), m.PowerOff())
	}
	return m, nil
}

// serialLine makes the host's end of a line, and the files that the guest reads
// and writes. They are two: a kernel that waits for both on one file forgets one.
func serialLine() (host io.ReadWriteCloser, to, from *os.File, err error) {
	var ends [2]net.Conn
	var files [2]*os.File
	for i := range ends {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, nil, nil, os.NewSyscallError("socketpair", err)
		}
		files[i] = os.NewFile(uintptr(pair[1]), "guest's end")
		ours := os.NewFile(uintptr(pair[0]), "host's end")
		if ends[i], err = net.FileConn(ours); err != nil {
			return nil, nil, nil, err
		}
		if err := ours.Close(); err != nil { // FileConn made its own
			return nil, nil, nil, err
		}
	}
	return twoFiles{ends[1], ends[0]}, files[0], files[1], nil
}

// twoFiles is one line in two files.
type twoFiles struct{ in, out net.Conn }

func (f twoFiles) Read(p []byte) (int, error)  { return f.in.Read(p) }
func (f twoFiles) Write(p []byte) (int, error) { return f.out.Write(p) }
func (f twoFiles) Close() error                { return errors.Join(f.in.Close(), f.out.Close()) }

// connect waits for the guest's first answer and begins to serve clients.
func (m *Machine) connect(line io.ReadWriteCloser, clientAddr string) (err error) {
	if m.session, err = yamux.Client(wire.NewHostEnd(line), wire.Session()); err != nil {
		return err
	}
	stream, err := m.open(wire.Calls)
	if err != nil {
		return err
	}
	m.calls = rpc.NewClient(stream)
	first := m.calls.Go("Machine.Log", struct{}{}, new(string), make(chan *rpc.Call, 1))
	select {
	case <-first.Done:
		if first.Error != nil {
			return first.Error
		}
	case <-time.After(bootTimeout):
		return fmt.Errorf("no answer within %v", bootTimeout)
	}
	if m.clients, err = net.Listen("tcp", clientAddr); err != nil {
		return err
	}
	m.done.Go(m.serveClients)
	return nil
}

func (m *Machine) open(what byte) (net.Conn, error) {
	stream, err := m.session.Open()
	if err != nil {
		return nil, err
	}
	_, err = stream.Write([]byte{what})
	return stream, err
}

// serveClients forwards connections until the machine is off.
func (m *Machine) serveClients() {
	for {
		conn, err := m.clients.Accept()
		if err != nil {
			return
		}
		m.done.Go(func() {
			stream, err := m.open(wire.Client)
			if err != nil {
				_ = conn.Close() // which tells the client
				return
			}
			wire.Join(stream, conn)
		})
	}
}

// PowerOff kills every process of the machine at once and returns when all are
// gone, so that nobody writes to the disk any more.
func (m *Machine) PowerOff() error {
	if m.off {
		return nil
	}
	m.off = true
	if err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		return os.NewSyscallError("kill", err)
	}
	if _, err := io.Copy(io.Discard, m.alive); err != nil {
		return err
	}
	_ = m.cmd.Wait() // it says that it was killed
	if m.clients != nil {
		_ = m.clients.Close() // which ends serveClients
	}
	if m.session != nil {
		_ = m.session.Close() // which ends its streams
	}
	m.done.Wait()
	return m.alive.Close()
}

// Call calls a method of the guest, by its name there.
func (m *Machine) Call(method string, args, reply any) error {
	if err := m.calls.Call("Machine."+method, args, reply); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// Run runs a command in the machine and returns what it printed. A code other than
// 0 is an error.
func (m *Machine) Run(argv ...string) (string, error) {
	var out wire.Output
	if err := m.Call("Run", argv, &out); err != nil {
		return "", err
	}
	if out.Code != 0 {
		return out.Text, fmt.Errorf("%q: exit code %d\n%s", argv, out.Code, out.Text)
	}
	return out.Text, nil
}

// Console is the end of what the machine's kernel printed.
func (m *Machine) Console() string { return m.console.String() }

// console keeps the end of what was written to it.
type console struct {
	mu  sync.Mutex
	end []byte
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = append(c.end, p...)
	if extra := len(c.end) - consoleBytes; extra > 0 {
		c.end = append([]byte(nil), c.end[extra:]...)
	}
	return len(p), nil
}

// String leaves out what the kernel prints at every boot.
func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	const lines = 40
	var last []string
	for s := bufio.NewScanner(bytes.NewReader(c.end)); s.Scan(); {
		last = append(last, s.Text())
	}
	return fmt.Sprintf("console: %q", last[max(0, len(last)-lines):])
}
