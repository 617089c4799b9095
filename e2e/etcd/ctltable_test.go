package etcd

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

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
	}
}

// ctlNotCompared lists subcommands, and flags of them, that no script has, and why.
func ctlNotCompared() map[string]string {
	const minute = "writes for a minute and prints how fast that was"
	return map[string]string{
		"check perf": minute, "check datascale": minute,
		"--discovery-srv": "asks a name server", "--discovery-srv-name": "asks a name server",
		"--debug":                     "prints the client's own settings and log, with addresses and times",
		"make-mirror --dest-user":     "the destination's authentication is asked for by the scripts of auth",
		"make-mirror --dest-password": "as --dest-user",
	}
}

// ctlOneFormat lists subcommands that print the same, or nothing, whatever -w says, or
// for which a form is not compared, and why.
func ctlOneFormat() map[string]string {
	const local = "does not print an answer of the server"
	return map[string]string{
		"lease revoke": "etcdctl 3.7.3 has no protobuf form of it: it prints an error with an address of its own memory",
		"completion":   local, "options": local, "help": local, "snapshot save": local, "make-mirror": local,
		"lock": "prints a get, which is compared in each form", "elect": "prints a get, which is compared in each form",
		"defrag":           "prints one line in each form",
		"watch":            "protobuf's form of a message that never ends cannot be cut; table is not supported by etcdctl",
		"member add":       "protobuf's form has the member's id, another on each side, in its bytes",
		"member update":    "as member add",
		"member remove":    "as member add",
		"member promote":   "as member add",
		"endpoint health":  "does not print an answer of the server in protobuf's form",
		"endpoint status":  "protobuf's form has sizes and positions in its bytes",
		"lease timetolive": "protobuf's form has the remaining time in its bytes",
		"lease grant":      "json, fields and protobuf have the id, another on each side; the id is compared where the client chooses it, by the oracle",
		"compaction":       "prints one line in each form",
	}
}

// TestEtcdctl ensures that etcdctl prints the same about shim as about etcd.
func TestEtcdctl(t *testing.T) {
	for _, s := range ctlScripts() {
		t.Run(s.name, func(t *testing.T) { compare(t, s.turns(), s.flags...) })
	}
}

// ctlUse is what scripts have of one subcommand.
type ctlUse struct {
	turns   int
	flags   map[string]bool
	formats map[string]bool
}

// TestEtcdctlTable ensures that each subcommand of etcdctl 3.7.3, and each of its
// flags and of the global ones, is in a script or in a list with the reason, and prints the
// table.
func TestEtcdctlTable(t *testing.T) {
	commands := ctlCommands(t, nil)
	used := map[string]*ctlUse{}
	for _, c := range commands {
		used[c] = &ctlUse{flags: map[string]bool{}, formats: map[string]bool{}}
	}
	global := map[string]bool{}
	for _, s := range ctlScripts() {
		for _, turn := range flattened(s.turns()) {
			if turn.call == nil && turn.command() == "etcdctl" {
				note(used, global, turn)
			}
		}
	}
	not, one := ctlNotCompared(), ctlOneFormat()
	for _, name := range commands {
		u := used[name]
		own := ctlFlags(t, name)
		if u.turns == 0 && not[name] == "" {
			t.Errorf("etcdctl %s is in no script", name)
		}
		for _, f := range own {
			if u.turns > 0 && !u.flags[f] && not[name+" "+f] == "" {
				t.Errorf("etcdctl %s %s is in no script", name, f)
			}
		}
		lacking := 0
		for _, f := range everyFormat {
			if !u.formats[f] {
				lacking++
			}
		}
		if u.turns > 0 && lacking > 0 && one[name] == "" {
			t.Errorf("etcdctl %s: forms compared are %v, want all", name, slices.Sorted(maps.Keys(u.formats)))
		}
		state := ""
		if u.turns == 0 {
			state = "NOT COMPARED: " + not[name]
		}
		fmt.Printf("%-26s %4d turns  %-34v %v %s\n", name, u.turns, slices.Sorted(maps.Keys(u.formats)), own, state)
	}
	for _, f := range ctlGlobalFlags(t) {
		if !global[f] && not[f] == "" {
			t.Errorf("the option %s is in no script", f)
		}
	}
	for name, why := range not {
		fmt.Printf("not compared: %s: %s\n", name, why)
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

// note notes what a turn has.
func note(used map[string]*ctlUse, global map[string]bool, s turn) {
	name := ""
	for _, a := range s.args {
		if next := strings.TrimSpace(name + " " + a); isPrefix(used, next) {
			name = next
			continue
		}
		break
	}
	u := used[name]
	if u == nil {
		return // a group of commands, or none
	}
	u.turns++
	format := "simple"
	for i, a := range s.args {
		flag, value, _ := strings.Cut(a, "=")
		switch flag {
		case "--":
			u.formats[format] = true
			return
		case "-w":
			flag = "--write-out"
			if i+1 < len(s.args) {
				format = s.args[i+1]
			}
		case "-i":
			flag = "--interactive"
		case "-l":
			flag = "--listen"
		case "--write-out":
			format = value
		}
		if strings.HasPrefix(flag, "--") {
			u.flags[flag], global[flag] = true, true
		}
	}
	u.formats[format] = true
}

func isPrefix(used map[string]*ctlUse, name string) bool {
	for c := range used {
		if c == name || strings.HasPrefix(c, name+" ") {
			return true
		}
	}
	return false
}

// completions are what etcdctl's own completion offers after some words.
func completions(t *testing.T, words ...string) []string {
	t.Helper()
	out, err := exec.Command(process.Binary(t, "etcdctl"), append([]string{"__complete"}, words...)...).Output()
	if err != nil {
		t.Fatalf("etcdctl __complete %q: %v", words, err)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if name, _, ok := strings.Cut(line, "\t"); ok && !strings.HasPrefix(line, ":") {
			found = append(found, name)
		}
	}
	return found
}

// ctlCommands are the subcommands below some words, groups of them resolved.
func ctlCommands(t *testing.T, below []string) []string {
	t.Helper()
	var out []string
	for _, name := range completions(t, append(slices.Clone(below), "")...) {
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

// ctlFlags are a subcommand's own flags.
func ctlFlags(t *testing.T, name string) []string {
	t.Helper()
	var out []string
	for _, f := range completions(t, append(strings.Fields(name), "--")...) {
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
	if len(out) < 15 {
		t.Fatalf("found %d global flags in %s", len(out), text)
	}
	return out
}
