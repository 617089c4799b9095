package oracle

import (
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func leaseCalls() []call {
	return []call{
		{"Lease.LeaseGrant", 4, 40, (*generator).grant, (*generator).badGrant},
		{"Lease.LeaseRevoke", 3, 40, func(g *generator) { g.add("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: g.lease()}) }, (*generator).badRevoke},
		{"Lease.LeaseKeepAlive", 2, 35, (*generator).keepAlive, nil},
		{"Lease.LeaseTimeToLive", 3, 25, (*generator).timeToLive, nil},
		{"Lease.LeaseLeases", 3, 25, func(g *generator) { g.add("Lease.LeaseLeases", &pb.LeaseLeasesRequest{}) }, nil},
	}
}

// chosenLeases are ids that the client chooses.
func chosenLeases() []int64 { return []int64{1, 2, 3, 7, 0x1234, -3, math.MaxInt64, math.MinInt64} }

// maxLeases bounds the ids that the generator keeps in mind.
const maxLeases = 12

// lease is an id that may be a lease.
func (g *generator) lease() int64 {
	if len(g.leases) == 0 || g.chance(10) {
		return pick(g, chosenLeases()...)
	}
	return pick(g, g.leases...)
}

// aTTL is a time that no sequence lasts, and that no other lease of it has: leases are
// listed by what remains.
func (g *generator) aTTL() int64 {
	g.ttl += 500
	return g.ttl
}

func (g *generator) keepInMind(id int64) {
	if g.leases = append(g.leases, id); len(g.leases) > maxLeases {
		g.leases = g.leases[1:]
	}
}

func (g *generator) grant() {
	switch n := g.IntN(20); {
	case n == 0:
		g.expire()
	case n < 8 && !g.hashes:
		b := g.bind()
		g.add("Lease.LeaseGrant", &pb.LeaseGrantRequest{TTL: g.aTTL()}).Bind = b
		g.keepInMind(leaseSymbol(b))
	default:
		id := pick(g, chosenLeases()...)
		g.add("Lease.LeaseGrant", &pb.LeaseGrantRequest{TTL: g.aTTL(), ID: id})
		g.keepInMind(id)
	}
}

// shortTTL is the time to live of leases that expire, s: long enough for a busy machine
// to attach their keys in time.
const shortTTL = 3

// expire grants a lease with keys and waits until they are gone. What it needs is
// asked for at once, so that the time runs out for nothing else.
func (g *generator) expire() {
	defer func(user string) { g.user = user }(g.user)
	if g.profile.auth {
		g.user = "root" // who may not look would not wait
	}
	id := int64(1_000_000 + g.bind())
	prefix := fmt.Sprintf("expiring/%d/", id)
	g.add("Lease.LeaseGrant", &pb.LeaseGrantRequest{TTL: shortTTL, ID: id})
	all := &pb.TxnRequest{}
	for i := range 1 + g.IntN(3) {
		p := &pb.PutRequest{Key: fmt.Appendf(nil, "%s%d", prefix, i), Lease: id}
		all.Success = append(all.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
	}
	g.add("KV.Txn", all)
	g.script = append(g.script, Step{Verb: verbAwait, As: g.user, Requests: []proto.Message{&pb.RangeRequest{Key: []byte(prefix), RangeEnd: after(prefix)}}})
	g.add("Lease.LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	g.add("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: id}, 24)
}

// after is the end of a prefix's range.
func after(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

func (g *generator) badGrant() {
	n := g.IntN(4)
	if n == 1 && g.profile.leastTTL < 2 {
		n = 2 // it could end before it is revoked
	}
	switch n {
	case 0:
		g.add("Lease.LeaseGrant", &pb.LeaseGrantRequest{TTL: pick[int64](g, 9000000001, math.MaxInt64), ID: g.lease()}, 21)
	case 1:
		// It lives two seconds, so it is revoked at once.
		id := int64(2_000_000 + g.bind())
		g.add("Lease.LeaseGrant", &pb.LeaseGrantRequest{TTL: pick[int64](g, 0, -5, math.MinInt64), ID: id}, 22)
		g.add("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: id})
	default:
		id := pick(g, chosenLeases()...)
		for range 2 {
			g.add("Lease.LeaseGrant", &pb.LeaseGrantRequest{TTL: g.aTTL(), ID: id}, 23)
		}
		g.keepInMind(id)
	}
}

func (g *generator) badRevoke() {
	g.add("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: pick[int64](g, 0, 987654321, -987654321)}, 24)
}

func (g *generator) keepAlive() {
	s := g.add("Lease.LeaseKeepAlive", &pb.LeaseKeepAliveRequest{ID: g.lease()})
	for range g.IntN(3) {
		s.Requests = append(s.Requests, &pb.LeaseKeepAliveRequest{ID: g.lease()})
	}
	if g.chance(30) {
		s.Requests = append(s.Requests, &pb.LeaseKeepAliveRequest{ID: pick[int64](g, 0, 987654321)})
		s.Rows = []int{25}
	}
}

func (g *generator) timeToLive() {
	g.add("Lease.LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: g.lease(), Keys: g.chance(70)})
	if g.chance(20) {
		g.add("Lease.LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: pick[int64](g, 0, 987654321), Keys: g.chance(70)}, 25)
	}
}
