package clients

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

// TestNamespace: a client in a namespace sees and changes what is in it alone.
func TestNamespace(t *testing.T) {
	each(t, func(f *flow) {
		kv := namespace.NewKV(f.client.KV, "ns/")
		watcher := namespace.NewWatcher(f.client.Watcher, "ns/")
		lessor := namespace.NewLease(f.client.Lease, "ns/")
		f.put(f.client, "outside", "1")
		f.put(f.client, "ns0", "after the namespace")
		w := watcher.Watch(f.ctx, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		receive(f, "watch", w)
		f.put(kv, "a", "1")
		f.put(f.client, "ns/b", "2")
		equal(f, "inside", f.get(kv, "", clientv3.WithPrefix()), "a=1 b=2")
		equal(f, "inside, from key", f.get(kv, "\x00", clientv3.WithFromKey()), "a=1 b=2")
		equal(f, "from outside", f.get(f.client, "ns/", clientv3.WithPrefix()), "ns/a=1 ns/b=2")
		var seen string
		for len(seen) < len("a b ") {
			for _, e := range receive(f, "events", w).Events {
				seen += string(e.Kv.Key) + " "
			}
		}
		equal(f, "events", seen, "a b ")
		r, err := kv.Txn(f.ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).
			Then(clientv3.OpPut("a", "2", clientv3.WithPrevKV()), clientv3.OpGet("", clientv3.WithPrefix())).Commit()
		f.must(err)
		equal(f, "succeeded", r.Succeeded, true)
		equal(f, "previous key", string(r.Responses[0].GetResponsePut().PrevKv.Key), "a")
		equal(f, "range in the transaction", len(r.Responses[1].GetResponseRange().Kvs), 2)

		g, err := lessor.Grant(f.ctx, 60)
		f.must(err)
		f.put(kv, "leased", "1", clientv3.WithLease(g.ID))
		f.put(f.client, "leased outside", "1", clientv3.WithLease(g.ID))
		ttl, err := lessor.TimeToLive(f.ctx, g.ID, clientv3.WithAttachedKeys())
		f.must(err)
		equal(f, "keys of a lease, seen from inside", fmt.Sprintf("%q", ttl.Keys), `["leased"]`)
		d, err := kv.Delete(f.ctx, "", clientv3.WithPrefix())
		f.must(err)
		equal(f, "deleted", d.Deleted, 3)
		equal(f, "left outside", f.get(f.client, "\x00", clientv3.WithFromKey()),
			"leased outside=1 ns0=after the namespace outside=1")
	})
}

// TestMirror: a copy that is made in pages at one revision, and kept up by a watch, equals its
// source.
func TestMirror(t *testing.T) {
	each(t, func(f *flow) {
		f.fill("src/", 2500, "base")
		f.put(f.client, "other", "not mirrored")
		syncer := mirror.NewSyncer(f.client, "src/", 0)
		pages, errs := syncer.SyncBase(f.ctx)
		mirrored, n := map[string]string{}, 0
		for page := range pages {
			n++
			if n == 1 {
				f.put(f.client, "src/00000", "changed while it is copied")
				f.put(f.client, "src/99999", "new while it is copied")
			}
			for _, kv := range page.Kvs {
				mirrored[string(kv.Key)] = string(kv.Value)
			}
		}
		for err := range errs {
			f.must(err)
		}
		equal(f, "pages", n, 3)
		equal(f, "keys of the base", len(mirrored), 2500)
		_, err := f.client.Delete(f.ctx, "src/001", clientv3.WithPrefix())
		f.must(err)
		last := f.put(f.client, "src/end", "the last")
		for updates := syncer.SyncUpdates(f.ctx); ; {
			r := receive(f, "updates", updates)
			f.must(r.Err())
			for _, e := range r.Events {
				if e.Type == mvccpb.Event_DELETE {
					delete(mirrored, string(e.Kv.Key))
				} else {
					mirrored[string(e.Kv.Key)] = string(e.Kv.Value)
				}
			}
			if r.Header.Revision >= last {
				break
			}
		}
		source, err := f.client.Get(f.ctx, "src/", clientv3.WithPrefix())
		f.must(err)
		want := map[string]string{}
		for _, kv := range source.Kvs {
			want[string(kv.Key)] = string(kv.Value)
		}
		if len(want) != 2500-100+2 || !maps.Equal(mirrored, want) {
			f.Errorf("the mirror has %d keys, its source %d", len(mirrored), len(want))
		}
	})
}

// TestLeasing: a leased key is read from memory until another writes it, also while the server
// is gone.
func TestLeasing(t *testing.T) {
	each(t, func(f *flow) {
		newKV := func() clientv3.KV {
			kv, end, err := leasing.NewKV(f.dial(f.server), "leases/")
			f.must(err)
			f.Cleanup(end)
			return kv
		}
		one, two := newKV(), newKV()
		f.put(one, "a", "1")
		equal(f, "read", f.get(one, "a"), "a=1")
		equal(f, "leased", f.get(f.client, "leases/", clientv3.WithPrefix(), clientv3.WithKeysOnly()), "leases/a=")
		equal(f, "read by the other", f.get(two, "a"), "a=1")
		f.put(two, "a", "2") // takes the lease away from one
		equal(f, "read after the other's write", f.get(one, "a"), "a=2")
		f.put(one, "a", "3")
		equal(f, "read after the own write", f.get(one, "a"), "a=3")
		equal(f, "read by the other", f.get(two, "a"), "a=3")
		r, err := two.Txn(f.ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "3")).
			Then(clientv3.OpPut("a", "4"), clientv3.OpPut("b", "4")).Else(clientv3.OpGet("a")).Commit()
		f.must(err)
		equal(f, "succeeded", r.Succeeded, true)
		equal(f, "read after the transaction", f.get(one, "a")+" "+f.get(one, "b"), "a=4 b=4")
		d, err := two.Delete(f.ctx, "a", clientv3.WithFromKey(), clientv3.WithRange("c"))
		f.must(err)
		equal(f, "deleted", d.Deleted, 2)
		equal(f, "read what was deleted", f.get(one, "a")+f.get(two, "b"), "")

		f.put(one, "kept", "in memory")
		equal(f, "read", f.get(one, "kept"), "kept=in memory")
		f.server.Kill()
		equal(f, "read without a server", f.get(one, "kept"), "kept=in memory")
	})
}

// TestOrdering: a client that has seen a later revision takes no answer from a server that is
// behind.
func TestOrdering(t *testing.T) {
	each(t, func(f *flow) {
		behind := f.start(f.T)
		for i := range 10 {
			f.put(f.client, "k", fmt.Sprint(i))
		}
		f.put(f.dial(behind), "k", "of another cluster")
		c := f.dial(f.server)
		kv := ordering.NewKV(c.KV, ordering.NewOrderViolationSwitchEndpointClosure(c))
		equal(f, "read", f.get(kv, "k"), "k=9")
		r, err := kv.Txn(f.ctx).Then(clientv3.OpGet("k")).Commit()
		f.must(err)
		equal(f, "revision", r.Header.Revision, 11)
		c.SetEndpoints(behind.Address)
		_, err = kv.Get(f.ctx, "k", clientv3.WithSerializable())
		if !errors.Is(err, ordering.ErrNoGreaterRev) {
			f.Errorf("read from a server that is behind: %v", err)
		}
		_, err = kv.Txn(f.ctx).Then(clientv3.OpGet("k")).Commit()
		if !errors.Is(err, ordering.ErrNoGreaterRev) {
			f.Errorf("transaction on a server that is behind: %v", err)
		}
	})
}
