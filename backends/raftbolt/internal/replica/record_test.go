package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// record is a state machine that keeps every command, and "flushes" when told to. It outlives nodes, as a store outlives a process.
type record struct {
	mu       sync.Mutex
	commands [][]byte // applied
	index    uint64
	term     uint64
	conf     ConfState

	durable     Durable
	durableSize int // commands in durable
	changed     chan struct{}
	staged      *Snapshot
	installed   int
}

func newRecord(voters ...uint64) *record {
	conf := ConfState{Voters: voters}
	return &record{index: 1, term: 1, conf: conf, durable: Durable{Index: 1, Term: 1, ConfState: conf}, changed: make(chan struct{})}
}

func (r *record) Durable() Durable {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.durable
}

func (r *record) Apply(entries []Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		if e.Index != r.index+1 {
			return fmt.Errorf("entry %d follows %d", e.Index, r.index)
		}
		r.index, r.term = e.Index, e.Term
		r.commands = append(r.commands, e.Commands...)
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

func (r *record) CheckConfChange(change ConfChange) error {
	if change.Member == 13 {
		return errors.New("unlucky")
	}
	return nil
}

func (r *record) ApplyConfChange(e Entry, _ ConfChange, state ConfState, _ error) error {
	r.mu.Lock()
	r.conf = state
	r.mu.Unlock()
	return r.Apply([]Entry{e})
}

// Snapshot encodes the commands as an entry does.
func (r *record) Snapshot() (Snapshot, error) {
	r.flush()
	r.mu.Lock()
	defer r.mu.Unlock()
	data := []byte{entryVersion}
	for _, c := range r.commands {
		data = append(binary.AppendUvarint(data, uint64(len(c))), c...)
	}
	return Snapshot{Durable: r.durable, Data: data}, nil
}

func (r *record) StageSnapshot(s Snapshot) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.staged = &s
	return nil
}

func (r *record) InstallSnapshot(index, term uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.staged == nil || r.staged.Index != index || r.staged.Term != term {
		return fmt.Errorf("snapshot %d is not staged", index)
	}
	all, err := commands(r.staged.Data)
	if err != nil {
		return err
	}
	r.commands, r.index, r.term, r.conf = all, index, term, r.staged.ConfState
	r.durable, r.durableSize = r.staged.Durable, len(all)
	r.installed++
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

func (r *record) installs() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.installed
}

func (r *record) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.commands)
}

func (r *record) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(bytes.Join(r.commands, []byte{0}))
}

// flush makes what is applied durable and tells its index.
func (r *record) flush() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.durable = Durable{Index: r.index, Term: r.term, ConfState: r.conf}
	r.durableSize = len(r.commands)
	return r.index
}

// crash forgets what is not durable.
func (r *record) crash() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands = r.commands[:r.durableSize]
	r.index, r.term, r.conf = r.durable.Index, r.durable.Term, r.durable.ConfState
}

// await waits until n commands are applied.
func (r *record) await(t *testing.T, n int) {
	t.Helper()
	r.awaitOr(t, n, nil)
}

// awaitOr waits until n commands are applied, or something comes on other; it tells whether it was the former.
func (r *record) awaitOr(t *testing.T, n int, other <-chan error) bool {
	t.Helper()
	timeout := time.After(deadline)
	for {
		r.mu.Lock()
		have, changed := len(r.commands), r.changed
		r.mu.Unlock()
		if have >= n {
			return true
		}
		select {
		case <-changed:
		case <-other:
			return false
		case <-timeout:
			t.Fatalf("%d commands applied, want %d", have, n)
		}
	}
}
