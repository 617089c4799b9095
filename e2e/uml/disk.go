package uml

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/etcdshim/shim/e2e/uml/wire"
)

const (
	// diskBytes is the size of a disk. Log, store, their copies while a defragment
	// or snapshot runs, and a journal of 64 MiB fit; the file is sparse.
	diskBytes   = 1 << 30
	sectorBytes = 512
	// device is the disk in the machine, behind the device mapper, and mountPoint
	// where its file system is.
	device     = "/dev/dm-0"
	mountPoint = "/mnt/disk"
	dataDir    = mountPoint + "/data"
	mapped     = "disk" // its name there
)

// honest passes every request on.
var honest = fmt.Sprintf("0 %d linear /dev/ubda 0", diskBytes/sectorBytes)

// broken is a table of the disk whose writes have the given feature of dm-flakey
// from now on: drop_writes or error_writes.
func broken(feature string) string {
	return fmt.Sprintf("0 %d flakey /dev/ubda 0 0 3600 1 %s", diskBytes/sectorBytes, feature)
}

// newDisk makes an empty file system in a new file.
func newDisk(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := f.Truncate(diskBytes); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.ext4: %w: install Debian's package e2fsprogs\n%s", err, out)
	}
	return nil
}

// attach puts the device mapper before a freshly booted machine's disk.
func (m *Machine) attach() error {
	return m.dmsetup("create", mapped, "--table", honest)
}

// suspend holds every request to the disk back, as it is: nothing is flushed.
func (m *Machine) suspend() error {
	return m.dmsetup("suspend", "--nolockfs", "--noflush", mapped)
}

// resume lets the requests go on, on the given table.
func (m *Machine) resume(table string) error {
	if err := m.dmsetup("load", mapped, "--table", table); err != nil {
		return err
	}
	return m.dmsetup("resume", mapped)
}

func (m *Machine) dmsetup(args ...string) error {
	_, err := m.Run(append([]string{"dmsetup", "--noudevsync", "--noudevrules"}, args...)...)
	return err
}

// mount mounts the disk with options, which recovers its journal.
func (m *Machine) mount(options string) error {
	return m.Call("Mount", wire.Mount{Device: device, Dir: mountPoint, Type: "ext4", Options: options}, &struct{}{})
}

func (m *Machine) unmount() error { return m.Call("Unmount", mountPoint, &struct{}{}) }
