package mvcc

import (
	"bytes"
	"encoding/hex"
	"math"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// TestRevisionGolden holds the key bucket's key encoding, byte for byte.
func TestRevisionGolden(t *testing.T) {
	for _, tc := range []struct {
		r         revision
		tombstone bool
		want      string
	}{
		{revision{0, 0}, false, "00000000000000005f0000000000000000"},
		{revision{1, 2}, false, "00000000000000015f0000000000000002"},
		{revision{258, 3}, true, "00000000000001025f000000000000000374"},
		{revision{math.MaxInt64, math.MaxInt64}, false, "7fffffffffffffff5f7fffffffffffffff"},
	} {
		b := appendRevision(nil, tc.r, tc.tombstone)
		if hex.EncodeToString(b) != tc.want {
			t.Errorf("%v: %x, want %s", tc.r, b, tc.want)
		}
		r, tombstone, err := parseRevision(b)
		if r != tc.r || tombstone != tc.tombstone || err != nil {
			t.Errorf("parse %x: %v %v %v", b, r, tombstone, err)
		}
	}
	for _, bad := range []string{"", "00", "00000000000000015e0000000000000002", "80000000000000015f0000000000000002",
		"00000000000000015f8000000000000002", "00000000000000015f000000000000000275", "00000000000000015f00000000000000027474"} {
		b, err := hex.DecodeString(bad)
		if err != nil {
			t.Fatal(err)
		}
		if r, _, err := parseRevision(b); err == nil {
			t.Errorf("parse %s: %v", bad, r)
		}
	}
}

// TestRecordGolden holds the record and event encodings, and their equality with
// protobuf's.
func TestRecordGolden(t *testing.T) {
	f := fields{key: []byte("key"), create: 2, mod: 300, version: 4, lease: -1}
	event, record := putEvent(&f, []byte("value"))
	const want = "0a036b6579" + "1002" + "18ac02" + "2004" + "2a0576616c7565" + "30ffffffffffffffffff01"
	if hex.EncodeToString(record) != want {
		t.Errorf("record %x, want %s", record, want)
	}
	if got := hex.EncodeToString(event); got != "5a20"+"121e"+want {
		t.Errorf("event %s", got)
	}
	del := frameEvent(true, appendField(appendBytes(nil, tagKey, "key"), tagMod, 300), record)
	if got := hex.EncodeToString(del); got != "5a2c"+"0801"+"12080a036b657918ac02"+"1a1e"+want {
		t.Errorf("delete event %s", got)
	}
	for _, kv := range []*mvccpb.KeyValue{
		{Key: []byte("k")},
		{Key: []byte("k"), Value: make([]byte, 200), CreateRevision: math.MaxInt64, ModRevision: 1 << 35, Version: 127, Lease: math.MinInt64},
		{Key: make([]byte, 130), Value: []byte{0}, CreateRevision: 128, ModRevision: 16384, Version: 1 << 21},
	} {
		want, err := proto.Marshal(kv)
		if err != nil {
			t.Fatal(err)
		}
		f := fields{key: kv.Key, create: kv.CreateRevision, mod: kv.ModRevision, version: kv.Version, lease: kv.Lease}
		_, record := putEvent(&f, kv.Value)
		if !bytes.Equal(record, want) || recordSize(&f, kv.Value) != len(want) {
			t.Errorf("record %x, want %x", record, want)
		}
		if !bytes.Equal(recordKey(record, len(kv.Key)), kv.Key) {
			t.Errorf("key of %x", record)
		}
	}
}

// seedCodecs adds keys of the key bucket and records, good and bad.
func seedCodecs(f *testing.F) {
	f.Add(appendRevision(nil, revision{1, 2}, false))
	f.Add(appendRevision(nil, revision{1, 2}, true))
	f.Add([]byte("short"))
	_, record := putEvent(&fields{key: []byte("k"), create: 1, mod: 2, version: 3, lease: 4}, []byte("v"))
	f.Add(record)
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{0x3a, 0x01, 0x00, 0x41, 1, 2, 3, 4, 5, 6, 7, 8, 0x4d, 1, 2, 3, 4})
}

// checkCodecs reads b as a key of the key bucket and as a record. Of keys, what
// parses encodes to the same bytes; records are read as protobuf's decoder reads
// them.
func checkCodecs(t *testing.T, b []byte) {
	r, tombstone, err := parseRevision(b)
	if err == nil && !bytes.Equal(appendRevision(nil, r, tombstone), b) {
		t.Errorf("%x parses as %v %v", b, r, tombstone)
	}
	checkRecord(t, b)
}

func checkRecord(t *testing.T, b []byte) {
	got, err := scanRecord(b)
	kv := new(mvccpb.KeyValue)
	if protoErr := proto.Unmarshal(b, kv); protoErr != nil {
		// The scanner may be laxer (it skips nested groups' rules), never
		// different where protobuf succeeds.
		return
	}
	if hasGroup(b) {
		return // Legal protobuf, never written by etcd: refused here.
	}
	if err != nil || !bytes.Equal(got.key, kv.Key) || got.create != kv.CreateRevision || got.mod != kv.ModRevision ||
		got.version != kv.Version || got.lease != kv.Lease {
		t.Errorf("%x: %+v, %v, want %v", b, got, err, kv)
	}
	// What is encoded here is what protobuf encodes.
	_, record := putEvent(&got, kv.Value)
	if want, err := proto.Marshal(kv); err != nil || len(kv.Key) > 0 && len(kv.ProtoReflect().GetUnknown()) == 0 && !bytes.Equal(record, want) {
		t.Errorf("%v encodes as %x, protobuf %x, %v", kv, record, want, err)
	}
}

func hasGroup(b []byte) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeField(b)
		if n < 0 || typ == protowire.StartGroupType || num == 0 {
			return true
		}
		b = b[n:]
	}
	return false
}
