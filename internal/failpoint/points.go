package failpoint

// Points of the log.
const (
	LogBatchWrite    Point = "log-batch-write"   // before the write of a batch
	LogBatchTorn     Point = "log-batch-torn"    // with half of a batch written
	LogBatchWritten  Point = "log-batch-written" // after the write
	LogSync          Point = "log-sync"          // before the sync of a batch
	LogSynced        Point = "log-synced"        // after it, before anybody is told
	LogSwitch        Point = "log-switch"        // the spare became the active segment
	LogSegmentCreate Point = "log-segment-create"
	LogSegmentHead   Point = "log-segment-head"   // its header is written, the rest is not
	LogSegmentSynced Point = "log-segment-synced" // written and synced, not renamed
	LogSegmentRename Point = "log-segment-rename" // renamed, the directory not synced
	LogRecycleHead   Point = "log-recycle-head"   // the new header is written, not synced
	LogRecycleSynced Point = "log-recycle-synced" // synced, not renamed
	LogRecycleRename Point = "log-recycle-rename" // renamed, the directory not synced
	LogRemove        Point = "log-remove"         // a superfluous segment is removed, the directory not synced
	LogRepair        Point = "log-repair"         // at a start: the stale area is overwritten, not synced
	LogRepaired      Point = "log-repaired"       // at a start: synced, no spare made yet
)

// Points of the store.
const (
	StoreCreate      Point = "store-create" // the empty file is made under its temporary name
	StoreRename      Point = "store-rename" // renamed, the directory not synced
	FlushBegin       Point = "flush-begin"
	FlushFilled      Point = "flush-filled"    // the transaction holds everything and is not committed
	FlushCommitted   Point = "flush-committed" // committed, nobody told
	CompactBatch     Point = "compact-batch"   // the transaction holds a batch of removals and is not committed
	CompactRemoved   Point = "compact-removed" // the batch is committed
	CompactFinish    Point = "compact-finish"  // all batches are, the marker is not written
	CompactFinished  Point = "compact-finished"
	SnapshotFile     Point = "snapshot-file"     // the temporary file is made, not yet unlinked
	SnapshotCopy     Point = "snapshot-copy"     // while it is being written
	SnapshotCopied   Point = "snapshot-copied"   // written, nothing sent
	SnapshotSend     Point = "snapshot-send"     // while it is being sent
	DefragmentCopy   Point = "defragment-copy"   // the copy's file is made and empty
	DefragmentChunk  Point = "defragment-chunk"  // a part is copied; flushes go on
	DefragmentCopied Point = "defragment-copied" // everything is, and flushes are held
	DefragmentSynced Point = "defragment-synced" // the copy is whole and synced, not renamed
	DefragmentRename Point = "defragment-rename" // renamed, the directory not synced
	DefragmentSwap   Point = "defragment-swap"   // the directory is synced, the new file not in use
	DefragmentOpened Point = "defragment-opened" // the new file is in use
)

// Points of founding a member.
const (
	StateWrite   Point = "state-write"   // shim.json is written and synced under its temporary name
	StateRename  Point = "state-rename"  // renamed, the directories not synced
	StateWritten Point = "state-written" // durable
	FoundCleared Point = "found-cleared" // leftovers are removed
	FoundLog     Point = "found-log"     // the log is made
	FoundStore   Point = "found-store"   // the store is made and empty
	FoundFlushed Point = "found-flushed" // it holds the member; shim.json does not say so
)

// All lists every point.
func All() []Point {
	return []Point{
		LogBatchWrite, LogBatchTorn, LogBatchWritten, LogSync, LogSynced, LogSwitch,
		LogSegmentCreate, LogSegmentHead, LogSegmentSynced, LogSegmentRename,
		LogRecycleHead, LogRecycleSynced, LogRecycleRename, LogRemove, LogRepair, LogRepaired,
		StoreCreate, StoreRename, FlushBegin, FlushFilled, FlushCommitted,
		CompactBatch, CompactRemoved, CompactFinish, CompactFinished,
		SnapshotFile, SnapshotCopy, SnapshotCopied, SnapshotSend,
		DefragmentCopy, DefragmentChunk, DefragmentCopied, DefragmentSynced, DefragmentRename, DefragmentSwap, DefragmentOpened,
		StateWrite, StateRename, StateWritten, FoundCleared, FoundLog, FoundStore, FoundFlushed,
	}
}
