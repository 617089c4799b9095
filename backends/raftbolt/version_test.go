package raftbolt

import (
	"context"
	"errors"
	"testing"

	"github.com/etcdshim/shim/backends"
)

func (m *member) downgrade(action backends.DowngradeAction, target string) (string, error) {
	r, err := m.Downgrade(context.Background(), &backends.DowngradeRequest{Action: action, TargetVersion: target})
	return r.ClusterVersion, err
}

// A downgrade that is enabled makes the cluster speak the version before, and its
// store be written for it, within the leader's next look, and so over restarts; until
// it is cancelled.
func TestDowngrade(t *testing.T) {
	dir, clock := t.TempDir(), newTestClock()
	open := func() *member {
		return openIn(t, dir, func(_ *Config, e *backends.Env) { e.Clock = clock })
	}
	m := open()
	speaks := func(version string) {
		t.Helper()
		eventually(t, "the cluster speaks "+version, func() bool {
			s, err := m.Status(context.Background())
			return err == nil && s.ClusterVersion == version && s.StorageVersion == version
		})
	}
	speaks("3.7.0")
	for target, want := range map[string]error{"3.6.0": nil, "3.7.0": backends.ErrInvalidDowngradeTarget, "3.5.0": backends.ErrInvalidDowngradeTarget, "": backends.ErrInvalidDowngradeTarget} {
		if version, err := m.downgrade(backends.DowngradeValidate, target); !errors.Is(err, want) || err == nil && version != "3.7" {
			t.Errorf("validate %q: %q, %v, want %v", target, version, err, want)
		}
	}
	if version, err := m.downgrade(backends.DowngradeCancel, ""); err != nil || version != "3.7" {
		t.Errorf("cancel of nothing: %q, %v", version, err)
	}
	if version, err := m.downgrade(backends.DowngradeEnable, "3.6.0"); err != nil || version != "3.7" {
		t.Errorf("enable: %q, %v", version, err)
	}
	if _, err := m.downgrade(backends.DowngradeEnable, "3.6.0"); !errors.Is(err, backends.ErrDowngradeInProcess) {
		t.Errorf("enable again: %v", err)
	}
	clock.awaitTimer(t, versionCheckEvery)
	clock.advance(versionCheckEvery)
	speaks("3.6.0")
	m.put("a", "1")
	m.close()
	if report, err := Check(CheckConfig{DataDir: dir}); err != nil || len(report.Findings) > 0 {
		t.Errorf("check: %+v, %v", report, err)
	}
	m = open()
	speaks("3.6.0")
	want := backends.DowngradeInfo{Enabled: true, TargetVersion: "3.6.0"}
	if s, err := m.Status(context.Background()); err != nil || s.Downgrade != want {
		t.Errorf("status after a restart: %+v, %v", s, err)
	}
	snapshot, err := m.Snapshot(context.Background(), backends.Caller{})
	if err != nil || snapshot.StorageVersion != "3.6.0" {
		t.Errorf("snapshot: %+v, %v", snapshot, err)
	}
	if err := snapshot.Close(); err != nil {
		t.Error(err)
	}
	if version, err := m.downgrade(backends.DowngradeCancel, ""); err != nil || version != "3.6" {
		t.Errorf("cancel: %q, %v", version, err)
	}
	clock.awaitTimer(t, versionCheckEvery)
	clock.advance(versionCheckEvery)
	speaks("3.7.0")
	m.close()
	m = open()
	speaks("3.7.0")
	if s, err := m.Status(context.Background()); err != nil || s.Downgrade != (backends.DowngradeInfo{}) {
		t.Errorf("status after all: %+v, %v", s, err)
	}
	if got := m.all()["a"]; got != "1" {
		t.Errorf("a = %q", got)
	}
}

// What the leader makes of the version that the cluster speaks.
func TestVersionCommand(t *testing.T) {
	enabled := func(target string) backends.DowngradeInfo {
		return backends.DowngradeInfo{Enabled: true, TargetVersion: target}
	}
	for _, c := range []struct {
		state clusterState
		want  command
	}{
		{clusterState{}, command{kind: kindVersion, version: "3.7.0"}}, // restored
		{clusterState{version: "3.7.0"}, command{}},
		{clusterState{version: "3.6.0"}, command{kind: kindVersion, version: "3.7.0"}},
		{clusterState{version: "3.4.0"}, command{kind: kindVersion, version: "3.7.0"}},
		{clusterState{version: "3.7.0", downgrade: enabled("3.6.0")}, command{kind: kindVersion, version: "3.6.0"}},
		{clusterState{version: "3.6.0", downgrade: enabled("3.6.0")}, command{}},
		{clusterState{version: "3.6.0", downgrade: enabled("3.5.0")}, command{}}, // this program could not start again
		{clusterState{version: "3.7.0", downgrade: enabled("3.5.0")}, command{}},
		{clusterState{version: "3.7.0", downgrade: enabled("3.7.0")}, command{kind: kindDowngrade}}, // it is done
	} {
		m := &machine{}
		m.members.Store(&memberSet{list: []memberRecord{{ID: 1}}})
		m.cluster.Store(&c.state)
		got := command{}
		if p := m.versionCommand(); p != nil {
			got = *p
		}
		if got.kind != c.want.kind || got.version != c.want.version || got.enabled {
			t.Errorf("%+v: %+v, want %+v", c.state, got, c.want)
		}
		// The version of a member that is not there is not known.
		m.members.Store(&memberSet{list: []memberRecord{{ID: 1}, {ID: 2, IsLearner: true}}})
		if p := m.versionCommand(); p != nil {
			t.Errorf("%+v with a member of unknown version: %+v", c.state, p)
		}
	}
}

// The cluster bucket is read strictly.
func TestClusterState(t *testing.T) {
	for key, values := range map[string]map[string]bool{
		clusterVersionKey: {"3.7.0": true, "3.7": false, "3.7.1": false, "": false, "x": false, "3.7.0x": false},
		downgradeKey: {`{"target-version":"","enabled":false}`: true, `{"target-version":"3.6.0","enabled":true}`: true,
			`{"target-version":"3.6","enabled":true}`: false, `{`: false},
		"other": {"": false},
	} {
		for value, ok := range values {
			if err := new(clusterState).read([]byte(key), []byte(value)); (err == nil) != ok {
				t.Errorf("%s %q: %v", key, value, err)
			}
		}
	}
}
