package raftbolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// schedule is when a member's store does what no answer may depend on. Of the
// chances, n is one in n after each step, and 0 is never.
type schedule struct {
	name string
	mvcc mvcc.Config
	// flush: after a step, and within an entry, up to the entry before.
	flush int
	// restart: cleanly, or as after a kill, from the file as it is; the log is applied again.
	restart    int
	defragment int
	// await the end of the compaction in the file.
	await int
	// hold an answer back, to be read later.
	hold int
	// quiet members are not asked what makes them flush before the end.
	quiet bool
}

const never = 1 << 40

// scheduleMember is a state machine over a store of its own.
type scheduleMember struct {
	choices
	schedule
	t     testing.TB
	m     *naive // what is true; shared, read only
	dir   string
	files int

	store   *mvcc.Store
	machine *machine
	waiters *waiters
	hub     *watchHub
	stream  backends.WatchStream
	// next is the first revision whose events were not compared yet.
	next int64

	log  []replica.Entry // from index 2 on
	held []heldAnswer
	// faults are answers that differ, in words.
	faults []string

	mu      sync.Mutex
	durable uint64
	// flushed is closed and replaced when durable grows.
	flushed chan struct{}
}

// heldAnswer is read later. An answer of a transaction must not have changed by
// then; one that reads at a revision may also be compacted, once that is.
type heldAnswer struct {
	text func() string
	want string
	at   int64 // 0: of a transaction
}

// scheduleHeader is that of every answer.
var scheduleHeader = backends.Header{ClusterID: 7, MemberID: 1}

// foundedStore is the file of a founded member, as bytes.
func foundedStore(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	s, err := mvcc.Open(mvcc.Config{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	self := memberRecord{ID: scheduleHeader.MemberID, Name: "default"}
	value, err := self.value()
	if err != nil {
		t.Fatal(err)
	}
	txn := s.Begin()
	txn.Set(mvcc.BucketMembers, self.key(), value)
	if _, err := txn.Commit(); err != nil {
		t.Fatal(err)
	}
	voter := encodeConfState(replica.ConfState{Voters: []uint64{scheduleHeader.MemberID}})
	if err := errors.Join(s.EndEntry(mvcc.Applied{Index: 1, Term: 1, ConfState: voter}), s.Close(context.Background())); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newScheduleMember(t testing.TB, s schedule, c choices, m *naive, founded []byte) *scheduleMember {
	x := &scheduleMember{choices: c, schedule: s, t: t, m: m, dir: t.TempDir(), next: 2, flushed: make(chan struct{})}
	if err := os.WriteFile(x.path(), founded, 0o600); err != nil {
		t.Fatal(err)
	}
	x.open()
	return x
}

func (x *scheduleMember) path() string { return filepath.Join(x.dir, fmt.Sprintf("db%d", x.files)) }

func (x *scheduleMember) faultf(format string, args ...any) {
	x.faults = append(x.faults, x.name+": "+fmt.Sprintf(format, args...))
}

func (x *scheduleMember) onDurable(index uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.durable = max(x.durable, index)
	close(x.flushed)
	x.flushed = make(chan struct{})
}

// open opens the file, applies the log from where the file ends, and watches on.
func (x *scheduleMember) open() {
	x.t.Helper()
	c := x.mvcc
	c.Path, c.NoSync, c.Logger = x.path(), true, zap.NewNop()
	c.OnDurable = x.onDurable
	c.OnFatal = func(err error) { x.t.Errorf("%s: the store failed: %v", x.name, err) }
	store, err := mvcc.Open(c)
	if err != nil {
		x.t.Fatalf("%s: open: %v", x.name, err)
	}
	x.mu.Lock()
	x.durable = store.Applied().Index // what an abandoned store flushed later is not in this file
	x.mu.Unlock()
	x.store, x.waiters = store, newWaiters(scheduleHeader.MemberID, uint64(x.files))
	env := backends.Env{Logger: zap.NewNop(), Clock: backends.SystemClock{}}
	if x.machine, err = newMachine(store, scheduleHeader, x.waiters, &auth.Tokens{}, env); err != nil {
		x.t.Fatalf("%s: %v", x.name, err)
	}
	x.hub = newWatchHub(storeHistory{x.store}, func(r int64) backends.Header { return backends.Header{Revision: r} },
		func(err error) { x.t.Errorf("%s: watches: %v", x.name, err) })
	x.watch()
	at := store.Applied().Index
	if at < 1 || at > uint64(len(x.log))+1 {
		x.t.Fatalf("%s: opened at index %d of %d", x.name, at, len(x.log)+1)
	}
	for missing := x.log[at-1:]; len(missing) > 0; {
		n := 1 + x.below(min(len(missing), 65536))
		if err := x.machine.Apply(missing[:n]); err != nil {
			x.t.Fatalf("%s: apply again: %v", x.name, err)
		}
		missing = missing[n:]
	}
}

// watch opens a stream of two watches from where the one before ended.
func (x *scheduleMember) watch() {
	s, err := x.hub.open(context.Background())
	if err != nil {
		x.t.Fatal(err)
	}
	x.stream = s
	all := backends.KeyRange{Key: []byte{0}, End: []byte{0}}
	for _, r := range []*backends.WatchRequest{
		{ID: 1, KeyRange: all, StartRevision: x.next},
		{ID: 2, KeyRange: all, StartRevision: x.next, NoPut: true},
	} {
		if err := s.Add(context.Background(), r); err != nil {
			x.t.Fatal(err)
		}
	}
}

// compareWatch reads the stream to the present revision.
func (x *scheduleMember) compareWatch() {
	if x.m.revision < x.next {
		return // There is nothing new, and no progress of a watch that starts in the future.
	}
	var got [2]strings.Builder
	x.stream.Progress(backends.AllWatches)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		b, err := x.stream.Next(ctx)
		cancel()
		if err != nil {
			x.t.Fatalf("%s: watch from %d: %v", x.name, x.next, err)
		}
		switch b.Kind {
		case backends.WatchCreated:
			continue
		case backends.WatchEvents:
			for _, id := range b.IDs {
				for _, e := range b.Events {
					got[id-1].WriteString(" " + eventText(decodeEvent(x.t, e)))
				}
			}
			continue
		case backends.WatchProgress:
			if b.Header.Revision < x.m.revision {
				// A mark for what was not yet the present when it was asked for.
				x.stream.Progress(backends.AllWatches)
				continue
			}
		default:
			if !errors.Is(b.Reason, backends.ErrCompacted) || b.CompactRevision != x.m.compact || x.next >= x.m.compact {
				x.faultf("watch from %d, compacted at %d: %+v", x.next, x.m.compact, b)
				return
			}
			// Written and compacted in one entry, before the hub looked.
			x.stream.Close()
			x.next = x.m.compact
			x.watch()
			x.compareWatch()
			return
		}
		break
	}
	var want [2]strings.Builder
	for _, c := range x.m.changes {
		e := &mvccpb.Event{Kv: c.kv}
		if c.deleted {
			e.Type = mvccpb.Event_DELETE
		}
		if c.kv.ModRevision >= x.next {
			want[0].WriteString(" " + eventText(e))
			if c.deleted {
				want[1].WriteString(" " + eventText(e))
			}
		}
	}
	for i := range got {
		if got[i].String() != want[i].String() {
			x.faultf("watch %d from %d yields%s\nwant%s", i+1, x.next, got[i].String(), want[i].String())
		}
	}
	x.next = x.m.revision + 1
}

// apply applies an entry. wants are the model's answers.
func (x *scheduleMember) apply(s *step, wants []string) {
	e := replica.Entry{Index: uint64(len(x.log)) + 2, Term: s.term}
	waiting := make([]*waiter, len(s.commands))
	for i := range s.commands {
		c := s.commands[i]
		waiting[i], c.id = x.waiters.register()
		e.Commands = append(e.Commands, c.encode())
	}
	x.log = append(x.log, e)
	if x.flush > 0 && oneIn(x, 3) {
		x.applyWithFlush(e)
	} else if err := x.machine.Apply([]replica.Entry{e}); err != nil {
		x.t.Fatalf("%s: apply %d: %v", x.name, e.Index, err)
	}
	for i, w := range waiting {
		out := <-w.outcome
		x.waiters.recycle(w, out)
		x.compare(func() string { return outcomeText(out) }, wants[i], 0)
	}
}

// applyWithFlush is machine.Apply with a flush between two commands of the entry,
// which must end with the entry before, and perhaps with a kill there.
func (x *scheduleMember) applyWithFlush(e replica.Entry) {
	for i, b := range e.Commands {
		if i > 0 {
			x.flushBefore(e.Index)
		}
		if err := x.machine.applyCommand(e, b); err != nil {
			x.t.Fatalf("%s: apply %d: %v", x.name, e.Index, err)
		}
	}
	if x.restart > 0 && oneIn(x, 8) {
		// Within the entry: a copy made now must lead back to the entry's beginning.
		defer func(image []byte, durable uint64) { x.verifyImage(image, durable) }(x.image())
	}
	if err := x.store.EndEntry(mvcc.Applied{Index: e.Index, Term: e.Term}); err != nil {
		x.t.Fatalf("%s: end %d: %v", x.name, e.Index, err)
	}
}

// flushBefore waits until all entries below index are durable, while that one is under way.
func (x *scheduleMember) flushBefore(index uint64) {
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		_ = x.store.Flush(ctx) // it waits for the end of the entry; what is before it is flushed at once
	}()
	for deadline := time.After(time.Minute); ; {
		x.mu.Lock()
		reached, flushed := x.durable >= index-1, x.flushed
		x.mu.Unlock()
		if reached || x.store.Applied().Index >= index-1 {
			break
		}
		select {
		case <-flushed:
		case <-deadline:
			x.t.Fatalf("%s: entries below %d are not flushed within a minute", x.name, index)
		}
	}
	cancel()
	<-done
}

// compare compares an answer, now or later.
func (x *scheduleMember) compare(text func() string, want string, at int64) {
	h := heldAnswer{text, want, at}
	if x.hold > 0 && len(x.held) < 8 && oneIn(x, x.hold) {
		x.held = append(x.held, h)
		return
	}
	x.read(h)
}

func (x *scheduleMember) read(h heldAnswer) {
	got := h.text()
	if got == h.want || h.at > 0 && h.at < x.m.compact && got == errText(backends.ErrCompacted) {
		return
	}
	x.faultf("%s\nwant %s", got, h.want)
}

func (x *scheduleMember) readHeld() {
	for _, h := range x.held {
		x.read(h)
	}
	x.held = nil
}

// ask compares the answer to a read.
func (x *scheduleMember) ask(s *step) {
	ctx := context.Background()
	switch {
	case s.read != nil:
		at := s.read.Revision
		if at <= 0 {
			at = x.m.revision
		}
		v := x.store.View()
		c, err := v.Range(*s.read)
		header := backends.Header{Revision: v.Revision()}
		v.Close()
		x.compare(func() string {
			if err != nil {
				return errText(err)
			}
			return cursorText(&rangeCursor{c, header})
		}, x.m.rangeAt(s.read), at)
	case s.readTxn != nil:
		text, err := x.readTxnText(s.readTxn)
		if err != nil {
			text = errText(err)
		}
		x.read(heldAnswer{func() string { return text }, x.m.txn(s.readTxn), 0})
	case s.history != nil:
		x.read(heldAnswer{func() string { return x.historyText(s.history) }, x.m.history(s.history.from, s.history.prevKV), 0})
	case s.leases:
		x.read(heldAnswer{x.leaseText, x.m.leaseText(), 0})
	case s.hash != nil && !x.quiet:
		x.readHeld() // their pins do not hold up a hash, but show that they need not
		x.read(heldAnswer{func() string { return x.hashText(ctx, *s.hash) }, x.m.hashKV(*s.hash), 0})
	case s.snapshot && !x.quiet:
		x.compareSnapshot(ctx)
	}
}

func (x *scheduleMember) hashText(ctx context.Context, revision int64) string {
	h, err := x.store.HashKV(ctx, revision)
	if err != nil {
		return errText(err)
	}
	text := fmt.Sprintf("hash %+v", h)
	if text == x.m.keptHash(revision) {
		return x.m.hashKV(revision) // by the schedule it is the one or the other
	}
	return text
}

// readTxnText is Backend.readTxn without the wait for consensus.
func (x *scheduleMember) readTxnText(t *backends.TxnOp) (string, error) {
	v := x.store.View()
	defer v.Close()
	s := viewPresent{context.Background(), v}
	p, err := choose(s, t)
	if err != nil {
		return "", err
	}
	checked := p
	if err := x.machine.check(s, t, &checked); err != nil {
		return "", err
	}
	result := &backends.TxnResult{Header: backends.Header{Revision: v.Revision()}}
	run := readRun{s, result.Header}
	if err := run.txn(t, &p, &result.TxnOpResult); err != nil {
		result.Close()
		return "", err
	}
	return txnText(result), nil
}

func (x *scheduleMember) historyText(h *historyRead) string {
	var out strings.Builder
	for from := h.from; ; {
		events, next, err := x.store.History(context.Background(), from, 1+int64(x.below(2000)))
		if err != nil {
			return errText(err)
		}
		for _, e := range events {
			b, err := e.Encoded(h.prevKV)
			if err != nil {
				return errText(err)
			}
			if e.Revision < from || e.Revision >= next {
				return fmt.Sprintf("history of [%d, %d) has an event of %d", from, next, e.Revision)
			}
			out.WriteString(" " + eventText(decodeEvent(x.t, b)))
		}
		if next == from {
			return "events:" + out.String()
		}
		from = next
	}
}

func (x *scheduleMember) leaseText() string {
	var out strings.Builder
	for _, id := range x.machine.leases.List() {
		r, err := x.machine.leases.Get(id)
		keys, err2 := x.machine.leases.Keys(id)
		if err := errors.Join(err, err2); err != nil {
			return errText(err)
		}
		fmt.Fprintf(&out, " %+v %q", r, keys)
	}
	fmt.Fprintf(&out, " alarms %v stored", x.machine.alarms.Load().list)
	err := x.store.Bucket(mvcc.BucketLease, func(k, v []byte) {
		r, err := lease.DecodeRecord(k, v)
		fmt.Fprintf(&out, " %+v %v", r, err)
	})
	err2 := x.store.LeasedKeys(func(key []byte, id int64) { fmt.Fprintf(&out, " %q:%d", key, id) })
	if err := errors.Join(err, err2); err != nil {
		return errText(err)
	}
	return "leases" + out.String()
}

func outcomeText(out outcome) string {
	switch {
	case out.err != nil:
		return errText(out.err)
	case out.txn != nil:
		return txnText(out.txn)
	case out.alarms != nil:
		return fmt.Sprintf("alarms %v @%d", out.alarms, out.revision)
	}
	return fmt.Sprintf("done @%d", out.revision)
}

// txnText reads a result and closes it.
func txnText(r *backends.TxnResult) string {
	defer r.Close()
	return fmt.Sprintf("txn @%d %s", r.Header.Revision, txnOpText(&r.TxnOpResult))
}

func txnOpText(r *backends.TxnOpResult) string {
	var out []string
	for i := range r.Responses {
		o := &r.Responses[i]
		var text string
		switch {
		case o.Range != nil:
			text = cursorText(o.Range)
		case o.Put != nil:
			text = "put"
			if o.Put.PrevKV != nil {
				text += " over " + recordText(o.Put.PrevKV)
			}
		case o.Delete != nil:
			text = fmt.Sprintf("deleted %d", o.Delete.Deleted)
			if o.Delete.PrevKVs != nil {
				text += " " + cursorText(o.Delete.PrevKVs)
			}
		case o.Txn != nil:
			text = txnOpText(o.Txn)
		}
		out = append(out, fmt.Sprintf("%d:%s", o.Revision, text))
	}
	return fmt.Sprintf("%v[%s]", r.Succeeded, strings.Join(out, "; "))
}

func recordText(record []byte) string {
	kv := new(mvccpb.KeyValue)
	if err := proto.Unmarshal(record, kv); err != nil {
		return errText(err)
	}
	return kvText(kv)
}

// cursorText reads a cursor and closes it.
func cursorText(c backends.Cursor) string {
	defer c.Close()
	var out strings.Builder
	for {
		chunk, err := c.Next(context.Background())
		if errors.Is(err, io.EOF) {
			r := c.Result()
			return fmt.Sprintf("range @%d count %d more %v:%s", r.Header.Revision, r.Count, r.More, out.String())
		}
		if err != nil {
			return errText(err)
		}
		for record := range chunk.Records() {
			out.WriteString(" " + recordText(record))
		}
		chunk.Release()
	}
}

// between does what the schedule says after a step.
func (x *scheduleMember) between() {
	ctx := context.Background()
	chance := func(n int) bool { return n > 0 && oneIn(x, n) }
	if chance(x.flush) {
		if err := x.store.Flush(ctx); err != nil {
			x.t.Fatalf("%s: flush: %v", x.name, err)
		}
	}
	if len(x.held) > 0 && x.below(3) == 0 {
		x.read(x.held[0])
		x.held = x.held[1:]
	}
	if chance(x.await) {
		x.awaitCompaction()
	}
	if chance(x.defragment) {
		if err := x.store.Defragment(ctx); err != nil {
			x.t.Fatalf("%s: defragment: %v", x.name, err)
		}
	}
	if chance(x.restart) {
		x.restarted(x.below(3) > 0)
	}
}

func (x *scheduleMember) awaitCompaction() {
	x.readHeld()
	if x.m.compact < 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := x.store.CompactDone(ctx, x.m.compact); err != nil {
		x.t.Fatalf("%s: compaction at %d: %v", x.name, x.m.compact, err)
	}
}

// stop ends what runs on the store.
func (x *scheduleMember) stop() {
	x.readHeld()
	x.stream.Close()
	x.hub.stop()
}

func (x *scheduleMember) closeStore() {
	if err := x.store.Close(context.Background()); err != nil {
		x.t.Errorf("%s: close: %v", x.name, err)
	}
}

// restarted opens the member again, after a clean end or a kill.
func (x *scheduleMember) restarted(kill bool) {
	x.stop()
	var image []byte
	var durable uint64
	if kill {
		image, durable = x.image()
	}
	x.closeStore()
	if kill {
		old := x.path()
		x.files++
		if err := errors.Join(os.WriteFile(x.path(), image, 0o600), os.Remove(old)); err != nil {
			x.t.Fatal(err)
		}
	} else {
		durable = uint64(len(x.log)) + 1
	}
	x.open()
	if at := x.store.Applied().Index; at < durable {
		x.faultf("restarted at index %d, %d was durable", at, durable)
	}
}

// image is the file as a kill now would leave it, and an index that was durable
// before. While the meta pages stay as they are, bbolt overwrites nothing that
// they lead to; if they changed meanwhile, the copy is not of one moment.
func (x *scheduleMember) image() (image []byte, durable uint64) {
	x.t.Helper()
	for range 1000 {
		x.mu.Lock()
		durable = x.durable
		x.mu.Unlock()
		image, err := os.ReadFile(x.path())
		if err != nil {
			x.t.Fatal(err)
		}
		meta := make([]byte, 2*os.Getpagesize())
		f, err := os.Open(x.path())
		if err != nil {
			x.t.Fatal(err)
		}
		_, err = io.ReadFull(f, meta)
		if err := errors.Join(err, f.Close()); err != nil {
			x.t.Fatal(err)
		}
		if bytes.HasPrefix(image, meta) {
			return image, durable
		}
	}
	x.t.Fatalf("%s: the file changed during each of 1000 copies", x.name)
	return nil, 0
}

// verifyImage ensures that an image opens at an entry's end at or above durable.
func (x *scheduleMember) verifyImage(image []byte, durable uint64) {
	path := filepath.Join(x.dir, "image")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		x.t.Fatal(err)
	}
	s, err := mvcc.Open(mvcc.Config{Path: path, NoSync: true})
	if err != nil {
		x.t.Fatalf("%s: a file as within an entry: %v", x.name, err)
	}
	if at := s.Applied().Index; at < durable || at > uint64(len(x.log)) {
		x.faultf("within entry %d, with %d durable, the file holds %d", len(x.log)+1, durable, at)
	}
	if err := errors.Join(s.Close(context.Background()), os.Remove(path)); err != nil {
		x.t.Fatal(err)
	}
}

// compareSnapshot opens a snapshot as a store and compares it.
func (x *scheduleMember) compareSnapshot(ctx context.Context) {
	snap, err := x.store.Snapshot(ctx)
	if err != nil {
		x.t.Fatalf("%s: snapshot: %v", x.name, err)
	}
	path := filepath.Join(x.dir, "snapshot")
	b, err := io.ReadAll(snap)
	if err := errors.Join(err, snap.Close(), os.WriteFile(path, b, 0o600)); err != nil {
		x.t.Fatal(err)
	}
	s, err := mvcc.Open(mvcc.Config{Path: path, NoSync: true})
	if err != nil {
		x.t.Fatalf("%s: open a snapshot: %v", x.name, err)
	}
	if at := uint64(len(x.log)) + 1; s.Applied().Index != at || int64(len(b)) != snap.SizeBytes {
		x.faultf("a snapshot of %d bytes of index %d, want %d of %d", len(b), s.Applied().Index, snap.SizeBytes, at)
	}
	of := &scheduleMember{choices: x.choices, schedule: schedule{name: x.name + ", snapshot"}, t: x.t, m: x.m, store: s}
	for _, at := range []int64{0, x.m.compact} {
		of.ask(&step{hash: &at})
		of.ask(&step{read: &backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte{0}, End: []byte{0}}, Revision: max(at, 0)}})
	}
	of.ask(&step{history: &historyRead{from: max(x.m.compact, 0)}})
	x.faults = append(x.faults, of.faults...)
	if err := errors.Join(s.Close(ctx), os.Remove(path)); err != nil {
		x.t.Fatal(err)
	}
}

// finish compares everything once more, and then the file itself.
func (x *scheduleMember) finish() {
	ctx := context.Background()
	x.compareWatch()
	x.readHeld()
	x.quiet = false
	x.ask(&step{leases: true})
	ask := func() {
		for _, at := range []int64{0, x.m.compact, (x.m.compact + x.m.revision) / 2} {
			x.ask(&step{hash: &at})
			x.ask(&step{read: &backends.RangeOptions{KeyRange: backends.KeyRange{Key: []byte{0}, End: []byte{0}}, Revision: at}})
			x.ask(&step{history: &historyRead{from: max(at, 0), prevKV: true}})
		}
	}
	ask()
	x.awaitCompaction()
	ask()
	if oneIn(x, 4) {
		x.compareSnapshot(ctx)
	}
	x.stop()
	x.closeStore()
	x.compareFile()
	if err := os.RemoveAll(x.dir); err != nil {
		x.t.Error(err)
	}
}

// compareFile compares the key bucket, byte for byte, and lets bbolt check its own.
func (x *scheduleMember) compareFile() {
	keys, values, _ := x.m.remains()
	db, err := bolt.Open(x.path(), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		x.t.Fatal(err)
	}
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			x.faultf("bbolt: %v", err)
		}
		i := 0
		for c, k, v := first(tx); k != nil; k, v = c.Next() {
			if i == len(keys) || !bytes.Equal(k, keys[i]) || !bytes.Equal(v, values[i]) {
				x.faultf("change %d in the file is %x = %x", i, k, v)
				return nil
			}
			i++
		}
		if i < len(keys) {
			x.faultf("the file has %d changes, want %d", i, len(keys))
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		x.t.Fatal(err)
	}
}

func first(tx *bolt.Tx) (c *bolt.Cursor, k, v []byte) {
	c = tx.Bucket([]byte("key")).Cursor()
	k, v = c.First()
	return c, k, v
}
