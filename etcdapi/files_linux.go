package etcdapi

import (
	"os"
	"syscall"
)

// openFiles is how many files the process has open, and how many it may have.
func openFiles() (used, limit uint64, ok bool) {
	var bound syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &bound); err != nil {
		return 0, 0, false
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, 0, false
	}
	return uint64(len(open)), bound.Cur, true
}
