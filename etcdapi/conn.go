package etcdapi

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// conn is a client's connection after its protocol was found out: the bytes that
// were looked at are read first. Its account of the response budget ends with it.
type conn struct {
	net.Conn
	account *account
	peeked  []byte
	closed  sync.Once
}

// Read reads what was looked at, then the connection.
func (c *conn) Read(b []byte) (int, error) {
	if len(c.peeked) > 0 {
		n := copy(b, c.peeked)
		c.peeked = c.peeked[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// Close closes the connection and gives back what its answers hold.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.closed.Do(c.account.end)
	return err
}

// plaintext is grpc's way to attach something to a connection: it lets the
// handlers of a connection find its account.
type plaintext struct{}

// connInfo is what a handler knows of its connection.
type connInfo struct {
	credentials.CommonAuthInfo
	account *account
}

// AuthType names the security of the connection.
func (connInfo) AuthType() string { return "insecure" }

// ServerHandshake exchanges nothing.
func (plaintext) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := connInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}
	if c, ok := raw.(*conn); ok {
		info.account = c.account
	}
	return raw, info, nil
}

// ClientHandshake exchanges nothing.
func (plaintext) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return raw, connInfo{}, nil
}

// Info names the protocol.
func (plaintext) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}

// Clone returns an equal value.
func (plaintext) Clone() credentials.TransportCredentials { return plaintext{} }

// OverrideServerName does nothing: there is no name to check.
func (plaintext) OverrideServerName(string) error { return nil }

// claim is a new claim on the budget for the request of ctx.
func (s *Server) claim(ctx context.Context) claim {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(connInfo); ok && info.account != nil {
			return claim{account: info.account}
		}
	}
	return claim{account: s.budget.account()}
}

const (
	// prefaceTimeout is how long a connection may take for its first bytes, an
	// HTTP/1 request's header or an HTTP/2 handshake: one that costs the client
	// nothing must not cost the server for long.
	prefaceTimeout = 10 * time.Second
	// httpIdleTimeout is how long an HTTP/1 connection may wait for its next
	// request: longer than the interval of common probes and scrapers.
	httpIdleTimeout = 5 * time.Minute
)

// http2Preface begins every HTTP/2 connection; HTTP/1 differs within its first
// three bytes, since no HTTP/1 method begins with PRI.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// sniff reads until the protocol is known. Plaintext HTTP/2 is gRPC, as on
// etcd's client port: a server cannot look further without answering first.
func sniff(raw net.Conn, patience time.Duration) (peeked []byte, http2 bool, err error) {
	if err := raw.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, false, err
	}
	peeked = make([]byte, 0, len(http2Preface))
	for len(peeked) < len(http2Preface) && string(peeked) == http2Preface[:len(peeked)] {
		n, err := raw.Read(peeked[len(peeked):cap(peeked)])
		peeked = peeked[:len(peeked)+n]
		if err != nil && string(peeked) != http2Preface {
			return nil, false, err
		}
	}
	return peeked, string(peeked) == http2Preface, raw.SetReadDeadline(time.Time{})
}

// queue is a listener that is fed by another.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// put hands a connection over, or closes it when nobody accepts any more.
func (q *queue) put(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.done:
		_ = c.Close() // nothing was exchanged on it
	}
}

// Accept waits for a connection.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close makes Accept fail.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr is the address of the listener that feeds the queue.
func (q *queue) Addr() net.Addr { return q.addr }
