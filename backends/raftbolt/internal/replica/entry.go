package replica

import (
	"encoding/binary"
	"fmt"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
)

// An entry's data, format version 1; empty for raft's own entry:
//
//	offset size field
//	0      1    format version, 1
//	1      -    per command: its length as an unsigned varint, then its bytes
const entryVersion = 1

// coalesce encodes the head of waiting that fits into an entry, at least one, up to the next configuration change, and tells how many
// those are. The first is not a configuration change.
func coalesce(waiting []proposal) (data []byte, n int) {
	size := 1
	for n < len(waiting) && waiting[n].conf == nil {
		add := len(waiting[n].command) + binary.MaxVarintLen32
		if n > 0 && size+add > EntryBytes {
			break
		}
		size += add
		n++
	}
	data = append(make([]byte, 0, size), entryVersion)
	for _, p := range waiting[:n] {
		data = binary.AppendUvarint(data, uint64(len(p.command)))
		data = append(data, p.command...)
	}
	return data, n
}

// commands decodes an entry's data into slices of it.
func commands(data []byte) ([][]byte, error) {
	if len(data) == 0 {
		return nil, nil
	}
	if data[0] != entryVersion {
		return nil, fmt.Errorf("%w: an entry has format version %d, this program knows %d", wal.ErrVersion, data[0], entryVersion)
	}
	var out [][]byte
	for rest := data[1:]; len(rest) > 0; {
		n, width := binary.Uvarint(rest)
		if width <= 0 || n > uint64(len(rest)-width) {
			return nil, fmt.Errorf("%w: an entry's commands are cut short", wal.ErrCorrupt)
		}
		end := width + int(n)
		out = append(out, rest[width:end:end])
		rest = rest[end:]
	}
	return out, nil
}
