package oracle

import (
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/protobuf/proto"
)

// mayLeave tells whether a lock or an election may grant a lease by itself. Where it is
// refused then, the lease stays, and nobody is told its id.
func (g *generator) mayLeave() bool { return !g.hashes && (!g.profile.auth || g.user == "root") }

func lockCalls() []call {
	return []call{
		{"Lock.Lock", 1, 55, (*generator).lock, (*generator).badLock},
		{"Lock.Unlock", 1, 65, (*generator).lock, (*generator).badUnlock},
	}
}

// freshLease grants a lease for a lock or an election: the client's or the server's choice.
func (g *generator) freshLease() int64 {
	if b := g.bind(); !g.hashes && g.chance(50) {
		g.add("Lease.LeaseGrant", &pb.LeaseGrantRequest{TTL: g.aTTL()}).Bind = b
		return leaseSymbol(b)
	}
	return g.chosenLease()
}

// chosenLease grants a lease of the client's choice, as whoever has to wait must have, and who
// is waited for: their keys are side by side, in the order of the leases.
func (g *generator) chosenLease() int64 {
	id := int64(3_000_000 + g.bind())
	g.add("Lease.LeaseGrant", &pb.LeaseGrantRequest{TTL: g.aTTL(), ID: id})
	return id
}

// lock takes a lock and gives it back: alone, again with the same lease, with a
// lease of the server's, or while another waits.
func (g *generator) lock() {
	name := "lock/" + g.place()
	unlock := func(key []byte) { g.add("Lock.Unlock", &v3lockpb.UnlockRequest{Key: key}) }
	n := g.IntN(4)
	if n == 0 && !g.mayLeave() {
		n = 1
	}
	if n == 2 && g.profile.auth {
		n = 3 // who may not lock would not be waited for
	}
	switch n {
	case 0: // the server grants a lease
		b := g.bind()
		g.add("Lock.Lock", &v3lockpb.LockRequest{Name: []byte(name)}).Bind = b
		unlock(lockKey(name, leaseSymbol(b)))
		g.add("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: leaseSymbol(b)})
	case 1: // twice by one lease
		lease := g.freshLease()
		for range 2 {
			g.add("Lock.Lock", &v3lockpb.LockRequest{Name: []byte(name), Lease: lease})
		}
		unlock(lockKey(name, lease))
		unlock(lockKey(name, lease)) // it is open by now
	case 2: // another waits, until it is unlocked or the lease ends
		first, second := g.chosenLease(), g.chosenLease()
		g.add("Lock.Lock", &v3lockpb.LockRequest{Name: []byte(name), Lease: first})
		g.slots++
		g.add("Lock.Lock", &v3lockpb.LockRequest{Name: []byte(name), Lease: second}).Async = g.slots
		g.awaitKeys(name+"/", 2)
		if g.chance(50) {
			unlock(lockKey(name, first))
		} else {
			g.add("Lease.LeaseRevoke", &pb.LeaseRevokeRequest{ID: first})
		}
		g.script = append(g.script, Step{Verb: verbJoin, Join: g.slots})
		unlock(lockKey(name, second))
	default:
		lease := g.freshLease()
		g.add("Lock.Lock", &v3lockpb.LockRequest{Name: []byte(name), Lease: lease})
		g.add("KV.Range", &pb.RangeRequest{Key: []byte("lock/"), RangeEnd: []byte("lock0")})
		unlock(lockKey(name, lease))
	}
}

// place is one of a few places to lock or to be elected to. With authentication it is
// always another: who may not give it back would keep it.
func (g *generator) place() string {
	if g.profile.auth {
		return strconv.Itoa(g.bind())
	}
	return pick(g, "a", "b", "c/d")
}

// awaitKeys waits until a prefix has so many keys.
func (g *generator) awaitKeys(prefix string, count int) {
	g.script = append(g.script, Step{
		Verb: verbAwait, As: g.user, Count: count, Requests: []proto.Message{&pb.RangeRequest{Key: []byte(prefix), RangeEnd: after(prefix)}},
	})
}

func (g *generator) badLock() {
	g.add("Lock.Lock", &v3lockpb.LockRequest{Name: []byte(pick(g, "lock/a", "")), Lease: pick[int64](g, 987654321, -1)})
}

func (g *generator) badUnlock() {
	g.add("Lock.Unlock", &v3lockpb.UnlockRequest{Key: pick(g, nil, nil, nil, nil, []byte("lock/none"))})
}
