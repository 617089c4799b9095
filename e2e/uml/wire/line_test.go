package wire

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// counted counts what the host has written to the line.
type counted struct {
	net.Conn
	mu      sync.Mutex
	written int
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.written += len(p)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// TestLine ensures that bytes arrive as they were sent, both ways, and that no more
// than Window of them are ever under way to the guest.
func TestLine(t *testing.T) {
	a, b := net.Pipe()
	line := &counted{Conn: a}
	host := NewHostEnd(line)
	const size = 1 << 18
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	var sides sync.WaitGroup
	sides.Go(func() {
		guest, err := NewGuestEnd(b)
		if err != nil {
			t.Error(err)
			return
		}
		got := make([]byte, 0, size)
		for len(got) < size {
			line.mu.Lock()
			ahead := line.written - len(got)
			line.mu.Unlock()
			if ahead > Window {
				t.Errorf("%d bytes are under way, the bound is %d", ahead, Window)
			}
			p := make([]byte, 777)
			n, err := guest.Read(p)
			if err != nil {
				t.Error(err)
				return
			}
			got = append(got, p[:n]...)
		}
		if !bytes.Equal(got, sent) {
			t.Error("the guest read what was not sent")
		}
		if _, err := guest.Write(sent); err != nil {
			t.Error(err)
		}
	})
	sides.Go(func() {
		if _, err := host.Write(sent); err != nil {
			t.Error(err)
		}
	})
	got := make([]byte, size)
	if _, err := io.ReadFull(host, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("the host read what was not sent: %v", err)
	}
	sides.Wait()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := host.Read(got); err == nil {
		t.Error("the end of the line was not seen")
	}
	if _, err := host.Write(sent); err == nil {
		t.Error("a write on an ended line was taken")
	}
}
