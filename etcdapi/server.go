package etcdapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

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
// with Serve, end it with Shutdown. The backend is the caller's to close,
// afterwards.
type Server struct {
	cfg       Config
	log       *zap.Logger
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
	readiness    backends.Readiness
	auth         backends.Auth

	access     map[string]demand // what each method demands of its caller
	wireErrors []struct{ is, wire error }
	grpc       *grpc.Server
	http       *http.Server
	health     *health.Server

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
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	if err := cfg.Metrics.Register(newCollector(backend, &cfg)); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:        cfg,
		log:        cfg.Logger,
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
	}
	s.leases, _ = backend.(backends.Leases)
	s.alarms, _ = backend.(backends.Alarms)
	s.members, _ = backend.(backends.Members)
	s.hasher, _ = backend.(backends.Hasher)
	s.snapshotter, _ = backend.(backends.Snapshotter)
	s.defragmenter, _ = backend.(backends.Defragmenter)
	s.readiness, _ = backend.(backends.Readiness)
	s.auth, _ = backend.(backends.Auth)

	s.stopped, s.stop = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(s.options()...)
	for _, d := range s.services() {
		s.grpc.RegisterService(&d, nil) // its handlers know the server
	}
	s.http = &http.Server{
		Handler:           s.HTTPHandler(),
		ReadHeaderTimeout: cfg.prefaceTimeout,
		IdleTimeout:       httpIdleTimeout,
		ErrorLog:          zap.NewStdLog(zap.NewNop()), // clients' faults are not ours to log
	}
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	s.background.Go(s.watchLeader)
	return s, nil
}

func (s *Server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{s.metrics}),
		grpc.Creds(plaintext{}),
		grpc.ConnectionTimeout(s.cfg.prefaceTimeout),
		grpc.MaxRecvMsgSize(s.cfg.MaxRequestBytes + overheadBytes),
		grpc.MaxSendMsgSize(1<<31 - 1),
		grpc.MaxConcurrentStreams(s.cfg.MaxConcurrentStreams),
		grpc.StaticStreamWindowSize(streamWindowBytes),
		grpc.StaticConnWindowSize(connWindowBytes),
		grpc.NumStreamWorkers(streamWorkers),
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

// Serve accepts connections until Shutdown, when it returns ErrServerClosed, or
// until l fails. It takes l over. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(ErrServerClosed, l.Close())
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()

	forGRPC, forHTTP := newQueue(l.Addr()), newQueue(l.Addr())
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.grpc.Serve(forGRPC) })
	serving.Go(func() { _ = s.http.Serve(forHTTP) })
	err := s.accept(l, forGRPC, forHTTP)
	_, _ = forGRPC.Close(), forHTTP.Close()
	serving.Wait()
	return err
}

// accept sorts connections by protocol, each in a goroutine of its own, so that
// a silent client holds up nobody.
func (s *Server) accept(l net.Listener, forGRPC, forHTTP *queue) error {
	var sniffing sync.WaitGroup
	defer sniffing.Wait()
	for delay := time.Duration(0); ; {
		raw, err := l.Accept()
		if err != nil {
			if s.stopped.Err() != nil {
				return ErrServerClosed
			}
			// Too many open files, or a connection that was gone at once: others may do.
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() || isTemporary(err) {
				delay = min(max(2*delay, 5*time.Millisecond), time.Second)
				s.log.Warn("cannot accept a connection", zap.Error(err), zap.Duration("retry in", delay))
				select {
				case <-time.After(delay):
					continue
				case <-s.stopped.Done():
					return ErrServerClosed
				}
			}
			return err
		}
		delay = 0
		sniffing.Go(func() {
			unwatch := context.AfterFunc(s.stopped, func() { _ = raw.SetReadDeadline(time.Unix(1, 0)) })
			peeked, http2, err := sniff(raw, s.cfg.prefaceTimeout)
			if !unwatch() || err != nil {
				_ = raw.Close() // silent, gone, or too late
				return
			}
			c := &conn{Conn: raw, account: s.budget.account(), peeked: peeked}
			c.account.hangUp = func() {
				s.log.Warn("closing a connection: its client does not read the answers that it asked for, and others wait for the memory",
					zap.Stringer("remote-addr", raw.RemoteAddr()), zap.Duration("stalled for at least", stallTimeout))
				_ = c.Close() // nothing can be told to it
			}
			if http2 {
				forGRPC.put(c)
				return
			}
			forHTTP.put(c)
		})
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
		s.grpc.GracefulStop()
		_ = s.http.Shutdown(ctx) // its error is ctx's
	}()
	var err error
	select {
	case <-drained:
	case <-ctx.Done():
		err = ctx.Err()
		s.grpc.Stop()
		_ = s.http.Close() // nothing can be done about connections that do not close
		<-drained
	}
	s.background.Wait()
	return err
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
