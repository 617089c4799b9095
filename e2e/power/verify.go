package power

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt"
	"github.com/etcdshim/shim/e2e/rig"
)

// openTimeout bounds a start from a state.
const openTimeout = 30 * time.Second

// verifier tries one state.
type verifier struct {
	*replay
	state
	dir string

	reopened, programs int
}

// everything is the range of all keys.
var everything = []byte{0}

// verify starts from the state and compares what it finds with the history.
func (v *verifier) verify(ctx context.Context) error {
	if err := v.check(); err != nil {
		return err
	}
	if v.ProgramEach > 0 && v.number%v.ProgramEach == 0 {
		v.programs++
		if err := v.serve(); err != nil {
			return err
		}
	}
	revision, err := v.open(ctx, 0)
	if err != nil {
		return err
	}
	const reopenEach = 4
	if v.number%reopenEach != 0 {
		return nil
	}
	v.reopened++
	if _, err := v.open(ctx, revision); err != nil {
		return fmt.Errorf("opened once more: %w", err)
	}
	return nil
}

// check holds what `shim check` says, which changes nothing, to be right: no power loss
// is damage. A directory that is not there yet cannot be checked.
func (v *verifier) check() error {
	v.forking.RLock()
	defer v.forking.RUnlock()
	report, err := raftbolt.Check(raftbolt.CheckConfig{DataDir: v.dir})
	if errors.Is(err, raftbolt.ErrNoDirectory) && v.time.revision(v.event) <= 1 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	for _, f := range report.Findings {
		return fmt.Errorf("check finds damage: %s; %s", f.What, f.Do)
	}
	return nil
}

// program runs `shim check` itself.
func (v *verifier) program() error {
	cmd := exec.Command(v.Shim, "check", v.dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	v.forking.Lock()
	err := cmd.Start()
	v.forking.Unlock()
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("shim check: %w\n%s", err, &out)
	}
	return nil
}

// serve starts the program on the state, kills it once it is ready, and has it check
// what it left.
func (v *verifier) serve() error {
	v.serving.Lock()
	defer v.serving.Unlock()
	v.forking.Lock()
	s, err := rig.Launch(rig.Options{Bin: v.Shim, Dir: v.dir, Addr: v.Addr, Flags: serverFlags(DefaultCatchupEntries)})
	v.forking.Unlock()
	if err != nil {
		return err
	}
	err = s.AwaitReady(rig.StartTimeout)
	s.End()
	if err != nil {
		return err
	}
	return v.program()
}

// open opens the backend on the state, verifies, writes a key, and closes it. probed is
// the revision of that key from an earlier call, or 0; it returns the new one's.
func (v *verifier) open(ctx context.Context, probed int64) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	v.forking.RLock()
	defer v.forking.RUnlock()
	failed := make(chan error, 1)
	config := raftbolt.DefaultConfig()
	config.DataDir = v.dir
	config.SnapshotCatchupEntries, config.CompactionBatchLimit, config.CompactionSleepInterval = DefaultCatchupEntries, 20, time.Millisecond
	b, err := raftbolt.Open(ctx, config, backends.Env{
		Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(), Clock: backends.SystemClock{},
		Fatal: func(err error) { failed <- err },
	})
	if err != nil {
		return 0, fmt.Errorf("it does not start: %w", err)
	}
	defer func() { err = errors.Join(err, b.Close(context.Background())) }()
	select {
	case <-b.Ready():
	case err := <-failed:
		return 0, err
	case <-ctx.Done():
		return 0, fmt.Errorf("it was not ready: %w", ctx.Err())
	}
	if err := v.compare(ctx, b, probed); err != nil {
		return 0, err
	}
	result, err := b.Txn(ctx, &backends.TxnRequest{TxnOp: backends.TxnOp{Success: []backends.Op{{Put: &backends.PutOp{Key: []byte("probe"), Value: []byte("x")}}}}})
	if err != nil {
		return 0, fmt.Errorf("a put after the start: %w", err)
	}
	defer result.Close()
	select {
	case err := <-failed:
		return 0, err
	default:
	}
	return result.Header.Revision, nil
}

// compare holds the open backend against the history.
func (v *verifier) compare(ctx context.Context, b *raftbolt.Backend, probed int64) error {
	status, err := b.Status(ctx)
	if err != nil {
		return err
	}
	now := status.Header.Revision
	if probed > 0 {
		// The put of the first start is behind the history, and there may be
		// expired leases between.
		if now < probed {
			return fmt.Errorf("it stands at revision %d, and %d was acknowledged after the start", now, probed)
		}
		kvs, err := v.keys(ctx, b, probed, []byte("probe"), nil)
		if err != nil || len(kvs) != 1 || kvs[0].ModRevision != probed {
			return errors.Join(fmt.Errorf("the key written after the start is %v", kvs), err)
		}
		now = probed - 1
	}
	if acked := v.time.revision(v.event); now < acked {
		return fmt.Errorf("it stands at revision %d, and %d was acknowledged", now, acked)
	}
	if now > v.history.last {
		return fmt.Errorf("it stands at revision %d, the history ends at %d", now, v.history.last)
	}
	if op, ok := v.history.maker(now); ok && v.time.asked[op] > v.event {
		return fmt.Errorf("it stands at revision %d, whose write was not yet asked for: the recording is out of order", now)
	}
	if err := v.compareCompaction(status.CompactRevision); err != nil {
		return err
	}
	if err := v.compareKeys(ctx, b, now); err != nil {
		return err
	}
	if err := v.compareEvents(ctx, b, status.CompactRevision, now); err != nil {
		return err
	}
	if probed > 0 {
		return nil
	}
	return v.compareLeases(ctx, b)
}

func (v *verifier) compareCompaction(compacted int64) error {
	var acked, asked int64
	for i, o := range v.time.ops {
		if o.Kind != Compact {
			continue
		}
		if at := v.time.acked[i]; at >= 0 && at <= v.event {
			acked = max(acked, o.Target)
		}
		if at := v.time.asked[i]; at >= 0 && at <= v.event {
			asked = max(asked, o.Target)
		}
	}
	if compacted < acked || compacted > asked {
		return fmt.Errorf("it is compacted at %d; %d was acknowledged, %d asked for", compacted, acked, asked)
	}
	return nil
}

// keys reads a range at a revision.
func (v *verifier) keys(ctx context.Context, b backends.Backend, revision int64, key, end []byte) ([]*mvccpb.KeyValue, error) {
	c, err := b.Range(ctx, &backends.RangeRequest{RangeOptions: backends.RangeOptions{KeyRange: backends.KeyRange{Key: key, End: end}, Revision: revision}})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var all pb.RangeResponse
	for {
		chunk, err := c.Next(ctx)
		if errors.Is(err, io.EOF) {
			if n := c.Result().Count; n != int64(len(all.Kvs)) {
				return nil, fmt.Errorf("%d keys at revision %d, and a count of %d", len(all.Kvs), revision, n)
			}
			return all.Kvs, nil
		}
		if err != nil {
			return nil, err
		}
		err = proto.UnmarshalOptions{Merge: true}.Unmarshal(chunk.Bytes(), &all)
		chunk.Release()
		if err != nil {
			return nil, err
		}
	}
}

func (v *verifier) compareKeys(ctx context.Context, b backends.Backend, revision int64) error {
	kvs, err := v.keys(ctx, b, revision, everything, everything)
	if err != nil {
		return fmt.Errorf("range at revision %d: %w", revision, err)
	}
	want := v.history.at(revision)
	for _, kv := range kvs {
		if w := want[string(kv.Key)]; !proto.Equal(kv, w) {
			return fmt.Errorf("key %q at revision %d is %.200v, want %.200v", kv.Key, revision, kv, w)
		}
		delete(want, string(kv.Key))
	}
	for key, w := range want {
		return fmt.Errorf("key %q is missing at revision %d, want %.200v", key, revision, w)
	}
	return nil
}

// compareEvents replays what the store has of history.
func (v *verifier) compareEvents(ctx context.Context, b backends.Backend, compacted, now int64) error {
	want := v.history.between(compacted, now)
	if len(want) == 0 {
		return nil
	}
	w, err := b.Watch(ctx, backends.Caller{})
	if err != nil {
		return err
	}
	defer w.Close()
	err = w.Add(ctx, &backends.WatchRequest{ID: 1, KeyRange: backends.KeyRange{Key: everything, End: everything}, StartRevision: max(compacted, 1) + 1})
	if err != nil {
		return err
	}
	for len(want) > 0 {
		batch, err := w.Next(ctx)
		if err != nil {
			return fmt.Errorf("history from revision %d: %w", want[0].Kv.ModRevision, err)
		}
		if batch.Kind == backends.WatchCanceled {
			return fmt.Errorf("history from revision %d: cancelled: %w", want[0].Kv.ModRevision, batch.Reason)
		}
		var got pb.WatchResponse
		if err := proto.Unmarshal(bytes.Join(framesOf(batch.Events), nil), &got); err != nil {
			return err
		}
		for _, e := range got.Events {
			if len(want) == 0 {
				break // behind now: a lease expired
			}
			if !proto.Equal(e, want[0]) {
				return fmt.Errorf("the event of revision %d is %.200v, want %.200v", want[0].Kv.ModRevision, e, want[0])
			}
			want = want[1:]
		}
	}
	return nil
}

func framesOf(events []backends.Event) [][]byte {
	frames := make([][]byte, len(events))
	for i, e := range events {
		frames[i] = e
	}
	return frames
}

// compareLeases: what was granted is there, what was revoked is not, and nothing else
// is. Of what was asked for and not answered, either.
func (v *verifier) compareLeases(ctx context.Context, b *raftbolt.Backend) error {
	list, err := b.LeaseLeases(ctx, backends.Caller{})
	if err != nil {
		return err
	}
	there := map[int64]bool{}
	for _, id := range list.IDs {
		there[id] = true
	}
	by := func(at int) bool { return at >= 0 && at <= v.event }
	must, may := map[int64]bool{}, map[int64]bool{}
	for i, o := range v.time.ops {
		asked, acked := by(v.time.asked[i]), by(v.time.acked[i])
		switch {
		case o.Kind == Grant && asked:
			may[o.Lease] = true
			must[o.Lease] = acked && o.Long
		case o.Kind == Revoke && asked:
			delete(must, o.Lease)
			may[o.Lease] = !acked
		}
	}
	for id, m := range must {
		if m && !there[id] {
			return fmt.Errorf("lease %x was granted and is gone", id)
		}
	}
	for id := range there {
		if !may[id] {
			return fmt.Errorf("lease %x was revoked, or not yet asked for, and is there", id)
		}
		if must[id] {
			l, err := b.LeaseTimeToLive(ctx, backends.Caller{}, id, false)
			if err != nil || l.GrantedTTLSeconds != 3600 {
				return fmt.Errorf("lease %x: %+v, %w", id, l, err)
			}
		}
	}
	return nil
}
