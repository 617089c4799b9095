package etcdapi

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// maxClientVersions bounds the values of a label that clients choose.
const maxClientVersions = 64

// metrics are counters under etcd's names (v3rpc/metrics.go, etcdhttp/health.go,
// and go-grpc-middleware's for grpc_server_*).
type metrics struct {
	sentBytes, receivedBytes prometheus.Counter
	streamFailures           *prometheus.CounterVec
	clientRequests           *prometheus.CounterVec
	started, handled         *prometheus.CounterVec
	msgReceived, msgSent     *prometheus.CounterVec
	healthOK, healthFailed   prometheus.Counter
	healthCheck              *prometheus.GaugeVec
	healthChecks             *prometheus.CounterVec
	events                   prometheus.Counter
	handling                 *prometheus.HistogramVec // nil unless metrics are extensive

	versions   sync.Map   // client API version and type → prometheus.Counter
	versionsMu sync.Mutex // of new entries and their count
	versionNum int
}

// newMetrics makes and registers them. Extensive metrics have the time of each call, too.
func newMetrics(reg prometheus.Registerer, extensive bool) (*metrics, error) {
	counter := func(subsystem, name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "etcd", Subsystem: subsystem, Name: name, Help: help})
	}
	vec := func(namespace, subsystem, name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	}
	method := []string{"grpc_type", "grpc_service", "grpc_method"}
	m := &metrics{
		sentBytes:      counter("network", "client_grpc_sent_bytes_total", "Bytes sent to gRPC clients."),
		receivedBytes:  counter("network", "client_grpc_received_bytes_total", "Bytes received from gRPC clients."),
		streamFailures: vec("etcd", "network", "server_stream_failures_total", "Streams that failed.", "Type", "API"),
		clientRequests: vec("etcd", "server", "client_requests_total", "Requests by client API version.", "type", "client_api_version"),
		started:        vec("grpc", "server", "started_total", "RPCs started.", method...),
		handled:        vec("grpc", "server", "handled_total", "RPCs completed, whatever the outcome.", append(method, "grpc_code")...),
		msgReceived:    vec("grpc", "server", "msg_received_total", "Stream messages received.", method...),
		msgSent:        vec("grpc", "server", "msg_sent_total", "Stream messages sent.", method...),
		healthOK:       counter("server", "health_success", "Health checks that succeeded."),
		healthFailed:   counter("server", "health_failures", "Health checks that failed."),
		healthCheck: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "server", Name: "healthcheck", Help: "Result of each kind of health check.",
		}, []string{"type", "name"}),
		healthChecks: vec("etcd", "server", "healthchecks_total", "Health checks of each kind.", "type", "name", "status"),
		events:       prometheus.NewCounter(prometheus.CounterOpts{Name: "etcd_debugging_mvcc_events_total", Help: "Events sent to watchers."}),
	}
	collectors := []prometheus.Collector{
		m.sentBytes, m.receivedBytes, m.streamFailures, m.clientRequests, m.started, m.handled, m.msgReceived,
		m.msgSent, m.healthOK, m.healthFailed, m.healthCheck, m.healthChecks, m.events,
	}
	if extensive {
		m.handling = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "grpc", Subsystem: "server", Name: "handling_seconds", Help: "Time of RPCs.", Buckets: prometheus.DefBuckets,
		}, method)
		collectors = append(collectors, m.handling)
	}
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// rpcMetrics are the counters of one method, looked up once.
type rpcMetrics struct {
	started, ok, received, sent prometheus.Counter
	failed                      func(codes.Code) prometheus.Counter
	handling                    prometheus.Observer // nil unless metrics are extensive
}

func (m *metrics) rpc(kind, service, method string) *rpcMetrics {
	r := &rpcMetrics{
		started:  m.started.WithLabelValues(kind, service, method),
		ok:       m.handled.WithLabelValues(kind, service, method, codes.OK.String()),
		received: m.msgReceived.WithLabelValues(kind, service, method),
		sent:     m.msgSent.WithLabelValues(kind, service, method),
		failed: func(code codes.Code) prometheus.Counter {
			return m.handled.WithLabelValues(kind, service, method, code.String())
		},
	}
	// Each code counts from zero, as in etcd: the first failure is an increase, too.
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		m.handled.WithLabelValues(kind, service, method, code.String())
	}
	if m.handling != nil {
		r.handling = m.handling.WithLabelValues(kind, service, method)
	}
	return r
}

// took counts how long a call took.
func (r *rpcMetrics) took(d time.Duration) {
	if r.handling != nil {
		r.handling.Observe(d.Seconds())
	}
}

func (r *rpcMetrics) done(code codes.Code) {
	if code == codes.OK {
		r.ok.Inc()
		return
	}
	r.failed(code).Inc()
}

// client counts a request by the version its client tells, of which only so many
// are told apart.
func (m *metrics) client(kind, version string) {
	key := kind + " " + version
	if c, ok := m.versions.Load(key); ok {
		c.(prometheus.Counter).Inc()
		return
	}
	m.versionsMu.Lock()
	defer m.versionsMu.Unlock()
	c, known := m.versions.Load(key) // by now
	if !known {
		if m.versionNum >= maxClientVersions {
			m.clientRequests.WithLabelValues(kind, "other").Inc()
			return
		}
		m.versionNum++
		c = m.clientRequests.WithLabelValues(kind, version)
		m.versions.Store(key, c)
	}
	c.(prometheus.Counter).Inc()
}
