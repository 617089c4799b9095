package lease

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
)

// model is a Table without any structure: each question walks everything.
type model struct {
	leading bool
	leases  map[int64]*modelLease
}

type modelLease struct {
	ttl, remaining int64
	keys           map[string]bool
	deadline       time.Time
	reportAt       time.Time
	// renewed is when the last renewal was acknowledged, or the lease granted.
	renewed  time.Time
	inFlight bool
}

func (m *model) expired(now time.Time, limit int) []int64 {
	var ids []int64
	for id, l := range m.leases {
		if m.leading && !l.reportAt.After(now) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b int64) int {
		if c := m.leases[a].reportAt.Compare(m.leases[b].reportAt); c != 0 {
			return c
		}
		return int(a - b)
	})
	ids = ids[:min(limit, len(ids))]
	for _, id := range ids {
		m.leases[id].reportAt = now.Add(retryAfter)
	}
	return ids
}

func (m *model) renew(id int64, now time.Time) error {
	l := m.leases[id]
	switch {
	case !m.leading:
		return backends.ErrNotLeader
	case l == nil:
		return backends.ErrLeaseNotFound
	case !l.deadline.After(now):
		return ErrExpired
	case l.remaining > 0 || l.inFlight:
		return ErrCheckpointed
	}
	l.start(now)
	return nil
}

func (l *modelLease) start(now time.Time) {
	l.renewed = now
	l.deadline = now.Add(time.Duration(l.ttl) * time.Second)
	l.reportAt = l.deadline
}

func (m *model) promote(now time.Time, extend time.Duration) {
	m.leading = true
	for _, l := range m.leases {
		s := l.ttl
		if l.remaining > 0 {
			s = l.remaining
		}
		l.deadline = now.Add(time.Duration(s)*time.Second + extend)
		l.reportAt = l.deadline
		l.inFlight = false
	}
}

func TestTableAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runModel(t, seed) })
	}
}

func runModel(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	table, m := New(), &model{leases: map[int64]*modelLease{}}
	now := origin
	var flying []Checkpoint
	for step := range 1500 {
		now = now.Add(time.Duration(rng.IntN(1500)) * time.Millisecond)
		id, key := rng.Int64N(30)-3, string(rune('a'+rng.IntN(6)))
		what := fmt.Sprintf("seed %d step %d at %v", seed, step, now.Sub(origin))
		switch op := rng.IntN(100); {
		case op < 20:
			ttl := rng.Int64N(120) - 2
			_, err := table.Grant(id, ttl, now)
			var want error
			if _, taken := m.leases[id]; id == 0 {
				want = backends.ErrLeaseNotFound
			} else if taken {
				want = backends.ErrLeaseExists
			} else {
				l := &modelLease{ttl: max(ttl, 1), keys: map[string]bool{}}
				l.start(now)
				m.leases[id] = l
			}
			wantErr(t, what+" grant", err, want)
		case op < 25:
			_, ok := m.leases[id]
			delete(m.leases, id)
			if err := table.Revoke(id); (err == nil) != ok {
				t.Fatalf("%s revoke: %v", what, err)
			}
		case op < 40:
			l := m.leases[id]
			if err := table.Attach(id, []byte(key)); (err == nil) != (l != nil) {
				t.Fatalf("%s attach: %v", what, err)
			}
			if l != nil {
				l.keys[key] = true
			}
		case op < 45:
			table.Detach(id, []byte(key))
			if l := m.leases[id]; l != nil {
				delete(l.keys, key)
			}
		case op < 65:
			_, err := table.Renew(id, now)
			wantErr(t, what+" renew", err, m.renew(id, now))
		case op < 72:
			limit := rng.IntN(6)
			wantIDs(t, what+" expired", table.Expired(now, limit), m.expired(now, limit)...)
		case op < 80:
			cs := table.Checkpoints(now, rng.IntN(6))
			m.tookCheckpoints(t, what, cs, now)
			flying = append(flying, cs...)
		case op < 88 && len(flying) > 0:
			c := flying[0]
			flying = flying[1:]
			l := m.leases[c.ID]
			if rng.IntN(4) == 0 {
				table.RefuseCheckpoints([]Checkpoint{c})
			} else if table.ApplyCheckpoint(c.ID, c.RemainingTTLSeconds); l != nil {
				l.remaining = min(c.RemainingTTLSeconds, l.ttl)
			}
			if l != nil {
				l.inFlight = false
			}
		case op < 95:
			table.ApplyCheckpoint(id, 0)
			if l := m.leases[id]; l != nil {
				l.remaining = 0
			}
		case op < 97:
			extend := time.Duration(rng.IntN(2000)) * time.Millisecond
			flying = nil // of the term before, which apply rejects
			table.Promote(now, extend)
			m.promote(now, extend)
		case op < 98:
			flying = nil
			table.Demote()
			m.leading = false
		}
		m.compare(t, what, table, now)
	}
}

// tookCheckpoints checks each checkpoint's number, and that it was not early.
func (m *model) tookCheckpoints(t *testing.T, what string, cs []Checkpoint, now time.Time) {
	t.Helper()
	for _, c := range cs {
		l := m.leases[c.ID]
		if l == nil || !m.leading || l.inFlight {
			t.Fatalf("%s: checkpoint %+v of lease %+v, leading %v", what, c, l, m.leading)
		}
		left := l.deadline.Sub(now)
		want := min(int64((left+time.Second-1)/time.Second), l.ttl)
		if left <= 0 || c.RemainingTTLSeconds != want {
			t.Fatalf("%s: checkpoint %+v, want %d s", what, c, want)
		}
		if passed := now.Sub(l.renewed); passed < time.Duration(l.ttl)*time.Second/2 && passed < checkpointEvery {
			t.Fatalf("%s: checkpoint %+v only %v after the renewal", what, c, passed)
		}
		l.inFlight = true
	}
}

func (m *model) compare(t *testing.T, what string, table *Table, now time.Time) {
	t.Helper()
	if err := table.check(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	ids := slices.Sorted(maps.Keys(m.leases))
	slices.SortStableFunc(ids, func(a, b int64) int {
		la, lb := m.leases[a], m.leases[b]
		if m.leading {
			return la.deadline.Compare(lb.deadline)
		}
		left := func(l *modelLease) int64 {
			if l.remaining > 0 {
				return l.remaining
			}
			return l.ttl
		}
		return int(left(la) - left(lb))
	})
	wantIDs(t, what+" list", table.List(), ids...)
	for _, id := range ids {
		l := m.leases[id]
		if r, err := table.Get(id); err != nil || r != (Record{id, l.ttl, l.remaining}) {
			t.Fatalf("%s: lease %d is %+v, %v, want %+v", what, id, r, err, l)
		}
		keys, err := table.Keys(id)
		var got []string
		for _, k := range keys {
			got = append(got, string(k))
		}
		if err != nil || !slices.Equal(got, slices.Sorted(maps.Keys(l.keys))) {
			t.Fatalf("%s: lease %d has keys %v, %v", what, id, got, err)
		}
		left, err := table.Remaining(id, now)
		if m.leading && (err != nil || left != l.deadline.Sub(now)) || !m.leading && !errors.Is(err, backends.ErrNotLeader) {
			t.Fatalf("%s: lease %d remaining %v, %v, want %v", what, id, left, err, l.deadline.Sub(now))
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// Equal logs give equal records, whatever the clocks and leaderships are.
func TestReplicatedHalfIgnoresTime(t *testing.T) {
	a, b := New(), New()
	a.Promote(origin, 0)
	rng := rand.New(rand.NewPCG(7, 7))
	for range 5000 {
		id, n := rng.Int64N(20)+1, rng.Int64N(100)
		now, later := at(float64(rng.IntN(1000))), at(float64(rng.IntN(1e6)))
		switch rng.IntN(4) {
		case 0:
			ra, ea := a.Grant(id, n, now)
			rb, eb := b.Grant(id, n, later)
			if ra != rb || !errors.Is(ea, eb) {
				t.Fatalf("grant: %+v %v, %+v %v", ra, ea, rb, eb)
			}
		case 1:
			if ea, eb := a.Revoke(id), b.Revoke(id); !errors.Is(ea, eb) {
				t.Fatalf("revoke: %v, %v", ea, eb)
			}
		case 2:
			ra, oka := a.ApplyCheckpoint(id, n)
			if rb, okb := b.ApplyCheckpoint(id, n); ra != rb || oka != okb {
				t.Fatalf("checkpoint: %+v, %+v", ra, rb)
			}
		case 3:
			a.Renew(id, now)
			a.Expired(now, 3)
			a.Checkpoints(now, 3)
		}
	}
	if a.Len() == 0 || a.Len() != b.Len() {
		t.Errorf("%d and %d leases", a.Len(), b.Len())
	}
}

// A hundred thousand leases that end together come out in bounded steps, each
// once and in order. What it costs is BenchmarkExpire's to tell.
func TestManyExpireAtOnce(t *testing.T) {
	const n, limit = 100_000, 500
	table := leader(t)
	for id := range int64(n) {
		if _, err := table.Grant(id+1, 60, origin); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	for now := at(60); table.Len() > 0; {
		ids := table.Expired(now, limit)
		if len(ids) != limit {
			t.Fatalf("%d expired, want %d", len(ids), limit)
		}
		for _, id := range ids {
			if seen++; id != int64(seen) {
				t.Fatalf("lease %d came as number %d", id, seen)
			}
			if err := table.Revoke(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if seen != n {
		t.Errorf("%d leases expired, want %d", seen, n)
	}
}

// BenchmarkExpire is the cost of each lease among many that expire together; it
// grows with the logarithm of their number.
func BenchmarkExpire(b *testing.B) {
	for _, n := range []int64{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				table := New()
				table.Promote(origin, 0)
				for id := range n {
					table.Grant(id+1, 60, origin)
				}
				for table.Len() > 0 {
					for _, id := range table.Expired(at(60), 500) {
						table.Revoke(id)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/lease")
		})
	}
}

func BenchmarkRenew(b *testing.B) {
	table := New()
	table.Promote(origin, 0)
	const n = 100_000
	for id := range int64(n) {
		table.Grant(id+1, 60, at(float64(id)/n))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := table.Renew(int64(i)%n+1, at(1+float64(i)/1e9)); err != nil {
			b.Fatal(err)
		}
	}
}
