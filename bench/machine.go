package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// machine is where and of what the figures were taken.
type machine struct {
	cpu, kernel, disk, commit, memory string
	versions                          []string
	sync                              time.Duration
}

func describeMachine(ctx context.Context, o options, binaries map[string]string) (machine, error) {
	m := machine{cpu: fieldOf("/proc/cpuinfo", "model name"), memory: fieldOf("/proc/meminfo", "MemTotal")}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return m, err
	}
	m.kernel = strings.TrimSpace(string(kernel))
	m.disk = diskOf(o.dir)
	if m.sync, err = syncTime(o.dir); err != nil {
		return m, err
	}
	m.commit = output(ctx, o.root, "git", "rev-parse", "--short=12", "HEAD")
	if output(ctx, o.root, "git", "status", "--porcelain", "--untracked-files=no") != "" {
		m.commit += " with local changes"
	}
	for _, name := range o.servers {
		path := binaries[name]
		first, _, _ := strings.Cut(output(ctx, ".", path, "--version"), "\n")
		built := output(ctx, ".", "go", "version", "-m", path)
		line := fmt.Sprintf("%s: %q", name, first)
		for text := range strings.Lines(built) {
			f := strings.Fields(text)
			if len(f) >= 3 && f[0] == "dep" && slices.Contains([]string{"google.golang.org/grpc", "go.etcd.io/bbolt", "go.etcd.io/raft/v3"}, f[1]) {
				line += fmt.Sprintf(", %s %s", f[1], f[2])
			}
		}
		if _, goVersion, ok := strings.Cut(strings.SplitN(built, "\n", 2)[0], ": "); ok {
			line += ", " + goVersion
		}
		m.versions = append(m.versions, line)
	}
	return m, nil
}

func (m machine) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "- CPU: %s, %d cores, which the server under test, the idle other server and the load generator (GOMAXPROCS %d, GOGC %d) share; memory %s\n",
		m.cpu, runtime.NumCPU(), runtime.GOMAXPROCS(0), generatorGOGC, m.memory)
	fmt.Fprintf(&b, "- kernel %s; data on %s; write of 4 KiB and fdatasync: median %s\n", m.kernel, m.disk, short(m.sync))
	fmt.Fprintf(&b, "- shim at commit %s\n", m.commit)
	for _, v := range m.versions {
		fmt.Fprintf(&b, "- %s\n", v)
	}
	return b.String()
}

// fieldOf returns the value of the first line "name: value" of a file.
func fieldOf(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// diskOf names the file system and the device that hold a directory.
func diskOf(dir string) string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "unknown"
	}
	best, found := "", "unknown"
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 3 {
			continue
		}
		at := f[4]
		if (dir == at || strings.HasPrefix(dir, strings.TrimSuffix(at, "/")+"/")) && len(at) >= len(best) {
			best, found = at, fmt.Sprintf("%s (%s) on %s%s", g[0], f[5], g[1], queueOf(f[2]))
		}
	}
	return found
}

// queueOf tells what the kernel says of a block device, by its major:minor.
func queueOf(device string) string {
	at, err := filepath.EvalSymlinks("/sys/dev/block/" + device)
	if err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(at, "queue")); err != nil {
		at = filepath.Dir(at) // a partition
	}
	var b strings.Builder
	for _, name := range []string{"rotational", "scheduler", "write_cache"} {
		if v, err := os.ReadFile(filepath.Join(at, "queue", name)); err == nil {
			fmt.Fprintf(&b, ", %s %s", name, bytes.TrimSpace(v))
		}
	}
	return b.String()
}

// syncTime is the median time of a write of 4 KiB over written blocks and its
// fdatasync.
func syncTime(dir string) (median time.Duration, err error) {
	f, err := os.CreateTemp(dir, "sync")
	if err != nil {
		return 0, err
	}
	defer func() { _, _ = f.Close(), os.Remove(f.Name()) }()
	const writes = 200
	var took []time.Duration
	for _, round := range []bool{false, true} {
		for n := range writes {
			begin := time.Now()
			if _, err := f.WriteAt(make([]byte, 4096), int64(n)*4096); err != nil {
				return 0, err
			}
			if err := syscall.Fdatasync(int(f.Fd())); err != nil {
				return 0, err
			}
			if round {
				took = append(took, time.Since(begin))
			}
		}
	}
	slices.Sort(took)
	return quantile(took, 0.5), nil
}

// output is what a command prints, or "unknown".
func output(ctx context.Context, dir, name string, args ...string) string {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	out, err := c.Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
