package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profiled runs a row on a target, with a CPU profile of the server beside it when
// -cpuprofile asks for one.
func profiled(ctx context.Context, o options, t *target, r row, round int) (figure, error) {
	if o.profiles == "" {
		return r.run(ctx, t, o.duration)
	}
	host := t.address // etcd serves profiles to its clients
	if t.name == "shim" {
		host = t.pprof
	}
	seconds := max(1, int(o.duration.Seconds()))
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", host, seconds)
	path := filepath.Join(o.profiles, fmt.Sprintf("%s-%s-%d.pb.gz", fileName(r.name), t.name, round))
	var done chan error
	t.profile = func() {
		done = make(chan error, 1)
		go func() { done <- fetch(ctx, url, path) }()
	}
	f, err := r.run(ctx, t, o.duration)
	t.profile = nil
	if done == nil {
		return f, err
	}
	if perr := <-done; err == nil && perr != nil {
		err = fmt.Errorf("profile of %s: %w", t.name, perr)
	}
	return f, err
}

// fetch downloads url to path. Until the server listens, which takes a while when it
// has just been started, it tries again.
func fetch(ctx context.Context, url, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(startTimeout)
	response, err := http.DefaultClient.Do(request)
	for err != nil && ctx.Err() == nil && time.Now().Before(deadline) {
		time.Sleep(2 * time.Millisecond) // a poll: nothing tells when the port opens
		response, err = http.DefaultClient.Do(request)
	}
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, response.Body)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return err
}

// fileName makes a file name of a row's name.
func fileName(row string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == ',':
			return -1
		}
		return r
	}, row)
}
