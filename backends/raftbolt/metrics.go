package raftbolt

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
)

// metrics are the store's numbers under etcd's names, with its buckets (its
// storage/wal, storage/backend, storage/mvcc, lease and etcdserver metrics.go). What can be
// read at any time is told by the collector at each scrape; the rest is counted here.
type metrics struct {
	registration registration

	walSync, walWrite prometheus.Histogram
	walBytes          prometheus.Gauge

	commit, rebalance, spill, write  prometheus.Histogram
	defrag, snapshot                 prometheus.Histogram
	defragInflight                   prometheus.Gauge
	compactPause, compactTotal       prometheus.Histogram
	compactLast                      prometheus.Gauge
	compactedKeys                    prometheus.Counter
	hash, hashKV                     prometheus.Histogram
	ranges, puts, deletes, txns      prometheus.Counter
	putBytes                         prometheus.Gauge
	ranged, rangeFailed              prometheus.Observer
	applied                          *prometheus.HistogramVec
	appliedPut                       prometheus.Observer // of applied, the commonest
	requests                         *prometheus.HistogramVec
	requestPut, requestRange         prometheus.Observer // of requests, the commonest
	slowApplies                      prometheus.Counter
	pending                          prometheus.Gauge
	failedProposals, leaderChanges   prometheus.Counter
	failedReads, slowReads           prometheus.Counter
	granted, revoked, renewed, ended prometheus.Counter
	ttl                              prometheus.Histogram
}

// slowApply is from when on applying a command is slow: etcd's default of
// --warning-apply-duration.
const slowApply = 100 * time.Millisecond

// fromMillisecond are etcd's buckets of what the disk does: 1 ms to 8 s.
func fromMillisecond() []float64 { return prometheus.ExponentialBuckets(0.001, 2, 14) }

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	r := &registration{to: reg}
	m := &metrics{
		registration: registration{to: reg},

		walSync:  r.histogram("etcd_disk_wal_fsync_duration_seconds", "Time of a sync of the log.", fromMillisecond()),
		walWrite: r.histogram("etcd_disk_wal_write_duration_seconds", "Time of a write to the log.", fromMillisecond()),
		walBytes: r.gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log."),

		commit:         r.histogram("etcd_disk_backend_commit_duration_seconds", "Time of a commit of the store's file.", fromMillisecond()),
		rebalance:      r.histogram("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "Time of merging pages in a commit.", fromMillisecond()),
		spill:          r.histogram("etcd_debugging_disk_backend_commit_spill_duration_seconds", "Time of splitting pages in a commit.", fromMillisecond()),
		write:          r.histogram("etcd_debugging_disk_backend_commit_write_duration_seconds", "Time of writing pages in a commit.", fromMillisecond()),
		defrag:         r.histogram("etcd_disk_backend_defrag_duration_seconds", "Time of a defragmentation.", prometheus.ExponentialBuckets(.1, 2, 13)),
		snapshot:       r.histogram("etcd_disk_backend_snapshot_duration_seconds", "Time of making a snapshot and sending it.", prometheus.ExponentialBuckets(.01, 2, 17)),
		defragInflight: r.gauge("etcd_disk_defrag_inflight", "Whether a defragmentation runs."),

		compactPause:  r.histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Time for which one transaction of a compaction holds the file.", prometheus.ExponentialBuckets(1, 2, 13)),
		compactTotal:  r.histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Time of a compaction.", prometheus.ExponentialBuckets(100, 2, 14)),
		compactLast:   r.gauge("etcd_debugging_mvcc_db_compaction_last", "When the last compaction ended, in seconds of Unix; 0 since the start."),
		compactedKeys: r.counter("etcd_debugging_mvcc_db_compaction_keys_total", "Changes that compactions removed."),
		hash:          r.histogram("etcd_mvcc_hash_duration_seconds", "Time of hashing the whole store.", prometheus.ExponentialBuckets(.01, 2, 15)),
		hashKV:        r.histogram("etcd_mvcc_hash_rev_duration_seconds", "Time of hashing the keys at a revision.", prometheus.ExponentialBuckets(.01, 2, 15)),

		ranges:   r.counter("etcd_mvcc_range_total", "Ranges that this member read."),
		puts:     r.counter("etcd_mvcc_put_total", "Puts that this member applied."),
		deletes:  r.counter("etcd_mvcc_delete_total", "Deletions that this member applied."),
		txns:     r.counter("etcd_mvcc_txn_total", "Transactions of more than one operation."),
		putBytes: r.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values put."),

		slowApplies:     r.counter("etcd_server_slow_apply_total", "Commands whose applying took longer than 100 ms."),
		pending:         r.gauge("etcd_server_proposals_pending", "Proposals that wait for their outcome."),
		failedProposals: r.counter("etcd_server_proposals_failed_total", "Proposals that failed, or whose outcome nobody saw."),
		leaderChanges:   r.counter("etcd_server_leader_changes_seen_total", "Changes of the leader that were seen."),
		failedReads:     r.counter("etcd_server_read_indexes_failed_total", "Linearizable reads that could not be confirmed."),
		slowReads:       r.counter("etcd_server_slow_read_indexes_total", "Linearizable reads that timed out."),

		granted: r.counter("etcd_debugging_lease_granted_total", "Leases granted."),
		revoked: r.counter("etcd_debugging_lease_revoked_total", "Leases revoked."),
		renewed: r.counter("etcd_debugging_lease_renewed_total", "Leases renewed by this leader."),
		ended:   r.counter("etcd_debugging_server_lease_expired_total", "Leases that expired."),
		ttl:     r.histogram("etcd_debugging_lease_ttl_total", "Times to live that leases were granted, in seconds.", prometheus.ExponentialBuckets(1, 2, 24)),
	}
	ranged := r.histograms("etcd_server_range_duration_seconds", "Time of opening a range.", prometheus.ExponentialBuckets(0.0001, 2, 20), "success")
	m.ranged, m.rangeFailed = ranged.WithLabelValues("true"), ranged.WithLabelValues("false")
	m.applied = r.histograms("etcd_server_apply_duration_seconds", "Time of applying a command.", prometheus.ExponentialBuckets(0.0001, 2, 20), "version", "op", "success")
	m.requests = r.histograms("etcd_server_request_duration_seconds", "Time of answering a request.", fromMillisecond(), "type", "success")
	m.requestPut, m.requestRange = m.requests.WithLabelValues("Put", "true"), m.requests.WithLabelValues("Range", "true")
	m.appliedPut = m.applied.WithLabelValues("v3", "Put", "true")
	return m, r.err
}

// registration makes metrics and registers them; the first fault stays.
type registration struct {
	to  prometheus.Registerer
	err error
}

func (r *registration) register(collectors ...prometheus.Collector) {
	for _, c := range collectors {
		err := r.to.Register(c)
		if old, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
			// Of a member that was closed, or given up: this one is the present.
			r.to.Unregister(old.ExistingCollector)
			err = r.to.Register(c)
		}
		if err != nil && r.err == nil {
			r.err = err
		}
	}
}

func (r *registration) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	r.register(c)
	return c
}

func (r *registration) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	r.register(g)
	return g
}

func (r *registration) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	r.register(h)
	return h
}

func (r *registration) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	r.register(h)
	return h
}

// timer times the log.
func (m *metrics) timer(clock backends.Clock) *wal.Timer {
	return &wal.Timer{
		Now: clock.Now,
		Wrote: func(bytes int, took time.Duration) {
			m.walWrite.Observe(took.Seconds())
			m.walBytes.Add(float64(bytes))
		},
		Synced: func(took time.Duration) { m.walSync.Observe(took.Seconds()) },
	}
}

// committed counts a commit of the store's file.
func (m *metrics) committed(t mvcc.CommitTimes) {
	if m == nil {
		return
	}
	m.commit.Observe(t.Total.Seconds())
	m.rebalance.Observe(t.Rebalance.Seconds())
	m.spill.Observe(t.Spill.Seconds())
	m.write.Observe(t.Write.Seconds())
}

// compacted counts a compaction that ended at now.
func (m *metrics) compacted(took time.Duration, now time.Time) {
	if m == nil {
		return
	}
	m.compactTotal.Observe(float64(took.Milliseconds()))
	m.compactLast.Set(float64(now.Unix()))
}

// compactedBatch counts one transaction of a compaction.
func (m *metrics) compactedBatch(removed int, took time.Duration) {
	if m == nil {
		return
	}
	m.compactPause.Observe(float64(took.Microseconds()) / 1000)
	m.compactedKeys.Add(float64(removed))
}

// leaseGranted counts a lease.
func (m *metrics) leaseGranted(ttlSeconds int64) {
	if m == nil {
		return
	}
	m.granted.Inc()
	m.ttl.Observe(float64(ttlSeconds))
}

// leaseEnded counts a lease that was revoked with its keys; expired tells that nobody
// asked for it.
func (m *metrics) leaseEnded(keys int, expired bool) {
	if m == nil {
		return
	}
	m.revoked.Inc()
	m.deletes.Add(float64(keys))
	if expired {
		m.ended.Inc()
	}
}

// appliedCommand counts a command. A refusal for a revision that is compacted is a
// success, as etcd counts it.
func (m *metrics) appliedCommand(c *command, err error, took time.Duration) {
	if m == nil {
		return
	}
	if took > slowApply {
		m.slowApplies.Inc()
	}
	op, success := c.op(), err == nil || errors.Is(err, backends.ErrCompacted)
	if op == "Put" && success {
		m.appliedPut.Observe(took.Seconds())
	} else {
		m.applied.WithLabelValues("v3", op, strconv.FormatBool(success)).Observe(took.Seconds())
	}
}

// op is etcd's word for a command (etcdserver/apply/uber_applier.go, dispatch).
func (c *command) op() string {
	switch c.kind {
	case kindTxn:
		if t := c.txn; len(t.Compare) == 0 && len(t.Success) == 1 && len(t.Failure) == 0 {
			if t.Success[0].Put != nil {
				return "Put"
			}
			if t.Success[0].Delete != nil {
				return "DeleteRange"
			}
		}
		return "Txn"
	case kindCompact:
		return "Compaction"
	case kindLeaseGrant:
		return "LeaseGrant"
	case kindLeaseRevoke:
		return "LeaseRevoke"
	case kindCheckpoint:
		return "LeaseCheckpoint"
	case kindAlarm:
		return "Alarm"
	case kindAttributes:
		return "ClusterMemberAttrSet"
	case kindVersion:
		return "ClusterVersionSet"
	case kindDowngrade:
		return "DowngradeInfoSet"
	case kindMember:
		return "ConfChange" // etcd does not count these here
	case kindAuthenticate:
		return "Authenticate"
	case kindAuthChange:
		return authOps[c.change.Kind]
	}
	return "unknown"
}

// authOps are etcd's words for changes of users and roles.
var authOps = map[auth.ChangeKind]string{
	auth.Enable: "AuthEnable", auth.Disable: "AuthDisable", auth.UserAdd: "AuthUserAdd", auth.UserDelete: "AuthUserDelete",
	auth.UserPassword: "AuthUserChangePassword", auth.UserGrant: "AuthUserGrantRole", auth.UserRevoke: "AuthUserRevokeRole",
	auth.RoleAdd: "AuthRoleAdd", auth.RoleDelete: "AuthRoleDelete", auth.RoleGrant: "AuthRoleGrantPermission", auth.RoleRevoke: "AuthRoleRevokePermission",
}

// tally is what the operations of a transaction came to. As in etcd a previous record
// that is asked for is a range.
type tally struct {
	ranges, puts, deletes int
	putBytes              int
}

func (t *tally) put(o *backends.PutOp) {
	t.puts++
	t.putBytes += len(o.Key) + len(o.Value)
	if o.PrevKV || o.IgnoreValue || o.IgnoreLease {
		t.ranges++
	}
}

func (t *tally) delete(o *backends.DeleteOp) {
	t.deletes++
	if o.PrevKV {
		t.ranges++
	}
}

// ran counts a transaction.
func (m *metrics) ran(t tally) {
	if m == nil {
		return
	}
	m.ranges.Add(float64(t.ranges))
	m.puts.Add(float64(t.puts))
	m.deletes.Add(float64(t.deletes))
	m.putBytes.Add(float64(t.putBytes))
	if t.ranges+t.puts+t.deletes > 1 {
		m.txns.Inc()
	}
}

// answered counts a request of a kind in etcd's words.
func (m *metrics) answered(kind string, err error, took time.Duration) {
	switch {
	case err == nil && kind == "Range":
		m.requestRange.Observe(took.Seconds())
	case err == nil && kind == "Put":
		m.requestPut.Observe(took.Seconds())
	default:
		m.requests.WithLabelValues(kind, strconv.FormatBool(err == nil)).Observe(took.Seconds())
	}
}

// read counts a range that took so long.
func (m *metrics) read(err error, took time.Duration) {
	m.ranges.Inc()
	if err != nil {
		m.rangeFailed.Observe(took.Seconds())
		return
	}
	m.ranged.Observe(took.Seconds())
}

// present are the metrics that are read at each scrape.
func (b *Backend) present() []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	id := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "etcd_server_id", Help: "Id of this member, in hexadecimal.",
		ConstLabels: prometheus.Labels{"server_id": formatID(b.machine.header.MemberID)},
	})
	id.Set(1)
	return []prometheus.Collector{
		id,
		gauge("etcd_debugging_mvcc_keys_total", "Keys.", func() float64 { return float64(b.store.Keys()) }),
		gauge("etcd_debugging_mvcc_watch_stream_total", "Streams of watches.", func() float64 { return float64(b.hub.counts().streams) }),
		gauge("etcd_debugging_mvcc_watcher_total", "Watches.", func() float64 { return float64(b.hub.counts().watches) }),
		gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that read history.", func() float64 { return float64(b.hub.counts().lagging) }),
		gauge("etcd_debugging_auth_revision", "Revision of users, roles and permissions.", func() float64 { return float64(b.machine.auth.Load().Revision()) }),
		gauge("etcd_mvcc_db_open_read_transactions", "Read transactions that are open on the store's file.", func() float64 { return float64(b.store.OpenReads()) }),
		gauge("shim_store_layer_bytes", "Bytes of applied writes that are not in the store's file yet.", func() float64 { return float64(b.store.LayerBytes()) }),
		gauge("shim_watch_queued_bytes", "Bytes of events that wait for watchers.", func() float64 { return float64(b.hub.queued.Load()) }),
		newReplicatedCollector(b),
	}
}

// replicatedCollector tells the members, of which those removed are 0, and the raised
// alarms.
type replicatedCollector struct {
	backend        *Backend
	peers, raising *prometheus.Desc
}

func newReplicatedCollector(b *Backend) replicatedCollector {
	return replicatedCollector{
		backend: b,
		peers:   prometheus.NewDesc("etcd_network_known_peers", "Members that are known.", []string{"Local", "Remote"}, nil),
		raising: prometheus.NewDesc("etcd_debugging_server_alarms", "Raised alarms.", []string{"server_id", "alarm_type"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c replicatedCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.peers
	out <- c.raising
}

// Collect implements prometheus.Collector.
func (c replicatedCollector) Collect(out chan<- prometheus.Metric) {
	m := c.backend.machine
	self, members := formatID(m.header.MemberID), m.members.Load()
	for _, r := range members.list {
		out <- prometheus.MustNewConstMetric(c.peers, prometheus.GaugeValue, 1, self, formatID(r.ID))
	}
	for id := range members.removed {
		out <- prometheus.MustNewConstMetric(c.peers, prometheus.GaugeValue, 0, self, formatID(id))
	}
	for _, a := range m.alarms.Load().of(backends.AlarmNone) {
		out <- prometheus.MustNewConstMetric(c.raising, prometheus.GaugeValue, 1, formatID(a.MemberID), etcdserverpb.AlarmType(a.Kind).String())
	}
}
