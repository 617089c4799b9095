package mvcc

import (
	"encoding/binary"
	"os"
	"testing"
)

// TestOpenIgnoresMetaLookalike ensures that a value that looks like a bbolt meta
// page, at a place where one would be were pages larger, does not make the store
// refuse to open: values are whatever clients send.
func TestOpenIgnoresMetaLookalike(t *testing.T) {
	const place, size = 65536, 200_000
	// First find out which of the value's bytes come to lie at the place.
	value := make([]byte, size)
	for i := 0; i+4 <= size; i += 4 {
		binary.LittleEndian.PutUint32(value[i:], uint32(i)|0xa0000000)
	}
	write := func() *bench {
		b := newBench(t, nil)
		b.put("key", string(value))
		b.flush()
		return b
	}
	b := write()
	data, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for i := range 4 {
		if n := binary.LittleEndian.Uint32(data[place+i:]); n>>28 == 0xa {
			at = int(n&0x0fffffff) - i
			break
		}
	}
	if at < 0 || at+metaHeaderBytes+metaBytes > size {
		t.Fatal("the value does not lie at the place")
	}
	// Then put a meta page there that claims many pages.
	m := value[at+metaHeaderBytes:]
	binary.LittleEndian.PutUint32(m, boltMagic)
	binary.LittleEndian.PutUint32(m[4:], 2)
	binary.LittleEndian.PutUint32(m[8:], 4096)
	binary.LittleEndian.PutUint64(m[40:], 1<<40)
	binary.LittleEndian.PutUint64(m[48:], 1<<40)
	b = write()
	b.close()
	if data, err = os.ReadFile(b.path); err != nil {
		t.Fatal(err)
	}
	if binary.LittleEndian.Uint32(data[place+metaHeaderBytes:]) != boltMagic {
		t.Fatal("the lookalike is not at the place")
	}
	b.open()
	if _, ok, err := b.s.View().Get([]byte("key"), 0); !ok || err != nil {
		t.Errorf("Get: %v, %v", ok, err)
	}
}
