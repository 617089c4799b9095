package etcdapi

import (
	"context"
	"net"
	"net/http"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // requests may be compressed, as to etcd
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdshim/shim/backends"
)

// Server answers etcd's API from a backend. Make one with New, give it listeners
// with Serve, ServeTLS or ServeOn, end it with Shutdown. The backend is the caller's to close,
// afterwards.
type Server struct {
	cfg       Config
	log       *zap.Logger
	logsAll   bool // the log shows debug lines: each request is told
	metrics   *metrics
	budget    *budget
	streams   *streams
	snapshots *snapshots

	// The backend and the capabilities it has; those it lacks are nil.
	backend      backends.Backend
	info         backends.Info
	leases       backends.Leases
	alarms       backends.Alarms
	members      backends.Members
	hasher       backends.Hasher
	snapshotter  backends.Snapshotter
	defragmenter backends.Defragmenter
	leaderMover  backends.LeaderMover
	downgrader   backends.Downgrader
	readiness    backends.Readiness
	auth         backends.Auth

	access     map[string]demand // what each method demands of its caller
	wireErrors []struct{ is, wire error }
	grpc       *grpc.Server
	// viaHTTP answers gRPC that came through net/http: of TLS clients that could not be
	// told from HTTP's by what they offered (see secure). It has no connections of its own.
	viaHTTP    *grpc.Server
	health     *health.Server
	gateway    *gateway // nil when it is off
	httpAccess httpAccess
	// clientSlots and metricsSlots bound the connections of clients and of those who
	// look after the server.
	clientSlots, metricsSlots slots
	// http, httpOnly and httpMetrics answer the listeners of TrafficAll, TrafficHTTP
	// and TrafficMetrics.
	http, httpOnly, httpMetrics *http.Server

	background sync.WaitGroup // goroutines that stop ends
	stop       context.CancelFunc
	stopped    context.Context

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	closed    bool
}

// New makes a server over backend. This is the one place where capabilities
// are found.
func New(backend backends.Backend, cfg Config) (*Server, error) {
	if backend == nil {
		return nil, ErrNoBackend
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Metrics, cfg.ExtensiveMetrics)
	if err != nil {
		return nil, err
	}
	if err := cfg.Metrics.Register(newCollector(backend, &cfg)); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:        cfg,
		log:        cfg.Logger,
		logsAll:    cfg.Logger.Core().Enabled(zap.DebugLevel),
		httpAccess: newHTTPAccess(&cfg),
		metrics:    m,
		budget:     newBudget(cfg.ResponseMemoryBytes, cfg.Clock),
		streams:    newStreams(),
		snapshots:  newSnapshots(cfg.Clock, cfg.snapshotStall),
		backend:    backend,
		info:       backend.Info(),
		access:     accessTable(),
		wireErrors: wireErrors(),
		health:     health.NewServer(),
		listeners:  make(map[net.Listener]struct{}),

		clientSlots: newSlots(cfg.MaxConnections), metricsSlots: newSlots(metricsConnections),
	}
	s.leases, _ = backend.(backends.Leases)
	s.alarms, _ = backend.(backends.Alarms)
	s.members, _ = backend.(backends.Members)
	s.hasher, _ = backend.(backends.Hasher)
	s.snapshotter, _ = backend.(backends.Snapshotter)
	s.defragmenter, _ = backend.(backends.Defragmenter)
	s.leaderMover, _ = backend.(backends.LeaderMover)
	s.downgrader, _ = backend.(backends.Downgrader)
	s.auth, _ = backend.(backends.Auth)
	s.readiness, _ = backend.(backends.Readiness)

	s.stopped, s.stop = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(append(s.options(), grpc.NumStreamWorkers(streamWorkers))...)
	s.viaHTTP = grpc.NewServer(s.options()...)
	for _, d := range s.services() {
		s.grpc.RegisterService(&d, nil) // its handlers know the server
		s.viaHTTP.RegisterService(&d, nil)
	}
	if !cfg.DisableGRPCGateway {
		if s.gateway, err = newGateway(s); err != nil {
			return nil, err
		}
	}
	s.http = s.newHTTPServer(s.clientHandler(true))
	s.httpOnly = s.newHTTPServer(s.clientHandler(false))
	s.httpMetrics = s.newHTTPServer(s.MetricsHandler())
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	s.background.Go(s.watchLeader)
	return s, nil
}

func (s *Server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{s.metrics}),
		grpc.Creds(handshaken{}),
		grpc.ConnectionTimeout(s.cfg.prefaceTimeout),
		grpc.MaxRecvMsgSize(s.cfg.MaxRequestBytes + overheadBytes),
		grpc.MaxSendMsgSize(1<<31 - 1),
		grpc.MaxConcurrentStreams(s.cfg.MaxConcurrentStreams),
		grpc.StaticStreamWindowSize(streamWindowBytes),
		grpc.StaticConnWindowSize(connWindowBytes),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: s.cfg.KeepaliveMinTime}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: s.cfg.KeepaliveInterval, Timeout: s.cfg.KeepaliveTimeout}),
	}
}

// Flow control windows are fixed: grpc's estimator of the path's bandwidth, which
// would grow them, costs a ping of the client for nearly every request, so two
// frames written and one read more than a put needs.
const (
	// streamWindowBytes is what a client may send on a stream ahead of its reader,
	// HTTP/2's default; grpc widens it by itself for a message that is larger.
	streamWindowBytes = 64 << 10
	// connWindowBytes is what all streams of a connection may have on the way: a
	// gigabit at a round trip of 8 ms.
	connWindowBytes = 1 << 20
	// streamWorkers is how many goroutines stay to run RPCs one after the other:
	// a new one's stack grows several times before it answers. RPCs beyond get
	// one of their own. Each costs about 8 KiB.
	streamWorkers = 128
)

// Shutdown stops accepting, ends streams, lets unary requests finish until ctx
// ends, and closes what is left then. It returns ctx's error in that case.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.health.Shutdown()
	s.stop()
	for l := range s.listeners {
		_ = l.Close() // Accept tells
	}
	s.mu.Unlock()

	s.streams.cancelAll(backends.ErrStopped)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		var draining sync.WaitGroup
		draining.Go(s.grpc.GracefulStop)
		for _, h := range s.httpServers() {
			draining.Go(func() { _ = h.Shutdown(ctx) }) // its error is ctx's
		}
		draining.Wait()
	}()
	var err error
	select {
	case <-drained:
	case <-ctx.Done():
		err = ctx.Err()
		s.grpc.Stop()
		for _, h := range s.httpServers() {
			_ = h.Close() // nothing can be done about connections that do not close
		}
		<-drained
	}
	s.viaHTTP.Stop() // its requests are net/http's, which ended
	if s.gateway != nil {
		s.gateway.close()
	}
	s.background.Wait()
	return err
}

func (s *Server) httpServers() []*http.Server {
	return []*http.Server{s.http, s.httpOnly, s.httpMetrics}
}

// Ready is closed once linearizable requests can be served; at once for a backend
// that is ready when it was opened.
func (s *Server) Ready() <-chan struct{} {
	if s.readiness != nil {
		return s.readiness.Ready()
	}
	ready := make(chan struct{})
	close(ready)
	return ready
}

func wireHeader(h backends.Header) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: h.ClusterID, MemberId: h.MemberID, Revision: h.Revision, RaftTerm: h.Term}
}
