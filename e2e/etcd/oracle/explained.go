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
			Reason: "a watch that begins in the past is told its history in messages of whole revisions, of which etcd makes one, in fragments if the client takes them; clients take events one by one",
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

// joinedEvents makes one message of a watch's messages that tell its history at one
// revision of the store, and leaves others alone: those of one revision of the keys, too,
// which a watch is told as they happen.
func joinedEvents(messages []proto.Message) ([]proto.Message, error) {
	var out []proto.Message
	for i := 0; i < len(messages); {
		var told []*pb.WatchResponse
		for ; i < len(messages); i++ {
			w, ok := messages[i].(*pb.WatchResponse)
			if !ok || len(w.Events) == 0 || w.Created || w.Canceled || len(told) > 0 && !proto.Equal(told[0].Header, w.Header) {
				break
			}
			told = append(told, w)
		}
		if len(told) == 0 {
			out = append(out, messages[i])
			i++
			continue
		}
		if first, last := revisions(told); first == last {
			for _, w := range told {
				out = append(out, w)
			}
			continue
		}
		history, err := joinedHistory(told)
		if err != nil {
			return nil, err
		}
		out = append(out, history)
	}
	return out, nil
}

// revisions are those of the first and the last event.
func revisions(told []*pb.WatchResponse) (first, last int64) {
	events := told[len(told)-1].Events
	return told[0].Events[0].Kv.GetModRevision(), events[len(events)-1].Kv.GetModRevision()
}

// joinedHistory joins messages. One that continues a revision must come after one that is
// announced as a fragment, and the last must be none.
func joinedHistory(told []*pb.WatchResponse) (*pb.WatchResponse, error) {
	bare := func(w *pb.WatchResponse) *pb.WatchResponse {
		b := proto.CloneOf(w)
		b.Events, b.Fragment = nil, false
		return b
	}
	out := bare(told[0])
	for i, w := range told {
		if i > 0 && !told[i-1].Fragment {
			_, before := revisions(told[i-1 : i])
			if after, _ := revisions(told[i:]); before >= after {
				return nil, fmt.Errorf("%w: revision %d is told in two messages", errCut, after)
			}
		}
		if !proto.Equal(bare(told[0]), bare(w)) {
			return nil, fmt.Errorf("%w: two messages of one watch differ in more than events: %v", errCut, w)
		}
		out.Events = append(out.Events, w.Events...)
	}
	if told[len(told)-1].Fragment {
		return nil, fmt.Errorf("%w: the last message is a fragment", errCut)
	}
	return out, nil
}

// cut is where a message of a stream ends.
type cut struct {
	records  int  // of a range, or events of a watch
	fragment bool // it announces that its batch goes on in the next
}

// cuts are those of a range stream's messages or of a watch's; nil of other messages.
func cuts(chunks []proto.Message) []cut {
	var out []cut
	for _, m := range chunks {
		switch c := m.(type) {
		case *pb.RangeStreamResponse:
			out = append(out, cut{records: len(c.RangeResponse.GetKvs())})
		case *pb.WatchResponse:
			out = append(out, cut{len(c.Events), c.Fragment})
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
