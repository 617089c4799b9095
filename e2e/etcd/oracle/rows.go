package oracle

import "strings"

// A row is a bad input of the list that etcd's users and attackers send, with the
// answer that etcd 3.7.3 was seen to give. Each occurs in every run; the answers
// themselves are compared with etcd's.
type row struct {
	what string
	// code is etcd's, and text is part of its message, or of what a watch is told.
	code, text string
	// need is an RPC that must be served; off tells why no single member can be asked.
	need, off string
}

const (
	cluster = "needs a cluster, which comes later"
	invalid = "InvalidArgument"
)

// rows are the table, by number.
func rows() map[int]row {
	return map[int]row{
		1:  {what: "empty key", code: invalid, text: "key is not provided"},
		2:  {what: "put: value and ignore_value", code: invalid, text: "value is provided"},
		3:  {what: "put: lease and ignore_lease", code: invalid, text: "lease is provided"},
		4:  {what: "put: ignore_value of no key", code: invalid, text: "key not found"},
		5:  {what: "put: unknown lease", code: "NotFound", text: "requested lease not found"},
		6:  {what: "range: future revision", code: "OutOfRange", text: "future revision"},
		7:  {what: "range: compacted revision", code: "OutOfRange", text: "has been compacted"},
		8:  {what: "range: negative revision or limit, end before key", code: "OK"},
		9:  {what: "range: unknown sort order or target", code: invalid, text: "invalid sort option"},
		10: {what: "compact: future revision", code: "OutOfRange", text: "future revision"},
		11: {what: "compact: compacted revision", code: "OutOfRange", text: "has been compacted"},
		12: {what: "txn: a key twice", code: invalid, text: "duplicate key given in txn request"},
		13: {what: "txn: too many operations", code: invalid, text: "too many operations"},
		14: {what: "txn: an operation without request", code: invalid, text: "key not found"},
		15: {what: "txn: compare of the empty key", code: invalid, text: "key is not provided"},
		16: {what: "txn: unknown result or target", code: "OK"},
		17: {what: "txn: put, then a range of a bad revision", code: "OutOfRange"},
		18: {what: "put: above the request limit", code: invalid, text: "request is too large"},
		19: {what: "put: above the message limit", code: "ResourceExhausted", text: "received message larger than max"},
		20: {what: "gzip bomb", code: "ResourceExhausted", text: "received message after decompression larger than max"},
		21: {what: "lease: TTL too large", code: "OutOfRange", text: "too large lease TTL"},
		22: {what: "lease: TTL of 0 or below", code: "OK"},
		23: {what: "lease: id taken", code: "FailedPrecondition", text: "lease already exists"},
		24: {what: "lease: revoke of none", code: "NotFound", text: "requested lease not found"},
		25: {what: "lease: time to live, keep alive of none", code: "OK"},
		26: {what: "watch: compacted revision", code: "OK"},
		27: {what: "watch: negative revision", code: "refused in a message", text: "has been compacted"},
		28: {what: "watch: id taken, empty range", code: "refused in a message", text: "watch"},
		29: {what: "watch: empty key, future revision", code: "OK"},
		30: {what: "watch: cancel of none, nil request", code: "OK"},
		31: {what: "watch without permission", code: "refused in a message", text: "permission denied", need: "Auth.AuthEnable"},
		32: {what: "HashKV: future or compacted revision", code: "OutOfRange"},
		33: {what: "MoveLeader: bad target", code: "FailedPrecondition", text: "bad leader transferee", need: "Maintenance.MoveLeader"},
		34: {what: "unknown enum value", code: ""},
		35: {what: "Downgrade: bad version or action", code: "", need: "Maintenance.Downgrade"},
		36: {what: "member: unknown id", code: "NotFound", text: "member not found", need: "Cluster.MemberRemove"},
		37: {what: "member: bad or known URLs", code: "", need: "Cluster.MemberAdd"},
		38: {what: "member: promote a voter", code: "FailedPrecondition", text: "can only promote a learner member", need: "Cluster.MemberPromote"},
		39: {what: "member: remove the only voter", code: "Unknown", text: "not enough started members", need: "Cluster.MemberRemove"},
		40: {what: "auth: enable without root", code: "FailedPrecondition", text: "root user does not", need: "Auth.AuthEnable"},
		41: {what: "auth: authenticate while off", code: "FailedPrecondition", text: "authentication is not enabled", need: "Auth.Authenticate"},
		42: {what: "auth: empty name", code: invalid, text: "name is empty", need: "Auth.UserAdd"},
		43: {what: "auth: unknown or known user, role, permission", code: "FailedPrecondition", need: "Auth.UserAdd"},
		44: {what: "auth: nil permission", code: invalid, text: "permission not given", need: "Auth.RoleGrantPermission"},
		45: {what: "auth: no token", code: invalid, text: "user name is empty", need: "Auth.AuthEnable"},
		46: {what: "auth: bad token", code: "Unauthenticated", text: "invalid auth token", need: "Auth.AuthEnable"},
		47: {what: "auth: wrong password", code: invalid, text: "authentication failed", need: "Auth.Authenticate"},
		48: {what: "auth: no right", code: "PermissionDenied", text: "permission denied", need: "Auth.AuthEnable"},
		49: {what: "auth: delete root", code: invalid, text: "invalid auth management", need: "Auth.UserDelete"},
		50: {what: "no quorum: put", off: cluster},
		51: {what: "no quorum: linearizable range", off: cluster},
		52: {what: "no leader", off: cluster},
		53: {what: "no quorum: add a member", off: cluster},
		54: {what: "quota exceeded", code: "ResourceExhausted", text: "database space exceeded"},
		55: {what: "client version that is not UTF-8", code: invalid, text: "invalid client api version"},
		56: {what: "unknown method or service", code: "Unimplemented", text: "unknown"},
		57: {what: "path without a slash", code: "Unimplemented", text: "malformed method name"},
		58: {what: "broken protobuf", code: "Internal", text: "unmarshal"},
		59: {what: "length of 2 GiB", code: "ResourceExhausted", text: "received message larger than max (2147483647"},
		60: {what: "unknown encoding", code: "Unimplemented", text: "Decompressor is not installed"},
		61: {what: "malformed time-out", code: "Internal", text: "malformed grpc-timeout"},
		62: {what: "pings without end", code: "Unavailable", text: "too_many_pings"},
		63: {what: "RangeStream: sorted", code: "Unimplemented", text: "does not support custom sort orders"},
		64: {what: "learner", off: cluster},
		65: {what: "5,000 entries not applied", off: "cannot be brought about by calls"},
		66: {what: "corrupt alarm: any write", code: "DataLoss", text: "corrupt cluster"},
	}
}

// is tells whether etcd's answer is the row's.
func (r row) is(a Answer) bool {
	if r.code != "" && r.code != a.outcome() {
		return false
	}
	if r.text == "" || strings.Contains(a.Message, r.text) {
		return true
	}
	for _, w := range a.Watched {
		if strings.Contains(w.message.CancelReason, r.text) {
			return true
		}
	}
	return false
}
