package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// figure is what one row gave on one server in one round.
type figure struct {
	row, server string
	round       int
	// ops are the operations of the row: calls, or events delivered.
	ops int64
	// took is the time in which they were done.
	took time.Duration
	// cpu is the server's CPU time from the row's begin until it was quiet again.
	cpu time.Duration
	// load is the load generator's CPU time.
	load time.Duration
	// foreign is the CPU time of everything else while the load ran, the other server
	// and the kernel's own work included; stolen is what the hypervisor kept.
	foreign, stolen time.Duration
	p50, p99        time.Duration
	mem             memory
	// ready is set by the restart alone: the time until /readyz answered.
	ready time.Duration
}

func (f figure) cpuPerOp() time.Duration { return f.cpu / time.Duration(max(1, f.ops)) }

func (f figure) perSecond() float64 { return float64(f.ops) / f.took.Seconds() }

func (f figure) String() string {
	return fmt.Sprintf("%-4s  %9s CPU/op  p50 %9s  p99 %9s  %9.0f/s  peak %4d MiB  (%d ops, %.2f s CPU)",
		f.server, short(f.cpuPerOp()), short(f.p50), short(f.p99), f.perSecond(), f.mem.peak>>20, f.ops, f.cpu.Seconds())
}

// samples are latencies of operations, and how many operations there were; the two
// differ where one request makes many operations.
type samples struct {
	latencies []time.Duration
	ops       int64
}

// load runs one row's load for some time and verifies every answer.
type load func(ctx context.Context, d time.Duration) (samples, error)

// measure runs a load, first for a fifth of the time to warm up, then measured.
func measure(ctx context.Context, t *target, d time.Duration, run load) (figure, error) {
	f := figure{server: t.name}
	if _, err := run(ctx, d/5); err != nil {
		return f, err
	}
	if err := t.wait(ctx); err != nil {
		return f, err
	}
	if err := resetPeak(t.pid()); err != nil {
		return f, err
	}
	before, err := snapshot(t.pid())
	if err != nil {
		return f, err
	}
	t.beginProfile()
	begin := time.Now()
	got, err := run(ctx, d)
	f.took = time.Since(begin)
	if err != nil {
		return f, err
	}
	end, err := snapshot(t.pid())
	if err != nil {
		return f, err
	}
	if got.ops == 0 {
		return f, errors.New("nothing was done in the time of the row")
	}
	if err := t.wait(ctx); err != nil {
		return f, err
	}
	after, err := cpuTime(t.pid())
	if err != nil {
		return f, err
	}
	if f.mem, err = memoryOf(t.pid()); err != nil {
		return f, err
	}
	f.ops, f.cpu, f.load = got.ops, after-before.server, end.load-before.load
	f.stolen = end.machine.stolen - before.machine.stolen
	f.foreign = end.machine.busy - before.machine.busy - (end.server - before.server) - f.load
	slices.Sort(got.latencies)
	f.p50, f.p99 = quantile(got.latencies, 0.5), quantile(got.latencies, 0.99)
	return f, nil
}

// clocks are CPU times up to a moment.
type clocks struct {
	server, load time.Duration
	machine      machineTime
}

func snapshot(pid int) (c clocks, err error) {
	if c.server, err = cpuTime(pid); err != nil {
		return c, err
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return c, err
	}
	c.load = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	c.machine, err = machineTimes()
	return c, err
}

// quantile is the smallest value that a part q of the sorted values does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// newClient makes client number c of a row: a function that does one operation.
type newClient func(c int, conn *grpc.ClientConn) func(ctx context.Context) error

// closedLoop is a load of so many clients, each of which begins an operation when its
// last is answered. The clients live as long as the load's connections: over warm-up
// and measurement.
func closedLoop(t *target, clients int, client newClient) (run load, done func(), err error) {
	conns, err := dial(t.address, connections(clients))
	if err != nil {
		return nil, nil, err
	}
	ops := []func(context.Context) error{}
	for c := range clients {
		ops = append(ops, client(c, conns[c%len(conns)]))
	}
	run = func(ctx context.Context, d time.Duration) (samples, error) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		latencies := slices.Repeat([][]time.Duration{nil}, clients)
		end := time.Now().Add(d)
		var wg sync.WaitGroup
		for c, op := range ops {
			wg.Go(func() {
				begin := time.Now()
				for begin.Before(end) {
					if err := op(ctx); err != nil {
						cancel(fmt.Errorf("client %d: %w", c, err))
						return
					}
					now := time.Now()
					latencies[c] = append(latencies[c], now.Sub(begin))
					begin = now
				}
			})
		}
		wg.Wait()
		if err := context.Cause(ctx); err != nil {
			return samples{}, err
		}
		all := slices.Concat(latencies...)
		return samples{latencies: all, ops: int64(len(all))}, nil
	}
	return run, func() { hangUp(conns) }, nil
}

// short prints a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.2f µs", float64(d)/1e3)
	case d < 100*time.Microsecond:
		return fmt.Sprintf("%.1f µs", float64(d)/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	case d < 10*time.Second:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
