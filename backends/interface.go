package backends

import (
	"context"
)

// Backend is what etcd's KV and Watch services need of a store.
type Backend interface {
	// Range opens a cursor over the records of req.KeyRange in ascending key
	// order at one revision, which is fixed before Range returns. The caller
	// must Close the cursor.
	//
	// It returns ErrCompacted or ErrFutureRevision when req.Revision is below
	// the compacted revision or above the current one, and ErrNoLeader,
	// ErrTimeout or the context's error when a linearizable read could not be
	// confirmed.
	Range(ctx context.Context, req *RangeRequest) (Cursor, error)

	// Txn evaluates req.Compare and runs one of the two lists of operations,
	// atomically and with at most one new revision. Put and DeleteRange are
	// Txns of one operation and no comparison. A Txn that can only read is not a
	// write: it costs no revision and needs no quorum beyond a read's.
	//
	// On return without error the effect is as durable as the backend promises.
	// The caller must Close the result, which may hold cursors. Byte slices of
	// req may be kept by the backend: the caller must not change them afterwards.
	//
	// Errors, besides those of Range, are those of the first operation, in order, of
	// the lists that run, in the state before the Txn: ErrLeaseNotFound for a put that
	// names an unknown lease, ErrKeyNotFound for IgnoreValue or IgnoreLease on a
	// key that is absent, or that an operation before deletes (where etcd 3.7.3 ends
	// with a panic). Then there are ErrNoSpace, ErrTooManyRequests (certainly not proposed) and
	// ErrOutcomeUnknown. Nothing of a Txn that returns an error is visible, save
	// for ErrOutcomeUnknown and a context that ended, where either may be true.
	Txn(ctx context.Context, req *TxnRequest) (*TxnResult, error)

	// Watch opens a stream of watches. It holds no watch yet. ctx bounds the
	// stream's whole life.
	Watch(ctx context.Context, caller Caller) (WatchStream, error)

	// Compact forgets history below req.Revision: the newest record of each key
	// at or below it stays, older ones go. A range at the revision itself still
	// works, and so does a watch from it on. Watches that are open and a moment behind
	// still get what they have not read, within the backend's bound. The first
	// compaction may be at 0, as in etcd. It returns ErrCompacted when the revision is at or below the last
	// compaction, and ErrFutureRevision when it is above the current revision.
	// With req.Physical it returns after the space was given back.
	Compact(ctx context.Context, req *CompactRequest) (Header, error)

	// Status reports the store's state. It takes constant time and no lock a
	// writer holds for long: it may be polled every 100 ms. The answer does not depend on
	// who asks; a pass-through, which may be refused, finds the caller by CallerOf.
	Status(ctx context.Context) (Status, error)

	// Info reports the backend's constants.
	Info() Info

	// Close hands over leadership where there is one to hand over, makes
	// everything acknowledged durable, and stops. Requests under way end with
	// ErrStopped. It may be called once.
	Close(ctx context.Context) error
}

// Cursor yields the chunks of one range. It is used by one goroutine.
type Cursor interface {
	// Next returns the next chunk, or io.EOF after the last one. The caller
	// owns the chunk and must Release it. Any other error voids every chunk
	// returned before. A range of count only, or without records, gives io.EOF
	// at once. No store transaction or lock is held between calls.
	Next(ctx context.Context) (*Chunk, error)

	// Result tells header, count and more. It is valid once Next returned io.EOF.
	Result() RangeResult

	// Close lets go of what the cursor pins. It may be called more than once.
	Close()
}

// WatchStream is a set of watches whose events come out of one Next. Add,
// Cancel and Progress may be called by one goroutine while another calls Next.
type WatchStream interface {
	// Add opens a watch. Ids are the caller's and unique within the stream.
	// The watch's first answer from Next has Kind WatchCreated with the store's
	// revision at which it began, which may be later than the return of Add; it comes
	// before any event of it. Answers to Adds come in their order. Add may wait while
	// many answers were not taken by Next.
	//
	// A start revision that is compacted, or a missing permission, is not an
	// error of Add. With the former the watch is created and then cancelled through
	// Next; with the latter Next yields WatchCanceled and no WatchCreated before it.
	Add(ctx context.Context, req *WatchRequest) error

	// Cancel ends a watch; Next yields WatchCanceled without a reason after the
	// last event of it. An unknown id is ignored and yields nothing. The id is free
	// again when Cancel returns: what Next yields for it before the next WatchCreated
	// is of the old watch.
	Cancel(id int64)

	// Progress asks Next for a WatchProgress of one watch as soon as it is
	// synced, or, with AllWatches, for one mark of the whole stream, when every
	// watch of it is synced and none starts in the future. Requests that wait
	// are merged. An id that is unknown, and AllWatches on a stream without watches,
	// yield nothing.
	Progress(id int64)

	// Next blocks for the next batch. The batch and its events may be kept by
	// the caller for as long as it likes; they are never changed. It returns
	// ErrStopped after the backend closed and ctx's error when ctx, or the context
	// of Watch, ended. Any other error ends the stream: every watch of it is over.
	//
	// A caller that is slow to call Next holds up nobody: the backend keeps no
	// events for it beyond a fixed bound and reads history again later.
	Next(ctx context.Context) (WatchBatch, error)

	// Close ends all watches. A Next that waits returns ErrStopped.
	Close()
}
