package raftbolt

import (
	"context"
	"errors"
	"slices"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/mvcc"
)

// Who may do what with keys. A write is checked when it is applied, on the auth
// state of that moment, which refuses a caller who was identified before the last
// change of it: see machine.permit. A read is checked after what it shows was read,
// on an auth state that is no older: that the caller was identified at this very auth
// revision tells that what it may do was the same all the while.
//
// The rules are etcd's: etcdserver/apply/auth.go for what is applied,
// etcdserver/v3_server.go for reads and leases.

// identity is what a command carries of its caller.
func identity(c *backends.Caller) backends.Caller {
	return backends.Caller{User: c.User, AuthRevision: c.AuthRevision}
}

// isRefusal tells whether an error says that a caller may not do what it asks for.
func isRefusal(err error) bool {
	return slices.ContainsFunc([]error{backends.ErrPermissionDenied, backends.ErrUserEmpty, backends.ErrAuthOldRevision,
		backends.ErrInvalidAuthToken}, func(refusal error) bool { return errors.Is(err, refusal) })
}

// permitRead asks check about a caller, on the auth state of now. It is called after
// what is to be shown was read. When the caller was identified at another auth
// revision it is identified anew, which changes who: again tells the reader to read
// once more, and to ask again. check is not asked while authentication is off.
func (b *Backend) permitRead(ctx context.Context, who *backends.Caller, check func(*auth.State, *backends.Caller) error) (again bool, err error) {
	s := b.machine.auth.Load()
	if !s.Enabled() {
		return false, nil
	}
	return b.permitReadAt(ctx, s, who, check)
}

func (b *Backend) permitReadAt(ctx context.Context, s *auth.State, who *backends.Caller,
	check func(*auth.State, *backends.Caller) error,
) (again bool, err error) {
	err = check(s, who)
	if err == nil || who.AuthRevision == s.Revision() || who.Token == "" && !who.Certified {
		return false, err
	}
	fresh, bad := b.Identify(ctx, *who)
	if bad != nil {
		return false, bad
	}
	if fresh.AuthRevision == who.AuthRevision {
		return false, err // a signed token's revision is its own
	}
	*who = fresh
	return true, nil
}

// permittedView takes a View for a caller of whom check permits what it reads there.
// It must be closed.
func (b *Backend) permittedView(ctx context.Context, caller *backends.Caller, check func(*auth.State, *backends.Caller) error) (*mvcc.View, error) {
	view := b.store.View()
	if s := b.machine.auth.Load(); s.Enabled() {
		return b.permittedViewAt(ctx, s, view, *caller, check)
	}
	return view, nil
}

func (b *Backend) permittedViewAt(ctx context.Context, s *auth.State, view *mvcc.View, who backends.Caller,
	check func(*auth.State, *backends.Caller) error,
) (*mvcc.View, error) {
	for {
		again, err := b.permitReadAt(ctx, s, &who, func(s *auth.State, who *backends.Caller) error {
			if err := check(s, who); err != nil {
				return err
			}
			// As in etcd (doSerialize) also a revision above the present one, which a signed
			// token may have, is not the present one.
			if who.AuthRevision != 0 && who.AuthRevision != s.Revision() {
				return backends.ErrAuthOldRevision
			}
			return nil
		})
		if err == nil && !again {
			return view, nil
		}
		view.Close()
		if err != nil {
			return nil, err
		}
		view = b.store.View()
		s = b.machine.auth.Load()
	}
}

// permitWatch is a watchStream's permit. Whoever may watch when a watch is added goes
// on to, as in etcd.
func (b *Backend) permitWatch(ctx context.Context, req *backends.WatchRequest) error {
	if !b.machine.auth.Load().Enabled() {
		return nil
	}
	who := req.Caller
	for {
		again, err := b.permitRead(ctx, &who, func(s *auth.State, who *backends.Caller) error { return s.Read(who, req.KeyRange) })
		if !again {
			return err
		}
	}
}

// permit checks the caller of a command that is applied. Changes of users and roles,
// and authentications, are checked by what they do.
func (m *machine) permit(c *command) error {
	s := m.auth.Load()
	if !s.Enabled() {
		return nil
	}
	switch c.kind {
	case kindTxn:
		return m.permitTxn(s, &c.caller, c.txn)
	case kindLeaseRevoke:
		if c.term == 0 { // else it is the leader who asks
			return m.permitLease(s, &c.caller, c.lease)
		}
	case kindCompact, kindLeaseGrant, kindCheckpoint, kindAlarm, kindAttributes, kindAuthChange, kindAuthenticate,
		kindVersion, kindDowngrade, kindMember:
	}
	return nil
}

// permitTxn checks all that a transaction could do, in either branch and in those
// nested in it.
func (m *machine) permitTxn(s *auth.State, who *backends.Caller, t *backends.TxnOp) error {
	for i := range t.Compare {
		if err := s.Read(who, t.Compare[i].KeyRange); err != nil {
			return err
		}
	}
	for _, ops := range [2][]backends.Op{t.Success, t.Failure} {
		for i := range ops {
			if err := m.permitOp(s, who, &ops[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *machine) permitOp(s *auth.State, who *backends.Caller, o *backends.Op) error {
	switch {
	case o.Range != nil:
		return s.Read(who, o.Range.KeyRange)
	case o.Put != nil:
		return m.permitPut(s, who, o.Put)
	case o.Delete != nil:
		if err := s.Write(who, o.Delete.KeyRange); err != nil || !o.Delete.PrevKV {
			return err
		}
		return s.Read(who, o.Delete.KeyRange)
	case o.Txn != nil:
		return m.permitTxn(s, who, o.Txn)
	}
	return backends.ErrPermissionDenied // nothing else can be decoded
}

// permitPut also checks the keys of the lease: whoever attaches a key to it could
// not revoke it for want of the right to write them.
func (m *machine) permitPut(s *auth.State, who *backends.Caller, p *backends.PutOp) error {
	key := backends.KeyRange{Key: p.Key}
	if err := s.Write(who, key); err != nil {
		return err
	}
	if p.Lease != 0 {
		if err := m.permitLease(s, who, p.Lease); err != nil {
			return err
		}
	}
	if p.PrevKV {
		return s.Read(who, key)
	}
	return nil
}

// permitLease checks the right to write every key of a lease. Of a lease that does not
// exist nothing is refused.
func (m *machine) permitLease(s *auth.State, who *backends.Caller, id int64) (err error) {
	if s.Admin(who) == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases.EachKey(id, func(key string) bool {
		err = s.Write(who, backends.KeyRange{Key: []byte(key)})
		return err == nil
	})
	return err
}

// permitRenew is permitLease for a keep-alive, which takes a known caller even of a
// lease without keys.
func (m *machine) permitRenew(s *auth.State, who *backends.Caller, id int64) error {
	if err := s.Known(who); err != nil {
		return err
	}
	return m.permitLease(s, who, id)
}

// permitLeaseKeys checks the right to be shown keys of a lease.
func permitLeaseKeys(s *auth.State, who *backends.Caller, keys [][]byte) error {
	if err := s.Known(who); err != nil {
		return err
	}
	if s.Admin(who) == nil {
		return nil
	}
	for _, key := range keys {
		if err := s.Read(who, backends.KeyRange{Key: key}); err != nil {
			return err
		}
	}
	return nil
}

// permitLeases checks the right to be shown leases, which takes that to read every key
// of each.
func (m *machine) permitLeases(s *auth.State, who *backends.Caller, ids []int64) (err error) {
	if err := s.Known(who); err != nil {
		return err
	}
	if s.Admin(who) == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		m.leases.EachKey(id, func(key string) bool {
			err = s.Read(who, backends.KeyRange{Key: []byte(key)})
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
