package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asProgram makes the test binary be shim.
const asProgram = "SHIM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// startTimeout bounds a start, with much room for a busy machine.
const startTimeout = 60 * time.Second

// process is a running shim.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	mu     sync.Mutex
	lines  []string // of its log
	ready  chan struct{}
	exited chan struct{}
}

// run starts shim with args in a new directory, beside a service manager when
// notify names its socket.
func run(t *testing.T, notify string, args ...string) *process {
	t.Helper()
	return runWith(t, nil, notify, args...)
}

// runWith is run by way of a command that is given shim's.
func runWith(t *testing.T, by []string, notify string, args ...string) *process {
	t.Helper()
	line := slices.Concat(by, []string{os.Args[0]}, args)
	p := &process{t: t, cmd: exec.Command(line[0], line[1:]...), ready: make(chan struct{}), exited: make(chan struct{})}
	p.cmd.Dir = t.TempDir()
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ETCD_") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") {
			p.cmd.Env = append(p.cmd.Env, kv)
		}
	}
	p.cmd.Env = append(p.cmd.Env, asProgram+"=1")
	if notify != "" {
		p.cmd.Env = append(p.cmd.Env, "NOTIFY_SOCKET="+notify)
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		scanner := bufio.NewScanner(output)
		for scanner.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, scanner.Text())
			p.mu.Unlock()
			if strings.Contains(scanner.Text(), "ready to serve client requests") {
				close(p.ready)
			}
		}
		_ = p.cmd.Wait() // its exit code is asked for
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("shim %q said\n%s", args, p.log())
		}
	})
	return p
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// await waits until shim serves.
func (p *process) await() {
	p.t.Helper()
	select {
	case <-p.ready:
	case <-p.exited:
		p.t.Fatal("shim ended before it served")
	case <-time.After(startTimeout):
		p.t.Fatal("shim does not serve")
	}
}

// exit waits for the end and tells the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(startTimeout):
		p.t.Fatal("shim does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends shim and makes sure that it ended well and logged no error.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if code := p.exit(); code != 0 {
		p.t.Errorf("exit code %d", code)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		var entry struct{ Level string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || slices.Contains([]string{"error", "panic", "fatal"}, entry.Level) {
			p.t.Errorf("logged: %s", line)
		}
	}
}

// freePorts are loopback ports that nobody listens on, below the range that the
// system gives out.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for port := 10000 + os.Getpid()%15000; len(ports) < n; port++ {
		if port >= 32768 {
			t.Fatal("no free ports")
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		ports = append(ports, port)
	}
	return ports
}

// pki makes the files of kubeadm's pki/etcd in dir, and a client's pair.
func pki(t *testing.T, dir string) (client tls.Certificate, authorities *x509.CertPool) {
	t.Helper()
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	issue := func(name string, usage ...x509.ExtKeyUsage) tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage, DNSNames: []string{"localhost", "node"},
			IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP("127.0.0.2")}, BasicConstraintsValid: true,
		}
		parent, parentKey := ca, caKey
		if parent == nil {
			template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
		for suffix, content := range map[string][]byte{".crt": certPEM, ".key": keyPEM} {
			if err := os.WriteFile(filepath.Join(dir, name+suffix), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		if ca == nil {
			ca, caKey = pair.Leaf, key
		}
		return pair
	}
	issue("ca")
	issue("server", x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	issue("peer", x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	client = issue("healthcheck-client", x509.ExtKeyUsageClientAuth)
	authorities = x509.NewCertPool()
	authorities.AddCert(ca)
	return client, authorities
}

// get asks a URL, over a unix socket when socket is one.
func get(url, socket string, config *tls.Config) (status int, body string, err error) {
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	if socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
	}
	answer, err := (&http.Client{Transport: transport, Timeout: startTimeout}).Get(url)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// manager is a service manager's socket.
func manager(t *testing.T) (path string, next func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return path, func() string {
		t.Helper()
		buffer := make([]byte, 256)
		if err := conn.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatalf("the service manager heard nothing: %v", err)
		}
		return string(buffer[:n])
	}
}

// TestKubeadm ensures that the command line of kubeadm's static pod
// (cmd/kubeadm/app/phases/etcd/local.go, Kubernetes 1.34 to 1.37) starts shim, its
// paths and ports replaced: probes answer on the metrics port, clients need a
// certificate, and a service manager hears of the start and of the end.
func TestKubeadm(t *testing.T) {
	dir := t.TempDir()
	client, authorities := pki(t, dir)
	ports := freePorts(t, 3)
	paths := strings.NewReplacer("/etc/kubernetes/pki/etcd", dir, "/var/lib/etcd", filepath.Join(dir, "data"), "192.168.0.7", "127.0.0.2",
		":2379", fmt.Sprintf(":%d", ports[0]), ":2380", fmt.Sprintf(":%d", ports[1]), ":2381", fmt.Sprintf(":%d", ports[2]))
	var args []string
	for _, a := range []string{
		"--advertise-client-urls=https://192.168.0.7:2379",
		"--cert-file=/etc/kubernetes/pki/etcd/server.crt",
		"--client-cert-auth=true",
		"--data-dir=/var/lib/etcd",
		"--feature-gates=InitialCorruptCheck=true",
		"--initial-advertise-peer-urls=https://192.168.0.7:2380",
		"--initial-cluster=node=https://192.168.0.7:2380",
		"--key-file=/etc/kubernetes/pki/etcd/server.key",
		"--listen-client-urls=https://127.0.0.1:2379,https://192.168.0.7:2379",
		"--listen-metrics-urls=http://127.0.0.1:2381",
		"--listen-peer-urls=https://192.168.0.7:2380",
		"--name=node",
		"--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
		"--peer-client-cert-auth=true",
		"--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
		"--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
		"--snapshot-count=10000",
		"--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
		"--watch-progress-notify-interval=5s",
	} {
		args = append(args, paths.Replace(a))
	}
	socket, next := manager(t)
	p := run(t, socket, args...)
	if state := next(); state != "READY=1" {
		t.Fatalf("the service manager heard %q", state)
	}
	p.await()
	for _, probe := range []string{"/livez", "/readyz", "/health", "/metrics"} {
		if status, body, err := get(fmt.Sprintf("http://127.0.0.1:%d%s", ports[2], probe), "", nil); status != http.StatusOK || err != nil {
			t.Errorf("%s: %d, %s, %v", probe, status, body, err)
		}
	}
	with := &tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{client}}
	for _, host := range []string{"127.0.0.1", "127.0.0.2"} {
		url := fmt.Sprintf("https://%s:%d/version", host, ports[0])
		if status, body, err := get(url, "", with); status != http.StatusOK || !strings.Contains(body, `"etcdserver":"3.7.3"`) || err != nil {
			t.Errorf("%s: %d, %s, %v", url, status, body, err)
		}
		if status, _, err := get(url, "", &tls.Config{RootCAs: authorities}); err == nil {
			t.Errorf("%s without a certificate: %d", url, status)
		}
	}
	if status, _, err := get(fmt.Sprintf("http://127.0.0.1:%d/version", ports[0]), "", nil); err == nil && status == http.StatusOK {
		t.Error("plain HTTP is answered on an https URL")
	}
	if !strings.Contains(p.log(), "serving client traffic securely") || strings.Contains(p.log(), "insecurely") {
		t.Error("the log does not tell how clients are served")
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if state := next(); state != "STOPPING=1" {
		t.Errorf("the service manager heard %q", state)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if strings.Contains(p.log(), `"level":"error"`) {
		t.Error("an error was logged")
	}
}

// TestReloadedCertificate ensures that a certificate is replaced without a restart.
func TestReloadedCertificate(t *testing.T) {
	dir := t.TempDir()
	_, first := pki(t, dir)
	port := freePorts(t, 1)[0]
	url := fmt.Sprintf("https://127.0.0.1:%d", port)
	p := run(t, "", "--listen-client-urls="+url, "--cert-file="+filepath.Join(dir, "server.crt"), "--key-file="+filepath.Join(dir, "server.key"))
	p.await()
	if status, _, err := get(url+"/version", "", &tls.Config{RootCAs: first}); status != http.StatusOK {
		t.Fatal(err)
	}
	_, second := pki(t, dir)
	if status, _, err := get(url+"/version", "", &tls.Config{RootCAs: second}); status != http.StatusOK {
		t.Errorf("the new certificate is not shown: %v", err)
	}
	p.stop()
}

// TestAutoTLS ensures that a self-signed certificate is made where etcd has it, kept
// private, and used again.
func TestAutoTLS(t *testing.T) {
	port := freePorts(t, 1)[0]
	url := fmt.Sprintf("https://127.0.0.1:%d", port)
	data := filepath.Join(t.TempDir(), "data")
	var before []byte
	var trusted *x509.CertPool // by the second client, who was given the certificate
	for range 2 {
		p := run(t, "", "--data-dir="+data, "--auto-tls", "--listen-client-urls="+url)
		p.await()
		if status, _, err := get(url+"/version", "", &tls.Config{InsecureSkipVerify: trusted == nil, RootCAs: trusted}); status != http.StatusOK {
			t.Fatal(err)
		}
		p.stop()
		certificate, err := os.ReadFile(filepath.Join(data, "fixtures", "client", "cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && !bytes.Equal(certificate, before) {
			t.Error("the second start made another certificate")
		}
		trusted = x509.NewCertPool()
		trusted.AppendCertsFromPEM(certificate)
		before = certificate
		if info, err := os.Stat(filepath.Join(data, "fixtures", "client", "key.pem")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the key: %v, %v", info.Mode(), err)
		}
	}
}

// TestRevokedOnEveryListener ensures that a revoked client is refused on the ports
// of gRPC, of HTTP and of metrics alike, also when HTTP has a port of its own, as
// etcd did not before 3.7.0 (GHSA-3wh4-j44w-pg92), and from the moment on that the
// list is replaced.
func TestRevokedOnEveryListener(t *testing.T) {
	dir := t.TempDir()
	client, authorities := pki(t, dir)
	list := func(revoked ...*big.Int) {
		ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
		for _, serial := range revoked {
			template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(rand.Reader, template, ca.Leaf, ca.PrivateKey.(*ecdsa.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "crl")
		if err := errors.Join(os.WriteFile(path+".new", der, 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	list()
	ports := freePorts(t, 3)
	p := run(t, "", "--cert-file="+filepath.Join(dir, "server.crt"), "--key-file="+filepath.Join(dir, "server.key"), "--trusted-ca-file="+filepath.Join(dir, "ca.crt"),
		"--client-cert-auth", "--client-crl-file="+filepath.Join(dir, "crl"), fmt.Sprintf("--listen-client-urls=https://127.0.0.1:%d", ports[0]),
		fmt.Sprintf("--listen-client-http-urls=https://127.0.0.1:%d", ports[1]), fmt.Sprintf("--listen-metrics-urls=https://127.0.0.1:%d", ports[2]))
	p.await()
	// shake says why a handshake, which in TLS 1.2 ends with the server's word, failed.
	shake := func(port int) error {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{
			RootCAs: authorities, Certificates: []tls.Certificate{client}, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		})
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	for _, port := range ports {
		if err := shake(port); err != nil {
			t.Errorf("port %d: %v", port, err)
		}
	}
	list(client.Leaf.SerialNumber)
	for _, port := range ports {
		if err := shake(port); err == nil {
			t.Errorf("port %d lets in a revoked client", port)
		}
	}
	if !strings.Contains(p.log(), "rejected connection on client endpoint") {
		t.Error("the log does not tell of refused clients")
	}
	p.stop()
}

// TestUnixAlone ensures that a server with nothing but a unix socket starts, and
// takes TLS on it.
func TestUnixAlone(t *testing.T) {
	dir := t.TempDir()
	_, authorities := pki(t, dir)
	plain, secure := filepath.Join(dir, "plain.sock"), filepath.Join(dir, "secure.sock")
	p := run(t, "", "--cert-file="+filepath.Join(dir, "server.crt"), "--key-file="+filepath.Join(dir, "server.key"), "--listen-client-urls=unix://"+plain+",unixs://"+secure)
	p.await()
	if status, _, err := get("http://localhost/version", plain, nil); status != http.StatusOK {
		t.Errorf("%d, %v", status, err)
	}
	if status, _, err := get("https://localhost/version", secure, &tls.Config{RootCAs: authorities}); status != http.StatusOK {
		t.Errorf("%d, %v", status, err)
	}
	p.stop()
}

// TestPorts ensures that HTTP moves to --listen-client-http-urls, that a port may
// take TLS and plaintext, and that a unix socket serves and is removed.
func TestPorts(t *testing.T) {
	dir := t.TempDir()
	_, authorities := pki(t, dir)
	free := freePorts(t, 2)
	socket := filepath.Join(dir, "a.sock")
	p := run(t, "", "--cert-file="+filepath.Join(dir, "server.crt"), "--key-file="+filepath.Join(dir, "server.key"),
		fmt.Sprintf("--listen-client-urls=http://127.0.0.1:%d", free[0]),
		fmt.Sprintf("--listen-client-http-urls=http://127.0.0.1:%d,https://127.0.0.1:%d,unix://%s", free[1], free[1], socket))
	p.await()
	if status, _, err := get(fmt.Sprintf("http://127.0.0.1:%d/version", free[0]), "", nil); err == nil {
		t.Errorf("HTTP on the port of gRPC: %d", status)
	}
	for url, over := range map[string]string{
		fmt.Sprintf("http://127.0.0.1:%d", free[1]): "", fmt.Sprintf("https://127.0.0.1:%d", free[1]): "", "http://socket": socket,
	} {
		if status, _, err := get(url+"/version", over, &tls.Config{RootCAs: authorities}); status != http.StatusOK {
			t.Errorf("%s: %d, %v", url, status, err)
		}
	}
	p.stop()
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// asks posts JSON and tells the answer.
func asks(t *testing.T, url, body string) (status int, answer string) {
	t.Helper()
	r, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

// TestLearnersBounded ensures that --max-learners bounds those of the cluster.
func TestLearnersBounded(t *testing.T) {
	url := fmt.Sprintf("http://127.0.0.1:%d", freePorts(t, 1)[0])
	p := run(t, "", "--listen-client-urls="+url, "--max-learners=2", "--strict-reconfig-check=false")
	p.await()
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusBadRequest} {
		status, answer := asks(t, url+"/v3/cluster/member/add", fmt.Sprintf(`{"peerURLs":["http://127.0.0.1:%d"],"isLearner":true}`, i+1))
		if status != want || want != http.StatusOK && !strings.Contains(answer, "etcdserver: too many learner members in cluster") {
			t.Errorf("learner %d: %d %s", i+1, status, answer)
		}
	}
	if strings.Contains(p.log(), "has no effect") {
		t.Error("a flag is said to have no effect")
	}
	p.stop()
}

// TestConnectionsLeaveFiles ensures that clients' connections cannot take the files
// that the server needs: it writes, and answers probes, however many there are.
func TestConnectionsLeaveFiles(t *testing.T) {
	const files = 320 // less than clients ask for, more than twice what is kept
	ports := freePorts(t, 2)
	url, metrics := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	p := runWith(t, []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files)}, "", "--listen-client-urls="+url, "--listen-metrics-urls="+metrics)
	p.await()
	if status, answer := asks(t, url+"/v3/kv/put", `{"key":"YQ=="}`); status != http.StatusOK { // its connection stays
		t.Fatalf("%d %s", status, answer)
	}
	for range files {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			break // the queue of the listening socket is full, too
		}
		defer func() { _ = c.Close() }()
		if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	sockets := func() (n int) {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	for sockets() < files-reservedFiles { // which are clients', but for the server's own few
		time.Sleep(10 * time.Millisecond)
	}
	for range 3 {
		if status, body, err := get(metrics+"/health", "", nil); status != http.StatusOK {
			t.Errorf("%d %s, %v", status, body, err)
		}
		if status, answer := asks(t, url+"/v3/kv/put", `{"key":"YQ=="}`); status != http.StatusOK {
			t.Errorf("%d %s", status, answer)
		}
	}
	if n := sockets(); n > files-reservedFiles+100 {
		t.Errorf("%d files are open", n)
	}
	p.stop()
}

// TestFailureInLog ensures that a program which ends says why in its log, also where
// that is not what its caller sees, and its own password nowhere.
func TestFailureInLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	p := run(t, "", "--log-outputs="+path, "--listen-client-urls=unix://a.sock", "--backend=nonsense://u:secret@h")
	if code := p.exit(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(content); !strings.Contains(text, `"msg":"shim ends with an error"`) || !strings.Contains(text, `scheme \"nonsense\"`) || strings.Contains(text, "secret") {
		t.Errorf("logged %s", text)
	}
	if !strings.Contains(p.log(), `scheme "nonsense"`) || strings.Contains(p.log(), "secret") {
		t.Error("stderr does not tell it, or tells the password")
	}
}

// TestExitCodes ensures that a program that cannot start says why, with etcd's exit
// codes, and leaves no data behind.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		want string
		code int
		args []string
	}{
		{"did you mean --data-dir?", 2, []string{"--datadir=x"}},
		{"invalid value", 2, []string{"--listen-client-urls=x"}},
		{"gateway is not offered", 1, []string{"gateway"}},
		// etcd went on, and crashed (GO-2024-2529).
		{"is negative", 1, []string{"--auto-compaction-retention=-1", "--listen-client-urls=unix://a.sock"}},
		{"is negative", 1, []string{"--auto-compaction-retention=-1h", "--listen-client-urls=unix://a.sock"}},
		{"holds no member", 1, []string{"--initial-cluster-state=existing", "--listen-client-urls=unix://a.sock"}},
		{filepath.Join(dir, "absent.crt"), 1, []string{"--listen-client-urls=unixs://a.sock", "--cert-file=" + filepath.Join(dir, "absent.crt"), "--key-file=" + dir}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			p := run(t, "", c.args...)
			if code := p.exit(); code != c.code || !strings.Contains(p.log(), c.want) {
				t.Errorf("exit code %d, want %d, and %q", code, c.code, c.want)
			}
			if entries, err := os.ReadDir(p.cmd.Dir); err != nil || len(entries) > 0 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}

// TestCompletion ensures that each shell's script names every flag, and that bash
// completes with its own.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var out strings.Builder
		if err := completion(&out, shell, []string{"check"}); err != nil {
			t.Fatal(err)
		}
		for _, s := range flagSpecs {
			name := map[bool]string{true: "-l " + s.name + " ", false: "--" + s.name}[shell == "fish"]
			if s.effect != dropped && !strings.Contains(out.String(), name) {
				t.Errorf("%s: --%s", shell, s.name)
			}
		}
		if bash, err := exec.LookPath("bash"); err == nil && shell == "bash" {
			script := out.String() + `
COMP_WORDS=(shim --data-d); COMP_CWORD=1; _shim; echo "${COMPREPLY[@]}"
COMP_WORDS=(shim ch); COMP_CWORD=1; _shim; echo "${COMPREPLY[@]}"`
			got, err := exec.Command(bash, "-c", script).CombinedOutput()
			if err != nil || string(got) != "--data-dir\ncheck\n" {
				t.Errorf("bash completes %q, %v", got, err)
			}
		}
	}
	if err := completion(io.Discard, "tcsh", nil); err == nil {
		t.Error("a shell that is not known")
	}
}
