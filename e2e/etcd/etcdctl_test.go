package etcd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// commandTimeout bounds one run of etcdctl.
const commandTimeout = 60 * time.Second

// step is one run of etcdctl or of a watch.
type step struct {
	// args are etcdctl's; "$lease" stands for the newest lease's id, "$rev" for
	// the revision that the step named rev saw.
	args string
	// stdin is fed to the command.
	stdin string
	// watch starts the command and lets it run: later steps' events must show. The
	// steps in during run once the watch is open; the watch ends after lines of output.
	watch  bool
	during []string
	lines  int
	// fails says that the command must end with an error.
	fails bool
}

// script is run against etcd and against shim, which must show the same.
func script() []step {
	steps := []step{}
	do := func(args ...string) {
		for _, a := range args {
			steps = append(steps, step{args: a})
		}
	}
	do("put a 1", "put a 2 --prev-kv", "put b 1", "put c 3", "put dir/x x", "put dir/y y",
		"put a --ignore-value", "get a", "get a -w json", "get a -w fields", "get nothing",
		"get a c", "get dir/ --prefix", "get dir/ --prefix --keys-only", "get dir/ --prefix --count-only -w fields",
		"get b --from-key", "get  --prefix --limit 2", "get a --print-value-only", "get a --hex",
		"get a z --order DESCEND --sort-by KEY", "get a z --stream", "get a z --order ASCEND --sort-by VALUE",
		"get a z --order DESCEND --sort-by MODIFY", "get a z --order DESCEND --sort-by CREATE", "get a z --sort-by VERSION --order ASCEND",
		"get a --rev 2", "get a --rev 3 -w json", "get a --consistency s", "get a --consistency l",
		"get a z --min-mod-rev 4", "get a z --max-mod-rev 4", "get a z --min-create-rev 4", "get a z --max-create-rev 4")
	steps = append(steps,
		step{args: "get a --rev 100000", fails: true},
		step{args: "put a", stdin: "from standard input"},
		step{args: "get a"},
		step{args: "put n --ignore-value", fails: true},
		step{args: "put l v --lease 1234", fails: true},
		step{args: "txn", stdin: "mod(\"zz\") = \"0\"\nvalue(\"b\") = \"1\"\n\nput t 1\nget a b\n\nget nothing\n\n"},
		step{args: "txn -w json", stdin: "ver(\"b\") > \"7\"\n\nput t 1\n\nget b\ndel c\n\n"},
		step{args: "txn", stdin: "create(\"t\") > \"0\"\n\n\n\n"},
	)
	do("del t --prev-kv", "del dir/ --prefix", "del nothing", "put x1 1", "put x2 2", "del x1 x3 -w json", "put y 1", "del y --from-key")
	steps = append(steps,
		step{args: "watch a --rev 2", watch: true, lines: 6},
		step{args: "watch a --rev 2 --prev-kv", watch: true, lines: 10},
		step{args: "watch w --prefix", watch: true, during: []string{"put w1 1", "del w1", "put w2 2"}, lines: 8},
		step{args: "watch w1 w3 --prev-kv", watch: true, during: []string{"put w1 1", "put w1 2", "del w2"}, lines: 9},
		step{args: "watch w --prefix -w json --rev 3", watch: true, lines: 1},
		step{args: "watch zz --progress-notify", watch: true, during: []string{"put zz 1"}, lines: 3},
		step{args: "watch -i", stdin: "watch i1\n", watch: true, during: []string{"put i1 1", "put i1 2"}, lines: 6},
	)
	do("lease grant 600", "put l 1 --lease $lease", "lease timetolive $lease", "lease timetolive $lease --keys",
		"lease list", "lease keep-alive --once $lease", "get l -w fields", "put l 2 --ignore-lease", "lease revoke $lease", "get l", "lease list",
		"lease timetolive $lease")
	steps = append(steps, step{args: "lease revoke $lease", fails: true}, step{args: "lease grant 99999999999", fails: true})
	do("compaction 5", "compaction 20 --physical")
	steps = append(steps, step{args: "compaction 5", fails: true}, step{args: "compaction 100000", fails: true},
		step{args: "get a --rev 4", fails: true}, step{args: "watch a --rev 4", watch: true, fails: true})
	do("defrag", "endpoint health", "endpoint health -w json", "endpoint status -w json", "endpoint status -w fields", "endpoint status",
		"endpoint hashkv -w json", "endpoint hashkv --rev 30 -w fields", "member list", "member list -w json", "alarm list", "alarm disarm",
		"snapshot save $file", "get  --prefix")
	return steps
}

// TestEtcdctlOnShim ensures that etcdctl shows the same on shim as on etcd.
func TestEtcdctlOnShim(t *testing.T) {
	peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
	shim := process.Shim(t, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	compareEtcdctl(t, process.Etcd(t).Address, shim.Address)
}

// TestEtcdctlOnEtcd ensures that the comparison itself is fair: two etcds show the same.
func TestEtcdctlOnEtcd(t *testing.T) {
	compareEtcdctl(t, process.Etcd(t).Address, process.Etcd(t).Address)
}

func compareEtcdctl(t *testing.T, want, got string) {
	t.Helper()
	sides := [2]*ctl{{t: t, address: want, dir: t.TempDir()}, {t: t, address: got, dir: t.TempDir()}}
	for _, s := range script() {
		t.Run(s.args, func(t *testing.T) {
			var shown [2]string
			for i, side := range sides {
				side.t = t
				shown[i] = side.run(s)
			}
			if shown[0] != shown[1] {
				t.Errorf("etcdctl %s\non etcd:\n%s\nhere:\n%s", s.args, shown[0], shown[1])
			}
		})
	}
}

// ctl runs etcdctl against one server.
type ctl struct {
	t       *testing.T
	address string
	dir     string // of files that etcdctl writes
	lease   string // the newest lease's id
}

// command makes an etcdctl command; words of args are separated by single spaces, so that
// two spaces stand for an empty word.
func (c *ctl) command(ctx context.Context, args string) *exec.Cmd {
	words := strings.Split(args, " ")
	for i, w := range words {
		switch w {
		case "$lease":
			words[i] = c.lease
		case "$file":
			words[i] = filepath.Join(c.dir, "snapshot.db")
		}
	}
	cmd := exec.CommandContext(ctx, process.Binary(c.t, "etcdctl"), append([]string{"--endpoints", c.address}, words...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	return cmd
}

func (c *ctl) run(s step) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := c.command(ctx, s.args)
	if s.watch && !s.fails {
		return c.mask(c.watched(cmd, s))
	}
	cmd.Stdin = strings.NewReader(s.stdin)
	out, err := cmd.CombinedOutput()
	if (err != nil) != s.fails {
		c.t.Errorf("%s: etcdctl %s: %v\n%s", c.address, s.args, err, out)
	}
	if m := regexp.MustCompile(`lease ([0-9a-f]{8,}) granted`).FindSubmatch(out); m != nil {
		c.lease = string(m[1])
	}
	if strings.HasPrefix(s.args, "snapshot save") {
		c.snapshotStatus(ctx)
	}
	return c.mask(string(out))
}

// watched runs a watch until it has shown s.lines lines. The steps in s.during begin once
// the watch is open, which a probing put on the watched key space cannot tell without
// being seen itself: they are repeated by nobody, so the watch starts at the current revision.
func (c *ctl) watched(cmd *exec.Cmd, s step) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if len(s.during) > 0 && s.stdin == "" {
		cmd.Args = append(cmd.Args, "--rev", fmt.Sprint(c.revision(ctx)+1))
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if s.stdin != "" {
		s.stdin = strings.TrimSuffix(s.stdin, "\n") + " --rev " + fmt.Sprint(c.revision(ctx)+1) + "\n"
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	_, err = io.WriteString(in, s.stdin)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, args := range s.during {
		if text, err := c.command(ctx, args).CombinedOutput(); err != nil {
			c.t.Fatalf("etcdctl %s: %v\n%s", args, err, text)
		}
	}
	var shown strings.Builder
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 1<<20)
	for range s.lines {
		if !scanner.Scan() {
			shown.WriteString("(ended)\n")
			break
		}
		shown.WriteString(scanner.Text() + "\n")
	}
	_ = cmd.Process.Kill() // a watch does not end by itself
	_ = cmd.Wait()         // killed
	return shown.String()
}

// revision is the server's current one.
func (c *ctl) revision(ctx context.Context) int {
	c.t.Helper()
	out, err := c.command(ctx, "get none -w fields").Output()
	if err != nil {
		c.t.Fatal(err)
	}
	var revision int
	m := regexp.MustCompile(`"Revision" : (\d+)`).FindSubmatch(out)
	if m == nil {
		c.t.Fatalf("no revision in %s", out)
	}
	if _, err := fmt.Sscan(string(m[1]), &revision); err != nil {
		c.t.Fatal(err)
	}
	return revision
}

// snapshotStatus has etcdutl read the saved file.
func (c *ctl) snapshotStatus(ctx context.Context) {
	c.t.Helper()
	file := filepath.Join(c.dir, "snapshot.db")
	out, err := exec.CommandContext(ctx, process.Binary(c.t, "etcdutl"), "snapshot", "status", file, "-w", "json").CombinedOutput()
	if err != nil {
		c.t.Errorf("etcdutl snapshot status: %v\n%s", err, out)
	}
	want := fmt.Sprintf(`"revision":%d,`, c.revision(ctx))
	if !strings.Contains(string(out), want) {
		c.t.Errorf("etcdutl snapshot status shows %s, want %s", out, want)
	}
}

// mask blots out what differs between any two servers: ids, addresses, sizes, times, raft
// indices.
func (c *ctl) mask(out string) string {
	for _, m := range []struct{ pattern, with string }{
		{`(?m)^\{"level":.*\n`, ""}, // the client's own log
		{`127\.0\.0\.1:\d+`, "ADDRESS"},
		{regexp.QuoteMeta(c.dir), "DIR"},
		{`"(cluster_id|member_id|ID|leader|raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|hash)":\d+`, `"$1":N`},
		{`"(ClusterID|MemberID|Leader|RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|DbSizeInUse|Hash|ID|TTL|Lease)" ?: ?\d+`, `"$1" : N`},
		{`, (true|false), (true|false), \d+, \d+, \d+, `, ", $1, $2, N, N, N, "}, // term and indices
		{`"took":"[^"]*"`, `"took":"T"`},
		{`took [0-9.]+[a-zµ]+|took = [0-9.]+[a-zµ]+|\([0-9.]+[a-zµ]+\)`, "took T"},
		{`remaining\(\d+s\)`, "remaining(N)"},
		{`"remaining-ttl":\d+|"ttl":\d+`, `"ttl":N`},
		{`\b[0-9a-f]{12,16}\b`, "ID"},
		{`\b\d{15,20}\b`, "ID"},
		{`"ts":"[^"]*"`, `"ts":"T"`},
		{`\d+(\.\d+)? (kB|MB|B|GB)\b`, "SIZE"},
		{`"size":"[^"]*"`, `"size":"S"`},
		{` +\| +| +\|`, " |"}, {`-{3,}`, "---"},
	} {
		out = regexp.MustCompile(m.pattern).ReplaceAllString(out, m.with)
	}
	return out
}
