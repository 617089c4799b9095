package replica

import (
	"bytes"
	"errors"
	"testing"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
)

// FuzzEntry decodes arbitrary bytes as an entry's data: there are commands, which
// lie within the data and encode to an entry of the same commands; or ErrCorrupt or
// ErrVersion.
func FuzzEntry(f *testing.F) {
	for _, commands := range [][]string{{"a"}, {"", "b", ""}, {string(make([]byte, 300)), "c"}} {
		var waiting []proposal
		for _, c := range commands {
			waiting = append(waiting, proposal{command: []byte(c)})
		}
		data, _ := coalesce(waiting)
		f.Add(data)
		f.Add(data[:len(data)-1])
	}
	f.Add([]byte{2})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := commands(data)
		if err != nil {
			if !errors.Is(err, wal.ErrCorrupt) && !errors.Is(err, wal.ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		var waiting []proposal
		for _, c := range got {
			waiting = append(waiting, proposal{command: c})
		}
		if len(waiting) == 0 {
			return
		}
		again, n := coalesce(waiting)
		if n < len(waiting) && len(data) <= EntryBytes {
			t.Fatalf("%d of %d commands fit into an entry", n, len(waiting))
		}
		second, err := commands(again)
		if err != nil || len(second) != n {
			t.Fatalf("%d commands, %v, want %d", len(second), err, n)
		}
		for i := range second {
			if !bytes.Equal(second[i], got[i]) {
				t.Fatalf("command %d is %x, want %x", i, second[i], got[i])
			}
		}
	})
}
