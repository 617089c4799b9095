package raftbolt

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdshim/shim/backends"
)

// numbers gathers the values of counters and gauges, and the counts of histograms,
// summed over labels.
func numbers(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			out[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// TestMetrics: what the store does is counted under etcd's names, in etcd's way: a
// previous record that is asked for is a range, more than one operation a transaction.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	b := openIn(t, t.TempDir(), func(_ *Config, env *backends.Env) { env.Metrics = registry })
	before := numbers(t, registry)
	b.put("a", "12")
	several, err := b.Txn(context.Background(), &backends.TxnRequest{TxnOp: one(put("b", "1"), get("a", 0), del("none", ""))})
	if err != nil {
		t.Fatal(err)
	}
	several.Close() // what it read holds up the compaction
	if _, err := b.txn(one(leased("c", 9))); err == nil {
		t.Fatal("a lease that does not exist was attached")
	}
	b.grant(7, 100)
	if _, err := b.LeaseKeepAlive(context.Background(), backends.Caller{}, 7); err != nil {
		t.Fatal(err)
	}
	if _, err := b.txn(one(leased("d", 7))); err != nil {
		t.Fatal(err)
	}
	if _, err := b.LeaseRevoke(context.Background(), backends.Caller{}, 7); err != nil {
		t.Fatal(err)
	}
	drain(t, func() backends.Cursor {
		c, err := b.Range(context.Background(), &backends.RangeRequest{RangeOptions: *get("a", 0).Range})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}())
	if _, err := b.Compact(context.Background(), &backends.CompactRequest{Revision: 4, Physical: true}); err != nil {
		t.Fatal(err)
	}
	after := numbers(t, registry)
	for name, want := range map[string]float64{
		"etcd_mvcc_put_total": 3, "etcd_mvcc_delete_total": 2, "etcd_mvcc_txn_total": 1, "etcd_mvcc_range_total": 3,
		"etcd_debugging_mvcc_total_put_size_in_bytes": 3 + 2 + 1, "etcd_debugging_mvcc_keys_total": 2,
		"etcd_debugging_lease_granted_total": 1, "etcd_debugging_lease_revoked_total": 1, "etcd_debugging_lease_renewed_total": 1,
		"etcd_debugging_lease_ttl_total": 1, "etcd_debugging_server_lease_expired_total": 0,
		"etcd_server_range_duration_seconds": 1, "etcd_server_proposals_pending": 0, "etcd_server_proposals_failed_total": 0,
		"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": 1,
	} {
		if got := after[name] - before[name]; got != want {
			t.Errorf("%s grew by %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{
		"etcd_disk_wal_fsync_duration_seconds", "etcd_disk_wal_write_duration_seconds", "etcd_disk_wal_write_bytes_total",
		"etcd_disk_backend_commit_duration_seconds", "etcd_server_apply_duration_seconds",
	} {
		if after[name] <= before[name] {
			t.Errorf("%s stays at %v", name, after[name])
		}
	}
	if after["etcd_server_leader_changes_seen_total"] != 1 {
		t.Errorf("%v changes of the leader", after["etcd_server_leader_changes_seen_total"])
	}
}
