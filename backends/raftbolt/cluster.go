package raftbolt

import (
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // etcd derives ids so; nothing is kept secret or authentic by it
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// founderIDs derives the ids of a new cluster of one member as etcd does
// (server/etcdserver/api/membership: computeMemberID and genID), so that tools
// that expect an id find it.
func founderIDs(peerURLs []string, clusterToken string) (clusterID, memberID uint64) {
	memberID = memberIDOf(peerURLs, clusterToken)
	return hashID(binary.BigEndian.AppendUint64(nil, memberID)), memberID
}

// memberIDOf derives an id from peer URLs and a suffix: of a founding member the
// cluster's token, of one that is added the time, in Unix seconds.
func memberIDOf(peerURLs []string, suffix string) uint64 {
	return hashID([]byte(strings.Join(slices.Sorted(slices.Values(peerURLs)), "") + suffix))
}

func hashID(b []byte) uint64 {
	sum := sha1.Sum(b) //nolint:gosec // see the import
	return binary.BigEndian.Uint64(sum[:])
}

// formatID is an id as etcd writes it: hexadecimal, without leading zeros.
func formatID(id uint64) string { return strconv.FormatUint(id, 16) }

func parseID(s string) (uint64, error) {
	id, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("id %q: %w", s, err)
	}
	return id, nil
}

// memberRecord is a member in the members bucket: JSON, under its id's text, as
// in etcd (server/storage/schema/membership.go).
type memberRecord struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

func (r memberRecord) key() []byte { return []byte(formatID(r.ID)) }

func (r memberRecord) value() ([]byte, error) { return json.Marshal(r) }

// started tells whether the member ever ran: then it told its name.
func (r memberRecord) started() bool { return r.Name != "" }

// memberSet is the members. It is immutable.
type memberSet struct {
	list []memberRecord // by ascending id
	// removed are the ids that are never used again: one for each removal that an
	// administrator asked for.
	removed map[uint64]struct{}
}

func (s *memberSet) index(id uint64) int {
	return slices.IndexFunc(s.list, func(r memberRecord) bool { return r.ID == id })
}

func (s *memberSet) find(id uint64) (memberRecord, bool) {
	i := s.index(id)
	if i < 0 {
		return memberRecord{}, false
	}
	return s.list[i], true
}

// voters counts those that vote, and of them those that ever ran; except is left out.
func (s *memberSet) voters(except uint64) (voters, started int) {
	for _, r := range s.list {
		if r.IsLearner || r.ID == except {
			continue
		}
		voters++
		if r.started() {
			started++
		}
	}
	return voters, started
}

// ids are those of the voters and of the learners, ascending.
func (s *memberSet) ids() (voters, learners []uint64) {
	for _, r := range s.list {
		if r.IsLearner {
			learners = append(learners, r.ID)
		} else {
			voters = append(voters, r.ID)
		}
	}
	return voters, learners
}

// uses tells whether a member other than except has one of the peer URLs.
func (s *memberSet) uses(urls []string, except uint64) bool {
	return slices.ContainsFunc(s.list, func(r memberRecord) bool {
		return r.ID != except && slices.ContainsFunc(r.PeerURLs, func(u string) bool { return slices.Contains(urls, u) })
	})
}

// wire is the members as the waist has them.
func (s *memberSet) wire() []backends.Member {
	out := make([]backends.Member, len(s.list))
	for i, r := range s.list {
		out[i] = r.wire()
	}
	return out
}

func (r memberRecord) wire() backends.Member {
	return backends.Member{
		ID: r.ID, Name: r.Name, Learner: r.IsLearner, PeerURLs: slices.Clone(r.PeerURLs), ClientURLs: slices.Clone(r.ClientURLs),
	}
}

// agrees checks that the members are those of raft's configuration, which is written
// with them in one transaction.
func (s *memberSet) agrees(state replica.ConfState) error {
	voters, learners := s.ids()
	if slices.Equal(voters, slices.Sorted(slices.Values(state.Voters))) &&
		slices.Equal(learners, slices.Sorted(slices.Values(state.Learners))) && len(state.VotersOutgoing)+len(state.LearnersNext) == 0 {
		return nil
	}
	return fmt.Errorf("the members are %x, learners %x, and the configuration has %x, learners %x",
		voters, learners, state.Voters, state.Learners)
}

// removedMark is the value of an id in the bucket of removed members, as in etcd.
const removedMark = "removed"

func (m *machine) loadMembers() error {
	set := &memberSet{removed: make(map[uint64]struct{})}
	var bad error
	err := m.store.Bucket(mvcc.BucketMembers, func(k, v []byte) {
		r, err := decodeMember(k, v)
		bad = errors.Join(bad, err)
		set.list = append(set.list, r)
	})
	err = errors.Join(err, m.store.Bucket(mvcc.BucketMembersRemoved, func(k, _ []byte) {
		id, err := parseID(string(k))
		bad = errors.Join(bad, err)
		set.removed[id] = struct{}{}
	}))
	slices.SortFunc(set.list, func(a, b memberRecord) int { return cmp.Compare(a.ID, b.ID) })
	m.members.Store(set)
	if err = errors.Join(err, bad); err == nil {
		err = set.agrees(m.confState)
	}
	if err != nil {
		return fmt.Errorf("%w: members in the store: %w", ErrDirectoryCorrupt, err)
	}
	return nil
}

// decodeMember reads an entry of the members bucket.
func decodeMember(k, v []byte) (r memberRecord, err error) {
	if err := json.Unmarshal(v, &r); err != nil {
		return r, fmt.Errorf("member %q: %w", k, err)
	}
	if string(r.key()) != string(k) {
		return r, fmt.Errorf("member %q says that it is %x", k, r.ID)
	}
	return r, nil
}

// applyAttributes sets what a member says of itself.
func (m *machine) applyAttributes(c *command) (outcome, error) {
	out := outcome{revision: m.store.Committed()}
	set := m.members.Load()
	i := set.index(c.member)
	if i < 0 {
		return out, nil // removed meanwhile
	}
	list := slices.Clone(set.list)
	list[i].Name, list[i].ClientURLs = c.name, c.urls
	value, err := list[i].value()
	if err != nil {
		return out, err
	}
	t := m.store.Begin()
	t.Set(mvcc.BucketMembers, list[i].key(), value)
	if _, err := t.Commit(); err != nil {
		return out, err
	}
	m.members.Store(&memberSet{list, set.removed})
	return out, nil
}

// publish tells the cluster this member's name and client URLs, when they
// changed.
func (b *Backend) publish(ctx context.Context) error {
	self, ok := b.machine.members.Load().find(b.machine.header.MemberID)
	if !ok || self.Name == b.config.Name && slices.Equal(self.ClientURLs, b.config.AdvertiseClientURLs) {
		return nil
	}
	_, err := b.propose(ctx, &command{kind: kindAttributes, member: self.ID, name: b.config.Name, urls: b.config.AdvertiseClientURLs})
	return err
}

// confState is the JSON of raftpb.ConfState, as etcd 3.7 keeps it in the meta bucket: to the byte, since Hash goes over it.
type confState struct {
	Voters         []uint64 `json:"voters,omitempty"`
	Learners       []uint64 `json:"learners,omitempty"`
	VotersOutgoing []uint64 `json:"voters_outgoing,omitempty"`
	LearnersNext   []uint64 `json:"learners_next,omitempty"`
	AutoLeave      bool     `json:"auto_leave"`
}

func encodeConfState(s replica.ConfState) []byte {
	// Numbers, lists and a truth value always encode.
	b, _ := json.Marshal(confState(s))
	return b
}

func decodeConfState(b []byte) (replica.ConfState, error) {
	var s confState
	if err := json.Unmarshal(b, &s); err != nil {
		return replica.ConfState{}, err
	}
	if len(s.Voters) == 0 {
		return replica.ConfState{}, errors.New("no voter")
	}
	return replica.ConfState(s), nil
}
