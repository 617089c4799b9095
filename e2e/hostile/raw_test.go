package hostile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// silentWithin is within which time the server must hang up on a connection that
// has not said what it is: its 10 s, and some for a busy machine.
const silentWithin = 20 * time.Second

// silence opens connections that say nothing, or begin to and stop.
func silence(t *testing.T, v *victim) string {
	beginnings := []struct{ name, bytes string }{
		{"nothing", ""},
		{"half a preface of HTTP/2", http2.ClientPreface[:10]},
		{"a preface without settings", http2.ClientPreface},
		{"half a header of HTTP/1", "GET /health HTTP/1.1\r\nHost: shim\r\nX-Never: "},
		{"a byte that is neither", "\x00"},
	}
	n := size(2000, 500)
	began := time.Now()
	each(t, n, n, func(i int) error {
		b := beginnings[i%len(beginnings)]
		conn, err := net.Dial("tcp", v.Addr)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, b.bytes); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(silentWithin)); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%s: the server did not hang up within %v", b.name, silentWithin)
		}
		return nil
	})
	return fmt.Sprintf("%d silent connections, all closed after %.1f s", n, time.Since(began).Seconds())
}

// frameConn is an HTTP/2 connection whose frames are written by hand.
type frameConn struct {
	net.Conn
	*http2.Framer
	header bytes.Buffer
	hpack  *hpack.Encoder
}

// dialFrames exchanges prefaces.
func dialFrames(addr string) (*frameConn, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &frameConn{Conn: conn, Framer: http2.NewFramer(conn, conn)}
	c.hpack = hpack.NewEncoder(&c.header)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := c.WriteSettings(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// call is the header block of a Range.
func (c *frameConn) call(more ...hpack.HeaderField) []byte {
	c.header.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: pb.KV_Range_FullMethodName},
		{Name: ":authority", Value: "shim"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		_ = c.hpack.WriteField(f) // into memory
	}
	return c.header.Bytes()
}

// ended reads until the server hangs up, and tells the code of a GOAWAY.
func (c *frameConn) ended(within time.Duration) (code http2.ErrCode, err error) {
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		return 0, err
	}
	for {
		f, err := c.ReadFrame()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return code, fmt.Errorf("the server did not hang up within %v", within)
		}
		if err != nil {
			return code, nil
		}
		if away, ok := f.(*http2.GoAwayFrame); ok {
			code = away.ErrCode
		}
	}
}

// frames floods connections with frames that are cheap to send.
func frames(t *testing.T, v *victim) string {
	floods := []struct {
		name string
		// send sends until an error or n frames.
		send func(c *frameConn, n int) error
		// want is the code that the server hangs up with; none when it need not.
		want    http2.ErrCode
		hangsUp bool
	}{
		{"pings", func(c *frameConn, n int) error {
			for range n {
				if err := c.WritePing(false, [8]byte{}); err != nil {
					return err
				}
			}
			return nil
		}, http2.ErrCodeEnhanceYourCalm, true},
		{"settings", func(c *frameConn, n int) error {
			for range n {
				if err := c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16}); err != nil {
					return err
				}
			}
			return nil
		}, 0, false},
		{"streams that are reset at once", func(c *frameConn, n int) error {
			for i := range n {
				id := uint32(2*i + 1)
				if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.call(), EndHeaders: true}); err != nil {
					return err
				}
				if err := c.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
					return err
				}
			}
			return nil
		}, 0, false},
		{"a header that never ends", func(c *frameConn, n int) error {
			if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.call()}); err != nil {
				return err
			}
			for i := range n {
				block := c.call(hpack.HeaderField{Name: fmt.Sprint("x-", i), Value: string(bytes.Repeat([]byte{'v'}, 4000))})
				if err := c.WriteContinuation(1, false, block); err != nil {
					return err
				}
			}
			return nil
		}, 0, true},
		{"requests that never end", func(c *frameConn, n int) error {
			for i := range min(n, 1000) {
				id := uint32(2*i + 1)
				if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.call(), EndHeaders: true}); err != nil {
					return err
				}
				if err := c.WriteData(id, false, []byte{0, 0, 31, 0, 0, 1, 2, 3}); err != nil { // of 2 MB, eight bytes
					return err
				}
			}
			return nil
		}, 0, false},
		{"window updates", func(c *frameConn, n int) error {
			for range n {
				if err := c.WriteWindowUpdate(0, 1<<20); err != nil {
					return err
				}
			}
			return nil
		}, 0, false}, // grpc takes them
		{"garbage", func(c *frameConn, n int) error {
			garbage := make([]byte, 1<<16)
			for i := range garbage {
				garbage[i] = byte(i * 31)
			}
			for range n / 100 {
				if _, err := c.Write(garbage); err != nil {
					return err
				}
			}
			return nil
		}, 0, true},
	}
	n, perFlood := size(100_000, 10_000), size(4, 2)
	for _, f := range floods {
		each(t, perFlood, perFlood, func(int) error {
			c, err := dialFrames(v.Addr)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			// The server's frames are read meanwhile, or its sender would wait.
			var code http2.ErrCode
			var reading sync.WaitGroup
			reading.Go(func() { code, err = c.ended(time.Minute) })
			sent := f.send(c, n)
			if sent == nil && !f.hangsUp {
				_ = c.Close()
			}
			reading.Wait()
			if f.hangsUp && err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			// A connection that was reset may lose the GOAWAY that came before.
			if f.want != 0 && code != f.want && code != 0 {
				return fmt.Errorf("%s: the server hung up with %v, not %v", f.name, code, f.want)
			}
			return nil
		})
	}
	return fmt.Sprintf("%d floods of up to %d frames", len(floods)*perFlood, n)
}
