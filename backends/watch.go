package backends

// AllWatches is the id that stands for every watch of a stream.
const AllWatches int64 = -1

// WatchRequest describes one watch.
type WatchRequest struct {
	Caller Caller
	// ID is unique within the stream.
	ID int64
	// KeyRange is what is watched; it is not empty.
	KeyRange
	// StartRevision is the first revision whose events are wanted; zero means
	// those after the revision at which the watch is created. A revision in the
	// future is waited for: no event below it is yielded. It is not negative.
	StartRevision int64
	// PrevKV puts the record as of the revision before the event's into each event.
	// There is none when the event creates the key, or when that revision was
	// compacted before the event was read.
	PrevKV bool
	// NoPut and NoDelete leave out events of that kind.
	NoPut    bool
	NoDelete bool
}

// WatchKind tells what a WatchBatch is.
type WatchKind int

const (
	// WatchCreated: the watch exists; Revision is the store's at that moment.
	WatchCreated WatchKind = iota + 1
	// WatchEvents: events of one or more watches.
	WatchEvents
	// WatchProgress: every event at or below Revision was yielded before, for
	// the watches in IDs, or for the whole stream when IDs is {AllWatches}.
	WatchProgress
	// WatchCanceled: the watch is over, or, without a WatchCreated before, refused.
	WatchCanceled
)

// Event is one event, framed as it stands in an encoded WatchResponse:
//
//	offset  size  field
//	0       1     0x5a, the tag of WatchResponse.events
//	1       1–5   length L of the event, as a varint
//	…       L     an encoded mvccpb.Event; of a deletion the record has but
//	              the key and the mod revision
//
// It may be shared by many watches and streams and is never changed.
type Event []byte

// WatchBatch is one answer of a WatchStream.
type WatchBatch struct {
	Kind WatchKind
	// IDs are the watches it is for: one, or several that get the same events.
	IDs []int64
	// Header.Revision is the store's revision when the batch was made, or for events
	// any between the last one's and that; etcd has the event's own for a watch
	// that keeps up. It is at or above that of every event yielded so far, and of
	// every batch before.
	// It is zero in a WatchCanceled whose start revision is compacted, as on
	// etcd's wire.
	Header Header
	// Events, in order; all events of one revision are in one batch.
	Events []Event
	// Reason tells why a watch was cancelled; nil when the caller asked for it.
	// It is ErrCompacted with CompactRevision set when history it needs is gone.
	Reason          error
	CompactRevision int64
}
