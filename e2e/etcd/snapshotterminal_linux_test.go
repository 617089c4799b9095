package etcd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// Requests of the pseudo-terminal's master (linux: asm-generic/ioctls.h).
const (
	unlockTerminal   = 0x40045431 // TIOCSPTLCK
	numberOfTerminal = 0x80045430 // TIOCGPTN
)

// onTerminal runs shim with a terminal for its stderr, and returns what was shown there.
func onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = master.Close() }()
	var unlock, number int32
	for request, argument := range map[uintptr]*int32{unlockTerminal: &unlock, numberOfTerminal: &number} {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), request, uintptr(unsafe.Pointer(argument))); e != 0 {
			t.Fatalf("ioctl %x: %v", request, e)
		}
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(process.Binary(t, "shim"), args...)
	cmd.Stderr = terminal
	err = cmd.Start()
	if err := errors.Join(err, terminal.Close()); err != nil {
		t.Fatal(err)
	}
	shown, err := io.ReadAll(master)
	if !errors.Is(err, syscall.EIO) { // what the master of a terminal that nobody holds any more gives
		t.Errorf("reading the terminal: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("shim %q: %v\n%s", args, err, shown)
	}
	return string(shown)
}

// TestSnapshotProgress ensures that saving and restoring show on a terminal how far they
// are, up to the end, and that status, which copies nothing, shows nothing.
func TestSnapshotProgress(t *testing.T) {
	s := process.Shim(t)
	populate(t, s)
	dir := t.TempDir()
	path := filepath.Join(dir, "saved.db")
	whole := "[" + strings.Repeat("=", 40) + "] 100 % of "
	if shown := onTerminal(t, "snapshot", "save", path, "--endpoints", s.Address); !strings.Contains(shown, "\rsaving "+whole) || !strings.HasSuffix(shown, "\n") {
		t.Errorf("save: %q", shown)
	}
	if shown := onTerminal(t, "snapshot", "restore", path, "--data-dir", filepath.Join(dir, "restored")); !strings.Contains(shown, "\rrestoring "+whole) || !strings.HasSuffix(shown, "\n") {
		t.Errorf("restore: %q", shown)
	}
	if shown := onTerminal(t, "snapshot", "status", path); shown != "" {
		t.Errorf("status: %q", shown)
	}
}
