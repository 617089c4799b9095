package oracle

import (
	"fmt"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxMasks bounds the masks: what is masked is hardly compared.
const maxMasks = 15

// A mask is one field of one message in which two correct servers differ, and the
// rule by which it is compared all the same.
type mask struct {
	field  protoreflect.FullName
	rule   rule
	reason string
}

// A rule compares what is masked. Presence, in the sense of not being the zero
// value, and sign must be equal under each.
type rule string

const (
	// ruleSize: above zero on both.
	ruleSize rule = "positive"
	// ruleFile: above zero on both, and never below an earlier one of that side since the file was
	// last defragmented or opened.
	ruleFile rule = "positive, never falls but by a defragmentation or a restart"
	// ruleIndex: above zero on both, and never below an earlier one of that side.
	ruleIndex rule = "never falls"
	// ruleRemaining: seconds that pass; equal but for those that a slow machine loses.
	ruleRemaining rule = "equal but for some seconds"
	// ruleFresh: never twice the same on one side.
	ruleFresh rule = "never twice"
	// ruleAny: there, or not.
	ruleAny rule = "presence"
	// ruleID: a number that the server chose. It is put into symbols before the
	// comparison, so that what is compared is that one id is one id, everywhere.
	ruleID rule = "one id is one id"
)

// remainingSlack bounds how far two servers' remaining time of a lease may be
// apart, in seconds: two starts, and a busy machine.
const remainingSlack = 60

// masks are all there are.
func masks() []mask {
	const (
		rpc  = "etcdserverpb."
		lock = "v3lockpb."
		vote = "v3electionpb."
	)
	return []mask{
		{rpc + "StatusResponse.dbSize", ruleFile, "the file of shim has other pages in use"},
		{rpc + "StatusResponse.dbSizeInUse", ruleSize, "as dbSize"},
		{rpc + "StatusResponse.raftIndex", ruleIndex, "shim's log begins without etcd's bootstrap entries, and has fewer for elections"},
		{rpc + "StatusResponse.raftAppliedIndex", ruleIndex, "as raftIndex"},
		{rpc + "LeaseTimeToLiveResponse.TTL", ruleRemaining, "time passes"},
		{rpc + "HashResponse.hash", ruleSize, "over the whole file: indexes and free pages are part of it"},
		{rpc + "SnapshotResponse.remaining_bytes", ruleSize, "as dbSize; that it counts down to zero is checked on each side"},
		{rpc + "SnapshotResponse.blob", ruleAny, "the file; that its checksum is right is checked on each side, and etcdutl compares the content in another test"},
		{rpc + "AuthenticateResponse.token", ruleFresh, "random"},
		{rpc + "LeaseGrantResponse.ID", ruleID, "chosen by the server when the client does not"},
		{rpc + "Member.ID", ruleID, "etcd derives the id of an added member from the time"},
		{lock + "LockResponse.key", ruleID, "ends with the id of a lease that may be the server's choice"},
		{vote + "LeaderKey.key", ruleID, "as LockResponse.key"},
		{vote + "LeaderKey.lease", ruleID, "as LeaseGrantResponse.ID"},
	}
}

// maskState is what rules need to know of earlier answers of one sequence.
type maskState struct {
	highest map[protoreflect.FullName][2]uint64
	seen    [2]map[string]bool
}

func newMaskState() *maskState {
	return &maskState{highest: map[protoreflect.FullName][2]uint64{}, seen: [2]map[string]bool{{}, {}}}
}

// reopen forgets how large files were.
func (s *maskState) reopen() {
	for _, m := range masks() {
		if m.rule == ruleFile {
			delete(s.highest, m.field)
		}
	}
}

// check compares two values of a masked field, and returns what is wrong with them.
func (s *maskState) check(m mask, etcd, shim protoreflect.Value) string {
	values := [2]protoreflect.Value{etcd, shim}
	switch v := etcd.Interface().(type) {
	case string, []byte:
		texts := [2]string{fmt.Sprintf("%s", v), fmt.Sprintf("%s", shim.Interface())}
		if (texts[0] == "") != (texts[1] == "") {
			return "there on one side only"
		}
		if m.rule != ruleFresh || texts[0] == "" {
			return ""
		}
		for side, text := range texts {
			if s.seen[side][text] {
				return fmt.Sprintf("%q came twice", text)
			}
			s.seen[side][text] = true
		}
		return ""
	}
	var signs [2]int
	var sizes [2]uint64
	for side, v := range values {
		signs[side], sizes[side] = magnitude(v)
	}
	if signs[0] != signs[1] {
		return "there, or negative, on one side only"
	}
	switch m.rule {
	case ruleIndex, ruleFile:
		before := s.highest[m.field]
		if sizes[0] < before[0] || sizes[1] < before[1] {
			return fmt.Sprintf("fell from %d", before)
		}
		s.highest[m.field] = sizes
	case ruleRemaining:
		if signs[0] < 0 && sizes[0] != sizes[1] || max(sizes[0], sizes[1])-min(sizes[0], sizes[1]) > remainingSlack {
			return "too far apart"
		}
	}
	return ""
}

// unsound finds fault with masked fields of one message of shim's among themselves.
func unsound(m proto.Message) (field, fault string) {
	switch r := m.(type) {
	case *pb.StatusResponse:
		if r.DbSizeInUse > r.DbSize {
			return "etcdserverpb.StatusResponse.dbSizeInUse", fmt.Sprintf("%d bytes in use of %d", r.DbSizeInUse, r.DbSize)
		}
		if r.RaftAppliedIndex > r.RaftIndex {
			return "etcdserverpb.StatusResponse.raftAppliedIndex", fmt.Sprintf("%d applied of %d", r.RaftAppliedIndex, r.RaftIndex)
		}
	case *pb.LeaseTimeToLiveResponse:
		if r.TTL > r.GrantedTTL {
			return "etcdserverpb.LeaseTimeToLiveResponse.TTL", fmt.Sprintf("%d s remain of %d", r.TTL, r.GrantedTTL)
		}
	}
	return "", ""
}

// magnitude is the sign and the absolute value of a number.
func magnitude(v protoreflect.Value) (sign int, size uint64) {
	switch n := v.Interface().(type) {
	case int64:
		switch {
		case n < 0:
			return -1, uint64(-n)
		case n > 0:
			return 1, uint64(n)
		}
	case uint64:
		if n > 0 {
			return 1, n
		}
	case uint32:
		if n > 0 {
			return 1, uint64(n)
		}
	}
	return 0, 0
}

// maskTable are the masks that hide a difference, by field. Ids are not hidden: they
// are compared in symbols.
func maskTable() map[protoreflect.FullName]mask {
	out := map[protoreflect.FullName]mask{}
	for _, m := range masks() {
		if m.rule != ruleID {
			out[m.field] = m
		}
	}
	return out
}

// maskNames lists the fields, sorted.
func maskNames() []protoreflect.FullName {
	table := map[protoreflect.FullName]bool{}
	for _, m := range masks() {
		table[m.field] = true
	}
	return slices.Sorted(maps.Keys(table))
}
