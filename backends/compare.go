package backends

import (
	"bytes"
	"cmp"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// CompareTarget is the part of a record that a Compare looks at. The numbers
// are those of etcdserverpb.Compare.CompareTarget.
type CompareTarget int32

// The targets a Compare can have.
const (
	CompareVersion CompareTarget = iota
	CompareCreateRevision
	CompareModRevision
	CompareValue
	CompareLease
)

// CompareResult is the relation that must hold between the record's part (left)
// and the Compare's operand (right). The numbers are those of
// etcdserverpb.Compare.CompareResult.
type CompareResult int32

// The relations a Compare can ask for.
const (
	CompareEqual CompareResult = iota
	CompareGreater
	CompareLess
	CompareNotEqual
)

// Compare is a condition of a transaction. Over a range it holds when it holds
// for every key there. Over no key at all a value never compares, and every
// number compares as zero.
//
// An unknown Target or Result is not refused, since etcd does not refuse it
// (server/etcdserver/txn, 3.7.3, asked on the wire): an unknown target compares
// as equal, and an unknown result holds.
type Compare struct {
	KeyRange
	Target CompareTarget
	Result CompareResult
	// Number is the operand for every target but CompareValue, Value for that.
	Number int64
	Value  []byte
}

// Absent tells whether the condition holds when its range has no key.
func (c *Compare) Absent() bool {
	if c.Target == CompareValue {
		return false
	}
	return c.Holds(&mvccpb.KeyValue{})
}

// Holds tells whether the condition holds for one record.
func (c *Compare) Holds(kv *mvccpb.KeyValue) bool {
	order := 0
	switch c.Target {
	case CompareVersion:
		order = cmp.Compare(kv.Version, c.Number)
	case CompareCreateRevision:
		order = cmp.Compare(kv.CreateRevision, c.Number)
	case CompareModRevision:
		order = cmp.Compare(kv.ModRevision, c.Number)
	case CompareValue:
		order = bytes.Compare(kv.Value, c.Value)
	case CompareLease:
		order = cmp.Compare(kv.Lease, c.Number)
	}
	switch c.Result {
	case CompareEqual:
		return order == 0
	case CompareGreater:
		return order > 0
	case CompareLess:
		return order < 0
	case CompareNotEqual:
		return order != 0
	}
	return true
}
