package main

import (
	"fmt"
	"os"
	"slices"
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
	// refused: the flag is an error, since going on without it would be less
	// secure, or another cluster, than the operator asked for.
	refused
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

const (
	groupMember     = "Member"
	groupCluster    = "Clustering"
	groupSecurity   = "Security"
	groupAuth       = "Auth"
	groupMonitoring = "Profiling and monitoring"
	groupLogging    = "Logging"
	groupTracing    = "Distributed tracing"
	groupFeatures   = "Features"
	groupUnsafe     = "Unsafe"
	groupShim       = "shim"
)

const (
	whyOneMember = "this build serves one member"
	whyNoTLS     = "TLS is not built yet, and serving without it is not what was asked for"
	whyNoAuth    = "authentication is not built yet"
	whyNoPeerTLS = "there are no peers to talk to: this build serves one member"
	whyBbolt     = "the store flushes by its own bounds"
	whyDiscovery = "discovery is not offered; name the members"
)

// flagSpecs are all flags, in the order of the help text.
var flagSpecs = []flagSpec{
	{groupShim, "backend", "raftbolt", works, "Where the data is kept: raftbolt, configured by the flags below, or a URL such as memory:// or etcd://127.0.0.1:2379."},

	{groupMember, "name", "default", works, "Human-readable name of this member."},
	{groupMember, "data-dir", "", works, "Data directory. (default: ${name}.etcd)"},
	{groupMember, "wal-dir", "", works, "Directory of the log, when it is not inside the data directory."},
	{groupMember, "listen-client-urls", "http://127.0.0.1:2379", works, "URLs to serve clients on, gRPC and HTTP together."},
	{groupMember, "quota-backend-bytes", int64(0), works, "Size in bytes at which the store raises the NOSPACE alarm. (0: 2 GiB)"},
	{groupMember, "snapshot-count", uint64(10000), inert, "the log is cut when the store is synced"},
	{groupMember, "heartbeat-interval", uint64(100), works, "Milliseconds between heartbeats."},
	{groupMember, "election-timeout", uint64(1000), works, "Milliseconds without a heartbeat after which an election begins."},
	{groupMember, "max-txn-ops", uint64(128), works, "Largest number of operations in one transaction."},
	{groupMember, "max-request-bytes", uint64(1572864), works, "Largest request in bytes."},
	{groupMember, "max-concurrent-streams", uint64(4294967295), works, "Largest number of streams at a time on one connection."},
	{groupMember, "grpc-keepalive-min-time", 5 * time.Second, works, "Shortest time between two pings of a client."},
	{groupMember, "grpc-keepalive-interval", 2 * time.Hour, works, "Time between pings to a silent client. (0: 2h)"},
	{groupMember, "grpc-keepalive-timeout", 20 * time.Second, works, "Time after an unanswered ping at which the connection is closed."},
	{groupMember, "initial-election-tick-advance", true, inert, "a single voter does not wait for an election"},
	{groupMember, "listen-peer-urls", "http://localhost:2380", inert, whyOneMember},
	{groupMember, "listen-client-http-urls", "", refused, "HTTP and gRPC are served together on --listen-client-urls"},
	{groupMember, "max-snapshots", uint64(5), inert, "there are no snapshot files: the store is the snapshot"},
	{groupMember, "max-wals", uint64(5), inert, "the log recycles its own files"},
	{groupMember, "memory-mlock", false, inert, "pages are not locked in memory"},
	{groupMember, "backend-bbolt-freelist-type", "map", inert, whyBbolt},
	{groupMember, "backend-batch-interval", time.Duration(0), inert, whyBbolt},
	{groupMember, "backend-batch-limit", int64(0), inert, whyBbolt},
	{groupMember, "socket-reuse-port", false, inert, "not built yet"},
	{groupMember, "socket-reuse-address", false, inert, "not built yet"},
	{groupMember, "enable-grpc-gateway", true, inert, "the JSON gateway is not built yet"},
	{groupMember, "raft-read-timeout", 5 * time.Second, inert, whyOneMember},
	{groupMember, "raft-write-timeout", 5 * time.Second, inert, whyOneMember},
	{groupMember, "feature-gates", "", inert, "there are no feature gates yet"},
	{groupMember, "config-file", "", refused, "configuration files are not built yet"},

	{groupCluster, "advertise-client-urls", "", works, "Client URLs to tell to others. (default: those of --listen-client-urls)"},
	{groupCluster, "initial-advertise-peer-urls", "http://localhost:2380", works, "Peer URLs of this member; with the token they make the member's and the cluster's id."},
	{groupCluster, "initial-cluster", "", works, "The founding members; only this one for now. (default: ${name}=${initial-advertise-peer-urls})"},
	{groupCluster, "initial-cluster-token", "etcd-cluster", works, "Token of the cluster, part of its id."},
	{groupCluster, "auto-compaction-mode", "periodic", works, "How to read --auto-compaction-retention: periodic or revision."},
	{groupCluster, "auto-compaction-retention", "0", works, "History to keep: a duration (hours when without a unit), or a number of revisions. (0: off)"},
	{groupCluster, "initial-cluster-state", "new", inert, whyOneMember},
	{groupCluster, "strict-reconfig-check", true, inert, whyOneMember},
	{groupCluster, "pre-vote", true, inert, "pre-vote is always on"},
	{groupCluster, "v2-deprecation", "write-only-drop-data", inert, "there is no v2 store"},
	{groupCluster, "discovery", "", refused, whyDiscovery},
	{groupCluster, "discovery-token", "", refused, whyDiscovery},
	{groupCluster, "discovery-endpoints", "", refused, whyDiscovery},
	{groupCluster, "discovery-dial-timeout", 2 * time.Second, inert, whyDiscovery},
	{groupCluster, "discovery-request-timeout", 5 * time.Second, inert, whyDiscovery},
	{groupCluster, "discovery-keepalive-time", 2 * time.Second, inert, whyDiscovery},
	{groupCluster, "discovery-keepalive-timeout", 6 * time.Second, inert, whyDiscovery},
	{groupCluster, "discovery-insecure-transport", true, inert, whyDiscovery},
	{groupCluster, "discovery-insecure-skip-tls-verify", false, inert, whyDiscovery},
	{groupCluster, "discovery-cert", "", inert, whyDiscovery},
	{groupCluster, "discovery-key", "", inert, whyDiscovery},
	{groupCluster, "discovery-cacert", "", inert, whyDiscovery},
	{groupCluster, "discovery-user", "", inert, whyDiscovery},
	{groupCluster, "discovery-password", "", inert, whyDiscovery},
	{groupCluster, "discovery-fallback", "exit", inert, whyDiscovery},
	{groupCluster, "discovery-proxy", "", inert, whyDiscovery},
	{groupCluster, "discovery-srv", "", refused, whyDiscovery},
	{groupCluster, "discovery-srv-name", "", inert, whyDiscovery},

	{groupSecurity, "cert-file", "", refused, whyNoTLS},
	{groupSecurity, "key-file", "", refused, whyNoTLS},
	{groupSecurity, "client-cert-auth", false, refused, whyNoTLS},
	{groupSecurity, "client-cert-file", "", refused, whyNoTLS},
	{groupSecurity, "client-key-file", "", refused, whyNoTLS},
	{groupSecurity, "client-crl-file", "", refused, whyNoTLS},
	{groupSecurity, "client-cert-allowed-hostname", "", refused, whyNoTLS},
	{groupSecurity, "trusted-ca-file", "", refused, whyNoTLS},
	{groupSecurity, "auto-tls", false, refused, whyNoTLS},
	{groupSecurity, "peer-cert-file", "", inert, whyNoPeerTLS},
	{groupSecurity, "peer-key-file", "", inert, whyNoPeerTLS},
	{groupSecurity, "peer-client-cert-auth", false, inert, whyNoPeerTLS},
	{groupSecurity, "peer-client-cert-file", "", inert, whyNoPeerTLS},
	{groupSecurity, "peer-client-key-file", "", inert, whyNoPeerTLS},
	{groupSecurity, "peer-trusted-ca-file", "", inert, whyNoPeerTLS},
	{groupSecurity, "peer-cert-allowed-cn", "", inert, whyNoPeerTLS},
	{groupSecurity, "peer-cert-allowed-hostname", "", inert, whyNoPeerTLS},
	{groupSecurity, "peer-auto-tls", false, inert, whyNoPeerTLS},
	{groupSecurity, "peer-crl-file", "", inert, whyNoPeerTLS},
	{groupSecurity, "peer-skip-client-san-verification", false, inert, whyNoPeerTLS},
	{groupSecurity, "self-signed-cert-validity", uint64(1), inert, "TLS is not built yet"},
	{groupSecurity, "cipher-suites", "", inert, "TLS is not built yet"},
	{groupSecurity, "tls-min-version", "TLS1.2", inert, "TLS is not built yet"},
	{groupSecurity, "tls-max-version", "", inert, "TLS is not built yet"},
	{groupSecurity, "cors", "*", inert, "the JSON gateway is not built yet"},
	{groupSecurity, "host-whitelist", "*", refused, "the host check is not built yet"},

	{groupAuth, "auth-token", "simple", inert, whyNoAuth},
	{groupAuth, "bcrypt-cost", uint64(10), inert, whyNoAuth},
	{groupAuth, "auth-token-ttl", uint64(300), inert, whyNoAuth},

	{groupMonitoring, "listen-metrics-urls", "", works, "Further URLs that serve /metrics, /health, /livez and /readyz."},
	{groupMonitoring, "enable-pprof", false, inert, "profiles over HTTP are not built yet"},
	{groupMonitoring, "metrics", "basic", inert, "there is one set of metrics so far"},

	{groupLogging, "logger", "zap", works, "Only zap."},
	{groupLogging, "log-outputs", "default", works, "Where to log: default or stderr, stdout, or file paths; comma-separated."},
	{groupLogging, "log-level", "info", works, "debug, info, warn, error, panic or fatal."},
	{groupLogging, "log-format", "json", works, "json or console."},
	{groupLogging, "warning-unary-request-duration", 300 * time.Millisecond, works, "A request that takes longer is logged."},
	{groupLogging, "enable-log-rotation", false, inert, "log rotation is not built yet"},
	{groupLogging, "log-rotation-config-json", `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`, inert, "log rotation is not built yet"},

	{groupTracing, "enable-distributed-tracing", false, inert, "tracing is not built yet"},
	{groupTracing, "distributed-tracing-address", "localhost:4317", inert, "tracing is not built yet"},
	{groupTracing, "distributed-tracing-service-name", "etcd", inert, "tracing is not built yet"},
	{groupTracing, "distributed-tracing-instance-id", "", inert, "tracing is not built yet"},
	{groupTracing, "distributed-tracing-sampling-rate", int64(0), inert, "tracing is not built yet"},

	{groupFeatures, "watch-progress-notify-interval", 10 * time.Minute, works, "Time between progress notifications of watches that asked for them."},
	{groupFeatures, "compaction-batch-limit", int64(1000), works, "Largest number of records deleted in one batch of a compaction."},
	{groupFeatures, "compaction-sleep-interval", 10 * time.Millisecond, works, "Pause between two batches of a compaction."},
	{groupFeatures, "snapshot-catchup-entries", uint64(5000), works, "Number of log entries to keep for followers that lag."},
	{groupFeatures, "warning-apply-duration", 100 * time.Millisecond, inert, "slow applies are not logged yet"},
	{groupFeatures, "corrupt-check-time", time.Duration(0), inert, whyOneMember},
	{groupFeatures, "compact-hash-check-time", time.Minute, inert, whyOneMember},
	{groupFeatures, "bootstrap-defrag-threshold-megabytes", uint64(0), inert, "the store is not defragmented at start"},
	{groupFeatures, "max-learners", int64(1), inert, whyOneMember},
	{groupFeatures, "downgrade-check-time", 5 * time.Second, inert, whyOneMember},

	{groupUnsafe, "unsafe-no-fsync", false, works, "Do not wait for the disk. Acknowledged writes are lost when the machine fails."},
	{groupUnsafe, "force-new-cluster", false, inert, whyOneMember},
}

// envName is the environment variable of a flag: ETCD_DATA_DIR for data-dir.
func envName(flag string) string {
	return "ETCD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// cliFlags makes the flags of flagSpecs. shim's own have no environment variable
// of etcd's name space.
func cliFlags() []cli.Flag {
	flags := make([]cli.Flag, 0, len(flagSpecs))
	for _, s := range flagSpecs {
		env := []string{envName(s.name)}
		if s.group == groupShim {
			env = []string{"SHIM_" + strings.ToUpper(s.name)}
		}
		usage := s.usage
		switch s.effect {
		case inert:
			usage = "No effect: " + s.usage + "."
		case refused:
			usage = "Refused: " + s.usage + "."
		}
		switch v := s.value.(type) {
		case string:
			flags = append(flags, &cli.StringFlag{Name: s.name, Value: v, Usage: usage, Category: s.group, EnvVars: env})
		case bool:
			flags = append(flags, &cli.BoolFlag{Name: s.name, Value: v, Usage: usage, Category: s.group, EnvVars: env})
		case int64:
			flags = append(flags, &cli.Int64Flag{Name: s.name, Value: v, Usage: usage, Category: s.group, EnvVars: env})
		case uint64:
			flags = append(flags, &cli.Uint64Flag{Name: s.name, Value: v, Usage: usage, Category: s.group, EnvVars: env})
		case time.Duration:
			flags = append(flags, &cli.DurationFlag{Name: s.name, Value: v, Usage: usage, Category: s.group, EnvVars: env})
		default:
			panic(fmt.Sprintf("flag %s has a default of type %T", s.name, v))
		}
	}
	return flags
}

// refusedFlags names each refused flag that was set to something that asks for
// more than its default, with the reason.
func refusedFlags(c *cli.Context) []string {
	var faults []string
	for _, s := range flagSpecs {
		if s.effect == refused && c.IsSet(s.name) && c.Value(s.name) != s.value {
			faults = append(faults, fmt.Sprintf("--%s: %s", s.name, s.usage))
		}
	}
	return faults
}

// inertFlags names each flag without effect that was set to something else than
// its default.
func inertFlags(c *cli.Context) []flagSpec {
	var set []flagSpec
	for _, s := range flagSpecs {
		if s.effect == inert && c.IsSet(s.name) && c.Value(s.name) != s.value {
			set = append(set, s)
		}
	}
	return set
}

// unknownEnvironment names the ETCD_ variables that no flag reads. They are not
// an error: service links and ETCD_VERIFY look like that.
func unknownEnvironment(environ []string) []string {
	var unknown []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "ETCD_") && !slices.ContainsFunc(flagSpecs, func(s flagSpec) bool { return envName(s.name) == name }) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// shadowedEnvironment names the variables whose flag is given on the command
// line, which wins.
func shadowedEnvironment(args []string) []string {
	var shadowed []string
	for _, s := range flagSpecs {
		if _, set := os.LookupEnv(envName(s.name)); set && onCommandLine(args, s.name) {
			shadowed = append(shadowed, envName(s.name))
		}
	}
	return shadowed
}

func onCommandLine(args []string, flag string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		return strings.HasPrefix(a, "-") && name == flag
	})
}
