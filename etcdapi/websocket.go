package etcdapi

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
)

// websocketKey marks the context of what comes over a websocket.
type websocketKey struct{}

// survive keeps a panic of h from the process: the proxy calls it in a goroutine of its
// own for a websocket, where nobody recovers; otherwise net/http's handler does.
func (s *Server) survive(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(websocketKey{}) != nil {
			defer func() {
				if p := recover(); p != nil {
					s.logPanic(r, p)
				}
			}()
		}
		h.ServeHTTP(w, r)
	})
}

// limitFrames bounds the messages that clients send on the websockets of h: the proxy
// behind it reads a message whole, of whatever length.
func limitFrames(h http.Handler, maxMessageBytes int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Sec-WebSocket-Key") != "" {
			r = r.WithContext(context.WithValue(r.Context(), websocketKey{}, true))
			if hijacker, ok := w.(http.Hijacker); ok {
				w = frameLimiter{w, hijacker, maxMessageBytes}
			}
		}
		h.ServeHTTP(w, r)
	})
}

// frameLimiter limits the connection that it is hijacked for.
type frameLimiter struct {
	http.ResponseWriter
	hijacker http.Hijacker
	maxBytes int64
}

// Hijack takes the connection over. What was read of it already is in the second
// result and not limited: it is empty, or the proxy refuses it.
func (f frameLimiter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buffered, err := f.hijacker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	return &frameConn{Conn: c, maxBytes: f.maxBytes}, buffered, nil
}

// Unwrap gives what else the writer can do to net/http.
func (f frameLimiter) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// frameConn fails to read once a message grows beyond maxBytes. It follows the frames
// of RFC 6455, section 5.2, in what a client sends:
//
//	byte 0     FIN in bit 7, opcode in bits 3 to 0: 8 and above are control frames
//	byte 1     MASK in bit 7, length in bits 6 to 0
//	2 bytes    the length, big endian, when it was 126
//	8 bytes    the same when it was 127
//	4 bytes    the mask, when MASK is set
//	length     the payload
type frameConn struct {
	net.Conn
	maxBytes int64

	head    [14]byte
	have    int    // bytes of head
	payload uint64 // left of this frame
	message uint64 // bytes of the message so far
}

// Read reads and counts.
func (f *frameConn) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if fault := f.follow(b[:n]); fault != nil {
		return 0, fault
	}
	return n, err
}

// follow moves on over b.
func (f *frameConn) follow(b []byte) error {
	for len(b) > 0 {
		if f.payload > 0 {
			skip := min(f.payload, uint64(len(b)))
			f.payload -= skip
			b = b[skip:]
			continue
		}
		f.head[f.have] = b[0]
		f.have++
		b = b[1:]
		if f.have < 2 || f.have < headBytes(f.head[1]) {
			continue
		}
		if err := f.frame(); err != nil {
			return err
		}
		f.have = 0
	}
	return nil
}

// headBytes is the length of a frame's head, by its second byte.
func headBytes(second byte) int {
	n := 2
	switch second & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if second&0x80 != 0 {
		n += 4
	}
	return n
}

// frame reads a complete head.
func (f *frameConn) frame() error {
	length := uint64(f.head[1] & 0x7f)
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		length = binary.BigEndian.Uint64(f.head[2:])
	}
	f.payload = length
	if f.head[0]&0x08 != 0 {
		return nil // a control frame is no part of a message; the proxy bounds it
	}
	if f.head[0]&0x0f != 0 {
		f.message = 0 // the first frame of a message
	}
	if length > uint64(f.maxBytes) || f.message+length > uint64(f.maxBytes) {
		return fmt.Errorf("%w: more than %d bytes in a websocket's message", errMessageTooLarge, f.maxBytes)
	}
	f.message += length
	return nil
}
