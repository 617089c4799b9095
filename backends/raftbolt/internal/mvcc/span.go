package mvcc

import "github.com/etcdshim/shim/backends"

// span is a half-open interval of keys, [start, end), or everything at or above
// start.
type span struct {
	start, end string
	unbounded  bool
}

// spanOf reads the wire's convention; see backends.KeyRange.
func spanOf(r backends.KeyRange) span {
	switch {
	case len(r.End) == 0:
		return span{start: string(r.Key), end: string(r.Key) + "\x00"}
	case len(r.End) == 1 && r.End[0] == 0:
		return span{start: string(r.Key), unbounded: true}
	}
	return span{start: string(r.Key), end: string(r.End)}
}

// everything spans all keys.
func everything() span { return span{unbounded: true} }

func (s span) empty() bool { return !s.unbounded && s.end <= s.start }

// ends tells whether key is at or above the span's end.
func (s span) ends(key string) bool { return !s.unbounded && key >= s.end }

// after is what of the span is above key.
func (s span) after(key string) span {
	s.start = key + "\x00"
	return s
}
