// Command play records shim's system calls under load, and replays power losses
// from them; see package power. Package power's tests build it, with overlays.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/etcdshim/shim/e2e/power"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "play:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: play load|replay FLAGS")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	switch args[0] {
	case "load":
		return load(flags, args[1:])
	case "replay":
		return replay(flags, args[1:])
	}
	return fmt.Errorf("%q is neither load nor replay", args[0])
}

// load is run under strace.
func load(flags *flag.FlagSet, args []string) error {
	var c power.LoadConfig
	flags.StringVar(&c.Recording.Dir, "recording", "", "directory of the recording")
	flags.StringVar(&c.Shim, "shim", "", "the shim to start")
	flags.StringVar(&c.Root, "root", "", "empty directory that is the recorded disk")
	flags.StringVar(&c.Addr, "addr", "", "address to serve on")
	flags.Uint64Var(&c.Seed, "seed", 1, "seed of the load")
	flags.IntVar(&c.Ops, "ops", 1000, "operations")
	flags.IntVar(&c.Clients, "clients", 3, "clients at a time")
	flags.IntVar(&c.LargeBytes, "large", 100<<10, "size of a few large values, bytes")
	flags.IntVar(&c.LargeEach, "large-each", 80, "one value in so many is large")
	flags.IntVar(&c.CatchupEntries, "catchup", power.DefaultCatchupEntries, "entries that the log keeps below what the store holds durably")
	flags.BoolVar(&c.NoKills, "no-kills", false, "end every session by SIGTERM, none by SIGKILL")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return power.Load(c)
}

// replay prints the result as JSON.
func replay(flags *flag.FlagSet, args []string) error {
	var c power.ReplayConfig
	flags.StringVar(&c.Recording.Dir, "recording", "", "directory of the recording")
	flags.Uint64Var(&c.Seed, "seed", 1, "seed of the states")
	flags.IntVar(&c.States, "states", 0, "states to draw beside the prefixes")
	flags.IntVar(&c.Prefixes, "prefixes", 0, "positions to cut at; 0: every one")
	flags.IntVar(&c.Shard, "shard", 0, "replay states whose number modulo -shards is this")
	flags.IntVar(&c.Shards, "shards", 1, "number of shards")
	flags.IntVar(&c.Only, "only", -1, "replay the state of this number alone")
	flags.StringVar(&c.Work, "work", "", "directory for states; failing ones stay")
	flags.IntVar(&c.Workers, "workers", 2, "states tried at a time")
	flags.IntVar(&c.MaxFailures, "max-failures", 1, "failures that end the replay")
	flags.BoolVar(&c.SkipAnswers, "skip-answers", false, "leave out whether answers come after their sync")
	flags.StringVar(&c.Shim, "shim", "", "program that checks and serves states")
	flags.StringVar(&c.Addr, "addr", "", "address to serve on")
	flags.IntVar(&c.ProgramEach, "program-each", 0, "one in so many states is given to the program; 0: none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	result, err := power.Replay(context.Background(), c)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}
