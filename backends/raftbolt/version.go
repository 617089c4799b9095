package raftbolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// clusterVersion is the version of the cluster that this program is for.
const clusterVersion = "3.7.0"

// versionCheckEvery is how often the leader looks whether the cluster should speak
// another version (etcdserver/server.go, monitorVersionInterval).
const versionCheckEvery = 4 * time.Second

// The keys of the cluster bucket (server/storage/schema, bucket.go).
const (
	clusterVersionKey = "clusterVersion" // text, MAJOR.MINOR.0
	downgradeKey      = "downgrade"      // JSON of downgradeRecord
)

// downgradeRecord is a downgrade in the cluster bucket, in etcd's form
// (etcdserver/version, DowngradeInfo).
type downgradeRecord struct {
	TargetVersion string `json:"target-version"`
	Enabled       bool   `json:"enabled"`
}

// clusterState is what the cluster bucket holds. It is immutable.
type clusterState struct {
	// version is what the members agreed on; empty while they have not.
	version   string
	downgrade backends.DowngradeInfo
}

// minor is a version without its patch.
type minor struct{ major, minor int64 }

func parseMinor(text string) (v minor, err error) {
	if _, err := fmt.Sscanf(text, "%d.%d.0", &v.major, &v.minor); err != nil || v.String() != text {
		return minor{}, fmt.Errorf("version %q is not MAJOR.MINOR.0", text)
	}
	return v, nil
}

func (v minor) String() string { return fmt.Sprintf("%d.%d.0", v.major, v.minor) }

// before is the version that a cluster of this one can go back to.
func (v minor) before() minor { return minor{v.major, v.minor - 1} }

func (v minor) less(o minor) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

// known is the version that a text of ours has.
func known(text string) minor {
	v, _ := parseMinor(text) // checked where it came in
	return v
}

func (m *machine) loadCluster() error {
	s := &clusterState{}
	var bad error
	err := m.store.Bucket(mvcc.BucketCluster, func(k, v []byte) { bad = errors.Join(bad, s.read(k, v)) })
	m.cluster.Store(s)
	if err = errors.Join(err, bad); err != nil {
		return fmt.Errorf("%w: the cluster's version in the store: %w", ErrDirectoryCorrupt, err)
	}
	if s.version != "" && known(clusterVersion).less(known(s.version)) {
		return fmt.Errorf("%w: the cluster speaks version %s, this shim speaks %s: start the version of shim that wrote it",
			ErrDirectoryVersion, s.version, clusterVersion)
	}
	return nil
}

// read reads an entry of the cluster bucket.
func (s *clusterState) read(k, v []byte) error {
	switch string(k) {
	case clusterVersionKey:
		s.version = string(v)
		_, err := parseMinor(s.version)
		return err
	case downgradeKey:
		var r downgradeRecord
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("downgrade: %w", err)
		}
		s.downgrade = backends.DowngradeInfo{Enabled: r.Enabled, TargetVersion: r.TargetVersion}
		if !r.Enabled {
			return nil
		}
		_, err := parseMinor(r.TargetVersion)
		return err
	}
	return fmt.Errorf("unknown entry %q", k)
}

// applyVersion sets the version that the cluster speaks, and that its store is
// written for.
func (m *machine) applyVersion(c *command) (outcome, error) {
	out := outcome{revision: m.store.Committed()}
	if _, err := parseMinor(c.version); err != nil {
		return out, fmt.Errorf("%w: %w", errCommandMalformed, err)
	}
	next := *m.cluster.Load()
	m.logger.Info("updated cluster version", zap.String("from", next.version), zap.String("to", c.version))
	next.version = c.version
	t := m.store.Begin()
	t.Set(mvcc.BucketCluster, []byte(clusterVersionKey), []byte(c.version))
	t.SetStorageVersion(c.version)
	if _, err := t.Commit(); err != nil {
		return out, err
	}
	m.cluster.Store(&next)
	return out, nil
}

// applyDowngrade begins or ends a downgrade.
func (m *machine) applyDowngrade(c *command) (outcome, error) {
	out := outcome{revision: m.store.Committed()}
	next := *m.cluster.Load()
	next.downgrade = backends.DowngradeInfo{Enabled: c.enabled, TargetVersion: c.version}
	value, err := json.Marshal(downgradeRecord{TargetVersion: c.version, Enabled: c.enabled})
	if err != nil {
		return out, err
	}
	t := m.store.Begin()
	t.Set(mvcc.BucketCluster, []byte(downgradeKey), value)
	if _, err := t.Commit(); err != nil {
		return out, err
	}
	m.cluster.Store(&next)
	return out, nil
}

var _ backends.Downgrader = (*Backend)(nil)

// Downgrade implements backends.Downgrader. Unlike etcd it does not answer a failed
// cancellation with success.
func (b *Backend) Downgrade(ctx context.Context, req *backends.DowngradeRequest) (backends.DowngradeResult, error) {
	if err := b.readIndex(ctx); err != nil {
		return backends.DowngradeResult{}, err
	}
	s := b.machine.cluster.Load()
	if s.version == "" {
		return backends.DowngradeResult{}, backends.ErrClusterVersionUnavailable
	}
	c := &command{kind: kindDowngrade}
	switch req.Action {
	case backends.DowngradeValidate, backends.DowngradeEnable:
		if target, err := parseMinor(req.TargetVersion); err != nil || target != known(s.version).before() {
			return backends.DowngradeResult{}, backends.ErrInvalidDowngradeTarget
		}
		if s.downgrade.Enabled {
			return backends.DowngradeResult{}, backends.ErrDowngradeInProcess
		}
		c.enabled, c.version = true, req.TargetVersion
	case backends.DowngradeCancel:
	default:
		return backends.DowngradeResult{}, &backends.Unsupported{Backend: name, What: fmt.Sprintf("downgrade action %d", req.Action)}
	}
	if req.Action == backends.DowngradeEnable || req.Action == backends.DowngradeCancel && s.downgrade.Enabled {
		if _, err := b.propose(ctx, c); err != nil {
			return backends.DowngradeResult{}, err
		}
	}
	speaks := known(b.machine.cluster.Load().version)
	return backends.DowngradeResult{
		Header: b.header(b.store.Committed()), ClusterVersion: fmt.Sprintf("%d.%d", speaks.major, speaks.minor),
	}, nil
}

// followVersion changes, while this member leads, the version that the cluster
// speaks, when it should be another: after a restore, or when a downgrade begins or
// is cancelled.
func (b *Backend) followVersion() {
	for b.running.Err() == nil {
		changed := b.node.Changed()
		if s := b.node.Status(); s.Role == replica.Leader && s.TermApplied {
			if c := b.machine.versionCommand(); c != nil {
				if _, err := b.propose(b.running, c); err != nil && b.running.Err() == nil {
					b.env.Logger.Warn("could not change the cluster's version; it is tried again", zap.Error(err))
				}
			}
		}
		timer, stop := b.env.Clock.After(versionCheckEvery)
		select {
		case <-timer:
		case <-changed:
		case <-b.running.Done():
		}
		stop()
	}
}

// versionCommand is what the leader proposes about the version; nil for nothing.
// It decides as etcd does (etcdserver/version/monitor.go), which needs the versions
// of all members: those of others are not known yet, so that with others nothing
// is changed.
func (m *machine) versionCommand() *command {
	s, own := m.cluster.Load(), known(clusterVersion)
	if len(m.members.Load().list) != 1 {
		return nil
	}
	speaks, target := known(s.version), known(s.downgrade.TargetVersion)
	next := own
	switch {
	case s.version == "":
	case s.downgrade.Enabled && target == own:
		return &command{kind: kindDowngrade} // every member has the version that was to be gone back to
	case s.downgrade.Enabled && target == speaks.before() && target == own.before():
		next = target
	case s.downgrade.Enabled || !speaks.less(own):
		return nil
	}
	return &command{kind: kindVersion, version: next.String()}
}
