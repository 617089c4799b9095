package raftbolt

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
)

func (m *member) alarm(action backends.AlarmAction, id uint64, kind backends.AlarmKind) []backends.Alarm {
	m.t.Helper()
	r, err := m.Alarm(context.Background(), &backends.AlarmRequest{Action: action, MemberID: id, Kind: kind})
	if err != nil {
		m.t.Fatal(err)
	}
	return r.Alarms
}

// outcomes tries one request of each kind.
func (m *member) outcomes() map[string]error {
	ctx := context.Background()
	out := map[string]error{}
	_, out["put"] = m.txn(one(put("x", "1")))
	_, out["nested put"] = m.txn(one(backends.Op{Txn: &backends.TxnOp{Failure: []backends.Op{put("x", "1")}}}))
	_, out["delete"] = m.txn(one(del("x", "")))
	_, out["read"] = m.txn(one(get("x", 0)))
	_, out["grant"] = m.LeaseGrant(ctx, backends.Caller{}, 5, 60)
	_, out["revoke"] = m.LeaseRevoke(ctx, backends.Caller{}, 5)
	_, out["compact"] = m.Compact(ctx, &backends.CompactRequest{Revision: 2})
	return out
}

// What etcd 3.7.3 refuses while an alarm is raised, also by another member and
// also after a restart.
func TestAlarmGates(t *testing.T) {
	dir := t.TempDir()
	m := openIn(t, dir, nil)
	m.put("a", "1")
	m.grant(4, 60)
	m.alarm(backends.AlarmActivate, 5, backends.AlarmNoSpace)
	m.close()
	m = openIn(t, dir, nil)
	for what, err := range m.outcomes() {
		want := map[string]error{"put": backends.ErrNoSpace, "nested put": backends.ErrNoSpace, "grant": backends.ErrNoSpace,
			"revoke": backends.ErrLeaseNotFound}[what]
		if !errors.Is(err, want) {
			t.Errorf("no space: %s: %v, want %v", what, err, want)
		}
	}
	if _, err := m.LeaseGrant(context.Background(), backends.Caller{}, 5, 1<<40); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("no space: a grant for too long: %v", err)
	}
	if got := m.alarm(backends.AlarmDeactivate, 6, backends.AlarmNoSpace); len(got) != 0 {
		t.Errorf("cleared %v", got)
	}
	m.alarm(backends.AlarmActivate, 5, backends.AlarmCorrupt)
	if got := m.alarm(backends.AlarmGet, 0, backends.AlarmNone); len(got) != 2 {
		t.Errorf("raised %v", got)
	}
	for what, err := range m.outcomes() {
		want := backends.ErrCorrupt
		if what == "read" {
			want = nil
		}
		if !errors.Is(err, want) {
			t.Errorf("corrupt: %s: %v, want %v", what, err, want)
		}
	}
	m.alarm(backends.AlarmDeactivate, 5, backends.AlarmCorrupt)
	if got := m.alarm(backends.AlarmDeactivate, 5, backends.AlarmNoSpace); len(got) != 1 {
		t.Errorf("cleared %v", got)
	}
	m.put("x", "1")
	if _, err := m.Alarm(context.Background(), &backends.AlarmRequest{Action: 7}); err == nil {
		t.Error("an unknown action was taken")
	}
	// etcd keeps a kind that it does not know, and it refuses nothing.
	if got := m.alarm(backends.AlarmActivate, 5, 7); len(got) != 1 {
		t.Errorf("raised %v", got)
	}
	if got := m.alarm(backends.AlarmActivate, 5, backends.AlarmNone); len(got) != 0 {
		t.Errorf("raised %v of no kind", got)
	}
	m.put("x", "2")
	m.close()
	m = openIn(t, dir, nil)
	if got := m.alarm(backends.AlarmGet, 0, backends.AlarmNone); len(got) != 1 || got[0] != (backends.Alarm{MemberID: 5, Kind: 7}) {
		t.Errorf("raised after a restart: %v", got)
	}
	if got := m.alarm(backends.AlarmDeactivate, 5, 7); len(got) != 1 {
		t.Errorf("cleared %v", got)
	}
}

// The alarms are bounded.
func TestAlarmsAreBounded(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	for id := range uint64(maxAlarms) {
		m.alarm(backends.AlarmActivate, id, 7)
	}
	activate := &backends.AlarmRequest{Action: backends.AlarmActivate, MemberID: maxAlarms, Kind: 7}
	if _, err := m.Alarm(context.Background(), activate); !errors.Is(err, backends.ErrTooManyRequests) {
		t.Errorf("one more: %v", err)
	}
	m.alarm(backends.AlarmActivate, 1, 7) // it is there
	m.alarm(backends.AlarmDeactivate, 0, 7)
	if _, err := m.Alarm(context.Background(), activate); err != nil {
		t.Errorf("one more in place of another: %v", err)
	}
	if got := m.alarm(backends.AlarmDeactivate, 0, 7); len(got) != 0 {
		t.Errorf("cleared a second time: %v", got)
	}
	if got := m.alarm(backends.AlarmGet, 0, 7); len(got) != maxAlarms {
		t.Errorf("%d alarms of a kind that etcd does not know, want %d", len(got), maxAlarms)
	}
}

// The quota refuses and raises the alarm; deletes, compaction and the disarming
// go through, and then there is room again.
func TestQuota(t *testing.T) {
	const quota = 4 << 20
	m := openIn(t, t.TempDir(), func(c *Config, _ *backends.Env) { c.QuotaBytes = quota })
	value := strings.Repeat("v", 100_000)
	var err error
	writes := 0
	for ; err == nil && writes < 100; writes++ {
		_, err = m.txn(one(put("k", value)))
	}
	if !errors.Is(err, backends.ErrNoSpace) || writes < 10 {
		t.Fatalf("write %d: %v", writes, err)
	}
	self := m.machine.header.MemberID
	if got := m.alarm(backends.AlarmGet, 0, backends.AlarmNoSpace); len(got) != 1 || got[0].MemberID != self {
		t.Fatalf("raised %v", got)
	}
	r, err := m.txn(one(del("k", "")))
	if err != nil {
		t.Fatal(err)
	}
	r.Close() // what it deleted stays readable, and on disk, until then
	if _, err := m.Compact(context.Background(), &backends.CompactRequest{Revision: r.Header.Revision, Physical: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Defragment(context.Background(), backends.Caller{}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.txn(one(put("k", "1"))); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("a put before the alarm is cleared: %v", err)
	}
	m.alarm(backends.AlarmDeactivate, self, backends.AlarmNoSpace)
	m.put("k", "1")
	s, err := m.Status(context.Background())
	if err != nil || s.SizeBytes > quota/2 || s.QuotaBytes != quota {
		t.Errorf("status %+v, %v", s, err)
	}
}

// What there is no room for is refused for that reason, also when its alarm cannot be raised.
func TestQuotaWithoutItsAlarm(t *testing.T) {
	m := openIn(t, t.TempDir(), func(c *Config, e *backends.Env) { c.QuotaBytes, e.Logger = 1<<20, zap.NewNop() })
	for id := range uint64(maxAlarms) {
		m.alarm(backends.AlarmActivate, id+1, 7)
	}
	value := strings.Repeat("v", 100_000)
	var err error
	for range 20 {
		if _, err = m.txn(one(put("k", value))); err != nil {
			break
		}
	}
	if !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("beyond the quota: %v", err)
	}
	if got := m.alarm(backends.AlarmGet, 0, backends.AlarmNoSpace); len(got) != 0 {
		t.Errorf("raised: %v", got)
	}
	if _, err := m.txn(one(del("k", ""))); err != nil {
		t.Errorf("delete: %v", err)
	}
}
