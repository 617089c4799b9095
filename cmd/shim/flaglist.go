package main

import "time"

// The groups of flags are the headings of etcd's help; the last is ours.
const (
	groupMember     = "Member"
	groupCluster    = "Clustering"
	groupSecurity   = "Security"
	groupAuth       = "Auth"
	groupMonitoring = "Profiling and Monitoring"
	groupLogging    = "Logging"
	groupTracing    = "Distributed tracing"
	groupFeatures   = "Features"
	groupUnsafe     = "Unsafe feature"
	groupShim       = "shim"
	groupDropped    = "Ignored"
)

// groups are the groups in the order of the help text.
var groups = []string{groupShim, groupMember, groupCluster, groupSecurity, groupAuth, groupMonitoring, groupLogging, groupTracing, groupFeatures, groupUnsafe}

const (
	whyOneMember = "it takes effect with clusters, and this build serves one member"
	whyDropped   = "etcd ignores it, too"
	whyBbolt     = "the store flushes by its own bounds"
	whyDiscovery = "etcd's discovery service is not offered; name the members with --initial-cluster"
	whyTracing   = "traces are not exported by this build"
	whyNoClient  = "this server does not connect to its own client port, so it never shows a client certificate"
)

// flagSpecs are all flags, in the order of the help text.
var flagSpecs = []flagSpec{
	{groupShim, "backend", "raftbolt", works, "Where the data is kept: raftbolt, configured by the flags below, or a URL such as memory:// or etcd://127.0.0.1:2379."},

	{groupMember, "name", "default", works, "Name of this member, as members list it."},
	{groupMember, "data-dir", "", works, "Directory of the data. (empty: ${name}.etcd)"},
	{groupMember, "wal-dir", "", works, "Directory of the log, when it is not inside the data directory."},
	{groupMember, "snapshot-count", uint64(10000), inert, "the log is cut when the store is synced, by its size"},
	{groupMember, "heartbeat-interval", uint64(100), works, "Milliseconds between heartbeats."},
	{groupMember, "election-timeout", uint64(1000), works, "Milliseconds without a heartbeat after which an election begins; at least five heartbeats, at most 50000."},
	{groupMember, "initial-election-tick-advance", true, inert, "a single voter does not wait for an election"},
	{groupMember, "listen-peer-urls", "http://localhost:2380", clusters, "URLs to serve other members on."},
	{groupMember, "listen-client-urls", "http://localhost:2379", works, "URLs to serve clients on, gRPC and, unless --listen-client-http-urls is given, HTTP: http, https, unix or unixs."},
	{groupMember, "listen-client-http-urls", "", works, "URLs to serve clients' HTTP on. With them, --listen-client-urls serves gRPC alone."},
	{groupMember, "max-snapshots", uint64(5), inert, "there are no snapshot files: the store is the snapshot"},
	{groupMember, "max-wals", uint64(5), inert, "the log recycles its own files"},
	{groupMember, "memory-mlock", false, inert, "pages are not locked in memory"},
	{groupMember, "quota-backend-bytes", int64(0), works, "Size in bytes at which the store raises the NOSPACE alarm. (0: 2 GiB, below 0: none)"},
	{groupMember, "backend-bbolt-freelist-type", "map", inert, whyBbolt},
	{groupMember, "backend-batch-interval", time.Duration(0), inert, whyBbolt},
	{groupMember, "backend-batch-limit", int64(0), inert, whyBbolt},
	{groupMember, "max-txn-ops", uint64(128), works, "Largest number of operations in one transaction."},
	{groupMember, "max-request-bytes", uint64(1572864), works, "Largest request in bytes."},
	{groupMember, "max-concurrent-streams", uint64(4294967295), works, "Largest number of streams at a time on one connection. (0: no bound)"},
	{groupMember, "grpc-keepalive-min-time", 5 * time.Second, works, "Shortest time between two pings of a client. (0: 5m, gRPC's)"},
	{groupMember, "grpc-keepalive-interval", 2 * time.Hour, works, "Time without traffic after which a client is pinged. (0: 2h, gRPC's)"},
	{groupMember, "grpc-keepalive-timeout", 20 * time.Second, works, "Time after an unanswered ping at which the connection is closed. (0: 20s, gRPC's)"},
	{groupMember, "socket-reuse-port", false, works, "Set SO_REUSEPORT, so that several processes may listen on a port."},
	{groupMember, "socket-reuse-address", false, works, "Set SO_REUSEADDR, so that an address in TIME_WAIT can be listened on."},
	{groupMember, "enable-grpc-gateway", true, works, "Serve the API as JSON over HTTP, below /v3/."},
	{groupMember, "raft-read-timeout", 5 * time.Second, clusters, "Longest time to read from another member."},
	{groupMember, "raft-write-timeout", 5 * time.Second, clusters, "Longest time to write to another member."},
	{groupMember, "feature-gates", "", works, "Features of etcd to switch, as Name=true,Name=false; shim knows the names. " +
		"What they change in etcd is fixed here, or takes effect with clusters; a warning says which."},
	{groupMember, "config-file", "", works, "File with the settings, YAML or JSON, with etcd's keys. Flags and environment are ignored with it."},

	{groupCluster, "initial-advertise-peer-urls", "http://localhost:2380", works, "Peer URLs of this member; with the token they make the member's and the cluster's id."},
	{groupCluster, "initial-cluster", "", works, "The founding members; only this one for now. Of a member that exists it is ignored. (empty: ${name}=${initial-advertise-peer-urls})"},
	{groupCluster, "initial-cluster-state", "new", works, "Whether an empty data directory founds a cluster (new) or joins one (existing); joining comes with clusters."},
	{groupCluster, "initial-cluster-token", "etcd-cluster", works, "Token of the cluster, part of its id."},
	{groupCluster, "advertise-client-urls", "http://localhost:2379", works, "Client URLs to tell to others. (not set: those of --listen-client-urls)"},
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
	{groupCluster, "discovery-fallback", "exit", refused, whyDiscovery},
	{groupCluster, "discovery-proxy", "", refused, whyDiscovery},
	{groupCluster, "discovery-srv", "", refused, whyDiscovery},
	{groupCluster, "discovery-srv-name", "", inert, whyDiscovery},
	{groupCluster, "strict-reconfig-check", true, works, "Refuse changes of membership that would cost the quorum."},
	{groupCluster, "pre-vote", true, inert, "pre-vote is always on"},
	{groupCluster, "auto-compaction-retention", "0", works, "History to keep: a duration (hours when without a unit), or a number of revisions. (0: all)"},
	{groupCluster, "auto-compaction-mode", "periodic", works, "How to read --auto-compaction-retention: periodic or revision."},
	{groupCluster, "v2-deprecation", "write-only", inert, "the v2 store is not offered; etcd ignores the flag, too"},

	{groupSecurity, "cert-file", "", works, "Certificate of the server, PEM, for https and unixs URLs. It may be replaced while the server runs."},
	{groupSecurity, "key-file", "", works, "Key of the certificate, PEM."},
	{groupSecurity, "client-cert-auth", false, works, "Demand certificates of clients; --trusted-ca-file does so, too."},
	{groupSecurity, "client-cert-file", "", inert, whyNoClient},
	{groupSecurity, "client-key-file", "", inert, whyNoClient},
	{groupSecurity, "client-crl-file", "", works, "List of revoked client certificates, DER or PEM. It holds on every https and unixs URL, and may be replaced while the server runs."},
	{groupSecurity, "client-cert-allowed-hostname", "", works, "Host names or addresses of which a client's certificate must have one; comma-separated."},
	{groupSecurity, "trusted-ca-file", "", works, "Authorities that sign clients' certificates, PEM. It may be replaced while the server runs."},
	{groupSecurity, "auto-tls", false, works, "Serve https and unixs URLs with a self-signed certificate, kept in ${data-dir}/fixtures/client."},
	{groupSecurity, "peer-cert-file", "", clusters, "Certificate for other members, PEM."},
	{groupSecurity, "peer-key-file", "", clusters, "Key of --peer-cert-file, PEM."},
	{groupSecurity, "peer-client-cert-auth", false, clusters, "Demand certificates of other members."},
	{groupSecurity, "peer-client-cert-file", "", clusters, "Certificate to show to other members, when it is not --peer-cert-file."},
	{groupSecurity, "peer-client-key-file", "", clusters, "Key of --peer-client-cert-file, PEM."},
	{groupSecurity, "peer-trusted-ca-file", "", clusters, "Authorities that sign members' certificates, PEM."},
	{groupSecurity, "peer-cert-allowed-cn", "", clusters, "Common names of which a member's certificate must have one."},
	{groupSecurity, "peer-cert-allowed-hostname", "", clusters, "Host names or addresses of which a member's certificate must have one."},
	{groupSecurity, "peer-auto-tls", false, clusters, "Talk to other members with self-signed certificates."},
	{groupSecurity, "self-signed-cert-validity", uint64(1), works, "Years for which a self-signed certificate is valid. An expired one is made anew at the next start."},
	{groupSecurity, "peer-crl-file", "", clusters, "List of members' revoked certificates."},
	{groupSecurity, "cipher-suites", "", works, "Cipher suites of TLS 1.2, by their names in Go; comma-separated. (empty: Go's choice)"},
	{groupSecurity, "cors", "*", works, "Origins from which browsers may use the server; comma-separated URLs, or * for all."},
	{groupSecurity, "host-whitelist", "*", works, "Names by which plain HTTP clients may address the server; comma-separated, or * for all."},
	{groupSecurity, "tls-min-version", "TLS1.2", works, "Least version of TLS: TLS1.2 or TLS1.3."},
	{groupSecurity, "tls-max-version", "", works, "Highest version of TLS: TLS1.2 or TLS1.3. (empty: the newest)"},

	{groupAuth, "auth-token", "simple", works, "Tokens of clients that log in: simple, or jwt with its options, such as jwt,pub-key=PATH,priv-key=PATH,sign-method=RS256,ttl=10m."},
	{groupAuth, "bcrypt-cost", uint64(10), works, "Cost of hashing a password, 4 to 31; one more doubles it."},
	{groupAuth, "auth-token-ttl", uint64(300), works, "Seconds for which a simple token is valid after its last use."},

	{groupMonitoring, "enable-pprof", false, works, "Serve profiles below /debug/pprof/ of the client URLs."},
	{groupMonitoring, "metrics", "basic", works, "basic, or extensive to add a histogram of each RPC's time."},
	{groupMonitoring, "listen-metrics-urls", "", works, "Further URLs that serve /metrics, /health, /livez and /readyz, with the clients' TLS where they are https."},

	{groupLogging, "logger", "zap", works, "Only zap."},
	{groupLogging, "log-outputs", "default", works, "Where to log: default or stderr, stdout, systemd/journal, or file paths; comma-separated."},
	{groupLogging, "log-level", "info", works, "debug, info, warn, error, panic or fatal."},
	{groupLogging, "log-format", "json", works, "json or console."},
	{groupLogging, "enable-log-rotation", false, works, "Rotate the log file; --log-outputs must name one."},
	{groupLogging, "log-rotation-config-json", `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`, works,
		"When to rotate: maxsize in MB, maxage in days, maxbackups (0: no limit), localtime in file names, compress."},
	{groupLogging, "warning-unary-request-duration", 300 * time.Millisecond, works, "A request that takes longer is logged."},

	{groupTracing, "enable-distributed-tracing", false, inert, whyTracing},
	{groupTracing, "distributed-tracing-address", "localhost:4317", inert, whyTracing},
	{groupTracing, "distributed-tracing-service-name", "etcd", inert, whyTracing},
	{groupTracing, "distributed-tracing-instance-id", "", inert, whyTracing},
	{groupTracing, "distributed-tracing-sampling-rate", int64(0), inert, whyTracing},

	{groupFeatures, "corrupt-check-time", time.Duration(0), clusters, "Time between two comparisons of the members' data. (0: none)"},
	{groupFeatures, "compact-hash-check-time", time.Minute, clusters, "Time between two comparisons of the members' data at their compactions."},
	{groupFeatures, "compaction-batch-limit", int64(1000), works, "Largest number of records deleted in one batch of a compaction."},
	{groupFeatures, "peer-skip-client-san-verification", false, clusters, "Do not hold the names in a member's certificate against its address."},
	{groupFeatures, "watch-progress-notify-interval", 10 * time.Minute, works, "Time between progress notifications of watches that asked for them."},
	{groupFeatures, "warning-apply-duration", 100 * time.Millisecond, inert, "slow requests are told of as a whole: --warning-unary-request-duration"},
	{groupFeatures, "bootstrap-defrag-threshold-megabytes", uint64(0), inert, "the store is not defragmented at start"},
	{groupFeatures, "max-learners", int64(1), works, "Largest number of members without a vote. They can be added, and start with clusters."},
	{groupFeatures, "compaction-sleep-interval", 10 * time.Millisecond, works, "Pause between two batches of a compaction."},
	{groupFeatures, "downgrade-check-time", 5 * time.Second, inert, "a downgrade under way is looked at each 4 s, with the version of the cluster"},
	{groupFeatures, "snapshot-catchup-entries", uint64(5000), works, "Number of log entries to keep for members that lag."},

	{groupUnsafe, "force-new-cluster", false, clusters, "Make this member the only one of its cluster."},
	{groupUnsafe, "unsafe-no-fsync", false, works, "Do not wait for the disk. Acknowledged writes are lost when the machine fails."},

	{groupDropped, "cluster-active-size", "", dropped, whyDropped},
	{groupDropped, "cluster-remove-delay", "", dropped, whyDropped},
	{groupDropped, "cluster-sync-interval", "", dropped, whyDropped},
	{groupDropped, "config", "", dropped, whyDropped},
	{groupDropped, "force", "", dropped, whyDropped},
	{groupDropped, "max-result-buffer", "", dropped, whyDropped},
	{groupDropped, "max-retry-attempts", "", dropped, whyDropped},
	{groupDropped, "peer-heartbeat-interval", "", dropped, whyDropped},
	{groupDropped, "peer-election-timeout", "", dropped, whyDropped},
	{groupDropped, "retry-interval", "", dropped, whyDropped},
	{groupDropped, "snapshot", "", dropped, whyDropped},
	{groupDropped, "v", "", dropped, whyDropped},
	{groupDropped, "vv", "", dropped, whyDropped},
}

// absentFlags are flags of older etcds that etcd 3.7 does not know any more, with
// what to say instead of guessing the nearest name.
var absentFlags = map[string]string{
	"enable-v2":                "the v2 store is not offered",
	"experimental-enable-v2v3": "the v2 store is not offered",
	"proxy":                    "the v2 proxy is not offered",

	"experimental-initial-corrupt-check":             "use --feature-gates=InitialCorruptCheck=true",
	"experimental-compact-hash-check-enabled":        "use --feature-gates=CompactHashCheck=true",
	"experimental-enable-lease-checkpoint":           "use --feature-gates=LeaseCheckpoint=true",
	"experimental-enable-lease-checkpoint-persist":   "use --feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true",
	"experimental-stop-grpc-service-on-defrag":       "use --feature-gates=StopGRPCServiceOnDefrag=true",
	"experimental-txn-mode-write-with-shared-buffer": "use --feature-gates=TxnModeWriteWithSharedBuffer=true",
	"experimental-set-member-localaddr":              "use --feature-gates=SetMemberLocalAddr=true",
}
