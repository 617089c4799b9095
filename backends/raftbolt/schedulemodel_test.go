package raftbolt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
)

// naive is the state machine as plainly as can be: every change ever made, in
// order, and nothing but walks over them. It knows no flush, no file and no index.
// Its answers are texts, as are those of the real one.
type naive struct {
	changes  []naiveChange
	now      map[string]*mvccpb.KeyValue
	revision int64
	compact  int64
	leases   map[int64]*lease.Record
	alarms   []backends.Alarm
	// kept are the hashes that compactions take, by their revision. A member has
	// those of the compactions that it did in the file since its start, one by one.
	kept map[int64]mvcc.Hash
}

type naiveChange struct {
	sub     int
	deleted bool
	kv      *mvccpb.KeyValue // of a deletion: key and mod revision
}

func newNaive() *naive {
	return &naive{now: map[string]*mvccpb.KeyValue{}, revision: 1, compact: -1, leases: map[int64]*lease.Record{}, kept: map[int64]mvcc.Hash{}}
}

// at is what lives at a revision.
func (m *naive) at(revision int64) map[string]*mvccpb.KeyValue {
	if revision >= m.revision {
		return m.now
	}
	live := map[string]*mvccpb.KeyValue{}
	for _, c := range m.changes {
		if c.kv.ModRevision > revision {
			break
		}
		if c.deleted {
			delete(live, string(c.kv.Key))
		} else {
			live[string(c.kv.Key)] = c.kv
		}
	}
	return live
}

func naiveContains(r *backends.KeyRange, key string) bool {
	switch {
	case len(r.End) == 0:
		return key == string(r.Key)
	case string(r.End) == "\x00":
		return key >= string(r.Key)
	}
	return key >= string(r.Key) && key < string(r.End)
}

func naiveSelect(live map[string]*mvccpb.KeyValue, r *backends.KeyRange) (kvs []*mvccpb.KeyValue) {
	for _, k := range slices.Sorted(maps.Keys(live)) {
		if naiveContains(r, k) {
			kvs = append(kvs, live[k])
		}
	}
	return kvs
}

// rangeText is the answer of a range over what lives.
func (m *naive) rangeText(live map[string]*mvccpb.KeyValue, o *backends.RangeOptions, header int64) string {
	kvs := naiveSelect(live, &o.KeyRange)
	count, more := len(kvs), false
	if o.Limit > 0 && int64(len(kvs)) > o.Limit {
		kvs, more = kvs[:o.Limit], true
	}
	if o.CountOnly {
		kvs, more = nil, false
	}
	var out strings.Builder
	for _, kv := range kvs {
		if o.KeysOnly {
			kv = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
		out.WriteString(" " + kvText(kv))
	}
	return fmt.Sprintf("range @%d count %d more %v:%s", header, count, more, out.String())
}

// kvText is a record as one word; long values are summed up.
func kvText(kv *mvccpb.KeyValue) string {
	value := fmt.Sprintf("%.40q", kv.Value)
	if n := len(kv.Value); n > 40 {
		value = fmt.Sprintf("%d bytes %08x", n, crc32.ChecksumIEEE(kv.Value))
	}
	return fmt.Sprintf("%q=%s/c%d/m%d/v%d/l%d", kv.Key, value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}

func errText(err error) string { return "error: " + err.Error() }

// check is the refusal of a plain range at a revision.
func (m *naive) check(revision int64) error {
	switch {
	case revision > m.revision:
		return backends.ErrFutureRevision
	case revision > 0 && revision < m.compact:
		return backends.ErrCompacted
	}
	return nil
}

func (m *naive) rangeAt(o *backends.RangeOptions) string {
	if err := m.check(o.Revision); err != nil {
		return errText(err)
	}
	at := o.Revision
	if at <= 0 {
		at = m.revision
	}
	return m.rangeText(m.at(at), o, m.revision)
}

// apply is the answer of one command in an entry of a term.
func (m *naive) apply(c *command, term uint64) string {
	if err := m.gate(c); err != nil {
		return errText(err)
	}
	switch c.kind {
	case kindTxn:
		return m.txn(c.txn)
	case kindCompact:
		switch {
		case c.revision <= m.compact:
			return errText(backends.ErrCompacted)
		case c.revision > m.revision:
			return errText(backends.ErrFutureRevision)
		}
		m.kept[c.revision] = mvcc.Hash{Hash: m.hash(c.revision, true), Revision: c.revision, CompactRevision: m.compact}
		m.compact = c.revision
	case kindLeaseGrant:
		switch {
		case c.lease == 0:
			return errText(backends.ErrLeaseNotFound)
		case c.ttlSeconds > lease.MaxTTLSeconds:
			return errText(backends.ErrLeaseTTLTooLarge)
		case m.leases[c.lease] != nil:
			return errText(backends.ErrLeaseExists)
		}
		m.leases[c.lease] = &lease.Record{ID: c.lease, TTLSeconds: max(c.ttlSeconds, 1)}
	case kindLeaseRevoke:
		switch {
		case c.term != 0 && c.term != term:
			return errText(errStaleTerm)
		case m.leases[c.lease] == nil:
			return errText(backends.ErrLeaseNotFound)
		}
		w := naiveTxn{naive: m, main: m.revision + 1}
		for _, key := range m.leaseKeys(c.lease) {
			w.delete(key)
		}
		w.end()
		delete(m.leases, c.lease)
	case kindCheckpoint:
		if c.term != 0 && c.term != term {
			return errText(errStaleTerm)
		}
		for _, p := range c.checkpoints {
			if l := m.leases[p.ID]; l != nil {
				l.RemainingTTLSeconds = min(max(p.RemainingTTLSeconds, 0), l.TTLSeconds)
			}
		}
	case kindAlarm:
		return m.alarm(c)
	}
	return fmt.Sprintf("done @%d", m.revision)
}

func (m *naive) gate(c *command) error {
	raised := func(k backends.AlarmKind) bool {
		return slices.ContainsFunc(m.alarms, func(a backends.Alarm) bool { return a.Kind == k })
	}
	writes := c.kind == kindTxn || c.kind == kindCompact || c.kind == kindLeaseGrant || c.kind == kindLeaseRevoke
	switch {
	case writes && raised(backends.AlarmCorrupt):
		return backends.ErrCorrupt
	case raised(backends.AlarmNoSpace) && (c.kind == kindLeaseGrant || c.kind == kindTxn && naivePuts(c.txn)):
		return backends.ErrNoSpace
	}
	return nil
}

func naivePuts(t *backends.TxnOp) bool {
	for _, o := range slices.Concat(t.Success, t.Failure) {
		if o.Put != nil || o.Txn != nil && naivePuts(o.Txn) {
			return true
		}
	}
	return false
}

func (m *naive) alarm(c *command) string {
	present := slices.Contains(m.alarms, c.alarm)
	var answer []backends.Alarm
	switch {
	case c.alarm.Kind == backends.AlarmNone:
	case c.action == backends.AlarmActivate:
		answer = []backends.Alarm{c.alarm}
		if !present {
			m.alarms = append(slices.Clone(m.alarms), c.alarm)
		}
	case c.action == backends.AlarmDeactivate && present:
		answer = []backends.Alarm{c.alarm}
		m.alarms = slices.DeleteFunc(slices.Clone(m.alarms), func(a backends.Alarm) bool { return a == c.alarm })
	}
	if answer == nil {
		return fmt.Sprintf("done @%d", m.revision)
	}
	return fmt.Sprintf("alarms %v @%d", answer, m.revision)
}

func (m *naive) leaseKeys(id int64) (keys []string) {
	for k, kv := range m.now {
		if kv.Lease == id {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// leaseText is all leases as a member that does not lead lists them, with their
// keys, the alarms, and what the store holds of leases.
func (m *naive) leaseText() string {
	all := slices.Collect(maps.Values(m.leases))
	lives := func(r *lease.Record) int64 {
		if r.RemainingTTLSeconds > 0 {
			return r.RemainingTTLSeconds
		}
		return r.TTLSeconds
	}
	slices.SortFunc(all, func(a, b *lease.Record) int {
		return cmp.Or(cmp.Compare(lives(a), lives(b)), cmp.Compare(a.ID, b.ID))
	})
	var out strings.Builder
	for _, r := range all {
		fmt.Fprintf(&out, " %+v %q", *r, m.leaseKeys(r.ID))
	}
	alarms := slices.Clone(m.alarms)
	slices.SortFunc(alarms, func(a, b backends.Alarm) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.MemberID, b.MemberID))
	})
	fmt.Fprintf(&out, " alarms %v stored", alarms)
	// The bucket's order is that of ids without a sign.
	slices.SortFunc(all, func(a, b *lease.Record) int { return cmp.Compare(uint64(a.ID), uint64(b.ID)) })
	for _, r := range all {
		fmt.Fprintf(&out, " %+v <nil>", *r)
	}
	for _, k := range slices.Sorted(maps.Keys(m.now)) {
		if kv := m.now[k]; kv.Lease != 0 {
			fmt.Fprintf(&out, " %q:%d", k, kv.Lease)
		}
	}
	return "leases" + out.String()
}

// naiveTxn writes one revision.
type naiveTxn struct {
	*naive
	main int64
	sub  int
}

func (w *naiveTxn) current() int64 {
	if w.sub > 0 {
		return w.main
	}
	return w.main - 1
}

func (w *naiveTxn) put(kv *mvccpb.KeyValue) {
	w.changes = append(w.changes, naiveChange{w.sub, false, kv})
	w.now[string(kv.Key)] = kv
	w.sub++
}

func (w *naiveTxn) delete(key string) {
	w.changes = append(w.changes, naiveChange{w.sub, true, &mvccpb.KeyValue{Key: []byte(key), ModRevision: w.main}})
	delete(w.now, key)
	w.sub++
}

func (w *naiveTxn) end() { w.revision = w.current() }

// naivePlan is a transaction whose comparisons are decided.
type naivePlan struct {
	holds  bool
	ops    []backends.Op
	nested []*naivePlan // one for each nested transaction of ops, in order
}

func (m *naive) plan(t *backends.TxnOp) *naivePlan {
	p := &naivePlan{holds: true, ops: t.Success}
	for i := range t.Compare {
		c := &t.Compare[i]
		kvs := naiveSelect(m.now, &c.KeyRange)
		if len(kvs) == 0 && !naiveHolds(c, nil) || slices.ContainsFunc(kvs, func(kv *mvccpb.KeyValue) bool { return !naiveHolds(c, kv) }) {
			p.holds, p.ops = false, t.Failure
		}
	}
	for _, o := range p.ops {
		if o.Txn != nil {
			p.nested = append(p.nested, m.plan(o.Txn))
		}
	}
	return p
}

// naiveHolds compares a record, or the absence of one.
func naiveHolds(c *backends.Compare, kv *mvccpb.KeyValue) bool {
	order := 0
	switch c.Target {
	case backends.CompareValue:
		if kv == nil {
			return false
		}
		order = bytes.Compare(kv.Value, c.Value)
	case backends.CompareVersion, backends.CompareCreateRevision, backends.CompareModRevision, backends.CompareLease:
		left := map[backends.CompareTarget]int64{
			backends.CompareVersion: kv.GetVersion(), backends.CompareCreateRevision: kv.GetCreateRevision(),
			backends.CompareModRevision: kv.GetModRevision(), backends.CompareLease: kv.GetLease(),
		}[c.Target]
		order = cmp.Compare(left, c.Number)
	}
	switch c.Result {
	case backends.CompareEqual:
		return order == 0
	case backends.CompareGreater:
		return order > 0
	case backends.CompareLess:
		return order < 0
	case backends.CompareNotEqual:
		return order != 0
	}
	return true
}

// refusal is that of the first operation that cannot be done.
func (m *naive) refusal(p *naivePlan) error {
	nested := p.nested
	for i := range p.ops {
		switch o := &p.ops[i]; {
		case o.Range != nil:
			if o.Range.Revision > m.revision {
				return backends.ErrFutureRevision
			}
			if o.Range.Revision != 0 && o.Range.Revision < m.compact {
				return backends.ErrCompacted
			}
		case o.Put != nil:
			if o.Put.Lease != 0 && m.leases[o.Put.Lease] == nil {
				return backends.ErrLeaseNotFound
			}
			if (o.Put.IgnoreValue || o.Put.IgnoreLease) && m.now[string(o.Put.Key)] == nil {
				return backends.ErrKeyNotFound
			}
		case o.Txn != nil:
			if err := m.refusal(nested[0]); err != nil {
				return err
			}
			nested = nested[1:]
		}
	}
	return nil
}

func (m *naive) txn(t *backends.TxnOp) string {
	p := m.plan(t)
	if err := m.refusal(p); err != nil {
		return errText(err)
	}
	w := &naiveTxn{naive: m, main: m.revision + 1}
	answer := w.run(p)
	w.end()
	return fmt.Sprintf("txn @%d %s", m.revision, answer)
}

func (w *naiveTxn) run(p *naivePlan) string {
	nested := p.nested
	var out []string
	for i := range p.ops {
		switch o := &p.ops[i]; {
		case o.Range != nil:
			live := w.now
			if o.Range.Revision > 0 {
				if o.Range.Revision < w.main-1 {
					live = w.at(o.Range.Revision)
				} else {
					live = w.before()
				}
			}
			out = append(out, fmt.Sprintf("%d:%s", w.current(), w.rangeText(live, o.Range, w.current())))
		case o.Put != nil:
			out = append(out, w.runPut(o.Put))
		case o.Delete != nil:
			kvs := naiveSelect(w.now, &o.Delete.KeyRange)
			answer := ""
			if o.Delete.PrevKV {
				answer = " " + w.rangeText(w.now, &backends.RangeOptions{KeyRange: o.Delete.KeyRange}, w.current())
			}
			for _, kv := range kvs {
				w.delete(string(kv.Key))
			}
			out = append(out, fmt.Sprintf("%d:deleted %d%s", w.current(), len(kvs), answer))
		default:
			out = append(out, "0:"+w.run(nested[0]))
			nested = nested[1:]
		}
	}
	return fmt.Sprintf("%v[%s]", p.holds, strings.Join(out, "; "))
}

// before is what lived before the transaction.
func (w *naiveTxn) before() map[string]*mvccpb.KeyValue {
	live := map[string]*mvccpb.KeyValue{}
	for _, c := range w.changes[:len(w.changes)-w.sub] {
		if c.deleted {
			delete(live, string(c.kv.Key))
		} else {
			live[string(c.kv.Key)] = c.kv
		}
	}
	return live
}

func (w *naiveTxn) runPut(o *backends.PutOp) string {
	kv := &mvccpb.KeyValue{Key: o.Key, Value: o.Value, Lease: o.Lease, CreateRevision: w.main, ModRevision: w.main, Version: 1}
	prev := w.now[string(o.Key)]
	answer := "put"
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
		if o.IgnoreValue {
			kv.Value = prev.Value
		}
		if o.IgnoreLease {
			kv.Lease = prev.Lease
		}
		if o.PrevKV {
			answer += " over " + kvText(prev)
		}
	}
	w.put(kv)
	return fmt.Sprintf("%d:%s", w.main, answer)
}

// history is the text of all events from a revision on.
func (m *naive) history(from int64, prevKV bool) string {
	if from < m.compact {
		return errText(backends.ErrCompacted)
	}
	var out strings.Builder
	before := map[string]*mvccpb.KeyValue{} // as of the revision before the change's
	for i, begin := 0, 0; i < len(m.changes); i++ {
		c := m.changes[i]
		if c.kv.ModRevision != m.changes[begin].kv.ModRevision {
			for _, old := range m.changes[begin:i] {
				if old.deleted {
					delete(before, string(old.kv.Key))
				} else {
					before[string(old.kv.Key)] = old.kv
				}
			}
			begin = i
		}
		if c.kv.ModRevision < from {
			continue
		}
		e := &mvccpb.Event{Kv: c.kv}
		if c.deleted {
			e.Type = mvccpb.Event_DELETE
		}
		if prevKV && c.kv.ModRevision > m.compact {
			e.PrevKv = before[string(c.kv.Key)]
		}
		out.WriteString(" " + eventText(e))
	}
	return "events:" + out.String()
}

func eventText(e *mvccpb.Event) string {
	s := fmt.Sprintf("%v %s", e.Type, kvText(e.Kv))
	if e.PrevKv != nil {
		s += " over " + kvText(e.PrevKv)
	}
	return s
}

// remains are the changes that a finished compaction leaves, as keys and values
// of the key bucket.
func (m *naive) remains() (keys, values [][]byte, kept []naiveChange) {
	newest := map[string]int{} // the newest change of a key at or below the compaction
	for i, c := range m.changes {
		if c.kv.ModRevision <= m.compact {
			newest[string(c.kv.Key)] = i
		}
	}
	for i, c := range m.changes {
		main := c.kv.ModRevision
		if main <= m.compact && (newest[string(c.kv.Key)] != i || c.deleted && main < m.compact) {
			continue
		}
		key := binary.BigEndian.AppendUint64(nil, uint64(main))
		key = binary.BigEndian.AppendUint64(append(key, '_'), uint64(c.sub))
		record := c.kv
		if c.deleted {
			key, record = append(key, 't'), &mvccpb.KeyValue{Key: c.kv.Key}
		}
		value, err := proto.Marshal(record)
		if err != nil {
			panic(err)
		}
		keys, values, kept = append(keys, key), append(values, value), append(kept, c)
	}
	return keys, values, kept
}

// hashKV is etcd's answer.
func (m *naive) hashKV(revision int64) string {
	switch {
	case revision > m.revision:
		return errText(backends.ErrFutureRevision)
	case revision > 0 && revision < m.compact:
		return errText(backends.ErrCompacted)
	case revision == 0:
		revision = m.revision
	}
	return fmt.Sprintf("hash %+v", mvcc.Hash{
		Hash: m.hash(revision, false), Revision: revision, CompactRevision: m.compact, CurrentRevision: m.revision})
}

// keptHash is the answer of a member that has a compaction's hash, empty if there
// was none at that revision.
func (m *naive) keptHash(revision int64) string {
	h, ok := m.kept[revision]
	if !ok {
		return ""
	}
	h.CurrentRevision = m.revision
	return fmt.Sprintf("hash %+v", h)
}

// hash is etcd's hash (server/storage/mvcc/hash.go, 3.7.3) over what a finished
// compaction leaves. A compaction that takes one keeps the deletions at its own revision.
func (m *naive) hash(revision int64, compaction bool) uint32 {
	keys, values, kept := m.remains()
	live := m.at(revision)
	some := len(live) > 0 || compaction && slices.ContainsFunc(kept, func(c naiveChange) bool { return c.deleted && c.kv.ModRevision == revision })
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write([]byte("key"))
	for i, c := range kept {
		switch main := c.kv.ModRevision; {
		case main > revision:
			continue
		case main > m.compact:
		case c.deleted, some && live[string(c.kv.Key)] != c.kv:
			continue
		}
		h.Write(keys[i])
		h.Write(values[i])
	}
	return h.Sum32()
}
