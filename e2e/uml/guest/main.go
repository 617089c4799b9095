//go:build linux

// Command guest is the first and only program of a guest of User-Mode Linux. It
// mounts what a machine needs, loads the device mapper, and does what the host
// asks over the serial line: run commands, mount, start and kill a server, and
// connect clients to it. It never ends by itself: its machine is cut off.
package main

import (
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"path/filepath"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/etcdshim/shim/e2e/uml/wire"
)

// serialLine is the first serial line of a guest.
const serialLine = "/dev/ttyS0"

func main() {
	err := serve()
	fmt.Fprintf(os.Stderr, "guest: %v\n", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func serve() error {
	if err := prepare(); err != nil {
		return err
	}
	line, err := openRaw(serialLine)
	if err != nil {
		return err
	}
	end, err := wire.NewGuestEnd(line)
	if err != nil {
		return err
	}
	session, err := yamux.Server(end, wire.Session())
	if err != nil {
		return err
	}
	calls := rpc.NewServer()
	if err := calls.RegisterName("Machine", &machine{}); err != nil {
		return err
	}
	for {
		stream, err := session.Accept()
		if err != nil {
			return err
		}
		go answer(stream, calls)
	}
}

func answer(stream net.Conn, calls *rpc.Server) {
	var what [1]byte
	if _, err := io.ReadFull(stream, what[:]); err != nil {
		_ = stream.Close() // it is broken already
		return
	}
	switch what[0] {
	case wire.Calls:
		calls.ServeConn(stream)
	case wire.Client:
		forward(stream)
	}
}

// forward joins a stream to a connection to the server until either ends.
func forward(stream net.Conn) {
	conn, err := net.Dial("tcp", wire.ClientAddr)
	if err != nil {
		_ = stream.Close() // which tells the client
		return
	}
	wire.Join(stream, conn)
}

// prepare makes of the bare kernel what a server and dmsetup need. The root is the
// host's, read-only, and already has the devices mounted.
func prepare() error {
	for _, m := range []wire.Mount{
		{Device: "proc", Dir: "/proc", Type: "proc"},
		{Device: "sysfs", Dir: "/sys", Type: "sysfs"},
		{Device: "tmpfs", Dir: "/run", Type: "tmpfs"},
		{Device: "tmpfs", Dir: "/mnt", Type: "tmpfs"},
	} {
		if err := unix.Mount(m.Device, m.Dir, m.Type, 0, m.Options); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.Type, m.Dir, err)
		}
	}
	if err := os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"); err != nil { // the kernel gives none
		return err
	}
	for _, name := range []string{"dm-mod.ko", "dm-flakey.ko"} {
		if err := loadModule(name); err != nil {
			return err
		}
	}
	return upLoopback()
}

func loadModule(name string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	f, err := os.Open(filepath.Join("/usr/lib/uml/modules", unix.ByteSliceToString(u.Release[:]), "kernel/drivers/md", name))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("load %s: %w", f.Name(), err)
	}
	return nil
}

func upLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

// openRaw opens a terminal that passes every byte on as it is.
func openRaw(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
