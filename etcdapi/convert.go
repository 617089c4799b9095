package etcdapi

import (
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// rangeOptions makes the backend's part of a range. What is left for etcdapi to
// do afterwards is told by arrange.
func rangeOptions(r *pb.RangeRequest) backends.RangeOptions {
	o := backends.RangeOptions{
		KeyRange:  backends.KeyRange{Key: r.Key, End: r.RangeEnd},
		Revision:  r.Revision,
		Limit:     r.Limit,
		KeysOnly:  r.KeysOnly,
		CountOnly: r.CountOnly,
	}
	if r.CountOnly || !needsArranging(r) {
		return o
	}
	// The limit counts what is left after filtering and sorting. With a target but
	// without an order etcd cuts the list in key order before it sorts, and needs one
	// record more to know whether it cut (txn/range.go, rangeLimit).
	switch {
	case !inKeyOrder(r) || hasRevisionFilter(r):
		o.Limit = 0
	case r.Limit > 0 && r.Limit < math.MaxInt64:
		o.Limit = r.Limit + 1
	}
	if r.SortTarget == pb.RangeRequest_VALUE {
		o.KeysOnly = false // the value is looked at, then cut out
	}
	return o
}

// inKeyOrder tells whether the backend's order is the one asked for, as etcd
// decides it before reading (txn/range.go, IsDefaultOrdering).
func inKeyOrder(r *pb.RangeRequest) bool {
	return r.SortOrder == pb.RangeRequest_NONE ||
		r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND
}

func hasRevisionFilter(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

// needsArranging tells whether records must be sorted or filtered here.
func needsArranging(r *pb.RangeRequest) bool {
	return !inKeyOrder(r) || hasRevisionFilter(r) || r.SortTarget != pb.RangeRequest_KEY
}

func putOp(r *pb.PutRequest) *backends.PutOp {
	return &backends.PutOp{
		Key: r.Key, Value: r.Value, Lease: r.Lease,
		PrevKV: r.PrevKv, IgnoreValue: r.IgnoreValue, IgnoreLease: r.IgnoreLease,
	}
}

func deleteOp(r *pb.DeleteRangeRequest) *backends.DeleteOp {
	return &backends.DeleteOp{KeyRange: backends.KeyRange{Key: r.Key, End: r.RangeEnd}, PrevKV: r.PrevKv}
}

func txnOp(r *pb.TxnRequest) *backends.TxnOp {
	t := &backends.TxnOp{Success: ops(r.Success), Failure: ops(r.Failure)}
	if len(r.Compare) > 0 {
		t.Compare = make([]backends.Compare, len(r.Compare))
		for i, c := range r.Compare {
			t.Compare[i] = compare(c)
		}
	}
	return t
}

func ops(list []*pb.RequestOp) []backends.Op {
	if len(list) == 0 {
		return nil
	}
	out := make([]backends.Op, len(list))
	for i, op := range list {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			ranged := rangeOptions(o.RequestRange)
			out[i].Range = &ranged
		case *pb.RequestOp_RequestPut:
			out[i].Put = putOp(o.RequestPut)
		case *pb.RequestOp_RequestDeleteRange:
			out[i].Delete = deleteOp(o.RequestDeleteRange)
		case *pb.RequestOp_RequestTxn:
			out[i].Txn = txnOp(o.RequestTxn)
		}
	}
	return out
}

// compare takes the operand of the target; another kind of operand counts as
// none, as in etcd (txn/txn.go, compareKV).
func compare(c *pb.Compare) backends.Compare {
	out := backends.Compare{
		KeyRange: backends.KeyRange{Key: c.Key, End: c.RangeEnd},
		Target:   backends.CompareTarget(c.Target),
		Result:   backends.CompareResult(c.Result),
	}
	switch c.Target {
	case pb.Compare_VERSION:
		out.Number = c.GetVersion()
	case pb.Compare_CREATE:
		out.Number = c.GetCreateRevision()
	case pb.Compare_MOD:
		out.Number = c.GetModRevision()
	case pb.Compare_VALUE:
		out.Value = c.GetValue()
	case pb.Compare_LEASE:
		out.Number = c.GetLease()
	}
	return out
}
