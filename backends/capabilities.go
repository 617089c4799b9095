package backends

import (
	"context"
	"io"
)

// The interfaces below are optional. etcdapi.New finds them by type assertion,
// and nobody else does. A service whose capability is absent is answered with
// Unimplemented and a text that names the backend.

// Leases keeps leases: keys attached to one are deleted, in one revision, when
// it expires or is revoked.
type Leases interface {
	// LeaseGrant makes a lease of ttlSeconds, raised to the backend's minimum.
	// An id of zero lets the backend choose a positive one; a negative id is one like
	// any other. ErrLeaseExists, ErrLeaseTTLTooLarge, ErrNoSpace.
	LeaseGrant(ctx context.Context, caller Caller, id, ttlSeconds int64) (LeaseGrantResult, error)
	// LeaseRevoke ends a lease and deletes its keys, in ascending order. One without
	// keys makes no revision. ErrLeaseNotFound.
	LeaseRevoke(ctx context.Context, caller Caller, id int64) (Header, error)
	// LeaseKeepAlive renews a lease and returns its TTL in seconds. The renewal
	// holds even if the leader changes right after. ErrLeaseNotFound.
	LeaseKeepAlive(ctx context.Context, caller Caller, id int64) (LeaseKeepAliveResult, error)
	// LeaseTimeToLive tells what remains of a lease; with keys, also the keys
	// attached to it in ascending order. ErrLeaseNotFound.
	LeaseTimeToLive(ctx context.Context, caller Caller, id int64, keys bool) (LeaseTimeToLiveResult, error)
	// LeaseLeases lists the ids of all leases, those expiring first first.
	LeaseLeases(ctx context.Context, caller Caller) (LeaseLeasesResult, error)
}

// LeaseGrantResult is a new lease.
type LeaseGrantResult struct {
	Header     Header
	ID         int64
	TTLSeconds int64
}

// LeaseKeepAliveResult is a renewed lease.
type LeaseKeepAliveResult struct {
	Header     Header
	TTLSeconds int64
}

// LeaseTimeToLiveResult is a lease's state.
type LeaseTimeToLiveResult struct {
	Header Header
	// TTLSeconds remain, rounded down; GrantedTTLSeconds is what renewals set it to.
	TTLSeconds        int64
	GrantedTTLSeconds int64
	Keys              [][]byte
}

// LeaseLeasesResult lists leases.
type LeaseLeasesResult struct {
	Header Header
	IDs    []int64
}

// AlarmKind is a kind of alarm. The numbers are those of etcdserverpb.AlarmType.
// As in etcd, one without a name here can be raised and cleared like the others, and
// refuses nothing.
type AlarmKind int32

// The kinds of alarm.
const (
	AlarmNone AlarmKind = iota
	AlarmNoSpace
	AlarmCorrupt
)

// Alarm is an alarm raised by or for a member.
type Alarm struct {
	MemberID uint64
	Kind     AlarmKind
}

// AlarmAction is what to do with alarms. The numbers are those of
// etcdserverpb.AlarmRequest.AlarmAction.
type AlarmAction int32

// The actions on alarms.
const (
	AlarmGet AlarmAction = iota
	AlarmActivate
	AlarmDeactivate
)

// AlarmRequest asks for, raises or clears alarms.
type AlarmRequest struct {
	Caller Caller
	Action AlarmAction
	// MemberID is the member meant, whether there is such a member or not; AlarmGet
	// lists those of every member. AlarmNone is every kind to AlarmGet, and none to the
	// others, which then change nothing.
	MemberID uint64
	Kind     AlarmKind
}

// AlarmResult lists the alarms that were asked for, or changed.
type AlarmResult struct {
	Header Header
	Alarms []Alarm
}

// Alarms keeps the alarms of a cluster. While AlarmNoSpace is raised, requests
// that may grow the store are refused with ErrNoSpace; while AlarmCorrupt is,
// every write is refused with ErrCorrupt.
type Alarms interface {
	Alarm(ctx context.Context, req *AlarmRequest) (AlarmResult, error)
}

// HashKVResult is a hash of the key space.
type HashKVResult struct {
	Header Header
	// Hash is over all records at or below HashRevision that are not forgotten
	// by the compaction at CompactRevision.
	Hash            uint32
	CompactRevision int64
	HashRevision    int64
}

// HashResult is a hash of the whole store.
type HashResult struct {
	Header Header
	// Hash is the CRC-32C of every bucket, entry by entry, but for the place in the
	// log and the storage version. It tells whether a file was changed; other
	// members' need not be equal, since compactions are done at different times.
	Hash uint32
}

// Hasher hashes the key space: equal histories give equal hashes on every
// member of a cluster.
type Hasher interface {
	// Hash hashes everything that is in the store.
	Hash(ctx context.Context, caller Caller) (HashResult, error)
	// HashKV hashes up to revision; zero means the current one, and below it there is
	// nothing to hash. ErrCompacted, ErrFutureRevision.
	HashKV(ctx context.Context, caller Caller, revision int64) (HashKVResult, error)
}

// Snapshot is a point-in-time copy of the store in the format of etcd's database
// file. The reader must be closed. It ends with an error, never with a short
// copy, when the copy could not be completed.
type Snapshot struct {
	Header Header
	io.ReadCloser
	// SizeBytes is the copy's length.
	SizeBytes int64
	// StorageVersion is the data format's version, such as "3.7.0".
	StorageVersion string
}

// Snapshotter copies the store while it goes on.
type Snapshotter interface {
	Snapshot(ctx context.Context, caller Caller) (*Snapshot, error)
}

// Defragmenter gives unused space of the store's file back.
type Defragmenter interface {
	Defragment(ctx context.Context, caller Caller) (Header, error)
}

// Readiness is of a backend that opens before it can serve.
type Readiness interface {
	// Ready is closed once linearizable requests can be served.
	Ready() <-chan struct{}
}
