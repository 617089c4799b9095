package raftbolt

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
)

// The modes of auto compaction: etcd's --auto-compaction-mode.
const (
	CompactPeriodic = "periodic"
	CompactRevision = "revision"
)

// DefaultQuotaBytes is etcd's default of --quota-backend-bytes.
const DefaultQuotaBytes = 2 << 30

// Config describes a member. The zero value of a field means its default, which
// DefaultConfig names; only DataDir has none.
type Config struct {
	// Name of the member, as members list it.
	Name string
	// DataDir is created with mode 0700 if absent. Its content is documented in
	// datadir.go.
	DataDir string
	// WALDir holds the log; default DataDir/member/wal.
	WALDir string

	// ClusterToken and InitialAdvertisePeerURLs make the ids of a new member and
	// its cluster, as in etcd; of an existing one they change nothing.
	ClusterToken             string
	InitialAdvertisePeerURLs []string
	// AdvertiseClientURLs are told to clients that list members.
	AdvertiseClientURLs []string

	// HeartbeatInterval is raft's tick. ElectionTimeout is at least five of them.
	// The smallest TTL of a lease follows from it: one and a half, rounded up to
	// seconds.
	HeartbeatInterval time.Duration
	ElectionTimeout   time.Duration

	// QuotaBytes bounds the store's file with what waits to be written to it;
	// negative: no bound.
	QuotaBytes int64
	// UnsafeNoFsync leaves out every sync: a power loss may lose acknowledged
	// writes, or the store.
	UnsafeNoFsync bool

	// AutoCompactionMode is CompactPeriodic or CompactRevision, and
	// AutoCompactionRetention what to keep: of periodic a duration such as "30m",
	// or a number of hours; of revision a number of revisions. "0" or "" is off.
	AutoCompactionMode      string
	AutoCompactionRetention string
	// CompactionBatchLimit is how many records a batch of a compaction removes,
	// CompactionSleepInterval how long it rests between two.
	CompactionBatchLimit    int
	CompactionSleepInterval time.Duration

	// AuthToken tells which tokens are given, as etcd's --auth-token: "simple"; or
	// "jwt,sign-method=…,pub-key=…,priv-key=…,ttl=…".
	AuthToken string
	// AuthTokenTTL is how long a simple token lives that is not used.
	AuthTokenTTL time.Duration
	// BcryptCost is the cost of a password's hash, 4 to 31; twice the time for each one
	// more. Another number is taken as the default, as in etcd.
	BcryptCost int

	// SnapshotCatchupEntries is how many entries below the store's durable index
	// the log keeps for slow members.
	SnapshotCatchupEntries uint64

	// MaxLearners is how many learners there may be; negative: none.
	MaxLearners int
	// LaxReconfigCheck leaves out the checks that a change of the members keeps a
	// quorum: etcd's --strict-reconfig-check=false.
	LaxReconfigCheck bool

	// segmentBytes is the size of a log segment, for tests; 0 is the log's default.
	segmentBytes int64
}

// DefaultConfig returns the defaults, which are etcd's.
func DefaultConfig() Config {
	return Config{
		Name:                     "default",
		ClusterToken:             "etcd-cluster",
		InitialAdvertisePeerURLs: []string{"http://localhost:2380"},
		AdvertiseClientURLs:      []string{"http://localhost:2379"},
		HeartbeatInterval:        100 * time.Millisecond,
		ElectionTimeout:          time.Second,
		QuotaBytes:               DefaultQuotaBytes,
		AutoCompactionMode:       CompactPeriodic,
		AutoCompactionRetention:  "0",
		CompactionBatchLimit:     1000,
		CompactionSleepInterval:  10 * time.Millisecond,
		SnapshotCatchupEntries:   5000,
		AuthToken:                auth.DefaultTokens,
		AuthTokenTTL:             auth.DefaultTokenTTL,
		BcryptCost:               auth.DefaultCost,
		MaxLearners:              1,
	}
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	fill(&c.Name, d.Name)
	fill(&c.ClusterToken, d.ClusterToken)
	fill(&c.HeartbeatInterval, d.HeartbeatInterval)
	fill(&c.ElectionTimeout, d.ElectionTimeout)
	fill(&c.QuotaBytes, d.QuotaBytes)
	fill(&c.AutoCompactionMode, d.AutoCompactionMode)
	fill(&c.AutoCompactionRetention, d.AutoCompactionRetention)
	fill(&c.CompactionBatchLimit, d.CompactionBatchLimit)
	fill(&c.CompactionSleepInterval, d.CompactionSleepInterval)
	fill(&c.SnapshotCatchupEntries, d.SnapshotCatchupEntries)
	fill(&c.AuthToken, d.AuthToken)
	fill(&c.AuthTokenTTL, d.AuthTokenTTL)
	fill(&c.BcryptCost, d.BcryptCost)
	fill(&c.MaxLearners, d.MaxLearners)
	if len(c.InitialAdvertisePeerURLs) == 0 {
		c.InitialAdvertisePeerURLs = d.InitialAdvertisePeerURLs
	}
	if len(c.AdvertiseClientURLs) == 0 {
		c.AdvertiseClientURLs = d.AdvertiseClientURLs
	}
	// In the order in which etcd has them (client/pkg/types/urls.go, NewURLs): members are
	// listed with it.
	c.InitialAdvertisePeerURLs = slices.Sorted(slices.Values(c.InitialAdvertisePeerURLs))
	c.AdvertiseClientURLs = slices.Sorted(slices.Values(c.AdvertiseClientURLs))
	return c
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// The bounds of Config.
const (
	minHeartbeat = time.Millisecond
	// maxElection is etcd's: a longer one says that the unit was mistaken.
	maxElection = 50 * time.Second
	// electionHeartbeats is etcd's least ratio of election time-out to heartbeat.
	electionHeartbeats = 5
	// minPeriodic keeps the compactor's tick, a tenth of the retention, above a
	// busy loop.
	minPeriodic = 10 * time.Millisecond
)

// validate reports every fault, each with its value and bound. It expects
// defaults to be filled in.
func (c *Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if c.DataDir == "" {
		fault("data directory is empty: name one")
	}
	if c.HeartbeatInterval < minHeartbeat {
		fault("heartbeat interval %v is below %v", c.HeartbeatInterval, minHeartbeat)
	}
	if c.ElectionTimeout < electionHeartbeats*c.HeartbeatInterval {
		fault("election timeout %v is below %d heartbeat intervals of %v", c.ElectionTimeout, electionHeartbeats, c.HeartbeatInterval)
	}
	if c.ElectionTimeout > maxElection {
		fault("election timeout %v is above %v", c.ElectionTimeout, maxElection)
	}
	if c.CompactionBatchLimit < 0 {
		fault("compaction batch limit %d is below 1", c.CompactionBatchLimit)
	}
	if c.CompactionSleepInterval < 0 {
		fault("compaction sleep interval %v is negative", c.CompactionSleepInterval)
	}
	if c.AuthTokenTTL < 0 {
		fault("auth token TTL %v is negative", c.AuthTokenTTL)
	}
	if _, err := c.retention(); err != nil {
		faults = append(faults, err)
	}
	for _, u := range slices.Concat(c.InitialAdvertisePeerURLs, c.AdvertiseClientURLs) {
		if err := checkURL(u); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Errorf("URL %q: %w", s, err)
	case (u.Scheme == "unix" || u.Scheme == "unixs") && u.Host+u.Path != "": // unix:///path has no host
	case u.Host == "" || !slices.Contains([]string{"http", "https"}, u.Scheme):
		return fmt.Errorf("URL %q: want http, https, unix or unixs, and a host", s)
	case strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("URL %q: must not have a path", s)
	}
	return nil
}

// retention is what auto compaction keeps; the zero value is off.
type retention struct {
	period    time.Duration
	revisions int64
}

// retention reads AutoCompactionRetention as etcd does (server/embed/etcd.go,
// parseCompactionRetention), but refuses what cannot be meant: a negative one,
// which etcd takes (GO-2024-2529), and a duration where revisions are counted.
func (c *Config) retention() (retention, error) {
	text := c.AutoCompactionRetention
	switch n, err := strconv.ParseInt(text, 10, 64); {
	case c.AutoCompactionMode != CompactPeriodic && c.AutoCompactionMode != CompactRevision:
		return retention{}, fmt.Errorf("auto compaction mode %q is neither %q nor %q",
			c.AutoCompactionMode, CompactPeriodic, CompactRevision)
	case err == nil && n < 0:
		return retention{}, fmt.Errorf("auto compaction retention %q is negative", text)
	case c.AutoCompactionMode == CompactRevision && err != nil:
		return retention{}, fmt.Errorf("auto compaction retention %q is not a number of revisions", text)
	case c.AutoCompactionMode == CompactRevision:
		return retention{revisions: n}, nil
	case err == nil && n > int64(math.MaxInt64/time.Hour):
		return retention{}, fmt.Errorf("auto compaction retention of %q hours is above %d", text, math.MaxInt64/time.Hour)
	case err == nil:
		return retention{period: time.Duration(n) * time.Hour}, nil
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return retention{}, fmt.Errorf("auto compaction retention %q is neither a duration, such as 30m, nor a number of hours", text)
	case d < 0:
		return retention{}, fmt.Errorf("auto compaction retention %q is negative", text)
	case d > 0 && d < minPeriodic:
		return retention{}, fmt.Errorf("auto compaction retention %q is below %v", text, minPeriodic)
	}
	return retention{period: d}, nil
}

// requestTimeout bounds a request: five seconds for queues, computation and the
// disk, and two election time-outs, as in etcd (config.ServerConfig.ReqTimeout).
func (c *Config) requestTimeout() time.Duration {
	return 5*time.Second + 2*c.ElectionTimeout
}

// electionTicks is the election time-out in heartbeats, rounded down as in etcd.
func (c *Config) electionTicks() int { return int(c.ElectionTimeout / c.HeartbeatInterval) }

// minLeaseTTL is the smallest TTL of a lease, in seconds: a lease must outlive
// an election (etcdserver.NewServer, minTTL).
func (c *Config) minLeaseTTL() int64 {
	ticks := 3 * c.electionTicks() / 2
	return int64(math.Ceil((time.Duration(ticks) * c.HeartbeatInterval).Seconds()))
}
