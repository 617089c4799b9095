package etcdapi

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
)

// overheadBytes is what etcd allows a message to be larger than the largest
// request: room for framing (server/config, grpcOverheadBytes).
const overheadBytes = 512 << 10

// minProgressInterval is etcd's least interval of progress notifications
// (v3rpc/watch.go, minWatchProgressInterval).
const minProgressInterval = 100 * time.Millisecond

// etcdVersion is the release whose API this is. Clients decide by it what they use.
const etcdVersion = "3.7.3"

// Config is what a Server can be told. The zero value of a field stands for its
// default, which withDefaults names.
type Config struct {
	// MaxRequestBytes bounds one request; a message may be 512 KiB larger.
	MaxRequestBytes int
	// MaxTxnOps bounds the operations of a Txn; a nested one gets what its
	// parent left over.
	MaxTxnOps int
	// MaxConcurrentStreams bounds the streams of one connection.
	MaxConcurrentStreams uint32
	// MaxConnections bounds the connections on all listeners together, those of
	// TrafficMetrics left out; further ones wait until others have ended. 0 is no bound.
	MaxConnections int

	// KeepaliveMinTime is how often a client may ping; one that pings more often
	// is disconnected. After KeepaliveInterval without traffic the server pings,
	// and it closes the connection when no answer came within KeepaliveTimeout.
	KeepaliveMinTime  time.Duration
	KeepaliveInterval time.Duration
	KeepaliveTimeout  time.Duration

	// WatchProgressNotifyInterval is the time between two notifications of a
	// watch that asked for them and had no event.
	WatchProgressNotifyInterval time.Duration
	// WarningUnaryRequestDuration is from when on a unary request is logged.
	WarningUnaryRequestDuration time.Duration
	// LeaderLossTimeout is for how long there may be no leader until streams
	// that require one end; etcd's is three election time-outs.
	LeaderLossTimeout time.Duration

	// DisableGRPCGateway leaves out the JSON gateway under /v3/.
	DisableGRPCGateway bool
	// CORS are the origins, as URLs, whose pages may read answers; none or "*" is any.
	CORS []string
	// HostWhitelist are the hosts that a plaintext HTTP request may name in its Host
	// header; none or "*" is any.
	HostWhitelist []string
	// EnablePprof serves profiles under /debug/pprof. They show the process's memory,
	// so nobody should have them who may not read everything.
	EnablePprof bool

	// ExtensiveMetrics adds a histogram of the time of each RPC: --metrics=extensive.
	ExtensiveMetrics bool

	// ResponseMemoryBytes is the budget of answers on their way to clients.
	ResponseMemoryBytes int64

	// Name and ClientURLs describe this server in MemberList and ID is its id
	// there when the backend knows no members.
	Name       string
	ClientURLs []string

	// ClientCertAuth tells that clients have to have a certificate that was verified:
	// its common name is then the user of a request without a token.
	ClientCertAuth bool

	// ServerVersion is what clients see as etcd's version; features are chosen
	// by it. ShimVersion is our own, shown beside it.
	ServerVersion string
	ShimVersion   string

	// Logger, Metrics and Clock; nil means none, a registry of the server's own,
	// and the system's.
	Logger  *zap.Logger
	Metrics *prometheus.Registry
	Clock   backends.Clock

	// The constants of these names, except in tests.
	prefaceTimeout time.Duration
	snapshotStall  time.Duration
}

// withDefaults fills in what was not set.
func (c Config) withDefaults() Config {
	orDefault(&c.MaxRequestBytes, 3<<19) // 1.5 MiB
	orDefault(&c.MaxTxnOps, 128)
	orDefault(&c.MaxConcurrentStreams, math.MaxUint32)
	orDefault(&c.KeepaliveMinTime, 5*time.Second)
	orDefault(&c.KeepaliveInterval, 2*time.Hour)
	orDefault(&c.KeepaliveTimeout, 20*time.Second)
	orDefault(&c.WatchProgressNotifyInterval, 10*time.Minute)
	orDefault(&c.WarningUnaryRequestDuration, 300*time.Millisecond)
	orDefault(&c.LeaderLossTimeout, 3*time.Second)
	orDefault(&c.ResponseMemoryBytes, 64<<20)
	orDefault(&c.Name, "default")
	orDefault(&c.ServerVersion, etcdVersion)
	orDefault(&c.ShimVersion, "unknown")
	orDefault(&c.prefaceTimeout, prefaceTimeout)
	orDefault(&c.snapshotStall, snapshotStall)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Clock == nil {
		c.Clock = backends.SystemClock{}
	}
	if c.WatchProgressNotifyInterval > 0 {
		c.WatchProgressNotifyInterval = max(c.WatchProgressNotifyInterval, minProgressInterval)
	}
	return c
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate reports every fault of a Config with defaults.
func (c *Config) validate() error {
	var faults []error
	between := func(name string, value, low, high int64) {
		if value < low || value > high {
			faults = append(faults, fmt.Errorf("%s is %d, not between %d and %d", name, value, low, high))
		}
	}
	positive := func(name string, value time.Duration) {
		if value <= 0 {
			faults = append(faults, fmt.Errorf("%s is %v, not above zero", name, value))
		}
	}
	between("MaxRequestBytes", int64(c.MaxRequestBytes), 1, math.MaxInt32-overheadBytes)
	between("MaxTxnOps", int64(c.MaxTxnOps), 1, math.MaxInt32)
	between("MaxConnections", int64(c.MaxConnections), 0, math.MaxInt32)
	between("ResponseMemoryBytes", c.ResponseMemoryBytes, 1<<20, math.MaxInt64)
	positive("KeepaliveMinTime", c.KeepaliveMinTime)
	positive("KeepaliveInterval", c.KeepaliveInterval)
	positive("KeepaliveTimeout", c.KeepaliveTimeout)
	positive("WatchProgressNotifyInterval", c.WatchProgressNotifyInterval)
	positive("WarningUnaryRequestDuration", c.WarningUnaryRequestDuration)
	positive("LeaderLossTimeout", c.LeaderLossTimeout)
	return errors.Join(faults...)
}
