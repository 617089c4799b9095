package raftbolt

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
)

var update = flag.Bool("update", false, "rewrite golden files")

// specimens is a command of every kind, with every field set.
func specimens() map[string]command {
	id := requestID{0x0102030405060708, 0x1112131415161718, 3}
	keys := func(k, e string) backends.KeyRange {
		r := backends.KeyRange{Key: []byte(k)}
		if e != "" {
			r.End = []byte(e)
		}
		return r
	}
	return map[string]command{
		"put": {id: id, kind: kindTxn, txn: &backends.TxnOp{Success: []backends.Op{
			{Put: &backends.PutOp{Key: []byte("k"), Value: []byte("v"), Lease: -7, PrevKV: true}}}}},
		"txn": {id: id, kind: kindTxn, txn: &backends.TxnOp{
			Compare: []backends.Compare{
				{KeyRange: keys("a", "b"), Target: backends.CompareModRevision, Result: backends.CompareGreater, Number: 300},
				{KeyRange: keys("a", ""), Target: backends.CompareValue, Result: 99, Value: []byte("x")},
			},
			Success: []backends.Op{
				{Range: &backends.RangeOptions{KeyRange: keys("r", "\x00"), Revision: -5, Limit: 1 << 40, KeysOnly: true, CountOnly: true}},
				{Delete: &backends.DeleteOp{KeyRange: keys("d", "e"), PrevKV: true}},
				{Txn: &backends.TxnOp{Failure: []backends.Op{{Put: &backends.PutOp{Key: []byte("n"), IgnoreLease: true, IgnoreValue: true}}}}},
			},
			Failure: []backends.Op{{Put: &backends.PutOp{Key: []byte("f"), Value: []byte("g")}}},
		}},
		"compact":    {id: id, kind: kindCompact, revision: 1 << 33},
		"grant":      {id: id, kind: kindLeaseGrant, lease: -9, ttlSeconds: 60},
		"revoke":     {id: id, kind: kindLeaseRevoke, lease: 5, term: 9},
		"checkpoint": {id: id, kind: kindCheckpoint, term: 2, checkpoints: []lease.Checkpoint{{ID: 1, RemainingTTLSeconds: 30}, {ID: -1}}},
		"alarm": {id: id, kind: kindAlarm, action: backends.AlarmActivate,
			alarm: backends.Alarm{MemberID: 0xffffffffffffffff, Kind: backends.AlarmNoSpace}},
		"attributes": {id: id, kind: kindAttributes, member: 77, name: "one", urls: []string{"http://a:1", "http://b:2"}},
		"put of a caller": {id: id, kind: kindTxn, caller: backends.Caller{User: "alice", AuthRevision: 300}, txn: &backends.TxnOp{
			Success: []backends.Op{put("k", "v")}}},
		"user add": {id: id, kind: kindAuthChange, caller: backends.Caller{User: "root", AuthRevision: 7},
			change: &auth.Change{Kind: auth.UserAdd, User: "bob", Password: []byte("$2a$04$hash")}},
		"user add without password": {id: id, kind: kindAuthChange, change: &auth.Change{Kind: auth.UserAdd, User: "bob", NoPassword: true}},
		"user password":             {id: id, kind: kindAuthChange, change: &auth.Change{Kind: auth.UserPassword, User: "bob", BadPassword: true}},
		"user grant":                {id: id, kind: kindAuthChange, change: &auth.Change{Kind: auth.UserGrant, User: "bob", Role: "r"}},
		"role grant": {id: id, kind: kindAuthChange, change: &auth.Change{Kind: auth.RoleGrant, Role: "r",
			Permission: &backends.Permission{Kind: backends.PermissionReadWrite, KeyRange: keys("a", "b")}}},
		"role revoke":  {id: id, kind: kindAuthChange, change: &auth.Change{Kind: auth.RoleRevoke, Role: "r", Keys: keys("a", "\x00")}},
		"authenticate": {id: id, kind: kindAuthenticate, caller: backends.Caller{User: "bob", AuthRevision: 9}, token: "abcdefghijklmnop"},
		"version":      {id: id, kind: kindVersion, version: "3.7.0"},
		"downgrade":    {id: id, kind: kindDowngrade, enabled: true, version: "3.6.0"},
		"member":       {id: id, kind: kindMember, promote: true, maxLearners: 300, urls: []string{"http://a:1", "http://b:2"}},
	}
}

// specimenOrder is that of the golden file.
func specimenOrder() []string {
	return []string{"put", "txn", "compact", "grant", "revoke", "checkpoint", "alarm", "attributes", "put of a caller", "user add",
		"user add without password", "user password", "user grant", "role grant", "role revoke", "authenticate",
		"version", "downgrade", "member"}
}

// The encoding is part of the log's format: it must not change by accident.
func TestCommandGolden(t *testing.T) {
	path := filepath.Join("testdata", "commands.golden")
	var lines []string
	for _, name := range specimenOrder() {
		c := specimens()[name]
		lines = append(lines, name+" "+hex.EncodeToString(c.encode()))
	}
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("commands encode as\n%swant\n%s", got, want)
	}
}

func TestCommandRoundTrip(t *testing.T) {
	var d decoder
	for name, want := range specimens() {
		for range 2 { // the decoder's memory is used again
			got, err := d.decode(want.encode())
			if err != nil || !reflect.DeepEqual(*got, want) {
				t.Errorf("%s: %+v, %v, want %+v", name, *got, err, want)
			}
		}
	}
	// Two puts at once: the second must not fall on the first's memory.
	two := command{kind: kindTxn, txn: &backends.TxnOp{Success: []backends.Op{put("a", "1")}, Failure: []backends.Op{put("b", "2")}}}
	if got, err := d.decode(two.encode()); err != nil || !reflect.DeepEqual(*got, two) {
		t.Errorf("%+v, %v", got.txn, err)
	}
}

func TestCommandRefusals(t *testing.T) {
	var d decoder
	for name, c := range specimens() {
		b := c.encode()
		for n := range b {
			if _, err := d.decode(b[:n]); err == nil {
				t.Errorf("%s cut to %d of %d bytes was decoded", name, n, len(b))
			}
		}
		if _, err := d.decode(append(b[:len(b):len(b)], 0)); !errors.Is(err, errCommandMalformed) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
	}
	b := make([]byte, headerBytes)
	b[0], b[1] = 2, byte(kindCompact)
	if _, err := d.decode(b); !errors.Is(err, errCommandVersion) {
		t.Errorf("version 2: %v", err)
	}
	for _, kind := range []byte{0, 120, callerBit | 120} {
		b[0], b[1] = commandVersion, kind
		if _, err := d.decode(b); !errors.Is(err, errCommandKind) {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
	b[1] = byte(kindAuthChange)
	if _, err := d.decode(append(b[:headerBytes:headerBytes], byte(auth.RoleRevoke)+1, 0, 0, 0, 0, 0, 0, 0)); !errors.Is(err, errCommandKind) {
		t.Errorf("a change of an unknown kind: %v", err)
	}
	deep := &backends.TxnOp{}
	for range maxTxnDepth + 1 {
		deep = &backends.TxnOp{Success: []backends.Op{{Txn: deep}}}
	}
	c := command{kind: kindTxn, txn: deep}
	if _, err := d.decode(c.encode()); !errors.Is(err, errCommandDeep) {
		t.Errorf("deep nesting: %v", err)
	}
	if _, err := survey(deep, 0); !errors.Is(err, backends.ErrRequestTooLarge) {
		t.Errorf("deep nesting is not refused before it is proposed: %v", err)
	}
	// A length that no input has room for must not be allocated.
	huge := append(make([]byte, headerBytes), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)
	huge[0] = commandVersion
	for _, c := range specimens() {
		kind := c.kind
		huge[1] = byte(kind)
		if n := testing.AllocsPerRun(1, func() { _, _ = d.decode(huge) }); n > 10 {
			t.Errorf("kind %d: %v allocations", kind, n)
		}
	}
}

// FuzzCommand: whatever decodes encodes to a command that decodes to the same.
func FuzzCommand(f *testing.F) {
	for _, c := range specimens() {
		f.Add(c.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d, again decoder
		c, err := d.decode(b)
		if err != nil {
			return
		}
		if c.txn != nil {
			if _, err := survey(c.txn, 0); err != nil {
				t.Fatalf("decoded what would not be proposed: %v", err)
			}
		}
		c2, err := again.decode(c.encode())
		if err != nil || fmt.Sprintf("%+v", flatten(c)) != fmt.Sprintf("%+v", flatten(c2)) {
			t.Fatalf("%+v\n%+v\n%v", flatten(c), flatten(c2), err)
		}
	})
}

// flatten prints a transaction instead of its address.
func flatten(c *command) string {
	s := *c
	s.txn, s.change = nil, nil
	return fmt.Sprintf("%+v", s) + hex.EncodeToString(c.encode())
}

func BenchmarkDecodePut(b *testing.B) {
	c := command{kind: kindTxn, txn: &backends.TxnOp{Success: []backends.Op{put("key", strings.Repeat("v", 1024))}}}
	encoded := c.encode()
	var d decoder
	b.ReportAllocs()
	for range b.N {
		if _, err := d.decode(encoded); err != nil {
			b.Fatal(err)
		}
	}
}
