package oracle

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A symbol is a number that a script has where only the server knows the true one.
// The upper 16 bits tell its kind, the lower 32 its number or, for revisions, its
// distance.
type symbol int64

const (
	symbolLease   symbol = 0x5A01 << 48 // the id of a lease that the server chose
	symbolMember  symbol = 0x5A02 << 48 // the id of a member that was added
	symbolNow     symbol = 0x5A03 << 48 // the newest revision that the side has seen, plus a distance
	symbolCompact symbol = 0x5A04 << 48 // the newest revision that it has compacted, plus a distance
	symbolRev     symbol = 0x5A05 << 48 // the revision that a campaign was told
	symbolSelf    symbol = 0x5A06 << 48 // the id of the server itself
	// middle is the distance 0.
	middle = 1 << 20
)

func leaseSymbol(n int) int64                 { return int64(symbolLease) + int64(n) }
func memberSymbol(n int) uint64               { return uint64(symbolMember) + uint64(n) }
func revSymbol(n int) int64                   { return int64(symbolRev) + int64(n) }
func now(distance int) int64                  { return int64(symbolNow) + middle + int64(distance) }
func compacted(d int) int64                   { return int64(symbolCompact) + middle + int64(d) }
func selfSymbol() uint64                      { return uint64(symbolSelf) }
func (s symbol) kind() symbol                 { return s >> 48 << 48 }
func (s symbol) number() int                  { return int(s & 0xFFFFFFFF) }
func (s symbol) distance() int64              { return int64(s.number()) - middle }
func isSymbol(v int64) bool                   { k := v >> 48; return k >= 0x5A01 && k <= 0x5A06 }
func hexOf(lease int64) string                { return fmt.Sprintf("%x", lease) }
func lockKey(name string, lease int64) []byte { return []byte(name + "/" + hexOf(lease)) }

var symbolNames = map[symbol]string{ //nolint:gochecknoglobals // a constant table
	symbolLease: "lease", symbolMember: "member", symbolNow: "now", symbolCompact: "compacted", symbolRev: "rev", symbolSelf: "self",
}

func (s symbol) String() string {
	name := "$" + symbolNames[s.kind()]
	switch s.kind() {
	case symbolNow, symbolCompact:
		return fmt.Sprintf("%s%+d", name, s.distance())
	case symbolSelf:
		return name
	default:
		return name + strconv.Itoa(s.number())
	}
}

var (
	number     = regexp.MustCompile(`\b\d{19}\b`)
	symbolText = regexp.MustCompile(`\$(lease|member|now|compacted|rev|self)([+-]?\d*)`)
	// leaseHex is a lease's symbol within a key, as locks write it.
	leaseHex = regexp.MustCompile(`5a0100000000[0-9a-f]{4}`)
)

// named writes the symbols in a text by name.
func named(text string) string {
	return number.ReplaceAllStringFunc(text, func(n string) string {
		v, err := strconv.ParseInt(n, 10, 64)
		if err != nil || !isSymbol(v) {
			return n
		}
		return symbol(v).String()
	})
}

// numbered is the reverse of named.
func numbered(text string) string {
	return symbolText.ReplaceAllStringFunc(text, func(s string) string {
		m := symbolText.FindStringSubmatch(s)
		for kind, name := range symbolNames {
			if name != m[1] {
				continue
			}
			n, _ := strconv.ParseInt(m[2], 10, 64) // none is 0
			if kind == symbolNow || kind == symbolCompact {
				n += middle
			}
			return strconv.FormatInt(int64(kind)+n, 10)
		}
		return s
	})
}

// known is what a side knows of symbols: each true number by its symbol, and back.
// One symbol has one number, and one number one symbol.
type known struct {
	truth   map[symbol]int64
	symbols map[int64]symbol
	// revision and compacted are the newest of each that were seen.
	revision, compacted int64
	self                uint64
}

func newKnown() *known {
	return &known{truth: map[symbol]int64{}, symbols: map[int64]symbol{}}
}

// bind notes what a symbol stands for. A number that cannot be an id, or is
// another symbol's, is not noted, so that it is compared as it is.
func (k *known) bind(s symbol, v int64) {
	if _, taken := k.symbols[v]; v == 0 || taken {
		return
	}
	if s.kind() == symbolLease && v < 1<<32 { // not a server's choice
		return
	}
	k.truth[s] = v
	if s.kind() != symbolRev { // a revision is the same on both sides
		k.symbols[v] = s
	}
}

// resolve is the number of a symbol on this side; one that was never bound
// stands for itself.
func (k *known) resolve(v int64) int64 {
	if !isSymbol(v) {
		return v
	}
	s := symbol(v)
	switch s.kind() {
	case symbolNow:
		return max(0, k.revision+s.distance())
	case symbolCompact:
		return max(0, k.compacted+s.distance())
	case symbolSelf:
		return int64(k.self)
	}
	if t, ok := k.truth[s]; ok {
		return t
	}
	return v
}

// symbolic is the reverse of resolve for ids.
func (k *known) symbolic(v int64) int64 {
	if s, ok := k.symbols[v]; ok {
		return int64(s)
	}
	return v
}

// toServer returns a copy of a request with this side's numbers.
func (k *known) toServer(m proto.Message) proto.Message {
	return rewritten(m, k.resolve, func(text string) string {
		return leaseHex.ReplaceAllStringFunc(text, func(h string) string {
			v, _ := strconv.ParseInt(h, 16, 64) // the pattern is a number
			return hexOf(k.resolve(v))
		})
	})
}

// fromServer returns a copy of an answer with symbols.
func (k *known) fromServer(m proto.Message) proto.Message {
	if len(k.symbols) == 0 {
		return m
	}
	return rewritten(m, k.symbolic, func(text string) string {
		for v, s := range k.symbols {
			if s.kind() == symbolLease && len(text) >= 8 {
				text = strings.ReplaceAll(text, hexOf(v), hexOf(int64(s)))
			}
		}
		return text
	})
}

// rewritten is a copy of m with every 64-bit number and every text passed through
// a function.
func rewritten(m proto.Message, id func(int64) int64, text func(string) string) proto.Message {
	out := proto.Clone(m)
	rewrite(out.ProtoReflect(), id, text)
	return out
}

func rewrite(m protoreflect.Message, id func(int64) int64, text func(string) string) {
	value := func(f protoreflect.FieldDescriptor, v protoreflect.Value) (protoreflect.Value, bool) {
		switch f.Kind() {
		case protoreflect.Int64Kind:
			n := id(v.Int())
			return protoreflect.ValueOfInt64(n), n != v.Int()
		case protoreflect.Uint64Kind:
			n := uint64(id(int64(v.Uint())))
			return protoreflect.ValueOfUint64(n), n != v.Uint()
		case protoreflect.BytesKind:
			s := text(string(v.Bytes()))
			return protoreflect.ValueOfBytes([]byte(s)), s != string(v.Bytes())
		case protoreflect.StringKind:
			s := text(v.String())
			return protoreflect.ValueOfString(s), s != v.String()
		case protoreflect.MessageKind:
			rewrite(v.Message(), id, text)
		}
		return v, false
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.IsList() {
			for i := range v.List().Len() {
				if n, changed := value(f, v.List().Get(i)); changed {
					v.List().Set(i, n)
				}
			}
			return true
		}
		if n, changed := value(f, v); changed {
			m.Set(f, n)
		}
		return true
	})
}
