package etcdapi

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdshim/shim/backends"
)

// collector tells the backend's Status at each scrape, under etcd's names
// (etcdserver/metrics.go, storage/mvcc/metrics.go).
type collector struct {
	backend backends.Backend
	gauges  []statusGauge
	cluster *prometheus.Desc    // with the cluster's version
	info    []prometheus.Metric // constants, told with a value of 1

	filesUsed, filesLimit *prometheus.Desc
}

// statusGauge is a number of the Status.
type statusGauge struct {
	desc  *prometheus.Desc
	value func(*backends.Status) float64
}

func newCollector(b backends.Backend, cfg *Config) *collector {
	c := &collector{
		backend:    b,
		cluster:    prometheus.NewDesc("etcd_cluster_version", "Version that the cluster speaks.", []string{"cluster_version"}, nil),
		filesUsed:  prometheus.NewDesc("os_fd_used", "Files that the process has open.", nil, nil),
		filesLimit: prometheus.NewDesc("os_fd_limit", "Files that the process may have open.", nil, nil),
	}
	gauge := func(name, help string, value func(*backends.Status) float64) {
		c.gauges = append(c.gauges, statusGauge{prometheus.NewDesc(name, help, nil, nil), value})
	}
	gauge("etcd_server_has_leader", "Whether a leader exists.", func(s *backends.Status) float64 {
		return truth(s.Leader != 0 || s.Header.Term == 0)
	})
	gauge("etcd_server_is_leader", "Whether this member is the leader.", func(s *backends.Status) float64 {
		return truth(s.Leader == s.Header.MemberID || s.Header.Term == 0)
	})
	gauge("etcd_server_is_learner", "Whether this member is a learner.", func(s *backends.Status) float64 { return truth(s.Learner) })
	gauge("etcd_server_quota_backend_bytes", "Quota of the store in bytes; 0 or below is none.", func(s *backends.Status) float64 { return float64(s.QuotaBytes) })
	gauge("etcd_server_proposals_committed_total", "Index of the last committed entry.", func(s *backends.Status) float64 { return float64(s.RaftIndex) })
	gauge("etcd_server_proposals_applied_total", "Index of the last applied entry.", func(s *backends.Status) float64 { return float64(s.AppliedIndex) })
	gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the store in bytes.", func(s *backends.Status) float64 { return float64(s.SizeBytes) })
	gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store that hold data.", func(s *backends.Status) float64 { return float64(s.SizeInUseBytes) })
	gauge("etcd_debugging_mvcc_current_revision", "Revision of the store.", func(s *backends.Status) float64 { return float64(s.Header.Revision) })
	gauge("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.", func(s *backends.Status) float64 { return float64(s.CompactRevision) })

	info := func(name, help string, labels prometheus.Labels) {
		c.info = append(c.info, prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, labels), prometheus.GaugeValue, 1))
	}
	info("etcd_server_version", "Version of etcd whose API is served.", prometheus.Labels{"server_version": cfg.ServerVersion})
	info("etcd_server_go_version", "Version of Go that the server was built with.", prometheus.Labels{"server_go_version": runtime.Version()})
	info("shim_build_info", "Version of shim and name of its backend.", prometheus.Labels{"version": cfg.ShimVersion, "backend": b.Info().Name})
	return c
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe tells the gauges' and constants' descriptions.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, g := range c.gauges {
		out <- g.desc
	}
	for _, m := range c.info {
		out <- m.Desc()
	}
	out <- c.filesUsed
	out <- c.filesLimit
	out <- c.cluster
}

// statusTimeout bounds how long a scrape waits for the backend: below the 10 s that
// Prometheus gives it by default.
const statusTimeout = 5 * time.Second

// Collect tells the present values. A backend that cannot tell its status is an error
// of the scrape, which the other numbers survive; one that tells it only to those who
// say who they are is none: its numbers are left out.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	for _, m := range c.info {
		out <- m
	}
	if used, limit, ok := openFiles(); ok {
		out <- prometheus.MustNewConstMetric(c.filesUsed, prometheus.GaugeValue, float64(used))
		out <- prometheus.MustNewConstMetric(c.filesLimit, prometheus.GaugeValue, float64(limit))
	}
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	st, err := c.backend.Status(ctx)
	if err != nil {
		if isOfAuth(err) {
			return
		}
		out <- prometheus.NewInvalidMetric(c.gauges[0].desc, fmt.Errorf("backend's status: %w", err))
		return
	}
	out <- prometheus.MustNewConstMetric(c.cluster, prometheus.GaugeValue, 1, strings.TrimSuffix(cmp.Or(st.ClusterVersion, clusterVersion), ".0"))
	for _, g := range c.gauges {
		out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(&st))
	}
}
