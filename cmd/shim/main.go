// Command shim serves etcd's v3 API from a backend of choice. This package is
// flags, environment, signals and wiring; nothing else.
//
// flaglist.go lists every flag with its state; flags.go reads them, from the
// command line and the environment, and configfile.go from a file. options.go
// makes the options of a server of them, serve.go runs it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

// etcdVersion is the version of etcd whose API is served. Clients look at it to
// decide what they may ask for.
const etcdVersion = "3.7.3"

// version is shim's own; a release build sets it with -ldflags -X main.version=….
var version = "0.1.0-dev"

func main() {
	app, _ := newApp()
	if err := app.Run(flagsFirst(os.Args)); err != nil {
		fmt.Fprintln(os.Stderr, "shim:", err)
		var usage usageError
		var unchecked uncheckedError
		switch {
		case errors.As(err, &usage):
			os.Exit(2) // as etcd does
		case errors.As(err, &unchecked):
			os.Exit(checkImpossible)
		}
		os.Exit(1)
	}
}

// usageError is a command line that cannot be read.
type usageError struct{ error }

// newApp makes the program with the settings that its command line will set.
func newApp() (*cli.App, *settings) {
	s := newSettings()
	app := &cli.App{
		Name:                 "shim",
		Usage:                "serve etcd's v3 API from a backend of choice",
		Version:              version,
		HideVersion:          true, // --version is ours: etcd's -v is another flag
		HideHelpCommand:      true,
		Flags:                s.cliFlags(),
		Commands:             append([]*cli.Command{checkCommand(), snapshotCommand(), completionCommand(), tableCommand()}, notOffered()...),
		EnableBashCompletion: false,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			if name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); unknown {
				err = unknownFlag(strings.TrimLeft(name, "-"))
			}
			return usageError{fmt.Errorf("%w (shim --help lists the flags)", err)}
		},
	}
	var listed []command
	for _, c := range app.Commands {
		if !c.Hidden {
			listed = append(listed, command{usageLine(c), strings.ToUpper(c.Usage[:1]) + c.Usage[1:] + "."})
		}
	}
	app.CustomAppHelpTemplate = helpText(listed)
	app.Action = func(c *cli.Context) error {
		switch {
		case c.Args().Present():
			return fmt.Errorf("%q is not a flag or a command%s (shim --help lists them)", c.Args().First(), didYouMean(c.Args().First(), visibleCommands(app), ""))
		case c.Bool("version"):
			printVersion(c.App.Writer)
			return nil
		}
		return start(c.Context, s, os.Environ())
	}
	return app, s
}

// usageLine shows how a command is called, in a line.
func usageLine(c *cli.Command) string {
	if line, _, _ := strings.Cut(c.UsageText, "\n"); line != "" {
		return line
	}
	var names []string
	for _, sub := range c.Subcommands {
		names = append(names, sub.Name)
	}
	return strings.TrimSpace("shim " + c.Name + " " + strings.Join(names, "|"))
}

// tableCommand prints docs/FLAGS.md.
func tableCommand() *cli.Command {
	return &cli.Command{
		Name: "flag-table", Usage: "print the table of flags, Markdown", Hidden: true, HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			_, err := io.WriteString(c.App.Writer, flagTable())
			return err
		},
	}
}

// notOffered are etcd's commands that shim does not have.
func notOffered() []*cli.Command {
	var commands []*cli.Command
	for name, instead := range map[string]string{
		"gateway":    "a TCP load balancer before the members does the same",
		"grpc-proxy": "clients connect to the members themselves",
	} {
		commands = append(commands, &cli.Command{
			Name: name, Usage: "not offered", Hidden: true, SkipFlagParsing: true, HideHelpCommand: true, HideHelp: true,
			Action: func(*cli.Context) error {
				return fmt.Errorf("%s is not offered: %s", name, instead)
			},
		})
	}
	return commands
}

// printVersion prints etcd's four lines first, as scripts expect them, then
// shim's own.
func printVersion(w io.Writer) {
	_, _ = fmt.Fprintf(w, "etcd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s/%s\nshim Version: %s\n",
		etcdVersion, revision(), strings.TrimPrefix(runtime.Version(), "devel "), runtime.GOOS, runtime.GOARCH, version)
}

// revision is the short commit the binary was built from, when Go knows it.
func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 7 {
				return s.Value[:7]
			}
		}
	}
	return "unknown"
}
