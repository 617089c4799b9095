package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reservedFiles are kept from clients' connections, for the log, the store, copies of
// it and the ports of metrics: without a file for its log the server refuses writes.
// etcd keeps as many (embed/etcd.go, reservedInternalFDNum).
const reservedFiles = 150

// fileLimit is how many files the process may have open; 0 when it is not known.
func fileLimit() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

// connectionsWithin is how many connections clients may have where so many files may
// be open; 0 is no bound. Where the limit is so low that most of it would be kept from
// clients, nothing is: etcd does not start there.
func connectionsWithin(files uint64) int {
	if files <= 2*reservedFiles {
		return 0
	}
	return int(min(files, math.MaxInt32)) - reservedFiles
}

// listenAll listens at every endpoint, or at none.
func (o options) listenAll(ctx context.Context) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, e := range o.endpoints {
		l, err := o.listen(ctx, e)
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("listening on %q: %w", e.urls, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func (o options) listen(ctx context.Context, e endpoint) (net.Listener, error) {
	if e.network == "unix" {
		if err := removeStale(e.address); err != nil {
			return nil, err
		}
		return (&net.ListenConfig{}).Listen(ctx, "unix", e.address) // closing it removes the socket
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		controlled := c.Control(func(fd uintptr) {
			if o.reusePort {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
			if o.reuseAddr && err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
		})
		return errors.Join(controlled, os.NewSyscallError("setsockopt", err))
	}}
	return config.Listen(ctx, "tcp", e.address)
}

// staleTimeout bounds the look at a socket that is already there. A server that
// lives takes the connection at once; its queue may be full for a moment.
const staleTimeout = time.Second

// removeStale removes a unix socket that a process left behind. etcd removes
// whatever has the name; here a file that is no socket, and a socket that somebody
// listens at, are errors.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, staleTimeout)
	if err == nil {
		_ = conn.Close() // nothing was said
		return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("is somebody listening there? %w", err)
	}
	return os.Remove(path)
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		_ = l.Close() // it may be closed already
	}
}
