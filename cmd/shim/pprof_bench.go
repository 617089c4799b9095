//go:build benchpprof

package main

import (
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof" // on http.DefaultServeMux, which only this file serves
	"os"
	"time"
)

// init serves profiles on the loopback address that SHIM_BENCH_PPROF names, for
// bench -cpuprofile. It is registration in the widest sense, and no release has it.
func init() {
	address := os.Getenv("SHIM_BENCH_PPROF")
	if address == "" {
		return
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, "shim: SHIM_BENCH_PPROF:", err)
		os.Exit(1)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
}
