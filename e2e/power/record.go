package power

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Kind is what an operation of the load is.
type Kind string

// The kinds of operations.
const (
	Write   Kind = "write" // puts, deletions and transactions
	Grant   Kind = "grant"
	Revoke  Kind = "revoke"
	Compact Kind = "compact"
	Other   Kind = "other" // defragment, snapshot, reads
)

// Op is an operation of the load.
type Op struct {
	Number int
	Kind   Kind
	// Lease of Grant and Revoke; Long tells that it does not expire by itself.
	Lease int64
	Long  bool
	// Target revision of Compact.
	Target int64
}

// token marks the values that operation n writes, so that it can be found in the log.
func token(n int) string { return fmt.Sprintf("[op%08d]", n) }

const tokenBytes = 12

// tokens lists the operations whose values are in data.
func tokens(data []byte) []int {
	var found []int
	s := string(data)
	for {
		i := strings.Index(s, "[op")
		if i < 0 || i+tokenBytes > len(s) {
			return found
		}
		if n, err := strconv.Atoi(s[i+3 : i+tokenBytes-1]); err == nil && s[i+tokenBytes-1] == ']' {
			found = append(found, n)
		}
		s = s[i+3:]
	}
}

// Recording is a directory that holds what was recorded.
type Recording struct{ Dir string }

// The files of a recording.
func (r Recording) trace() string   { return filepath.Join(r.Dir, "strace") }
func (r Recording) marks() string   { return filepath.Join(r.Dir, "marks") }
func (r Recording) ops() string     { return filepath.Join(r.Dir, "ops.json") }
func (r Recording) history() string { return filepath.Join(r.Dir, "history.pb") }

// Trace is the file that strace must write.
func (r Recording) Trace() string { return r.trace() }

// recorded is what the load leaves beside trace and marks.
type recorded struct {
	// Root of the recorded disk, and DataDir below it, relative.
	Root, DataDir string
	Ops           []Op
}

func (r Recording) save(rec recorded, events []*mvccpb.Event) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.ops(), text, 0o600); err != nil {
		return err
	}
	history, err := proto.Marshal(&pb.WatchResponse{Events: events})
	if err != nil {
		return err
	}
	return os.WriteFile(r.history(), history, 0o600)
}

func (r Recording) load() (rec recorded, h *History, err error) {
	text, err := os.ReadFile(r.ops())
	if err != nil {
		return rec, nil, err
	}
	if err := json.Unmarshal(text, &rec); err != nil {
		return rec, nil, err
	}
	if text, err = os.ReadFile(r.history()); err != nil {
		return rec, nil, err
	}
	var all pb.WatchResponse
	if err := proto.Unmarshal(text, &all); err != nil {
		return rec, nil, err
	}
	h, err = newHistory(all.Events)
	return rec, h, err
}

// History is what the store went through.
type History struct {
	events   []*mvccpb.Event
	starts   []int // events of revision r are [starts[r], starts[r+1])
	versions map[string][]*mvccpb.KeyValue
	last     int64
}

// newHistory takes events in order; no revision from 2 on may be missing.
func newHistory(events []*mvccpb.Event) (*History, error) {
	h := &History{events: events, starts: []int{0, 0}, versions: map[string][]*mvccpb.KeyValue{}, last: 1}
	for i, e := range events {
		switch r := e.Kv.ModRevision; r {
		case h.last:
		case h.last + 1:
			h.last = r
			h.starts = append(h.starts, i)
		default:
			return nil, fmt.Errorf("the recorded history goes from revision %d to %d", h.last, r)
		}
		h.versions[string(e.Kv.Key)] = append(h.versions[string(e.Kv.Key)], e.Kv)
	}
	h.starts = append(h.starts, len(events))
	return h, nil
}

// between are the events of the revisions in (from, to].
func (h *History) between(from, to int64) []*mvccpb.Event {
	from = max(from, 1)
	return h.events[h.starts[from+1]:h.starts[to+1]]
}

// at is the record of each key at a revision.
func (h *History) at(revision int64) map[string]*mvccpb.KeyValue {
	state := map[string]*mvccpb.KeyValue{}
	for key, versions := range h.versions {
		for i := len(versions) - 1; i >= 0; i-- {
			if versions[i].ModRevision <= revision {
				if versions[i].Version > 0 { // a deletion has none
					state[key] = versions[i]
				}
				break
			}
		}
	}
	return state
}

// maker is the operation that wrote revision r, if its value tells.
func (h *History) maker(r int64) (op int, ok bool) {
	for _, e := range h.between(r-1, r) {
		if found := tokens(e.Kv.Value); len(found) > 0 {
			return found[0], true
		}
	}
	return 0, false
}
