package etcd

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// toolTimeout bounds one command, far above what a busy machine needs, also while other tests
// hold its disk up: it ends what hangs.
const toolTimeout = 90 * time.Second

// A turn is one command, run on both servers; stdout, stderr and exit code must
// be equal.
type turn struct {
	// args begin with the subcommand. "$LEASE" is the id that the latest "lease
	// grant" printed, "$MEMBER" that of the latest member that was added, "$ADDRESS" the server's,
	// "$SECURE" its other one, with TLS, and "$CERTS" the directory of the certificates for it.
	args []string
	// tool is the command; etcdctl if empty.
	tool  string
	stdin string
	masks []mask
	// columns are the table columns whose cells are masked.
	columns []string

	// until ends a command that does not end by itself: it is killed when a line
	// of its stdout has this text, and only stdout is compared, up to that line.
	// Its stdin stays open.
	until string
	// during is run when a line with the text ready has come.
	ready  string
	during []turn
	// other is a command that runs meanwhile, and is killed at the end.
	other *turn
	// shuffled output is compared by its words, in any order.
	shuffled bool
	// message is what -w protobuf prints, if values in it are to be masked: it is then
	// compared as text. Several in a row are one, with the lists of all.
	message proto.Message
	// outOnly leaves stderr out of the comparison: it has the client's own log.
	outOnly bool
	// patience replaces toolTimeout.
	patience time.Duration

	// call does what etcdctl has no words for.
	call func(ctx context.Context, c *grpc.ClientConn) error
}

// run is a turn with its words separated by spaces.
func run(words string, masks ...mask) turn { return turn{args: strings.Fields(words), masks: masks} }

// with is a turn with arguments that have spaces or are empty.
func with(args ...string) turn { return turn{args: args} }

func (s turn) in(stdin string) turn            { s.stdin = stdin; return s }
func (s turn) stopAt(until string) turn        { s.until = until; return s }
func (s turn) hide(columns ...string) turn     { s.columns = columns; return s }
func (s turn) by(tool string) turn             { s.tool = tool; return s }
func (s turn) beside(o turn) turn              { s.other = &o; return s }
func (s turn) anyOrder() turn                  { s.shuffled = true; return s }
func (s turn) on(r string, d ...turn) turn     { s.ready, s.during = r, d; return s }
func (s turn) as(m proto.Message) turn         { s.message = m; return s }
func (s turn) withoutStderr() turn             { s.outOnly = true; return s }
func (s turn) within(limit time.Duration) turn { s.patience = limit; return s }
func (s turn) formats(fs ...string) []turn {
	var out []turn
	for _, f := range fs {
		c := s
		c.args = append(append([]string{}, s.args...), "-w", f)
		out = append(out, c)
	}
	return out
}

// outcome is what is compared.
type outcome struct {
	stdout, stderr string
	exit           int
}

// side is one of the two servers and the state of its script.
type side struct {
	name   string
	server *process.Server
	// secure is the address of the port with TLS, and certs has the certificates, where
	// a script asked for them.
	secure, certs string
	// dir is where its commands run.
	dir    string
	lease  string
	member uint64
	// token is the last that a request for one gave.
	token string
}

// newSides starts etcd and shim, fresh, with one name and one peer URL, from
// which both derive the ids of cluster and member.
func newSides(t *testing.T, flags ...string) [2]*side {
	t.Helper()
	peer := fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
	var sides [2]*side
	for i, name := range []string{"etcd", "shim"} {
		listen := peer
		if name == "shim" {
			listen = fmt.Sprintf("http://127.0.0.1:%d", process.Port(t))
		}
		d := &side{name: name, dir: t.TempDir()}
		port, own := process.Port(t), slices.Clone(flags)
		if at := slices.Index(own, withTLS); at >= 0 {
			own = slices.Concat(own[:at], d.secured(t, port), own[at+1:])
		}
		d.server = process.Start(t, process.Binary(t, name), port, t.TempDir(), append([]string{
			"--name", "default", "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer, "--listen-peer-urls", listen,
		}, own...)...)
		sides[i] = d
	}
	for _, d := range sides {
		d.server.WaitReady(t)
	}
	return sides
}

// compare runs the script on fresh servers.
func compare(t *testing.T, script []turn, flags ...string) {
	t.Helper()
	follow(t, newSides(t, flags...), script)
}

// follow runs the script on both sides, turn by turn.
func follow(t *testing.T, sides [2]*side, script []turn) {
	t.Helper()
	for i, s := range script {
		title := fmt.Sprintf("turn %d: %s %q", i+1, s.command(), s.args)
		got := outcomes(t, sides, s, title)
		if got[0] != got[1] {
			t.Errorf("%s\netcd: exit %d\n%s\n%s\nshim: exit %d\n%s\n%s", title,
				got[0].exit, got[0].stdout, got[0].stderr, got[1].exit, got[1].stdout, got[1].stderr)
		} else if testing.Verbose() {
			t.Logf("%s: exit %d\n%s%s", title, got[0].exit, got[0].stdout, got[0].stderr)
		}
	}
}

// outcomes runs a turn on both sides; what is compared must be equal.
func outcomes(t *testing.T, sides [2]*side, s turn, title string) (got [2]outcome) {
	t.Helper()
	for n, o := range both(sides, func(side *side) (outcome, error) { return side.run(t, s) }) {
		if o.err != nil {
			t.Fatalf("%s: on %s: %v (stdout %q, stderr %q)", title, sides[n].name, o.err, o.stdout, o.stderr)
		}
		got[n] = o.outcome
	}
	return got
}

type answered struct {
	outcome
	err error
}

// both does the same on the two sides at the same time.
func both(sides [2]*side, do func(*side) (outcome, error)) [2]answered {
	var got [2]answered
	var wg sync.WaitGroup
	for i, s := range sides {
		wg.Go(func() { got[i].outcome, got[i].err = do(s) })
	}
	wg.Wait()
	return got
}

func (s turn) command() string {
	if s.tool == "" {
		return "etcdctl"
	}
	return s.tool
}

// run does one turn and returns its masked outcome.
func (d *side) run(t *testing.T, s turn) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(s.patience, toolTimeout))
	defer cancel()
	if s.call != nil {
		return outcome{}, d.dial(ctx, s.call)
	}
	cmd := d.prepare(ctx, t, s)
	var o outcome
	var err error
	if s.until != "" {
		o, err = d.runUntil(t, cmd, s)
	} else {
		o, err = runToEnd(cmd, s.stdin)
	}
	if len(s.args) > 1 && s.args[0] == "lease" && s.args[1] == "grant" && o.exit == 0 {
		if f := strings.Fields(o.stdout); len(f) > 1 && f[0] == "lease" {
			d.lease = f[1]
		}
	}
	if len(s.args) > 1 && s.args[0] == "member" && s.args[1] == "add" && o.exit == 0 && err == nil {
		err = d.findMember(ctx)
	}
	if err == nil {
		o.stdout, err = s.readable(o)
	}
	if s.outOnly {
		o.stderr = ""
	}
	o.stdout, o.stderr = d.masked(s, o.stdout), d.masked(s, log.ReplaceAllString(o.stderr, ""))
	return o, err
}

// prepare is the process of a turn, not started.
func (d *side) prepare(ctx context.Context, t *testing.T, s turn) *exec.Cmd {
	var args []string
	for _, a := range s.args {
		a = strings.ReplaceAll(a, "$LEASE", d.lease)
		a = strings.ReplaceAll(a, "$MEMBER", fmt.Sprintf("%x", d.member))
		a = strings.ReplaceAll(strings.ReplaceAll(a, "$SECURE", d.secure), "$CERTS", d.certs)
		args = append(args, strings.ReplaceAll(a, "$ADDRESS", d.server.Address))
	}
	cmd := exec.CommandContext(ctx, process.Binary(t, s.command()), args...)
	cmd.Dir = d.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir}
	for name, value := range map[string]string{"endpoints": d.server.Address, "command-timeout": "30s", "dial-timeout": "10s"} {
		// A flag that is set, too, would be warned of.
		if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--"+name) }) {
			cmd.Env = append(cmd.Env, "ETCDCTL_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+value)
		}
	}
	slices.Sort(cmd.Env)
	return cmd
}

// findMember notes the learner that was added.
func (d *side) findMember(ctx context.Context) error {
	return d.dial(ctx, func(ctx context.Context, c *grpc.ClientConn) error {
		list, err := pb.NewClusterClient(c).MemberList(ctx, &pb.MemberListRequest{})
		if err != nil {
			return err
		}
		for _, m := range list.Members {
			if m.IsLearner {
				d.member = m.ID
			}
		}
		return nil
	})
}

func runToEnd(cmd *exec.Cmd, stdin string) (outcome, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, err
}

// runUntil reads stdout until the awaited line and kills the command, which
// must not have ended before.
func (d *side) runUntil(t *testing.T, cmd *exec.Cmd, s turn) (outcome, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return outcome{}, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return outcome{}, err
	}
	if s.other != nil {
		other := d.prepare(context.Background(), t, *s.other)
		if err := other.Start(); err != nil {
			return outcome{}, err
		}
		defer func() {
			_ = other.Process.Kill()
			_ = other.Wait() // killed: an error is what is expected
		}()
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second // a command run by watch may hold stderr
	if err := cmd.Start(); err != nil {
		return outcome{}, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: an error is what is expected
	}()
	if _, err := io.WriteString(stdin, s.stdin); err != nil {
		return outcome{}, err
	}
	var o outcome
	if s.message != nil && s.form() == "protobuf" {
		o.stdout, err = readMessages(stdout, s.until)
		return o, err
	}
	pending := s.ready
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		o.stdout += lines.Text() + "\n"
		if pending != "" && strings.Contains(lines.Text(), pending) {
			pending = ""
			for _, during := range s.during {
				did, err := d.run(t, during)
				if err != nil {
					return o, err
				}
				o.stderr += did.stdout + did.stderr // compared too
			}
		}
		if strings.Contains(lines.Text(), s.until) {
			return o, nil
		}
	}
	return o, fmt.Errorf("stdout ended before %q came; stderr: %s", s.until, stderr.String())
}

// masked hides the address, the generated lease, and what the turn names.
func (d *side) masked(s turn, text string) string {
	text = strings.ReplaceAll(text, d.server.Address, "<address>")
	if d.secure != "" {
		text = strings.ReplaceAll(strings.ReplaceAll(text, d.secure, "<secure address>"), d.certs, "<certificates>")
	}
	if d.lease != "" {
		text = strings.ReplaceAll(text, d.lease, "<lease>")
	}
	if d.member != 0 {
		text = strings.ReplaceAll(text, fmt.Sprintf("%x", d.member), "<member>")
		text = strings.ReplaceAll(text, fmt.Sprint(d.member), "<member>")
	}
	for _, m := range s.masks {
		text = m.apply(text)
	}
	if s.columns != nil {
		text = cells(text, s.columns...)
	}
	if s.shuffled {
		words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \n,{}[]│┌─┬┐├┼┤└┴┘\"=", r) })
		slices.Sort(words)
		text = strings.Join(words, " ")
	}
	return text
}

// dial calls the server without a client's retries.
func (d *side) dial(ctx context.Context, call func(context.Context, *grpc.ClientConn) error) error {
	conn, err := grpc.NewClient(d.server.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return call(ctx, conn)
}

// grant makes a lease with a chosen id, so that hashes over keys that carry it are equal.
func grant(id, ttl int64) turn {
	return turn{args: []string{"grant", fmt.Sprintf("%x", id)}, call: func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := pb.NewLeaseClient(c).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		return err
	}}
}

// raise raises an alarm on the only member.
func raise(alarm pb.AlarmType) turn {
	return turn{args: []string{"raise", alarm.String()}, call: func(ctx context.Context, c *grpc.ClientConn) error {
		m := pb.NewMaintenanceClient(c)
		status, err := m.Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return err
		}
		_, err = m.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: alarm})
		return err
	}}
}
