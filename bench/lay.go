package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// batch is how many puts one transaction lays; servers allow 128.
	batch = 100
	// loaders is how many clients lay data at a time, each its own keys: enough to
	// share each sync, and so few that no server reaches its time-out of a request.
	loaders = 16
)

// lay puts the keys of groups in random order, each 1 to 6 times, and verifies
// what is there then.
func (t *target) lay(ctx context.Context, round int, groups ...group) error {
	begin := time.Now()
	order := t.data.order(round, groups...)
	perLoader := make([][]int32, loaders)
	for _, i := range order {
		perLoader[int(i)%loaders] = append(perLoader[int(i)%loaders], i)
	}
	conns, err := dial(t.address, loaders/4)
	if err != nil {
		return err
	}
	defer hangUp(conns)
	err = together(ctx, loaders, func(ctx context.Context, l int) error {
		builder := &requestBuilder{data: t.data}
		for order := perLoader[l]; len(order) > 0; {
			var taken []int32
			taken, order = nextBatch(order)
			var answer written
			if err := call(ctx, conns[l%len(conns)], methodTxn, builder.batch(t.state, taken), &answer); err != nil {
				return err
			}
			if answer.second != 1 || answer.responses != len(taken) {
				return fmt.Errorf("a txn of %d puts succeeded %d with %d answers", len(taken), answer.second, answer.responses)
			}
			for _, i := range taken {
				t.put(int(i), answer.revision)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("laying data in %s: %w", t.name, err)
	}
	laid := since(begin)
	if err := t.singlePuts(ctx); err != nil {
		return err
	}
	if err := t.verifyAll(ctx); err != nil {
		return err
	}
	progressf("  %s: laid %d writes in %s (%.0f/s), verified after %s", t.name, len(order), laid, float64(len(order))/laid.Seconds(), since(begin))
	return t.wait(ctx)
}

// nextBatch takes up to batch puts of distinct keys from the front of order, in which
// a key stands once for each of its puts. It changes order in place.
func nextBatch(order []int32) (taken, rest []int32) {
	var later []int32
	seen := make(map[int32]bool, batch)
	n := 0
	for n < len(order) && len(taken) < batch {
		i := order[n]
		n++
		if seen[i] {
			later = append(later, i)
			continue
		}
		seen[i] = true
		taken = append(taken, i)
	}
	copy(order[n-len(later):n], later)
	return taken, order[n-len(later):]
}

// batch encodes a txn that puts the next version of each key.
func (b *requestBuilder) batch(s *state, indexes []int32) encoded {
	b.out = b.out[:0]
	for _, i := range indexes {
		b.inner = b.appendPut(b.inner[:0], int(i), s.version[i]+1)
		b.out = appendOp(b.out, txnSuccess, opPut, b.inner)
	}
	return b.out
}

// singlePuts updates random other keys one by one, sizes.flushing of them or more.
func (t *target) singlePuts(ctx context.Context) error {
	clients := t.sizes.some
	run, done, err := closedLoop(t, clients, putter(t, clients))
	if err != nil {
		return err
	}
	defer done()
	for left := t.sizes.flushing; left > 0; {
		got, err := run(ctx, 100*time.Millisecond)
		if err != nil {
			return err
		}
		left -= int(got.ops)
	}
	return nil
}

// together runs f for 0 to n-1 at the same time, and returns the first error, upon
// which the context of the others ends.
func together(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
