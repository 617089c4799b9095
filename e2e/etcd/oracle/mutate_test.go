package oracle

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A corruption is a message with one field changed.
type corruption struct {
	field   protoreflect.FullName
	how     string
	message proto.Message
}

// corruptions are all single changes of a message: each scalar another value, each
// list longer, shorter and in another order, each message there or not, in all
// messages within.
func corruptions(m proto.Message) []corruption {
	var out []corruption
	walk(m.ProtoReflect(), func(r protoreflect.Message) protoreflect.Message { return r }, func(f protoreflect.FieldDescriptor, how string, change func(root protoreflect.Message)) {
		c := proto.Clone(m)
		change(c.ProtoReflect())
		out = append(out, corruption{f.FullName(), how, c})
	})
	return out
}

// walk visits each change of a message that at finds within a root.
func walk(m protoreflect.Message, at func(root protoreflect.Message) protoreflect.Message, visit func(protoreflect.FieldDescriptor, string, func(protoreflect.Message))) {
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		switch {
		case f.IsList():
			list := m.Get(f).List()
			visit(f, "longer", func(root protoreflect.Message) {
				l := at(root).Mutable(f).List()
				l.Append(another(f, l.NewElement(), l))
			})
			if list.Len() == 0 {
				continue
			}
			visit(f, "shorter", func(root protoreflect.Message) { at(root).Mutable(f).List().Truncate(list.Len() - 1) })
			if last := list.Len() - 1; last > 0 && !list.Get(0).Equal(list.Get(last)) {
				visit(f, "another order", func(root protoreflect.Message) {
					l := at(root).Mutable(f).List()
					a, b := l.Get(0), l.Get(last)
					l.Set(0, b)
					l.Set(last, a)
				})
			}
			if f.Message() != nil {
				walk(list.Get(0).Message(), func(root protoreflect.Message) protoreflect.Message {
					return at(root).Mutable(f).List().Get(0).Message()
				}, visit)
				continue
			}
			visit(f, "another value", func(root protoreflect.Message) {
				l := at(root).Mutable(f).List()
				l.Set(0, another(f, l.Get(0), nil))
			})
		case f.Message() != nil:
			if !m.Has(f) {
				visit(f, "there", func(root protoreflect.Message) { at(root).Mutable(f) })
				continue
			}
			visit(f, "absent", func(root protoreflect.Message) { at(root).Clear(f) })
			walk(m.Get(f).Message(), func(root protoreflect.Message) protoreflect.Message { return at(root).Mutable(f).Message() }, visit)
		default:
			visit(f, "another value", func(root protoreflect.Message) { at(root).Set(f, another(f, at(root).Get(f), nil)) })
		}
	}
	visitUnknown(m, at, visit)
}

// visitUnknown adds a field that the message does not know.
func visitUnknown(m protoreflect.Message, at func(protoreflect.Message) protoreflect.Message, visit func(protoreflect.FieldDescriptor, string, func(protoreflect.Message))) {
	if m.Descriptor().Fields().Len() == 0 {
		return
	}
	visit(m.Descriptor().Fields().Get(0), "an unknown field beside it", func(root protoreflect.Message) {
		at(root).SetUnknown(append(at(root).GetUnknown(), 0xa0, 0x3f, 0x01)) // field 1012, 1
	})
}

// another is a value that differs from v; for a list's new element, from those there are.
func another(f protoreflect.FieldDescriptor, v protoreflect.Value, _ protoreflect.List) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(!v.Bool())
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(v.Enum() + 1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(v.Int()) + 1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(v.Int() + 1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(v.Uint()) + 1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(v.Uint() + 1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(v.String() + "x")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(append([]byte(string(v.Bytes())), 'x'))
	default:
		return v // a message: one more of them is enough
	}
}

// full returns messages of a type with every field set, so that each alternative of
// a oneof is set in one of them. Messages within messages end at depth.
func full(t protoreflect.MessageType, depth int) []proto.Message {
	alternatives := 1
	for i := range t.Descriptor().Oneofs().Len() {
		alternatives = max(alternatives, t.Descriptor().Oneofs().Get(i).Fields().Len())
	}
	var out []proto.Message
	for n := range alternatives {
		m := t.New()
		fill(m, n, depth)
		out = append(out, m.Interface())
	}
	return out
}

func fill(m protoreflect.Message, alternative, depth int) {
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if one := f.ContainingOneof(); one != nil && f.Index() != one.Fields().Get(alternative%one.Fields().Len()).Index() {
			continue
		}
		if f.Message() != nil && depth == 0 {
			continue
		}
		switch {
		case f.IsList():
			l := m.Mutable(f).List()
			for n := range 2 {
				e := l.NewElement()
				if f.Message() != nil {
					fill(e.Message(), alternative+n, depth-1)
				} else {
					for range n + 1 {
						e = another(f, e, nil)
					}
				}
				l.Append(e)
			}
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), alternative, depth-1)
		default:
			m.Set(f, another(f, m.Get(f), nil))
		}
	}
}
