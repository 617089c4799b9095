package etcdapi

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdshim/shim/backends"
)

const (
	// proposalTagBytes are a tag and length of a request in etcd's proposal of it, and
	// the tag of the proposal's header.
	proposalTagBytes = 4 + 2
	// proposalIDBytes is the id in that header.
	proposalIDBytes = 11
)

// proposalBytes is what etcd's proposal of a request is larger than the request: it
// has a header with an id, the user and the auth revision
// (etcdserver/v3_server.go, processInternalRaftRequestOnce).
func proposalBytes(c backends.Caller) int {
	header := proposalIDBytes + sizeField(c.AuthRevision)
	if c.User != "" {
		header += sizeBytes(len(c.User))
	}
	return proposalTagBytes + sizeBytes(header) - 1
}

// checkSize refuses a write that etcd's proposal would be too large for. It
// comes after every other check, as there.
func (s *Server) checkSize(r proto.Message, c backends.Caller) error {
	return s.checkBytes(proto.Size(r), c)
}

// checkBytes leaves it to the server behind a pass-through, which checks the token before,
// if the token is not known here.
func (s *Server) checkBytes(size int, c backends.Caller) error {
	if c.Token != "" && c.User == "" {
		return nil
	}
	if size+proposalBytes(c) > s.cfg.MaxRequestBytes {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

// The checks below are those of etcd's v3rpc/key.go, in its order: a request
// with several faults gets the same answer as from etcd.

func checkRange(r *pb.RangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if r.SortOrder < pb.RangeRequest_NONE || r.SortOrder > pb.RangeRequest_DESCEND {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if r.SortTarget < pb.RangeRequest_KEY || r.SortTarget > pb.RangeRequest_VALUE {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkRangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	if !inKeyOrder(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if hasRevisionFilter(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn checks a transaction, nested ones too, which share the operations
// that the largest list of their parent left over.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	ops := max(len(r.Compare), len(r.Success), len(r.Failure))
	if ops > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, list := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range list {
			if err := checkOp(op, maxOps-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch o := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxn(o.RequestTxn, maxOps)
	}
	// An operation without a request: etcd answers as if a key were missing.
	return rpctypes.ErrGRPCKeyNotFound
}

// checkOverlaps refuses a transaction that could write one key twice.
func checkOverlaps(r *pb.TxnRequest) error {
	for _, list := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		if len(list) < 2 {
			if len(list) == 0 || list[0].GetRequestTxn() == nil {
				continue
			}
		}
		if _, err := collectWrites(list); err != nil {
			return err
		}
	}
	return nil
}

// span is a half-open interval of keys; a single key k is [k, k+"\x00").
type span struct{ begin, end string }

// spans are sorted and do not touch, so that a request of 1.5 MiB full of small
// deletes and puts is checked in O(n log n).
type spans []span

// with returns the union of s and more; both may be overwritten.
func (s spans) with(more spans) spans {
	if len(more) == 0 {
		return s
	}
	all := append(s, more...)
	slices.SortFunc(all, func(a, b span) int { return strings.Compare(a.begin, b.begin) })
	out := all[:1]
	for _, next := range all[1:] {
		last := &out[len(out)-1]
		if next.begin > last.end {
			out = append(out, next)
			continue
		}
		last.end = max(last.end, next.end)
	}
	return out
}

func (s spans) contain(key string) bool {
	after, exact := slices.BinarySearchFunc(s, key, func(e span, k string) int { return strings.Compare(e.begin, k) })
	if exact {
		return true
	}
	return after > 0 && key < s[after-1].end
}

// writes are what a list of operations may write, whichever branches run.
type writes struct {
	puts    map[string]struct{}
	deletes spans
}

// collectWrites gathers the puts and deletes of a list, nested ones too, and
// refuses a key that is put twice, or put and deleted, as etcd's checkIntervals
// does: deletes of the list itself first, then what the two branches of each
// nested transaction write (which may overlap, since only one of them runs), then
// the list's own puts. Overlapping deletes are allowed.
func collectWrites(list []*pb.RequestOp) (*writes, error) {
	w := &writes{puts: make(map[string]struct{})}
	var own spans
	for _, op := range list {
		if d := op.GetRequestDeleteRange(); d != nil {
			if s, ok := spanOf(d.Key, d.RangeEnd); ok {
				own = append(own, s)
			}
		}
	}
	w.deletes = w.deletes.with(own)
	for _, op := range list {
		if t := op.GetRequestTxn(); t != nil {
			if err := w.addTxn(t); err != nil {
				return nil, err
			}
		}
	}
	for _, op := range list {
		if p := op.GetRequestPut(); p != nil {
			if err := w.addPut(string(p.Key), nil); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

func (w *writes) addTxn(t *pb.TxnRequest) error {
	then, err := collectWrites(t.Success)
	if err != nil {
		return err
	}
	otherwise, err := collectWrites(t.Failure)
	if err != nil {
		return err
	}
	for key := range then.puts {
		if err := w.addPut(key, nil); err != nil {
			return err
		}
	}
	for key := range otherwise.puts {
		if err := w.addPut(key, then.puts); err != nil {
			return err
		}
	}
	w.deletes = w.deletes.with(then.deletes).with(otherwise.deletes)
	return nil
}

// addPut notes a put; a key in exclusive was put by the branch that does not run.
func (w *writes) addPut(key string, exclusive map[string]struct{}) error {
	if _, twice := w.puts[key]; twice {
		if _, ok := exclusive[key]; !ok {
			return rpctypes.ErrGRPCDuplicateKey
		}
	}
	if w.deletes.contain(key) {
		return rpctypes.ErrGRPCDuplicateKey
	}
	w.puts[key] = struct{}{}
	return nil
}

// spanOf is the interval of a delete; false when it is empty. It is so too for
// an end of one zero byte, which deletes every key from key on: etcd takes that end
// as it stands here, and lets such a delete and a put be in one transaction.
func spanOf(key, end []byte) (span, bool) {
	if len(end) == 0 {
		return span{begin: string(key), end: string(key) + "\x00"}, true
	}
	s := span{begin: string(key), end: string(end)}
	return s, s.begin < s.end
}
