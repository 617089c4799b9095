package main

import (
	"fmt"
	"strings"
	"time"
)

const usageText = `Usage:

  shim [flags]
    Serve etcd's v3 API. Without flags: a single durable member on
    http://localhost:2379, data in ./default.etcd.
%s
  shim --version
    Show the versions of etcd's API and of shim.

  shim -h | --help
    Show this text.

Flags take one dash or two. Each may be given by the environment instead:
ETCD_DATA_DIR for --data-dir; both at once are an error. A configuration file
makes flags and environment void; in it durations are nanoseconds, as in etcd,
or texts such as 10m, and TLS files stand below client-transport-security and
peer-transport-security.
`

// helpText is what shim --help prints: commands, then flags under etcd's headings.
func helpText(commands []command) string {
	var b, list strings.Builder
	for _, c := range commands {
		fmt.Fprintf(&list, "\n  %s\n    %s\n", c.usage, c.about)
	}
	fmt.Fprintf(&b, usageText, list.String())
	for _, group := range groups {
		fmt.Fprintf(&b, "\n%s:\n", group)
		for _, s := range flagSpecs {
			if s.group != group {
				continue
			}
			fmt.Fprintf(&b, "  --%s '%s'\n    %s\n", s.name, shownDefault(s), shownUsage(s))
		}
	}
	b.WriteString("\nUnsafe features may lose data that was acknowledged.\n")
	return b.String()
}

// command is a line of the help text.
type command struct{ usage, about string }

// shownDefault is a default as etcd's help writes it.
func shownDefault(s flagSpec) string {
	switch s.name {
	case "data-dir":
		return "${name}.etcd"
	case "initial-cluster":
		return "default=http://localhost:2380"
	}
	if d, ok := s.value.(time.Duration); ok {
		return shortDuration(d)
	}
	return fmt.Sprint(s.value)
}

// shortDuration writes 2h for 2h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func shownUsage(s flagSpec) string {
	switch s.effect {
	case inert:
		return "No effect: " + s.usage + "."
	case refused:
		return "Refused: " + s.usage + "."
	case clusters:
		return s.usage + " (with clusters)"
	}
	return s.usage
}

// state is a flag's state in one word or two.
func (e effect) state() string {
	return [...]string{"works", "no effect", "with clusters", "refused", "ignored"}[e]
}

// flagTable is docs/FLAGS.md: every flag with its state.
func flagTable() string {
	var b strings.Builder
	b.WriteString("# Flags\n\n" +
		"`make docs` writes this page from the program's own list; a test compares that list with what etcd 3.7.3 prints.\n\n" +
		"*works*: as in etcd. *no effect*: accepted; setting it to something else than its default logs one warning with the reason. " +
		"*with clusters*: the same, until there is more than one member. *refused*: an error. *ignored*: etcd ignores it, too.\n\n" +
		"Each flag has an environment variable, `ETCD_DATA_DIR` for `--data-dir` (`SHIM_BACKEND` for `--backend`), and most have a key in `--config-file`.\n")
	for _, group := range append(groups[:len(groups):len(groups)], groupDropped) {
		fmt.Fprintf(&b, "\n## %s\n\n| flag | default | state | |\n|---|---|---|---|\n", group)
		for _, s := range flagSpecs {
			if s.group != group {
				continue
			}
			value := shownDefault(s)
			if value != "" {
				value = "`" + value + "`"
			}
			about := s.usage
			if s.effect != works && s.effect != clusters {
				about = strings.ToUpper(about[:1]) + about[1:] + "."
			}
			fmt.Fprintf(&b, "| `--%s` | %s | %s | %s |\n", s.name, value, s.effect.state(), strings.ReplaceAll(about, "|", `\|`))
		}
	}
	b.WriteString("\n## Feature gates\n\n`--feature-gates Name=true,…` takes etcd's names, `AllAlpha` and `AllBeta` too; any other is an error. None changes what shim does:\n\n" +
		"| gate | etcd's default | in shim |\n|---|---|---|\n")
	for _, g := range gateSpecs {
		fmt.Fprintf(&b, "| `%s` (%s) | %v | %s |\n", g.name, g.stage, g.enabled, strings.ToUpper(g.here[:1])+g.here[1:])
	}
	b.WriteString("\n## Not offered\n\n`shim gateway`, `shim grpc-proxy`, etcd's discovery service and the v2 store; each says so.\n")
	return b.String()
}

// unknownFlag is what to say of a flag that does not exist.
func unknownFlag(name string) error {
	if why, absent := absentFlags[name]; absent {
		return fmt.Errorf("unknown flag --%s: %s", name, why)
	}
	var names []string
	for _, s := range flagSpecs {
		if s.effect != dropped {
			names = append(names, s.name)
		}
	}
	return fmt.Errorf("unknown flag --%s%s", name, didYouMean(strings.TrimPrefix(name, "experimental-"), append(names, "version", "help"), "--"))
}

// didYouMean names what word was perhaps meant to be; empty when nothing is near.
func didYouMean(word string, known []string, prefix string) string {
	best, least := "", max(2, len(word)/3)+1
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s%s?)", prefix, best)
}

// editDistance is the least number of letters to insert, remove or replace to get
// from a to b. It takes at most 64 letters of each.
func editDistance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
