// Command shim serves etcd's v3 API from a backend of choice. This package is
// flags, environment, signals and wiring; nothing else.
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
	if err := newApp().Run(flagsFirst(os.Args)); err != nil {
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

func newApp() *cli.App {
	cli.VersionPrinter = func(c *cli.Context) { printVersion(c.App.Writer) }
	return &cli.App{
		Name:  "shim",
		Usage: "serve etcd's v3 API from a backend of choice",
		UsageText: "shim [flags]\nshim check DATA-DIR\nshim snapshot save|status|restore FILE\n\n" +
			"Without flags: a single durable member on http://127.0.0.1:2379, data in ./default.etcd.\n" +
			"Flags take one dash or two; each has an environment variable, which the flag overrides.",
		Version:              version,
		HideHelpCommand:      true,
		Suggest:              true,
		Flags:                cliFlags(),
		Commands:             []*cli.Command{checkCommand(), snapshotCommand()},
		EnableBashCompletion: false,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return usageError{fmt.Errorf("%w (shim --help lists the flags)", err)}
		},
		Action: func(c *cli.Context) error {
			o, err := parseOptions(c)
			if err != nil {
				return err
			}
			log, err := newLogger(c.String("log-level"), c.String("log-format"), c.String("log-outputs"))
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }()
			warnings(c, log)
			return serve(c.Context, o, log)
		},
	}
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
