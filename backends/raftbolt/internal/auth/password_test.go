package auth

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/etcdshim/shim/backends"
)

func TestHasher(t *testing.T) {
	h, ctx := NewHasher(MinCost), t.Context()
	for _, password := range []string{"", "secret", strings.Repeat("x", MaxPasswordBytes)} {
		hash, err := h.Hash(ctx, password)
		if err != nil {
			t.Fatal(err)
		}
		if cost, err := bcrypt.Cost(hash); err != nil || cost != MinCost {
			t.Errorf("cost %d, %v", cost, err)
		}
		for guess, want := range map[string]bool{password: true, password + "x": len(password) == MaxPasswordBytes, "other": false} {
			if ok, err := h.Matches(ctx, hash, guess); err != nil || ok != want {
				t.Errorf("%q for %q: %v, %v", guess, password, ok, err)
			}
		}
	}
	if _, err := h.Hash(ctx, strings.Repeat("x", MaxPasswordBytes+1)); !errors.Is(err, backends.ErrPasswordTooLong) {
		t.Error(err)
	}
	// etcd sends bcrypt's text.
	if backends.ErrPasswordTooLong.Error() != bcrypt.ErrPasswordTooLong.Error() {
		t.Error("bcrypt says it otherwise")
	}
	for _, hash := range [][]byte{nil, {}, []byte("$2a$04$short"), []byte(strings.Repeat("x", 60)), h.decoy} {
		if ok, err := h.Matches(ctx, hash, ""); ok || err != nil {
			t.Errorf("%q: %v, %v", hash, ok, err)
		}
	}
}

// TestDecoy ensures that an unknown user costs as much as a wrong password: what is
// compared instead is a hash of the same cost, which bcrypt computes to the end.
func TestDecoy(t *testing.T) {
	for _, cost := range []int{MinCost, 5} {
		h := NewHasher(cost)
		if got, err := bcrypt.Cost(h.decoy); err != nil || got != cost {
			t.Errorf("the decoy's cost is %d, %v", got, err)
		}
		if err := bcrypt.CompareHashAndPassword(h.decoy, []byte("guess")); !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			t.Error(err)
		}
	}
}

// TestHasherBounds ensures that a bounded number of hashes is computed and waited for.
func TestHasherBounds(t *testing.T) {
	h := NewHasher(MinCost)
	for range cap(h.slots) {
		if _, err := h.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	for range maxHashWaiters {
		go func() {
			_, err := h.Matches(ctx, nil, "")
			ended <- err
		}()
	}
	for h.waiting.Load() < int64(cap(h.slots)+maxHashWaiters) {
		runtime.Gosched()
	}
	if _, err := h.Hash(t.Context(), ""); !errors.Is(err, backends.ErrTooManyRequests) {
		t.Errorf("all places are taken: %v", err)
	}
	cancel()
	for range maxHashWaiters {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if n := h.waiting.Load(); n != int64(cap(h.slots)) {
		t.Errorf("%d places are taken after all gave up", n)
	}
}
