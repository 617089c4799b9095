package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt"
	"github.com/etcdshim/shim/etcdapi"
)

const (
	// defaultBackend is the --backend that the other flags describe.
	defaultBackend = "raftbolt"
	// drainTimeout bounds how long requests under way may take to end after
	// SIGTERM; etcd gives them its request time-out.
	drainTimeout = 7 * time.Second
	// closeTimeout bounds the backend's last flush. It is long: a slow disk should
	// not cost a clean stop.
	closeTimeout = 60 * time.Second
)

// errSecondSignal ends the process at once.
var errSecondSignal = errors.New("second signal: stopped at once")

// serve runs the server until a signal or a failure. It returns nil after a clean
// stop.
func serve(ctx context.Context, o options, log *zap.Logger) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	log.Info("starting shim", zap.String("etcd-version", etcdVersion), zap.String("shim-version", version), zap.String("git-sha", revision()),
		zap.String("name", o.name), zap.String("data-dir", o.dataDir), zap.String("backend", o.backend),
		zap.Strings("listen-client-urls", o.clientAddrs), zap.Strings("advertise-client-urls", o.advertiseClientURLs))

	clients, err := listen(o.clientAddrs)
	if err != nil {
		return err
	}
	defer closeAll(clients)
	metrics, err := listen(o.metricsAddrs)
	if err != nil {
		return err
	}
	defer closeAll(metrics)

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	failed := make(chan error, 1)
	env := backends.Env{
		Logger: log, Metrics: registry, Clock: backends.SystemClock{},
		Fatal: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	}
	backend, err := openOrSignal(func() (backends.Backend, error) { return openBackend(ctx, o, env) }, signals, log)
	if err != nil || backend == nil {
		return err
	}
	server, err := etcdapi.New(backend, o.api(log, registry))
	if err != nil {
		return errors.Join(err, closeBackend(backend))
	}
	serving := make(chan error, len(clients)+len(metrics))
	for _, l := range metrics {
		go func() { serving <- serveMetrics(l, server.MetricsHandler()) }()
	}
	stop := func() error { return shutDown(server, backend, log) }

	select {
	case <-server.Ready():
	case s := <-signals:
		log.Info("received signal; shutting down", zap.String("signal", s.String()))
		return afterSignal(signals, stop)
	case err := <-failed:
		return err
	}
	for _, l := range clients {
		log.Info("serving client traffic insecurely; this is strongly discouraged!", zap.String("traffic", "grpc+http"), zap.String("address", l.Addr().String()))
		go func() { serving <- server.Serve(l) }()
	}
	log.Info("ready to serve client requests")

	select {
	case s := <-signals:
		log.Info("received signal; shutting down", zap.String("signal", s.String()))
		return afterSignal(signals, stop)
	case err := <-failed:
		// The store cannot be trusted with another write: nothing is flushed.
		log.Error("the backend failed; stopping", zap.Error(err))
		return err
	case err := <-serving:
		return errors.Join(fmt.Errorf("serving: %w", err), stop())
	}
}

// afterSignal stops cleanly unless a second signal comes first.
func afterSignal(signals <-chan os.Signal, stop func() error) error {
	done := make(chan error, 1)
	go func() { done <- stop() }()
	select {
	case err := <-done:
		return err
	case <-signals:
		return errSecondSignal
	}
}

// openOrSignal opens the backend, which may take long: the log is recovered and
// the index built. A signal meanwhile ends the process as a kill would, which a
// start survives at any point; then both results are nil.
func openOrSignal(open func() (backends.Backend, error), signals <-chan os.Signal, log *zap.Logger) (backends.Backend, error) {
	type opened struct {
		backends.Backend
		err error
	}
	done := make(chan opened, 1)
	go func() {
		b, err := open()
		done <- opened{b, err}
	}()
	select {
	case r := <-done:
		return r.Backend, r.err
	case s := <-signals:
		log.Info("received signal while starting; shutting down", zap.String("signal", s.String()))
		return nil, nil
	}
}

// openBackend opens what --backend names.
func openBackend(ctx context.Context, o options, env backends.Env) (backends.Backend, error) {
	if o.backend != defaultBackend {
		return backends.Open(ctx, o.backend, env)
	}
	c := raftbolt.DefaultConfig()
	c.Name, c.DataDir, c.WALDir = o.name, o.dataDir, o.walDir
	c.ClusterToken, c.InitialAdvertisePeerURLs, c.AdvertiseClientURLs = o.clusterToken, o.peerURLs, o.advertiseClientURLs
	c.HeartbeatInterval, c.ElectionTimeout = o.heartbeat, o.election
	c.QuotaBytes, c.UnsafeNoFsync = o.quotaBytes, o.unsafeNoFsync
	c.AutoCompactionMode, c.AutoCompactionRetention = o.autoCompactionMode, o.autoCompactionArg
	c.CompactionBatchLimit, c.CompactionSleepInterval = int(o.compactionBatch), o.compactionSleep
	c.SnapshotCatchupEntries = o.catchupEntries
	return raftbolt.Open(ctx, c, env)
}

// api is the wire's configuration.
func (o options) api(log *zap.Logger, registry *prometheus.Registry) etcdapi.Config {
	return etcdapi.Config{
		MaxRequestBytes: int(min(o.maxRequestBytes, 1<<31)), MaxTxnOps: int(min(o.maxTxnOps, 1<<31)), MaxConcurrentStreams: uint32(o.maxStreams),
		KeepaliveMinTime: o.keepaliveMin, KeepaliveInterval: o.keepaliveInterval, KeepaliveTimeout: o.keepaliveTimeout,
		WatchProgressNotifyInterval: o.progressNotify, WarningUnaryRequestDuration: o.slowRequest, LeaderLossTimeout: 3 * o.election,
		Name: o.name, ClientURLs: o.advertiseClientURLs,
		ServerVersion: etcdVersion, ShimVersion: version,
		Logger: log, Metrics: registry,
	}
}

// shutDown ends requests, then closes the backend.
func shutDown(server *etcdapi.Server, backend backends.Backend, log *zap.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		log.Warn("stopped serving with an error", zap.Error(err))
	}
	if err := closeBackend(backend); err != nil {
		return fmt.Errorf("closing the %s backend: %w", backend.Info().Name, err)
	}
	log.Info("closed shim")
	return nil
}

func closeBackend(b backends.Backend) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return b.Close(ctx)
}

func serveMetrics(l net.Listener, h http.Handler) error {
	return (&http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}).Serve(l)
}

func listen(addrs []string) ([]net.Listener, error) {
	var ls []net.Listener
	for _, a := range addrs {
		l, err := net.Listen("tcp", a)
		if err != nil {
			closeAll(ls)
			return nil, err
		}
		ls = append(ls, l)
	}
	return ls, nil
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		_ = l.Close()
	}
}
