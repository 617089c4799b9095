package oracle

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxExplained bounds the differences that are kept.
const maxExplained = 25

// Explained is a difference that is kept: two values of one field that mean the
// same to a client, and why.
type Explained struct {
	// Field is a Difference's.
	Field string
	// Same tells whether two unequal values mean the same.
	Same   func(etcd, shim protoreflect.Value) bool
	Reason string
	// Join, instead of Same, joins messages of a stream, whose field it is, so that it
	// does not matter where they were cut. It fails on what no server may send.
	Join func([]proto.Message) ([]proto.Message, error)
}

// Explanations are all differences that are kept.
func Explanations() []Explained {
	const order = "members are listed by id, and that of an added one is each server's own: in the answer to "
	var members []Explained
	for _, call := range []string{"MemberAdd", "MemberList", "MemberUpdate", "MemberRemove"} {
		members = append(members, Explained{Field: "etcdserverpb." + call + "Response.members", Same: sameSet, Reason: order + call})
	}
	return append(members, []Explained{
		{
			Field: cutField, Join: joined,
			Reason: "etcd doubles its chunks from 10 records on, shim sends the first 10 and then some 256 KiB at a time; clients join them",
		},
		{
			Field: eventsField, Join: joinedEvents,
			Reason: "a watch that begins in the past may be told its history in more messages, never within a revision; clients take events one by one",
		},
		{
			Field: "etcdserverpb.LeaseTimeToLiveResponse.keys", Same: sameSet,
			Reason: "etcd lists the keys of a lease in the order of a Go map, another at each call; shim's order is the keys'",
		},
		{
			Field: "etcdserverpb.AlarmResponse.alarms", Same: sameSet,
			Reason: "etcd lists alarms in the order of a Go map, another at each call",
		},
		{
			Field: "etcdserverpb.StatusResponse.errors", Same: sameSpaced,
			Reason: "an alarm's text in Status is protobuf's debug form, whose spaces differ from build to build on purpose, and whose order is a Go map's",
		},
		{
			Field: "status.message", Same: sameSpace,
			Reason: "protobuf's errors begin with a plain or a no-break space, chosen by a hash of the binary, on purpose",
		},
		{
			Field: "status.message", Same: sameUnmarshalling,
			Reason: "gRPC 1.85, with which etcd is built here, has other words for a broken message than the gRPC of etcd 3.7.3 as it is released, which shim has",
		},
	}...)
}

// explainedTable are the explanations by field: one may have several.
func explainedTable() map[string][]Explained {
	out := map[string][]Explained{}
	for _, e := range Explanations() {
		out[e.Field] = append(out[e.Field], e)
	}
	return out
}

// cutField is the field whose messages may be cut elsewhere.
const cutField = "etcdserverpb.RangeStreamResponse.range_response"

// errCut is a stream of a range that is not cut as it must be.
var errCut = errors.New("a range stream that is not well cut")

// joined makes one message of a range's chunks: header, more and count stand in the
// last one only, and no other is empty.
func joined(chunks []proto.Message) ([]proto.Message, error) {
	out := &pb.RangeResponse{}
	for i, m := range chunks {
		c, ok := m.(*pb.RangeStreamResponse)
		if !ok {
			return nil, fmt.Errorf("%w: a %T", errCut, m)
		}
		r := c.RangeResponse
		if i < len(chunks)-1 && (r.GetHeader() != nil || r.GetMore() || r.GetCount() != 0 || len(r.GetKvs()) == 0) {
			return nil, fmt.Errorf("%w: message %d of %d is %v", errCut, i+1, len(chunks), c)
		}
		if len(c.ProtoReflect().GetUnknown())+len(r.ProtoReflect().GetUnknown()) > 0 {
			return nil, fmt.Errorf("%w: unknown fields", errCut)
		}
		proto.Merge(out, r)
	}
	return []proto.Message{&pb.RangeStreamResponse{RangeResponse: out}}, nil
}

// eventsField is the field whose events may be spread over more messages.
const eventsField = "etcdserverpb.WatchResponse.events"

// joinedEvents makes one message of a watch's messages that tell events at one
// revision of the store, and leaves others alone. One that continues a revision must be
// announced as a fragment.
func joinedEvents(messages []proto.Message) ([]proto.Message, error) {
	var out []proto.Message
	var last *pb.WatchResponse
	for _, m := range messages {
		w, ok := m.(*pb.WatchResponse)
		if !ok || len(w.Events) == 0 || w.Fragment || last == nil || len(last.Events) == 0 || last.Fragment || !proto.Equal(last.Header, w.Header) {
			out = append(out, proto.Clone(m))
			last, _ = out[len(out)-1].(*pb.WatchResponse)
			continue
		}
		if last.Events[len(last.Events)-1].Kv.GetModRevision() >= w.Events[0].Kv.GetModRevision() {
			return nil, fmt.Errorf("%w: revision %d is told in two messages", errCut, w.Events[0].Kv.GetModRevision())
		}
		rest := proto.CloneOf(w)
		last.Events = append(last.Events, rest.Events...)
		rest.Events = last.Events
		if !proto.Equal(last, rest) {
			return nil, fmt.Errorf("%w: two messages of one watch differ in more than events: %v", errCut, w)
		}
	}
	return out, nil
}

// cuts are the numbers of records of a range stream's messages; nil of other messages.
func cuts(chunks []proto.Message) []int {
	var out []int
	for _, m := range chunks {
		if c, ok := m.(*pb.RangeStreamResponse); ok {
			out = append(out, len(c.RangeResponse.GetKvs()))
		}
	}
	return out
}

// sameSet tells whether two lists hold the same values in another order.
func sameSet(etcd, shim protoreflect.Value) bool {
	return slices.Equal(sorted(etcd.List(), plain), sorted(shim.List(), plain))
}

// sameSpaced is sameSet with runs of spaces as one.
func sameSpaced(etcd, shim protoreflect.Value) bool {
	return slices.Equal(sorted(etcd.List(), spaced), sorted(shim.List(), spaced))
}

// sameSpace takes a no-break space for a space.
func sameSpace(etcd, shim protoreflect.Value) bool {
	return unbroken(etcd.String()) == unbroken(shim.String())
}

// sameUnmarshalling takes gRPC's newer words for a broken message for the older ones.
func sameUnmarshalling(etcd, shim protoreflect.Value) bool {
	newer, ok := strings.CutPrefix(unbroken(etcd.String()), "grpc: failed to unmarshal the received message: ")
	return ok && unbroken(shim.String()) == "grpc: error unmarshalling request: "+newer
}

func unbroken(text string) string { return strings.ReplaceAll(text, "\u00a0", " ") }

func sorted(l protoreflect.List, text func(protoreflect.Value) string) []string {
	var out []string
	for i := range l.Len() {
		out = append(out, text(l.Get(i)))
	}
	slices.Sort(out)
	return out
}

// plain is a value as text: equal values, equal texts.
func plain(v protoreflect.Value) string {
	switch x := v.Interface().(type) {
	case protoreflect.Message:
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(x.Interface())
		if err != nil {
			return err.Error()
		}
		return string(b)
	case []byte:
		return string(x)
	default:
		return v.String()
	}
}

func spaced(v protoreflect.Value) string { return strings.Join(strings.Fields(v.String()), " ") }
