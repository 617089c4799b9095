package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
)

// runRestart stops the server cleanly and starts it again, and measures until it
// answers a linearizable read. Then every key is verified. The files are in the page
// cache, where the writes before left them.
func runRestart(ctx context.Context, t *target, _ time.Duration) (figure, error) {
	f := figure{server: t.name, ops: 1}
	begin := time.Now()
	if err := t.close(); err != nil {
		return f, err
	}
	progressf("  %s: stopped in %s", t.name, since(begin))
	if err := t.connect(); err != nil {
		return f, err
	}
	begin = time.Now()
	if err := t.start(); err != nil {
		return f, err
	}
	t.beginProfile()
	type readiness struct {
		after time.Duration
		err   error
	}
	ready := make(chan readiness, 1)
	go func() {
		err := t.waitReady(ctx)
		ready <- readiness{time.Since(begin), err}
	}()
	if err := t.firstRead(ctx); err != nil {
		return f, err
	}
	f.took = time.Since(begin)
	f.p50, f.p99 = f.took, f.took
	r := <-ready
	if f.ready = r.after; r.err != nil {
		return f, r.err
	}
	if err := t.wait(ctx); err != nil {
		return f, err
	}
	var err error
	if f.cpu, err = cpuTime(t.pid()); err != nil {
		return f, err
	}
	if f.mem, err = memoryOf(t.pid()); err != nil {
		return f, err
	}
	progressf("  %s: ready after %s, first read answered after %s", t.name, short(f.ready), short(f.took))
	return f, t.verifyAll(ctx)
}

// firstRead reads one key as soon as the server answers.
func (t *target) firstRead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	exited := t.exited
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	i := t.data.others.first
	request := (&requestBuilder{data: t.data}).get(i)
	var answer single
	for {
		err := t.control.Invoke(ctx, methodRange, request, &answer, grpc.WaitForReady(true))
		if err == nil {
			return answer.verify(t.appendRecord(nil, i))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; see %s", err, t.log.Name())
		case <-time.After(2 * time.Millisecond): // a server that starts may refuse
		}
	}
}
