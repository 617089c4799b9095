package clients

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// session makes a session on a client of its own.
func (f *flow) session() *concurrency.Session {
	f.Helper()
	s, err := concurrency.NewSession(f.dial(f.server), concurrency.WithTTL(60))
	f.must(err)
	return s
}

// TestSession: a session ends with Close, when it is orphaned, and when its lease is revoked.
func TestSession(t *testing.T) {
	each(t, func(f *flow) {
		ttl := func(id clientv3.LeaseID) int64 {
			r, err := f.client.TimeToLive(f.ctx, id)
			f.must(err)
			return r.GrantedTTL
		}
		s := f.session()
		equal(f, "TTL", ttl(s.Lease()), 60)
		f.must(s.Close())
		closed(f, "a closed session", s.Done())
		equal(f, "TTL of a closed session", ttl(s.Lease()), 0)

		s = f.session()
		s.Orphan()
		closed(f, "an orphaned session", s.Done())
		equal(f, "TTL of an orphaned session", ttl(s.Lease()), 60)

		s = f.session()
		_, err := f.client.Revoke(f.ctx, s.Lease())
		f.must(err)
		closed(f, "a session of a revoked lease", s.Done())
	})
}

// givesUp is how long one waits that gives up: many times what its transaction needs.
const givesUp = 3 * time.Second

// TestMutex: owners come one after another; who gives up leaves no trace.
func TestMutex(t *testing.T) {
	each(t, func(f *flow) {
		s1, s2, s3 := f.session(), f.session(), f.session()
		m1, m2, m3 := concurrency.NewMutex(s1, "m"), concurrency.NewMutex(s2, "m"), concurrency.NewMutex(s3, "m")
		f.must(m1.Lock(f.ctx))
		if err := m2.TryLock(f.ctx); !errors.Is(err, concurrency.ErrLocked) {
			f.Errorf("try to lock: %v", err)
		}
		owner, err := f.client.Txn(f.ctx).If(m1.IsOwner()).Then(clientv3.OpPut("guarded", "1")).Commit()
		f.must(err)
		equal(f, "owner", owner.Succeeded, true)

		f.must(f.waitFor("m", s2, func() error { return m2.Lock(f.ctx) }, func(locked <-chan error) {
			// A call that is cancelled before its transaction was answered leaves its key: that is
			// the library's. So it ends by time here.
			ctx, cancel := context.WithTimeout(f.ctx, givesUp)
			defer cancel()
			err := f.waitFor("m", s3, func() error { return m3.Lock(ctx) }, func(<-chan error) {})
			if !errors.Is(err, context.DeadlineExceeded) {
				f.Errorf("gave up: %v", err)
			}
			n, err := f.client.Get(f.ctx, "m/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			f.must(err)
			equal(f, "keys after one gave up", n.Count, 2)
			f.must(m1.Unlock(f.ctx))
		}))
		owner, err = f.client.Txn(f.ctx).If(m2.IsOwner()).Then(clientv3.OpPut("guarded", "2")).Commit()
		f.must(err)
		equal(f, "the next owner", owner.Succeeded, true)
		if err := m1.Unlock(f.ctx); !errors.Is(err, concurrency.ErrLockReleased) {
			f.Errorf("unlock again: %v", err)
		}
		f.must(f.waitFor("m", s3, func() error { return m3.Lock(f.ctx) }, func(<-chan error) { f.must(s2.Close()) }))

		m4 := concurrency.NewMutex(f.session(), "m")
		lost := f.session()
		err = f.waitFor("m", lost, func() error { return concurrency.NewMutex(lost, "m").Lock(f.ctx) }, func(<-chan error) {
			_, err := f.client.Revoke(f.ctx, lost.Lease())
			f.must(err)
			f.must(m3.Unlock(f.ctx))
		})
		if !errors.Is(err, concurrency.ErrSessionExpired) {
			f.Errorf("the lease ended while waiting: %v", err)
		}
		f.must(m4.TryLock(f.ctx))
	})
}

// waitFor runs call until its key stands in the queue name, then meanwhile, and returns what
// call did.
func (f *flow) waitFor(name string, s *concurrency.Session, call func() error, meanwhile func(<-chan error)) error {
	f.Helper()
	key := fmt.Sprintf("%s/%x", name, s.Lease())
	w := f.client.Watch(f.ctx, key, clientv3.WithFilterDelete(), clientv3.WithCreatedNotify())
	receive(f, "watch", w)
	done := make(chan error, 1)
	go func() { done <- call() }()
	receive(f, "key "+key, w)
	meanwhile(done)
	return receive(f, "end of the call", done)
}

// TestMutexAndLockService: users of the library and of the Lock service stand in one queue.
func TestMutexAndLockService(t *testing.T) {
	each(t, func(f *flow) {
		s1, s2 := f.session(), f.session()
		lock := v3lockpb.NewLockClient(f.client.ActiveConnection())
		held, err := lock.Lock(f.ctx, &v3lockpb.LockRequest{Name: []byte("m"), Lease: int64(s1.Lease())})
		f.must(err)
		m := concurrency.NewMutex(s2, "m")
		if err := m.TryLock(f.ctx); !errors.Is(err, concurrency.ErrLocked) {
			f.Errorf("try to lock: %v", err)
		}
		f.must(f.waitFor("m", s2, func() error { return m.Lock(f.ctx) }, func(<-chan error) {
			_, err := lock.Unlock(f.ctx, &v3lockpb.UnlockRequest{Key: held.Key})
			f.must(err)
		}))
		f.must(f.waitFor("m", s1, func() error {
			_, err := lock.Lock(f.ctx, &v3lockpb.LockRequest{Name: []byte("m"), Lease: int64(s1.Lease())})
			return err
		}, func(<-chan error) { f.must(m.Unlock(f.ctx)) }))
	})
}

// TestElection: leaders follow one another, and whoever observes sees each of them.
func TestElection(t *testing.T) {
	each(t, func(f *flow) {
		s1, s2 := f.session(), f.session()
		e1, e2 := concurrency.NewElection(s1, "e"), concurrency.NewElection(s2, "e")
		if _, err := e1.Leader(f.ctx); !errors.Is(err, concurrency.ErrElectionNoLeader) {
			f.Errorf("leader of nobody: %v", err)
		}
		observed := concurrency.NewElection(f.session(), "e").Observe(f.ctx)
		seen := func(want string) {
			f.Helper()
			r := receive(f, "observe "+want, observed)
			equal(f, "observed", string(r.Kvs[0].Value), want)
		}
		f.must(e1.Campaign(f.ctx, "one"))
		seen("one")
		f.must(e1.Proclaim(f.ctx, "one again"))
		seen("one again")
		leader, err := e2.Leader(f.ctx)
		f.must(err)
		equal(f, "leader", string(leader.Kvs[0].Key), e1.Key())

		f.must(f.waitFor("e", s2, func() error { return e2.Campaign(f.ctx, "two") }, func(<-chan error) {
			resumed := concurrency.ResumeElection(s1, "e", e1.Key(), e1.Rev())
			f.must(resumed.Proclaim(f.ctx, "one resumed"))
			seen("one resumed")
			f.must(resumed.Resign(f.ctx))
		}))
		seen("two")
		if err := e1.Proclaim(f.ctx, "no more"); !errors.Is(err, concurrency.ErrElectionNotLeader) {
			f.Errorf("proclaim after resigning: %v", err)
		}
		// The third is a user of the service, and the second goes with its session.
		election := v3electionpb.NewElectionClient(f.client.ActiveConnection())
		s3 := f.session()
		f.must(f.waitFor("e", s3, func() error {
			_, err := election.Campaign(f.ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: int64(s3.Lease()), Value: []byte("three")})
			return err
		}, func(<-chan error) { f.must(s2.Close()) }))
		seen("three")
	})
}

// TestSTM: software transactions that move money between accounts lose none, at the isolation
// levels that promise it; one that fails changes nothing.
func TestSTM(t *testing.T) {
	const accounts, workers, transfers, initial = 5, 4, 15, 100
	levels := map[string]concurrency.Isolation{
		"serializable snapshot": concurrency.SerializableSnapshot,
		"serializable":          concurrency.Serializable,
		"repeatable reads":      concurrency.RepeatableReads,
	}
	each(t, func(f *flow) {
		for name, level := range levels {
			for i := range accounts {
				f.put(f.client, fmt.Sprint("account/", i), fmt.Sprint(initial))
			}
			seed := rand.Uint64()
			f.Logf("%s: seed %d", name, seed)
			var wg sync.WaitGroup
			errs := make(chan error, workers)
			for w := range workers {
				c, rng := f.dial(f.server), rand.New(rand.NewPCG(seed, uint64(w)))
				wg.Go(func() {
					for range transfers {
						from, to, amount := rng.IntN(accounts), rng.IntN(accounts), rng.IntN(50)
						_, err := concurrency.NewSTM(c, func(s concurrency.STM) error { return transfer(s, from, to, amount) },
							concurrency.WithIsolation(level), concurrency.WithAbortContext(f.ctx))
						if err != nil {
							errs <- err
							return
						}
					}
				})
			}
			wg.Wait()
			close(errs)
			for err := range errs {
				f.must(err)
			}
			r, err := f.client.Get(f.ctx, "account/", clientv3.WithPrefix())
			f.must(err)
			equal(f, "money at "+name, total(f, r.Kvs), accounts*initial)
		}
		before, errAbort := f.get(f.client, "account/0"), errors.New("changed my mind")
		_, err := concurrency.NewSTM(f.client, func(s concurrency.STM) error {
			s.Put("account/0", "nothing")
			s.Del("account/1")
			return errAbort
		}, concurrency.WithIsolation(concurrency.ReadCommitted), concurrency.WithPrefetch("account/0", "account/1"))
		if !errors.Is(err, errAbort) {
			f.Errorf("a transaction that fails: %v", err)
		}
		equal(f, "account after a transaction that failed", f.get(f.client, "account/0"), before)
	})
}

// transfer moves at most what is there.
func transfer(s concurrency.STM, from, to, amount int) error {
	a, b := fmt.Sprint("account/", from), fmt.Sprint("account/", to)
	if a == b {
		return nil
	}
	have, err := strconv.Atoi(s.Get(a))
	if err != nil {
		return err
	}
	other, err := strconv.Atoi(s.Get(b))
	if err != nil {
		return err
	}
	amount = min(amount, have)
	s.Put(a, fmt.Sprint(have-amount))
	s.Put(b, fmt.Sprint(other+amount))
	return nil
}

func total(f *flow, kvs []*mvccpb.KeyValue) int {
	f.Helper()
	sum := 0
	for _, kv := range kvs {
		n, err := strconv.Atoi(string(kv.Value))
		f.must(err)
		sum += n
	}
	return sum
}
