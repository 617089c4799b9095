package etcd

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/e2e/etcd/process"
)

// ctlScript is a script of turns about some of etcdctl's subcommands.
type ctlScript struct {
	name  string
	turns func() []turn
	// flags are given to both servers.
	flags []string
}

// ctlScripts are all there are.
func ctlScripts() []ctlScript {
	return []ctlScript{
		{name: "put", turns: putTurns}, {name: "get", turns: getTurns}, {name: "del", turns: delTurns}, {name: "txn", turns: txnTurns},
		{name: "watch", turns: watchTurns, flags: []string{"--watch-progress-notify-interval", "1s"}},
		{name: "lease", turns: leaseTurns}, {name: "maintenance", turns: maintenanceTurns}, {name: "snapshot", turns: snapshotTurns},
		{name: "global options", turns: globalTurns}, {name: "lock and elect", turns: concurrencyTurns}, {name: "make-mirror", turns: mirrorTurns},
		{name: "auth", turns: authTurns, flags: []string{"--bcrypt-cost", "4"}},
		{name: "member", turns: memberTurns}, {name: "downgrade", turns: downgradeTurns}, {name: "move-leader", turns: moveLeaderTurns},
		{name: "TLS", turns: tlsTurns, flags: []string{withTLS}}, {name: "check", turns: checkTurns},
	}
}

// ctlOneForm lists subcommands whose forms are not compared, and why.
func ctlOneForm() map[string]string {
	const local = "prints nothing of the server's"
	return map[string]string{
		"completion": local, "options": local, "help": local,
		"make-mirror": "prints a count each 30 s, in one form",
	}
}

// TestEtcdctl ensures that etcdctl prints the same about shim as about etcd.
func TestEtcdctl(t *testing.T) {
	for _, s := range ctlScripts() {
		t.Run(s.name, func(t *testing.T) { compare(t, s.turns(), s.flags...) })
	}
}

// ctlTree is what etcdctl has.
type ctlTree struct {
	// commands are the subcommands, with the flags of each.
	commands map[string][]string
	// global are the flags of all.
	global []string
}

// ctlUse is what turns have of one subcommand.
type ctlUse struct {
	turns   int
	flags   map[string]bool
	formats map[string]bool
}

// ctlTurns are the turns of all scripts that run etcdctl.
func ctlTurns() []turn {
	var all []turn
	for _, s := range ctlScripts() {
		for _, turn := range flattened(s.turns()) {
			if turn.call == nil && turn.command() == "etcdctl" {
				all = append(all, turn)
			}
		}
	}
	return all
}

// use is what turns have of each subcommand, and which flags any of them has.
func (tree ctlTree) use(turns []turn) (used map[string]*ctlUse, global map[string]bool) {
	used, global = map[string]*ctlUse{}, map[string]bool{}
	for c := range tree.commands {
		used[c] = &ctlUse{flags: map[string]bool{}, formats: map[string]bool{}}
	}
	for _, s := range turns {
		tree.note(used, global, s)
	}
	return used, global
}

// lacks are the subcommands, their flags and forms, and the global flags, that are in no
// turn, and the reasons in one that nothing needs.
func (tree ctlTree) lacks(turns []turn, one map[string]string) (found []string) {
	used, global := tree.use(turns)
	for name, own := range tree.commands {
		u := used[name]
		if u.turns == 0 {
			found = append(found, "etcdctl "+name+" is in no script")
			continue
		}
		for _, f := range own {
			if !u.flags[f] {
				found = append(found, "etcdctl "+name+" "+f+" is in no script")
			}
		}
		missing := slices.DeleteFunc(slices.Clone(everyFormat), func(f string) bool { return u.formats[f] })
		switch excused := one[name] != ""; {
		case len(missing) > 0 && !excused:
			found = append(found, fmt.Sprintf("etcdctl %s is in no script with -w %v", name, missing))
		case len(missing) == 0 && excused:
			found = append(found, "etcdctl "+name+" needs no reason: all forms of it are compared")
		}
	}
	for name := range one {
		if tree.commands[name] == nil {
			found = append(found, "etcdctl has no "+name+" that would need a reason")
		}
	}
	for _, f := range tree.global {
		if !global[f] {
			found = append(found, "the option "+f+" is in no script")
		}
	}
	slices.Sort(found)
	return found
}

// TestEtcdctlTable ensures that each subcommand of etcdctl 3.7.3, with each of its
// flags and forms, and each of the global flags, is in a script, or in a list with the
// reason, and prints the table. Etcdctl itself is asked what it has.
func TestEtcdctlTable(t *testing.T) {
	tree, turns, one := askCtlTree(t), ctlTurns(), ctlOneForm()
	for _, what := range tree.lacks(turns, one) {
		t.Error(what)
	}
	used, _ := tree.use(turns)
	for _, name := range slices.Sorted(maps.Keys(tree.commands)) {
		u := used[name]
		forms := slices.DeleteFunc(slices.Clone(everyFormat), func(f string) bool { return !u.formats[f] })
		fmt.Printf("%-24s %4d turns  %-36s %v %s\n", name, u.turns, strings.Join(forms, " "), tree.commands[name], one[name])
	}
	fmt.Printf("%d subcommands, %d turns; options of all: %v\n", len(tree.commands), len(turns), tree.global)
}

// TestEtcdctlTableNotices ensures that the table is found lacking without the turns of
// any one subcommand, of any one of its flags or forms, or of any one global flag, and
// with a reason that nothing needs.
func TestEtcdctlTableNotices(t *testing.T) {
	tree, turns, one := askCtlTree(t), ctlTurns(), ctlOneForm()
	without := func(drop func(name string, s turn) bool) []turn {
		return slices.DeleteFunc(slices.Clone(turns), func(s turn) bool { return drop(tree.name(s), s) })
	}
	expect := func(what string, turns []turn, one map[string]string) {
		t.Helper()
		if found := tree.lacks(turns, one); !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, what) }) {
			t.Errorf("%q is not noticed, but %q", what, found)
		}
	}
	planted := 0
	for name, own := range tree.commands {
		expect("etcdctl "+name+" is in no script", without(func(n string, _ turn) bool { return n == name }), one)
		for _, f := range own {
			expect("etcdctl "+name+" "+f+" is in no script", without(func(n string, s turn) bool { return n == name && s.flags()[f] }), one)
		}
		for _, f := range everyFormat {
			if one[name] == "" && slices.ContainsFunc(turns, func(s turn) bool { return tree.name(s) == name && s.form() != f }) {
				expect("etcdctl "+name+" is in no script with -w ["+f+"]", without(func(n string, s turn) bool { return n == name && s.form() == f }), one)
				planted++
			}
		}
		planted += 1 + len(own)
	}
	for _, f := range tree.global {
		expect("the option "+f, without(func(_ string, s turn) bool { return s.flags()[f] }), one)
	}
	for name := range one {
		less := maps.Clone(one)
		delete(less, name)
		expect("etcdctl "+name+" is in no script with", turns, less)
	}
	more := maps.Clone(one)
	more["get"], more["nothing"] = "a reason", "a reason"
	expect("etcdctl get needs no reason", turns, more)
	expect("etcdctl has no nothing", turns, more)
	fmt.Printf("noticed: %d turns or sets of turns left out\n", planted+len(tree.global)+len(one))
}

// TestEtcdctlNotices ensures that a difference between the two servers is seen in each
// form, on stdout, on stderr and in the exit code.
func TestEtcdctlNotices(t *testing.T) {
	sides := newSides(t)
	follow(t, sides, []turn{run("put a x")})
	if o, err := sides[1].run(t, run("put extra x")); err != nil || o.exit != 0 {
		t.Fatalf("put: %+v, %v", o, err)
	}
	follow(t, sides, []turn{run("get a"), run("watch a --rev=2").stopAt("x")}) // what is still the same
	for _, s := range inOrder(
		run("get a").formats("json", "fields", "protobuf"), run("get a -w protobuf").as(&pb.RangeResponse{}), run("get --prefix").with(""),
		run("endpoint hashkv").formats("simple", "json", "fields", "table"),
		run("get a --rev=3"), run("compaction 3"), run("txn").in("mod(\"extra\") > \"0\"\n\n\n\n"),
	) {
		title := fmt.Sprintf("%q", s.args)
		if got := outcomes(t, sides, s, title); got[0] == got[1] {
			t.Errorf("%s: not noticed: %+v", title, got[0])
		}
	}
}

// flattened are turns with those that are run meanwhile.
func flattened(turns []turn) []turn {
	var out []turn
	for _, s := range turns {
		out = append(out, s)
		out = append(out, flattened(s.during)...)
		if s.other != nil {
			out = append(out, *s.other)
		}
	}
	return out
}

// name is the subcommand that a turn runs; empty for a group of them, or none.
func (tree ctlTree) name(s turn) string {
	name := ""
	for _, a := range s.args {
		next := strings.TrimSpace(name + " " + a)
		if !tree.begins(next) {
			break
		}
		name = next
	}
	if tree.commands[name] == nil {
		return ""
	}
	return name
}

// begins tells whether words are a subcommand, or a group of them.
func (tree ctlTree) begins(words string) bool {
	group := words + " "
	for c := range tree.commands {
		if c == words || strings.HasPrefix(c, group) {
			return true
		}
	}
	return false
}

// shorthands are the flags with one letter.
func shorthands() map[string]string {
	return map[string]string{"-w": "--write-out", "-i": "--interactive", "-l": "--listen", "-d": "--discovery-srv"}
}

// flags are the flags that a turn has.
func (s turn) flags() map[string]bool {
	flags := map[string]bool{}
	for _, a := range s.args {
		flag, _, _ := strings.Cut(a, "=")
		if long := shorthands()[flag]; long != "" {
			flag = long
		}
		if flag == "--" {
			break
		}
		if strings.HasPrefix(flag, "--") {
			flags[flag] = true
		}
	}
	return flags
}

// note notes what a turn has.
func (tree ctlTree) note(used map[string]*ctlUse, global map[string]bool, s turn) {
	flags := s.flags()
	maps.Copy(global, flags)
	if u := used[tree.name(s)]; u != nil {
		u.turns++
		u.formats[s.form()] = true
		maps.Copy(u.flags, flags)
	}
}

// askCtlTree asks etcdctl what it has.
func askCtlTree(t *testing.T) ctlTree {
	t.Helper()
	tree := ctlTree{commands: map[string][]string{}, global: ctlGlobalFlags(t)}
	for _, name := range ctlCommands(t, nil) {
		tree.commands[name] = toolFlags(t, "etcdctl", name)
	}
	// What its README documents for 3.7 is more than that.
	if len(tree.commands) < fewestCommands {
		t.Fatalf("found %d subcommands: %v", len(tree.commands), slices.Sorted(maps.Keys(tree.commands)))
	}
	return tree
}

// fewestCommands and fewestGlobalFlags etcdctl has: were fewer found, the asking is wrong.
const (
	fewestCommands    = 45
	fewestGlobalFlags = 20
)

// completions are what a tool's own completion offers after some words: commands and
// flags, which have a description each, and not what an argument may be.
func completions(t *testing.T, tool string, words ...string) []string {
	t.Helper()
	out, err := exec.Command(process.Binary(t, tool), append([]string{"__complete"}, words...)...).Output()
	if err != nil {
		t.Fatalf("%s __complete %q: %v", tool, words, err)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if name, _, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok && !strings.HasPrefix(line, ":") || strings.HasPrefix(name, "--") {
			found = append(found, name)
		}
	}
	return found
}

// ctlCommands are the subcommands below some words, groups of them resolved.
func ctlCommands(t *testing.T, below []string) []string {
	t.Helper()
	var out []string
	for _, name := range completions(t, "etcdctl", append(slices.Clone(below), "")...) {
		words := append(slices.Clone(below), name)
		inner := []string(nil)
		if name != "help" { // it completes to all the others
			inner = ctlCommands(t, words)
		}
		if len(inner) == 0 {
			inner = []string{strings.Join(words, " ")}
		}
		out = append(out, inner...)
	}
	return out
}

// toolFlags are a subcommand's own flags; never nil.
func toolFlags(t *testing.T, tool, name string) []string {
	t.Helper()
	out := []string{}
	for _, f := range completions(t, tool, append(strings.Fields(name), "--")...) {
		if f = strings.TrimSuffix(f, "="); strings.HasPrefix(f, "--") && f != "--help" {
			out = append(out, f)
		}
	}
	return out
}

// ctlGlobalFlags are the flags of every command, as etcdctl options prints them.
func ctlGlobalFlags(t *testing.T) []string {
	t.Helper()
	text, err := exec.Command(process.Binary(t, "etcdctl"), "options").Output()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "--") {
				out = append(out, word)
				break
			}
		}
	}
	if len(out) < fewestGlobalFlags {
		t.Fatalf("found %d global flags in %s", len(out), text)
	}
	return out
}
