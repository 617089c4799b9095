package raftbolt

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

// member is an open backend with short forms of its methods.
type member struct {
	*Backend
	t *testing.T
}

func testEnv(t *testing.T) backends.Env {
	return backends.Env{
		Logger: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)), Metrics: prometheus.NewRegistry(), Clock: backends.SystemClock{},
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	}
}

// openIn opens a member in dir, which is made private. It is closed at the end of the test unless it was.
func openIn(t *testing.T, dir string, change func(*Config, *backends.Env)) *member {
	t.Helper()
	if err := os.Chmod(dir, privateDir); err != nil {
		t.Fatal(err)
	}
	config, env := Config{DataDir: dir}, testEnv(t)
	if change != nil {
		change(&config, &env)
	}
	b, err := Open(context.Background(), config, env)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{b, t}
	t.Cleanup(m.close)
	select {
	case <-b.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("not ready after 20 s")
	}
	return m
}

func (m *member) close() {
	m.t.Helper()
	if err := m.Close(context.Background()); err != nil {
		m.t.Errorf("close: %v", err)
	}
}

func (m *member) txn(op backends.TxnOp) (*backends.TxnResult, error) {
	r, err := m.Txn(context.Background(), &backends.TxnRequest{TxnOp: op})
	if err == nil {
		m.t.Cleanup(r.Close)
	}
	return r, err
}

func put(key, value string) backends.Op {
	return backends.Op{Put: &backends.PutOp{Key: []byte(key), Value: []byte(value)}}
}

func leased(key string, id int64) backends.Op {
	return backends.Op{Put: &backends.PutOp{Key: []byte(key), Lease: id}}
}

func del(key, end string) backends.Op {
	return backends.Op{Delete: &backends.DeleteOp{KeyRange: backends.KeyRange{Key: []byte(key), End: []byte(end)}, PrevKV: true}}
}

func get(key string, revision int64) backends.Op {
	return backends.Op{Range: &backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte(key)}, Revision: revision}}
}

func one(ops ...backends.Op) backends.TxnOp { return backends.TxnOp{Success: ops} }

func (m *member) put(key, value string) int64 {
	m.t.Helper()
	r, err := m.txn(one(put(key, value)))
	if err != nil {
		m.t.Fatalf("put %s: %v", key, err)
	}
	return r.Header.Revision
}

func drain(t *testing.T, c backends.Cursor) []*mvccpb.KeyValue {
	t.Helper()
	defer c.Close()
	var kvs []*mvccpb.KeyValue
	for {
		chunk, err := c.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return kvs
		}
		if err != nil {
			t.Fatal(err)
		}
		for record := range chunk.Records() {
			kv := new(mvccpb.KeyValue)
			if err := proto.Unmarshal(record, kv); err != nil {
				t.Fatal(err)
			}
			kvs = append(kvs, kv)
		}
		chunk.Release()
	}
}

// all reads every key into a map.
func (m *member) all() map[string]string {
	m.t.Helper()
	c, err := m.Range(context.Background(), &backends.RangeRequest{
		RangeOptions: backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte{0}, End: []byte{0}}}})
	if err != nil {
		m.t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range drain(m.t, c) {
		out[string(kv.Key)] = string(kv.Value)
	}
	return out
}

func (m *member) grant(id, ttl int64) {
	m.t.Helper()
	if _, err := m.LeaseGrant(context.Background(), backends.Caller{}, id, ttl); err != nil {
		m.t.Fatal(err)
	}
}

// copyDir copies a data directory as a kill would leave it: whatever was written,
// in whatever order it is read here.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	// The store before the log, as the log may only be newer.
	for _, sub := range []string{"member/snap", "member/wal", "member"} {
		if err := os.MkdirAll(filepath.Join(to, sub), privateDir); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(filepath.Join(from, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			b, err := os.ReadFile(filepath.Join(from, sub, e.Name()))
			if errors.Is(err, os.ErrNotExist) {
				continue // recycled meanwhile
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(to, sub, e.Name()), b, privateFile); err != nil {
				t.Fatal(err)
			}
		}
	}
	return to
}

// testClock is a clock that a test moves.
type testClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*testTimer]struct{}
	// asked is closed and replaced at each After.
	asked chan struct{}
}

type testTimer struct {
	at time.Time
	c  chan time.Time
}

func newTestClock() *testClock {
	return &testClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), timers: map[*testTimer]struct{}{}, asked: make(chan struct{})}
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) After(d time.Duration) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &testTimer{c.now.Add(d), make(chan time.Time, 1)}
	if d <= 0 {
		t.c <- c.now
	} else {
		c.timers[t] = struct{}{}
	}
	close(c.asked)
	c.asked = make(chan struct{})
	return t.c, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, t)
	}
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for t := range c.timers {
		if !t.at.After(c.now) {
			t.c <- c.now
			delete(c.timers, t)
		}
	}
}

// awaitTimer returns once somebody waits for a time after which exactly d is
// left.
func (c *testClock) awaitTimer(t *testing.T, d time.Duration) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		asked := c.asked
		for timer := range c.timers {
			if timer.at.Equal(c.now.Add(d)) {
				c.mu.Unlock()
				return
			}
		}
		c.mu.Unlock()
		select {
		case <-asked:
		case <-deadline:
			t.Fatalf("nobody waits for %v", d)
		}
	}
}

// eventually waits until what holds. It is for what another goroutine of the
// product does without telling.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 20 s: not %s", what)
		}
	}
}
