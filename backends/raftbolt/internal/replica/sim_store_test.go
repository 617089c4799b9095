package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
)

// simStore is the model state machine of one member: it remembers a digest of all commands in order. Its durable part outlives crashes.
type simStore struct {
	w *world
	m *simMember

	state   simState
	durable simState
	inFlush simState   // on its way to be durable
	staged  []simState // received snapshots, durable
}

// simState is what a state machine holds after an entry.
type simState struct {
	index, term uint64
	digest      uint64 // chained over all entries
	conf        ConfState
}

func (s simState) asDurable() Durable {
	return Durable{Index: s.index, Term: s.term, ConfState: s.conf}
}

// next is the state after an entry.
func (s simState) next(e Entry) simState {
	h := fnv.New64a()
	var b [8]byte
	for _, v := range []uint64{s.digest, e.Index, e.Term} {
		binary.LittleEndian.PutUint64(b[:], v)
		_, _ = h.Write(b[:])
	}
	for _, c := range e.Commands {
		_, _ = h.Write(c)
	}
	s.index, s.term, s.digest = e.Index, e.Term, h.Sum64()
	return s
}

// Durable implements StateMachine.
func (s *simStore) Durable() Durable { return s.durable.asDurable() }

// Apply implements StateMachine.
func (s *simStore) Apply(entries []Entry) error {
	for _, e := range entries {
		if e.Index != s.state.index+1 {
			return fmt.Errorf("entry %d follows %d", e.Index, s.state.index)
		}
		s.state = s.state.next(e)
		s.w.applied(s.m, e, s.state)
	}
	return nil
}

// CheckConfChange implements StateMachine.
func (s *simStore) CheckConfChange(change ConfChange) error {
	if len(change.Context) > 0 && change.Context[0]%2 == 1 {
		return errors.New("odd")
	}
	return nil
}

// ApplyConfChange implements StateMachine.
func (s *simStore) ApplyConfChange(e Entry, change ConfChange, state ConfState, refused error) error {
	if (refused != nil) != (change.Context[0]%2 == 1) {
		return errors.New("the refusal was lost")
	}
	want := ConfState{Voters: s.state.conf.Voters, Learners: s.state.conf.Learners}
	switch is := slices.Contains(want.Learners, change.Member); {
	case refused != nil:
	case change.Kind == AddLearner && !is:
		want.Learners = slices.Sorted(slices.Values(append(slices.Clone(want.Learners), change.Member)))
		s.w.totals.learners++
	case change.Kind == RemoveMember && is:
		want.Learners = slices.DeleteFunc(slices.Clone(want.Learners), func(id uint64) bool { return id == change.Member })
		s.w.totals.removals++
	}
	if !state.equal(want) || len(state.Voters) != s.w.voters {
		return fmt.Errorf("%+v at %d makes %+v of %+v, want %+v", change, e.Index, state, s.state.conf, want)
	}
	s.state.conf = state
	return s.Apply([]Entry{e})
}

// Snapshot implements StateMachine.
func (s *simStore) Snapshot() (Snapshot, error) {
	s.durable = s.state
	s.w.totals.snapshotsMade++
	return Snapshot{Durable: s.state.asDurable(), Data: binary.LittleEndian.AppendUint64(nil, s.state.digest)}, nil
}

// StageSnapshot implements StateMachine.
func (s *simStore) StageSnapshot(snap Snapshot) error {
	s.staged = append(s.staged, simState{
		index: snap.Index, term: snap.Term, conf: snap.ConfState, digest: binary.LittleEndian.Uint64(snap.Data),
	})
	return nil
}

// InstallSnapshot implements StateMachine.
func (s *simStore) InstallSnapshot(index, term uint64) error {
	for _, staged := range s.staged {
		if staged.index != index || staged.term != term {
			continue
		}
		s.staged = nil
		if index > s.durable.index {
			s.w.installed(s.m, staged)
			s.durable, s.state = staged, staged
		}
		return nil
	}
	return fmt.Errorf("snapshot %d of term %d was not staged", index, term)
}
