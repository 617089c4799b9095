package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt"
)

// snapshotCommand is "shim snapshot save|status|restore": etcdctl's and etcdutl's
// commands of the same names, with their flags.
func snapshotCommand() *cli.Command {
	return &cli.Command{
		Name: "snapshot", Usage: "save, look at and restore snapshots of etcd's and shim's", HideHelpCommand: true,
		Subcommands: []*cli.Command{saveCommand(), statusCommand(), restoreCommand()},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError{fmt.Errorf("snapshot has no command %q (save, status, restore)", c.Args().First())}
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// flagsFirst puts the flags of a snapshot command before its arguments: etcd's
// tools take them in any order, the flag library does not.
func flagsFirst(args []string) []string {
	if len(args) < 3 || args[1] != "snapshot" {
		return args
	}
	commands := snapshotCommand().Subcommands
	i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[2]) })
	if i < 0 {
		return args
	}
	valued := map[string]bool{}
	for _, f := range commands[i].Flags {
		if d, ok := f.(cli.DocGenerationFlag); ok {
			for _, name := range f.Names() {
				valued[name] = d.TakesValue()
			}
		}
	}
	var flags, rest []string
	for left := args[3:]; len(left) > 0; left = left[1:] {
		arg := left[0]
		if arg == "--" {
			rest = append(rest, left[1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		flags = append(flags, arg)
		if valued[strings.TrimLeft(arg, "-")] && len(left) > 1 {
			left = left[1:]
			flags = append(flags, left[0])
		}
	}
	return slices.Concat(args[:3], flags, []string{"--"}, rest)
}

// oneFile is the only argument of a snapshot command.
func oneFile(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", usageError{fmt.Errorf("snapshot %s requires exactly one argument, a file, and got %d", c.Command.Name, c.NArg())}
	}
	return c.Args().First(), nil
}

// wrongUsage is what the flag library calls for a flag that it cannot read.
func wrongUsage(c *cli.Context, err error, _ bool) error {
	return usageError{fmt.Errorf("%w (shim snapshot %s --help lists the flags)", err, c.Command.Name)}
}

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "tell hash, revision, number of keys, size and storage version of a snapshot",
		UsageText: "shim snapshot status [-w FORMAT] FILE", HideHelpCommand: true, OnUsageError: wrongUsage,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "write-out", Aliases: []string{"w"}, Value: "simple", Usage: "Format: simple, json, fields or table."},
		},
		Action: func(c *cli.Context) error {
			path, err := oneFile(c)
			if err != nil {
				return err
			}
			write := statusFormats()[c.String("write-out")]
			if write == nil {
				return usageError{fmt.Errorf("%s not supported as output format (simple, json, fields, table)", c.String("write-out"))}
			}
			status, err := raftbolt.StatusOfSnapshot(path)
			if err != nil {
				return err
			}
			return write(c.App.Writer, status)
		},
	}
}

// statusFormats are etcdutl's (etcdutl/printer*.go, 3.7.3), which does not print a
// status as protobuf either.
func statusFormats() map[string]func(io.Writer, raftbolt.SnapshotStatus) error {
	return map[string]func(io.Writer, raftbolt.SnapshotStatus) error{
		"simple": func(w io.Writer, s raftbolt.SnapshotStatus) error {
			_, err := fmt.Fprintln(w, strings.Join(statusCells(s), ", "))
			return err
		},
		"json": func(w io.Writer, s raftbolt.SnapshotStatus) error {
			return json.NewEncoder(w).Encode(struct {
				Hash      uint32 `json:"hash"`
				Revision  int64  `json:"revision"`
				TotalKey  int    `json:"totalKey"`
				TotalSize int64  `json:"totalSize"`
				Version   string `json:"version"`
			}{s.Hash, s.Revision, s.Keys, s.SizeBytes, s.Version})
		},
		"fields": func(w io.Writer, s raftbolt.SnapshotStatus) error {
			_, err := fmt.Fprintf(w, "\"Hash\" : %d\n\"Revision\" : %d\n\"Keys\" : %d\n\"Size\" : %d\n\"Version\" : %s\n",
				s.Hash, s.Revision, s.Keys, s.SizeBytes, s.Version)
			return err
		},
		"table": func(w io.Writer, s raftbolt.SnapshotStatus) error {
			return writeTable(w, []string{"HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"}, statusCells(s))
		},
	}
}

func statusCells(s raftbolt.SnapshotStatus) []string {
	return []string{fmt.Sprintf("%x", s.Hash), fmt.Sprint(s.Revision), fmt.Sprint(s.Keys), decimalBytes(s.SizeBytes), s.Version}
}

// decimalBytes is a size in units of thousands, with one digit behind the point
// below ten, as etcd's tools print it.
func decimalBytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	if n < 10 {
		return fmt.Sprintf("%d B", n)
	}
	unit, size := 0, float64(n)
	for ; size >= 1000; unit++ {
		size /= 1000
	}
	// Rounded twice, as theirs: 25,450 bytes are 26 kB.
	size = math.Floor(size*10+0.5) / 10
	if size < 10 {
		return fmt.Sprintf("%.1f %s", size, units[unit])
	}
	return fmt.Sprintf("%.0f %s", size, units[unit])
}

// writeTable writes one row below its header: the header centred, the row to the right.
func writeTable(w io.Writer, header, row []string) error {
	line := func(left, middle, right string) string {
		parts := make([]string, len(header))
		for i := range header {
			parts[i] = strings.Repeat("─", max(len(header[i]), len(row[i]))+2)
		}
		return left + strings.Join(parts, middle) + right + "\n"
	}
	top, below := "│", "│"
	for i := range header {
		width := max(len(header[i]), len(row[i])) + 2
		before := (width - len(header[i])) / 2
		top += strings.Repeat(" ", before) + header[i] + strings.Repeat(" ", width-before-len(header[i])) + "│"
		below += fmt.Sprintf("%*s │", width-1, row[i])
	}
	_, err := io.WriteString(w, line("┌", "┬", "┐")+top+"\n"+line("├", "┼", "┤")+below+"\n"+line("└", "┴", "┘"))
	return err
}

const restoreHelp = `Makes a data directory out of a snapshot that etcdctl snapshot save or shim snapshot save
wrote, of etcd 3.5 to 3.7 or of shim. Keys, revisions, leases, users and roles stay as they are; the member begins
with a log of its own. The directory must be empty, or not be there.

A client that was told revisions above the snapshot's must not find others in their place:
--bump-revision and --mark-compacted raise the revision by so much that it never happens.`

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name: "restore", Usage: "make a data directory out of a snapshot",
		UsageText: "shim snapshot restore FILE --data-dir DIR [flags]", Description: restoreHelp, HideHelpCommand: true, OnUsageError: wrongUsage,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data-dir", Usage: "Data directory to make. (default: ${name}.etcd)"},
			&cli.StringFlag{Name: "wal-dir", Usage: "Directory of the log, when it shall not be inside the data directory."},
			&cli.StringFlag{Name: "name", Value: "default", Usage: "Human-readable name of the member."},
			&cli.StringFlag{Name: "initial-cluster", Value: "default=http://localhost:2380", Usage: "The founding members; only this one for now."},
			&cli.StringFlag{Name: "initial-cluster-token", Value: "etcd-cluster", Usage: "Token of the cluster, part of its id."},
			&cli.StringFlag{Name: "initial-advertise-peer-urls", Value: "http://localhost:2380", Usage: "Peer URLs of the member; with the token they make the ids."},
			&cli.BoolFlag{Name: "skip-hash-check", Usage: "Take a file without checksum, such as one copied from a data directory."},
			&cli.Uint64Flag{Name: "initial-memory-map-size", DefaultText: "10 GiB", Usage: "Address space in bytes for the file while it is restored."},
			&cli.Uint64Flag{Name: "bump-revision", Usage: "Raise the revision by so much. Needs --mark-compacted."},
			&cli.BoolFlag{Name: "mark-compacted", Usage: "Compact at the raised revision. Needs --bump-revision."},
		},
		Action: func(c *cli.Context) error {
			path, err := oneFile(c)
			if err != nil {
				return err
			}
			return restore(c, path)
		},
	}
}

// restore restores the snapshot at path as the flags say.
func restore(c *cli.Context, path string) error {
	if (c.Uint64("bump-revision") > 0) != c.Bool("mark-compacted") {
		return usageError{errors.New("--bump-revision and --mark-compacted go together: the one above 0, the other set")}
	}
	config := raftbolt.DefaultConfig()
	config.Name, config.DataDir, config.WALDir = c.String("name"), c.String("data-dir"), c.String("wal-dir")
	if config.DataDir == "" {
		config.DataDir = config.Name + ".etcd"
	}
	config.InitialAdvertisePeerURLs = splitList(c.String("initial-advertise-peer-urls"))
	if err := checkFounders(c.String("initial-cluster"), config.Name, config.InitialAdvertisePeerURLs); err != nil {
		return usageError{err}
	}
	config.ClusterToken = c.String("initial-cluster-token")
	env, done, err := commandEnv()
	if err != nil {
		return err
	}
	defer done()
	progress := newProgress(c.App.ErrWriter, "restoring")
	report, err := raftbolt.Restore(c.Context, config, raftbolt.RestoreOptions{
		Snapshot: path, SkipHashCheck: c.Bool("skip-hash-check"), BumpRevision: c.Uint64("bump-revision"),
		MmapBytes: c.Uint64("initial-memory-map-size"), Progress: progress.at,
	}, env)
	progress.end()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "Restored %s into %s: revision %d, compacted at %d, %d keys; cluster %x, member %x\n",
		path, config.DataDir, report.Revision, max(report.CompactRevision, 0), report.Keys, report.ClusterID, report.MemberID)
	return err
}

func splitList(list string) []string {
	var all []string
	for item := range strings.SplitSeq(list, ",") {
		all = append(all, strings.TrimSpace(item))
	}
	return all
}

// checkFounders holds --initial-cluster against the member that is restored, as
// etcd does (config.ServerConfig.VerifyBootstrap).
func checkFounders(list, name string, peerURLs []string) error {
	urls := map[string][]string{}
	for _, item := range splitList(list) {
		member, u, ok := strings.Cut(item, "=")
		if !ok {
			return fmt.Errorf("--initial-cluster: %q must be of the form name=http://host:port", item)
		}
		urls[member] = append(urls[member], u)
	}
	own := urls[name]
	slices.Sort(own)
	switch {
	case len(own) == 0:
		return fmt.Errorf("couldn't find local name %q in the initial cluster configuration %q (--name, --initial-cluster)", name, list)
	case len(urls) > 1:
		return fmt.Errorf("--initial-cluster: it names %d members, and this build restores one", len(urls))
	case !slices.Equal(own, slices.Sorted(slices.Values(peerURLs))):
		return fmt.Errorf("--initial-cluster has %s=%s, but --initial-advertise-peer-urls is %s", name, strings.Join(own, ","), strings.Join(peerURLs, ","))
	}
	return nil
}

// commandEnv is the environment of a backend that a command uses: warnings go to
// stderr. done gives it back.
func commandEnv() (env backends.Env, done func(), err error) {
	log, closeLog, err := newLogger(logOptions{level: "warn", format: "console", outputs: []string{outputStderr}})
	if err != nil {
		return env, nil, err
	}
	return backends.Env{
		Logger: log, Metrics: prometheus.NewRegistry(), Clock: backends.SystemClock{},
		Fatal: func(err error) { log.Error("the backend cannot go on", zap.Error(err)) },
	}, closeLog, nil
}

// progress shows on a terminal how far a copy is; elsewhere it is silent.
type progress struct {
	w       io.Writer
	doing   string
	next    time.Time
	written bool
}

// redraw is how often the line is written anew.
const redraw = 200 * time.Millisecond

func newProgress(w io.Writer, doing string) *progress {
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return &progress{w: f, doing: doing}
		}
	}
	return &progress{w: io.Discard, doing: doing}
}

// at shows that done of all bytes are copied.
func (p *progress) at(done, all int64) {
	if now := time.Now(); now.After(p.next) || done == all {
		p.next, p.written = now.Add(redraw), true
		const width = 40
		full := int(width * done / max(all, 1))
		_, _ = fmt.Fprintf(p.w, "\r%s [%s%s] %3d %% of %s ", p.doing, strings.Repeat("=", full), strings.Repeat(" ", width-full),
			100*done/max(all, 1), decimalBytes(all))
	}
}

// end ends the line.
func (p *progress) end() {
	if p.written {
		_, _ = fmt.Fprintln(p.w)
	}
}
