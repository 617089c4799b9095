package wire

import (
	"bufio"
	"encoding/binary"
	"io"
	"sync"

	"github.com/hashicorp/yamux"
)

const (
	// Window is how many bytes may be under way to the guest: half of what its
	// terminal takes before it asks the sender to wait.
	Window = 2048
	// maxPayload bounds one frame to the host, bytes, so that credit is not held
	// up for long.
	maxPayload = 4096
	headerSize = 4
)

// Session configures both ends of the session alike.
func Session() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false // a guest that dies closes the line
	c.StreamOpenTimeout = 0   // a busy guest may be slow to accept
	c.ConnectionWriteTimeout = writeTimeout
	c.LogOutput = io.Discard // the ends report what they see
	return c
}

// HostEnd is the host's end of the line. Read and Write may be called at once, each
// by one goroutine at a time.
type HostEnd struct {
	from   *bufio.Reader
	line   io.ReadWriteCloser
	unread int // bytes of the current frame's payload

	mu     sync.Mutex
	credit int
	err    error // of the last Read, which is final
	more   *sync.Cond
}

// NewHostEnd makes the host's end of a line whose guest may not have begun yet.
// It owns line.
func NewHostEnd(line io.ReadWriteCloser) *HostEnd {
	h := &HostEnd{from: bufio.NewReaderSize(line, 1<<16), line: line}
	h.more = sync.NewCond(&h.mu)
	return h
}

// Read returns payload bytes of the guest's frames.
func (h *HostEnd) Read(p []byte) (int, error) {
	for h.unread == 0 {
		var header [headerSize]byte
		if _, err := io.ReadFull(h.from, header[:]); err != nil {
			h.fail(err)
			return 0, err
		}
		h.unread = int(binary.BigEndian.Uint16(header[0:]))
		h.grant(int(binary.BigEndian.Uint16(header[2:])))
	}
	n, err := h.from.Read(p[:min(len(p), h.unread)])
	h.unread -= n
	if err != nil {
		h.fail(err)
	}
	return n, err
}

func (h *HostEnd) grant(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.credit += n
	h.more.Broadcast()
}

func (h *HostEnd) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
	h.more.Broadcast()
}

// Write returns once all of p was handed to the line, for which it waits until the
// guest has read enough.
func (h *HostEnd) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		h.mu.Lock()
		for h.credit == 0 && h.err == nil {
			h.more.Wait()
		}
		if h.err != nil {
			h.mu.Unlock()
			return written, io.ErrClosedPipe
		}
		n := min(h.credit, len(p)-written)
		h.credit -= n
		h.mu.Unlock()
		k, err := h.line.Write(p[written : written+n])
		written += k
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Close ends the line.
func (h *HostEnd) Close() error {
	h.fail(io.ErrClosedPipe)
	return h.line.Close()
}

// GuestEnd is the guest's end of the line.
type GuestEnd struct {
	line io.ReadWriteCloser
	mu   sync.Mutex // for one frame at a time
	out  [headerSize + maxPayload]byte
}

// NewGuestEnd makes the guest's end of a line that was set to raw, and lets the
// host begin.
func NewGuestEnd(line io.ReadWriteCloser) (*GuestEnd, error) {
	g := &GuestEnd{line: line}
	return g, g.frame(nil, Window)
}

func (g *GuestEnd) frame(payload []byte, credit int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	binary.BigEndian.PutUint16(g.out[0:], uint16(len(payload)))
	binary.BigEndian.PutUint16(g.out[2:], uint16(credit))
	n := headerSize + copy(g.out[headerSize:], payload)
	_, err := g.line.Write(g.out[:n])
	return err
}

// Read returns what the host sent and lets it send as much again.
func (g *GuestEnd) Read(p []byte) (int, error) {
	n, err := g.line.Read(p[:min(len(p), Window)])
	if err == nil && n > 0 {
		err = g.frame(nil, n)
	}
	return n, err
}

// Write returns once all of p was handed to the line.
func (g *GuestEnd) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n := min(len(p)-written, maxPayload)
		if err := g.frame(p[written:written+n], 0); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// Close ends the line.
func (g *GuestEnd) Close() error { return g.line.Close() }
