package backends

import "context"

// Header tells where and when an answer was made. Every result has its own.
type Header struct {
	ClusterID uint64
	MemberID  uint64
	// Revision is the store's revision when the request was served; of a write,
	// the revision it made.
	Revision int64
	// Term is the consensus term at the answer; zero where there is none.
	Term uint64
}

// Caller is who asks, as the wire saw it. The zero Caller is anonymous, which
// is everybody while authentication is off.
type Caller struct {
	// User is the authenticated user name, and AuthRevision the revision of the
	// auth store at which it was authenticated.
	User         string
	AuthRevision uint64
	// Token is what the client sent as its token, without a leading "Bearer ", for
	// Identify and for a backend that forwards requests.
	Token string
	// Certified tells that the client has a verified certificate that says who asks, and
	// CertName is its common name, which may be empty.
	Certified bool
	CertName  string
}

// callerKey is where WithCaller keeps a Caller.
type callerKey struct{}

// WithCaller tells Status, whose answer is the same for everybody, who asks: a pass-through
// has to say so to the server behind it.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf is the Caller of WithCaller; the anonymous one if there is none.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// KeyRange names keys as etcd's wire does: End empty means the one key Key; End
// equal to one zero byte means every key at or above Key; otherwise the
// half-open interval [Key, End), which is empty when End is not above Key.
type KeyRange struct {
	Key []byte
	End []byte
}

// RangeOptions tell what to return of a range. Sorting other than by ascending
// key and filters by revision are not here: etcdapi does them, once.
type RangeOptions struct {
	KeyRange
	// Revision to read at; zero or below means the current one. Within a Txn
	// etcd takes a negative one at its word: below the compacted revision (-1
	// before the first compaction) it is ErrCompacted.
	Revision int64
	// Limit is the largest number of records to return; zero or below means all.
	Limit int64
	// KeysOnly leaves value and lease out of each record, as etcd 3.7 does, which
	// reads such a range from its index.
	KeysOnly bool
	// CountOnly returns no records, only the count.
	CountOnly bool
}

// RangeRequest is a read outside a Txn.
type RangeRequest struct {
	Caller Caller
	RangeOptions
	// Serializable allows an answer that lags behind acknowledged writes.
	Serializable bool
}

// RangeResult ends a range.
type RangeResult struct {
	Header Header
	// Count is the number of keys in the range at the revision read, whatever
	// the limit.
	Count int64
	// More tells that the limit cut the range short.
	More bool
}

// TxnRequest is a compare-and-then transaction; see Backend.Txn.
type TxnRequest struct {
	Caller Caller
	TxnOp
}

// TxnOp is the body of a transaction, outermost or nested. Success runs when
// every Compare holds, else Failure. As in etcd (compareToPath in
// server/etcdserver/txn, 3.7.3) the comparisons of nested transactions, too, are
// decided in the state before the outermost one: they see none of its effects,
// while its ranges and deletions see those of the operations before them.
type TxnOp struct {
	Compare []Compare
	Success []Op
	Failure []Op
}

// Op is one operation of a transaction: exactly one field is set.
type Op struct {
	Range  *RangeOptions
	Put    *PutOp
	Delete *DeleteOp
	Txn    *TxnOp
}

// PutOp sets a key. The key is not empty.
type PutOp struct {
	Key   []byte
	Value []byte
	// Lease to attach the key to; zero detaches it.
	Lease int64
	// PrevKV asks for the record that was replaced.
	PrevKV bool
	// IgnoreValue and IgnoreLease keep the present value or lease; the key must
	// exist.
	IgnoreValue bool
	IgnoreLease bool
}

// DeleteOp deletes every key of a range.
type DeleteOp struct {
	KeyRange
	// PrevKV asks for the records that were deleted.
	PrevKV bool
}

// TxnResult is the outcome of a Txn. Close it when done with its cursors.
type TxnResult struct {
	Header Header
	TxnOpResult
}

// Close closes every cursor of the result, nested ones too.
func (r *TxnResult) Close() { r.TxnOpResult.close() }

// TxnOpResult is the outcome of a transaction body: one OpResult for each Op of
// the list that ran, in order.
type TxnOpResult struct {
	Succeeded bool
	Responses []OpResult
}

func (r *TxnOpResult) close() {
	for i := range r.Responses {
		switch o := &r.Responses[i]; {
		case o.Range != nil:
			o.Range.Close()
		case o.Delete != nil && o.Delete.PrevKVs != nil:
			o.Delete.PrevKVs.Close()
		case o.Txn != nil:
			o.Txn.close()
		}
	}
}

// OpResult is the outcome of one Op: the field of the same kind is set.
type OpResult struct {
	// Revision is what etcd puts into the nested response's header: the
	// revision the operation saw or, once the transaction has written, made. It is
	// zero for a nested transaction, whose header etcd leaves empty.
	Revision int64

	// Range reads the range as of this point of the transaction.
	Range  Cursor
	Put    *PutResult
	Delete *DeleteResult
	Txn    *TxnOpResult
}

// PutResult is the outcome of a PutOp.
type PutResult struct {
	// PrevKV is the replaced record, or nil when there was none or it was not
	// asked for. It is an encoded mvccpb.KeyValue, immutable, the caller's.
	PrevKV []byte
}

// DeleteResult is the outcome of a DeleteOp.
type DeleteResult struct {
	// Deleted counts the keys that were deleted.
	Deleted int64
	// PrevKVs reads the deleted records in key order; nil when not asked for.
	PrevKVs Cursor
}

// CompactRequest asks to forget history below Revision.
type CompactRequest struct {
	Caller   Caller
	Revision int64
	// Physical waits until the space was given back.
	Physical bool
}

// Status is a backend's state at a moment. Fields that a backend has no notion
// of are zero.
type Status struct {
	Header Header
	// CompactRevision is the revision of the last compaction, 0 before the first.
	CompactRevision int64
	// SizeBytes is what the store occupies, SizeInUseBytes what of it holds
	// data, QuotaBytes the bound on the former (0 or below: none).
	SizeBytes      int64
	SizeInUseBytes int64
	QuotaBytes     int64
	// Leader is the leader's member id, 0 while there is none.
	Leader       uint64
	Learner      bool
	RaftIndex    uint64
	AppliedIndex uint64
	Alarms       []Alarm
	// StorageVersion is the data format's version, such as "3.7.0"; may be empty.
	StorageVersion string
	// ClusterVersion is the version that the members agreed to speak, such as "3.7.0";
	// empty while they have not, or where there is no such notion.
	ClusterVersion string
	Downgrade      DowngradeInfo
	// Errors are conditions that an operator should see, in words.
	Errors []string
}

// Info are a backend's constants.
type Info struct {
	// Name is the word in messages and logs, such as "raftbolt".
	Name string
	// Version is the version of the engine behind it; may be empty.
	Version string
	// MaxKeyBytes and MaxValueBytes bound a record; 0 means that only the
	// request limit does.
	MaxKeyBytes   int
	MaxValueBytes int
	// KeyAlphabet tells which keys can be stored.
	KeyAlphabet KeyAlphabet
	// MultiKeyTxn, OldRevisions and Versions tell that a Txn may touch several
	// keys, that a range may name a past revision, and that a record counts its
	// versions.
	MultiKeyTxn  bool
	OldRevisions bool
	Versions     bool
}

// KeyAlphabet is a set of byte strings that can be keys.
type KeyAlphabet int

const (
	// AnyBytes: every non-empty byte string.
	AnyBytes KeyAlphabet = iota
	// UTF8WithoutNUL: valid UTF-8 that holds no zero byte.
	UTF8WithoutNUL
	// ASCII: bytes 1 to 127.
	ASCII
)
