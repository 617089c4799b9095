package wal

import (
	"os"
	"syscall"
)

// fdatasync leaves out what is not needed to read the data back, such as times: over written blocks it then needs no journal commit.
func fdatasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}
