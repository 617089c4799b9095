package etcdapi

import (
	"net/http"
)

// HTTPHandler serves /health, /livez, /readyz, /version and /metrics. It is what
// the client port serves to HTTP clients, and what a port for metrics alone serves.
func (s *Server) HTTPHandler() http.Handler {
	mux := http.NewServeMux()
	return mux
}
