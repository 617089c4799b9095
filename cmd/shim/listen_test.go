package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func unixEndpoint(path string) options {
	return options{endpoints: []endpoint{{network: "unix", address: path, insecure: true, traffic: trafficBoth}}}
}

// TestUnixSocket ensures that a socket is removed at the end, that one left behind
// is replaced, and that neither a living server's socket nor another file is.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	o := unixEndpoint(path)
	first, err := o.listenAll(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.listenAll(context.Background()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a living socket: %v", err)
	}
	closeAll(first)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}

	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = dead.Close()
	second, err := o.listenAll(context.Background())
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
	closeAll(second)

	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := o.listenAll(context.Background()); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("another file: %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "x" {
		t.Errorf("the file is %q, %v", content, err)
	}
}

// TestConnectionsWithin ensures that files are kept from clients, unless there are
// too few to keep any.
func TestConnectionsWithin(t *testing.T) {
	for files, want := range map[uint64]int{0: 0, 64: 0, 300: 0, 301: 151, 1024: 874, 1 << 40: 1<<31 - 1 - 150} {
		if got := connectionsWithin(files); got != want {
			t.Errorf("%d files, %d connections, want %d", files, got, want)
		}
	}
	if fileLimit() == 0 {
		t.Error("the limit of open files is not known")
	}
}

// TestReusePort ensures that two servers can share a port when both are told to,
// and only then; and that nothing stays open when one of several ports is taken.
func TestReusePort(t *testing.T) {
	listen := func(reuse bool, addresses ...string) ([]net.Listener, error) {
		o := options{reusePort: reuse, reuseAddr: reuse}
		for _, a := range addresses {
			o.endpoints = append(o.endpoints, endpoint{network: "tcp", address: a, insecure: true})
		}
		return o.listenAll(context.Background())
	}
	first, err := listen(true, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := first[0].Addr().String()
	second, err := listen(true, taken)
	if err != nil {
		t.Errorf("a shared port: %v", err)
	}
	if _, err := listen(false, taken); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that is not shared: %v", err)
	}
	free := filepath.Join(t.TempDir(), "free.sock")
	o := unixEndpoint(free)
	o.endpoints = append(o.endpoints, endpoint{network: "tcp", address: taken, insecure: true})
	if _, err := o.listenAll(context.Background()); err == nil {
		t.Error("listens at a taken port")
	}
	if _, err := os.Lstat(free); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the first of two ports stays open: %v", err)
	}
	closeAll(slices.Concat(first, second))
}
