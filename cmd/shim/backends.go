package main

// The backends in this binary. raftbolt is imported by serve.go.
import (
	_ "github.com/etcdshim/shim/backends/etcd"
	_ "github.com/etcdshim/shim/backends/memory"
)
