package etcdapi

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// streamFirstRecords is how many records the first message of a range stream
// has, as etcd's (etcdserver/v3_server.go, initialStreamChunkLimit), so that a
// client has something to do while the rest is read.
const streamFirstRecords = 10

// maxRangeTries bounds how often a range of the present revision is read while
// compactions overtake it.
const maxRangeTries = 5

func (s *Server) kvRange(ctx context.Context, r *pb.RangeRequest) (any, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	// One allocation for all that lives as long as the call.
	call := &struct {
		request backends.RangeRequest
		claim   claim
		drained drained
	}{request: rangeRequest(r, caller), claim: s.claim(ctx)}
	defer call.claim.finish()
	for tries := 1; ; tries++ {
		cur, err := s.backend.Range(ctx, &call.request)
		if err != nil {
			return nil, err
		}
		err = drain(ctx, cur, &call.claim, &call.drained)
		if err == nil {
			break
		}
		// Without a revision the present one is meant, which is compacted by the
		// time it was read only if a compaction overtook the range: nothing was
		// sent, and the range at the revision that is present now is as good.
		if !errors.Is(err, backends.ErrCompacted) || r.Revision > 0 || tries == maxRangeTries {
			return nil, err
		}
		call.drained = drained{}
	}
	if err := s.arrange(ctx, r, &call.claim, &call.drained); err != nil {
		return nil, err
	}
	return encodeRange(&call.drained), nil
}

func rangeRequest(r *pb.RangeRequest, caller backends.Caller) backends.RangeRequest {
	return backends.RangeRequest{Caller: caller, RangeOptions: rangeOptions(r), Serializable: r.Serializable}
}

// arrange does what the backend leaves to etcdapi.
func (s *Server) arrange(ctx context.Context, r *pb.RangeRequest, c *claim, d *drained) error {
	if r.CountOnly {
		d.result.More = false
		return nil
	}
	if needsArranging(r) {
		return d.arrange(ctx, r, c)
	}
	return nil
}

// kvRangeStream sends a range as it is read. Header, count and more stand in
// the last message only, so one chunk is always held back.
func (s *Server) kvRangeStream(ctx context.Context, r *pb.RangeRequest, stream grpc.ServerStream) error {
	if err := checkRangeStream(r); err != nil {
		return err
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return err
	}
	request := rangeRequest(r, caller)
	cur, err := s.backend.Range(ctx, &request)
	if err != nil {
		return err
	}
	claim := s.claim(ctx)
	c := &claim
	defer c.finish()
	if needsArranging(r) {
		return s.sendArranged(ctx, r, cur, c, stream)
	}
	defer cur.Close()
	claim.streams = true

	var last piece
	for first := true; ; first = false {
		chunk, err := cur.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && last.chunk != nil {
			err = stream.SendMsg(encodeRangePart(last))
			last = piece{}
		}
		if err != nil {
			if chunk != nil {
				chunk.Release()
			}
			if last.chunk != nil {
				last.release()
			}
			return err
		}
		if last, err = s.streamPiece(ctx, c, chunk); err != nil {
			return err
		}
		if first {
			if last, err = sendFirst(stream, last); err != nil {
				return err
			}
		}
	}
	d := drained{result: cur.Result()}
	if r.CountOnly {
		d.result.More = false
	}
	if last.chunk != nil {
		d.pieces, d.bytes = append(d.first[:0], last), len(last.chunk.Bytes())
	}
	return stream.SendMsg(encodeRangeEnd(&d))
}

// sendArranged sends in one message what is sorted: a sort target without a
// sort order passes etcd's check, and etcd then sorts each of its chunks by
// itself (etcdserver/v3_server.go, rangeStream). The answer is the same while
// etcd has one chunk, and sorted as a whole beyond.
func (s *Server) sendArranged(ctx context.Context, r *pb.RangeRequest, cur backends.Cursor, c *claim, stream grpc.ServerStream) error {
	var d drained
	if err := drain(ctx, cur, c, &d); err != nil {
		return err
	}
	if err := s.arrange(ctx, r, c, &d); err != nil {
		return err
	}
	return stream.SendMsg(encodeRangeEnd(&d))
}

func (s *Server) streamPiece(ctx context.Context, c *claim, chunk *backends.Chunk) (piece, error) {
	p := piece{chunk: chunk}
	size := len(chunk.Bytes())
	if size < chargeBytes {
		return p, nil
	}
	paid, err := c.take(ctx, int64(cap(chunk.Bytes())))
	if err != nil {
		chunk.Release()
		return piece{}, err
	}
	p.charge = paid
	return p, nil
}

// sendFirst sends the first few records of p, if it has more than that, and
// returns the rest.
func sendFirst(stream grpc.ServerStream, p piece) (piece, error) {
	if p.chunk.Len() <= streamFirstRecords {
		return p, nil
	}
	frames := p.chunk.Bytes()
	end, n := 0, 0
	for raw := range p.chunk.Records() {
		if n == streamFirstRecords {
			break
		}
		end += sizeBytes(len(raw))
		n++
	}
	head := append([]byte(nil), frames[:end]...)
	if err := stream.SendMsg(encodeRangePart(piece{chunk: backends.NewChunk(head, n, nil)})); err != nil {
		p.release()
		return piece{}, err
	}
	rest := backends.NewChunk(frames[end:], p.chunk.Len()-n, p.chunk.Release)
	return piece{rest, p.charge}, nil
}

func (s *Server) kvPut(ctx context.Context, r *pb.PutRequest) (any, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.checkSize(r, caller); err != nil {
		return nil, err
	}
	// One allocation for the request and its operation.
	call := &struct {
		backends.TxnRequest
		ops [1]backends.Op
		put backends.PutOp
	}{put: *putOp(r)}
	call.Caller = caller
	call.ops[0].Put = &call.put
	call.Success = call.ops[:]
	res, err := s.backend.Txn(ctx, &call.TxnRequest)
	if err != nil {
		return nil, err
	}
	defer res.Close()
	return encodePut(res.Header, res.Responses[0].Put.PrevKV), nil
}

func (s *Server) kvDeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (any, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.checkSize(r, caller); err != nil {
		return nil, err
	}
	res, err := s.backend.Txn(ctx, &backends.TxnRequest{
		Caller: caller,
		TxnOp:  backends.TxnOp{Success: []backends.Op{{Delete: deleteOp(r)}}},
	})
	if err != nil {
		return nil, err
	}
	defer res.Close()
	claim := s.claim(ctx)
	c := &claim
	defer c.finish()
	deleted := res.Responses[0].Delete
	var prev *drained
	if r.PrevKv && deleted.PrevKVs != nil {
		prev = new(drained)
		if err := drain(ctx, deleted.PrevKVs, c, prev); err != nil {
			return nil, err
		}
	}
	return encodeDelete(res.Header, deleted.Deleted, prev), nil
}

func (s *Server) kvTxn(ctx context.Context, r *pb.TxnRequest) (any, error) {
	if err := checkTxn(r, s.cfg.MaxTxnOps); err != nil {
		return nil, err
	}
	if err := checkOverlaps(r); err != nil {
		return nil, err
	}
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if !readsOnly(r) {
		if err := s.checkSize(r, caller); err != nil {
			return nil, err
		}
	}
	res, err := s.backend.Txn(ctx, &backends.TxnRequest{Caller: caller, TxnOp: *txnOp(r)})
	if err != nil {
		return nil, err
	}
	defer res.Close()
	claim := s.claim(ctx)
	c := &claim
	defer c.finish()
	body, err := s.drainTxn(ctx, c, r, &res.TxnOpResult)
	if err != nil {
		return nil, err
	}
	return encodeTxn(res.Header, body), nil
}

// drainTxn reads every range of a transaction's outcome. On an error nothing is held.
func (s *Server) drainTxn(ctx context.Context, c *claim, r *pb.TxnRequest, res *backends.TxnOpResult) (*txnBody, error) {
	ran := r.Failure
	if res.Succeeded {
		ran = r.Success
	}
	t := &txnBody{succeeded: res.Succeeded, ops: make([]opBody, len(res.Responses))}
	for i := range res.Responses {
		if err := s.drainOp(ctx, c, ran[i], &res.Responses[i], &t.ops[i]); err != nil {
			t.release()
			return nil, err
		}
	}
	return t, nil
}

func (s *Server) drainOp(ctx context.Context, c *claim, r *pb.RequestOp, res *backends.OpResult, o *opBody) (err error) {
	o.header.Revision = res.Revision
	switch {
	case res.Range != nil:
		o.tag = tagOpRange
		o.ranged = new(drained)
		if err = drain(ctx, res.Range, c, o.ranged); err != nil {
			return err
		}
		return s.arrange(ctx, r.GetRequestRange(), c, o.ranged)
	case res.Put != nil:
		o.tag, o.prevKV = tagOpPut, res.Put.PrevKV
	case res.Delete != nil:
		o.tag, o.deleted = tagOpDelete, res.Delete.Deleted
		if res.Delete.PrevKVs != nil {
			o.ranged = new(drained)
			return drain(ctx, res.Delete.PrevKVs, c, o.ranged)
		}
	case res.Txn != nil:
		o.tag = tagOpTxn
		o.txn, err = s.drainTxn(ctx, c, r.GetRequestTxn(), res.Txn)
	}
	return err
}

// readsOnly tells whether a transaction is what etcd answers without a proposal:
// a nested one always counts as a write (txn/txn.go, IsTxnReadonly).
func readsOnly(r *pb.TxnRequest) bool {
	for _, list := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range list {
			if op.GetRequestRange() == nil {
				return false
			}
		}
	}
	return true
}

func (s *Server) kvCompact(ctx context.Context, r *pb.CompactionRequest) (any, error) {
	caller, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	h, err := s.backend.Compact(ctx, &backends.CompactRequest{
		Caller: caller, Revision: r.Revision, Physical: r.Physical,
	})
	if err != nil {
		return nil, err
	}
	return &pb.CompactionResponse{Header: wireHeader(h)}, nil
}
