package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

func (m *member) add(urls ...string) (backends.MemberAddResult, error) {
	return m.MemberAdd(context.Background(), backends.Caller{}, urls, true)
}

func (m *member) remove(id uint64) error {
	_, err := m.MemberRemove(context.Background(), backends.Caller{}, id)
	return err
}

func (m *member) update(id uint64, urls ...string) error {
	_, err := m.MemberUpdate(context.Background(), backends.Caller{}, id, urls)
	return err
}

// list is the members, after a check that raft's configuration, as it is written
// to the store, has the same.
func (m *member) list() []backends.Member {
	m.t.Helper()
	r, err := m.MemberList(context.Background(), backends.Caller{}, true)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.store.Flush(context.Background()); err != nil {
		m.t.Fatal(err)
	}
	state := m.machine.Durable().ConfState
	if err := m.machine.members.Load().agrees(state); err != nil {
		m.t.Error(err)
	}
	if len(state.Voters)+len(state.Learners) != len(r.Members) {
		m.t.Errorf("%d members, configuration %+v", len(r.Members), state)
	}
	return r.Members
}

// TestURLOrder ensures that a member has its URLs in etcd's order, whatever order they
// were given in: it once had them as given.
func TestURLOrder(t *testing.T) {
	m := openIn(t, t.TempDir(), func(c *Config, _ *backends.Env) {
		c.InitialAdvertisePeerURLs = []string{"http://127.0.0.2:1", "http://127.0.0.1:3", "http://127.0.0.1:20"}
		c.AdvertiseClientURLs = []string{"https://127.0.0.1:1", "http://127.0.0.1:2"}
	})
	self := m.list()[0]
	if got, want := fmt.Sprint(self.PeerURLs, self.ClientURLs), "[http://127.0.0.1:20 http://127.0.0.1:3 http://127.0.0.2:1] [http://127.0.0.1:2 https://127.0.0.1:1]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A learner is added, updated and removed, under ids derived as etcd does and never
// given twice, and all of it outlives a restart and a kill.
func TestLearner(t *testing.T) {
	dir, clock := t.TempDir(), newTestClock() // stands at Unix second 1767225600
	open := func(dir string) *member {
		return openIn(t, dir, func(_ *Config, e *backends.Env) { e.Clock = clock })
	}
	m := open(dir)
	self := m.machine.header.MemberID
	urls := []string{"http://127.0.0.1:99", "http://127.0.0.2:99"}
	added, err := m.add(urls...)
	if err != nil {
		t.Fatal(err)
	}
	// SHA-1 of both URLs and "1767225600", its first eight bytes.
	const first, second = 0x8abf28ecceccaa18, 0x1201989c75ce4252
	want := backends.Member{ID: first, PeerURLs: urls, Learner: true}
	if !reflect.DeepEqual(added.Member, want) || len(added.Members) != 2 || added.Header.Term == 0 || added.Header.Revision != 0 {
		t.Errorf("added %+v", added)
	}
	if _, err := m.add("http://127.0.0.3:99"); !errors.Is(err, backends.ErrTooManyLearners) {
		t.Errorf("a second learner: %v", err)
	}
	if _, err := m.add(urls[1]); !errors.Is(err, backends.ErrPeerURLExists) {
		t.Errorf("the same peer URL: %v", err)
	}
	if _, err := m.MemberPromote(t.Context(), backends.Caller{}, first); !errors.Is(err, backends.ErrLearnerNotReady) {
		t.Errorf("promote a learner that never ran: %v", err)
	}
	m.put("a", "1")
	killed := open(copyDir(t, dir))
	if got := killed.list(); len(got) != 2 || !reflect.DeepEqual(got, m.list()) {
		t.Errorf("after a kill %+v", got)
	}
	killed.put("a", "2")
	m.close()
	m = open(dir)
	if err := m.update(first, "http://127.0.0.4:99"); err != nil {
		t.Fatal(err)
	}
	if got, ok := m.machine.members.Load().find(first); !ok || len(m.list()) != 2 || !got.IsLearner || got.PeerURLs[0] != "http://127.0.0.4:99" {
		t.Errorf("after the update %+v", m.list())
	}
	if err := m.remove(first); err != nil {
		t.Fatal(err)
	}
	m.close()
	m = open(dir)
	if got := m.list(); len(got) != 1 || got[0].ID != self {
		t.Errorf("after the removal %+v", got)
	}
	for what, err := range map[string]error{"remove": m.remove(first), "update": m.update(first, urls...)} {
		if !errors.Is(err, backends.ErrMemberNotFound) {
			t.Errorf("%s a removed member: %v", what, err)
		}
	}
	// Within the second the id would be the removed one's.
	if _, err := m.add(urls...); !errors.Is(err, backends.ErrMemberNotFound) {
		t.Errorf("an id for the second time: %v", err)
	}
	clock.advance(time.Second)
	if added, err = m.add(urls...); err != nil || added.Member.ID != second {
		t.Errorf("added %x, %v", added.Member.ID, err)
	}
	if _, err := m.add("http://127.0.0.1:99", "http://127.0.0.2:99"); !errors.Is(err, backends.ErrMemberExists) {
		t.Errorf("an id that is in use: %v", err)
	}
	m.put("a", "3")
	m.close()
	report, err := Check(CheckConfig{DataDir: dir})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("check: %+v, %v", report, err)
	}
}

// MaxLearners and LaxReconfigCheck are the configuration's, and what would leave the
// cluster without a voter, or a quorum, is refused whatever that says.
func TestReconfigurationBounds(t *testing.T) {
	m := openIn(t, t.TempDir(), func(c *Config, _ *backends.Env) { c.MaxLearners, c.LaxReconfigCheck = 3, true })
	self := m.machine.header.MemberID
	for i := range 4 {
		if _, err := m.add(fmt.Sprintf("http://127.0.0.1:%d", 9+i)); (err != nil) != (i == 3) {
			t.Errorf("learner %d: %v", i, err)
		}
	}
	if _, err := m.MemberAdd(t.Context(), backends.Caller{}, []string{"http://127.0.0.1:99"}, false); !errors.Is(err, backends.ErrNotEnoughStarted) {
		t.Errorf("a second voter: %v", err)
	}
	if err := m.remove(self); !errors.Is(err, backends.ErrNotEnoughStarted) {
		t.Errorf("remove the only voter: %v", err)
	}
	if _, err := m.MemberPromote(t.Context(), backends.Caller{}, self); !errors.Is(err, backends.ErrMemberNotLearner) {
		t.Errorf("promote a voter: %v", err)
	}
	if got := m.list(); len(got) != 4 {
		t.Errorf("members %+v", got)
	}
	m.put("a", "1")

	none := openIn(t, t.TempDir(), func(c *Config, _ *backends.Env) { c.MaxLearners = -1 })
	if _, err := none.add("http://127.0.0.1:99"); !errors.Is(err, backends.ErrTooManyLearners) {
		t.Errorf("a learner where there may be none: %v", err)
	}
}

// A member may give itself any peer URLs, as in etcd; those of others must be ones
// that can be used.
func TestMemberUpdate(t *testing.T) {
	dir := t.TempDir()
	m := openIn(t, dir, nil)
	self := m.list()[0]
	added, err := m.add("http://127.0.0.1:99")
	if err != nil {
		t.Fatal(err)
	}
	learner := added.Member.ID
	for _, c := range []struct {
		id   uint64
		urls []string
		want error
	}{
		{self.ID, []string{"http://127.0.0.1:7"}, nil},
		{self.ID, []string{"nothing"}, nil},
		{self.ID, []string{"http://127.0.0.1:99"}, backends.ErrPeerURLExists},
		{learner, []string{"nothing"}, backends.ErrPeerURLExists},
		{self.ID, nil, nil},
		{learner, []string{"nothing"}, backends.ErrMemberBadURLs},
		{learner, nil, backends.ErrMemberBadURLs},
		{learner, []string{"http://127.0.0.1:99"}, nil},
		{learner ^ 1, []string{"nothing"}, backends.ErrMemberNotFound},
	} {
		if err := m.update(c.id, c.urls...); !errors.Is(err, c.want) {
			t.Errorf("update %x to %q: %v, want %v", c.id, c.urls, err, c.want)
		}
	}
	m.close()
	m = openIn(t, dir, nil)
	if got, _ := m.machine.members.Load().find(self.ID); len(got.PeerURLs) != 0 || got.Name != self.Name {
		t.Errorf("after a restart %+v", got)
	}
}

// Changes that are asked for at once follow each other: raft would drop a second
// one without a word.
func TestReconfigureConcurrently(t *testing.T) {
	m := openIn(t, t.TempDir(), func(c *Config, _ *backends.Env) { c.MaxLearners = 20 })
	const n = 20
	results := make(chan error, n)
	for i := range n {
		go func() {
			_, err := m.add(fmt.Sprintf("http://127.0.0.1:%d", 1000+i))
			results <- err
		}()
	}
	for range n {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if got := m.list(); len(got) != n+1 {
		t.Errorf("%d members", len(got))
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := m.MemberRemove(cancelled, backends.Caller{}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
}

// leavesAt is a context that is cancelled when its n-th Done is asked for.
type leavesAt struct {
	context.Context
	cancel context.CancelFunc
	n      int
}

func (c *leavesAt) Done() <-chan struct{} {
	if c.n--; c.n == 0 {
		c.cancel()
	}
	return c.Context.Done()
}

// A change of whose outcome nobody waits any more is under way all the same: the next one waits
// for it. It was sent at once, and raft dropped it, so that it was answered after seven seconds
// that its outcome is unknown.
func TestReconfigureAfterOneWhoLeft(t *testing.T) {
	m := openIn(t, t.TempDir(), func(c *Config, _ *backends.Env) { c.MaxLearners = 100 })
	const tries = 20
	for n := 1; n <= 2; n++ { // before it is sent, and after
		for i := range tries {
			inner, cancel := context.WithCancel(context.Background())
			port := 1000 + 100*n + 2*i
			urls := []string{fmt.Sprintf("http://127.0.0.1:%d", port)}
			_, err := m.MemberAdd(&leavesAt{inner, cancel, n}, backends.Caller{}, urls, true)
			cancel()
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("leaves at %d: %v", n, err)
			}
			if _, err := m.add(fmt.Sprintf("http://127.0.0.1:%d", port+1)); err != nil {
				t.Fatalf("after one who left at %d: %v", n, err)
			}
		}
	}
	if got := len(m.list()); got <= 2*tries {
		t.Errorf("%d members", got)
	}
}

// Members and raft's configuration that contradict each other are refused.
func TestMembersDisagree(t *testing.T) {
	set := &memberSet{list: []memberRecord{{ID: 1}, {ID: 2, IsLearner: true}, {ID: 3}}}
	if err := set.agrees(replica.ConfState{Voters: []uint64{3, 1}, Learners: []uint64{2}}); err != nil {
		t.Error(err)
	}
	for _, state := range []replica.ConfState{
		{Voters: []uint64{1, 3}},
		{Voters: []uint64{1, 2, 3}},
		{Voters: []uint64{1}, Learners: []uint64{2}},
		{Voters: []uint64{1, 3}, Learners: []uint64{2}, VotersOutgoing: []uint64{1}},
	} {
		if err := set.agrees(state); err == nil {
			t.Errorf("agrees with %+v", state)
		}
	}
	dir := t.TempDir()
	m := openIn(t, dir, nil)
	tx := m.store.Begin()
	r := memberRecord{ID: 77, IsLearner: true}
	value, err := r.value()
	if err != nil {
		t.Fatal(err)
	}
	tx.Set(mvcc.BucketMembers, r.key(), value)
	if _, err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	m.put("a", "1") // an entry's end, for the flush
	m.close()
	if _, err := Open(context.Background(), Config{DataDir: dir}, testEnv(t)); !errors.Is(err, ErrDirectoryCorrupt) {
		t.Errorf("open: %v", err)
	}
	if report, err := Check(CheckConfig{DataDir: dir}); err != nil || len(report.Findings) != 1 {
		t.Errorf("check: %+v, %v", report, err)
	}
}

// Leadership can be moved to the leader, which it is, and to no other here.
func TestMoveLeader(t *testing.T) {
	m := openIn(t, t.TempDir(), nil)
	added, err := m.add("http://127.0.0.1:99")
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uint64]error{
		m.machine.header.MemberID: nil, 0: backends.ErrBadLeaderTransferee, added.Member.ID: backends.ErrBadLeaderTransferee,
	} {
		if err := m.MoveLeader(t.Context(), backends.Caller{}, id); !errors.Is(err, want) {
			t.Errorf("move to %x: %v, want %v", id, err, want)
		}
	}
}

// The hash of the file is of what it holds, and not of how it came there.
func TestHash(t *testing.T) {
	dir := t.TempDir()
	m := openIn(t, dir, nil)
	hash := func() uint32 {
		t.Helper()
		h, err := m.Hash(t.Context(), backends.Caller{})
		if err != nil || h.Header.Revision != m.store.Committed() {
			t.Fatalf("%+v, %v", h, err)
		}
		return h.Hash
	}
	m.put("a", "1")
	first := hash()
	m.close()
	m = openIn(t, dir, nil) // a new term, more entries
	if got := hash(); got != first {
		t.Errorf("%d after a restart, %d before", got, first)
	}
	m.grant(5, 60)
	granted := hash()
	if granted == first {
		t.Error("a lease does not count")
	}
	if _, err := m.LeaseRevoke(t.Context(), backends.Caller{}, 5); err != nil {
		t.Fatal(err)
	}
	if got := hash(); got != first {
		t.Errorf("%d after what was undone, %d before", got, first)
	}
}
