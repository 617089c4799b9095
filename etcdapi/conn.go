package etcdapi

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// conn is a client's connection that goes to grpc, after its protocol was found out: the
// bytes that were looked at are read first. Its account of the response budget
// ends with it.
type conn struct {
	net.Conn // plain, or TLS after its handshake
	account  *account
	peeked   []byte
	secured  *credentials.TLSInfo // nil on a plain connection
	closed   sync.Once
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

// RemoteAddr is the client's address, which is also how handlers find the account of
// their connection: grpc tells them the address of a request, and of a TLS connection
// its state, but no more.
func (c *conn) RemoteAddr() net.Addr { return connAddr{c.Conn.RemoteAddr(), c.account} }

// connAddr is the address of a client with what its connection holds.
type connAddr struct {
	net.Addr
	account *account
}

// claim is a new claim on the budget for the request of ctx.
func (s *Server) claim(ctx context.Context) claim {
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.Addr.(connAddr); ok {
			return claim{account: a.account}
		}
	}
	return claim{account: s.budget.account()}
}

// handshaken tells grpc of the TLS of a connection, whose handshake is over when grpc
// gets it: the peer of a request has credentials.TLSInfo as its AuthInfo then.
type handshaken struct{}

// plainInfo is the AuthInfo of a connection without TLS.
type plainInfo struct{ credentials.CommonAuthInfo }

// AuthType names the security of the connection.
func (plainInfo) AuthType() string { return "insecure" }

// ServerHandshake exchanges nothing.
func (handshaken) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c, ok := raw.(*conn); ok && c.secured != nil {
		return raw, *c.secured, nil
	}
	return raw, plainInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
}

// ClientHandshake exchanges nothing.
func (handshaken) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return raw, plainInfo{}, nil
}

// Info names the protocol.
func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}

// Clone returns an equal value.
func (handshaken) Clone() credentials.TransportCredentials { return handshaken{} }

// OverrideServerName does nothing: there is no name to check.
func (handshaken) OverrideServerName(string) error { return nil }

const (
	// prefaceTimeout is how long a connection may take for its first bytes or its TLS
	// handshake, then for an HTTP/1 request's header or an HTTP/2 handshake: one that
	// costs the client nothing must not cost the server for long (CVE-2026-73500).
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
func sniff(raw net.Conn) (peeked []byte, http2 bool, err error) {
	peeked = make([]byte, 0, len(http2Preface))
	for len(peeked) < len(http2Preface) && string(peeked) == http2Preface[:len(peeked)] {
		n, err := raw.Read(peeked[len(peeked):cap(peeked)])
		peeked = peeked[:len(peeked)+n]
		if err != nil && string(peeked) != http2Preface {
			return nil, false, err
		}
	}
	return peeked, string(peeked) == http2Preface, nil
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
