package clients

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestKV: the calls of clientv3.KV with their options.
func TestKV(t *testing.T) {
	each(t, func(f *flow) {
		c := f.client
		for i, key := range []string{"a/2", "a/1", "b/1", "a/3"} {
			equal(f, "revision", f.put(c, key, fmt.Sprint(i)), int64(i+2))
		}
		prefix := clientv3.WithPrefix()
		equal(f, "prefix", f.get(c, "a/", prefix), "a/1=1 a/2=0 a/3=3")
		equal(f, "from key", f.get(c, "a/3", clientv3.WithFromKey()), "a/3=3 b/1=2")
		equal(f, "range", f.get(c, "a/1", clientv3.WithRange("a/3")), "a/1=1 a/2=0")
		equal(f, "sorted", f.get(c, "a/", prefix, clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortDescend)), "a/3=3 a/1=1 a/2=0")
		equal(f, "last", f.get(c, "a/", clientv3.WithLastRev()...), "a/3=3")
		equal(f, "keys only", f.get(c, "a/", prefix, clientv3.WithKeysOnly()), "a/1= a/2= a/3=")
		equal(f, "past", f.get(c, "a/", prefix, clientv3.WithRev(3)), "a/1=1 a/2=0")
		equal(f, "serializable", f.get(c, "b/", prefix, clientv3.WithSerializable()), "b/1=2")
		equal(f, "filtered", f.get(c, "a/", prefix, clientv3.WithMinModRev(3)), "a/1=1 a/3=3")
		r, err := c.Get(f.ctx, "a/", prefix, clientv3.WithLimit(2))
		f.must(err)
		equal(f, "limited", story(r), "a/1=1 a/2=0")
		equal(f, "more", r.More, true)
		equal(f, "count", r.Count, 3)
		n, err := c.Get(f.ctx, "a/", prefix, clientv3.WithCountOnly())
		f.must(err)
		equal(f, "count only", fmt.Sprint(n.Count, len(n.Kvs)), "3 0")

		p, err := c.Put(f.ctx, "a/1", "new", clientv3.WithPrevKV())
		f.must(err)
		equal(f, "previous value", string(p.PrevKv.Value), "1")
		d, err := c.Delete(f.ctx, "a/2", clientv3.WithFromKey(), clientv3.WithPrevKV())
		f.must(err)
		equal(f, "deleted", fmt.Sprint(d.Deleted, len(d.PrevKvs)), "3 3")
		_, err = c.Put(f.ctx, "none", "", clientv3.WithIgnoreValue())
		if !errors.Is(err, rpctypes.ErrKeyNotFound) {
			f.Errorf("ignore the value of no key: %v", err)
		}
		_, err = c.Put(f.ctx, "", "")
		if !errors.Is(err, rpctypes.ErrEmptyKey) {
			f.Errorf("empty key: %v", err)
		}
		now := f.put(c, "a/1", "newest")
		_, err = c.Compact(f.ctx, now, clientv3.WithCompactPhysical())
		f.must(err)
		_, err = c.Get(f.ctx, "a/1", clientv3.WithRev(now-1))
		if !errors.Is(err, rpctypes.ErrCompacted) {
			f.Errorf("compacted: %v", err)
		}
		_, err = c.Get(f.ctx, "a/1", clientv3.WithRev(now+1))
		if !errors.Is(err, rpctypes.ErrFutureRev) {
			f.Errorf("future: %v", err)
		}
	})
}

// TestTxn: transactions, nested ones too, and each kind of comparison.
func TestTxn(t *testing.T) {
	each(t, func(f *flow) {
		c := f.client
		revision := f.put(c, "k", "v")
		yes := []clientv3.Cmp{
			clientv3.Compare(clientv3.Value("k"), "=", "v"),
			clientv3.Compare(clientv3.Version("k"), "<", 2),
			clientv3.Compare(clientv3.ModRevision("k"), "=", revision),
			clientv3.Compare(clientv3.CreateRevision("none"), "=", 0),
			clientv3.Compare(clientv3.LeaseValue("k"), "!=", 7),
			clientv3.Compare(clientv3.Value("k"), ">", "u").WithPrefix(),
		}
		inner := clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.Value("k"), "=", "other")},
			nil, []clientv3.Op{clientv3.OpPut("inner", "ran"), clientv3.OpGet("outer")})
		r, err := c.Txn(f.ctx).If(yes...).Then(clientv3.OpPut("outer", "ran"), inner, clientv3.OpDelete("none")).Commit()
		f.must(err)
		equal(f, "succeeded", r.Succeeded, true)
		nested := r.Responses[1].GetResponseTxn()
		equal(f, "inner succeeded", nested.Succeeded, false)
		equal(f, "read in the inner", string(nested.Responses[1].GetResponseRange().Kvs[0].Value), "ran")
		equal(f, "revision", r.Header.Revision, revision+1)
		for i, no := range []clientv3.Cmp{
			clientv3.Compare(clientv3.Value("k"), "!=", "v"),
			clientv3.Compare(clientv3.Version("k"), ">", 1),
			clientv3.Compare(clientv3.ModRevision("k"), "<", revision),
			clientv3.Compare(clientv3.CreateRevision("none"), ">", 0),
			clientv3.Compare(clientv3.LeaseValue("k"), "=", 7),
			clientv3.Compare(clientv3.Value("k"), "<", "u").WithPrefix(),
		} {
			r, err := c.Txn(f.ctx).If(yes[0], no).Then(clientv3.OpPut("no", "")).Else(clientv3.OpGet("k")).Commit()
			f.must(err)
			equal(f, fmt.Sprintf("comparison %d", i), r.Succeeded, false)
		}
		equal(f, "after the refused ones", f.get(c, "no"), "")
		_, err = c.Txn(f.ctx).Then(clientv3.OpPut("k", "1"), clientv3.OpPut("k", "2")).Commit()
		if !errors.Is(err, rpctypes.ErrDuplicateKey) {
			f.Errorf("one key twice: %v", err)
		}
	})
}

// TestGetStream: a large range in parts is the same as in one answer.
func TestGetStream(t *testing.T) {
	each(t, func(f *flow) {
		f.fill("k/", 1500, strings.Repeat("v", 1000))
		parts, err := f.client.GetStream(f.ctx, "k/", clientv3.WithPrefix())
		f.must(err)
		streamed, err := clientv3.GetStreamToGetResponse(parts)
		f.must(err)
		whole, err := f.client.Get(f.ctx, "k/", clientv3.WithPrefix())
		f.must(err)
		equal(f, "count", streamed.Count, 1500)
		equal(f, "revision", streamed.Header.Revision, whole.Header.Revision)
		if story(streamed) != story(whole) {
			f.Error("the streamed range differs from the whole")
		}
	})
}

// fill writes n keys, a hundred in a transaction.
func (f *flow) fill(prefix string, n int, value string) {
	f.Helper()
	var ops []clientv3.Op
	for i := range n {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%05d", prefix, i), value))
		if len(ops) == 100 || i == n-1 {
			_, err := f.client.Txn(f.ctx).Then(ops...).Commit()
			f.must(err)
			ops = nil
		}
	}
}

// TestWatch: events with their options, progress, and a compacted start.
func TestWatch(t *testing.T) {
	each(t, func(f *flow) {
		c := f.client
		begin := f.put(c, "a/1", "old")
		w := c.Watch(f.ctx, "a/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(begin), clientv3.WithCreatedNotify())
		deletes := c.Watch(f.ctx, "a/", clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithFragment())
		equal(f, "created", receive(f, "created", w).Created, true)
		f.put(c, "a/1", "new")
		f.put(c, "b", "elsewhere")
		_, err := c.Txn(f.ctx).Then(clientv3.OpPut("a/3", "3"), clientv3.OpDelete("a/1")).Commit()
		f.must(err)
		var got []string
		for len(got) < 4 {
			for _, e := range receive(f, "events", w).Events {
				s := fmt.Sprintf("%s %s=%s", e.Type, e.Kv.Key, e.Kv.Value)
				if e.PrevKv != nil {
					s += " before " + string(e.PrevKv.Value)
				}
				got = append(got, s)
			}
		}
		want := []string{"PUT a/1=old", "PUT a/1=new before old", "PUT a/3=3", "DELETE a/1= before new"}
		slices.Sort(got[2:]) // of one revision
		slices.Sort(want[2:])
		if !slices.Equal(got, want) {
			f.Errorf("got %q, want %q", got, want)
		}
		d := receive(f, "deletes", deletes)
		equal(f, "deletes", fmt.Sprint(len(d.Events), d.Events[0].Type), fmt.Sprint(1, mvccpb.Event_DELETE))
		f.must(c.RequestProgress(f.ctx))
		if p := receive(f, "progress", w); !p.IsProgressNotify() || p.Header.Revision < begin+3 {
			f.Errorf("progress: %+v", p)
		}
		_, err = c.Compact(f.ctx, begin+2)
		f.must(err)
		r := receive(f, "compacted", c.Watch(f.ctx, "a/1", clientv3.WithRev(begin)))
		if !errors.Is(r.Err(), rpctypes.ErrCompacted) || r.CompactRevision != begin+2 {
			f.Errorf("compacted: %v at %d", r.Err(), r.CompactRevision)
		}
	})
}

// TestLease: grants, renewals, keys, and the end.
func TestLease(t *testing.T) {
	each(t, func(f *flow) {
		c := f.client
		g, err := c.Grant(f.ctx, 60)
		f.must(err)
		f.put(c, "leased", "v", clientv3.WithLease(g.ID))
		alive, err := c.KeepAlive(f.ctx, g.ID)
		f.must(err)
		equal(f, "TTL of a renewal", receive(f, "renewal", alive).TTL, 60)
		once, err := c.KeepAliveOnce(f.ctx, g.ID)
		f.must(err)
		equal(f, "TTL of one renewal", once.TTL, 60)
		ttl, err := c.TimeToLive(f.ctx, g.ID, clientv3.WithAttachedKeys())
		f.must(err)
		equal(f, "granted TTL and keys", fmt.Sprintf("%d %q", ttl.GrantedTTL, ttl.Keys), `60 ["leased"]`)
		leases, err := c.Leases(f.ctx)
		f.must(err)
		equal(f, "leases", fmt.Sprint(len(leases.Leases), leases.Leases[0].ID == g.ID), "1 true")
		_, err = c.Revoke(f.ctx, g.ID)
		f.must(err)
		equal(f, "the key of a revoked lease", f.get(c, "leased"), "")
		closed(f, "renewals of a revoked lease", alive)
		for what, err := range map[string]error{
			"put":    func() error { _, err := c.Put(f.ctx, "k", "", clientv3.WithLease(g.ID)); return err }(),
			"revoke": func() error { _, err := c.Revoke(f.ctx, g.ID); return err }(),
			"renew":  func() error { _, err := c.KeepAliveOnce(f.ctx, g.ID); return err }(),
		} {
			if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				f.Errorf("%s with a revoked lease: %v", what, err)
			}
		}
		short, err := c.Grant(f.ctx, 2)
		f.must(err)
		w := c.Watch(f.ctx, "short", clientv3.WithFilterPut())
		f.put(c, "short", "v", clientv3.WithLease(short.ID))
		equal(f, "an expired key", receive(f, "expiry", w).Events[0].Type, mvccpb.Event_DELETE)
	})
}

// TestMaintenance: what clients ask of the server itself.
func TestMaintenance(t *testing.T) {
	each(t, func(f *flow) {
		c := f.client
		f.fill("k/", 200, strings.Repeat("v", 100))
		f.must(c.Sync(f.ctx))
		members, err := c.MemberList(f.ctx)
		f.must(err)
		equal(f, "members", len(members.Members), 1)
		st, err := c.Status(f.ctx, f.server.Address)
		f.must(err)
		if st.Version != "3.7.3" || st.Leader != st.Header.MemberId || st.DbSize == 0 || st.RaftIndex == 0 {
			f.Errorf("status: %v", st)
		}
		h, err := c.HashKV(f.ctx, f.server.Address, 0)
		f.must(err)
		equal(f, "hash revision", h.HashRevision, st.Header.Revision)
		alarms, err := c.AlarmList(f.ctx)
		f.must(err)
		equal(f, "alarms", len(alarms.Alarms), 0)
		_, err = c.Defragment(f.ctx, f.server.Address)
		f.must(err)
		snapshot, err := c.SnapshotWithVersion(f.ctx)
		f.must(err)
		data, err := io.ReadAll(snapshot.Snapshot)
		f.must(err)
		body := data[:len(data)-sha256.Size]
		if sum := sha256.Sum256(body); len(body) == 0 || string(sum[:]) != string(data[len(body):]) {
			f.Errorf("a snapshot of %d bytes does not end with its checksum", len(data))
		}
	})
}
