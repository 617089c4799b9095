package etcdapi

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Traffic is what a listener carries.
type Traffic int

const (
	// TrafficAll is gRPC and HTTP together, etcd's default.
	TrafficAll Traffic = iota
	// TrafficGRPC is gRPC alone: what is left to --listen-client-urls beside
	// --listen-client-http-urls.
	TrafficGRPC
	// TrafficHTTP is HTTP alone, gateway included: --listen-client-http-urls.
	TrafficHTTP
	// TrafficMetrics is /metrics and the health checks alone: --listen-metrics-urls.
	TrafficMetrics
)

// String is the word of etcd's log line "serving client traffic"
// (embed/serve.go, serve).
func (t Traffic) String() string {
	switch t {
	case TrafficGRPC:
		return "grpc"
	case TrafficHTTP:
		return "http"
	case TrafficMetrics:
		return "metrics"
	}
	return "grpc+http"
}

// Endpoint is a listener and what it carries.
type Endpoint struct {
	// Listener accepts connections as they come, without TLS. ServeOn takes it over.
	Listener net.Listener
	// TLS makes the connections secure; nil is plaintext. The server keeps a copy, in
	// which it sets NextProtos; so it does in a configuration that GetConfigForClient
	// returns, which costs a copy per handshake unless NextProtos is that of
	// [NextProtos] there already.
	TLS *tls.Config
	// Plain lets plaintext connections in beside those of TLS: etcd does so where an
	// address is listed with http and with https.
	Plain   bool
	Traffic Traffic
}

// Serve accepts plaintext connections of gRPC and HTTP; see ServeOn.
func (s *Server) Serve(l net.Listener) error { return s.ServeOn(Endpoint{Listener: l}) }

// ServeTLS accepts TLS connections of gRPC and HTTP; see ServeOn.
func (s *Server) ServeTLS(l net.Listener, c *tls.Config) error {
	return s.ServeOn(Endpoint{Listener: l, TLS: c})
}

// ServeOn accepts connections until Shutdown, when it returns ErrServerClosed, or
// until the listener fails. It may be called for several listeners.
func (s *Server) ServeOn(e Endpoint) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(ErrServerClosed, e.Listener.Close())
	}
	s.listeners[e.Listener] = struct{}{}
	s.mu.Unlock()

	port := &port{
		server: s, traffic: e.Traffic, plain: e.TLS == nil || e.Plain, slots: s.clientSlots,
		forGRPC: newQueue(e.Listener.Addr()), forHTTP: newQueue(e.Listener.Addr()),
	}
	if e.Traffic == TrafficMetrics {
		port.slots = s.metricsSlots
	}
	if e.TLS != nil {
		port.tls = serverTLS(e.TLS, e.Traffic)
	}
	var serving sync.WaitGroup
	if e.Traffic == TrafficAll || e.Traffic == TrafficGRPC {
		serving.Go(func() { _ = s.grpc.Serve(port.forGRPC) })
	}
	if h := s.httpFor(e.Traffic); h != nil {
		serving.Go(func() { _ = h.Serve(port.forHTTP) })
	}
	err := s.accept(e.Listener, port)
	_, _ = port.forGRPC.Close(), port.forHTTP.Close()
	serving.Wait()
	return err
}

// httpFor is the server of the HTTP side of a listener; nil when it has none.
func (s *Server) httpFor(t Traffic) *http.Server {
	switch t {
	case TrafficAll:
		return s.http
	case TrafficHTTP:
		return s.httpOnly
	case TrafficMetrics:
		return s.httpMetrics
	}
	return nil
}

// accept sorts connections by protocol, each in a goroutine of its own, so that
// a silent client holds up nobody.
func (s *Server) accept(l net.Listener, p *port) error {
	var sniffing sync.WaitGroup
	defer sniffing.Wait()
	for delay := time.Duration(0); ; {
		raw, err := l.Accept()
		if err == nil {
			delay = 0
			if !p.slots.take(s.stopped.Done()) {
				_ = raw.Close() // nothing was exchanged on it
				return ErrServerClosed
			}
			raw = p.slots.hold(raw)
			sniffing.Go(func() { p.admit(raw) })
			continue
		}
		if s.stopped.Err() != nil {
			return ErrServerClosed
		}
		// Too many open files, or a connection that was gone at once: others may do.
		if e, ok := errors.AsType[net.Error](err); !(ok && e.Timeout() || isTemporary(err)) {
			return err
		}
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		s.log.Warn("cannot accept a connection", zap.Error(err), zap.Duration("retry in", delay))
		select {
		case <-time.After(delay):
		case <-s.stopped.Done():
			return ErrServerClosed
		}
	}
}

// isTemporary tells whether accepting may succeed later.
func isTemporary(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && e.Temporary()
}

// port sorts the connections of one listener.
type port struct {
	server           *Server
	traffic          Traffic
	tls              *tls.Config // nil: none
	plain            bool
	slots            slots
	forGRPC, forHTTP *queue
}

// admit finds out what a connection speaks and hands it over, or closes it: when it
// is silent, gone or too late, or speaks what this port does not.
func (p *port) admit(raw net.Conn) {
	s := p.server
	unwatch := context.AfterFunc(s.stopped, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	if err := raw.SetDeadline(time.Now().Add(s.cfg.prefaceTimeout)); err != nil {
		unwatch()
		_ = raw.Close()
		return
	}
	to, c := p.sort(raw)
	// A deadline that Shutdown set stays.
	if !unwatch() || to == nil || raw.SetDeadline(time.Time{}) != nil {
		_ = c.Close()
		return
	}
	to.put(c)
}

// sort returns the queue that a connection goes to, nil for none, and the connection
// as it goes there.
func (p *port) sort(raw net.Conn) (*queue, net.Conn) {
	if !p.plain {
		return p.secure(raw, raw)
	}
	peeked, http2, err := sniff(raw)
	if err != nil {
		return nil, raw
	}
	c := p.server.newConn(raw, raw)
	c.peeked = peeked
	switch {
	case p.tls != nil && len(peeked) > 0 && peeked[0] == tlsHandshakeRecord:
		return p.secure(raw, c)
	case http2 && p.carriesGRPC():
		return p.forGRPC, c
	case !http2 && p.carriesHTTP():
		return p.forHTTP, c
	}
	return nil, c
}

func (p *port) carriesGRPC() bool { return p.traffic == TrafficAll || p.traffic == TrafficGRPC }
func (p *port) carriesHTTP() bool { return p.traffic != TrafficGRPC }

// newConn attaches an account of the budget to a connection; raw is the socket below
// it.
func (s *Server) newConn(c, raw net.Conn) *conn {
	counted := &conn{Conn: c, account: s.budget.account()}
	counted.account.hangUp = func() {
		s.log.Warn("closing a connection: its client does not read the answers that it asked for, and others wait for the memory",
			zap.Stringer("remote-addr", raw.RemoteAddr()), zap.Duration("stalled for at least", shortStallTimeout))
		_ = raw.Close() // nothing can be told to it, TLS's farewell included
		counted.closed.Do(counted.account.end)
	}
	return counted
}
