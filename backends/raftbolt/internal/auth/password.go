package auth

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/bcrypt"

	"github.com/etcdshim/shim/backends"
)

// The bounds of bcrypt's cost, and etcd's default of --bcrypt-cost.
const (
	MinCost     = bcrypt.MinCost
	MaxCost     = bcrypt.MaxCost
	DefaultCost = bcrypt.DefaultCost
)

// MaxPasswordBytes is bcrypt's: it looks at no more.
const MaxPasswordBytes = 72

// maxHashWaiters bounds those who wait for a slot of a Hasher: with etcd's default
// cost a minute's work of one processor.
const maxHashWaiters = 1024

// hashSlots is how many hashes are computed at a time: half of the processors, so
// that clients who guess passwords leave the other half to all else.
func hashSlots() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// Hasher hashes passwords with bcrypt, and compares them, on its callers'
// goroutines, a few at a time. It is safe for concurrent use.
type Hasher struct {
	cost int
	// slots has a token for each hash that may be computed now.
	slots chan struct{}
	// waiting counts those who wait for a token or have one.
	waiting atomic.Int64
	// decoy is a hash of the same cost that no password is known for.
	decoy []byte
}

// NewHasher makes a Hasher; cost is between MinCost and MaxCost.
func NewHasher(cost int) *Hasher {
	// Version, cost, 16 bytes of salt and 23 of hash, in bcrypt's base64: all zero.
	decoy := fmt.Sprintf("$2a$%02d$%s", cost, strings.Repeat(".", 22+31))
	return &Hasher{cost: cost, slots: make(chan struct{}, hashSlots()), decoy: []byte(decoy)}
}

// Hash hashes a password, which takes long. ErrPasswordTooLong, ErrTooManyRequests,
// ctx's error.
func (h *Hasher) Hash(ctx context.Context, password string) ([]byte, error) {
	if len(password) > MaxPasswordBytes {
		return nil, backends.ErrPasswordTooLong
	}
	release, err := h.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return bcrypt.GenerateFromPassword([]byte(password), h.cost)
}

// Matches tells whether a hash is of a password. What is no hash, such as nil, takes
// as long to compare as one of this Hasher's, and matches nothing.
// ErrTooManyRequests, ctx's error.
func (h *Hasher) Matches(ctx context.Context, hash []byte, password string) (bool, error) {
	release, err := h.acquire(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	err = bcrypt.CompareHashAndPassword(hash, []byte(password))
	if err != nil && !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		// It is no hash, so that nothing was computed.
		_ = bcrypt.CompareHashAndPassword(h.decoy, []byte(password))
	}
	return err == nil, nil
}

func (h *Hasher) acquire(ctx context.Context) (release func(), err error) {
	if h.waiting.Add(1) > maxHashWaiters+int64(cap(h.slots)) {
		h.waiting.Add(-1)
		return nil, backends.ErrTooManyRequests
	}
	select {
	case h.slots <- struct{}{}:
		return func() { <-h.slots; h.waiting.Add(-1) }, nil
	case <-ctx.Done():
		h.waiting.Add(-1)
		return nil, ctx.Err()
	}
}
