package etcdapi

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"
)

// tlsHandshakeRecord is the first byte of a TLS connection. No HTTP begins with it.
const tlsHandshakeRecord = 0x16

const (
	protocolHTTP2 = "h2"
	protocolHTTP1 = "http/1.1"
)

// NextProtos are the protocols that a TLS port offers by ALPN.
func NextProtos() []string { return []string{protocolHTTP2, protocolHTTP1} }

// secure makes the TLS handshake of a connection and tells where it goes. raw is the
// socket, below is raw with what was already read of it. The handshake's time is the
// deadline of raw.
//
// HTTP/2 is gRPC unless the client offered HTTP/1.1, too: clients of gRPC speak
// nothing but HTTP/2 and say so, while those of HTTP that speak HTTP/2 also speak 1.1.
// Clients that offer both are net/http's, which hands gRPC on (see viaHTTP): slower,
// and right for whatever they send, and so for a proxy that mixes both.
func (p *port) secure(raw, below net.Conn) (*queue, net.Conn) {
	h := &hello{Conn: below}
	t := tls.Server(h, p.tls)
	if err := t.HandshakeContext(context.Background()); err != nil {
		if p.server.stopped.Err() == nil {
			p.server.logRejected(t, err)
		}
		return nil, below
	}
	state := t.ConnectionState()
	http2 := state.NegotiatedProtocol == protocolHTTP2
	switch {
	case p.traffic == TrafficGRPC, p.traffic == TrafficAll && http2 && !h.http1:
		c := p.server.newConn(t, raw)
		c.secured = &credentials.TLSInfo{
			State:          state,
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}
		return p.forGRPC, c
	}
	// net/http finds the protocol out by the type of the connection.
	return p.forHTTP, t
}

// hello is a connection that remembers what its client offered.
type hello struct {
	net.Conn
	http1 bool // written and read by the goroutine of the handshake
}

// serverTLS is c with the protocols of a port, and with an ear for what clients offer.
func serverTLS(c *tls.Config, t Traffic) *tls.Config {
	protocols := NextProtos()
	if t == TrafficGRPC {
		protocols = protocols[:1]
	}
	choose := c.GetConfigForClient
	own := c.Clone()
	own.NextProtos = protocols
	own.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		if h, ok := info.Conn.(*hello); ok {
			h.http1 = slices.Contains(info.SupportedProtos, protocolHTTP1)
		}
		if choose == nil {
			return nil, nil //nolint:nilnil // crypto/tls: nil is the configuration itself
		}
		chosen, err := choose(info)
		if err != nil || chosen == nil || slices.Equal(chosen.NextProtos, protocols) {
			return chosen, err
		}
		chosen = chosen.Clone()
		chosen.NextProtos = protocols
		return chosen, nil
	}
	return own
}

// logRejected tells of a handshake that failed, as etcd does
// (embed/config_logging.go, setupLogging): a client that only looked whether the port
// is open is not worth a warning.
func (s *Server) logRejected(c *tls.Conn, err error) {
	state := c.ConnectionState()
	fields := []zap.Field{zap.String("remote-addr", c.RemoteAddr().String()), zap.String("server-name", state.ServerName)}
	if certs := state.PeerCertificates; len(certs) > 0 {
		ips := make([]string, len(certs[0].IPAddresses))
		for i, ip := range certs[0].IPAddresses {
			ips[i] = ip.String()
		}
		fields = append(fields, zap.Strings("ip-addresses", ips), zap.Strings("dns-names", certs[0].DNSNames))
	}
	fields = append(fields, zap.Error(err))
	const message = "rejected connection on client endpoint"
	if errors.Is(err, io.EOF) {
		s.log.Debug(message, fields...)
		return
	}
	s.log.Warn(message, fields...)
}
