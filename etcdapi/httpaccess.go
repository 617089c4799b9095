package etcdapi

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
)

// betaPrefix is the gateway's path of etcd 3.3, which is still answered.
const betaPrefix = "/v3beta/"

// httpAccess decide which requests of HTTP are answered, before any handler sees them
// (embed/serve.go, accessController). The zero value lets all in.
type httpAccess struct {
	origins    map[string]struct{} // of CORS; nil is any
	hosts      map[string]struct{} // that plain HTTP may name; nil is any
	certUsers  bool                // users may be named by certificates
	hasGateway bool
}

func newHTTPAccess(c *Config) httpAccess {
	return httpAccess{origins: nameSet(c.CORS), hosts: nameSet(c.HostWhitelist), certUsers: c.ClientCertAuth, hasGateway: !c.DisableGRPCGateway}
}

// nameSet is nil when the list is empty or has "*" in it: any name will do.
func nameSet(names []string) map[string]struct{} {
	if len(names) == 0 || slices.Contains(names, "*") {
		return nil
	}
	set := make(map[string]struct{}, len(names))
	for _, n := range names {
		set[n] = struct{}{}
	}
	return set
}

// withAccess lets requests through to h by the rules.
func (s *Server) withAccess(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, beta := strings.CutPrefix(r.URL.Path, betaPrefix); beta {
			r.URL.Path = gatewayPrefix + rest
		}
		switch {
		case r.TLS == nil:
			if host := hostOf(r); !s.httpAccess.knowsHost(host) {
				s.log.Warn("rejecting HTTP request to prevent DNS rebinding attacks", zap.String("host", host))
				http.Error(w, unknownHost(host), http.StatusMisdirectedRequest)
				return
			}
		case s.namesUnusedUser(r):
			http.Error(w, "CommonName of client sending a request against gateway will be ignored and not used as expected", http.StatusBadRequest)
			return
		}
		if origin, ok := s.httpAccess.origin(r); ok {
			w.Header().Add("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
			w.Header().Add("Access-Control-Allow-Origin", origin)
			w.Header().Add("Access-Control-Allow-Headers", "accept, content-type, authorization")
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (a httpAccess) knowsHost(host string) bool {
	if a.hosts == nil {
		return true
	}
	_, ok := a.hosts[host]
	return ok
}

// origin is what CORS is told to allow; false for nothing.
func (a httpAccess) origin(r *http.Request) (string, bool) {
	if a.origins == nil {
		return "*", true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return "", false
	}
	_, ok := a.origins[origin]
	return origin, ok
}

// hostOf is the host that a request names, without its port.
func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		return r.Host
	}
	return host
}

// namesUnusedUser tells whether a request to the gateway comes with a certificate that
// names a user while users are asked for: the gateway acts under tokens alone.
func (s *Server) namesUnusedUser(r *http.Request) bool {
	if !s.httpAccess.certUsers || !s.httpAccess.hasGateway || !strings.HasPrefix(r.URL.Path, gatewayPrefix) {
		return false
	}
	named := slices.ContainsFunc(r.TLS.VerifiedChains, func(chain []*x509.Certificate) bool {
		return len(chain) > 0 && chain[0].Subject.CommonName != ""
	})
	if !named || !s.authEnabled() {
		return false
	}
	// A pass-through says that it is on without knowing.
	st, err := s.auth.AuthStatus(r.Context(), backends.Caller{})
	return err == nil && st.Enabled
}

// unknownHost is etcd's answer to a host that is not on the list; clients and their
// users know it (embed/serve.go, errCVE20185702).
func unknownHost(host string) string {
	return fmt.Sprintf(`
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist %q

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).
`, host)
}
