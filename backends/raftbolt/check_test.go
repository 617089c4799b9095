package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
)

// busy gives m a history with everything that a directory can hold: keys that
// were changed, deleted and made again, leases alive and revoked, a transaction
// over many keys, a finished compaction, records of several pages, an alarm.
func busy(t *testing.T, m *member) {
	t.Helper()
	ctx := context.Background()
	compact := func(revision int64) {
		t.Helper()
		if _, err := m.Compact(ctx, &backends.CompactRequest{Revision: revision, Physical: true}); err != nil {
			t.Fatal(err)
		}
	}
	// Answers are closed at once: an open one holds up compaction.
	do := func(op backends.TxnOp) int64 {
		t.Helper()
		r, err := m.Txn(ctx, &backends.TxnRequest{TxnOp: op})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		return r.Header.Revision
	}
	m.grant(7, 600)
	m.grant(8, 600)
	round := func() int64 {
		t.Helper()
		for i := range 60 {
			do(one(put(fmt.Sprintf("key-%03d", i%45), strings.Repeat("v", 1+i*7))))
		}
		do(one(put("large", strings.Repeat("x", 20_000))))
		do(one(leased("leased/1", 7), leased("leased/2", 7), put("plain", "1")))
		do(one(del("key-01", "key-02")))
		return do(one(put("key-015", "again")))
	}
	do(one(leased("other", 8)))
	compact(round() - 1) // at a deletion, whose tombstones stay
	round()
	if _, err := m.LeaseRevoke(ctx, backends.Caller{}, 8); err != nil {
		t.Fatal(err)
	}
	compact(do(one(put("b", "2"))) - 20)
	round()
	if _, err := m.Alarm(ctx, &backends.AlarmRequest{Action: backends.AlarmActivate, MemberID: 5, Kind: backends.AlarmNoSpace}); err != nil {
		t.Fatal(err)
	}
}

// sound checks dir and fails on any finding. It returns the report.
func sound(t *testing.T, dir string) *CheckReport {
	t.Helper()
	r, err := Check(CheckConfig{DataDir: dir})
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	for _, f := range r.Findings {
		t.Errorf("finding: %s", f.What)
	}
	return r
}

func TestCheckOfASoundDirectory(t *testing.T) {
	dir := t.TempDir()
	m := openIn(t, dir, nil)
	busy(t, m)
	if _, err := Check(CheckConfig{DataDir: dir}); !errors.Is(err, ErrDirectoryInUse) {
		t.Errorf("check of a running member: %v", err)
	}
	killed := copyDir(t, dir)
	keys := len(m.all())
	m.close()

	before := tree(t, dir)
	r := sound(t, dir)
	if after := tree(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("the check changed the directory")
	}
	text := strings.Join(r.Checked, "\n")
	for _, want := range []string{fmt.Sprintf("%d keys, ", keys), "1 leases, 1 members, 1 alarms", " segments, "} {
		if !strings.Contains(text, want) {
			t.Errorf("the report has no %q:\n%s", want, text)
		}
	}
	sound(t, killed)
	// A check does not disturb the next start, nor the start the next check.
	openIn(t, killed, nil).close()
	sound(t, killed)
}

func TestCheckSaysWhenItCannot(t *testing.T) {
	missing := t.TempDir() + "/nothing"
	if _, err := Check(CheckConfig{DataDir: missing}); !errors.Is(err, ErrNoDirectory) {
		t.Errorf("a missing directory: %v", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the check made %s", missing)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/member/wal", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/member/wal/0000000000000000-0000000000000000.wal", []byte("etcd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(CheckConfig{DataDir: dir}); !errors.Is(err, ErrForeignDirectory) || !strings.Contains(err.Error(), "snapshot save") {
		t.Errorf("a directory of etcd's: %v", err)
	}
}
