package etcdapi

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// clusterVersion is the version that the members of a cluster agree to speak.
const clusterVersion = "3.7.0"

// HTTPHandler is what the client port serves to HTTP clients: /version beside
// all of MetricsHandler. Any origin is allowed, which is etcd's default of --cors.
func (s *Server) HTTPHandler() http.Handler {
	mux := s.metricsMux()
	mux.HandleFunc("/version", s.serveVersion)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Allow-Headers", "accept, content-type, authorization")
		if r.Method == http.MethodOptions {
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// MetricsHandler is what a port for metrics alone serves: /metrics, /health,
// /livez and /readyz.
func (s *Server) MetricsHandler() http.Handler { return s.metricsMux() }

func (s *Server) metricsMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{Registry: s.cfg.Metrics}))
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
	if st, err := s.backend.Status(r.Context()); err == nil && st.StorageVersion != "" {
		v.Storage = st.StorageVersion
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
