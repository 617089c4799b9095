package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
)

// own picks a random other key that belongs to client c of n.
func (t *target) own(rng *rand.Rand, c, n int) int {
	g := t.data.others
	return g.first + c + n*rng.IntN((g.size()-c+n-1)/n)
}

// random is the source of client c; the model is what makes a run repeatable, not
// the choice of keys.
func (t *target) random(c int) *rand.Rand { return rand.New(rand.NewPCG(t.data.seed, uint64(c))) }

// runGet reads one key after another, linearizable, out of all that are there.
func runGet(clients func(sizes) int) func(context.Context, *target, time.Duration) (figure, error) {
	return func(ctx context.Context, t *target, d time.Duration) (figure, error) {
		run, done, err := closedLoop(t, clients(t.sizes), func(c int, conn *grpc.ClientConn) func(context.Context) error {
			rng, builder := t.random(c), &requestBuilder{data: t.data}
			var answer single
			var want []byte
			return func(ctx context.Context) error {
				i := t.data.paged.first + rng.IntN(t.data.others.end-t.data.paged.first)
				if err := call(ctx, conn, methodRange, builder.get(i), &answer); err != nil {
					return err
				}
				want = t.appendRecord(want[:0], i)
				return answer.verify(want)
			}
		})
		if err != nil {
			return figure{}, err
		}
		defer done()
		return measure(ctx, t, d, run)
	}
}

// putter makes clients that update random keys of their own.
func putter(t *target, clients int) newClient {
	return func(c int, conn *grpc.ClientConn) func(context.Context) error {
		rng, builder := t.random(c), &requestBuilder{data: t.data}
		var answer written
		return func(ctx context.Context) error {
			i := t.own(rng, c, clients)
			if err := call(ctx, conn, methodPut, builder.put(i, t.version[i]+1), &answer); err != nil {
				return err
			}
			if answer.revision <= t.mod[i] {
				return fmt.Errorf("put of %q answered revision %d, and the last was at %d", t.data.keys[i], answer.revision, t.mod[i])
			}
			t.put(i, answer.revision)
			return nil
		}
	}
}

// runPut updates random keys, then verifies that each write made one revision and
// that every key holds its last.
func runPut(clients func(sizes) int) func(context.Context, *target, time.Duration) (figure, error) {
	return func(ctx context.Context, t *target, d time.Duration) (figure, error) {
		return t.measureWrites(ctx, d, clients(t.sizes), putter)
	}
}

// runGuarded updates random keys as Kubernetes does.
func runGuarded(clients func(sizes) int) func(context.Context, *target, time.Duration) (figure, error) {
	return func(ctx context.Context, t *target, d time.Duration) (figure, error) {
		return t.measureWrites(ctx, d, clients(t.sizes), guarder)
	}
}

// guarder makes clients that update random keys of their own if they are at the
// revision of their last write, which they always are.
func guarder(t *target, clients int) newClient {
	return func(c int, conn *grpc.ClientConn) func(context.Context) error {
		rng, builder := t.random(c), &requestBuilder{data: t.data}
		var answer written
		return func(ctx context.Context) error {
			i := t.own(rng, c, clients)
			if err := call(ctx, conn, methodTxn, builder.guarded(i, t.mod[i], t.version[i]+1), &answer); err != nil {
				return err
			}
			if answer.second != 1 || answer.responses != 1 || answer.revision <= t.mod[i] {
				return fmt.Errorf("guarded txn on %q at %d: succeeded %d, %d answers, revision %d", t.data.keys[i], t.mod[i], answer.second, answer.responses, answer.revision)
			}
			t.put(i, answer.revision)
			return nil
		}
	}
}

// measureWrites measures clients that write, each its own keys, one revision per
// operation.
func (t *target) measureWrites(ctx context.Context, d time.Duration, clients int, kind func(*target, int) newClient) (figure, error) {
	run, done, err := closedLoop(t, clients, kind(t, clients))
	if err != nil {
		return figure{}, err
	}
	defer done()
	before, err := t.revision(ctx)
	if err != nil {
		return figure{}, err
	}
	versions := total(t.version)
	f, err := measure(ctx, t, d, run)
	if err != nil {
		return f, err
	}
	after, err := t.revision(ctx)
	if err != nil {
		return f, err
	}
	if writes := total(t.version) - versions; after-before != writes {
		return f, fmt.Errorf("%d acknowledged writes made %d revisions", writes, after-before)
	}
	return f, t.verifyAll(ctx)
}

func total(values []int64) int64 {
	var sum int64
	for _, v := range values {
		sum += v
	}
	return sum
}
