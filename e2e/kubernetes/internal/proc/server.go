package proc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// Kinds are the servers that can be put under test: the name is the name of the binary too.
var Kinds = []string{"shim", "etcd"}

// readyTimeout bounds one start of a server, recovery of its data included.
const readyTimeout = 60 * time.Second

// Server is a server of etcd's API on loopback. Its ports and its data directory stay the same across Kill and Start.
type Server struct {
	kind string
	bin  string
	dir  string // of the log file; the data directory is <dir>/data
	args []string
	url  string
	*Process
}

// NewServer prepares a server of the given kind (one of Kinds) from the binary of that name in binDir. Its files go below dir.
// extra are further flags, spelled as etcd spells them; shim gets those of SHIM_FLAGS too (such as "--backend memory://"). Start starts it.
func NewServer(kind, binDir, dir string, extra ...string) (*Server, error) {
	known := false
	for _, k := range Kinds {
		known = known || k == kind
	}
	if !known {
		return nil, fmt.Errorf("unknown server %q, known: %v", kind, Kinds)
	}
	bin, err := filepath.Abs(filepath.Join(binDir, kind))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(bin); err != nil {
		return nil, fmt.Errorf("the server under test is not built (go run ./build): %w", err)
	}
	client, err := FreePort()
	if err != nil {
		return nil, err
	}
	peer, err := FreePort()
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", client)
	peerURL := fmt.Sprintf("http://127.0.0.1:%d", peer)
	args := append([]string{
		"--name", "default", "--data-dir", filepath.Join(dir, "data"),
		"--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default=" + peerURL,
	}, extra...)
	if kind == "shim" {
		args = append(args, strings.Fields(os.Getenv("SHIM_FLAGS"))...)
	}
	return &Server{kind: kind, bin: bin, dir: dir, args: args, url: url}, nil
}

// Kind is the kind given to NewServer.
func (s *Server) Kind() string { return s.kind }

// URL is the client URL.
func (s *Server) URL() string { return s.url }

// Start starts the server, again after Kill or Stop, and returns when it says that it is ready to serve.
func (s *Server) Start(ctx context.Context) error {
	p, err := Start("server", s.dir, s.bin, s.args...)
	if err != nil {
		return err
	}
	s.Process = p
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return p.Until(ctx, func(ctx context.Context) error { return httpOK(ctx, s.url+"/readyz") })
}

func httpOK(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// The ports lie below the range from which the kernel takes those of outgoing connections (32768 and up on Linux): otherwise a client that
// reconnects could take the port of a server which is about to be restarted, or even connect to itself.
const (
	firstPort = 20000
	portCount = 10000
	portTries = 200
)

// nextPort begins somewhere, so that two test processes rarely meet, and only goes on, so that one process is never given a port twice.
var nextPort atomic.Int64

func init() { nextPort.Store(rand.Int64N(portCount)) }

// FreePort returns a loopback TCP port that nobody listened on a moment ago, and another one at each call.
func FreePort() (int, error) {
	var last error
	for range portTries {
		port := firstPort + int(nextPort.Add(1)%portCount)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			last = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port in %d tries: %w", portTries, last)
}
