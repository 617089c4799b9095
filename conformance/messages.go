package conformance

// etcd 3.7.3's messages, as measured on the wire.
const (
	msgEmptyKey      = "etcdserver: key is not provided"
	msgKeyNotFound   = "etcdserver: key not found"
	msgValueGiven    = "etcdserver: value is provided"
	msgLeaseGiven    = "etcdserver: lease is provided"
	msgLeaseNotFound = "etcdserver: requested lease not found"
	msgLeaseExists   = "etcdserver: lease already exists"
	msgLeaseTooLong  = "etcdserver: too large lease TTL"
	msgFuture        = "etcdserver: mvcc: required revision is a future revision"
	msgCompacted     = "etcdserver: mvcc: required revision has been compacted"
	msgSort          = "etcdserver: invalid sort option"
	msgDuplicateKey  = "etcdserver: duplicate key given in txn request"
	msgTooManyOps    = "etcdserver: too many operations in txn request"
	msgTooLarge      = "etcdserver: request is too large"
	msgNoSpace       = "etcdserver: mvcc: database space exceeded"
	msgStreamSort    = "RangeStream does not support custom sort orders"
	msgStreamFilter  = "RangeStream does not support revision filters"
	msgAPIVersion    = "etcdserver: invalid client api version"
)
