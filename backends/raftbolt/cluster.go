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
	urls := slices.Sorted(slices.Values(peerURLs))
	memberID = hashID([]byte(strings.Join(urls, "") + clusterToken))
	return hashID(binary.BigEndian.AppendUint64(nil, memberID)), memberID
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

// memberSet is the members, by ascending id. It is immutable.
type memberSet struct{ list []memberRecord }

func (s *memberSet) find(id uint64) (memberRecord, bool) {
	i := slices.IndexFunc(s.list, func(r memberRecord) bool { return r.ID == id })
	if i < 0 {
		return memberRecord{}, false
	}
	return s.list[i], true
}

func (m *machine) loadMembers() error {
	var list []memberRecord
	var bad error
	err := m.store.Bucket(mvcc.BucketMembers, func(k, v []byte) {
		var r memberRecord
		if err := json.Unmarshal(v, &r); err != nil {
			bad = fmt.Errorf("member %q: %w", k, err)
			return
		}
		if string(r.key()) != string(k) {
			bad = fmt.Errorf("member %q says that it is %x", k, r.ID)
			return
		}
		list = append(list, r)
	})
	slices.SortFunc(list, func(a, b memberRecord) int { return cmp.Compare(a.ID, b.ID) })
	m.members.Store(&memberSet{list})
	if err = errors.Join(err, bad); err != nil {
		return fmt.Errorf("%w: members in the store: %w", ErrDirectoryCorrupt, err)
	}
	return nil
}

// applyAttributes sets what a member says of itself.
func (m *machine) applyAttributes(c *command) (outcome, error) {
	out := outcome{revision: m.store.Committed()}
	list := slices.Clone(m.members.Load().list)
	i := slices.IndexFunc(list, func(r memberRecord) bool { return r.ID == c.member })
	if i < 0 {
		return out, nil // removed meanwhile
	}
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
	m.members.Store(&memberSet{list})
	return out, nil
}

var _ backends.Members = (*Backend)(nil)

// MemberList implements backends.Members. Its header has no revision, as in etcd.
func (b *Backend) MemberList(ctx context.Context, _ backends.Caller, linearizable bool) (backends.MemberListResult, error) {
	wait := b.awaitReady
	if linearizable {
		wait = b.readIndex
	}
	if err := wait(ctx); err != nil {
		return backends.MemberListResult{}, err
	}
	result := backends.MemberListResult{Header: b.header(0)}
	for _, r := range b.machine.members.Load().list {
		result.Members = append(result.Members, backends.Member{
			ID: r.ID, Name: r.Name, Learner: r.IsLearner,
			PeerURLs: slices.Clone(r.PeerURLs), ClientURLs: slices.Clone(r.ClientURLs),
		})
	}
	return result, nil
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

// confState is the JSON of raftpb.ConfState, as etcd keeps it in the meta bucket.
type confState struct {
	Voters         []uint64 `json:"voters"`
	Learners       []uint64 `json:"learners"`
	VotersOutgoing []uint64 `json:"voters_outgoing"`
	LearnersNext   []uint64 `json:"learners_next"`
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
