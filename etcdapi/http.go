package etcdapi

import (
	"cmp"
	"encoding/json"
	"math"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// clusterVersion is the version that the members of a cluster agree to speak.
const clusterVersion = "3.7.0"

// HTTPHandler is what the client port serves to HTTP clients: the gateway, /version
// and what is for debugging, beside all of MetricsHandler; under the rules of access.
func (s *Server) HTTPHandler() http.Handler { return s.clientHandler(false) }

// clientHandler is HTTPHandler, with gRPC beside it where it may come through net/http.
func (s *Server) clientHandler(withGRPC bool) http.Handler {
	mux := s.metricsMux()
	mux.HandleFunc("/version", s.serveVersion)
	s.handleDebug(mux)
	if s.gateway != nil {
		mux.Handle(gatewayPrefix, s.gateway)
	}
	if withGRPC {
		return s.withAccess(s.withGRPC(mux))
	}
	return s.withAccess(mux)
}

// withGRPC answers gRPC and leaves the rest to h.
func (s *Server) withGRPC(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.Contains(r.Header.Get("Content-Type"), "application/grpc") {
			s.viaHTTP.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// newHTTPServer is what serves h on listeners.
func (s *Server) newHTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           s.recovering(h),
		ReadHeaderTimeout: s.cfg.prefaceTimeout,
		IdleTimeout:       httpIdleTimeout,
		// net/http takes what is above for its default of 250.
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: int(min(s.cfg.MaxConcurrentStreams, math.MaxInt32))},
		ErrorLog: zap.NewStdLog(zap.NewNop()), // clients' faults are not ours to log
	}
}

// recovering tells of a panic of h, which net/http survives and says nothing of here.
func (s *Server) recovering(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			s.logPanic(r, p)
			panic(http.ErrAbortHandler) // so that the connection ends
		}()
		h.ServeHTTP(w, r)
	})
}

// logPanic tells of a panic, unless it only ends the connection.
func (s *Server) logPanic(r *http.Request, p any) {
	if p != http.ErrAbortHandler { //nolint:errorlint // it is a value that was thrown
		s.log.Error("panic in a request", zap.String("method", r.Method+" "+r.URL.Path), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
	}
}

// MetricsHandler is what a port for metrics alone serves: /metrics, /health,
// /livez and /readyz.
func (s *Server) MetricsHandler() http.Handler { return s.metricsMux() }

func (s *Server) metricsMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.InstrumentMetricHandler(s.cfg.Metrics, promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{
		// A backend that is away takes its own numbers with it, and no others.
		ErrorHandling: promhttp.ContinueOnError,
	})))
	s.handleHealth(mux)
	return mux
}

// versions is /version's answer: etcd's fields (api/version, Versions) and ours.
type versions struct {
	Server  string `json:"etcdserver"`
	Cluster string `json:"etcdcluster"`
	Storage string `json:"storage"`
	Shim    string `json:"shim"`
	Backend string `json:"backend"`
}

func (s *Server) serveVersion(w http.ResponseWriter, r *http.Request) {
	if !allowGet(w, r) {
		return
	}
	v := versions{Server: s.cfg.ServerVersion, Cluster: clusterVersion, Storage: "unknown", Shim: s.cfg.ShimVersion, Backend: s.info.Name}
	if st, err := s.backend.Status(r.Context()); err == nil {
		v.Storage, v.Cluster = cmp.Or(st.StorageVersion, v.Storage), cmp.Or(st.ClusterVersion, v.Cluster)
	}
	w.Header().Set("Content-Type", "application/json")
	s.write(w, mustJSON(v))
}

// allowGet answers every method but GET, as etcd does.
func allowGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}

// write sends a body. A client that is gone is no fault of ours.
func (s *Server) write(w http.ResponseWriter, body []byte) {
	if _, err := w.Write(body); err != nil {
		s.log.Debug("failed to write an HTTP response", zap.Error(err))
	}
}

// mustJSON encodes a struct of strings, which cannot fail.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
