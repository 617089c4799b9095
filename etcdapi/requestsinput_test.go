package etcdapi

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// fuzzInput is read like a die.
type fuzzInput struct{ rest []byte }

// below is a number in [0, n), n at most 256; zero at the end.
func (i *fuzzInput) below(n int) int {
	if len(i.rest) == 0 {
		return 0
	}
	b := i.rest[0]
	i.rest = i.rest[1:]
	return int(b) % n
}

func (i *fuzzInput) take(n int) []byte {
	n = min(n, len(i.rest))
	b := i.rest[:n:n]
	i.rest = i.rest[n:]
	return b
}

// fuzzMethod is a unary method with how to compare its answers.
type fuzzMethod struct {
	name    string
	request func() proto.Message
	compare func(raw []byte) (string, error)
}

// fuzzMethods answer alike on both backends.
var fuzzMethods = []fuzzMethod{
	{"KV/Range", func() proto.Message { return new(pb.RangeRequest) }, headerText},
	{"KV/Put", func() proto.Message { return new(pb.PutRequest) }, headerText},
	{"KV/DeleteRange", func() proto.Message { return new(pb.DeleteRangeRequest) }, headerText},
	{"KV/Txn", func() proto.Message { return new(pb.TxnRequest) }, headerText},
	{"KV/Txn", func() proto.Message { return new(pb.TxnRequest) }, headerText},
	{"KV/Compact", func() proto.Message { return new(pb.CompactionRequest) }, headerText},
	{"Lease/LeaseGrant", func() proto.Message { return new(pb.LeaseGrantRequest) }, grantText},
	{"Lease/LeaseRevoke", func() proto.Message { return new(pb.LeaseRevokeRequest) }, headerText},
	{"Lease/LeaseTimeToLive", func() proto.Message { return new(pb.LeaseTimeToLiveRequest) }, headerText},
	{"Lease/LeaseLeases", func() proto.Message { return new(pb.LeaseLeasesRequest) }, headerText},
}

// grantText leaves nothing out but the header's ids: the lease's id is the client's.
func grantText(raw []byte) (string, error) { return headerText(raw) }

// otherMethods differ by what a backend can do.
var otherMethods = []fuzzMethod{
	{"Cluster/MemberList", func() proto.Message { return new(pb.MemberListRequest) }, nil},
	{"Cluster/MemberAdd", func() proto.Message { return new(pb.MemberAddRequest) }, nil},
	{"Cluster/MemberRemove", func() proto.Message { return new(pb.MemberRemoveRequest) }, nil},
	{"Cluster/MemberUpdate", func() proto.Message { return new(pb.MemberUpdateRequest) }, nil},
	{"Cluster/MemberPromote", func() proto.Message { return new(pb.MemberPromoteRequest) }, nil},
	{"Maintenance/Status", func() proto.Message { return new(pb.StatusRequest) }, nil},
	{"Maintenance/Alarm", func() proto.Message { return new(pb.AlarmRequest) }, nil},
	{"Maintenance/HashKV", func() proto.Message { return new(pb.HashKVRequest) }, nil},
	{"Maintenance/Hash", func() proto.Message { return new(pb.HashRequest) }, nil},
	{"Maintenance/Defragment", func() proto.Message { return new(pb.DefragmentRequest) }, nil},
	{"Maintenance/MoveLeader", func() proto.Message { return new(pb.MoveLeaderRequest) }, nil},
	{"Maintenance/Downgrade", func() proto.Message { return new(pb.DowngradeRequest) }, nil},
	{"Auth/AuthEnable", func() proto.Message { return new(pb.AuthEnableRequest) }, nil},
}

func (i *fuzzInput) key() []byte {
	switch n := i.below(16); {
	case n == 0:
		return nil
	case n == 1:
		return []byte{0}
	case n == 2:
		return []byte("a\x00")
	case n == 3:
		return []byte{0xff, 0xff}
	default:
		return []byte{'a' + byte(n)%6}
	}
}

func (i *fuzzInput) end() []byte {
	switch n := i.below(8); {
	case n < 4:
		return nil
	case n == 4:
		return []byte{0}
	default:
		return i.key()
	}
}

// revision is small, to be shifted to the present; or odd.
func (i *fuzzInput) revision() int64 {
	switch n := i.below(32); {
	case n < 12:
		return 0
	case n < 30:
		return int64(n - 11)
	case n == 30:
		return -1
	}
	return 1 << 40
}

func (i *fuzzInput) leaseID() int64 { return int64(i.below(6)) - 1 }

func (i *fuzzInput) flag() bool { return i.below(3) == 2 }

// invent fills in a request. Enums go one beyond what is known.
func invent(i *fuzzInput, m proto.Message) {
	switch m := m.(type) {
	case *pb.RangeRequest:
		m.Key, m.RangeEnd, m.Revision = i.key(), i.end(), i.revision()
		m.Limit = int64(i.below(5)) - 1
		if i.flag() {
			m.SortOrder, m.SortTarget = pb.RangeRequest_SortOrder(i.below(4)), pb.RangeRequest_SortTarget(i.below(6))
		}
		m.KeysOnly, m.CountOnly, m.Serializable = i.flag(), i.flag(), i.flag()
		if i.flag() {
			m.MinModRevision, m.MaxModRevision = i.revision(), i.revision()
			m.MinCreateRevision, m.MaxCreateRevision = i.revision(), i.revision()
		}
	case *pb.PutRequest:
		m.Key, m.Value = i.key(), i.take(i.below(4))
		m.PrevKv = i.flag()
		if i.flag() {
			m.Lease = i.leaseID()
			m.IgnoreLease, m.IgnoreValue = i.flag(), i.flag()
		}
	case *pb.DeleteRangeRequest:
		m.Key, m.RangeEnd, m.PrevKv = i.key(), i.end(), i.flag()
	case *pb.TxnRequest:
		inventTxn(i, m, 0)
	case *pb.CompactionRequest:
		m.Revision, m.Physical = i.revision(), i.flag()
	case *pb.LeaseGrantRequest:
		m.ID, m.TTL = i.leaseID(), int64(i.below(8))-1
		if i.below(16) == 15 {
			m.TTL = 9_000_000_001
		}
	case *pb.LeaseRevokeRequest:
		m.ID = i.leaseID()
	case *pb.LeaseTimeToLiveRequest:
		m.ID, m.Keys = i.leaseID(), i.flag()
	case *pb.LeaseKeepAliveRequest:
		m.ID = i.leaseID()
	case *pb.AlarmRequest:
		m.Action, m.Alarm, m.MemberID = pb.AlarmRequest_AlarmAction(i.below(4)), pb.AlarmType(i.below(4)), uint64(i.below(3))
	case *pb.HashKVRequest:
		m.Revision = i.revision()
	case *pb.MemberAddRequest:
		m.PeerURLs, m.IsLearner = i.peerURLs(), i.flag()
	case *pb.MemberRemoveRequest:
		m.ID = i.memberID()
	case *pb.MemberUpdateRequest:
		m.ID, m.PeerURLs = i.memberID(), i.peerURLs()
	case *pb.MemberPromoteRequest:
		m.ID = i.memberID()
	case *pb.MoveLeaderRequest:
		m.TargetID = i.memberID()
	case *pb.DowngradeRequest:
		m.Action = pb.DowngradeRequest_DowngradeAction(i.below(4))
		m.Version = [...]string{"", "3.6", "3.7.0", "3.6.x"}[i.below(4)]
	case *pb.WatchRequest:
		inventWatch(i, m)
	}
}

// memberID is sometimes that of the only member, which follows from the defaults.
func (i *fuzzInput) memberID() uint64 {
	return [...]uint64{0, 5, 0x8e9e05c52164694d}[i.below(3)]
}

func (i *fuzzInput) peerURLs() []string {
	all := []string{"http://127.0.0.1:9", "http://localhost:2380", "", "unix://x:1"}
	return all[i.below(4):][:i.below(2)]
}

func inventTxn(i *fuzzInput, m *pb.TxnRequest, depth int) {
	for range i.below(3) {
		c := &pb.Compare{Key: i.key(), RangeEnd: i.end(), Result: pb.Compare_CompareResult(i.below(5)), Target: pb.Compare_CompareTarget(i.below(6))}
		switch i.below(6) {
		case 0:
			c.TargetUnion = &pb.Compare_Version{Version: int64(i.below(4))}
		case 1:
			c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: i.revision()}
		case 2:
			c.TargetUnion = &pb.Compare_ModRevision{ModRevision: i.revision()}
		case 3:
			c.TargetUnion = &pb.Compare_Value{Value: i.take(i.below(3))}
		case 4:
			c.TargetUnion = &pb.Compare_Lease{Lease: i.leaseID()}
		}
		m.Compare = append(m.Compare, c)
	}
	for _, ops := range []*[]*pb.RequestOp{&m.Success, &m.Failure} {
		for range i.below(4) {
			*ops = append(*ops, inventOp(i, depth))
		}
	}
}

func inventOp(i *fuzzInput, depth int) *pb.RequestOp {
	switch n := i.below(10); {
	case n < 3:
		q := new(pb.RangeRequest)
		invent(i, q)
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: q}}
	case n < 6:
		q := new(pb.PutRequest)
		invent(i, q)
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: q}}
	case n < 8:
		q := new(pb.DeleteRangeRequest)
		invent(i, q)
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: q}}
	case n == 8 && depth < 4:
		q := new(pb.TxnRequest)
		inventTxn(i, q, depth+1)
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: q}}
	}
	return &pb.RequestOp{}
}

func inventWatch(i *fuzzInput, m *pb.WatchRequest) {
	switch n := i.below(8); {
	case n < 5:
		c := &pb.WatchCreateRequest{Key: i.key(), RangeEnd: i.end(), StartRevision: i.revision(), PrevKv: i.flag(),
			ProgressNotify: i.flag(), Fragment: i.flag(), WatchId: int64(i.below(4))}
		for range i.below(3) {
			c.Filters = append(c.Filters, pb.WatchCreateRequest_FilterType(i.below(3)))
		}
		m.RequestUnion = &pb.WatchRequest_CreateRequest{CreateRequest: c}
	case n == 5:
		m.RequestUnion = &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: int64(i.below(5)) - 1}}
	case n == 6:
		m.RequestUnion = &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}
	}
}

// seedRequests adds sequences that reach each kind of step.
func seedRequests(f *testing.F) {
	for kind := range 24 {
		f.Add([]byte{byte(kind), byte(kind), 0, 9, 0, 0, 2, 'x', 'y'})
	}
	// Some longer ones, from a plain sequence of bytes.
	for seed := range 8 {
		var b []byte
		for n := range 400 {
			b = append(b, fmt.Appendf(nil, "%d", (seed+3)*(n+7)*(n+seed)%251)...)
		}
		f.Add(b)
	}
}
