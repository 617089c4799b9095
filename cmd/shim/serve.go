package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/etcdshim/shim/backends"
	"github.com/etcdshim/shim/backends/raftbolt"
	"github.com/etcdshim/shim/etcdapi"
	"github.com/etcdshim/shim/internal/tlsconf"
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

// start runs a server with the settings of the command line, the environment and
// the configuration file.
func start(ctx context.Context, s *settings, environ []string) error {
	if err := s.complete(environ); err != nil {
		return err
	}
	o, err := s.options()
	if err != nil {
		return err
	}
	log, closeLog, err := newLogger(s.logOptions())
	if err != nil {
		return err
	}
	defer closeLog()
	etcdapi.LogGRPC(log)
	s.tell(o, log)
	if err = o.checkFounding(ctx); err == nil {
		err = serve(ctx, o, log)
	}
	if err != nil && !s.logOptions().toStderr() {
		log.Error("shim ends with an error", zap.Error(err)) // main tells it on stderr
	}
	return err
}

// serve runs the server until a signal or a failure. It returns nil after a clean
// stop.
func serve(ctx context.Context, o options, log *zap.Logger) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	log.Info("starting shim", zap.String("etcd-version", etcdVersion), zap.String("shim-version", version), zap.String("git-sha", revision()),
		zap.String("name", o.name), zap.String("data-dir", o.dataDir), zap.String("backend", redacted(o.backend)),
		zap.Strings("listen-client-urls", o.clientURLs), zap.Strings("advertise-client-urls", o.advertiseClientURLs))

	o.profile(log)
	secure, err := o.fileTLS(log)
	if err != nil {
		return err
	}
	listeners, err := o.listenAll(ctx)
	if err != nil {
		return err
	}
	defer closeAll(listeners)

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
	if secure == nil {
		// The data directory is ours now: its certificate may be made in it.
		if secure, err = o.ownTLS(log); err != nil {
			return errors.Join(err, closeBackend(backend))
		}
	}
	server, err := etcdapi.New(backend, o.api(log, registry))
	if err != nil {
		return errors.Join(err, closeBackend(backend))
	}
	p := ports{endpoints: o.endpoints, listeners: listeners, secure: secure, server: server, log: log, failed: make(chan error, len(listeners))}
	p.serve(func(t traffic) bool { return t == trafficMetrics })
	stop := func() error {
		notify(daemon.SdNotifyStopping, log)
		return shutDown(server, backend, log)
	}

	select {
	case <-server.Ready():
	case s := <-signals:
		log.Info("received signal; shutting down", zap.String("signal", s.String()))
		return afterSignal(signals, stop)
	case err := <-failed:
		return err
	}
	p.serve(func(t traffic) bool { return t != trafficMetrics })
	log.Info("ready to serve client requests")
	notify(daemon.SdNotifyReady, log)

	select {
	case s := <-signals:
		log.Info("received signal; shutting down", zap.String("signal", s.String()))
		return afterSignal(signals, stop)
	case err := <-failed:
		// The store cannot be trusted with another write: nothing is flushed.
		notify(daemon.SdNotifyStopping, log)
		log.Error("the backend failed; stopping", zap.Error(err))
		return err
	case err := <-p.failed:
		return errors.Join(fmt.Errorf("serving: %w", err), stop())
	}
}

// mutexFraction is which share of contended locks a profile holds, as in etcd
// (pkg/debugutil, PProfHandlers): one in so many.
const mutexFraction = 5

// profile tells that profiles are served, and has locks counted for them.
func (o options) profile(log *zap.Logger) {
	if !o.pprof {
		return
	}
	if runtime.SetMutexProfileFraction(-1) == 0 {
		runtime.SetMutexProfileFraction(mutexFraction)
	}
	log.Info("pprof is enabled", zap.String("path", "/debug/pprof"))
}

// ports are the listeners of a server's endpoints.
type ports struct {
	endpoints []endpoint
	listeners []net.Listener // of the endpoints
	secure    *tls.Config    // nil when no endpoint is secure
	server    *etcdapi.Server
	log       *zap.Logger
	failed    chan error // one place for each
}

// serve starts to serve the endpoints that are wanted, and tells it as etcd does
// (embed/serve.go, serve).
func (p *ports) serve(wanted func(traffic) bool) {
	for i, e := range p.endpoints {
		if !wanted(e.traffic) {
			continue
		}
		served := etcdapi.Endpoint{Listener: p.listeners[i], Plain: e.insecure, Traffic: e.traffic.wire()}
		if e.secure {
			served.TLS = p.secure
		}
		address := zap.String("address", p.listeners[i].Addr().String())
		switch {
		case e.traffic == trafficMetrics:
			p.log.Info("serving metrics", address)
		default:
			kind := zap.String("traffic", string(e.traffic))
			if e.insecure {
				p.log.Info("serving client traffic insecurely; this is strongly discouraged!", kind, address)
			}
			if e.secure {
				p.log.Info("serving client traffic securely", kind, address)
			}
		}
		go func() { p.failed <- p.server.ServeOn(served) }()
	}
}

// wire is what a port serves, in etcdapi's words.
func (t traffic) wire() etcdapi.Traffic {
	switch t {
	case trafficGRPC:
		return etcdapi.TrafficGRPC
	case trafficHTTP:
		return etcdapi.TrafficHTTP
	case trafficMetrics:
		return etcdapi.TrafficMetrics
	}
	return etcdapi.TrafficAll
}

// fileTLS reads the clients' TLS from the operator's files; nil when there is none.
func (o options) fileTLS(log *zap.Logger) (*tls.Config, error) {
	if !o.isSecure() || o.autoTLS {
		return nil, nil //nolint:nilnil // nil is no TLS, for etcdapi too
	}
	return o.makeTLS(o.tls, log)
}

// ownTLS makes the clients' TLS with a self-signed certificate in the data
// directory, where etcd has its own, too; nil when that is not asked for.
func (o options) ownTLS(log *zap.Logger) (*tls.Config, error) {
	if !o.isSecure() || !o.autoTLS {
		return nil, nil //nolint:nilnil // nil is no TLS, for etcdapi too
	}
	var hosts []string
	for _, e := range o.endpoints {
		if e.network == "tcp" && e.traffic != trafficMetrics {
			hosts = append(hosts, e.address)
		}
	}
	certFile, keyFile, made, err := tlsconf.SelfSigned(filepath.Join(o.dataDir, "fixtures", "client"), hosts, o.validityYears, time.Now())
	if err != nil {
		return nil, fmt.Errorf("--auto-tls: %w", err)
	}
	if made {
		log.Warn("automatically generate certificates", zap.String("cert-file", certFile), zap.Uint("validity-years", o.validityYears))
	}
	c := o.tls
	c.CertFile, c.KeyFile = certFile, keyFile
	return o.makeTLS(c, log)
}

func (o options) makeTLS(c tlsconf.Config, log *zap.Logger) (*tls.Config, error) {
	c.Logger = log
	made, err := tlsconf.Server(c)
	if err != nil {
		return nil, fmt.Errorf("TLS for clients: %w", err)
	}
	log.Info("starting with client TLS", zap.String("cert-file", c.CertFile), zap.String("key-file", c.KeyFile), zap.String("trusted-ca-file", c.TrustedCAFile),
		zap.Bool("client-cert-auth", c.VerifiesClients()), zap.String("crl-file", c.CRLFile))
	return made, nil
}

func (o options) isSecure() bool {
	return slices.ContainsFunc(o.endpoints, func(e endpoint) bool { return e.secure })
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
	c.AuthToken, c.BcryptCost = o.authToken, int(o.bcryptCost)
	c.AuthTokenTTL = time.Duration(min(o.authTokenTTL, math.MaxInt64/uint64(time.Second))) * time.Second
	if c.MaxLearners = int(o.maxLearners); o.maxLearners <= 0 {
		c.MaxLearners = -1 // none, where a zero of Config is the default
	}
	c.LaxReconfigCheck = !o.strictReconfig
	return raftbolt.Open(ctx, c, env)
}

// api is the wire's configuration.
func (o options) api(log *zap.Logger, registry *prometheus.Registry) etcdapi.Config {
	return etcdapi.Config{
		MaxRequestBytes: int(min(o.maxRequestBytes, largestRequest)), MaxTxnOps: int(min(o.maxTxnOps, math.MaxInt32)), MaxConcurrentStreams: uint32(o.maxStreams),
		MaxConnections:   o.maxConnections,
		KeepaliveMinTime: o.keepaliveMin, KeepaliveInterval: o.keepaliveInterval, KeepaliveTimeout: o.keepaliveTimeout,
		WatchProgressNotifyInterval: o.progressNotify, WarningUnaryRequestDuration: o.slowRequest, LeaderLossTimeout: 3 * o.election,
		Name: o.name, ClientURLs: o.advertiseClientURLs,
		EnablePprof: o.pprof, CORS: o.cors, HostWhitelist: o.hostWhitelist, DisableGRPCGateway: !o.gateway, ExtensiveMetrics: o.extensiveMetrics, ClientCertAuth: o.tls.ClientCertAuth,
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
