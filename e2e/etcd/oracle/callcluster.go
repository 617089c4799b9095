package oracle

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func clusterCalls() []call {
	return []call{
		{"Cluster.MemberList", 5, 30, func(g *generator) { g.add("Cluster.MemberList", &pb.MemberListRequest{Linearizable: g.chance(50)}) }, nil},
		{"Cluster.MemberAdd", 3, 50, (*generator).memberAdd, (*generator).badMemberAdd},
		{"Cluster.MemberRemove", 3, 40, (*generator).memberRemove, (*generator).badMemberRemove},
		{"Cluster.MemberUpdate", 6, 40, (*generator).memberUpdate, (*generator).badMemberUpdate},
		{"Cluster.MemberPromote", 2, 100, nil, (*generator).badMemberPromote},
	}
}

// peerURL is an address at which nobody listens, and that was not used before: etcd
// makes a member's id of its addresses and the second it is added in.
func (g *generator) peerURL() string { return fmt.Sprintf("http://127.0.0.1:%d", 1+g.bind()) }

// memberAdd adds a learner: a second voter that never comes would end the quorum. It is
// removed soon, since there may be one only.
func (g *generator) memberAdd() {
	b := g.bind()
	g.add("Cluster.MemberAdd", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{g.peerURL()}}).Bind = b
	g.members = append(g.members, memberSymbol(b))
	if g.chance(50) {
		g.add("Cluster.MemberList", &pb.MemberListRequest{Linearizable: true})
	}
	g.in(g.IntN(12), func() { g.add("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: memberSymbol(b)}) })
}

// member is an id that may be an added member's.
func (g *generator) member() uint64 {
	if len(g.members) == 0 {
		return 99
	}
	return g.members[max(0, len(g.members)-1-g.IntN(2))]
}

func (g *generator) badMemberAdd() {
	r := &pb.MemberAddRequest{IsLearner: true}
	switch g.IntN(5) {
	case 0:
	case 1:
		r.IsLearner = false
		r.PeerURLs = []string{pick(g, "", "not a URL", "ftp://127.0.0.1:1", "http://127.0.0.1", "127.0.0.1:2380", "http://127.0.0.1:1/path")}
	case 2:
		r.PeerURLs = []string{g.peerURL(), pick(g, "", "http://", "http://127.0.0.1:99999")}
	default: // there is a learner already, and its address is taken
		b, taken := g.bind(), g.peerURL()
		g.add("Cluster.MemberAdd", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{taken}}).Bind = b
		g.members = append(g.members, memberSymbol(b))
		third := g.bind()
		g.add("Cluster.MemberAdd", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{g.peerURL(), taken}}, 37).Bind = third
		g.add("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: memberSymbol(third)})
		second := g.bind() // taken if the first was not
		g.add("Cluster.MemberAdd", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{g.peerURL()}}).Bind = second
		g.add("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: memberSymbol(b)})
		g.add("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: memberSymbol(second)})
		return
	}
	b := g.bind() // some are taken for good
	g.add("Cluster.MemberAdd", r, 37).Bind = b
	g.add("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: memberSymbol(b)})
}

func (g *generator) memberRemove() {
	b := g.bind()
	g.add("Cluster.MemberAdd", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{g.peerURL()}}).Bind = b
	g.add("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: memberSymbol(b)})
}

func (g *generator) badMemberRemove() {
	if g.chance(40) {
		g.add("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: selfSymbol()}, 39)
		return
	}
	g.add("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: pick(g, 0, 12345, g.member())}, 36)
}

func (g *generator) memberUpdate() {
	// Beyond every peerURL; see notAsked.
	g.add("Cluster.MemberUpdate", &pb.MemberUpdateRequest{ID: selfSymbol(), PeerURLs: []string{pick(g, "http://127.0.0.1:65011", "http://127.0.0.1:65012")}})
}

func (g *generator) badMemberUpdate() {
	r := &pb.MemberUpdateRequest{ID: pick(g, 12345, 0, g.member(), selfSymbol()), PeerURLs: []string{g.peerURL()}}
	row := 36
	if g.chance(50) {
		r.ID = pick(g, 12345, 0, selfSymbol()) // see notAsked
		r.PeerURLs = pick(g, nil, []string{""}, []string{"not a URL"}, []string{"http://127.0.0.1"})
		row = 37
	}
	g.add("Cluster.MemberUpdate", r, row)
}

func (g *generator) badMemberPromote() {
	switch g.IntN(3) {
	case 0:
		g.add("Cluster.MemberPromote", &pb.MemberPromoteRequest{ID: pick[uint64](g, 0, 12345)}, 36)
	case 1:
		g.add("Cluster.MemberPromote", &pb.MemberPromoteRequest{ID: selfSymbol()}, 38)
	default: // a learner that never came
		b := g.bind()
		g.add("Cluster.MemberAdd", &pb.MemberAddRequest{IsLearner: true, PeerURLs: []string{g.peerURL()}}).Bind = b
		g.add("Cluster.MemberPromote", &pb.MemberPromoteRequest{ID: memberSymbol(b)})
		g.add("Cluster.MemberRemove", &pb.MemberRemoveRequest{ID: memberSymbol(b)})
	}
}
