package raftbolt

import (
	"encoding/binary"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/lease"
)

// A command is what one proposal asks of every member. Integers are big-endian;
// "u" is an unsigned varint, "z" a zigzag varint, "bytes" a u length and as many
// bytes.
//
//	offset  size  field
//	0       1     version, commandVersion
//	1       1     kind, commandKind; with callerBit, a caller comes before the body
//	2       8     member id of the proposer     \
//	10      8     boot id, random at each start  > request id
//	18      8     counter, from 1               /
//	26      …     caller, if any: bytes user, u auth revision at which it was authenticated
//	…       …     body, to the end
//
// Bodies:
//
//	Txn           txn
//	Compact       z revision
//	LeaseGrant    z id, z TTL in seconds, not below the proposer's minimum
//	LeaseRevoke   z id, u term it was decided in (0: a client asks; valid in any)
//	Checkpoint    u term as above, u n, n × (z id, z remaining TTL in seconds)
//	Alarm         u action, u member id, u alarm kind
//	Attributes    u member id, bytes name, u n, n × bytes client URL
//	AuthChange    1 byte auth.ChangeKind, 1 byte flags, bytes user, bytes role, bytes hash of a
//	              password, u kind of a permission, bytes key, bytes end
//	Authenticate  bytes random part of a token; the caller is who authenticates, and the
//	              auth revision that at which its password was compared
//	Version       bytes version that the cluster speaks from now on
//	Downgrade     1 byte flags, bytes target version
//	Member        1 byte flags, u most learners, u n, n × bytes peer URL; not in an
//	              entry, but the Context of a configuration change
//
//	txn           u n, n × compare; u n, n × op (success); u n, n × op (failure)
//	compare       z target, z result, bytes key, bytes end, z number, bytes value
//	op            1 byte op kind, then
//	  range       1 byte flags, bytes key, bytes end, z revision, z limit
//	  put         1 byte flags, bytes key, bytes value, z lease
//	  delete      1 byte flags, bytes key, bytes end
//	  txn         txn
//
// A command of a version or kind that this program does not know stops it: a
// member that skipped what others apply would differ from them.
const (
	commandVersion = 1
	headerBytes    = 26
	// maxTxnDepth bounds the recursion of a decoder; the API's limit on the
	// operations of a transaction keeps requests far below.
	maxTxnDepth = 1024
)

// commandKind is part of the log's format: numbers are never used again.
type commandKind byte

const (
	kindTxn         commandKind = 1
	kindCompact     commandKind = 2
	kindLeaseGrant  commandKind = 3
	kindLeaseRevoke commandKind = 4
	kindCheckpoint  commandKind = 5
	kindAlarm       commandKind = 6
	kindAttributes  commandKind = 7

	kindAuthChange   commandKind = 16
	kindAuthenticate commandKind = 17

	kindVersion   commandKind = 40
	kindDowngrade commandKind = 41
	kindMember    commandKind = 42

	// callerBit is set in the kind of a command that has a caller. While authentication is
	// off none has.
	callerBit = 0x80
)

type opKind byte

const (
	opRange  opKind = 1
	opPut    opKind = 2
	opDelete opKind = 3
	opTxn    opKind = 4
)

const (
	flagKeysOnly  = 1 << 0
	flagCountOnly = 1 << 1

	flagPrevKV      = 1 << 0
	flagIgnoreValue = 1 << 1
	flagIgnoreLease = 1 << 2

	flagNoPassword  = 1 << 0
	flagBadPassword = 1 << 1
	flagPermission  = 1 << 2 // key and end are a permission's, else those of Keys

	flagEnabled = 1 << 0
	flagPromote = 1 << 0
)

// requestID names a proposal among all there ever were.
type requestID struct {
	member, boot, counter uint64
}

// command is a decoded command. Only what its kind says is set. Byte slices
// alias the encoded command.
type command struct {
	id   requestID
	kind commandKind
	// caller has User and AuthRevision alone.
	caller backends.Caller

	txn *backends.TxnOp

	revision    int64
	lease       int64
	ttlSeconds  int64
	term        uint64
	checkpoints []lease.Checkpoint
	action      backends.AlarmAction
	alarm       backends.Alarm
	member      uint64
	name        string
	urls        []string
	change      *auth.Change
	token       string
	version     string
	enabled     bool
	promote     bool
	maxLearners uint64
}

// encode makes the command's bytes in one allocation, for most.
func (c *command) encode() []byte {
	size := headerBytes + 4*binary.MaxVarintLen64
	if c.txn != nil {
		size += txnSize(c.txn)
	}
	kind := byte(c.kind)
	called := c.caller.User != "" || c.caller.AuthRevision != 0
	if called {
		kind |= callerBit
		size += len(c.caller.User) + 2*binary.MaxVarintLen64
	}
	b := make([]byte, 0, size)
	b = append(b, commandVersion, kind)
	b = binary.BigEndian.AppendUint64(b, c.id.member)
	b = binary.BigEndian.AppendUint64(b, c.id.boot)
	b = binary.BigEndian.AppendUint64(b, c.id.counter)
	if called {
		b = appendString(b, c.caller.User)
		b = binary.AppendUvarint(b, c.caller.AuthRevision)
	}
	switch c.kind {
	case kindTxn:
		b = appendTxn(b, c.txn)
	case kindCompact:
		b = binary.AppendVarint(b, c.revision)
	case kindLeaseGrant:
		b = binary.AppendVarint(b, c.lease)
		b = binary.AppendVarint(b, c.ttlSeconds)
	case kindLeaseRevoke:
		b = binary.AppendVarint(b, c.lease)
		b = binary.AppendUvarint(b, c.term)
	case kindCheckpoint:
		b = binary.AppendUvarint(b, c.term)
		b = binary.AppendUvarint(b, uint64(len(c.checkpoints)))
		for _, p := range c.checkpoints {
			b = binary.AppendVarint(b, p.ID)
			b = binary.AppendVarint(b, p.RemainingTTLSeconds)
		}
	case kindAlarm:
		b = binary.AppendUvarint(b, uint64(uint32(c.action)))
		b = binary.AppendUvarint(b, c.alarm.MemberID)
		b = binary.AppendUvarint(b, uint64(uint32(c.alarm.Kind)))
	case kindAttributes:
		b = binary.AppendUvarint(b, c.member)
		b = appendString(b, c.name)
		b = appendStrings(b, c.urls)
	case kindAuthChange:
		b = appendChange(b, c.change)
	case kindAuthenticate:
		b = appendString(b, c.token)
	case kindVersion:
		b = appendString(b, c.version)
	case kindDowngrade:
		b = append(b, flagIf(c.enabled, flagEnabled))
		b = appendString(b, c.version)
	case kindMember:
		b = append(b, flagIf(c.promote, flagPromote))
		b = binary.AppendUvarint(b, c.maxLearners)
		b = appendStrings(b, c.urls)
	}
	return b
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendChange(b []byte, c *auth.Change) []byte {
	keys, permission := c.Keys, backends.PermissionKind(0)
	if c.Permission != nil {
		keys, permission = c.Permission.KeyRange, c.Permission.Kind
	}
	b = append(b, byte(c.Kind),
		flagIf(c.NoPassword, flagNoPassword)|flagIf(c.BadPassword, flagBadPassword)|flagIf(c.Permission != nil, flagPermission))
	b = appendString(b, c.User)
	b = appendString(b, c.Role)
	b = appendString(b, c.Password)
	b = binary.AppendUvarint(b, uint64(uint32(permission)))
	b = appendString(b, keys.Key)
	return appendString(b, keys.End)
}

func appendString[S ~string | ~[]byte](b []byte, s S) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// Upper bounds of what surrounds the bytes of a compare or an op.
const (
	maxCompareOverhead = 6 * binary.MaxVarintLen64
	maxOpOverhead      = 2 + 4*binary.MaxVarintLen64
	maxTxnOverhead     = 3 * binary.MaxVarintLen64
)

// txnSize is an upper bound of a txn's encoding. Of a command with little but
// one put it is close, since that is most of the log.
func txnSize(t *backends.TxnOp) int {
	size := maxTxnOverhead
	for i := range t.Compare {
		c := &t.Compare[i]
		size += maxCompareOverhead + len(c.Key) + len(c.End) + len(c.Value)
	}
	for _, ops := range [2][]backends.Op{t.Success, t.Failure} {
		for i := range ops {
			size += maxOpOverhead
			switch o := &ops[i]; {
			case o.Put != nil:
				size += len(o.Put.Key) + len(o.Put.Value)
			case o.Range != nil:
				size += len(o.Range.Key) + len(o.Range.End)
			case o.Delete != nil:
				size += len(o.Delete.Key) + len(o.Delete.End)
			case o.Txn != nil:
				size += txnSize(o.Txn)
			}
		}
	}
	return size
}

func appendTxn(b []byte, t *backends.TxnOp) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.Compare)))
	for i := range t.Compare {
		c := &t.Compare[i]
		b = binary.AppendVarint(b, int64(c.Target))
		b = binary.AppendVarint(b, int64(c.Result))
		b = appendString(b, c.Key)
		b = appendString(b, c.End)
		b = binary.AppendVarint(b, c.Number)
		b = appendString(b, c.Value)
	}
	b = appendOps(b, t.Success)
	return appendOps(b, t.Failure)
}

func appendOps(b []byte, ops []backends.Op) []byte {
	b = binary.AppendUvarint(b, uint64(len(ops)))
	for i := range ops {
		switch o := &ops[i]; {
		case o.Range != nil:
			r := o.Range
			b = append(b, byte(opRange), flagIf(r.KeysOnly, flagKeysOnly)|flagIf(r.CountOnly, flagCountOnly))
			b = appendString(b, r.Key)
			b = appendString(b, r.End)
			b = binary.AppendVarint(b, r.Revision)
			b = binary.AppendVarint(b, r.Limit)
		case o.Put != nil:
			p := o.Put
			b = append(b, byte(opPut),
				flagIf(p.PrevKV, flagPrevKV)|flagIf(p.IgnoreValue, flagIgnoreValue)|flagIf(p.IgnoreLease, flagIgnoreLease))
			b = appendString(b, p.Key)
			b = appendString(b, p.Value)
			b = binary.AppendVarint(b, p.Lease)
		case o.Delete != nil:
			d := o.Delete
			b = append(b, byte(opDelete), flagIf(d.PrevKV, flagPrevKV))
			b = appendString(b, d.Key)
			b = appendString(b, d.End)
		case o.Txn != nil:
			b = append(b, byte(opTxn))
			b = appendTxn(b, o.Txn)
		}
	}
	return b
}

func flagIf(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}
