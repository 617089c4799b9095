package conformance

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// grant makes a lease of ttl seconds with an id that the server chooses.
func (c *C) grant(ttl int64) int64 {
	c.Helper()
	r, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: ttl})
	c.must(err, "grant of %d s", ttl)
	return r.ID
}

// revoke revokes a lease, which must exist.
func (c *C) revoke(id int64) *pb.LeaseRevokeResponse {
	c.Helper()
	r, err := c.Lease.LeaseRevoke(c.Ctx, &pb.LeaseRevokeRequest{ID: id})
	c.must(err, "revoke %x", id)
	return r
}

// leaseGrantAbsent is what cases of other RPCs that need a lease assert where there are none.
func leaseGrantAbsent(c *C) {
	_, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: 60})
	if status.Code(err) != codes.Unimplemented {
		c.Errorf("LeaseGrant without the capability: got %v, want Unimplemented", err)
	}
}
