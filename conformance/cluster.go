package conformance

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// clusterCases are the cases of MemberList.
func clusterCases() []Case {
	return []Case{
		{Name: "cluster/member-list", RPC: "Cluster.MemberList", Run: clusterList},
		{Name: "cluster/member-list-without-quorum", RPC: "Cluster.MemberList", Condition: NoQuorum, Slow: true,
			Covers: []string{"MemberListRequest.linearizable"}, Run: clusterNoQuorum},
		{Name: "cluster/learner", RPC: "Cluster.MemberAdd", Needs: Members,
			Covers: []string{"MemberAddRequest.peerURLs", "MemberAddRequest.isLearner", "MemberRemoveRequest.ID", "MemberPromoteRequest.ID"}, Run: clusterLearner},
		{Name: "cluster/learner-urls", RPC: "Cluster.MemberAdd", Needs: Members, Run: clusterLearnerURLs},
		{Name: "cluster/update-a-learner", RPC: "Cluster.MemberUpdate", Needs: Members, Covers: []string{"MemberUpdateRequest.ID"}, Run: clusterUpdateLearner},
		{Name: "cluster/update-this-member", RPC: "Cluster.MemberUpdate", Needs: Members,
			Covers: []string{"MemberUpdateRequest.peerURLs"}, Run: clusterUpdateSelf},
		{Name: "badinput/row-36-unknown-member", RPC: "Cluster.MemberRemove", Needs: Members, Run: clusterUnknown},
		{Name: "badinput/row-37-member-add-urls", RPC: "Cluster.MemberAdd", Needs: Members, Run: clusterBadURLs},
		{Name: "badinput/row-38-promote-a-voter", RPC: "Cluster.MemberPromote", Needs: Members, Run: clusterPromoteVoter},
		{Name: "badinput/row-39-remove-the-only-voter", RPC: "Cluster.MemberRemove", Needs: Members, Run: clusterRemoveSelf},
		{Name: "badinput/row-53-member-add-without-quorum", RPC: "Cluster.MemberAdd", Needs: Members, Condition: NoQuorum, Run: clusterAddNoQuorum},
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

// peerURL is one that nobody serves, and that hardly any other call returned.
func peerURL() string {
	return fmt.Sprintf("http://127.%d.%d.%d:9", 1+rand.IntN(250), rand.IntN(256), 1+rand.IntN(250))
}

// addLearner adds a learner that is removed when the case ends, unless it was before.
func (c *C) addLearner(urls ...string) *pb.Member {
	c.Helper()
	r, err := c.Cluster.MemberAdd(c.Ctx, &pb.MemberAddRequest{PeerURLs: urls, IsLearner: true})
	c.must(err, "add a learner")
	c.clusterHeader(r.Header)
	c.Cleanup(func() {
		if c.listed(r.Member.ID) != nil {
			c.remove(r.Member.ID)
		}
	})
	if r.Member.ID == 0 || !r.Member.IsLearner || r.Member.Name != "" || len(r.Member.ClientURLs) > 0 {
		c.Errorf("the new member is %s", text(r.Member))
	}
	c.wantMembers("answer of add", r.Members)
	return r.Member
}

func (c *C) remove(id uint64) {
	c.Helper()
	r, err := c.Cluster.MemberRemove(c.Ctx, &pb.MemberRemoveRequest{ID: id})
	c.must(err, "remove %x", id)
	c.clusterHeader(r.Header)
	c.wantMembers("answer of remove", r.Members)
}

// clusterHeader requires a header as the Cluster service has it: without a revision.
func (c *C) clusterHeader(h *pb.ResponseHeader) {
	c.Helper()
	if h.GetClusterId() == 0 || h.GetMemberId() == 0 || h.GetRaftTerm() == 0 || h.GetRevision() != 0 {
		c.Errorf("header: %s", text(h))
	}
}

func (c *C) members() []*pb.Member {
	c.Helper()
	r, err := c.Cluster.MemberList(c.Ctx, &pb.MemberListRequest{Linearizable: true})
	c.must(err, "member list")
	return r.Members
}

// wantMembers requires that a list is what MemberList answers, in its order.
func (c *C) wantMembers(what string, got []*pb.Member) {
	c.Helper()
	want := c.members()
	equalProto(c, what, &pb.MemberListResponse{Members: got}, &pb.MemberListResponse{Members: want})
	if !slices.IsSortedFunc(want, func(a, b *pb.Member) int { return cmp.Compare(a.ID, b.ID) }) {
		c.Errorf("members are not in the order of their ids: %s", text(&pb.MemberListResponse{Members: want}))
	}
}

// listed finds a member in the list; nil if it is not there.
func (c *C) listed(id uint64) *pb.Member {
	c.Helper()
	for _, m := range c.members() {
		if m.ID == id {
			return m
		}
	}
	return nil
}

// onlyVoter is the member of a server that has no other voter.
func (c *C) onlyVoter() *pb.Member {
	c.Helper()
	self := c.status().Header.MemberId
	for _, m := range c.members() {
		if m.ID != self && !m.IsLearner {
			c.Fatalf("this case is for a server that is the only voter, and there is %s", text(m))
		}
	}
	return c.listed(self)
}

func clusterLearner(c *C) {
	c.onlyVoter()
	url := peerURL()
	m := c.addLearner(url)
	equalProto(c, "listed", c.listed(m.ID), m)
	equal(c, "peer URLs", strings.Join(m.PeerURLs, " "), url)
	c.put("a", "1")
	equal(c, "count", c.get("a").Count, 1)
	_, err := c.Cluster.MemberAdd(c.Ctx, &pb.MemberAddRequest{PeerURLs: []string{peerURL()}, IsLearner: true})
	c.wantError(err, codes.FailedPrecondition, msgTooManyLearners)
	_, err = c.Cluster.MemberAdd(c.Ctx, &pb.MemberAddRequest{PeerURLs: []string{peerURL(), url}, IsLearner: true})
	c.wantError(err, codes.FailedPrecondition, msgPeerURLExists)
	_, err = c.Cluster.MemberPromote(c.Ctx, &pb.MemberPromoteRequest{ID: m.ID})
	c.wantError(err, codes.FailedPrecondition, msgLearnerNotReady)
	if c.Endpoint.Capabilities[LeaderMover] {
		_, err = c.Maintenance.MoveLeader(c.Ctx, &pb.MoveLeaderRequest{TargetID: m.ID})
		c.wantError(err, codes.FailedPrecondition, msgBadTransferee)
	}
	c.remove(m.ID)
	if c.listed(m.ID) != nil {
		c.Errorf("a removed member is listed")
	}
	_, err = c.Cluster.MemberRemove(c.Ctx, &pb.MemberRemoveRequest{ID: m.ID})
	c.wantError(err, codes.NotFound, msgMemberNotFound)
	_, err = c.Cluster.MemberUpdate(c.Ctx, &pb.MemberUpdateRequest{ID: m.ID, PeerURLs: []string{peerURL()}})
	c.wantError(err, codes.NotFound, msgMemberNotFound)
	_, err = c.Cluster.MemberPromote(c.Ctx, &pb.MemberPromoteRequest{ID: m.ID})
	c.wantError(err, codes.NotFound, msgMemberNotFound)
	other := c.addLearner(peerURL())
	if other.ID == m.ID {
		c.Errorf("the id %x was given twice", m.ID)
	}
	c.put("a", "2")
}

// clusterLearnerURLs: peer URLs are put into their normal form and order.
func clusterLearnerURLs(c *C) {
	c.onlyVoter()
	a, b := peerURL(), peerURL()
	sorted := []string{a, b, "unix://nobody:1"}
	slices.Sort(sorted)
	m := c.addLearner(" "+b+" ", "unix://nobody:1", "HTTP"+strings.TrimPrefix(a, "http"))
	equal(c, "peer URLs", strings.Join(m.PeerURLs, " "), strings.Join(sorted, " "))
	equalProto(c, "listed", c.listed(m.ID), m)
}

func clusterUpdateLearner(c *C) {
	self := c.onlyVoter()
	m := c.addLearner(peerURL())
	z, a := "http://[::1]:9", peerURL()
	r, err := c.Cluster.MemberUpdate(c.Ctx, &pb.MemberUpdateRequest{ID: m.ID, PeerURLs: []string{z, a}})
	c.must(err, "update")
	c.clusterHeader(r.Header)
	c.wantMembers("answer of update", r.Members)
	equal(c, "peer URLs, as they were given", strings.Join(c.listed(m.ID).PeerURLs, " "), z+" "+a)
	equal(c, "learner", c.listed(m.ID).IsLearner, true)
	_, err = c.Cluster.MemberUpdate(c.Ctx, &pb.MemberUpdateRequest{ID: m.ID, PeerURLs: self.PeerURLs})
	c.wantError(err, codes.FailedPrecondition, msgPeerURLExists)
	_, err = c.Cluster.MemberUpdate(c.Ctx, &pb.MemberUpdateRequest{ID: m.ID, PeerURLs: []string{z, a}})
	c.must(err, "update to what it is")
	if !c.Endpoint.Upstream { // etcd 3.7.3 panics on it
		_, err = c.Cluster.MemberUpdate(c.Ctx, &pb.MemberUpdateRequest{ID: m.ID, PeerURLs: []string{"nothing"}})
		c.wantError(err, codes.InvalidArgument, msgMemberURLs)
	}
}

// clusterUpdateSelf: a member's own URLs are not looked at.
func clusterUpdateSelf(c *C) {
	self := c.onlyVoter()
	update := func(urls ...string) {
		c.Helper()
		r, err := c.Cluster.MemberUpdate(c.Ctx, &pb.MemberUpdateRequest{ID: self.ID, PeerURLs: urls})
		c.must(err, "update to %q", urls)
		c.clusterHeader(r.Header)
		got := c.listed(self.ID)
		equal(c, "peer URLs", strings.Join(got.PeerURLs, " "), strings.Join(urls, " "))
		equal(c, "name", got.Name, self.Name)
		equal(c, "client URLs", strings.Join(got.ClientURLs, " "), strings.Join(self.ClientURLs, " "))
	}
	defer update(self.PeerURLs...)
	update("http://localhost:2380", "http://localhost:2379", "http://localhost:2380")
	update("nothing", "")
	update()
	c.put("a", "1")
}

func clusterUnknown(c *C) {
	c.onlyVoter()
	for _, id := range []uint64{0, rand.Uint64(), 1<<64 - 1} {
		_, err := c.Cluster.MemberRemove(c.Ctx, &pb.MemberRemoveRequest{ID: id})
		c.wantError(err, codes.NotFound, msgMemberNotFound)
		for _, urls := range [][]string{{peerURL()}, {"nothing"}, nil} {
			_, err = c.Cluster.MemberUpdate(c.Ctx, &pb.MemberUpdateRequest{ID: id, PeerURLs: urls})
			c.wantError(err, codes.NotFound, msgMemberNotFound)
		}
		_, err = c.Cluster.MemberPromote(c.Ctx, &pb.MemberPromoteRequest{ID: id})
		c.wantError(err, codes.NotFound, msgMemberNotFound)
	}
}

func clusterBadURLs(c *C) {
	self := c.onlyVoter()
	for _, learner := range []bool{true, false} {
		for _, urls := range [][]string{nil, {""}, {"nothing"}, {"127.0.0.1:9"}, {"ftp://127.0.0.1:9"}, {"http://127.0.0.1"},
			{"http://127.0.0.1:9/"}, {"http://127.0.0.1:9/path"}, {"http://127.0.0.1:9", "https://127.0.0.1"}, {"http://[::1"}, {"http://127.0.0.1:port"}} {
			_, err := c.Cluster.MemberAdd(c.Ctx, &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner})
			c.wantError(err, codes.InvalidArgument, msgMemberURLs)
		}
	}
	_, err := c.Cluster.MemberAdd(c.Ctx, &pb.MemberAddRequest{PeerURLs: self.PeerURLs, IsLearner: true})
	c.wantError(err, codes.FailedPrecondition, msgPeerURLExists)
	equal(c, "members", len(c.members()), 1)
}

func clusterPromoteVoter(c *C) {
	_, err := c.Cluster.MemberPromote(c.Ctx, &pb.MemberPromoteRequest{ID: c.onlyVoter().ID})
	c.wantError(err, codes.FailedPrecondition, msgNotLearner)
}

func clusterRemoveSelf(c *C) {
	_, err := c.Cluster.MemberRemove(c.Ctx, &pb.MemberRemoveRequest{ID: c.onlyVoter().ID})
	// etcd's map of errors has the client's form of this one, which grpc sends as Unknown.
	c.wantError(err, codes.Unknown, msgNotEnough)
	c.put("a", "1")
}

func clusterAddNoQuorum(c *C) {
	for _, learner := range []bool{true, false} {
		_, err := c.Cluster.MemberAdd(c.Ctx, &pb.MemberAddRequest{PeerURLs: []string{peerURL()}, IsLearner: learner})
		c.wantError(err, codes.Unavailable, msgUnhealthy)
	}
}
