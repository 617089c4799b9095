package oracle

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
)

func electionCalls() []call {
	return []call{
		{"Election.Campaign", 2, 45, (*generator).campaign, (*generator).badCampaign},
		{"Election.Proclaim", 2, 40, (*generator).campaign, (*generator).badProclaim},
		{"Election.Leader", 2, 55, (*generator).campaign, (*generator).badLeader},
		{"Election.Observe", 3, 50, (*generator).observe, nil},
		{"Election.Resign", 2, 70, (*generator).campaign, (*generator).badResign},
	}
}

func (g *generator) electionName() string { return "election/" + g.place() }

// elect campaigns and returns what the leader is known by; another may wait for it.
func (g *generator) elect(name string, awaited bool) *v3electionpb.LeaderKey {
	if !awaited && g.mayLeave() && g.chance(25) {
		b := g.bind()
		g.add("Election.Campaign", &v3electionpb.CampaignRequest{Name: []byte(name), Value: g.value()}).Bind = b
		return &v3electionpb.LeaderKey{Name: []byte(name), Key: lockKey(name, leaseSymbol(b)), Rev: revSymbol(b), Lease: leaseSymbol(b)}
	}
	take := g.freshLease
	if awaited {
		take = g.chosenLease
	}
	lease, b := take(), g.bind()
	g.add("Election.Campaign", &v3electionpb.CampaignRequest{Name: []byte(name), Value: g.value(), Lease: lease}).Bind = b
	return &v3electionpb.LeaderKey{Name: []byte(name), Key: lockKey(name, lease), Rev: revSymbol(b), Lease: lease}
}

// campaign is a leader's life, sometimes with another who waits for it to end.
func (g *generator) campaign() {
	name := g.electionName()
	awaited := !g.profile.auth && g.chance(40)
	leader := g.elect(name, awaited)
	if g.chance(20) { // again, by who leads already
		g.add("Election.Campaign", &v3electionpb.CampaignRequest{Name: []byte(name), Value: g.value(), Lease: leader.Lease})
	}
	g.add("Election.Leader", &v3electionpb.LeaderRequest{Name: []byte(name)})
	g.proclaim(leader)
	if !awaited {
		g.add("Election.Leader", &v3electionpb.LeaderRequest{Name: []byte(name)})
		g.resign(leader)
		return
	}
	lease, b := g.chosenLease(), g.bind()
	g.slots++
	slot := g.slots
	g.add("Election.Campaign", &v3electionpb.CampaignRequest{Name: []byte(name), Value: g.value(), Lease: lease}).Async = slot
	g.awaitKeys(name+"/", 2)
	if g.chance(50) {
		g.resign(leader)
	} else {
		g.add("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: leader.Lease})
	}
	g.script = append(g.script, Step{Verb: verbJoin, Join: slot, Bind: b})
	g.add("Election.Leader", &v3electionpb.LeaderRequest{Name: []byte(name)})
	next := &v3electionpb.LeaderKey{Name: []byte(name), Key: lockKey(name, lease), Rev: revSymbol(b), Lease: lease}
	g.proclaim(leader) // no longer
	g.proclaim(next)
	g.resign(next)
}

func (g *generator) proclaim(leader *v3electionpb.LeaderKey) {
	g.add("Election.Proclaim", &v3electionpb.ProclaimRequest{Leader: leader, Value: g.value()})
}

func (g *generator) resign(leader *v3electionpb.LeaderKey) {
	g.add("Election.Resign", &v3electionpb.ResignRequest{Leader: leader})
	if isSymbol(leader.Lease) { // those that the server grants have one time to live, and so no order
		g.add("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: leader.Lease})
	}
}

// observe sees a leader's first words and later ones.
func (g *generator) observe() {
	name := g.electionName()
	leader := g.elect(name, false)
	if g.profile.auth { // without a leader there is no first word
		g.resign(leader)
		return
	}
	g.add("Election.Observe", &v3electionpb.LeaderRequest{Name: []byte(name)}).Take = 1
	g.slots++
	slot := g.slots
	s := g.add("Election.Observe", &v3electionpb.LeaderRequest{Name: []byte(name)})
	s.Async, s.Take = slot, 2
	g.proclaim(leader)
	g.script = append(g.script, Step{Verb: verbJoin, Join: slot})
	g.resign(leader)
}

func (g *generator) badCampaign() {
	g.add("Election.Campaign", &v3electionpb.CampaignRequest{Name: []byte(pick(g, "election/a", "")), Lease: pick[int64](g, 987654321, -1)})
}

// nobody is a leader that there is not.
func (g *generator) nobody() *v3electionpb.LeaderKey {
	return pick(g, nil,
		&v3electionpb.LeaderKey{Lease: 987654321}, // for lease 0 etcd would grant one, and not tell it
		&v3electionpb.LeaderKey{Name: []byte("election/a"), Key: []byte("election/a/5"), Rev: 1, Lease: 987654321},
		&v3electionpb.LeaderKey{Name: []byte("election/a"), Key: []byte("election/a/5"), Rev: 1, Lease: g.lease()})
}

func (g *generator) badProclaim() {
	g.add("Election.Proclaim", &v3electionpb.ProclaimRequest{Leader: g.nobody(), Value: []byte("x")})
}

func (g *generator) badResign() {
	g.add("Election.Resign", &v3electionpb.ResignRequest{Leader: g.nobody()})
}

func (g *generator) badLeader() {
	g.add("Election.Leader", &v3electionpb.LeaderRequest{Name: []byte(pick(g, "election/none", ""))})
}
