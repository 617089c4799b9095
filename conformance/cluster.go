package conformance

import (
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// clusterCases are the cases of MemberList.
func clusterCases() []Case {
	return []Case{
		{Name: "cluster/member-list", RPC: "Cluster.MemberList", Run: clusterList},
		{Name: "cluster/member-list-without-quorum", RPC: "Cluster.MemberList", Condition: NoQuorum,
			Covers: []string{"MemberListRequest.linearizable"}, Run: clusterNoQuorum},
	}
}

func clusterList(c *C) {
	self := c.status()
	for _, linearizable := range []bool{true, false} {
		r, err := c.Cluster.MemberList(c.Ctx, &pb.MemberListRequest{Linearizable: linearizable})
		c.must(err, "member list")
		equal(c, "cluster id", r.Header.GetClusterId(), self.Header.ClusterId)
		equal(c, "member id", r.Header.GetMemberId(), self.Header.MemberId)
		found := 0
		for _, m := range r.Members {
			if m.ID != self.Header.MemberId {
				continue
			}
			found++
			equal(c, "learner", m.IsLearner, false)
			if m.Name == "" || len(m.ClientURLs) == 0 || !strings.HasPrefix(m.ClientURLs[0], "http") {
				c.Errorf("this member has no name or no client URL: %s", text(m))
			}
		}
		equal(c, "entries of this member", found, 1)
	}
}

func clusterNoQuorum(c *C) {
	r, err := c.Cluster.MemberList(c.Ctx, &pb.MemberListRequest{})
	c.must(err, "member list, not linearizable")
	equal(c, "members", len(r.Members), 2)
	_, err = c.Cluster.MemberList(c.Ctx, &pb.MemberListRequest{Linearizable: true})
	c.wantError(err, codes.Unavailable, "etcdserver: request timed out")
}
