package oracle

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A Difference is one field in which the answers differ.
type Difference struct {
	// Path says where, as "replies[0].kvs[2].value".
	Path string
	// Field is the field's full name, or "status.code", "status.message", "header.NAME",
	// "trailer.NAME", "replies", "watched" for what is no message's field.
	Field      string
	Etcd, Shim string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s (%s)\n\t\tetcd %s\n\t\tshim %s", d.Path, d.Field, d.Etcd, d.Shim)
}

// A Comparer compares the answers of one sequence, in order.
type Comparer struct {
	masks     map[protoreflect.FullName]mask
	state     *maskState
	explained map[string][]Explained
	// Masked counts what was compared by a mask, by field; Kept the explained
	// differences that occurred, by reason.
	Masked, Kept map[string]int
	found        []Difference
}

// NewComparer returns a comparer for one sequence.
func NewComparer() *Comparer {
	return &Comparer{
		masks: maskTable(), state: newMaskState(), explained: explainedTable(),
		Masked: map[string]int{}, Kept: map[string]int{},
	}
}

// Compare returns every difference between two answers of a step that is neither
// masked nor explained.
func (c *Comparer) Compare(etcd, shim Answer) []Difference {
	c.found = nil
	if etcd.Code != shim.Code {
		c.differ("status.code", "status.code", etcd.Code.String()+": "+etcd.Message, shim.Code.String()+": "+shim.Message)
	} else if etcd.Message != shim.Message {
		c.text("status.message", etcd.Message, shim.Message)
	}
	c.metadata("header", etcd.Header, shim.Header)
	c.metadata("trailer", etcd.Trailer, shim.Trailer)
	if etcd.Code == shim.Code { // else their number says nothing new
		c.messages("replies", etcd.Replies, shim.Replies)
	}
	c.watched(etcd.Watched, shim.Watched)
	return c.found
}

func (c *Comparer) differ(path, field, etcd, shim string) {
	c.found = append(c.found, Difference{path, field, etcd, shim})
}

// explains tells whether two unequal values are explained, and counts it.
func (c *Comparer) explains(field string, etcd, shim protoreflect.Value) bool {
	for _, e := range c.explained[field] {
		if e.Same != nil && e.Same(etcd, shim) {
			c.Kept[e.Reason]++
			return true
		}
	}
	return false
}

// text compares what is no message's field.
func (c *Comparer) text(field, etcd, shim string) {
	if etcd == shim {
		return
	}
	if c.explains(field, protoreflect.ValueOfString(etcd), protoreflect.ValueOfString(shim)) {
		return
	}
	c.differ(field, field, fmt.Sprintf("%q", etcd), fmt.Sprintf("%q", shim))
}

func (c *Comparer) metadata(kind string, etcd, shim metadata.MD) {
	names := slices.Concat(slices.Collect(maps.Keys(etcd)), slices.Collect(maps.Keys(shim)))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		c.text(kind+"."+name, strings.Join(etcd[name], "; "), strings.Join(shim[name], "; "))
	}
}

func (c *Comparer) messages(path string, etcd, shim []proto.Message) {
	if !slices.Equal(cuts(etcd), cuts(shim)) {
		etcd, shim = c.rejoined(path, cutField, etcd, shim)
	}
	if len(etcd) != len(shim) {
		c.differ(path, "replies", fmt.Sprintf("%d messages", len(etcd)), fmt.Sprintf("%d messages", len(shim)))
	}
	for i := range min(len(etcd), len(shim)) {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.message(at, etcd[i].ProtoReflect(), shim[i].ProtoReflect())
		if field, fault := unsound(shim[i]); fault != "" {
			c.differ(at, field, "", fault)
		}
	}
}

// rejoined joins messages that were cut in different places, by the explanation of a
// field, and counts it. Messages that must not be cut so are a difference.
func (c *Comparer) rejoined(path, field string, etcd, shim []proto.Message) (a, b []proto.Message) {
	e := c.explained[field][0]
	a, err := e.Join(etcd)
	if err != nil {
		c.differ(path, field, err.Error(), "")
		return nil, nil
	}
	b, err = e.Join(shim)
	if err != nil {
		c.differ(path, field, "", err.Error())
		return nil, nil
	}
	c.Kept[e.Reason]++
	return a, b
}

// watched compares messages of watch streams: how many of each watch, and each.
func (c *Comparer) watched(etcd, shim []watched) {
	type watch struct {
		stream int
		id     int64
	}
	byWatch := func(all []watched) map[watch][]proto.Message {
		out := map[watch][]proto.Message{}
		for _, w := range all {
			k := watch{w.stream, w.message.WatchId}
			out[k] = append(out[k], w.message)
		}
		return out
	}
	a, b := byWatch(etcd), byWatch(shim)
	keys := slices.Concat(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)))
	slices.SortFunc(keys, func(x, y watch) int {
		if x.stream != y.stream {
			return x.stream - y.stream
		}
		return int(x.id - y.id)
	})
	for _, k := range slices.Compact(keys) {
		path := fmt.Sprintf("stream %d, watch %d", k.stream, k.id)
		x, y := a[k], b[k]
		if !slices.Equal(cuts(x), cuts(y)) {
			x, y = c.rejoined(path, eventsField, x, y)
		}
		if len(x) != len(y) {
			c.differ(path, "watched", list(x), list(y))
			continue
		}
		for i := range x {
			c.message(fmt.Sprintf("%s, message %d", path, i), x[i].ProtoReflect(), y[i].ProtoReflect())
		}
	}
}

func list(messages []proto.Message) string {
	text := fmt.Sprintf("%d messages", len(messages))
	for _, m := range messages {
		text += "\n\t\t\t" + shown(m)
	}
	return text
}

// maxShown bounds what is printed of a message, in bytes.
const maxShown = 600

func shown(m proto.Message) string {
	text := named(prototext.MarshalOptions{}.Format(m))
	if len(text) > maxShown {
		text = text[:maxShown] + "…"
	}
	return "{" + text + "}"
}

// message compares field by field.
func (c *Comparer) message(path string, etcd, shim protoreflect.Message) {
	d := etcd.Descriptor()
	if d.FullName() != shim.Descriptor().FullName() {
		c.differ(path, "replies", string(d.FullName()), string(shim.Descriptor().FullName()))
		return
	}
	if !bytes.Equal(etcd.GetUnknown(), shim.GetUnknown()) {
		c.differ(path, string(d.FullName())+".(unknown)", fmt.Sprintf("%x", etcd.GetUnknown()), fmt.Sprintf("%x", shim.GetUnknown()))
	}
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		c.field(path+"."+string(f.Name()), f, etcd, shim)
	}
}

func (c *Comparer) field(path string, f protoreflect.FieldDescriptor, etcd, shim protoreflect.Message) {
	a, b := etcd.Get(f), shim.Get(f)
	name := string(f.FullName())
	if m, ok := c.masks[f.FullName()]; ok {
		c.Masked[name]++
		if fault := c.state.check(m, a, b); fault != "" {
			c.differ(path, name, a.String()+", masked, "+fault, b.String())
		}
		return
	}
	if !a.Equal(b) && c.explains(name, a, b) {
		return
	}
	if f.IsList() {
		if a.List().Len() != b.List().Len() {
			c.differ(path, name, a.String(), b.String())
			return
		}
		for i := range a.List().Len() {
			c.value(fmt.Sprintf("%s[%d]", path, i), f, a.List().Get(i), b.List().Get(i))
		}
		return
	}
	if f.HasPresence() && etcd.Has(f) != shim.Has(f) {
		c.differ(path, name, presence(etcd.Has(f), a), presence(shim.Has(f), b))
		return
	}
	if !f.HasPresence() || etcd.Has(f) {
		c.value(path, f, a, b)
	}
}

func presence(has bool, v protoreflect.Value) string {
	if !has {
		return "absent"
	}
	return "there: " + v.String()
}

func (c *Comparer) value(path string, f protoreflect.FieldDescriptor, a, b protoreflect.Value) {
	if f.Message() != nil {
		c.message(path, a.Message(), b.Message())
		return
	}
	if !a.Equal(b) {
		c.differ(path, string(f.FullName()), printed(a), printed(b))
	}
}

// printed is a value for people.
func printed(v protoreflect.Value) string {
	text := fmt.Sprint(v.Interface())
	switch x := v.Interface().(type) {
	case []byte:
		text = fmt.Sprintf("%q", x)
	case string:
		text = fmt.Sprintf("%q", x)
	case int64:
		if isSymbol(x) {
			text = symbol(x).String()
		}
	case uint64:
		if isSymbol(int64(x)) {
			text = symbol(x).String()
		}
	}
	if len(text) > maxShown {
		text = text[:maxShown] + "…"
	}
	return text
}
