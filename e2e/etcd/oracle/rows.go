package oracle

import (
	"fmt"
	"strings"
)

// A row is a bad input of the list that etcd's users and attackers send. Each of its
// cases occurs in every run; the answers themselves are compared with etcd's.
type row struct {
	what  string
	cases []rowCase
	// off tells why no single member can be asked.
	off string
}

// A rowCase is an answer that etcd 3.7.3 was seen to give.
type rowCase struct {
	// rpc is what was called; empty for any.
	rpc string
	// code is etcd's, empty for any; text is part of its message, or of what a watch is told.
	code, text string
}

const (
	cluster   = "needs a cluster, which comes later"
	invalid   = "InvalidArgument"
	failed    = "FailedPrecondition"
	outOf     = "OutOfRange"
	inMessage = "refused in a message"
	// compactedAway is in the words of a watch that was cancelled for a compaction.
	compactedAway = "compact_revision"
)

func is(what string, cases ...rowCase) row { return row{what: what, cases: cases} }
func without(what, off string) row         { return row{what: what, off: off} }

// rows are the table, by number.
func rows() map[int]row {
	const (
		get, stream, put, del, txn, compact = "KV.Range", "KV.RangeStream", "KV.Put", "KV.DeleteRange", "KV.Txn", "KV.Compact"
		grant, watch                        = "Lease.LeaseGrant", "Watch.Watch"
		add, remove, update, promote        = "Cluster.MemberAdd", "Cluster.MemberRemove", "Cluster.MemberUpdate", "Cluster.MemberPromote"
		hash, downgrade                     = "Maintenance.HashKV", "Maintenance.Downgrade"
		denied, future, gone                = "permission denied", "future revision", "has been compacted"
	)
	return map[int]row{
		1:  is("empty key", rowCase{get, invalid, "key is not provided"}, rowCase{put, invalid, "key is not provided"}, rowCase{del, invalid, "key is not provided"}),
		2:  is("put: value and ignore_value", rowCase{put, invalid, "value is provided"}),
		3:  is("put: lease and ignore_lease", rowCase{put, invalid, "lease is provided"}),
		4:  is("put: ignore_value of no key", rowCase{put, invalid, "key not found"}),
		5:  is("put: unknown lease", rowCase{put, "NotFound", "requested lease not found"}, rowCase{txn, "NotFound", "requested lease not found"}),
		6:  is("range: future revision", rowCase{get, outOf, future}, rowCase{stream, outOf, future}),
		7:  is("range: compacted revision", rowCase{get, outOf, gone}, rowCase{stream, outOf, gone}),
		8:  is("range: negative revision or limit, end before key", rowCase{get, "OK", ""}),
		9:  is("range: unknown sort order or target", rowCase{get, invalid, "invalid sort option"}),
		10: is("compact: future revision", rowCase{compact, outOf, future}),
		11: is("compact: compacted revision", rowCase{compact, outOf, gone}),
		12: is("txn: a key twice", rowCase{txn, invalid, "duplicate key given in txn request"}),
		13: is("txn: too many operations", rowCase{txn, invalid, "too many operations"}),
		14: is("txn: an operation without request", rowCase{txn, invalid, "key not found"}),
		15: is("txn: compare of the empty key", rowCase{txn, invalid, "key is not provided"}),
		16: is("txn: unknown result or target", rowCase{txn, "OK", ""}),
		17: is("txn: put, then a range of a bad revision", rowCase{txn, outOf, future}, rowCase{txn, outOf, gone}),
		18: is("put: above the request limit", rowCase{put, invalid, "request is too large"}),
		19: is("put: above the message limit", rowCase{put, "ResourceExhausted", "received message larger than max"}),
		20: is("gzip bomb", rowCase{"", "ResourceExhausted", "received message after decompression larger than max"}),
		21: is("lease: TTL too large", rowCase{grant, outOf, "too large lease TTL"}),
		22: is("lease: TTL of 0 or below", rowCase{grant, "OK", ""}),
		23: is("lease: id taken", rowCase{grant, failed, "lease already exists"}),
		24: is("lease: revoke of none", rowCase{"Lease.LeaseRevoke", "NotFound", "requested lease not found"}),
		25: is("lease: time to live, keep alive of none", rowCase{"Lease.LeaseTimeToLive", "OK", ""}, rowCase{"Lease.LeaseKeepAlive", "OK", ""}),
		26: is("watch: compacted revision", rowCase{watch, "OK", compactedAway}),
		27: is("watch: negative revision", rowCase{watch, inMessage, gone}),
		28: is("watch: id taken, empty range", rowCase{watch, inMessage, "duplicate watch ID"}, rowCase{watch, inMessage, "watcher range is empty"}),
		29: is("watch: empty key, future revision", rowCase{watch, "OK", ""}),
		30: is("watch: cancel of none, nil request", rowCase{watch, "OK", ""}),
		31: is("watch without permission", rowCase{watch, inMessage, denied}),
		32: is("HashKV: future or compacted revision", rowCase{hash, outOf, future}, rowCase{hash, outOf, gone}),
		33: is("MoveLeader: bad target", rowCase{"Maintenance.MoveLeader", failed, "bad leader transferee"}),
		34: is("unknown enum value", rowCase{get, invalid, "invalid sort option"}, rowCase{stream, "", ""}, rowCase{txn, "OK", ""},
			rowCase{"Auth.RoleGrantPermission", "", ""}, rowCase{"Maintenance.Alarm", "", ""}, rowCase{downgrade, "Unknown", "unknown method"}),
		35: is("Downgrade: bad version or action", rowCase{downgrade, invalid, "wrong downgrade target version format"},
			rowCase{downgrade, invalid, "invalid downgrade target version"}, rowCase{downgrade, "Unknown", "unknown method"}, rowCase{downgrade, "OK", ""}),
		36: is("member: unknown id", rowCase{remove, "NotFound", "member not found"}, rowCase{update, "NotFound", "member not found"}, rowCase{promote, "NotFound", "member not found"}),
		37: is("member: bad or known URLs", rowCase{add, invalid, "given member URLs are invalid"}, rowCase{add, failed, "Peer URLs already exists"}),
		38: is("member: promote a voter", rowCase{promote, failed, "can only promote a learner member"}),
		39: is("member: remove the only voter", rowCase{remove, "Unknown", "not enough started members"}),
		40: is("auth: enable without root", rowCase{"Auth.AuthEnable", failed, "root user does not exist"}, rowCase{"Auth.AuthEnable", failed, "root user does not have root role"}),
		41: is("auth: authenticate while off", rowCase{"Auth.Authenticate", failed, "authentication is not enabled"}),
		42: is("auth: empty name", rowCase{"Auth.UserAdd", invalid, "user name is empty"}, rowCase{"Auth.RoleAdd", invalid, "role name is empty"}),
		43: is("auth: unknown or known user, role, permission",
			rowCase{"Auth.UserGet", failed, "user name not found"}, rowCase{"Auth.RoleGet", failed, "role name not found"},
			rowCase{"Auth.UserAdd", failed, "user name already exists"}, rowCase{"Auth.RoleAdd", failed, "role name already exists"},
			rowCase{"Auth.UserRevokeRole", failed, "role is not granted to the user"}, rowCase{"Auth.RoleRevokePermission", failed, "permission is not granted to the role"}),
		44: is("auth: nil permission", rowCase{"Auth.RoleGrantPermission", invalid, "permission not given"}),
		45: is("auth: no token", calledWithout(get, put, grant, "Cluster.MemberList", "Maintenance.Alarm", "Maintenance.Status", "Maintenance.Defragment", "Maintenance.Snapshot")...),
		46: is("auth: bad token", rowCase{get, "Unauthenticated", "invalid auth token"}, rowCase{put, "Unauthenticated", "invalid auth token"}),
		47: is("auth: wrong password", rowCase{"Auth.Authenticate", invalid, "authentication failed"}),
		48: is("auth: no right", rowCase{get, "PermissionDenied", denied}, rowCase{compact, "PermissionDenied", denied}, rowCase{"Auth.UserAdd", "PermissionDenied", denied}),
		49: is("auth: delete root", rowCase{"Auth.UserDelete", invalid, "invalid auth management"}, rowCase{"Auth.RoleDelete", invalid, "invalid auth management"}),
		50: without("no quorum: put", cluster),
		51: without("no quorum: linearizable range", cluster),
		52: without("no leader", cluster),
		53: without("no quorum: add a member", cluster),
		54: is("quota exceeded", rowCase{put, "ResourceExhausted", "database space exceeded"}),
		55: is("client version that is not UTF-8", rowCase{"", invalid, "invalid client api version"}),
		56: is("unknown method or service", rowCase{"", "Unimplemented", "unknown method"}, rowCase{"", "Unimplemented", "unknown service"}),
		57: is("path without a slash", rowCase{"", "Unimplemented", "malformed method name"}),
		58: is("broken protobuf", rowCase{"", "Internal", "unmarshal"}),
		59: is("length of 2 GiB", rowCase{"", "ResourceExhausted", "received message larger than max (2147483647"}),
		60: is("unknown encoding", rowCase{"", "Unimplemented", "Decompressor is not installed"}),
		61: is("malformed time-out", rowCase{"", "Internal", "malformed grpc-timeout"}),
		62: is("pings without end", rowCase{"", "Unavailable", "too_many_pings"}),
		63: is("RangeStream: sorted", rowCase{stream, "Unimplemented", "does not support custom sort orders"}),
		64: without("learner", cluster),
		65: without("5,000 entries not applied", "cannot be brought about by calls"),
		66: is("corrupt alarm: any write", rowCase{put, "DataLoss", "corrupt cluster"}),
	}
}

// calledWithout are the cases of RPCs that were called without a token.
func calledWithout(rpcs ...string) []rowCase {
	var out []rowCase
	for _, rpc := range rpcs {
		out = append(out, rowCase{rpc, invalid, "user name is empty"})
	}
	return out
}

// name is a case's for people and for counting.
func (c rowCase) name(row int) string {
	return strings.TrimRight(fmt.Sprintf("%2d %s %s %s", row, c.rpc, c.code, c.text), " ")
}

// is tells whether etcd's answer to an RPC is the case's.
func (c rowCase) is(rpc string, a Answer) bool {
	if c.rpc != "" && c.rpc != rpc || c.code != "" && c.code != a.outcome() {
		return false
	}
	if strings.Contains(a.Message, c.text) {
		return true
	}
	for _, w := range a.Watched {
		if strings.Contains(w.message.CancelReason, c.text) || c.text == compactedAway && w.message.Canceled && w.message.CompactRevision > 0 {
			return true
		}
	}
	return false
}
