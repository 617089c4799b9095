package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the resolution of /proc/PID/stat, USER_HZ, which is 100 on every Linux
// that Go runs on. The kernel accounts CPU time exactly and shows it in ticks, so a
// difference is off by at most one.
const tick = 10 * time.Millisecond

const (
	// quietWindow is how long a server must use next to nothing to be quiet: at
	// most one tick.
	quietWindow = 250 * time.Millisecond
	// quietTimeout bounds the wait for it. What a server does after a row (a flush,
	// a collection) is over in seconds.
	quietTimeout = time.Minute
)

// cpuTime is the CPU time a process has used, user and system, all threads.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may contain anything; utime and stime are fields 14 and 15.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	var sum int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}

// machineTime is the CPU time of the whole machine: what was used, and what a
// hypervisor gave to others meanwhile.
type machineTime struct{ busy, stolen time.Duration }

func machineTimes() (machineTime, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machineTime{}, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal …
	if len(fields) < 9 {
		return machineTime{}, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var m machineTime
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return m, err
		}
		switch i {
		case 3, 4: // idle
		case 7:
			m.stolen += time.Duration(n) * tick
		default:
			m.busy += time.Duration(n) * tick
		}
	}
	return m, nil
}

// memory is how much of a process is resident, in bytes.
type memory struct {
	// peak is the largest resident size since resetPeak, pages of mapped files
	// included; resident is the size now, and anonymous its part that no file backs.
	peak, resident, anonymous int64
}

func memoryOf(pid int) (memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	var m memory
	found := 0
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		into := map[string]*int64{"VmHWM": &m.peak, "VmRSS": &m.resident, "RssAnon": &m.anonymous}[name]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			return m, err
		}
		*into = kib << 10
		found++
	}
	if found != 3 {
		return m, fmt.Errorf("/proc/%d/status has %d of VmHWM, VmRSS, RssAnon", pid, found)
	}
	return m, nil
}

// resetPeak makes the present resident size the peak.
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// waitQuiet returns when the process has used at most one tick of CPU over
// quietWindow: what it does in the background after a load is done. A process that
// never rests is an error.
func waitQuiet(ctx context.Context, pid int) error {
	deadline := time.Now().Add(quietTimeout)
	before, err := cpuTime(pid)
	if err != nil {
		return err
	}
	for time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(quietWindow):
		}
		now, err := cpuTime(pid)
		if err != nil {
			return err
		}
		if now-before <= tick {
			return nil
		}
		before = now
	}
	return fmt.Errorf("process %d is not quiet %s after its load", pid, quietTimeout)
}
