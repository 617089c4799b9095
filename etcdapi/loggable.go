package etcdapi

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// maxLoggedOps bounds the operations of a transaction in the log.
const maxLoggedOps = 16

// loggable describes a request by its keys and sizes: values may be secrets.
func loggable(m proto.Message) string {
	switch r := m.(type) {
	case *pb.RangeRequest:
		return fmt.Sprintf("key:%q range_end:%q limit:%d revision:%d serializable:%t count_only:%t keys_only:%t",
			r.Key, r.RangeEnd, r.Limit, r.Revision, r.Serializable, r.CountOnly, r.KeysOnly)
	case *pb.PutRequest:
		return fmt.Sprintf("key:%q value_size:%d lease:%d", r.Key, len(r.Value), r.Lease)
	case *pb.DeleteRangeRequest:
		return fmt.Sprintf("key:%q range_end:%q", r.Key, r.RangeEnd)
	case *pb.TxnRequest:
		return fmt.Sprintf("compare:%d success:%s failure:%s", len(r.Compare), loggableOps(r.Success), loggableOps(r.Failure))
	case *pb.CompactionRequest, *pb.LeaseGrantRequest, *pb.LeaseRevokeRequest, *pb.HashKVRequest, *pb.AlarmRequest:
		return fmt.Sprint(m)
	}
	return ""
}

func loggableOps(ops []*pb.RequestOp) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, op := range ops {
		if i == maxLoggedOps {
			fmt.Fprintf(&b, " and %d more", len(ops)-i)
			break
		}
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			fmt.Fprintf(&b, "{range %s}", loggable(o.RequestRange))
		case *pb.RequestOp_RequestPut:
			fmt.Fprintf(&b, "{put %s}", loggable(o.RequestPut))
		case *pb.RequestOp_RequestDeleteRange:
			fmt.Fprintf(&b, "{delete %s}", loggable(o.RequestDeleteRange))
		case *pb.RequestOp_RequestTxn:
			b.WriteString("{txn}")
		}
	}
	b.WriteByte(']')
	return b.String()
}
