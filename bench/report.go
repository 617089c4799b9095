package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is medians over rounds, and their ratios.
type report struct {
	options options
	machine machine
	figures []figure
	rows    []row
	begin   time.Time
	took    time.Duration
}

// quantity is one thing measured: a table of the report.
type quantity struct {
	title string
	// restart tells that it is a quantity of the restart alone; the others leave the
	// restart out.
	restart bool
	of      func(figure) float64
	show    func(float64) string
}

func duration(v float64) string { return short(time.Duration(v)) }

func quantities() []quantity {
	mib := func(v float64) string { return fmt.Sprintf("%.0f", v/(1<<20)) }
	return []quantity{
		{title: "Server CPU per operation", of: func(f figure) float64 { return float64(f.cpuPerOp()) }, show: duration},
		{title: "Latency, p50", of: func(f figure) float64 { return float64(f.p50) }, show: duration},
		{title: "Latency, p99", of: func(f figure) float64 { return float64(f.p99) }, show: duration},
		{title: "CPU of the load generator per operation, on the same cores", of: func(f figure) float64 { return float64(f.load) / float64(f.ops) }, show: duration},
		{title: "Operations per second", of: figure.perSecond, show: func(v float64) string { return fmt.Sprintf("%.0f", v) }},
		{title: "Peak resident memory of the row, MiB (pages of the mapped file included)", of: func(f figure) float64 { return float64(f.mem.peak) }, show: mib},
		{title: "Anonymous memory after the row, MiB", of: func(f figure) float64 { return float64(f.mem.anonymous) }, show: mib},
		{title: "Restart: until /readyz answers 200", restart: true, of: func(f figure) float64 { return float64(f.ready) }, show: duration},
		{title: "Restart: until the first linearizable read is answered", restart: true, of: func(f figure) float64 { return float64(f.p50) }, show: duration},
		{title: "Restart: CPU until quiet", restart: true, of: func(f figure) float64 { return float64(f.cpu) }, show: duration},
		{title: "Restart: resident memory after, MiB (pages of the mapped file included)", restart: true, of: func(f figure) float64 { return float64(f.mem.resident) }, show: mib},
		{title: "Restart: anonymous memory after, MiB", restart: true, of: func(f figure) float64 { return float64(f.mem.anonymous) }, show: mib},
		{title: "Restart: peak resident memory, MiB", restart: true, of: func(f figure) float64 { return float64(f.mem.peak) }, show: mib},
	}
}

// values are a quantity of one row on one server, by round.
func (r report) values(rowName, server string, of func(figure) float64) []float64 {
	var v []float64
	for _, f := range r.figures {
		if f.row == rowName && f.server == server {
			v = append(v, of(f))
		}
	}
	return v
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// quiet tells how much of the machine went elsewhere while rows were measured.
func (r report) quiet() string {
	var foreign, stolen []float64
	for _, f := range r.figures {
		if f.load > 0 {
			whole := f.took.Seconds() * float64(runtime.NumCPU()) / 100
			foreign, stolen = append(foreign, f.foreign.Seconds()/whole), append(stolen, f.stolen.Seconds()/whole)
		}
	}
	if len(foreign) == 0 {
		return ""
	}
	return fmt.Sprintf("- all other processes, the idle server and the kernel's threads among them, took %.0f %% of the cores' time in the median row and %.0f %% in the worst; the hypervisor %.0f %% and %.0f %%\n",
		median(foreign), slices.Max(foreign), median(stolen), slices.Max(stolen))
}

// ratio prints a ratio, small ones with two digits that say something.
func ratio(v float64) string {
	if v < 0.095 {
		return fmt.Sprintf("%.2g", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// table is one quantity as a Markdown table, or nothing if no row has it. The ratio is that of the medians; the
// spread is the smallest and largest ratio of one round.
func (r report) table(q quantity) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n| row | etcd | shim | shim / etcd | rounds |\n|---|---:|---:|---:|---|\n", q.title)
	n := 0
	for _, row := range r.rows {
		if row.restart != q.restart {
			continue
		}
		n++
		etcd, shim := r.values(row.name, "etcd", q.of), r.values(row.name, "shim", q.of)
		cells := []string{row.name, "-", "-", "-", "-"}
		if len(etcd) > 0 {
			cells[1] = q.show(median(etcd))
		}
		if len(shim) > 0 {
			cells[2] = q.show(median(shim))
		}
		if len(etcd) > 0 && len(etcd) == len(shim) && median(etcd) > 0 {
			cells[3] = ratio(median(shim) / median(etcd))
			var ratios []float64
			for i := range etcd {
				ratios = append(ratios, shim[i]/max(etcd[i], 1e-9))
			}
			cells[4] = ratio(slices.Min(ratios)) + " to " + ratio(slices.Max(ratios))
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	if n == 0 {
		return ""
	}
	return b.String() + "\n"
}

// tables are all quantities.
func (r report) tables() string {
	var b strings.Builder
	for _, q := range quantities() {
		b.WriteString(r.table(q))
	}
	return b.String()
}

// markdown is the whole report.
func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# shim beside etcd 3.7.3\n\nWritten by `make bench`; [NOTES.md](NOTES.md) tells what the rows mean and where the time goes.\n\n")
	fmt.Fprintf(&b, "- %s; %s for %d rounds, each row %s a server after a warm-up; seed %d\n",
		r.begin.UTC().Format("2006-01-02 15:04 UTC"), r.took.Round(time.Second), r.options.rounds, r.options.duration, r.options.seed)
	b.WriteString(r.machine.text())
	b.WriteString(r.quiet())
	fmt.Fprintf(&b, "- flags of both servers: %s; everything else as shipped\n", "`--name --data-dir --listen-client-urls --advertise-client-urls --listen-peer-urls --initial-advertise-peer-urls --initial-cluster`")
	s := r.options.sizes
	fmt.Fprintf(&b, "- data: %d keys of 1 KiB, %d keys of 256 B under one prefix, %d of 256 B under %d others, %d in all at the restart; laid in random order, each updated 0 to %d times\n",
		s.list, s.paged, s.others, len(otherPrefixes), s.restart, maxUpdates)
	if r.options.profiles != "" {
		b.WriteString("- profiles were taken: these figures are not for comparison\n")
	}
	if r.options.smoke {
		b.WriteString("- smoke run: tiny sizes, one round; these figures mean nothing\n")
	}
	fmt.Fprintf(&b, "\nMedians over the rounds. The ratio is that of the medians; \"rounds\" is the range of the ratios round by round. Below 1, shim takes less (of operations per second: does less).\n\n%s", r.tables())
	return b.String()
}
