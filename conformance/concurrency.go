package conformance

import (
	"fmt"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// concurrencyCases run several clients at once, each on its own connection.
func concurrencyCases() []Case {
	return []Case{
		{Name: "concurrency/compare-and-swap", RPC: "KV.Txn", Run: concurrentSwaps},
		{Name: "concurrency/unique-revisions", RPC: "KV.Put", Run: concurrentPuts},
		{Name: "concurrency/reads-see-acknowledged-writes", RPC: "KV.Range", Run: concurrentReads},
	}
}

// clients runs work in n goroutines with a connection each and fails the case on an error.
func (c *C) clients(n int, work func(client int, kv pb.KVClient) error) {
	c.Helper()
	errs := make(chan error, n)
	var wg sync.WaitGroup
	for i := range n {
		kv := pb.NewKVClient(dial(c.T, c.Endpoint.Address))
		wg.Go(func() { errs <- work(i, kv) })
	}
	wg.Wait()
	for range n {
		c.must(<-errs, "client")
	}
}

// concurrentSwaps: clients count up one key by compare-and-swap; nothing is lost, and a watch
// sees each number once.
func concurrentSwaps(c *C) {
	const clients, each = 8, 25
	key := c.key("n")
	c.put("n", "0")
	w := c.open()
	id := w.create(&pb.WatchCreateRequest{Key: key}).WatchId
	c.clients(clients, func(_ int, kv pb.KVClient) error {
		for done := 0; done < each; {
			r, err := kv.Range(c.Ctx, &pb.RangeRequest{Key: key})
			if err != nil {
				return err
			}
			var n int
			if _, err := fmt.Sscan(string(r.Kvs[0].Value), &n); err != nil {
				return err
			}
			t, err := kv.Txn(c.Ctx, &pb.TxnRequest{Compare: []*pb.Compare{compareMod(key, r.Kvs[0].ModRevision)},
				Success: []*pb.RequestOp{opPut(key, fmt.Sprint(n+1))}})
			if err != nil {
				return err
			}
			if t.Succeeded {
				done++
			}
		}
		return nil
	})
	equal(c, "the number", string(c.get("n").Kvs[0].Value), fmt.Sprint(clients*each))
	equal(c, "its version", c.get("n").Kvs[0].Version, clients*each+1)
	for i, e := range w.events(id, clients*each) {
		equal(c, "event", string(e.Kv.Value), fmt.Sprint(i+1))
	}
}

// concurrentPuts: every write has a revision of its own, without gaps, and a watch sees all.
func concurrentPuts(c *C) {
	const clients, each = 16, 50
	var mu sync.Mutex
	values := map[int64]string{}
	var revisions []int64
	w := c.open()
	id := w.watchKeys(&pb.WatchCreateRequest{}).WatchId
	c.clients(clients, func(client int, kv pb.KVClient) error {
		for i := range each {
			value := fmt.Sprintf("%d-%d", client, i)
			r, err := kv.Put(c.Ctx, &pb.PutRequest{Key: c.key(fmt.Sprint(i % 7)), Value: []byte(value)})
			if err != nil {
				return err
			}
			mu.Lock()
			values[r.Header.Revision] = value
			revisions = append(revisions, r.Header.Revision)
			mu.Unlock()
		}
		return nil
	})
	slices.Sort(revisions)
	for i := range revisions {
		if revisions[i] != revisions[0]+int64(i) {
			c.Fatalf("write %d of all has revision %d, want %d", i, revisions[i], revisions[0]+int64(i))
		}
	}
	for i, e := range w.events(id, clients*each) {
		equal(c, "revision of the event", e.Kv.ModRevision, revisions[i])
		equal(c, "value of the event", string(e.Kv.Value), values[e.Kv.ModRevision])
	}
}

// concurrentReads: a read that begins after a write was acknowledged shows it, on any connection.
func concurrentReads(c *C) {
	other := pb.NewKVClient(dial(c.T, c.Endpoint.Address))
	c.clients(4, func(client int, kv pb.KVClient) error {
		key := c.key(fmt.Sprint(client))
		for i := range 50 {
			p, err := kv.Put(c.Ctx, &pb.PutRequest{Key: key, Value: fmt.Append(nil, i)})
			if err != nil {
				return err
			}
			r, err := other.Range(c.Ctx, &pb.RangeRequest{Key: key})
			if err != nil {
				return err
			}
			if string(r.Kvs[0].Value) != fmt.Sprint(i) || r.Header.Revision < p.Header.Revision {
				return fmt.Errorf("read %s at revision %d after %d was written at %d",
					r.Kvs[0].Value, r.Header.Revision, i, p.Header.Revision)
			}
		}
		return nil
	})
}
