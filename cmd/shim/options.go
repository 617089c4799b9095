package main

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/internal/tlsconf"
)

// The bounds of --bcrypt-cost, bcrypt's own.
const (
	minBcryptCost = 4
	maxBcryptCost = 31
)

const (
	// largestRequest bounds --max-request-bytes, whatever it says: gRPC cannot carry
	// more than 2 GiB in one message.
	largestRequest = math.MaxInt32 - 1<<20
	// recommendedRequest is from where on etcd warns of --max-request-bytes
	// (etcdserver/server.go, recommendedMaxRequestBytes).
	recommendedRequest = 10 << 20
)

// options are the settings, checked.
type options struct {
	backend string

	name, dataDir, walDir string
	clusterToken          string
	initialCluster        string // as it was given
	joins                 bool   // an existing cluster
	peerURLs              []string
	clientURLs            []string // to listen on
	advertiseClientURLs   []string
	endpoints             []endpoint
	reusePort, reuseAddr  bool

	// tls is the clients' TLS; its files are empty when there is none, or autoTLS.
	tls           tlsconf.Config
	autoTLS       bool
	validityYears uint
	weakSuites    []string

	heartbeat, election                   time.Duration
	quotaBytes                            int64
	catchupEntries                        uint64
	autoCompactionMode, autoCompactionArg string
	compactionBatch                       int64
	compactionSleep                       time.Duration
	unsafeNoFsync                         bool
	maxLearners                           int64
	strictReconfig                        bool

	authToken                string
	bcryptCost, authTokenTTL uint64
	strangeCost              uint64 // a cost that bcrypt does not have, 0 for none

	maxTxnOps                                         uint64
	maxRequestBytes                                   uint64
	maxStreams                                        uint64
	maxConnections                                    int    // of clients, 0 for no bound
	maxFiles                                          uint64 // that may be open, 0 when it is not known
	keepaliveMin, keepaliveInterval, keepaliveTimeout time.Duration
	progressNotify, slowRequest                       time.Duration
	cors, hostWhitelist                               []string
	pprof, gateway, extensiveMetrics                  bool

	gates gates
}

// options checks the settings and reports every fault at once.
func (s *settings) options() (options, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, v := range s.changed(refused) {
		fault("--%s: %s", v.spec.name, v.spec.why())
	}
	o := options{
		backend: s.text("backend"), name: s.text("name"), dataDir: s.text("data-dir"), walDir: s.text("wal-dir"),
		clusterToken: s.text("initial-cluster-token"), initialCluster: s.text("initial-cluster"), joins: s.text("initial-cluster-state") == "existing",
		reusePort: s.truth("socket-reuse-port"), reuseAddr: s.truth("socket-reuse-address"),
		heartbeat: s.milliseconds("heartbeat-interval"), election: s.milliseconds("election-timeout"),
		quotaBytes: s.integer("quota-backend-bytes"), catchupEntries: s.natural("snapshot-catchup-entries"),
		autoCompactionMode: s.text("auto-compaction-mode"), autoCompactionArg: s.text("auto-compaction-retention"),
		compactionBatch: s.integer("compaction-batch-limit"), compactionSleep: s.duration("compaction-sleep-interval"),
		unsafeNoFsync: s.truth("unsafe-no-fsync"), maxLearners: s.integer("max-learners"), strictReconfig: s.truth("strict-reconfig-check"),
		authToken: s.text("auth-token"), bcryptCost: s.natural("bcrypt-cost"), authTokenTTL: s.natural("auth-token-ttl"),
		maxTxnOps: s.natural("max-txn-ops"), maxRequestBytes: s.natural("max-request-bytes"), maxStreams: s.natural("max-concurrent-streams"),
		keepaliveMin: s.duration("grpc-keepalive-min-time"), keepaliveInterval: s.duration("grpc-keepalive-interval"), keepaliveTimeout: s.duration("grpc-keepalive-timeout"),
		progressNotify: s.duration("watch-progress-notify-interval"), slowRequest: s.duration("warning-unary-request-duration"),
		cors: s.origins(), hostWhitelist: s.list("host-whitelist"), pprof: s.truth("enable-pprof") || s.text("log-level") == "debug", // as in etcd
		gateway:          s.truth("enable-grpc-gateway"),
		extensiveMetrics: s.text("metrics") == "extensive",
	}
	if o.bcryptCost < minBcryptCost || o.bcryptCost > maxBcryptCost {
		o.strangeCost, o.bcryptCost = o.bcryptCost, flagDefault("bcrypt-cost").(uint64) // as in etcd (auth/store.go, NewAuthStore)
	}
	if o.name == "" {
		fault("--name: must not be empty")
	}
	if o.dataDir == "" {
		o.dataDir = o.name + ".etcd"
	}
	if l := s.text("logger"); l != "zap" {
		fault("--logger: %q is not offered (zap)", l)
	}
	if d := s.duration("compact-hash-check-time"); d <= 0 {
		fault("--compact-hash-check-time: %v must be above 0", d)
	}
	o.keepalive()
	o.intervals()
	o.maxFiles = fileLimit()
	o.maxConnections = connectionsWithin(o.maxFiles)
	faults = append(faults, o.checkBounds(), s.readGates(&o), s.readURLs(&o), s.readTLS(&o))
	return o, errors.Join(faults...)
}

// keepalive fills in gRPC's own values, which hold in etcd where a flag is 0 or
// below (embed/etcd.go, serveClients).
func (o *options) keepalive() {
	if o.keepaliveMin <= 0 {
		o.keepaliveMin = 5 * time.Minute
	}
	if o.keepaliveInterval <= 0 || o.keepaliveTimeout <= 0 {
		o.keepaliveInterval, o.keepaliveTimeout = 2*time.Hour, 20*time.Second
	}
}

// intervals fills in the values that hold in etcd where a number is 0 or below
// (v3rpc/watch.go, NewWatchServer; etcdmain/config.go, parseWarningUnaryRequestDuration).
func (o *options) intervals() {
	if o.progressNotify <= 0 {
		o.progressNotify = flagDefault("watch-progress-notify-interval").(time.Duration)
	}
	switch {
	case o.slowRequest == 0:
		o.slowRequest = flagDefault("warning-unary-request-duration").(time.Duration)
	case o.slowRequest < 0:
		o.slowRequest = 1 // each request
	}
	o.compactionBatch = max(o.compactionBatch, 0) // the default
	if o.compactionSleep < 0 {
		o.compactionSleep = 1 // no rest that anybody could measure
	}
}

func (o *options) checkBounds() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if o.heartbeat <= 0 {
		fault("--heartbeat-interval: must be above 0")
	}
	if o.election < 5*o.heartbeat || o.election <= 0 {
		fault("--election-timeout: %v must be at least 5 times --heartbeat-interval, which is %v", o.election, o.heartbeat)
	}
	if o.election > 50*time.Second {
		fault("--election-timeout: %v must be at most 50s", o.election)
	}
	if o.maxRequestBytes == 0 || o.maxTxnOps == 0 {
		fault("--max-request-bytes and --max-txn-ops: must be above 0, they are %d and %d", o.maxRequestBytes, o.maxTxnOps)
	}
	return errors.Join(faults...)
}

func (s *settings) readGates(o *options) (err error) {
	o.gates, err = parseGates(s.text("feature-gates"))
	if err == nil {
		err = o.gates.validate()
	}
	if err != nil {
		return fmt.Errorf("--feature-gates: %w", err)
	}
	return nil
}

// readURLs reads what to listen on and what to tell others.
func (s *settings) readURLs(o *options) error {
	var faults []error
	read := func(name string) []*url.URL {
		urls, err := s.urls(name)
		faults = append(faults, err)
		return urls
	}
	for _, u := range read("listen-peer-urls") {
		if _, err := resolve(u, trafficBoth); err != nil {
			faults = append(faults, fmt.Errorf("--listen-peer-urls: %w", err))
		}
	}
	clients, peers := read("listen-client-urls"), read("initial-advertise-peer-urls")
	advertise := clients
	if s.isSet("advertise-client-urls") || !s.isSet("listen-client-urls") {
		advertise = read("advertise-client-urls")
	}
	faults = append(faults, checkHosts("advertise-client-urls", advertise), checkHosts("initial-advertise-peer-urls", peers))
	var err error
	o.endpoints, err = endpoints(clients, read("listen-client-http-urls"), read("listen-metrics-urls"))
	o.clientURLs, o.peerURLs, o.advertiseClientURLs = urlTexts(clients), urlTexts(peers), urlTexts(advertise)
	return errors.Join(append(faults, err)...)
}

// readTLS reads the clients' TLS; its files are read when the server starts.
func (s *settings) readTLS(o *options) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	split := func(text string) []string {
		if text == "" {
			return nil
		}
		return strings.Split(text, ",")
	}
	o.tls = tlsconf.Config{
		CertFile: s.text("cert-file"), KeyFile: s.text("key-file"), ClientCertAuth: s.truth("client-cert-auth"),
		TrustedCAFile: s.text("trusted-ca-file"), CRLFile: s.text("client-crl-file"),
		AllowedCNs: split(s.allowedCNs.String()), AllowedHostnames: split(s.text("client-cert-allowed-hostname")),
	}
	o.autoTLS, o.validityYears = s.truth("auto-tls"), uint(s.natural("self-signed-cert-validity"))
	if s.file != "" && o.validityYears == 0 {
		o.validityYears = 1 // as in etcd, of a file alone
	}
	for _, name := range split(s.text("cipher-suites")) {
		id, weak, found := tlsconf.CipherSuite(name)
		if !found {
			fault("--cipher-suites: unexpected TLS cipher suite %q", name)
		}
		if weak {
			o.weakSuites = append(o.weakSuites, name)
		}
		o.tls.CipherSuites = append(o.tls.CipherSuites, id)
	}
	for name, version := range map[string]*uint16{"tls-min-version": &o.tls.MinVersion, "tls-max-version": &o.tls.MaxVersion} {
		var known bool
		if *version, known = tlsconf.Version(s.text(name)); !known {
			fault("--%s: unexpected TLS version %q (TLS1.2 or TLS1.3)", name, s.text(name))
		}
	}
	if err := o.tls.Check(); err != nil {
		fault("TLS for clients: %w", err)
	}
	if (o.tls.CertFile == "") != (o.tls.KeyFile == "") {
		fault("--cert-file and --key-file: both are needed, or none; they are %q and %q", o.tls.CertFile, o.tls.KeyFile)
	}
	if cert, key := s.text("client-cert-file"), s.text("client-key-file"); o.isSecure() && (cert == "") != (key == "") {
		fault("--client-cert-file and --client-key-file: both are needed, or none; they are %q and %q", cert, key)
	}
	if o.tls.CertFile != "" {
		o.autoTLS = false // as in etcd
	}
	for _, e := range o.endpoints {
		if e.secure && o.tls.CertFile == "" && !o.autoTLS {
			fault("%q: TLS needs --cert-file and --key-file, or --auto-tls", e.urls)
		}
	}
	return errors.Join(faults...)
}

// tell logs what the operator should know about settings and environment.
func (s *settings) tell(o options, log *zap.Logger) {
	if s.file != "" {
		log.Info("loaded server configuration; flags and environment variables are ignored", zap.String("path", s.file), zap.Strings("ignored", s.ignored))
	}
	for _, key := range s.unknown {
		log.Warn("configuration file has a key that means nothing; it is ignored", zap.String("key", key))
	}
	for _, name := range s.strange {
		log.Warn("unrecognized environment variable", zap.String("environment-variable", name))
	}
	for _, name := range s.used {
		log.Info("recognized and used environment variable", zap.String("variable-name", name))
	}
	for _, v := range s.changed(inert, clusters, dropped) {
		log.Warn("flag has no effect", zap.String("flag", "--"+v.spec.name), zap.String("reason", v.spec.why()))
	}
	for _, g := range o.gates.void() {
		log.Warn("feature gate has no effect", zap.String("gate", g.name), zap.String("reason", g.here))
	}
	if o.backend != defaultBackend {
		log.Info("using another backend than raftbolt: the flags of the data directory and the store do not apply")
	}
	if o.maxRequestBytes > recommendedRequest {
		log.Warn("exceeded recommended request limit", zap.Uint64("max-request-bytes", o.maxRequestBytes), zap.Int("recommended-request-bytes", recommendedRequest))
	}
	if o.maxFiles > 0 && o.maxConnections == 0 {
		log.Warn("file descriptor limit of etcd process is too low; please set higher", zap.Uint64("limit", o.maxFiles), zap.Int("recommended-limit", 2*reservedFiles))
	}
	if o.unsafeNoFsync {
		log.Warn("--unsafe-no-fsync: acknowledged writes are lost when this machine fails")
	}
	if o.strangeCost > 0 {
		log.Warn("--bcrypt-cost is out of bounds; using the default", zap.Uint64("given", o.strangeCost), zap.Uint64("default", o.bcryptCost))
	}
	o.tellTLS(log)
}

// tellTLS warns of settings of TLS that do not do what they seem to.
func (o options) tellTLS(log *zap.Logger) {
	secure := slices.ContainsFunc(o.endpoints, func(e endpoint) bool { return e.secure })
	for _, e := range o.endpoints {
		if e.insecure && e.traffic != trafficMetrics && (o.tls.CertFile != "" || o.tls.VerifiesClients()) {
			log.Warn("scheme is http or unix while TLS files or client certificates are configured; ignoring them for this URL", zap.Strings("client-url", e.urls))
		}
	}
	if secure && !o.tls.VerifiesClients() && (o.tls.CRLFile != "" || len(o.tls.AllowedCNs)+len(o.tls.AllowedHostnames) > 0) {
		log.Warn("clients are not asked for certificates (--client-cert-auth, --trusted-ca-file): revocation list and allowed names have no effect")
	}
	if len(o.weakSuites) > 0 {
		log.Warn("cipher suites are configured that are considered insecure", zap.Strings("cipher-suites", o.weakSuites))
	}
}
