package raftbolt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
)

// alarmSet is the raised alarms. It is immutable.
type alarmSet struct {
	// list is by kind, then member.
	list []backends.Alarm
}

func (s *alarmSet) raised(k backends.AlarmKind) bool {
	return slices.ContainsFunc(s.list, func(a backends.Alarm) bool { return a.Kind == k })
}

func (s *alarmSet) of(k backends.AlarmKind) []backends.Alarm {
	var out []backends.Alarm
	for _, a := range s.list {
		if k == backends.AlarmNone || a.Kind == k {
			out = append(out, a)
		}
	}
	return out
}

func newAlarmSet(list []backends.Alarm) *alarmSet {
	slices.SortFunc(list, func(a, b backends.Alarm) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.MemberID, b.MemberID))
	})
	return &alarmSet{list}
}

// alarmKey is an alarm's key in its bucket, as in etcd (storage/schema/alarm.go):
// an encoded AlarmMember, with an empty value.
func alarmKey(a backends.Alarm) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(
		&etcdserverpb.AlarmMember{MemberID: a.MemberID, Alarm: etcdserverpb.AlarmType(a.Kind)})
}

func (m *machine) loadAlarms() error {
	var list []backends.Alarm
	var bad error
	err := m.store.Bucket(mvcc.BucketAlarm, func(k, _ []byte) {
		var a etcdserverpb.AlarmMember
		if err := proto.Unmarshal(k, &a); err != nil {
			bad = err
			return
		}
		list = append(list, backends.Alarm{MemberID: a.MemberID, Kind: backends.AlarmKind(a.Alarm)})
	})
	m.alarms.Store(newAlarmSet(list))
	if err = errors.Join(err, bad); err != nil {
		return fmt.Errorf("alarms in the store: %w", err)
	}
	return nil
}

// maxAlarms bounds the alarms: anybody may raise them for members that do not
// exist, and each request that may write looks through them.
const maxAlarms = 1000

// applyAlarm raises or clears an alarm and answers with it; with nothing when
// one to clear is not raised, or when the kind is none, as etcd does
// (etcdserver/apply/backend.go, Alarm).
func (m *machine) applyAlarm(c *command) (outcome, error) {
	out := outcome{revision: m.store.Committed()}
	list := m.alarms.Load().list
	present := slices.Contains(list, c.alarm)
	raise := c.action == backends.AlarmActivate
	if !raise && c.action != backends.AlarmDeactivate || c.alarm.Kind == backends.AlarmNone || !raise && !present {
		return out, nil
	}
	if raise && !present && len(list) >= maxAlarms {
		return outcome{err: backends.ErrTooManyRequests}, nil
	}
	out.alarms = []backends.Alarm{c.alarm}
	if raise && present {
		return out, nil
	}
	key, err := alarmKey(c.alarm)
	if err != nil {
		return out, err
	}
	t := m.store.Begin()
	if raise {
		t.Set(mvcc.BucketAlarm, key, nil)
		list = append(slices.Clone(list), c.alarm)
	} else {
		t.Delete(mvcc.BucketAlarm, key)
		list = slices.DeleteFunc(slices.Clone(list), func(a backends.Alarm) bool { return a == c.alarm })
	}
	if _, err := t.Commit(); err != nil {
		return out, err
	}
	m.alarms.Store(newAlarmSet(list))
	return out, nil
}

var _ backends.Alarms = (*Backend)(nil)

// Alarm implements backends.Alarms. An unknown action is refused: etcd panics of
// it (3.7.3, asked on the wire).
func (b *Backend) Alarm(ctx context.Context, req *backends.AlarmRequest) (backends.AlarmResult, error) {
	switch req.Action {
	case backends.AlarmGet:
		if err := b.readIndex(ctx); err != nil {
			return backends.AlarmResult{}, err
		}
		return backends.AlarmResult{Header: b.header(b.store.Committed()), Alarms: b.machine.alarms.Load().of(req.Kind)}, nil
	case backends.AlarmActivate, backends.AlarmDeactivate:
		out, err := b.propose(ctx, &command{kind: kindAlarm, action: req.Action,
			alarm: backends.Alarm{MemberID: req.MemberID, Kind: req.Kind}})
		if err != nil {
			return backends.AlarmResult{}, err
		}
		return backends.AlarmResult{Header: b.headerOf(out), Alarms: out.alarms}, nil
	}
	return backends.AlarmResult{}, &backends.Unsupported{Backend: name, What: fmt.Sprintf("alarm action %d", req.Action)}
}

// The weights with which etcd counts a request against the quota
// (server/storage/quota.go).
const (
	putOverhead   = 256
	grantOverhead = 64
)

// txnCost is an upper bound of what a transaction adds to the store, nested
// ones included; zero when it has no put.
func txnCost(t *backends.TxnOp) int64 { return max(opsCost(t.Success), opsCost(t.Failure)) }

func opsCost(ops []backends.Op) (cost int64) {
	for i := range ops {
		switch o := &ops[i]; {
		case o.Put != nil:
			cost += putOverhead + int64(len(o.Put.Key)) + int64(len(o.Put.Value))
		case o.Txn != nil:
			cost += txnCost(o.Txn)
		}
	}
	return cost
}

// checkQuota refuses a request of some cost that the store or its disk has no
// room for, and raises the alarm. That the disk is full counts even after
// somebody cleared the alarm: puts would take what room is left, and then deletes
// could not make any.
func (b *Backend) checkQuota(ctx context.Context, cost int64) error {
	quota := b.config.QuotaBytes
	fits := quota < 0 || b.store.Size()+b.store.LayerBytes()+cost < quota
	if cost == 0 || fits && !b.store.Short() {
		return nil
	}
	if err := b.raiseNoSpace(ctx); err != nil {
		// It is refused all the same, and certainly not done; etcd does not even look.
		b.env.Logger.Warn("a request that there is no room for is refused, and the alarm could not be raised", zap.Error(err))
	}
	return backends.ErrNoSpace
}

// raiseNoSpace raises this member's alarm unless it is raised.
func (b *Backend) raiseNoSpace(ctx context.Context) error {
	alarm := backends.Alarm{MemberID: b.machine.header.MemberID, Kind: backends.AlarmNoSpace}
	if slices.Contains(b.machine.alarms.Load().list, alarm) {
		return nil
	}
	b.env.Logger.Warn("message exceeded backend quota; raising alarm", zap.Int64("quota-size-bytes", b.config.QuotaBytes), zap.Bool("disk-full", b.store.Short()))
	_, err := b.propose(ctx, &command{kind: kindAlarm, action: backends.AlarmActivate, alarm: alarm})
	return err
}
