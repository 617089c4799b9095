package oracle

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func txnCalls() []call {
	return []call{{"KV.Txn", 6, 25, func(g *generator) { g.add("KV.Txn", spared(g.txn(0))) }, (*generator).badTxn}}
}

// maxNesting bounds how deep a valid transaction is nested.
const maxNesting = 3

// txn is a transaction whose operations may still collide.
func (g *generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	for range g.IntN(4) {
		r.Success = append(r.Success, g.op(depth))
	}
	for range g.IntN(3) {
		r.Failure = append(r.Failure, g.op(depth))
	}
	return r
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Result: pb.Compare_CompareResult(g.IntN(4)), Target: pb.Compare_CompareTarget(g.IntN(5)), Key: g.key()}
	if g.chance(15) {
		c.Key, c.RangeEnd = g.keyRange()
	}
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: int64(g.IntN(4))}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: pick(g, 0, now(-g.IntN(20)), 2)}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: pick(g, 0, now(-g.IntN(6)), 2)}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: pick(g, 0, g.lease())}
	}
	switch g.IntN(30) {
	case 0:
		c.TargetUnion = nil
	case 1: // another target's value
		c.Target = pb.Compare_CompareTarget(g.IntN(5))
	}
	if c.Target == pb.Compare_LEASE && isSymbol(c.GetLease()) { // ids that each server chose are in no order that both agree on
		switch c.Result {
		case pb.Compare_LESS:
			c.Result = pb.Compare_EQUAL
		case pb.Compare_GREATER:
			c.Result = pb.Compare_NOT_EQUAL
		}
	}
	return c
}

func (g *generator) op(depth int) *pb.RequestOp {
	switch n := g.IntN(10); {
	case n < 4:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.putRequest()}}
	case n < 7:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest()}}
	case n < 9 || depth == maxNesting:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deleteRequest()}}
	default:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth + 1)}}
	}
}

// spared takes from a transaction what would end etcd: see notAsked. Where something is put,
// nothing is deleted from a key on.
func spared(r *pb.TxnRequest) *pb.TxnRequest {
	puts := false
	visit(r, func(op *pb.RequestOp) { puts = puts || op.GetRequestPut() != nil })
	visit(r, func(op *pb.RequestOp) {
		if d := op.GetRequestDeleteRange(); d != nil && puts && string(d.RangeEnd) == "\x00" {
			d.RangeEnd = nil
		}
	})
	return r
}

// visit calls each with every operation of a transaction and of those within.
func visit(r *pb.TxnRequest, each func(*pb.RequestOp)) {
	for _, ops := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			each(op)
			visit(op.GetRequestTxn(), each)
		}
	}
}

func put(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func (g *generator) badTxn() {
	r := g.txn(1)
	r.Compare = nil
	var row int
	switch g.IntN(10) {
	case 0:
		r.Success, row = append(r.Success, put("k/01", "x"), put("k/01", "y")), 12
	case 1:
		in := &pb.DeleteRangeRequest{Key: []byte("k/"), RangeEnd: []byte("k0")}
		r.Success, row = append(r.Success, put("k/01", "x"), &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: in}}), 12
	case 2:
		row = 13
		compares := g.chance(50)
		for range 129 {
			if compares {
				r.Compare = append(r.Compare, g.compare())
			} else {
				r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: g.key()}}})
			}
		}
		if g.chance(30) {
			r.Compare, r.Success = nil, nil
			inner := r
			for range 200 {
				next := &pb.TxnRequest{}
				inner.Success = []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: next}}}
				inner = next
			}
		}
	case 3:
		r.Success, row = append(r.Success, &pb.RequestOp{}), 14
	case 4:
		c := g.compare()
		c.Key, row = nil, 15
		r.Compare = []*pb.Compare{c}
	case 5:
		c := g.compare()
		if row = 16; g.chance(50) {
			c.Result = pb.Compare_CompareResult(pick(g, 4, 9, -1))
		} else {
			c.Target = pb.Compare_CompareTarget(pick(g, 5, 9, -1))
		}
		r.Compare = []*pb.Compare{c}
	case 6, 7:
		bad := &pb.RangeRequest{Key: g.key(), Revision: pick(g, now(7), compacted(-1))}
		r.Success, row = append([]*pb.RequestOp{put("k/02", "x")}, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: bad}}), 17
	case 8:
		p := &pb.PutRequest{Key: g.key(), Value: []byte("x"), Lease: 987654321}
		r.Success, row = []*pb.RequestOp{put("other", "x"), {Request: &pb.RequestOp_RequestPut{RequestPut: p}}}, 5
	default:
		p := g.putRequest()
		p.Key = nil
		r.Success, row = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}}), 1
	}
	if g.chance(20) && row != 13 { // the same, in a transaction within
		r = &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}}}
	}
	rows := []int{row}
	if row == 16 {
		rows = append(rows, 34)
	}
	g.add("KV.Txn", spared(r), rows...)
}
