package raftbolt

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
)

// decoder reads commands. It is used by one goroutine, for one command after the
// other: what it returns is valid until the next.
//
// It never allocates more than a constant factor of the input: an element is
// decoded before room is made for the next, or has a least size that is checked
// against what is left.
type decoder struct {
	rest []byte
	err  error

	// The commonest command is one put; it is decoded into these.
	command command
	txn     backends.TxnOp
	op      [1]backends.Op
	put     backends.PutOp
}

// decode reads a command; errCommandVersion, errCommandKind,
// errCommandMalformed, errCommandDeep.
func (d *decoder) decode(b []byte) (*command, error) {
	if len(b) < headerBytes {
		return nil, fmt.Errorf("%w: %d bytes", errCommandMalformed, len(b))
	}
	if b[0] != commandVersion {
		return nil, fmt.Errorf("%w: %d, this program knows %d", errCommandVersion, b[0], commandVersion)
	}
	d.rest, d.err = b[headerBytes:], nil
	d.command = command{kind: commandKind(b[1] &^ callerBit), id: requestID{
		member:  binary.BigEndian.Uint64(b[2:]),
		boot:    binary.BigEndian.Uint64(b[10:]),
		counter: binary.BigEndian.Uint64(b[18:]),
	}}
	d.op[0] = backends.Op{}
	c := &d.command
	if b[1]&callerBit != 0 {
		c.caller.User, c.caller.AuthRevision = string(d.bytes()), d.uvarint()
	}
	switch c.kind {
	case kindTxn:
		c.txn = &d.txn
		d.readTxn(c.txn, 0)
	case kindCompact:
		c.revision = d.varint()
	case kindLeaseGrant:
		c.lease, c.ttlSeconds = d.varint(), d.varint()
	case kindLeaseRevoke:
		c.lease, c.term = d.varint(), d.uvarint()
	case kindCheckpoint:
		c.term = d.uvarint()
		c.checkpoints = make([]lease.Checkpoint, 0, d.count(2))
		for range cap(c.checkpoints) {
			c.checkpoints = append(c.checkpoints, lease.Checkpoint{ID: d.varint(), RemainingTTLSeconds: d.varint()})
		}
	case kindAlarm:
		c.action = backends.AlarmAction(d.enum())
		c.alarm.MemberID = d.uvarint()
		c.alarm.Kind = backends.AlarmKind(d.enum())
	case kindAttributes:
		c.member, c.name = d.uvarint(), string(d.bytes())
		c.urls = d.strings()
	case kindAuthChange:
		c.change = new(auth.Change)
		d.readChange(c.change)
	case kindAuthenticate:
		c.token = string(d.bytes())
	case kindVersion:
		c.version = string(d.bytes())
	case kindDowngrade:
		c.enabled = d.flags(flagEnabled) != 0
		c.version = string(d.bytes())
	case kindMember:
		c.promote = d.flags(flagPromote) != 0
		c.maxLearners = d.uvarint()
		c.urls = d.strings()
	default:
		return nil, fmt.Errorf("%w: %d", errCommandKind, c.kind)
	}
	if d.err == nil && len(d.rest) > 0 {
		d.fail(fmt.Errorf("%w: %d bytes after a command of kind %d", errCommandMalformed, len(d.rest), c.kind))
	}
	return c, d.err
}

// readChange refuses an unknown kind as decode does: to skip it would be to differ
// from the members that know it.
func (d *decoder) readChange(c *auth.Change) {
	if c.Kind = auth.ChangeKind(d.byte()); d.err == nil && !c.Kind.Valid() {
		d.fail(fmt.Errorf("%w: change of kind %d", errCommandKind, c.Kind))
	}
	f := d.flags(flagNoPassword | flagBadPassword | flagPermission)
	c.NoPassword, c.BadPassword = f&flagNoPassword != 0, f&flagBadPassword != 0
	c.User, c.Role, c.Password = string(d.bytes()), string(d.bytes()), d.bytes()
	kind, keys := backends.PermissionKind(d.enum()), d.keyRange()
	if f&flagPermission != 0 {
		c.Permission = &backends.Permission{Kind: kind, KeyRange: keys}
	} else {
		c.Keys = keys
	}
}

// fail keeps the first error and ends the input.
func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.rest = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail(errCommandMalformed)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail(errCommandMalformed)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// enum reads what was written as the 32 bits of an enum.
func (d *decoder) enum() int32 {
	v := d.uvarint()
	if v > math.MaxUint32 {
		d.fail(errCommandMalformed)
	}
	return int32(uint32(v))
}

// narrow reads a 32-bit number that was written as a varint.
func (d *decoder) narrow() int32 {
	v := d.varint()
	if v != int64(int32(v)) {
		d.fail(errCommandMalformed)
	}
	return int32(v)
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail(errCommandMalformed)
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

// flags reads a byte in which only the bits of known are defined.
func (d *decoder) flags(known byte) byte {
	b := d.byte()
	if b&^known != 0 {
		d.fail(fmt.Errorf("%w: flags %#x", errCommandMalformed, b))
	}
	return b
}

// bytes aliases the input; nil when empty.
func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.fail(errCommandMalformed)
		return nil
	}
	if n == 0 {
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

// strings reads a list of strings, nil when it is empty.
func (d *decoder) strings() (list []string) {
	for range d.count(1) {
		list = append(list, string(d.bytes()))
	}
	return list
}

// count reads the number of elements that follow, each of at least size bytes.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.rest)/size) {
		d.fail(errCommandMalformed)
		return 0
	}
	return int(n)
}

// The least sizes of elements, in bytes.
const (
	minCompareBytes = 6
	minOpBytes      = 4
)

func (d *decoder) readTxn(t *backends.TxnOp, depth int) {
	*t = backends.TxnOp{}
	if depth > maxTxnDepth {
		d.fail(errCommandDeep)
		return
	}
	if n := d.count(minCompareBytes); n > 0 {
		t.Compare = make([]backends.Compare, n)
		for i := range t.Compare {
			d.readCompare(&t.Compare[i])
		}
	}
	t.Success = d.readOps(depth)
	t.Failure = d.readOps(depth)
}

func (d *decoder) readCompare(c *backends.Compare) {
	c.Target, c.Result = backends.CompareTarget(d.narrow()), backends.CompareResult(d.narrow())
	c.Key, c.End = d.bytes(), d.bytes()
	c.Number = d.varint()
	c.Value = d.bytes()
}

func (d *decoder) readOps(depth int) []backends.Op {
	n := d.count(minOpBytes)
	if n == 0 {
		return nil
	}
	if n == 1 && depth == 0 && opKind(d.rest[0]) == opPut && d.op[0].Put == nil {
		d.rest = d.rest[1:]
		d.readPut(&d.put)
		d.op[0].Put = &d.put
		return d.op[:]
	}
	ops := make([]backends.Op, n)
	for i := range ops {
		d.readOp(&ops[i], depth)
		if d.err != nil {
			return nil
		}
	}
	return ops
}

func (d *decoder) readOp(o *backends.Op, depth int) {
	switch kind := opKind(d.byte()); kind {
	case opRange:
		f := d.flags(flagKeysOnly | flagCountOnly)
		o.Range = &backends.RangeOptions{KeyRange: d.keyRange(), KeysOnly: f&flagKeysOnly != 0, CountOnly: f&flagCountOnly != 0}
		o.Range.Revision, o.Range.Limit = d.varint(), d.varint()
	case opPut:
		o.Put = new(backends.PutOp)
		d.readPut(o.Put)
	case opDelete:
		f := d.flags(flagPrevKV)
		o.Delete = &backends.DeleteOp{KeyRange: d.keyRange(), PrevKV: f&flagPrevKV != 0}
	case opTxn:
		o.Txn = new(backends.TxnOp)
		d.readTxn(o.Txn, depth+1)
	default:
		d.fail(fmt.Errorf("%w: operation of kind %d", errCommandMalformed, kind))
	}
}

func (d *decoder) keyRange() backends.KeyRange {
	key := d.bytes()
	return backends.KeyRange{Key: key, End: d.bytes()}
}

func (d *decoder) readPut(p *backends.PutOp) {
	f := d.flags(flagPrevKV | flagIgnoreValue | flagIgnoreLease)
	*p = backends.PutOp{PrevKV: f&flagPrevKV != 0, IgnoreValue: f&flagIgnoreValue != 0, IgnoreLease: f&flagIgnoreLease != 0}
	p.Key, p.Value = d.bytes(), d.bytes()
	p.Lease = d.varint()
}
