package raftbolt

import (
	"fmt"

	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// loadAuth reads users and roles. Whatever gives the machine another store has to call it:
// what is kept here is the store's (etcd issue 14571).
func (m *machine) loadAuth() error {
	s, err := auth.Load(func(b auth.Bucket, f func(k, v []byte)) error { return m.store.Bucket(mvcc.Bucket(b), f) })
	if err != nil {
		return fmt.Errorf("%w: users and roles in the store: %w", ErrDirectoryCorrupt, err)
	}
	m.auth.Store(s)
	return nil
}

// applyAuthChange changes users, roles, or whether authentication is on.
func (m *machine) applyAuthChange(c *command) (outcome, error) {
	made, err := m.auth.Load().Apply(&c.caller, c.change)
	if err != nil {
		return outcome{err: err}, nil
	}
	t := m.store.Begin()
	for _, w := range made.Writes {
		if w.Value == nil {
			t.Delete(mvcc.Bucket(w.Bucket), w.Key)
		} else {
			t.Set(mvcc.Bucket(w.Bucket), w.Key, w.Value)
		}
	}
	revision, err := t.Commit()
	if err != nil {
		return outcome{}, err
	}
	m.auth.Store(made.State)
	if made.EndAll {
		m.tokens.EndAll()
	}
	if made.EndUser != "" {
		m.tokens.EndUser(made.EndUser)
	}
	m.tellAuthChange(c.change, made.State)
	return outcome{revision: revision}, nil
}

// applyAuthenticate gives a user, whose password was compared before, a simple token.
func (m *machine) applyAuthenticate(e replica.Entry, c *command) (outcome, error) {
	if err := m.auth.Load().Login(&c.caller); err != nil {
		return outcome{err: err}, nil
	}
	m.tokens.Assign(c.caller.User, c.token, e.Index, m.clock.Now())
	return outcome{revision: m.store.Committed(), index: e.Index}, nil
}
