// Package plane runs a Kubernetes control plane on a server of etcd's API and puts it to work.
//
// Its nouns: a Plane is the server under test with kube-apiserver, kube-controller-manager, kube-scheduler and kwok (which plays the nodes)
// around it, all on loopback; a Writer changes objects all the time and remembers what was acknowledged; an Observer watches the same
// objects and remembers what it saw. The test starts all three, goes through the steps of a cluster's life, kills the server on the way, and
// compares in the end what is there with what Writer and Observer remember.
//
// A Plane owns its child processes and the files below its directory; Stop ends all of them.
package plane

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/etcdshim/shim/e2e/kubernetes/internal/proc"
)

const (
	adminToken   = "admintoken"
	readyTimeout = 2 * time.Minute  // for one component on a busy machine
	stopGrace    = 10 * time.Second // between SIGTERM and SIGKILL of a component
)

// Config says what to start. All fields are required.
type Config struct {
	Kind     string        // the server under test, one of proc.Kinds
	BinDir   string        // where `go run ./build` put the programs
	Dir      string        // for data and logs; exists and is empty
	EventTTL time.Duration // kube-apiserver's --event-ttl
	// CompactEvery is kube-apiserver's --etcd-compaction-interval.
	CompactEvery time.Duration
}

// Plane is a running control plane.
type Plane struct {
	Server  *proc.Server
	Client  kubernetes.Interface
	Dynamic dynamic.Interface

	cfg        Config
	kubeconfig string
	components []*proc.Process // in the order of their start
}

// Start starts the server under test and the components, and returns when kube-apiserver is ready. What it started is ended again if it fails.
func Start(ctx context.Context, cfg Config) (p *Plane, err error) {
	for _, path := range []*string{&cfg.BinDir, &cfg.Dir} {
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	p = &Plane{cfg: cfg, kubeconfig: filepath.Join(cfg.Dir, "kubeconfig")}
	defer func() {
		if err != nil {
			p.Stop()
		}
	}()
	if p.Server, err = proc.NewServer(cfg.Kind, cfg.BinDir, cfg.Dir); err != nil {
		return nil, err
	}
	if err := p.Server.Start(ctx); err != nil {
		return nil, err
	}
	for _, start := range []func(context.Context) error{
		p.startAPIServer, p.startControllerManager, p.startScheduler, p.startKwok,
	} {
		if err := start(ctx); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Stop ends the components in the reverse order of their start, then the server.
func (p *Plane) Stop() {
	for i := len(p.components) - 1; i >= 0; i-- {
		p.components[i].Stop(stopGrace)
	}
	if p.Server != nil && p.Server.Process != nil {
		p.Server.Stop(stopGrace)
	}
}

// Processes are the server and the components.
func (p *Plane) Processes() []*proc.Process {
	return append([]*proc.Process{p.Server.Process}, p.components...)
}

// KillServer kills the server under test (SIGKILL) and starts it again on its data. It returns when the server is ready to serve.
func (p *Plane) KillServer(ctx context.Context) error {
	p.Server.Kill()
	return p.Server.Start(ctx)
}

func (p *Plane) start(name string, args ...string) (*proc.Process, error) {
	c, err := proc.Start(name, p.cfg.Dir, filepath.Join(p.cfg.BinDir, name), args...)
	if err == nil {
		p.components = append(p.components, c)
	}
	return c, err
}

func (p *Plane) startAPIServer(ctx context.Context) error {
	key := filepath.Join(p.cfg.Dir, "sa.key")
	if err := writeKey(key); err != nil {
		return err
	}
	tokens := filepath.Join(p.cfg.Dir, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(adminToken+",admin,admin,system:masters\n"), 0o600); err != nil {
		return err
	}
	port, err := proc.FreePort()
	if err != nil {
		return err
	}
	host := fmt.Sprintf("https://127.0.0.1:%d", port)
	if err := p.connect(host); err != nil {
		return err
	}
	c, err := p.start("kube-apiserver",
		"--etcd-servers="+p.Server.URL(),
		"--cert-dir="+filepath.Join(p.cfg.Dir, "certs"), // it makes itself a self-signed pair there
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		// Only stored, nothing is sent there (TEST-NET-1). A loopback address would switch off the endpoint leases, which use TTLs.
		"--advertise-address=192.0.2.1",
		"--token-auth-file="+tokens, "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--service-cluster-ip-range=10.0.0.0/24",
		"--event-ttl="+p.cfg.EventTTL.String(),
		"--etcd-compaction-interval="+p.cfg.CompactEvery.String())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return c.Until(ctx, p.Ready)
}

// Ready asks kube-apiserver whether it can serve, its connection to the server under test included.
func (p *Plane) Ready(ctx context.Context) error {
	return p.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// connect makes the clients and the kubeconfig for the apiserver at host.
func (p *Plane) connect(host string) (err error) {
	kubeconfig := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: shim, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: %s}}]
contexts: [{name: shim, context: {cluster: shim, user: admin}}]
current-context: shim
`, host, adminToken)
	if err := os.WriteFile(p.kubeconfig, []byte(kubeconfig), 0o600); err != nil {
		return err
	}
	config := &rest.Config{
		Host:            host,
		BearerToken:     adminToken,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		QPS:             -1, // no limit on this side
	}
	if p.Client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	p.Dynamic, err = dynamic.NewForConfig(config)
	return err
}

// quick lifts the clients' own rate limits: with the default of 20 requests a second a roll-out measures only them.
func quick() []string {
	return []string{"--kube-api-qps=1000", "--kube-api-burst=1000", "--leader-elect=false"}
}

func (p *Plane) startControllerManager(context.Context) error {
	port, err := proc.FreePort()
	if err != nil {
		return err
	}
	_, err = p.start("kube-controller-manager", append(quick(),
		"--kubeconfig="+p.kubeconfig, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--service-account-private-key-file="+filepath.Join(p.cfg.Dir, "sa.key"))...)
	return err
}

func (p *Plane) startScheduler(context.Context) error {
	port, err := proc.FreePort()
	if err != nil {
		return err
	}
	_, err = p.start("kube-scheduler", append(quick(),
		"--kubeconfig="+p.kubeconfig, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port))...)
	return err
}

func (p *Plane) startKwok(context.Context) error {
	port, err := proc.FreePort()
	if err != nil {
		return err
	}
	_, err = p.start("kwok",
		"--kubeconfig="+p.kubeconfig, "--config="+filepath.Join(p.cfg.BinDir, "stages.yaml"),
		"--manage-all-nodes=true", fmt.Sprintf("--server-address=127.0.0.1:%d", port))
	return err
}

// RestartKwok ends kwok and starts it anew. kwok gives up on a pod for good when one of its requests fails while the store is away, which a
// kubelet never does; a new kwok takes up every pod again.
func (p *Plane) RestartKwok(ctx context.Context) error {
	for i, c := range p.components {
		if c.Name() == "kwok" {
			c.Stop(stopGrace)
			p.components = append(p.components[:i], p.components[i+1:]...)
			break
		}
	}
	return p.startKwok(ctx)
}

// writeKey makes the key with which service account tokens are signed.
func writeKey(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}
