package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcdshim/shim/backends/raftbolt"
)

// checkImpossible is the exit code of a check that can say nothing. It is that of
// a command line that cannot be read, too; damage is 1.
const checkImpossible = 2

// uncheckedError is why a check can say nothing.
type uncheckedError struct{ error }

const checkHelp = `Reads all files of a data directory of the raftbolt backend, writes none of them, and says what
is wrong and what to do. The server must be stopped.

The exit code is 0 when the directory is sound, 1 when damage was found, and 2 when nothing can
be said: there is no such directory, another program wrote it, or a server is using it.

What a check cannot see: a flipped bit inside a value, or in the name of a key that was written
once; only a comparison with another member shows that. A flipped bit in the very last batch of
the log looks like a write that a crash cut off, and is only mentioned.

It takes about 100 bytes of memory for each key.`

// checkCommand is "shim check DIR".
func checkCommand() *cli.Command {
	return &cli.Command{
		Name:            "check",
		Usage:           "verify a data directory offline",
		UsageText:       "shim check [--wal-dir DIR] DATA-DIR",
		Description:     checkHelp,
		HideHelpCommand: true,
		Flags: []cli.Flag{&cli.StringFlag{
			Name: "wal-dir", Usage: "Directory of the log, when the server has it elsewhere with --wal-dir.",
		}},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return usageError{fmt.Errorf("%w (shim check --help lists the flags)", err)}
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usageError{fmt.Errorf("check takes one data directory, and got %d arguments", c.NArg())}
			}
			return check(c.Args().First(), c.String("wal-dir"), c.App.Writer, c.App.ErrWriter)
		},
	}
}

// check checks dir. The report goes to out, progress to progress. Errors:
// uncheckedError, errDamaged.
func check(dir, walDir string, out, progress io.Writer) error {
	next := time.Now().Add(progressInterval)
	report, err := raftbolt.Check(raftbolt.CheckConfig{DataDir: dir, WALDir: walDir, Progress: func(part string, done, all uint64) {
		if now := time.Now(); now.After(next) {
			next = now.Add(progressInterval)
			_, _ = fmt.Fprintf(progress, "shim: checking the %s: %d %%\n", part, 100*done/max(all, 1))
		}
	}})
	if err != nil {
		return uncheckedError{fmt.Errorf("cannot check %s: %w", dir, err)}
	}
	if err := printReport(out, dir, report); err != nil {
		return err
	}
	if len(report.Findings) > 0 {
		return errDamaged
	}
	return nil
}

// progressInterval lies between two lines of progress.
const progressInterval = 5 * time.Second

// errDamaged ends a check that found something; what it is was printed.
var errDamaged = errors.New("the data directory is damaged")

func printReport(out io.Writer, dir string, r *raftbolt.CheckReport) error {
	var b []byte
	for _, c := range r.Checked {
		b = fmt.Appendf(b, "checked  %s\n", c)
	}
	for _, n := range r.Notes {
		b = fmt.Appendf(b, "note     %s\n", n)
	}
	do := ""
	for _, f := range r.Findings {
		if do != "" && do != f.Do {
			b = fmt.Appendf(b, "  what to do: %s.\n", do)
		}
		b, do = fmt.Appendf(b, "DAMAGE   %s\n", f.What), f.Do
	}
	if do != "" {
		b = fmt.Appendf(b, "  what to do: %s.\n", do)
		b = fmt.Appendf(b, "%s is damaged\n", dir)
	} else {
		b = fmt.Appendf(b, "%s is sound\n", dir)
	}
	_, err := out.Write(b)
	return err
}
