package replica

import (
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// acks is a state machine that tells each proposer, by the number in its command, that it is applied.
type acks struct {
	record
	waiting sync.Map // uint64 to chan struct{}
}

func (a *acks) Apply(entries []Entry) error {
	for _, e := range entries {
		for _, c := range e.Commands {
			if ch, ok := a.waiting.LoadAndDelete(binary.LittleEndian.Uint64(c)); ok {
				ch.(chan struct{}) <- struct{}{}
			}
		}
	}
	return nil
}

// BenchmarkPropose measures a command of 256 bytes from Propose to Apply in a group of one, on the disk of the temporary directory.
func BenchmarkPropose(b *testing.B) {
	for _, clients := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			sm := &acks{record: *newRecord(1)}
			cfg := Config{MemberID: 1, Dir: filepath.Join(b.TempDir(), "wal"), StateMachine: sm, Random: rand.New(rand.NewSource(1))}
			if err := CreateLog(cfg, 1, 1); err != nil {
				b.Fatal(err)
			}
			n, err := Open(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer n.Stop()
			<-n.Ready()
			b.ResetTimer()
			var group sync.WaitGroup
			for client := range clients {
				group.Go(func() {
					done := make(chan struct{}, 1)
					for i := client; i < b.N; i += clients {
						c := make([]byte, 256)
						binary.LittleEndian.PutUint64(c, uint64(i))
						sm.waiting.Store(uint64(i), done)
						if err := n.Propose(c, nil); err != nil {
							b.Error(err)
							return
						}
						<-done
					}
				})
			}
			group.Wait()
		})
	}
}

// BenchmarkSync is the floor: one write of 400 bytes and one sync over written blocks.
func BenchmarkSync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const size = 16 << 20
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 400)
	for i := 0; b.Loop(); i++ {
		if _, err := f.WriteAt(block, int64(i*len(block)%(size-400))); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
}
