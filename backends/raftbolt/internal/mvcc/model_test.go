package mvcc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
)

// model is the key space as plainly as can be: every change ever made, in order.
type model struct {
	changes []modelChange
	current int64
	compact int64
	buckets map[string]string
}

type modelChange struct {
	sub     int64
	deleted bool
	kv      *mvccpb.KeyValue
}

func newModel() *model { return &model{current: 1, compact: -1, buckets: map[string]string{}} }

func (m *model) clone() *model {
	c := *m
	c.changes, c.buckets = slices.Clone(m.changes), maps.Clone(m.buckets)
	return &c
}

// at returns the live records at a revision by key.
func (m *model) at(revision int64) map[string]*mvccpb.KeyValue {
	kvs := map[string]*mvccpb.KeyValue{}
	for _, c := range m.changes {
		if c.kv.ModRevision > revision {
			break
		}
		if c.deleted {
			delete(kvs, string(c.kv.Key))
		} else {
			kvs[string(c.kv.Key)] = c.kv
		}
	}
	return kvs
}

func inRange(r backends.KeyRange, key string) bool {
	switch {
	case len(r.End) == 0:
		return key == string(r.Key)
	case string(r.End) == "\x00":
		return key >= string(r.Key)
	}
	return key >= string(r.Key) && key < string(r.End)
}

// list is the naive range.
func (m *model) list(r backends.KeyRange, revision int64) (kvs []*mvccpb.KeyValue) {
	live := m.at(revision)
	for _, k := range slices.Sorted(maps.Keys(live)) {
		if inRange(r, k) {
			kvs = append(kvs, live[k])
		}
	}
	return kvs
}

func (m *model) put(key, value string, lease int64, main int64, sub int) {
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), Lease: lease, CreateRevision: main, ModRevision: main, Version: 1}
	if old := m.at(main)[key]; old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	m.changes = append(m.changes, modelChange{int64(sub), false, kv})
}

func (m *model) delete(key string, main int64, sub int) {
	m.changes = append(m.changes, modelChange{int64(sub), true, &mvccpb.KeyValue{Key: []byte(key), ModRevision: main}})
}

// hash is etcd's algorithm over what the compaction left (its key_index.go and
// hash.go, 3.7.3), by the naive model.
func (m *model) hash(revision int64) uint32 { return m.hashOf(revision, false) }

// hashOf is the hash; that which a compaction at the revision takes on its way, if
// compaction.
func (m *model) hashOf(revision int64, compaction bool) uint32 {
	survivors := map[string]int{} // key → position of its newest change at or below the compaction
	for i, c := range m.changes {
		if c.kv.ModRevision <= m.compact {
			survivors[string(c.kv.Key)] = i
		}
	}
	keep := m.at(revision)
	// A compaction keeps deletions at its own revision.
	some := len(keep) > 0 || compaction && slices.ContainsFunc(m.changes, func(c modelChange) bool { return c.deleted && c.kv.ModRevision == revision })
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write([]byte("key"))
	for i, c := range m.changes {
		main := c.kv.ModRevision
		if main > revision {
			break
		}
		if main <= m.compact {
			if survivors[string(c.kv.Key)] != i || c.deleted && main < m.compact {
				continue // not in the file any more
			}
			if k := keep[string(c.kv.Key)]; some && (k == nil || k != c.kv) {
				continue
			}
			if c.deleted && main == m.compact {
				continue
			}
		}
		key := binary.BigEndian.AppendUint64(nil, uint64(main))
		key = binary.BigEndian.AppendUint64(append(key, '_'), uint64(c.sub))
		value := &mvccpb.KeyValue{Key: c.kv.Key}
		if c.deleted {
			key = append(key, 't')
		} else {
			value = c.kv
		}
		b, err := proto.Marshal(value)
		if err != nil {
			panic(err)
		}
		h.Write(key)
		h.Write(b)
	}
	return h.Sum32()
}

// modelRun drives a store and the model with the same random operations.
type modelRun struct {
	*bench
	r     *rand.Rand
	m     *model
	saved map[uint64]*model // by raft index: what a crash goes back to
	// pinned are Views of transactions with what they must still read.
	pinned []pinnedRead
	// kept are the hashes that the compactions since the last start may have taken;
	// sure is the revision of the last of which it is certain.
	kept map[int64]Hash
	sure int64
}

type pinnedRead struct {
	v    *View
	m    *model
	main int64
}

func (x *modelRun) key() string { return fmt.Sprintf("k%02d", x.r.IntN(24)) }

func (x *modelRun) keyRange() backends.KeyRange {
	switch x.r.IntN(4) {
	case 0:
		return keyOf(x.key())
	case 1:
		return backends.KeyRange{Key: []byte(x.key()), End: []byte{0}}
	case 2:
		return backends.KeyRange{Key: []byte(x.key()), End: []byte(x.key())}
	}
	return allKeys()
}

// txn runs a random transaction; a key is changed at most once in it, as etcd's
// API guarantees.
func (x *modelRun) txn() {
	t := x.s.Begin()
	m := x.m.clone()
	main := m.current + 1
	touched := map[string]bool{}
	sub := 0
	for range x.r.IntN(5) {
		switch key := x.key(); x.r.IntN(6) {
		case 0:
			x.compareTxn(t, m, main)
			r := x.keyRange()
			if x.r.IntN(3) > 0 {
				r = keyOf(key)
			}
			doomed := m.list(r, main)
			if slices.ContainsFunc(doomed, func(kv *mvccpb.KeyValue) bool { return touched[string(kv.Key)] }) {
				continue
			}
			i := 0
			n := t.DeleteRange(r, func(key []byte, lease int64) {
				if i >= len(doomed) || string(key) != string(doomed[i].Key) || lease != doomed[i].Lease {
					x.t.Errorf("delete %d: %q lease %d", i, key, lease)
				}
				i++
			})
			if n != int64(len(doomed)) || i != len(doomed) {
				x.t.Errorf("deleted %d, %d calls, want %d", n, i, len(doomed))
			}
			for _, kv := range doomed {
				m.delete(string(kv.Key), main, sub)
				touched[string(kv.Key)] = true
				sub++
			}
		case 1:
			t.Set(BucketLease, []byte(key), []byte("x"+key))
			m.buckets[key] = "x" + key
		case 2:
			t.Delete(BucketLease, []byte(key))
			delete(m.buckets, key)
		default:
			if touched[key] {
				continue
			}
			touched[key] = true
			value := fmt.Sprint(x.r.Uint64())
			if x.r.IntN(8) == 0 {
				value = string(make([]byte, x.r.IntN(2000)))
			}
			lease := int64(0)
			if x.r.IntN(4) == 0 {
				lease = x.r.Int64()
			}
			old := m.at(main)[key]
			prev := t.Put([]byte(key), []byte(value), lease)
			if prev.Exists != (old != nil) || old != nil && (prev.ModRevision != old.ModRevision || prev.Version != old.Version || prev.Lease() != old.Lease) {
				x.t.Errorf("put %q: prev %+v, want %v", key, prev, old)
			}
			m.put(key, value, lease, main, sub)
			sub++
		}
		if len(x.pinned) < 8 && x.r.IntN(8) == 0 {
			at := main
			if sub == 0 {
				at = m.current
			}
			x.pinned = append(x.pinned, pinnedRead{t.View(), m.clone(), at})
		}
	}
	if x.r.IntN(6) == 0 {
		x.compareTxn(t, m, main)
		t.Discard()
		x.pinned = slices.DeleteFunc(x.pinned, func(p pinnedRead) bool {
			if p.main == main {
				p.v.Close()
			}
			return p.main == main
		})
		return
	}
	revision, err := t.Commit()
	if err != nil {
		x.t.Fatal(err)
	}
	if sub > 0 {
		m.current = main
	}
	if revision != m.current {
		x.t.Fatalf("committed %d, want %d", revision, m.current)
	}
	x.m = m
}

// compareTxn compares what a transaction reads of its own.
func (x *modelRun) compareTxn(t *Txn, m *model, main int64) {
	r := x.keyRange()
	want := m.list(r, main)
	i := 0
	t.Ascend(r, func(key []byte, p *Prev) bool {
		kv := new(mvccpb.KeyValue)
		if err := proto.Unmarshal(p.Record(), kv); err != nil || i >= len(want) || !proto.Equal(kv, want[i]) || string(key) != string(kv.Key) {
			x.t.Errorf("ascend %d: %v, %v", i, kv, err)
		}
		i++
		return true
	})
	if i != len(want) {
		x.t.Errorf("ascend: %d keys, want %d", i, len(want))
	}
	key := x.key()
	if p, want := t.Get([]byte(key)), m.at(main)[key]; p.Exists != (want != nil) || want != nil && p.Version != want.Version {
		x.t.Errorf("get %q: %+v, want %v", key, p, want)
	}
}

// check compares everything that can be read.
func (x *modelRun) check() {
	v := x.s.View()
	defer v.Close()
	if v.Revision() != x.m.current || v.CompactRevision() != x.m.compact {
		x.t.Fatalf("at %d, compacted %d, want %d, %d", v.Revision(), v.CompactRevision(), x.m.current, x.m.compact)
	}
	for range 4 {
		x.checkRange(v, x.m, x.m.compact-1+x.r.Int64N(x.m.current-x.m.compact+4))
	}
	x.checkRange(v, x.m, 0)
	x.checkHistory()
	x.checkHash()
	got := map[string]string{}
	if err := x.s.Bucket(BucketLease, func(k, v []byte) { got[string(k)] = string(v) }); err != nil || !maps.Equal(got, x.m.buckets) {
		x.t.Errorf("bucket %v, %v, want %v", got, err, x.m.buckets)
	}
	leased, want := map[string]int64{}, map[string]int64{}
	for k, kv := range x.m.at(x.m.current) {
		if kv.Lease != 0 {
			want[k] = kv.Lease
		}
	}
	if err := x.s.LeasedKeys(func(k []byte, l int64) { leased[string(k)] = l }); err != nil || !maps.Equal(leased, want) {
		x.t.Errorf("leased keys %v, %v, want %v", leased, err, want)
	}
	for _, p := range x.pinned {
		x.checkRange(p.v, p.m, p.main)
		x.checkRange(p.v, p.m, max(1, p.m.compact))
	}
}

// checkRange compares one range at a revision, 0 and below being the view's own.
func (x *modelRun) checkRange(v *View, m *model, revision int64) {
	o := backends.RangeOptions{KeyRange: x.keyRange(), Revision: revision, KeysOnly: x.r.IntN(4) == 0, CountOnly: x.r.IntN(8) == 0}
	if x.r.IntN(2) == 0 {
		o.Limit = 1 + x.r.Int64N(6)
	}
	at := revision
	if at <= 0 {
		at = v.Revision()
	}
	kvs, count, more, err := list(x.t, v, o)
	switch {
	case revision > v.Revision():
		if !errors.Is(err, backends.ErrFutureRevision) {
			x.t.Errorf("range at %d: %v, want future", revision, err)
		}
		return
	case revision > 0 && revision < m.compact:
		if !errors.Is(err, backends.ErrCompacted) {
			x.t.Errorf("range at %d: %v, want compacted", revision, err)
		}
		return
	case err != nil:
		x.t.Errorf("range at %d: %v", revision, err)
		return
	}
	want := m.list(o.KeyRange, at)
	if count != int64(len(want)) {
		x.t.Errorf("range %q %q at %d: count %d, want %d", o.Key, o.End, revision, count, len(want))
	}
	if n, err := v.Count(o.KeyRange, revision); n != count || err != nil {
		x.t.Errorf("count %d, %v, want %d", n, err, count)
	}
	if wantMore := !o.CountOnly && o.Limit > 0 && int64(len(want)) > o.Limit; more != wantMore {
		x.t.Errorf("more %v, want %v", more, wantMore)
	} else if more {
		want = want[:o.Limit]
	}
	if o.CountOnly {
		want = nil
	}
	if o.KeysOnly {
		for i, kv := range want {
			want[i] = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
	}
	if !slices.EqualFunc(kvs, want, func(a, b *mvccpb.KeyValue) bool { return proto.Equal(a, b) }) {
		x.t.Errorf("range %q %q at %d limit %d:\n got %v\nwant %v", o.Key, o.End, revision, o.Limit, texts(kvs), texts(want))
	}
	if key := x.key(); true {
		record, ok, err := v.Get([]byte(key), revision)
		want := m.at(at)[key]
		kv := new(mvccpb.KeyValue)
		if err != nil || ok != (want != nil) || ok && (proto.Unmarshal(record, kv) != nil || !proto.Equal(kv, want)) {
			x.t.Errorf("get %q at %d: %v, %v, %v, want %v", key, revision, kv, ok, err, want)
		}
	}
}

// checkHistory reads all history from a random revision on.
func (x *modelRun) checkHistory() {
	from := x.m.compact - 1 + x.r.Int64N(x.m.current-x.m.compact+3)
	if from < 0 {
		from = 0
	}
	prevKV := x.r.IntN(2) == 0
	var want []*mvccpb.Event
	for i, c := range x.m.changes {
		if c.kv.ModRevision < from {
			continue
		}
		e := &mvccpb.Event{Kv: c.kv}
		if c.deleted {
			e.Type = mvccpb.Event_DELETE
		}
		if prevKV && (c.deleted || c.kv.CreateRevision != c.kv.ModRevision) && c.kv.ModRevision-1 >= x.m.compact {
			for _, p := range x.m.changes[:i] {
				if string(p.kv.Key) == string(c.kv.Key) {
					e.PrevKv = p.kv
				}
			}
		}
		want = append(want, e)
	}
	var got []*mvccpb.Event
	for next := from; ; {
		events, n, err := x.s.History(context.Background(), next, 1+x.r.Int64N(300))
		if from < x.m.compact {
			if !errors.Is(err, backends.ErrCompacted) {
				x.t.Errorf("history from %d: %v, want compacted at %d", from, err, x.m.compact)
			}
			return
		}
		if err != nil {
			x.t.Errorf("history from %d: %v", next, err)
			return
		}
		for _, e := range events {
			if e.Revision < next || e.Revision >= n {
				x.t.Errorf("history [%d, %d) has revision %d", next, n, e.Revision)
			}
			got = append(got, x.decode(e, prevKV))
		}
		if n == next {
			break
		}
		next = n
	}
	if !slices.EqualFunc(got, want, func(a, b *mvccpb.Event) bool { return proto.Equal(a, b) }) {
		x.t.Errorf("history from %d (compacted %d, prev %v):\n got %v\nwant %v", from, x.m.compact, prevKV, got, want)
	}
}

func (x *modelRun) decode(e *HistoryEvent, prevKV bool) *mvccpb.Event {
	b, err := e.Encoded(prevKV)
	if err != nil {
		x.t.Fatal(err)
	}
	size, n := binary.Uvarint(b[1:])
	ev := new(mvccpb.Event)
	if b[0] != 0x5a || int(size) != len(b)-1-n || proto.Unmarshal(b[1+n:], ev) != nil {
		x.t.Fatalf("event %x", b)
	}
	if string(ev.Kv.Key) != string(e.Key) || ev.Kv.ModRevision != e.Revision || e.Delete != (ev.Type == mvccpb.Event_DELETE) {
		x.t.Errorf("event %v is not %d %q %v", ev, e.Revision, e.Key, e.Delete)
	}
	return ev
}

func (x *modelRun) checkHash() {
	revision := x.m.compact - 1 + x.r.Int64N(x.m.current-x.m.compact+3)
	if len(x.kept) > 0 && x.r.IntN(2) == 0 {
		all := slices.Sorted(maps.Keys(x.kept))
		revision = all[x.r.IntN(len(all))]
	}
	h, err := x.s.HashKV(context.Background(), revision)
	kept := x.kept[revision]
	kept.CurrentRevision = x.m.current
	switch {
	case kept.Revision != 0 && h == kept && err == nil:
		return
	case revision == x.sure:
		x.t.Errorf("hash %+v, %v, want the compaction's, %+v", h, err, kept)
		return
	case revision > x.m.current:
		if !errors.Is(err, backends.ErrFutureRevision) {
			x.t.Errorf("hash at %d: %v", revision, err)
		}
		return
	case revision > 0 && revision < x.m.compact:
		if !errors.Is(err, backends.ErrCompacted) {
			x.t.Errorf("hash at %d: %v", revision, err)
		}
		return
	case revision == 0:
		revision = x.m.current
	}
	want := Hash{Hash: x.m.hash(revision), Revision: revision, CompactRevision: x.m.compact, CurrentRevision: x.m.current}
	if err != nil || h != want {
		x.t.Errorf("hash %+v, %v, want %+v", h, err, want)
	}
}

// restart reopens the store, cleanly or not.
func (x *modelRun) restart(crash bool) {
	for _, p := range x.pinned {
		p.v.Close()
	}
	x.pinned = nil
	x.kept, x.sure = map[int64]Hash{}, math.MinInt64
	if crash {
		x.crash()
	} else {
		x.close()
		x.open()
	}
	if m := x.saved[x.index]; m != nil {
		x.m = m.clone()
	} else {
		x.t.Fatalf("restarted at index %d", x.index)
	}
}

func (x *modelRun) step() {
	switch n := x.r.IntN(40); {
	case n < 24:
		x.txn()
		if x.r.IntN(3) > 0 {
			x.end()
		} else {
			x.txn()
			x.end()
		}
	case n < 26:
		target := x.m.compact + x.r.Int64N(x.m.current-x.m.compact+2)
		settled := x.s.compact.finishedRevision() == x.m.compact
		err := x.s.Compact(target)
		switch {
		case target <= x.m.compact:
			if !errors.Is(err, backends.ErrCompacted) {
				x.t.Errorf("compact at %d: %v", target, err)
			}
		case target > x.m.current:
			if !errors.Is(err, backends.ErrFutureRevision) {
				x.t.Errorf("compact at %d: %v", target, err)
			}
		case err != nil:
			x.t.Fatal(err)
		default:
			if target > 0 {
				x.kept[target] = Hash{Hash: x.m.hashOf(target, true), Revision: target, CompactRevision: x.m.compact}
			}
			x.m = x.m.clone()
			x.m.compact, x.sure = target, math.MinInt64
		}
		x.end()
		if len(x.pinned) == 0 && x.r.IntN(2) == 0 {
			if err := x.s.CompactDone(context.Background(), x.m.compact); err != nil {
				x.t.Fatal(err)
			}
			if settled && err == nil && target > 0 {
				x.sure = target
			}
		}
	case n < 29:
		x.flush()
	case n < 30:
		x.restart(x.r.IntN(2) == 0)
	case n < 31:
		if err := x.s.Defragment(context.Background()); err != nil {
			x.t.Fatal(err)
		}
	case n < 33 && len(x.pinned) > 0:
		x.pinned[0].v.Close()
		x.pinned = x.pinned[1:]
	default:
		x.check()
	}
	x.saved[x.index] = x.m
}

// TestModel ensures that for random operations, flush points, clean restarts and
// crashes every answer is the naive model's.
func TestModel(t *testing.T) {
	seeds, steps := 30, 150
	if testing.Short() {
		seeds = 5
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			b := newBench(t, func(c *Config) {
				c.FlushInterval = []time.Duration{time.Millisecond, time.Hour}[r.IntN(2)]
				c.FlushBytes = []int64{1, 4000, 1 << 20}[r.IntN(3)]
				c.RingBytes = []int64{1, 20000, 1 << 20}[r.IntN(3)]
			})
			x := &modelRun{bench: b, r: r, m: newModel(), saved: map[uint64]*model{}, kept: map[int64]Hash{}, sure: math.MinInt64}
			x.saved[0] = x.m
			for range steps {
				x.step()
				if t.Failed() {
					t.FailNow()
				}
			}
			x.check()
			for _, p := range x.pinned {
				p.v.Close()
			}
		})
	}
}
