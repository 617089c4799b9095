package wire

import (
	"io"
	"net"
	"sync"
)

// Join passes bytes between two connections, both ways, until either ends, and
// closes both.
func Join(a, b net.Conn) {
	var once sync.Once
	end := func() {
		once.Do(func() {
			_ = a.Close() // either may be gone already
			_ = b.Close()
		})
	}
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		ways.Go(func() {
			defer end()
			_, _ = io.Copy(way[0], way[1]) // its end is all there is to tell
		})
	}
	ways.Wait()
}
