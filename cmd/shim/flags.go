package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// effect tells what setting a flag of etcd's does in this build.
type effect int

const (
	// works: the flag does what it does in etcd.
	works effect = iota
	// inert: the flag is accepted with a warning, since leaving it out changes
	// nothing that a client could notice.
	inert
	// clusters: the flag is accepted with a warning; it will matter once there is
	// more than one member.
	clusters
	// refused: the flag is an error, since going on without it would be less
	// secure, or another cluster, than the operator asked for.
	refused
	// dropped: etcd itself accepts the flag and ignores it. It is not in the help.
	dropped
)

// flagSpec is one command-line flag. The names, defaults and environment
// variables are those of etcd 3.7.3 (server/embed/config.go), save for the group
// "shim".
type flagSpec struct {
	group string
	name  string
	// value is the default, and its type the flag's: string, bool, int64, uint64
	// or time.Duration.
	value  any
	effect effect
	// usage tells what it does; of an inert or refused flag, why it does not.
	usage string
}

// why is the reason that a flag which does not work is told with.
func (s flagSpec) why() string {
	switch s.effect {
	case clusters:
		return whyOneMember
	case dropped:
		return whyDropped
	}
	return s.usage
}

// envName is the environment variable of a flag: ETCD_DATA_DIR for data-dir.
// shim's own flags have none of etcd's name space.
func (s flagSpec) envName() string {
	prefix := "ETCD_"
	if s.group == groupShim {
		prefix = "SHIM_"
	}
	return prefix + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// flagDefault is the default of a flag of flagSpecs.
func flagDefault(name string) any {
	return flagSpecs[slices.IndexFunc(flagSpecs, func(s flagSpec) bool { return s.name == name })].value
}

// origin tells where a value comes from.
type origin int

const (
	byDefault origin = iota
	byFlag
	byEnvironment
	byFile
)

// flagValue is the value of a flag. It is a flag.Value, through which the command
// line sets it.
type flagValue struct {
	spec  flagSpec
	value any
	from  origin
}

// Set takes a value from the command line.
func (v *flagValue) Set(text string) error { return v.set(text, byFlag) }

// String is the value as it would be typed.
func (v *flagValue) String() string {
	if v == nil || v.value == nil { // package flag asks the zero value
		return ""
	}
	return fmt.Sprint(v.value)
}

// IsBoolFlag lets package flag take --name for --name=true.
func (v *flagValue) IsBoolFlag() bool {
	_, is := v.spec.value.(bool)
	return is || v.spec.effect == dropped
}

// set reads text as the flag's type and syntax demand.
func (v *flagValue) set(text string, from origin) error {
	if v.spec.effect == dropped {
		v.from = from
		return nil
	}
	if check, ok := flagSyntax[v.spec.name]; ok {
		if err := check(text); err != nil {
			return err
		}
	}
	value, err := parseAs(v.spec.value, text)
	if err != nil {
		return err
	}
	if _, urls := urlFlags[v.spec.name]; urls && text == "" {
		value = v.spec.value // as in etcd, an empty list of URLs is the default's
	}
	v.value, v.from = value, from
	return nil
}

// parseAs reads text as the type of like.
func parseAs(like any, text string) (value any, err error) {
	switch like.(type) {
	case string:
		return text, nil
	case bool:
		value, err = strconv.ParseBool(text)
	case int64:
		value, err = strconv.ParseInt(text, 0, 64)
	case uint64:
		value, err = strconv.ParseUint(text, 0, 64)
	case time.Duration:
		value, err = time.ParseDuration(text)
	default:
		panic(fmt.Sprintf("a default of type %T", like))
	}
	if numeric, ok := errors.AsType[*strconv.NumError](err); ok {
		err = numeric.Err // it repeats the value
	}
	return value, err
}

// flagSyntax checks the text of flags whose syntax their type does not tell. As
// in etcd, a fault ends the program as a wrong command line does.
var flagSyntax = map[string]func(text string) error{
	"feature-gates":          func(text string) error { _, err := parseGates(text); return err },
	"initial-cluster-state":  oneOf("new", "existing"),
	"discovery-fallback":     oneOf("exit", "proxy"),
	"v2-deprecation":         oneOf("not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"),
	"max-concurrent-streams": func(text string) error { _, err := strconv.ParseUint(text, 0, 32); return err },
	"cors": func(text string) error {
		if text == "*" {
			return nil
		}
		_, err := parseURLs(text)
		return err
	},
	// etcd 3.7's help lists these, its parser does not know them.
	"discovery": notOfferedFlag, "discovery-proxy": notOfferedFlag,
	"listen-client-urls": urlSyntax, "listen-client-http-urls": urlSyntax, "listen-metrics-urls": urlSyntax, "listen-peer-urls": urlSyntax,
	"initial-advertise-peer-urls": urlSyntax, "advertise-client-urls": urlSyntax,
}

// urlFlags are the flags that take a list of URLs.
var urlFlags = map[string]struct{}{
	"listen-client-urls": {}, "listen-client-http-urls": {}, "listen-metrics-urls": {}, "listen-peer-urls": {},
	"initial-advertise-peer-urls": {}, "advertise-client-urls": {},
}

func urlSyntax(text string) error {
	if text == "" {
		return nil
	}
	_, err := parseURLs(text)
	return err
}

func notOfferedFlag(string) error { return errors.New(whyDiscovery) }

func oneOf(names ...string) func(string) error {
	return func(text string) error {
		if !slices.Contains(names, text) {
			return fmt.Errorf("invalid value (%s)", strings.Join(names, ", "))
		}
		return nil
	}
}

// settings are the values of all flags, in the order of flagSpecs.
type settings struct {
	values []*flagValue
	byName map[string]*flagValue
	// allowedCNs are the common names of clients, which only a file can name.
	allowedCNs flagValue
	// file is the configuration file that was read, empty without one. unknown are
	// its keys that mean nothing, and ignored the flags that it made void.
	file             string
	unknown, ignored []string
	// strange are ETCD_ variables that no flag reads; used are those that were read.
	strange, used []string
}

func newSettings() *settings {
	s := &settings{
		byName:     make(map[string]*flagValue, len(flagSpecs)),
		allowedCNs: flagValue{spec: flagSpec{name: fileAllowedCN, value: "", effect: works}, value: ""},
	}
	for _, spec := range flagSpecs {
		v := &flagValue{spec: spec, value: spec.value}
		s.values = append(s.values, v)
		s.byName[spec.name] = v
	}
	return s
}

// cliFlags are the flags for the command line's parser, which sets s.
func (s *settings) cliFlags() []cli.Flag {
	var flags []cli.Flag
	for _, v := range s.values {
		flags = append(flags, &cli.GenericFlag{Name: v.spec.name, Value: v, Hidden: v.spec.effect == dropped, Usage: v.spec.usage, Category: v.spec.group})
	}
	return append(flags, &cli.BoolFlag{Name: "version", Usage: "Print the version and exit.", DisableDefaultText: true})
}

// complete adds the environment, or the configuration file, to what the command
// line said. As in etcd (etcdmain/config.go, parse), a file makes flags and
// environment void, all of them; a variable whose flag is given, too, is an error.
func (s *settings) complete(environ []string) error {
	variables := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		variables[name] = value
	}
	file := s.byName["config-file"]
	if file.from == byDefault && variables[file.spec.envName()] != "" {
		if err := file.set(variables[file.spec.envName()], byEnvironment); err != nil {
			return err
		}
	}
	if path := file.String(); path != "" {
		return s.readFile(path)
	}
	return s.readEnvironment(variables)
}

func (s *settings) readEnvironment(variables map[string]string) error {
	var faults []error
	known := map[string]bool{}
	for _, v := range s.values {
		name := v.spec.envName()
		known[name] = true
		text, present := variables[name]
		switch {
		case present && v.from == byFlag:
			faults = append(faults, fmt.Errorf("%s is shadowed by the flag --%s: unset the variable or leave out the flag", name, v.spec.name))
		case text != "":
			if err := v.set(text, byEnvironment); err != nil {
				faults = append(faults, fmt.Errorf("invalid value %q for %s: %w", text, name, err))
			}
			s.used = append(s.used, name)
		}
	}
	for name := range variables {
		if strings.HasPrefix(name, "ETCD_") && !known[name] {
			s.strange = append(s.strange, name)
		}
	}
	slices.Sort(s.strange)
	return errors.Join(faults...)
}

// changed are the flags that were set to something else than their default.
func (s *settings) changed(effects ...effect) []*flagValue {
	var found []*flagValue
	for _, v := range s.values {
		if slices.Contains(effects, v.spec.effect) && v.from != byDefault && (v.value != v.spec.value || v.spec.effect == dropped) {
			found = append(found, v)
		}
	}
	return found
}

// The value of a flag, by its name; a name or type that is not in flagSpecs is a
// mistake of the program.
func (s *settings) text(name string) string            { return s.byName[name].value.(string) }
func (s *settings) truth(name string) bool             { return s.byName[name].value.(bool) }
func (s *settings) integer(name string) int64          { return s.byName[name].value.(int64) }
func (s *settings) natural(name string) uint64         { return s.byName[name].value.(uint64) }
func (s *settings) duration(name string) time.Duration { return s.byName[name].value.(time.Duration) }
func (s *settings) isSet(name string) bool             { return s.byName[name].from != byDefault }
func (s *settings) milliseconds(n string) time.Duration {
	return time.Duration(min(s.natural(n), 1<<40)) * time.Millisecond
}

// list is a flag's comma-separated values, each once, sorted, as etcd's logs and
// member lists have them.
func (s *settings) list(name string) []string {
	text := s.text(name)
	if text == "" {
		return nil
	}
	values := strings.Split(text, ",")
	slices.Sort(values)
	return slices.Compact(values)
}
