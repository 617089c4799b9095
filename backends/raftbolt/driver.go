package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etcdshim/shim/backends"
)

func init() {
	names := make([]string, 0, len(parameters))
	for name := range parameters {
		names = append(names, name)
	}
	slices.Sort(names)
	backends.Register(backends.Driver{Scheme: "raftbolt", Parameters: names, Open: openURL})
}

// parameters of a raftbolt URL: the names of etcd's flags.
var parameters = map[string]func(*Config, string) error{
	"name":    func(c *Config, s string) error { c.Name = s; return nil },
	"wal-dir": func(c *Config, s string) error { c.WALDir = s; return nil },
	"initial-cluster-token": func(c *Config, s string) error {
		c.ClusterToken = s
		return nil
	},
	"initial-advertise-peer-urls": func(c *Config, s string) error {
		c.InitialAdvertisePeerURLs = strings.Split(s, ",")
		return nil
	},
	"advertise-client-urls": func(c *Config, s string) error {
		c.AdvertiseClientURLs = strings.Split(s, ",")
		return nil
	},
	"heartbeat-interval":  func(c *Config, s string) error { return parseMilliseconds(&c.HeartbeatInterval, s) },
	"election-timeout":    func(c *Config, s string) error { return parseMilliseconds(&c.ElectionTimeout, s) },
	"quota-backend-bytes": func(c *Config, s string) error { return parseNumber(&c.QuotaBytes, s) },
	"unsafe-no-fsync": func(c *Config, s string) (err error) {
		c.UnsafeNoFsync, err = strconv.ParseBool(s)
		return err
	},
	"auto-compaction-mode": func(c *Config, s string) error {
		c.AutoCompactionMode = s
		return nil
	},
	"auto-compaction-retention": func(c *Config, s string) error {
		c.AutoCompactionRetention = s
		return nil
	},
	"compaction-batch-limit": func(c *Config, s string) (err error) {
		c.CompactionBatchLimit, err = strconv.Atoi(s)
		return err
	},
	"compaction-sleep-interval": func(c *Config, s string) (err error) {
		c.CompactionSleepInterval, err = time.ParseDuration(s)
		return err
	},
	"snapshot-catchup-entries": func(c *Config, s string) (err error) {
		c.SnapshotCatchupEntries, err = strconv.ParseUint(s, 10, 64)
		return err
	},
	"auth-token": func(c *Config, s string) error {
		c.AuthToken = s
		return nil
	},
	"auth-token-ttl": func(c *Config, s string) error {
		seconds, err := strconv.ParseUint(s, 10, 31)
		c.AuthTokenTTL = time.Duration(seconds) * time.Second
		return err
	},
	"bcrypt-cost": func(c *Config, s string) (err error) {
		c.BcryptCost, err = strconv.Atoi(s)
		return err
	},
	"max-learners": func(c *Config, s string) (err error) {
		if c.MaxLearners, err = strconv.Atoi(s); c.MaxLearners == 0 {
			c.MaxLearners = -1 // none, where a zero of Config is the default
		}
		return err
	},
	"strict-reconfig-check": func(c *Config, s string) error {
		strict, err := strconv.ParseBool(s)
		c.LaxReconfigCheck = !strict
		return err
	},
}

func parseNumber(to *int64, s string) (err error) {
	*to, err = strconv.ParseInt(s, 10, 64)
	return err
}

// parseMilliseconds reads a plain number as milliseconds, as etcd's flags do.
func parseMilliseconds(to *time.Duration, s string) error {
	n, err := strconv.ParseUint(s, 10, 31)
	*to = time.Duration(n) * time.Millisecond
	return err
}

// configOf reads raftbolt:///var/lib/shim or raftbolt://./relative, where the
// host part is the path's first element.
func configOf(u *url.URL) (Config, error) {
	c := DefaultConfig()
	c.DataDir = u.Host + u.Path
	var faults []error
	if u.User != nil || u.Fragment != "" || u.Opaque != "" {
		faults = append(faults, errors.New("want raftbolt://DIRECTORY?PARAMETERS"))
	}
	for name, values := range u.Query() {
		set := parameters[name]
		if set == nil {
			faults = append(faults, fmt.Errorf("unknown parameter %q", name))
			continue
		}
		if len(values) != 1 {
			faults = append(faults, fmt.Errorf("parameter %q is given %d times", name, len(values)))
			continue
		}
		if err := set(&c, values[0]); err != nil {
			faults = append(faults, fmt.Errorf("parameter %s=%s: %w", name, values[0], err))
		}
	}
	return c, errors.Join(faults...)
}

func openURL(ctx context.Context, u *url.URL, env backends.Env) (backends.Backend, error) {
	c, err := configOf(u)
	if err != nil {
		return nil, fmt.Errorf("backend URL %q: %w", u.Redacted(), err)
	}
	return Open(ctx, c, env)
}
