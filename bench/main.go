// Command bench measures shim and etcd side by side, in one run, on one machine.
//
// It builds both servers, starts them with their shipped defaults on empty
// directories of the same disk, lays the same data set in both, and then runs row
// after row, each row first on one server and then on the other, for a number of
// rounds with fresh servers. The load comes from this process: raw gRPC calls whose
// requests are encoded ahead and whose answers are walked, not decoded. Every
// answer is verified against a model of what must be there; a wrong one ends the
// run.
//
// Nouns: a target is a running server with the model of its data; a row is one
// kind of load; a figure is what one row gave on one target in one round. The
// report is medians over rounds and ratios, printed, and written to RESULTS.md
// when -out names it. NOTES.md tells what each figure means.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// generatorGOGC is the garbage collector's setting of this process: the load
// generator shares its cores with the servers, and should take little of them.
const generatorGOGC = 400

// options are the flags, read and checked.
type options struct {
	rows     *regexp.Regexp
	rounds   int
	servers  []string
	duration time.Duration
	profiles string
	out      string
	dir      string
	root     string
	seed     uint64
	sizes    sizes
	smoke    bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(2)
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

// parse reads the command line.
func parse(args []string) (options, error) {
	var o options
	var rows, servers string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&rows, "row", "", "run only the rows whose name matches this regular `expression`")
	f.IntVar(&o.rounds, "rounds", 3, "rounds, each with fresh servers and data")
	f.StringVar(&servers, "servers", "etcd,shim", "servers to measure, comma separated")
	f.DurationVar(&o.duration, "duration", 5*time.Second, "measured time of a row")
	f.StringVar(&o.profiles, "cpuprofile", "", "write a CPU profile of each server during each row to this `directory`; such figures are not for publishing")
	f.StringVar(&o.out, "out", "", "write the report to this `file`")
	f.StringVar(&o.dir, "dir", "work", "`directory` for binaries and data, on the disk to be measured; its subdirectories etcd and shim are removed")
	f.StringVar(&o.root, "root", "..", "`directory` of the shim module")
	f.Uint64Var(&o.seed, "seed", 1, "seed of keys, values and order")
	f.BoolVar(&o.smoke, "smoke", false, "tiny sizes, one round: only proves that every row runs and verifies")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag", f.Arg(0))
	}
	var err error
	if o.rows, err = regexp.Compile(rows); err != nil {
		return o, fmt.Errorf("-row: %w", err)
	}
	o.servers = strings.Split(servers, ",")
	for _, s := range o.servers {
		if !slices.Contains([]string{"etcd", "shim"}, s) {
			return o, fmt.Errorf("-servers: %q is neither etcd nor shim", s)
		}
	}
	o.sizes = fullSizes
	if o.smoke {
		o.sizes, o.rounds, o.duration = smokeSizes, 1, 200*time.Millisecond
	}
	if o.rounds < 1 || o.duration <= 0 {
		return o, errors.New("-rounds and -duration must be above 0")
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return o, err
	}
	if o.profiles != "" {
		o.profiles, err = filepath.Abs(o.profiles)
	}
	return o, err
}

// run is the whole run: build, rounds, report.
func run(ctx context.Context, o options) error {
	debug.SetGCPercent(generatorGOGC)
	begin := time.Now()
	selected := selectRows(o.rows)
	if len(selected) == 0 {
		return fmt.Errorf("-row: none of the rows matches: %s", strings.Join(rowNames(), "; "))
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	binaries, err := build(ctx, o)
	if err != nil {
		return err
	}
	m, err := describeMachine(ctx, o, binaries)
	if err != nil {
		return err
	}
	fmt.Print(m.text())
	progressf("building done after %s", time.Since(begin).Round(time.Second))
	r := report{options: o, machine: m, rows: selected, begin: begin}
	for round := 1; round <= o.rounds; round++ {
		got, err := runRound(ctx, o, binaries, round, selected)
		r.figures = append(r.figures, got...)
		if err != nil {
			fmt.Print("\nuntil the error:\n\n" + r.tables())
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	r.took = time.Since(begin)
	fmt.Print("\n" + r.quiet() + "\n" + r.tables())
	if o.out == "" {
		return nil
	}
	return os.WriteFile(o.out, []byte(r.markdown()), 0o644)
}

// progressf prints one line of progress with the time of day.
func progressf(format string, args ...any) {
	fmt.Printf("%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}
