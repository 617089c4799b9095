package raftbolt

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

// betweenParts is the pause between two parts of a Defragment: mvcc's defragPause.
const betweenParts = 5 * time.Millisecond

// TestDefragmentAcknowledges ensures that writes, reads, leases, compactions and
// hashes are answered while a Defragment stands in its middle, which the clock holds
// there, and that all of it is in the new file.
func TestDefragmentAcknowledges(t *testing.T) {
	clock, dir := newTestClock(), t.TempDir()
	m := openIn(t, dir, func(_ *Config, e *backends.Env) { e.Clock = clock })
	for i := range 12 {
		m.put(fmt.Sprint("big/", i), strings.Repeat("b", 1<<20))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := m.Defragment(ctx, backends.Caller{})
		done <- err
	}()
	clock.awaitTimer(t, betweenParts)

	revision := m.put("during", "1")
	m.grant(7, 1000)
	for _, op := range []backends.TxnOp{one(leased("leased", 7)), one(del("big/3", "")), one(put("during", "2"), get("big/1", 0)), one(get("during", revision))} {
		if _, err := m.txn(op); err != nil {
			t.Errorf("%+v: %v", op, err)
		}
	}
	if _, err := m.Compact(ctx, &backends.CompactRequest{Revision: revision}); err != nil {
		t.Errorf("compact: %v", err)
	}
	// A hash is taken of the file: what was written is flushed.
	hash, err := m.HashKV(ctx, backends.Caller{}, 0)
	if err != nil || hash.CompactRevision != revision {
		t.Errorf("hash: %+v, %v", hash, err)
	}
	want := m.all()
	if len(want) != 13 || want["during"] != "2" {
		t.Errorf("%d keys, %q", len(want), want["during"])
	}
	select {
	case err := <-done:
		t.Fatalf("it did not stand still: %v", err)
	default:
	}

	for ended := false; !ended; {
		clock.mu.Lock()
		asked := clock.asked
		clock.mu.Unlock()
		clock.advance(betweenParts)
		select {
		case err := <-done:
			if ended = true; err != nil {
				t.Fatal(err)
			}
		case <-asked:
		case <-ctx.Done():
			t.Fatal("it does not end")
		}
	}
	check := func() {
		t.Helper()
		again, err := m.HashKV(ctx, backends.Caller{}, 0)
		if err != nil || again.Hash != hash.Hash {
			t.Errorf("hash: %+v, %v, was %+v", again, err, hash)
		}
		if got := m.all(); !maps.Equal(got, want) {
			t.Errorf("%d keys, want %d", len(got), len(want))
		}
	}
	check()
	m.close()
	m = openIn(t, dir, nil)
	check()
}
