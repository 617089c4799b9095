package lease

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

// origin is any moment; it has no monotonic reading, which changes nothing.
var origin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time {
	return origin.Add(time.Duration(seconds * float64(time.Second)))
}

func leader(t *testing.T, grants ...Record) *Table {
	t.Helper()
	table := New()
	table.Promote(origin, 0)
	for _, g := range grants {
		if _, err := table.Grant(g.ID, g.TTLSeconds, origin); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

func wantIDs(t *testing.T, what string, got []int64, want ...int64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestGrantErrors(t *testing.T) {
	table := leader(t, Record{ID: 1, TTLSeconds: 10})
	for _, c := range []struct {
		id, ttl int64
		want    error
	}{
		{0, MaxTTLSeconds + 1, backends.ErrLeaseNotFound},
		{1, MaxTTLSeconds + 1, backends.ErrLeaseTTLTooLarge},
		{1, 10, backends.ErrLeaseExists},
		{2, MaxTTLSeconds, nil},
		{-3, -5, nil},
	} {
		_, err := table.Grant(c.id, c.ttl, origin)
		wantErr(t, fmt.Sprintf("grant %d, %d s", c.id, c.ttl), err, c.want)
	}
	if r, err := table.Get(-3); err != nil || r.TTLSeconds != 1 {
		t.Errorf("a TTL of -5 s became %+v, %v, want 1 s", r, err)
	}
	if left, err := table.Remaining(2, origin); err != nil || left != MaxTTLSeconds*time.Second {
		t.Errorf("the largest TTL leaves %v, %v", left, err)
	}
}

func TestUnknownLease(t *testing.T) {
	table := leader(t)
	_, err := table.Get(7)
	wantErr(t, "get", err, backends.ErrLeaseNotFound)
	_, err = table.Keys(7)
	wantErr(t, "keys", err, backends.ErrLeaseNotFound)
	_, err = table.Renew(7, origin)
	wantErr(t, "renew", err, backends.ErrLeaseNotFound)
	_, err = table.Remaining(7, origin)
	wantErr(t, "remaining", err, backends.ErrLeaseNotFound)
	wantErr(t, "revoke", table.Revoke(7), backends.ErrLeaseNotFound)
	wantErr(t, "attach", table.Attach(7, []byte("a")), backends.ErrLeaseNotFound)
	table.Detach(7, []byte("a"))
	if _, ok := table.ApplyCheckpoint(7, 1); ok {
		t.Error("a checkpoint of no lease made a record")
	}
}

func TestKeysAreSortedAndDetached(t *testing.T) {
	table := leader(t, Record{ID: 1, TTLSeconds: 10}, Record{ID: 2, TTLSeconds: 10})
	for _, k := range []string{"b", "a\x00", "a", "c", "a"} {
		if err := table.Attach(1, []byte(k)); err != nil {
			t.Fatal(err)
		}
	}
	table.Detach(1, []byte("c"))
	table.Detach(2, []byte("b"))
	keys, err := table.Keys(1)
	if got := fmt.Sprintf("%q", keys); err != nil || got != `["a" "a\x00" "b"]` {
		t.Errorf("keys %s, %v", got, err)
	}
	if keys, err := table.Keys(2); err != nil || len(keys) != 0 {
		t.Errorf("keys of a lease without any: %q, %v", keys, err)
	}
}

func TestExpiry(t *testing.T) {
	table := leader(t, Record{ID: 3, TTLSeconds: 10}, Record{ID: 1, TTLSeconds: 10}, Record{ID: 2, TTLSeconds: 5}, Record{ID: 4, TTLSeconds: 60})
	wantIDs(t, "list", table.List(), 2, 1, 3, 4)
	wantIDs(t, "before any deadline", table.Expired(at(4.999), 10))
	wantIDs(t, "at the first deadline", table.Expired(at(5), 10), 2)
	if ttl, err := table.Renew(3, at(4.9)); err != nil || ttl != 10 {
		t.Errorf("renew: %d, %v", ttl, err)
	}
	_, err := table.Renew(2, at(5))
	wantErr(t, "renew at the deadline", err, ErrExpired)
	wantIDs(t, "reported once", table.Expired(at(7.999), 10))
	wantIDs(t, "reported again after 3 s", table.Expired(at(8), 10), 2)
	if err := table.Revoke(2); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, "bounded", table.Expired(at(15), 1), 1)
	wantIDs(t, "the rest", table.Expired(at(15), 1), 3)
	wantIDs(t, "list with expired ones", table.List(), 1, 3, 4)
	if left, err := table.Remaining(1, at(15)); err != nil || left != -5*time.Second {
		t.Errorf("remaining after the deadline: %v, %v", left, err)
	}
}

func TestCheckpoints(t *testing.T) {
	table := leader(t, Record{ID: 1, TTLSeconds: 60}, Record{ID: 2, TTLSeconds: 60}, Record{ID: 3, TTLSeconds: 300})
	if due, ok := table.NextDue(); !ok || !due.Equal(at(30)) {
		t.Errorf("next due %v, %v", due, ok)
	}
	if got := table.Checkpoints(at(29.9), 10); got != nil {
		t.Errorf("before TTL/2: %v", got)
	}
	if _, err := table.Renew(2, at(20.5)); err != nil {
		t.Fatal(err)
	}
	want := func(now float64, c ...Checkpoint) {
		t.Helper()
		if got := table.Checkpoints(at(now), 10); !slices.Equal(got, c) {
			t.Errorf("at %v s: %v, want %v", now, got, c)
		}
	}
	want(30.2, Checkpoint{1, 30})
	table.ApplyCheckpoint(1, 30)
	want(40.9)
	want(41, Checkpoint{1, 19})
	want(50.9)
	want(52, Checkpoint{2, 29}) // the one of 1 is still on its way
	table.ApplyCheckpoint(1, 19)
	want(60) // 1 waits to be revoked
	wantIDs(t, "expired", table.Expired(at(60), 10), 1)
}

// A healthy lease, renewed each third of its TTL, never makes a checkpoint.
func TestHealthyLeaseMakesNoCheckpoint(t *testing.T) {
	table := leader(t, Record{ID: 1, TTLSeconds: 30})
	for s := 1; s < 3600; s++ {
		if s%10 == 0 {
			if _, err := table.Renew(1, at(float64(s))); err != nil {
				t.Fatalf("renew at %d s: %v", s, err)
			}
		}
		if c := table.Checkpoints(at(float64(s)), 10); c != nil {
			t.Fatalf("at %d s: %v", s, c)
		}
	}
}

// No keep-alive may be acknowledged between the moment a checkpoint is taken
// and the moment it is reset: the checkpoint would shorten the lease under the
// next leader.
func TestRenewWaitsForReset(t *testing.T) {
	table := leader(t, Record{ID: 1, TTLSeconds: 60})
	cs := table.Checkpoints(at(30), 10)
	_, err := table.Renew(1, at(31))
	wantErr(t, "a checkpoint is on its way", err, ErrCheckpointed)
	table.ApplyCheckpoint(1, 0)
	_, err = table.Renew(1, at(31))
	wantErr(t, "a reset before the checkpoint is applied", err, ErrCheckpointed)
	if r, ok := table.ApplyCheckpoint(1, cs[0].RemainingTTLSeconds); !ok || r != (Record{1, 60, 30}) {
		t.Errorf("record %+v, %v", r, ok)
	}
	_, err = table.Renew(1, at(32))
	wantErr(t, "the checkpoint is applied", err, ErrCheckpointed)
	if r, ok := table.ApplyCheckpoint(1, 0); !ok || r != (Record{1, 60, 0}) {
		t.Errorf("record %+v, %v", r, ok)
	}
	if ttl, err := table.Renew(1, at(33)); err != nil || ttl != 60 {
		t.Errorf("after the reset: %d, %v", ttl, err)
	}
	if left, _ := table.Remaining(1, at(33)); left != time.Minute {
		t.Errorf("remaining %v", left)
	}
}

func TestRefusedCheckpoint(t *testing.T) {
	table := leader(t, Record{ID: 1, TTLSeconds: 60})
	cs := table.Checkpoints(at(30), 10)
	if again := table.Checkpoints(at(40), 10); again != nil {
		t.Errorf("handed out twice: %v", again)
	}
	table.RefuseCheckpoints(cs)
	if _, err := table.Renew(1, at(41)); err != nil {
		t.Errorf("renew after the refusal: %v", err)
	}
	if got := table.Checkpoints(at(71), 10); len(got) != 1 || got[0] != (Checkpoint{1, 30}) {
		t.Errorf("half a TTL after the renewal: %v", got)
	}
}

// Checkpoints that fall due within one second travel together.
func TestCheckpointsTravelTogether(t *testing.T) {
	table := leader(t)
	for i := range int64(100) {
		if _, err := table.Grant(i+1, 60, at(float64(i)/101)); err != nil {
			t.Fatal(err)
		}
	}
	due, ok := table.NextDue()
	if !ok {
		t.Fatal("nothing due")
	}
	first := table.Checkpoints(due, 1000)
	next, _ := table.NextDue()
	second := table.Checkpoints(next, 1000)
	if len(first)+len(second) != 100 || next.Sub(due) != time.Second {
		t.Errorf("%d at once, %d at %v later", len(first), len(second), next.Sub(due))
	}
}

func TestLeadership(t *testing.T) {
	table := New()
	for _, r := range []Record{{1, 100, 0}, {2, 100, 7}, {3, 50, 0}} {
		if err := table.Load(r); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, "loaded twice", table.Load(Record{ID: 1, TTLSeconds: 5}), backends.ErrLeaseExists)
	wantIDs(t, "list of a follower", table.List(), 2, 3, 1)
	wantIDs(t, "a follower expires nothing", table.Expired(at(1e6), 10))
	if _, ok := table.NextDue(); ok {
		t.Error("a follower has something due")
	}
	_, err := table.Renew(1, origin)
	wantErr(t, "renew on a follower", err, backends.ErrNotLeader)
	_, err = table.Remaining(1, origin)
	wantErr(t, "remaining on a follower", err, backends.ErrNotLeader)

	table.Promote(at(1000), 2*time.Second)
	wantIDs(t, "list of the leader", table.List(), 2, 3, 1)
	wantIDs(t, "just before", table.Expired(at(1008.999), 10))
	wantIDs(t, "checkpoint + extension", table.Expired(at(1009), 10), 2)
	if left, err := table.Remaining(1, at(1001)); err != nil || left != 101*time.Second {
		t.Errorf("remaining %v, %v", left, err)
	}
	table.Demote()
	wantIDs(t, "demoted", table.Expired(at(1e6), 10))
	table.Promote(at(2000), 0)
	if left, err := table.Remaining(2, at(2000)); err != nil || left != 7*time.Second {
		t.Errorf("promoted again: %v, %v", left, err)
	}
	if err := table.check(); err != nil {
		t.Error(err)
	}
}
