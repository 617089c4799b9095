package auth

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdshim/shim/backends"
)

// FuzzAuth reads arbitrary bytes twice: as permissions, of which the union must
// cover what a model that asks each of them says; and as a token, which no text
// but one that was given may be, nor make either kind of token panic.
func FuzzAuth(f *testing.F) {
	tokens := fuzzTokens(f)
	f.Add([]byte("a\x00b"), []byte("a"), []byte("c"))
	f.Add([]byte("a\x00\x01\x00"), []byte("a"), []byte{0})
	for _, text := range []string{tokens.given, knownToken, "eyJhbGciOiJub25lIn0.eyJ1c2VybmFtZSI6InJvb3QiLCJyZXZpc2lvbiI6MX0."} {
		f.Add([]byte(text), []byte(nil), []byte(nil))
	}
	f.Fuzz(func(t *testing.T, text, key, end []byte) {
		checkCover(t, text, key, end)
		tokens.check(t, string(text))
	})
}

// checkCover reads pairs of words, of which "\x01" stands for a single zero byte,
// as ranges that are permitted.
func checkCover(t *testing.T, text, key, end []byte) {
	if len(key) == 0 {
		return // no key of etcd
	}
	var permitted []backends.KeyRange
	words := bytes.Split(text, []byte{0})
	for i := 0; i+1 < len(words) && i < 16; i += 2 {
		r := backends.KeyRange{Key: words[i], End: words[i+1]}
		if string(r.End) == "\x01" {
			r.End = []byte{0}
		}
		permitted = append(permitted, r)
	}
	asked := backends.KeyRange{Key: key, End: end}
	if got, want := unionOf(permitted).cover(key, end), naiveCover(permitted, asked); got != want {
		t.Fatalf("%q permits %q: %v, want %v", permitted, asked, got, want)
	}
}

// knownToken is the one simple token that was given.
const knownToken = "p.7"

// givenTokens is a table of each kind with one token given.
type givenTokens struct {
	signed, simple *Tokens
	given          string
}

func fuzzTokens(f *testing.F) givenTokens {
	path := filepath.Join(f.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("s"), 0o600); err != nil {
		f.Fatal(err)
	}
	signed, err := NewTokens("jwt,sign-method=HS256,priv-key="+path, 0)
	if err != nil {
		f.Fatal(err)
	}
	simple, err := NewTokens("simple", 0)
	if err != nil {
		f.Fatal(err)
	}
	simple.Assign("alice", "p", 7, start())
	given, err := signed.Give("alice", 1, "", 0, start())
	if err != nil {
		f.Fatal(err)
	}
	return givenTokens{signed, simple, given}
}

func (g givenTokens) check(t *testing.T, text string) {
	if id, err := g.signed.Identify(text, start()); err == nil && text != g.given {
		// The last letter of base64 may differ in bits that nothing is made of.
		if !strings.HasPrefix(text, g.given[:len(g.given)-1]) {
			t.Errorf("%q is %q's", text, id.User)
		}
	}
	if id, err := g.simple.Identify(text, start()); err == nil && text != knownToken {
		t.Errorf("%q is %q's", text, id.User)
	}
	g.simple.AssignedAt(text)
}
