// Package lease knows which leases exist, which keys hang on them, and when
// they end. It is pure data: it has no clock, no goroutine and no lock.
//
// # Nouns
//
//   - A [Record] is the persistent part of a lease: its id, its TTL and the
//     remaining TTL of the last checkpoint. It is encoded as in etcd's "lease"
//     bucket; see record.go.
//   - A [Table] holds all leases. One half of it is replicated: records and
//     attached keys. The other is the leader's alone: deadlines, and when to
//     checkpoint. The replicated half never depends on the other, so equal
//     logs give equal records whatever the clocks say.
//   - A [Checkpoint] is the remaining TTL of a lease at a moment, which is
//     replicated so that a lease does not start over at each change of leader.
//
// # Duties of the caller
//
//  1. Guard the table with one mutex. Every method takes O(log n) or the size
//     of its answer, but for List and Promote, which take O(n log n) and O(n).
//  2. Pass times that carry a monotonic reading, as [time.Now] gives them.
//  3. At start make a Table, Load every record of the bucket, and Attach the
//     keys of the store to the lease each record of them names. After a
//     snapshot was installed do so again with a new Table.
//  4. From apply, and from nowhere else, call Grant, Revoke, Attach, Detach and
//     ApplyCheckpoint, and write the records they return into the bucket.
//  5. Call Promote when this member became leader and has applied an entry of
//     its own term, Demote when it no longer is.
//  6. As the leader, propose to revoke what Expired returns, and propose what
//     Checkpoints returns, both with the term they were decided in: apply
//     rejects them when their entry's term is another one. A proposal of
//     checkpoints that certainly will never be applied is given back with
//     RefuseCheckpoints. One whose fate is not known means the leadership is
//     lost, and Demote settles it.
//  7. Before a keep-alive is answered, confirm the leadership. When Renew says
//     [ErrCheckpointed], replicate a Checkpoint of zero for the lease and call
//     Renew again. When it says [ErrExpired], wait until the lease is revoked
//     or the leadership lost.
//
// Duty 7 is what keeps the promise that no lease ends before its TTL has passed
// since its last acknowledged keep-alive, whoever becomes leader next.
//
// # Limits
//
// A TTL is at most [MaxTTLSeconds]. The number of leases and of keys is bounded
// by the store's quota, as both are records in it.
package lease
