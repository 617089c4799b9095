package raftbolt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt/internal/auth"
	"github.com/etcdshim/shim/backends/raftbolt/internal/replica"
)

// Range implements backends.Backend.
func (b *Backend) Range(ctx context.Context, req *backends.RangeRequest) (backends.Cursor, error) {
	began := b.env.Clock.Now()
	cursor, err := b.openRange(ctx, req)
	b.metrics.answered("Range", err, b.env.Clock.Now().Sub(began))
	return cursor, err
}

func (b *Backend) openRange(ctx context.Context, req *backends.RangeRequest) (backends.Cursor, error) {
	wait := b.readIndex
	if req.Serializable {
		wait = b.awaitReady
	}
	if err := wait(ctx); err != nil {
		return nil, err
	}
	view, err := b.permittedView(ctx, &req.Caller, func(s *auth.State, who *backends.Caller) error {
		return s.Read(who, req.KeyRange)
	})
	if err != nil {
		return nil, err
	}
	defer view.Close()
	began := b.env.Clock.Now()
	cursor, err := view.Range(req.RangeOptions)
	b.metrics.read(err, b.env.Clock.Now().Sub(began))
	if err != nil {
		return nil, err
	}
	return &rangeCursor{cursor, b.header(view.Revision())}, nil
}

// Txn implements backends.Backend.
func (b *Backend) Txn(ctx context.Context, req *backends.TxnRequest) (*backends.TxnResult, error) {
	reads, err := survey(&req.TxnOp, 0)
	if err != nil {
		return nil, err
	}
	if reads {
		began := b.env.Clock.Now()
		result, err := b.readTxn(ctx, &req.Caller, &req.TxnOp)
		b.metrics.answered("ReadonlyTxn", err, b.env.Clock.Now().Sub(began))
		return result, err
	}
	if err := b.checkQuota(ctx, txnCost(&req.TxnOp)); err != nil {
		return nil, err
	}
	out, err := b.propose(ctx, &command{kind: kindTxn, caller: identity(&req.Caller), txn: &req.TxnOp})
	if err != nil {
		return nil, err
	}
	return out.txn, nil
}

// survey tells whether a transaction can only read, and refuses what cannot be
// encoded: an operation without content, which etcd answers so, and too deep
// nesting.
func survey(t *backends.TxnOp, depth int) (reads bool, err error) {
	if depth > maxTxnDepth {
		return false, backends.ErrRequestTooLarge
	}
	reads = true
	for _, ops := range [2][]backends.Op{t.Success, t.Failure} {
		for i := range ops {
			switch o := &ops[i]; {
			case o.Range != nil:
			case o.Put != nil, o.Delete != nil:
				reads = false
			case o.Txn != nil:
				nested, err := survey(o.Txn, depth+1)
				if err != nil {
					return false, err
				}
				reads = reads && nested
			default:
				return false, backends.ErrKeyNotFound
			}
		}
	}
	return reads, nil
}

// nests tells whether a transaction has another in it.
func nests(t *backends.TxnOp) bool {
	isTxn := func(o backends.Op) bool { return o.Txn != nil }
	return slices.ContainsFunc(t.Success, isTxn) || slices.ContainsFunc(t.Failure, isTxn)
}

// readTxn runs a transaction that can only read on one View.
func (b *Backend) readTxn(ctx context.Context, caller *backends.Caller, t *backends.TxnOp) (_ *backends.TxnResult, err error) {
	if err := b.readIndex(ctx); err != nil {
		return nil, err
	}
	// etcd takes whatever is nested for a write (txn.IsTxnReadonly).
	if nests(t) && b.machine.alarms.Load().raised(backends.AlarmCorrupt) {
		return nil, backends.ErrCorrupt
	}
	view, err := b.permittedView(ctx, caller, func(s *auth.State, who *backends.Caller) error {
		return b.machine.permitTxn(s, who, t)
	})
	if err != nil {
		return nil, err
	}
	defer view.Close()
	s := viewPresent{ctx, view}
	p, err := choose(s, t)
	if err != nil {
		return nil, err
	}
	checked := p
	if err := b.machine.check(s, t, &checked); err != nil {
		return nil, err
	}
	result := &backends.TxnResult{Header: b.header(view.Revision())}
	run := readRun{s, result.Header}
	if err := run.txn(t, &p, &result.TxnOpResult); err != nil {
		result.Close()
		return nil, err
	}
	return result, nil
}

// readRun executes a path of ranges.
type readRun struct {
	viewPresent
	header backends.Header
}

func (r *readRun) txn(t *backends.TxnOp, p *path, out *backends.TxnOpResult) error {
	out.Succeeded = p.next()
	ops := branch(t, out.Succeeded)
	if len(ops) == 0 {
		return nil
	}
	out.Responses = make([]backends.OpResult, len(ops))
	for i := range ops {
		response := &out.Responses[i]
		if nested := ops[i].Txn; nested != nil {
			response.Txn = new(backends.TxnOpResult)
			if err := r.txn(nested, p, response.Txn); err != nil {
				return err
			}
			continue
		}
		cursor, err := r.view.Range(*ops[i].Range)
		if err != nil {
			return err
		}
		response.Range, response.Revision = &rangeCursor{cursor, r.header}, r.header.Revision
	}
	return nil
}

// Compact implements backends.Backend.
func (b *Backend) Compact(ctx context.Context, req *backends.CompactRequest) (backends.Header, error) {
	out, err := b.propose(ctx, &command{kind: kindCompact, revision: req.Revision})
	if err != nil {
		return backends.Header{}, err
	}
	if req.Physical {
		if err := b.store.CompactDone(ctx, req.Revision); err != nil {
			return backends.Header{}, err
		}
	}
	return b.headerOf(out), nil
}

// header is that of an answer made now.
func (b *Backend) header(revision int64) backends.Header {
	h := b.machine.header
	h.Revision, h.Term = revision, b.node.Status().Term
	return h
}

// headerOf is that of a proposal's answer.
func (b *Backend) headerOf(out outcome) backends.Header {
	h := b.machine.header
	h.Revision, h.Term = out.revision, out.term
	return h
}

// awaitReady waits until an entry of the current term was applied for the first
// time since the start: before that the store may lack acknowledged writes.
func (b *Backend) awaitReady(ctx context.Context) error {
	select {
	case <-b.ready:
		if b.closed.Load() {
			return backends.ErrStopped
		}
		return nil
	default:
	}
	timeout, stop := b.env.Clock.After(b.config.requestTimeout())
	defer stop()
	select {
	case <-b.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.running.Done():
		return backends.ErrStopped
	case <-timeout:
		return backends.ErrTimeout
	}
}

// readIndex waits until the store reflects every write acknowledged before the
// call. All that wait share one round.
func (b *Backend) readIndex(ctx context.Context) error {
	if err := b.awaitReady(ctx); err != nil {
		return err
	}
	inner := ctx
	if s := b.node.Status(); s.Role != replica.Leader || !s.TermApplied {
		// Only then does it wait.
		var cancel context.CancelFunc
		inner, cancel = context.WithTimeoutCause(ctx, b.config.requestTimeout(), backends.ErrTimeout)
		defer cancel()
	}
	_, err := b.node.ReadIndex(inner)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		b.metrics.slowReads.Inc()
		b.metrics.failedReads.Inc()
		return backends.ErrTimeout
	}
	b.metrics.failedReads.Inc()
	return replicaError(err)
}

// propose sends a command on its way and waits for its outcome. The error is the
// outcome's own, or one of those that errors.go names for a wait without one.
func (b *Backend) propose(ctx context.Context, c *command) (outcome, error) {
	if err := b.awaitReady(ctx); err != nil {
		return outcome{}, err
	}
	began := b.env.Clock.Now()
	w, err := b.send(c)
	if err != nil {
		b.metrics.failedProposals.Inc()
		return outcome{}, err
	}
	b.metrics.pending.Inc()
	out, err := b.await(ctx, w)
	b.metrics.pending.Dec()
	b.metrics.answered(c.op(), err, b.env.Clock.Now().Sub(began))
	if err != nil && !out.applied {
		b.metrics.failedProposals.Inc()
	}
	if c.grows() && !out.applied && errors.Is(err, backends.ErrNoSpace) {
		// Not by an alarm, but for want of room in the log.
		if alarmErr := b.raiseNoSpace(ctx); alarmErr != nil {
			b.env.Logger.Warn("the disk is full, and the alarm could not be raised", zap.Error(alarmErr))
		}
	}
	return out, err
}

// send proposes a command. After an error it is certain that it was not done.
func (b *Backend) send(c *command) (*waiter, error) {
	if c.grows() {
		return b.sendBy(c, b.node.Propose)
	}
	return b.sendBy(c, b.node.ProposeReserved)
}

// sendBy gives a command its id and hands it to propose, which may drop it later.
func (b *Backend) sendBy(c *command, propose func([]byte, func(error)) error) (*waiter, error) {
	w, id := b.waiters.register()
	c.id = id
	err := propose(c.encode(), w.dropped)
	if err == nil {
		return w, nil
	}
	if b.waiters.take(id) != nil {
		return nil, replicaError(err)
	}
	// Something else ended it first, with an outcome that is in the channel.
	out := <-w.outcome
	out.discard()
	return nil, replicaError(err)
}

// await receives the outcome of what was sent.
func (b *Backend) await(ctx context.Context, w *waiter) (outcome, error) {
	select {
	case out := <-w.outcome:
		b.waiters.recycle(w, out)
		return out, out.err
	case <-ctx.Done():
	}
	if b.waiters.take(requestID{b.waiters.member, b.waiters.boot, w.counter}) != nil {
		return outcome{}, ctx.Err()
	}
	// It is being applied right now: its outcome is worth the moment.
	out := <-w.outcome
	b.waiters.recycle(w, out)
	return out, out.err
}

// replicaError translates an error of Propose, ReadIndex or a dropped proposal.
func replicaError(err error) error {
	switch {
	case errors.Is(err, replica.ErrStopped):
		return backends.ErrStopped
	case errors.Is(err, replica.ErrNoLeader):
		return backends.ErrNoLeader
	case errors.Is(err, replica.ErrNoSpace):
		return backends.ErrNoSpace
	case errors.Is(err, replica.ErrTooManyPending), errors.Is(err, replica.ErrDropped):
		return backends.ErrTooManyRequests
	case errors.Is(err, replica.ErrTooLarge):
		return backends.ErrRequestTooLarge
	}
	return fmt.Errorf("replica: %w", err)
}
