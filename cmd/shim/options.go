package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
)

// options are the flags, read and checked.
type options struct {
	backend string

	name, dataDir, walDir string
	clusterToken          string
	peerURLs              []string
	advertiseClientURLs   []string
	// clientAddrs and metricsAddrs are host:port.
	clientAddrs  []string
	metricsAddrs []string

	heartbeat, election                   time.Duration
	quotaBytes                            int64
	catchupEntries                        uint64
	autoCompactionMode, autoCompactionArg string
	compactionBatch                       int64
	compactionSleep                       time.Duration
	unsafeNoFsync                         bool

	maxTxnOps                                         uint64
	maxRequestBytes                                   uint64
	maxStreams                                        uint64
	keepaliveMin, keepaliveInterval, keepaliveTimeout time.Duration
	progressNotify, slowRequest                       time.Duration
}

// parseOptions reads the flags and reports every fault at once.
func parseOptions(c *cli.Context) (options, error) {
	if c.Args().Present() {
		return options{}, fmt.Errorf("%q is not a flag or a command (shim --help lists the flags)", c.Args().First())
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, f := range refusedFlags(c) {
		fault("%s", f)
	}
	o := options{
		backend: c.String("backend"), name: c.String("name"), dataDir: c.String("data-dir"), walDir: c.String("wal-dir"),
		clusterToken:       c.String("initial-cluster-token"),
		heartbeat:          milliseconds(c.Uint64("heartbeat-interval")),
		election:           milliseconds(c.Uint64("election-timeout")),
		quotaBytes:         c.Int64("quota-backend-bytes"),
		catchupEntries:     c.Uint64("snapshot-catchup-entries"),
		autoCompactionMode: c.String("auto-compaction-mode"),
		autoCompactionArg:  c.String("auto-compaction-retention"),
		compactionBatch:    c.Int64("compaction-batch-limit"),
		compactionSleep:    c.Duration("compaction-sleep-interval"),
		unsafeNoFsync:      c.Bool("unsafe-no-fsync"),
		maxTxnOps:          c.Uint64("max-txn-ops"),
		maxRequestBytes:    c.Uint64("max-request-bytes"),
		maxStreams:         c.Uint64("max-concurrent-streams"),
		keepaliveMin:       c.Duration("grpc-keepalive-min-time"),
		keepaliveInterval:  c.Duration("grpc-keepalive-interval"),
		keepaliveTimeout:   c.Duration("grpc-keepalive-timeout"),
		progressNotify:     c.Duration("watch-progress-notify-interval"),
		slowRequest:        c.Duration("warning-unary-request-duration"),
	}
	if o.name == "" {
		fault("--name: must not be empty")
	}
	if o.dataDir == "" {
		o.dataDir = o.name + ".etcd"
	}
	if l := c.String("logger"); l != "zap" {
		fault("--logger: %q is not offered (zap)", l)
	}
	if o.election < 5*o.heartbeat {
		fault("--election-timeout: %v must be at least 5 times --heartbeat-interval, which is %v", o.election, o.heartbeat)
	}
	if o.maxStreams == 0 || o.maxStreams > 1<<32-1 {
		fault("--max-concurrent-streams: %d is not between 1 and %d", o.maxStreams, uint64(1<<32-1))
	}
	if o.heartbeat <= 0 || o.election > 50*time.Second {
		fault("--heartbeat-interval must be above 0 and --election-timeout at most 50000, they are %d and %d", c.Uint64("heartbeat-interval"), c.Uint64("election-timeout"))
	}
	clientURLs, err := splitURLs("listen-client-urls", c.String("listen-client-urls"))
	faults = append(faults, err)
	o.clientAddrs, err = addresses("listen-client-urls", clientURLs)
	faults = append(faults, err)
	metricsURLs, err := splitURLs("listen-metrics-urls", c.String("listen-metrics-urls"))
	faults = append(faults, err)
	o.metricsAddrs, err = addresses("listen-metrics-urls", metricsURLs)
	faults = append(faults, err)
	o.peerURLs, err = splitURLs("initial-advertise-peer-urls", c.String("initial-advertise-peer-urls"))
	faults = append(faults, err)
	if len(clientURLs) == 0 {
		fault("--listen-client-urls: at least one URL is needed")
	}
	advertise := c.String("advertise-client-urls")
	if advertise == "" {
		advertise = strings.Join(clientURLs, ",")
	}
	o.advertiseClientURLs, err = splitURLs("advertise-client-urls", advertise)
	faults = append(faults, err, checkInitialCluster(c.String("initial-cluster"), o.name, o.peerURLs))
	return o, errors.Join(faults...)
}

func milliseconds(n uint64) time.Duration { return time.Duration(min(n, 1<<40)) * time.Millisecond }

// splitURLs splits a list of URLs and checks what holds for all of etcd's: a
// scheme, a host and a port, and nothing after it.
func splitURLs(flag, list string) ([]string, error) {
	var urls []string
	for _, raw := range strings.Split(list, ",") {
		if raw = strings.TrimSpace(raw); raw == "" {
			continue
		}
		u, err := url.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
		switch u.Scheme {
		case "http", "https":
		case "unix", "unixs":
			return nil, fmt.Errorf("--%s: %q: unix sockets are not built yet", flag, raw)
		default:
			return nil, fmt.Errorf("--%s: %q must begin with http:// or https://", flag, raw)
		}
		if _, _, err := net.SplitHostPort(u.Host); err != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" {
			return nil, fmt.Errorf("--%s: %q must be of the form http://host:port", flag, raw)
		}
		urls = append(urls, u.Scheme+"://"+u.Host)
	}
	return urls, nil
}

// addresses turns URLs to listen on into host:port.
func addresses(flag string, urls []string) ([]string, error) {
	var addrs []string
	for _, raw := range urls {
		addr, plain := strings.CutPrefix(raw, "http://")
		if !plain {
			return nil, fmt.Errorf("--%s: %q: %s", flag, raw, whyNoTLS)
		}
		host, _, _ := net.SplitHostPort(addr)
		if host != "" && host != "localhost" && net.ParseIP(host) == nil {
			return nil, fmt.Errorf("--%s: %q: listen on an IP address or localhost, not on a domain name", flag, raw)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// checkInitialCluster holds --initial-cluster against this one member.
func checkInitialCluster(list, name string, peerURLs []string) error {
	if list == "" {
		return nil
	}
	members := map[string]bool{}
	found := false
	for _, entry := range strings.Split(list, ",") {
		member, u, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if !ok {
			return fmt.Errorf("--initial-cluster: %q must be of the form name=http://host:port", entry)
		}
		members[member] = true
		for _, p := range peerURLs {
			found = found || (member == name && strings.TrimSuffix(u, "/") == p)
		}
	}
	if len(members) > 1 {
		return fmt.Errorf("--initial-cluster: it names %d members, and %s", len(members), whyOneMember)
	}
	if !found {
		return fmt.Errorf("--initial-cluster: %q does not name this member, %s=%s (--name, --initial-advertise-peer-urls)", list, name, strings.Join(peerURLs, ","))
	}
	return nil
}

// warnings logs what the operator should know about flags and environment.
func warnings(c *cli.Context, log *zap.Logger) {
	for _, name := range unknownEnvironment(os.Environ()) {
		log.Warn("unrecognized environment variable", zap.String("environment-variable", name))
	}
	for _, name := range shadowedEnvironment(os.Args[1:]) {
		log.Warn("recognized environment variable, but unused: shadowed by corresponding flag", zap.String("environment-variable", name))
	}
	for _, s := range inertFlags(c) {
		log.Warn("flag has no effect", zap.String("flag", "--"+s.name), zap.String("reason", s.usage))
	}
	if b := c.String("backend"); b != defaultBackend {
		log.Info("using another backend than raftbolt: the flags of the data directory and the store do not apply")
	}
	if c.Bool("unsafe-no-fsync") {
		log.Warn("--unsafe-no-fsync: acknowledged writes are lost when this machine fails")
	}
}
