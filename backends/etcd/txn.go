package etcd

import (
	"context"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// Txn implements backends.Backend. A lone put or deletion goes out as the RPC of
// that name, so that it is as large as the client made it and meets the same limit.
func (b *Backend) Txn(ctx context.Context, req *backends.TxnRequest) (*backends.TxnResult, error) {
	if len(req.Compare) == 0 && len(req.Success) == 1 && len(req.Failure) == 0 {
		switch op := &req.Success[0]; {
		case op.Put != nil:
			return b.single(ctx, req.Caller, op, pb.KV_Put_FullMethodName, putRequest(op.Put))
		case op.Delete != nil:
			return b.single(ctx, req.Caller, op, pb.KV_DeleteRange_FullMethodName, deleteRequest(op.Delete))
		}
	}
	p := reading
	if writes(&req.TxnOp) {
		p = writing
	}
	var answer raw
	if err := b.call(ctx, p, pb.KV_Txn_FullMethodName, req.Caller, txnRequest(&req.TxnOp), &answer); err != nil {
		return nil, err
	}
	h, result, err := decodeTxn(&req.TxnOp, answer.bytes)
	if err != nil {
		return nil, err
	}
	return &backends.TxnResult{Header: h, TxnOpResult: result}, nil
}

func (b *Backend) single(ctx context.Context, caller backends.Caller, op *backends.Op, method string, m proto.Message) (*backends.TxnResult, error) {
	var answer raw
	if err := b.call(ctx, writing, method, caller, m, &answer); err != nil {
		return nil, err
	}
	h, r, err := decodeOp(op, answer.bytes)
	if err != nil {
		return nil, err
	}
	return &backends.TxnResult{
		Header:      h,
		TxnOpResult: backends.TxnOpResult{Succeeded: true, Responses: []backends.OpResult{r}},
	}, nil
}

// writes tells whether a transaction may write.
func writes(t *backends.TxnOp) bool {
	for _, ops := range [...][]backends.Op{t.Success, t.Failure} {
		for i := range ops {
			if ops[i].Put != nil || ops[i].Delete != nil || ops[i].Txn != nil && writes(ops[i].Txn) {
				return true
			}
		}
	}
	return false
}

func putRequest(p *backends.PutOp) *pb.PutRequest {
	return &pb.PutRequest{
		Key: p.Key, Value: p.Value, Lease: p.Lease,
		PrevKv: p.PrevKV, IgnoreValue: p.IgnoreValue, IgnoreLease: p.IgnoreLease,
	}
}

func deleteRequest(d *backends.DeleteOp) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: d.Key, RangeEnd: d.End, PrevKv: d.PrevKV}
}

func txnRequest(t *backends.TxnOp) *pb.TxnRequest {
	r := &pb.TxnRequest{
		Compare: make([]*pb.Compare, len(t.Compare)),
		Success: opRequests(t.Success),
		Failure: opRequests(t.Failure),
	}
	for i := range t.Compare {
		r.Compare[i] = compareRequest(&t.Compare[i])
	}
	return r
}

func compareRequest(c *backends.Compare) *pb.Compare {
	r := &pb.Compare{
		Key: c.Key, RangeEnd: c.End,
		Target: pb.Compare_CompareTarget(c.Target),
		Result: pb.Compare_CompareResult(c.Result),
	}
	switch c.Target {
	case backends.CompareVersion:
		r.TargetUnion = &pb.Compare_Version{Version: c.Number}
	case backends.CompareCreateRevision:
		r.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: c.Number}
	case backends.CompareModRevision:
		r.TargetUnion = &pb.Compare_ModRevision{ModRevision: c.Number}
	case backends.CompareValue:
		r.TargetUnion = &pb.Compare_Value{Value: c.Value}
	case backends.CompareLease:
		r.TargetUnion = &pb.Compare_Lease{Lease: c.Number}
	}
	return r
}

func opRequests(ops []backends.Op) []*pb.RequestOp {
	list := make([]*pb.RequestOp, len(ops))
	for i := range ops {
		r := &pb.RequestOp{}
		switch op := &ops[i]; {
		case op.Range != nil:
			r.Request = &pb.RequestOp_RequestRange{RequestRange: rangeRequest(op.Range)}
		case op.Put != nil:
			r.Request = &pb.RequestOp_RequestPut{RequestPut: putRequest(op.Put)}
		case op.Delete != nil:
			r.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: deleteRequest(op.Delete)}
		case op.Txn != nil:
			r.Request = &pb.RequestOp_RequestTxn{RequestTxn: txnRequest(op.Txn)}
		}
		list[i] = r
	}
	return list
}

// decodeTxn cuts up an encoded TxnResponse to t.
func decodeTxn(t *backends.TxnOp, message []byte) (h backends.Header, r backends.TxnOpResult, err error) {
	var responses [][]byte
	err = eachField("txn response", message, func(f field) (err error) {
		switch f.tag {
		case anyHeader:
			h, err = decodeHeader(f.bytes)
		case txnSucceeded:
			r.Succeeded = f.bool()
		case txnResponses:
			responses = append(responses, f.bytes)
		}
		return err
	})
	if err != nil {
		return h, r, err
	}
	ops := t.Failure
	if r.Succeeded {
		ops = t.Success
	}
	if len(ops) != len(responses) {
		return h, r, malformed("txn response")
	}
	r.Responses = make([]backends.OpResult, len(ops))
	for i := range ops {
		found := false
		err := eachField("response op", responses[i], func(f field) (err error) {
			if f.tag == opTag(&ops[i]) {
				found = true
				_, r.Responses[i], err = decodeOp(&ops[i], f.bytes)
			}
			return err
		})
		if err == nil && !found {
			err = malformed("response op")
		}
		if err != nil {
			return h, r, err
		}
	}
	return h, r, nil
}

// opTag is the field of ResponseOp that answers op.
func opTag(op *backends.Op) uint64 {
	switch {
	case op.Range != nil:
		return opRange
	case op.Put != nil:
		return opPut
	case op.Delete != nil:
		return opDelete
	}
	return opTxn
}

// decodeOp cuts up the answer to one operation.
func decodeOp(op *backends.Op, message []byte) (h backends.Header, r backends.OpResult, err error) {
	switch {
	case op.Range != nil:
		var l list
		l, err = decodeList(message)
		h, r.Range = l.result.Header, &listCursor{l}
	case op.Put != nil:
		h, r.Put, err = decodePut(message)
	case op.Delete != nil:
		h, r.Delete, err = decodeDelete(message, op.Delete.PrevKV)
	default:
		r.Txn = new(backends.TxnOpResult)
		h, *r.Txn, err = decodeTxn(op.Txn, message)
	}
	r.Revision = h.Revision
	return h, r, err
}

func decodePut(message []byte) (h backends.Header, r *backends.PutResult, err error) {
	r = new(backends.PutResult)
	err = eachField("put response", message, func(f field) (err error) {
		switch f.tag {
		case anyHeader:
			h, err = decodeHeader(f.bytes)
		case putPrevKV:
			r.PrevKV = f.bytes
		}
		return err
	})
	return h, r, err
}

func decodeDelete(message []byte, prevKV bool) (h backends.Header, r *backends.DeleteResult, err error) {
	r = new(backends.DeleteResult)
	var prev list
	err = eachField("delete response", message, func(f field) (err error) {
		switch f.tag {
		case anyHeader:
			h, err = decodeHeader(f.bytes)
		case deleteDeleted:
			r.Deleted = f.int64()
		case deletePrevKVs:
			// A chunk has the frames of a range, whose tag differs.
			prev.frames = backends.AppendRecord(prev.frames, f.bytes)
			prev.n++
		}
		return err
	})
	if prevKV {
		prev.result = backends.RangeResult{Header: h, Count: int64(prev.n)}
		r.PrevKVs = &listCursor{prev}
	}
	return h, r, err
}

// Compact implements backends.Backend.
func (b *Backend) Compact(ctx context.Context, req *backends.CompactRequest) (backends.Header, error) {
	r := &pb.CompactionResponse{}
	err := b.call(ctx, writing, pb.KV_Compact_FullMethodName, req.Caller,
		&pb.CompactionRequest{Revision: req.Revision, Physical: req.Physical}, r)
	return header(r.Header), err
}
