package memory

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

func (s *store) grant(id, ttl int64) backends.LeaseGrantResult {
	s.Helper()
	r, err := s.LeaseGrant(s.Context(), backends.Caller{}, id, ttl)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

// ttl writes a lease as "remaining/granted keys".
func (s *store) ttl(id int64) string {
	r, err := s.LeaseTimeToLive(s.Context(), backends.Caller{}, id, true)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d/%d %s", r.TTLSeconds, r.GrantedTTLSeconds, r.Keys)
}

// Leases that expire while nobody asks delete their keys in one revision each, in
// the order of their deadlines.
func TestLeaseExpiry(t *testing.T) {
	s := newStore(t)
	s.grant(1, 10)
	<-s.clock.set
	s.grant(-2, 5)
	<-s.clock.set
	s.do(putLease("b", 1), putLease("a", 1), putLease("c", -2), putLease("d", 1)) // 2
	s.do(put("d", "kept"))                                                        // 3: detaches
	w := s.watch()
	s.add(w, backends.WatchRequest{ID: 1, KeyRange: keys("a", "z")})
	s.equal(s.next(w), "created [1] @3")
	s.clock.advance(4 * time.Second)
	s.equal(s.ttl(1), "6/10 [a b]")
	s.clock.advance(time.Second)
	s.equal(s.next(w), "events [1] @4 DELETE:c=@4")
	<-s.clock.set
	s.clock.advance(5 * time.Second)
	s.equal(s.next(w), "events [1] @5 DELETE:a=@5 DELETE:b=@5")
	s.equal(s.ttl(1), backends.ErrLeaseNotFound.Error())
	s.equal(s.read(backends.RangeOptions{KeyRange: keys("a", "z")}), "d=kept@2,3,v2 #1 more=false @5")
}

// A lease is gone from its deadline on, even before the goroutine wakes.
func TestLeaseIsGoneAtItsDeadline(t *testing.T) {
	s := newStore(t)
	s.grant(1, 3)
	s.do(putLease("a", 1))
	s.clock.mu.Lock()
	s.clock.now = s.clock.now.Add(3 * time.Second) // no timer is run
	s.clock.mu.Unlock()
	_, err := s.LeaseKeepAlive(s.Context(), backends.Caller{}, 1)
	s.fails(err, backends.ErrLeaseNotFound)
	s.equal(s.read(backends.RangeOptions{KeyRange: key("a")}), "#0 more=false @3")
}

func TestLeaseLife(t *testing.T) {
	s := newStore(t)
	for _, ttl := range []int64{0, -5, 1} {
		if r := s.grant(0, ttl); r.TTLSeconds != 2 || r.ID <= 0 {
			t.Errorf("grant of %d s: %+v", ttl, r)
		}
	}
	_, err := s.LeaseGrant(s.Context(), backends.Caller{}, 3, maxTTLSeconds+1)
	s.fails(err, backends.ErrLeaseTTLTooLarge)
	s.grant(3, maxTTLSeconds)
	s.equal(s.ttl(3), "9000000000/9000000000 []")
	_, err = s.LeaseGrant(s.Context(), backends.Caller{}, 3, 5)
	s.fails(err, backends.ErrLeaseExists)

	s.grant(4, 4)
	s.do(putLease("k", 4))
	s.clock.advance(3500 * time.Millisecond)
	s.equal(s.ttl(4), "0/4 [k]")
	if r, err := s.LeaseKeepAlive(s.Context(), backends.Caller{}, 4); err != nil || r.TTLSeconds != 4 {
		t.Errorf("keep-alive: %+v, %v", r, err)
	}
	s.clock.advance(3500 * time.Millisecond)
	s.equal(s.ttl(4), "0/4 [k]")
	leases, err := s.LeaseLeases(s.Context(), backends.Caller{})
	if err != nil || !slices.Equal(leases.IDs, []int64{4, 3}) {
		t.Errorf("leases %v, %v", leases.IDs, err)
	}
	s.do(putLease("k", 3)) // moves
	h, err := s.LeaseRevoke(s.Context(), backends.Caller{}, 4)
	if err != nil || h.Revision != 3 {
		t.Errorf("a lease without keys made a revision: %+v, %v", h, err)
	}
	h, err = s.LeaseRevoke(s.Context(), backends.Caller{}, 3)
	if err != nil || h.Revision != 4 {
		t.Errorf("revoke: %+v, %v", h, err)
	}
	_, err = s.LeaseRevoke(s.Context(), backends.Caller{}, 3)
	s.fails(err, backends.ErrLeaseNotFound)
	s.equal(s.read(backends.RangeOptions{KeyRange: key("k")}), "#0 more=false @4")
}
