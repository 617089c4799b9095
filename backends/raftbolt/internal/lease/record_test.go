package lease

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// The golden values were encoded by etcd 3.7.3's own leasepb.
var goldenRecords = []struct {
	name       string
	record     Record
	key, value string
}{
	{"granted", Record{ID: 0x1234, TTLSeconds: 300}, "0000000000001234", "08b42410ac02"},
	{"checkpointed", Record{ID: 0x1234, TTLSeconds: 300, RemainingTTLSeconds: 17}, "0000000000001234", "08b42410ac021811"},
	{"negative id", Record{ID: -2, TTLSeconds: 60}, "fffffffffffffffe", "08feffffffffffffffff01103c"},
	{"largest", Record{ID: math.MaxInt64, TTLSeconds: MaxTTLSeconds}, "7fffffffffffffff", "08ffffffffffffffff7f1080b4c4c321"},
}

func TestRecordGolden(t *testing.T) {
	for _, g := range goldenRecords {
		if got := hex.EncodeToString(Key(g.record.ID)); got != g.key {
			t.Errorf("%s: key %s, want %s", g.name, got, g.key)
		}
		if got := hex.EncodeToString(g.record.Value()); got != g.value {
			t.Errorf("%s: value %s, want %s", g.name, got, g.value)
		}
		key, value := unhex(t, g.key), unhex(t, g.value)
		if got, err := DecodeRecord(key, value); err != nil || got != g.record {
			t.Errorf("%s: decoded %+v, %v, want %+v", g.name, got, err, g.record)
		}
	}
}

func TestRecordMalformed(t *testing.T) {
	for name, c := range map[string]struct{ key, value string }{
		"short key":          {"00000000001234", "08b42410ac02"},
		"long key":           {"000000000000001234", "08b42410ac02"},
		"another id":         {"0000000000001235", "08b42410ac02"},
		"id zero":            {"0000000000000000", "10ac02"},
		"empty":              {"0000000000001234", ""},
		"cut in a varint":    {"0000000000001234", "08b42410ac"},
		"cut after a tag":    {"0000000000001234", "08b42410"},
		"TTL above the most": {"0000000000001234", "08b4241081b4c4c321"},
		"unopened group":     {"0000000000001234", "08b42410ac020c"},
		"field number zero":  {"0000000000001234", "08b42410ac020001"},
	} {
		if r, err := DecodeRecord(unhex(t, c.key), unhex(t, c.value)); !errors.Is(err, ErrMalformedRecord) {
			t.Errorf("%s: decoded %+v, error %v, want %v", name, r, err, ErrMalformedRecord)
		}
	}
}

func TestRecordUnknownFields(t *testing.T) {
	// Field 4 as a varint, and field 2 with the wrong wire type, are passed over.
	r, err := DecodeRecord(unhex(t, "0000000000001234"), unhex(t, "08b424200112016110ac02"))
	if want := (Record{ID: 0x1234, TTLSeconds: 300}); err != nil || r != want {
		t.Errorf("decoded %+v, %v, want %+v", r, err, want)
	}
}

// FuzzDecodeRecord compares with the protobuf library on a message of the same
// three fields.
func FuzzDecodeRecord(f *testing.F) {
	for _, g := range goldenRecords {
		f.Add(unhex(f, g.key), unhex(f, g.value))
	}
	f.Add(unhex(f, "0000000000001234"), unhex(f, "08b424200112016110ac02"))
	desc := leaseDescriptor(f)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		got, err := DecodeRecord(key, value)
		m := dynamicpb.NewMessage(desc)
		parsed := proto.Unmarshal(value, m)
		n := func(i protoreflect.FieldNumber) int64 { return m.Get(desc.Fields().ByNumber(i)).Int() }
		want := Record{n(1), n(2), n(3)}
		valid := parsed == nil && bytes.Equal(key, Key(want.ID)) && want.ID != 0 && want.TTLSeconds <= MaxTTLSeconds
		if valid != (err == nil) || valid && got != want {
			t.Fatalf("key %x value %x: got %+v, %v; protobuf says %+v, %v", key, value, got, err, want, parsed)
		}
		if err == nil {
			if again, err := DecodeRecord(Key(got.ID), got.Value()); err != nil || again != got {
				t.Fatalf("%+v encoded and decoded is %+v, %v", got, again, err)
			}
		}
	})
}

func leaseDescriptor(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	field := func(name string, n int32) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{
			Name: proto.String(name), Number: proto.Int32(n),
			Type:  descriptorpb.FieldDescriptorProto_TYPE_INT64.Enum(),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("lease.proto"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name:  proto.String("Lease"),
			Field: []*descriptorpb.FieldDescriptorProto{field("ID", 1), field("TTL", 2), field("RemainingTTL", 3)},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().Get(0)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
