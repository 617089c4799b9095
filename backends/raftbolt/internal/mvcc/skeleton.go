package mvcc

import (
	"context"
	"io"

	"github.com/etcdshim/shim/backends"
)

// Store is an open store. Its reading methods may be called from any goroutine;
// Begin, Compact and EndEntry are the applier's.
type Store struct{}

// Open opens or creates the store at c.Path. It returns ErrLocked, ErrVersion or
// a *CorruptError. An interrupted compaction is taken up again in the background.
func Open(c Config) (*Store, error) { panic("mvcc: not built") }

// Close flushes what was applied, up to the last EndEntry, stops and closes the
// file. It returns the flush's error. No other method may be called after it but
// those of Views and Cursors, which answer ErrStopped.
func (s *Store) Close(ctx context.Context) error { panic("mvcc: not built") }

// Applied tells the durable position: at open, where to go on applying.
func (s *Store) Applied() Applied { panic("mvcc: not built") }

// Begin starts a transaction. There is at most one at a time.
func (s *Store) Begin() *Txn { panic("mvcc: not built") }

// EndEntry marks a raft-entry boundary: everything committed so far belongs to
// log positions up to a.Index. It blocks while the layer is above LayerBytes. It
// fails when the store has failed (the error OnFatal got) or is closed.
func (s *Store) EndEntry(a Applied) error { panic("mvcc: not built") }

// Compact forgets history below revision: at once for readers, and in the
// background in the file. It takes effect with the current entry. It returns
// ErrCompacted when revision is at or below the last compaction and
// ErrFutureRevision when it is above the current revision.
func (s *Store) Compact(revision int64) error { panic("mvcc: not built") }

// CompactDone waits until the file holds nothing that the compaction at revision
// forgets, and until that is durable.
func (s *Store) CompactDone(ctx context.Context, revision int64) error { panic("mvcc: not built") }

// View returns the current state. Close it when done.
func (s *Store) View() *View { panic("mvcc: not built") }

// Committed is the current revision: 1 in an empty store.
func (s *Store) Committed() int64 { panic("mvcc: not built") }

// CompactRevision is the revision of the last compaction, -1 before the first,
// as etcd reports it.
func (s *Store) CompactRevision() int64 { panic("mvcc: not built") }

// Changed returns a channel that is closed at the first commit of a new revision
// (or the first compaction) after the call. To wait without missing any: take
// the channel, then look at Committed, then wait.
func (s *Store) Changed() <-chan struct{} { panic("mvcc: not built") }

// Flush makes everything applied before the call durable: up to the next
// EndEntry when an entry is under way. The applier must not call it within an
// entry.
func (s *Store) Flush(ctx context.Context) error { panic("mvcc: not built") }

// Bucket yields the entries of a small bucket in key order, those not yet flushed
// included. k and v are valid within the call only.
func (s *Store) Bucket(b Bucket, f func(k, v []byte)) error { panic("mvcc: not built") }

// LeasedKeys yields every live key that has a lease, in key order: what the lease
// table is rebuilt from at start. It reads every such record. key is valid within
// the call only.
func (s *Store) LeasedKeys(f func(key []byte, lease int64)) error { panic("mvcc: not built") }

// Size is the file's size in bytes that bbolt has allocated pages for, and
// SizeInUse what of it holds data, as of the last flush. LayerBytes is the memory
// of writes not flushed. All are lock-free.
func (s *Store) Size() int64       { panic("mvcc: not built") }
func (s *Store) SizeInUse() int64  { panic("mvcc: not built") }
func (s *Store) LayerBytes() int64 { panic("mvcc: not built") }

// Keys is the number of live keys.
func (s *Store) Keys() int64 { panic("mvcc: not built") }

// Hash is the answer of HashKV.
type Hash struct {
	Hash uint32
	// Revision is what was hashed up to; CompactRevision the compaction it is
	// relative to, -1 for none; CurrentRevision the store's at the call.
	Revision        int64
	CompactRevision int64
	CurrentRevision int64
}

// HashKV hashes the key space up to revision (0: the current one) as etcd does.
// It flushes first. ErrCompacted, ErrFutureRevision.
func (s *Store) HashKV(ctx context.Context, revision int64) (Hash, error) { panic("mvcc: not built") }

// Snapshot is a copy of the file at one moment.
type Snapshot struct {
	io.ReadCloser
	SizeBytes int64
	Revision  int64
	Applied   Applied
}

// Snapshot flushes and copies the file. ErrTooManyRequests when two are under
// way, ErrNoSpace when there is no room for the copy.
func (s *Store) Snapshot(ctx context.Context) (*Snapshot, error) { panic("mvcc: not built") }

// Defragment rewrites the file without its free pages. Writes and reads of the
// file wait for it. ErrNoSpace when there is no room for the copy; the store then
// goes on as before.
func (s *Store) Defragment(ctx context.Context) error { panic("mvcc: not built") }

// Bucket names a small bucket of etcd's schema.
type Bucket string

// The small buckets. The bucket "key" is written by Txn.Put and DeleteRange and
// "meta" by EndEntry and Compact alone.
const (
	BucketLease          Bucket = "lease"
	BucketAlarm          Bucket = "alarm"
	BucketCluster        Bucket = "cluster"
	BucketMembers        Bucket = "members"
	BucketMembersRemoved Bucket = "members_removed"
	BucketAuth           Bucket = "auth"
	BucketAuthUsers      Bucket = "authUsers"
	BucketAuthRoles      Bucket = "authRoles"
)

// StorageVersion is what the file's schema is: etcd's storage version.
const StorageVersion = "3.7.0"

// Txn is a change of the key space under way. It is the applier's alone. It ends
// with Commit or Discard.
//
// A read of the file may fail (a corrupt store); then the store has failed,
// reads of the Txn find nothing, and Commit returns the error.
type Txn struct{}

// Prev is the state of a key at a point of a transaction.
type Prev struct {
	Exists         bool
	CreateRevision int64
	ModRevision    int64
	Version        int64
}

// Lease is the key's lease; it reads the record only when the index says that it
// has one.
func (p *Prev) Lease() int64 { panic("mvcc: not built") }

// Record is the encoded mvccpb.KeyValue, nil when the key does not exist. It is
// immutable and the caller's. It must be called before the Txn ends; later, read
// it from a View taken at this point.
func (p *Prev) Record() []byte { panic("mvcc: not built") }

// Revision is the current revision at this point of the transaction: that of the
// store at Begin, or one more after the first write.
func (t *Txn) Revision() int64 { panic("mvcc: not built") }

// Get looks a key up.
func (t *Txn) Get(key []byte) Prev { panic("mvcc: not built") }

// Ascend calls f for each live key of the range in order until f returns false.
// key is immutable. The Txn must not be written to meanwhile.
func (t *Txn) Ascend(r backends.KeyRange, f func(key []byte, p *Prev) bool) { panic("mvcc: not built") }

// Put sets a key and returns what was there. It keeps key; value is copied.
func (t *Txn) Put(key, value []byte, lease int64) Prev { panic("mvcc: not built") }

// DeleteRange deletes every live key of the range, after calling f, which may be
// nil, with the key (immutable) and its lease. It returns how many there were.
func (t *Txn) DeleteRange(r backends.KeyRange, f func(key []byte, lease int64)) int64 {
	panic("mvcc: not built")
}

// Set and Delete write to a small bucket. They make no revision. key and value
// are copied.
func (t *Txn) Set(b Bucket, key, value []byte) { panic("mvcc: not built") }
func (t *Txn) Delete(b Bucket, key []byte)     { panic("mvcc: not built") }

// View pins the state at this point of the transaction for reading after the Txn
// ended; to be read, if anything was written, only after a Commit. Until it is
// closed no physical compaction removes what it can read, so it must be closed
// with the request it belongs to.
func (t *Txn) View() *View { panic("mvcc: not built") }

// Commit makes the changes visible and returns the store's revision. An error is
// final: the store has failed, and nothing of the Txn is visible.
func (t *Txn) Commit() (int64, error) { panic("mvcc: not built") }

// Discard leaves nothing behind, neither a revision nor bucket writes.
func (t *Txn) Discard() { panic("mvcc: not built") }

// View is a state of the key space. It may be used by several goroutines.
type View struct{}

// Revision is the state's revision, CompactRevision that of the last compaction
// at that time (-1: none).
func (v *View) Revision() int64        { panic("mvcc: not built") }
func (v *View) CompactRevision() int64 { panic("mvcc: not built") }

// Check tells whether revision can be read in this View: ErrFutureRevision,
// ErrCompacted or nil. Zero or below stands for the View's own.
func (v *View) Check(revision int64) error { panic("mvcc: not built") }

// Get reads one key's record at a revision (0: the View's). ok is false when the
// key does not exist there. The record is the caller's.
func (v *View) Get(key []byte, revision int64) (record []byte, ok bool, err error) {
	panic("mvcc: not built")
}

// Count counts the keys of a range at a revision (0: the View's).
func (v *View) Count(r backends.KeyRange, revision int64) (int64, error) { panic("mvcc: not built") }

// Range opens a cursor. ErrCompacted, ErrFutureRevision. The View may be closed
// while the cursor is open.
func (v *View) Range(o backends.RangeOptions) (*Cursor, error) { panic("mvcc: not built") }

// Close lets go of the View. It may be called more than once.
func (v *View) Close() { panic("mvcc: not built") }

// Cursor reads a range in chunks. It is used by one goroutine.
type Cursor struct{}

// Next returns the next chunk, or io.EOF. ErrCompacted when the revision was
// compacted meanwhile (never for a View of a Txn). The caller releases the chunk.
func (c *Cursor) Next(ctx context.Context) (*backends.Chunk, error) { panic("mvcc: not built") }

// Count and More are those of the result; both are known from the start.
func (c *Cursor) Count() int64 { panic("mvcc: not built") }
func (c *Cursor) More() bool   { panic("mvcc: not built") }

// Revision is the View's revision, for the header.
func (c *Cursor) Revision() int64 { panic("mvcc: not built") }

// Close may be called more than once.
func (c *Cursor) Close() { panic("mvcc: not built") }

// HistoryEvent is one change. It is immutable and shared between watchers.
type HistoryEvent struct {
	Revision int64
	Sub      int64
	// Key must not be changed.
	Key    []byte
	Delete bool
}

// Encoded is the event framed for the wire, with the record before it when prevKV
// is set and that record is not compacted. Each form is encoded at most once,
// however many ask; it may read the file.
func (e *HistoryEvent) Encoded(prevKV bool) (backends.Event, error) { panic("mvcc: not built") }

// History returns the events of whole revisions from revision from on, in order,
// about maxBytes of them, at least one revision; next is the first revision not
// looked at: it is from when there is nothing yet. ErrCompacted when from is
// below the compacted revision; at that revision itself it works, as etcd's does.
//
// maxBytes counts keys and values. It may read the file.
func (s *Store) History(ctx context.Context, from, maxBytes int64) (events []*HistoryEvent, next int64, err error) {
	panic("mvcc: not built")
}
