package auth

import (
	"container/list"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A simple token is, as in etcd (server/auth/simple_token.go), prefixLetters random
// letters, a dot, and the raft index at which it was assigned.
const (
	letters       = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	prefixLetters = 16
)

// maxSimpleTokens bounds the tokens that are kept, some 50 MiB of them: more than a
// hundred processors authenticate, at bcrypt's default cost, within etcd's default
// TTL. Beyond it, the one that was not used for longest ends.
const maxSimpleTokens = 1 << 18

// simpleTokens are the tokens that were assigned and have not ended.
type simpleTokens struct {
	ttl time.Duration

	mu     sync.Mutex
	tokens map[string]*list.Element // of *assigned
	// byUse has the one that was not used for longest first: it expires first, since
	// all live as long.
	byUse *list.List
}

// assigned is one simple token.
type assigned struct {
	token, user string
	expires     time.Time
}

func newSimpleTokens(ttl time.Duration) *simpleTokens {
	return &simpleTokens{ttl: ttl, tokens: make(map[string]*list.Element), byUse: list.New()}
}

func simpleToken(prefix string, index uint64) string {
	return prefix + "." + strconv.FormatUint(index, 10)
}

func simpleIndex(token string) (index uint64, ok bool) {
	_, digits, ok := strings.Cut(token, ".")
	if !ok {
		return 0, false
	}
	index, err := strconv.ParseUint(digits, 10, 64)
	return index, err == nil
}

// assign keeps a token. One that is there already stays the other's.
func (s *simpleTokens) assign(token, user string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	if s.tokens[token] != nil {
		return
	}
	s.tokens[token] = s.byUse.PushBack(&assigned{token, user, now.Add(s.ttl)})
	if len(s.tokens) > maxSimpleTokens {
		s.remove(s.byUse.Front())
	}
}

// find tells whose a token is, and renews it.
func (s *simpleTokens) find(token string, now time.Time) (user string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	e := s.tokens[token]
	if e == nil {
		return "", false
	}
	a := e.Value.(*assigned)
	a.expires = now.Add(s.ttl)
	s.byUse.MoveToBack(e)
	return a.user, true
}

// expire ends the tokens whose time is over. Caller holds mu.
func (s *simpleTokens) expire(now time.Time) {
	for e := s.byUse.Front(); e != nil && now.After(e.Value.(*assigned).expires); e = s.byUse.Front() {
		s.remove(e)
	}
}

func (s *simpleTokens) remove(e *list.Element) {
	delete(s.tokens, e.Value.(*assigned).token)
	s.byUse.Remove(e)
}

func (s *simpleTokens) endUser(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.tokens {
		if e.Value.(*assigned).user == name {
			s.remove(e)
		}
	}
}

func (s *simpleTokens) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
	s.byUse.Init()
}

// randomLetters reads as many letters, each equally likely.
func randomLetters(random io.Reader, n int) (string, error) {
	out := make([]byte, 0, n)
	var b [32]byte
	for {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return "", fmt.Errorf("random part of a token: %w", err)
		}
		for _, c := range b {
			// What is above the largest multiple of the alphabet would favour its beginning.
			if int(c) >= 256/len(letters)*len(letters) {
				continue
			}
			if out = append(out, letters[int(c)%len(letters)]); len(out) == n {
				return string(out), nil
			}
		}
	}
}
